//! The extract backend: an EROFS image is read here and written into a tmpfs. It needs nothing of the kernel.
//!
//! A layer of its own keeps its whiteouts and overlayfs's attributes, for the overlay that it becomes part
//! of. Where all layers go into one tmpfs, each is written over those below it as overlayfs would show it.

mod attributes;

mod content;

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ftruncate, linkat, makedev, mkdirat, mknodat, openat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};
use crate::format::erofs::{Checksum, Data, Dirent, Image, Inode, Superblock};
use crate::text::shown;
use attributes::{Attributes, c_string};
pub use content::Bytes;
use content::{Writer, with_writer};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// overlayfs's attributes of a directory or file, as they are on a layer (fs/overlayfs/util.c).
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const METACOPY: &[u8] = b"trusted.overlay.metacopy";

/// Where an image is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// An empty directory, which an overlay stacks.
    Layer,
    /// What the layers below have left, as overlayfs would show it.
    Root,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Files of any type, directories included.
    pub files: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
}

/// Writes the tree of an image into a directory, with owners, modes, times, extended attributes, hard links
/// and holes.
///
/// # Errors
/// The image is damaged or has data on other devices, or the directory does not take something: with the path
/// of the file in either case.
pub fn extract(
    bytes: Bytes<'_>,
    superblock: &Superblock,
    to: OwnedFd,
    onto: Onto,
) -> Result<Extracted> {
    // The drivers refuse it, too.
    if let Checksum::Bad { .. } = superblock.checksum {
        let what = format!("checksum {}", superblock.checksum);
        return Err(Error::new("read", "the superblock", what));
    }
    let image = Image::new(bytes, superblock)?;
    let root = image.root()?;
    with_writer(bytes, |writer| {
        let mut tree = Tree {
            image: &image,
            writer,
            onto,
            links: HashMap::new(),
            directories: HashSet::new(),
            done: Extracted::default(),
            to,
        };
        tree.all(&root)?;
        Ok(tree.done)
    })
}

/// The bytes that the files of an image take, in whole pages, and the number of its files. Holes count where
/// `holes` is set, which spares looking for them.
///
/// # Errors
/// The image is damaged.
pub fn needed(bytes: Bytes<'_>, superblock: &Superblock, holes: bool) -> Result<(u64, u64)> {
    const PAGE: u64 = 4096;
    let image = Image::new(bytes, superblock)?;
    let (mut total, mut files) = (0u64, 0u64);
    let mut seen = HashSet::new();
    let mut directories = vec![image.root()?];
    while let Some(directory) = directories.pop() {
        for dirent in image.entries(&directory) {
            let inode = image.inode(dirent?.nid)?;
            if (inode.nlink > 1 || inode.is_directory()) && !seen.insert(inode.nid) {
                continue;
            }
            files = files.saturating_add(1);
            match inode.file_type() {
                libc::S_IFDIR => directories.push(inode),
                libc::S_IFREG if holes => {
                    total = total.saturating_add(inode.size.next_multiple_of(PAGE));
                }
                libc::S_IFREG => {
                    for extent in image.extents(&inode) {
                        let extent = extent.map_err(|fault| fault.of_inode(inode.nid))?;
                        if extent.data != Data::Hole {
                            total = total.saturating_add(extent.length.next_multiple_of(PAGE));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok((total, files))
}

/// A directory whose files are being written.
struct Level {
    file: OwnedFd,
    names: std::vec::IntoIter<Dirent>,
    attributes: Attributes,
    /// The length of its path.
    path: usize,
}

struct Tree<'a, 'w, 'b> {
    image: &'a Image<'a>,
    writer: &'w mut Writer<'b>,
    onto: Onto,
    /// The path of each inode with several names, from the root.
    links: HashMap<u64, Vec<u8>>,
    directories: HashSet<u64>,
    done: Extracted,
    to: OwnedFd,
}

impl Tree<'_, '_, '_> {
    fn all(&mut self, root: &Inode) -> Result<()> {
        let mut path = Vec::new();
        let file = self.to.try_clone().during("open", "the root")?;
        let mut levels = vec![self.enter(root, file, &path)?];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            let Some(dirent) = level.names.next() else {
                // Files that are created in a directory change its time.
                let shown = shown(&path);
                attributes::set_on_file(&level.file, &level.attributes)
                    .during("set the attributes of", format_args!("/{shown}"))?;
                levels.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&dirent.name);
            let inode = self.image.inode(dirent.nid)?;
            self.done.files = self.done.files.saturating_add(1);
            let below = self
                .create(&inode, &level.file, &dirent.name, &path)
                .during("extract", format_args!("/{}", shown(&path)))?;
            if let Some(below) = below {
                levels.push(self.enter(&inode, below, &path)?);
            }
        }
        Ok(())
    }

    /// Begins a directory.
    fn enter(&mut self, inode: &Inode, file: OwnedFd, path: &[u8]) -> Result<Level> {
        if !self.directories.insert(inode.nid) {
            let what = "the directory is in the tree twice";
            return Err(Error::new("read", format_args!("/{}", shown(path)), what));
        }
        let names: Result<Vec<_>> = self.image.entries(inode).collect();
        Ok(Level {
            file,
            names: names?.into_iter(),
            attributes: Attributes::of(self.image, inode, self.onto == Onto::Layer)?,
            path: path.len(),
        })
    }

    /// Creates a file of any type. Returns a directory, open.
    fn create(
        &mut self,
        inode: &Inode,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<OwnedFd>> {
        let c_name = c_string(name).during("name", shown(name))?;
        let name = c_name.as_c_str();
        if self.onto == Onto::Root && self.replace(inode, directory, name)? {
            return Ok(None);
        }
        if inode.is_directory() {
            return open_directory(directory, name)
                .during("create", "directory")
                .map(Some);
        }
        if inode.nlink > 1 {
            if let Some(first) = self.links.get(&inode.nid) {
                let first = c_string(first).during("link to", "another name")?;
                linkat(
                    &self.to,
                    first.as_c_str(),
                    directory,
                    name,
                    AtFlags::empty(),
                )
                .during("link to", format_args!("/{}", shown(first.to_bytes())))?;
                return Ok(None);
            }
            self.links.insert(inode.nid, path.to_vec());
        }
        let attributes = Attributes::of(self.image, inode, self.onto == Onto::Layer)?;
        match inode.file_type() {
            libc::S_IFREG => self.file(inode, directory, name, attributes, path)?,
            libc::S_IFLNK => {
                let target = c_string(&self.image.target(inode)?).during("read", "its target")?;
                symlinkat(target.as_c_str(), directory, name).during("create", "symbolic link")?;
                attributes::set_on_name(directory, name, &attributes)
                    .during("set", "attributes")?;
            }
            kind => {
                let (major, minor) = inode.device.unwrap_or_default();
                let kind = FileType::from_raw_mode(kind);
                let mode = Mode::from_raw_mode(inode.mode & 0o7777);
                mknodat(directory, name, kind, mode, makedev(major, minor))
                    .during("create", "special file")?;
                attributes::set_on_name(directory, name, &attributes)
                    .during("set", "attributes")?;
            }
        }
        Ok(None)
    }

    fn file(
        &mut self,
        inode: &Inode,
        directory: &OwnedFd,
        name: &CStr,
        attributes: Attributes,
        path: &[u8],
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file =
            openat(directory, name, flags, Mode::RUSR | Mode::WUSR).during("create", "file")?;
        if inode.size > 0 {
            ftruncate(&file, inode.size).during("set the size of", "file")?;
        }
        self.done.bytes = self.done.bytes.saturating_add(inode.size);
        let file = self
            .writer
            .file(file, attributes, format!("/{}", shown(path)));
        for extent in self.image.extents(inode) {
            let extent = extent.map_err(|fault| fault.of_inode(inode.nid))?;
            self.writer.write(&file, extent)?;
        }
        Ok(())
    }

    /// Makes room for a file where the layers below may have something. Whether that is all: the file is a
    /// whiteout.
    fn replace(&mut self, inode: &Inode, directory: &OwnedFd, name: &CStr) -> Result<bool> {
        let whiteout = inode.file_type() == libc::S_IFCHR && inode.device == Some((0, 0));
        let marks = self
            .image
            .xattrs_if(inode, |name| name.starts_with(attributes::OVERLAY))?;
        let mark = |wanted: &[u8]| marks.iter().find(|xattr| xattr.name == wanted);
        if mark(REDIRECT).is_some() || mark(METACOPY).is_some() {
            let what = "it is a redirect or has metadata only: this needs overlayfs in the kernel";
            return Err(Error::new("merge", "file", what));
        }
        let opaque = mark(OPAQUE).is_some_and(|xattr| xattr.value == b"y");
        let there = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat.st_mode & libc::S_IFMT),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno).during("look for", "what is below"),
        };
        match there {
            Some(libc::S_IFDIR) if inode.is_directory() && !opaque => {}
            Some(kind) => remove(directory, name, kind).during("remove", "what is below")?,
            None => {}
        }
        Ok(whiteout)
    }
}

/// Opens a directory, and makes it where there is none.
fn open_directory(directory: &OwnedFd, name: &CStr) -> std::result::Result<OwnedFd, Errno> {
    match mkdirat(directory, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => openat(directory, name, DIRECTORY, Mode::empty()),
        Err(errno) => Err(errno),
    }
}

/// Removes a file, or a directory with everything in it.
fn remove(directory: impl AsFd, name: &CStr, kind: u32) -> std::result::Result<(), Errno> {
    if kind != libc::S_IFDIR {
        return unlinkat(directory, name, AtFlags::empty());
    }
    let inside = openat(&directory, name, DIRECTORY, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&inside)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let kind = statat(&inside, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode & libc::S_IFMT;
            remove(&inside, name, kind)?;
        }
    }
    unlinkat(directory, name, AtFlags::REMOVEDIR)
}
