//! A directory as entries of an archive: every file as it is, in the order of names.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr, major, minor};
use rustix::io::Errno;

use super::spec::{Body, Content, Entry};
use crate::error::{Context, Error, Result};
use crate::format::cpio::{OPAQUE, PATH_MAX, TRAILER};
use crate::text::shown;

/// XATTR_LIST_MAX of include/uapi/linux/limits.h.
const XATTR_LIST_MAX: usize = 65536;

/// What a directory becomes.
#[derive(Debug, Default)]
pub struct Tree {
    /// Its files, the directory itself first.
    pub entries: Vec<Entry>,
    /// The first file whose extended attributes cannot be stored, and the names of those.
    pub attributes: Option<(Vec<u8>, String)>,
    /// How many such files there are.
    pub with_attributes: usize,
}

/// The times of the files of a layer that is made, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub enum Times {
    /// This one for all.
    All(u32),
    /// Each file's own, but none later than this.
    Own(u32),
}

impl Times {
    fn of(self, stat: &Metadata) -> u32 {
        match self {
            Self::All(time) => time,
            Self::Own(end) => time(stat).min(end),
        }
    }
}

/// Reads a directory, but not the contents of its files.
pub fn read(directory: &Path, times: Times) -> Result<Tree> {
    let mut reader = Reader {
        times,
        tree: Tree::default(),
        entries: Vec::new(),
        names: BTreeMap::new(),
    };
    reader.file(directory, b".")?;
    reader.directory(directory, b"")?;
    Ok(Tree {
        entries: reader.entries.into_iter().flatten().collect(),
        ..reader.tree
    })
}

struct Reader {
    times: Times,
    /// Without its entries.
    tree: Tree,
    /// What was found, in that order; nothing where a file of several names was found again later.
    entries: Vec<Option<Entry>>,
    /// Where a file of several names is in that, by its device and inode.
    names: BTreeMap<(u64, u64), usize>,
}

impl Reader {
    /// Everything in a directory, which has this name in the archive.
    fn directory(&mut self, directory: &Path, name: &[u8]) -> Result<()> {
        let context = || directory.display();
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).during("read", context())? {
            names.push(entry.during("read", context())?.file_name());
        }
        names.sort();
        for last in names {
            let path = directory.join(&last);
            let name = match name {
                b"" => last.as_bytes().to_vec(),
                name => [name, b"/", last.as_bytes()].concat(),
            };
            if self.file(&path, &name)?.is_dir() {
                self.directory(&path, &name)?;
            }
        }
        Ok(())
    }

    /// One file, without what is in it if it is a directory.
    fn file(&mut self, path: &Path, name: &[u8]) -> Result<Metadata> {
        let context = || path.display();
        let refuse = |what: &str| Err(Error::new("read", context(), what));
        let stat = fs::symlink_metadata(path).during("read", context())?;
        if name == TRAILER && !stat.is_symlink() {
            return refuse("this name ends a cpio archive");
        }
        if name.len() >= PATH_MAX as usize {
            return refuse("its name is too long for a cpio archive");
        }
        let body = match stat.mode() & libc::S_IFMT {
            libc::S_IFREG => Body::File(Content::Location(path.into()), Vec::new()),
            libc::S_IFLNK => {
                let target = fs::read_link(path).during("read", context())?;
                Body::Link(target.as_os_str().as_bytes().to_vec())
            }
            libc::S_IFCHR | libc::S_IFBLK => Body::Device(major(stat.rdev()), minor(stat.rdev())),
            _ => Body::Nothing,
        };
        let mtime = Some(self.times.of(&stat));
        let entry = |name: &[u8], mode, body| Entry {
            name: name.to_vec(),
            mode,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime,
            body,
            origin: path.display().to_string(),
        };
        let mut found = entry(name, stat.mode(), body);
        let several = (stat.is_file() && stat.nlink() > 1).then(|| (stat.dev(), stat.ino()));
        let before = several.and_then(|file| self.names.insert(file, self.entries.len()));
        // A file of several names stands where the last of them is found: by then all the directories
        // that they are in have been made.
        if let Some(mut first) = before.and_then(|index| self.entries.get_mut(index)?.take()) {
            if let Body::File(_, links) = &mut first.body {
                links.push(name.to_vec());
            }
            found = first;
        }
        self.entries.push(Some(found));
        // Attributes of a file of several names are told of once.
        let again = before.is_some();
        if !again && self.attributes(path, name)? && !path.join(mark()).exists() {
            let name = match name {
                b"." => OPAQUE.to_vec(),
                name => [name, b"/", OPAQUE].concat(),
            };
            let mark = Body::File(Content::Bytes(Vec::new()), Vec::new());
            self.entries.push(Some(entry(&name, 0o100_000, mark)));
        }
        Ok(stat)
    }

    /// Takes note of attributes that an archive cannot hold. Whether there is the one by which
    /// overlayfs knows opaque directories, for which it can.
    fn attributes(&mut self, path: &Path, name: &[u8]) -> Result<bool> {
        let mut list = vec![0; XATTR_LIST_MAX];
        let n = match llistxattr(path, &mut *list) {
            Err(Errno::OPNOTSUPP) => 0,
            listed => listed.during("list attributes of", path.display())?,
        };
        let mut opaque = false;
        let mut others = Vec::new();
        let list = list.get(..n).unwrap_or_default();
        for attribute in list.split_inclusive(|byte| *byte == 0) {
            let Ok(attribute) = CStr::from_bytes_with_nul(attribute) else {
                continue;
            };
            let mut value = [0; 2];
            match attribute.to_bytes() {
                b"trusted.overlay.opaque" => {
                    opaque |= lgetxattr(path, attribute, &mut value) == Ok(1) && value[0] == b'y';
                }
                // What else overlayfs keeps there is of no use in another layer.
                name if name.starts_with(b"trusted.overlay.") => {}
                name => others.push(shown(name)),
            }
        }
        if !others.is_empty() {
            let tree = &mut self.tree;
            tree.with_attributes = tree.with_attributes.saturating_add(1);
            tree.attributes
                .get_or_insert_with(|| (name.to_vec(), others.join(", ")));
        }
        Ok(opaque)
    }
}

/// The latest time of a directory and all that is in it, in seconds since 1970.
pub fn newest(path: &Path) -> Result<u32> {
    let stat = fs::symlink_metadata(path).during("read", path.display())?;
    let mut newest = time(&stat);
    if stat.is_dir() {
        for entry in fs::read_dir(path).during("read", path.display())? {
            let entry = entry.during("read", path.display())?;
            newest = newest.max(self::newest(&entry.path())?);
        }
    }
    Ok(newest)
}

/// As a cpio archive can hold it.
fn time(stat: &Metadata) -> u32 {
    u32::try_from(stat.mtime().max(0)).unwrap_or(u32::MAX)
}

fn mark() -> &'static std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(OPAQUE)
}
