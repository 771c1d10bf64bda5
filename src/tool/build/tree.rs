//! A directory as entries of an archive, in the order of names.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr, major, minor};
use rustix::io::Errno;

use super::spec::{Body, FileContent, SpecEntry};
use crate::error::{Context, Error, Result};
use crate::format::cpio::{OPAQUE, PATH_MAX, TRAILER};
use crate::text::shown;

/// XATTR_LIST_MAX of include/uapi/linux/limits.h.
const XATTR_LIST_MAX: usize = 65536;

/// A directory as entries.
#[derive(Debug, Default)]
pub struct DirectoryTree {
    /// The directory itself, then its files.
    pub entries: Vec<SpecEntry>,
    /// The first file with extended attributes that an archive cannot store, and their names.
    pub attributes: Option<(Vec<u8>, String)>,
    /// The number of such files.
    pub with_attributes: usize,
}

/// The modification times of files in layers made from directories, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub enum Timestamps {
    /// One time for all files.
    Fixed(u32),
    /// Each file's own time, but none later than this one.
    Preserved(u32),
}

impl Timestamps {
    fn of(self, stat: &Metadata) -> u32 {
        match self {
            Self::Fixed(time) => time,
            Self::Preserved(latest) => time(stat).min(latest),
        }
    }
}

/// Reads a directory, but not the contents of its files.
///
/// # Errors
/// A directory cannot be read.
pub fn read(directory: &Path, times: Timestamps) -> Result<DirectoryTree> {
    let mut reader = TreeReader {
        times,
        tree: DirectoryTree::default(),
        entries: Vec::new(),
        names: BTreeMap::new(),
    };
    reader.file(directory, b".")?;
    reader.directory(directory, b"")?;
    Ok(DirectoryTree {
        entries: reader.entries.into_iter().flatten().collect(),
        ..reader.tree
    })
}

struct TreeReader {
    times: Timestamps,
    /// The result, except its entries.
    tree: DirectoryTree,
    /// Entries in the order of names; `None` where another name of the file follows later.
    entries: Vec<Option<SpecEntry>>,
    /// The index in `entries` of each file with hard links, by device and inode number.
    names: BTreeMap<(u64, u64), usize>,
}

impl TreeReader {
    /// Reads the files of a directory. `name` is its name in the archive.
    fn directory(&mut self, directory: &Path, name: &[u8]) -> Result<()> {
        let context = || directory.display();
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).during("read", context())? {
            names.push(entry.during("read", context())?.file_name());
        }
        names.sort();
        for file_name in names {
            let path = directory.join(&file_name);
            let name = match name {
                b"" => file_name.as_bytes().to_vec(),
                name => [name, b"/", file_name.as_bytes()].concat(),
            };
            if self.file(&path, &name)?.is_dir() {
                self.directory(&path, &name)?;
            }
        }
        Ok(())
    }

    /// Reads one file; of a directory, not the files in it.
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
            libc::S_IFREG => Body::File(FileContent::Location(path.into()), Vec::new()),
            libc::S_IFLNK => {
                let target = fs::read_link(path).during("read", context())?;
                Body::Link(target.as_os_str().as_bytes().to_vec())
            }
            libc::S_IFCHR | libc::S_IFBLK => Body::Device(major(stat.rdev()), minor(stat.rdev())),
            _ => Body::Empty,
        };
        let mtime = Some(self.times.of(&stat));
        let entry = |name: &[u8], mode, body| SpecEntry {
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
        // Hard links of a file become one entry at the position of the last name: the directories of all names
        // precede it.
        if let Some(mut first) = before.and_then(|index| self.entries.get_mut(index)?.take()) {
            if let Body::File(_, links) = &mut first.body {
                links.push(name.to_vec());
            }
            found = first;
        }
        self.entries.push(Some(found));
        // Attributes of hard links count once.
        if before.is_none() && self.attributes(path, name)? && !path.join(opaque_name()).exists() {
            let name = match name {
                b"." => OPAQUE.to_vec(),
                name => [name, b"/", OPAQUE].concat(),
            };
            let mark = Body::File(FileContent::Bytes(Vec::new()), Vec::new());
            self.entries.push(Some(entry(&name, 0o100_000, mark)));
        }
        Ok(stat)
    }

    /// Records attributes that an archive cannot store. Returns whether the directory is opaque in overlayfs, which an
    /// archive can store as a file.
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
                // The other attributes of overlayfs have no meaning in another layer.
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

/// The latest modification time of a directory and its files, in seconds since 1970.
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

/// The modification time, limited to what a cpio archive can hold.
fn time(stat: &Metadata) -> u32 {
    u32::try_from(stat.mtime().max(0)).unwrap_or(u32::MAX)
}

/// The name of the file that makes a directory opaque.
fn opaque_name() -> &'static std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(OPAQUE)
}
