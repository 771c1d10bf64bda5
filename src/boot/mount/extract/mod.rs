//! The extract backend: reads an EROFS image and writes its files into a tmpfs. It needs no driver in the
//! kernel.
//!
//! A layer for an overlay keeps its whiteouts and the attributes that overlayfs reads. Where all layers go
//! into one tmpfs, each is written over those below it as overlayfs would show it. `layerinit extract` writes
//! files with the same functions.

pub mod attributes;
pub mod marks;

pub mod node;

pub mod content;

mod staging;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, ftruncate, linkat, statat};
use rustix::io::Errno;

use super::trees::remove;
use crate::bytes::ReadAt;
use crate::error::{Context as _, Error, Result};
use crate::format::erofs::{Checksum, Data, Image, Inode, Limits, Superblock};
use crate::initrd::FILE_MEMORY;
use crate::initrd::file_pages::FilePages;
use crate::text::Shown;
use attributes::{Attributes, c_string};
pub use content::Bytes;
use content::{Writer, with_writer};
use marks::MarkReader;
use staging::Staging;

/// Where the files of an image go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// An empty directory, which becomes a layer of an overlay.
    Layer,
    /// An empty directory, the new root.
    Root,
    /// The new root with the files of the layers below, as overlayfs would show them.
    Layers,
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
/// The image is damaged or has data on other devices, or a file cannot be written; the error names the path
/// of the file.
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
    let staging = match onto {
        Onto::Layers => Staging::of(&image, &to)?,
        Onto::Layer | Onto::Root => Staging::default(),
    };
    with_writer(bytes, |writer| {
        let mut tree = Tree {
            image: &image,
            writer,
            onto,
            marks: MarkReader::new(&image),
            limits: Limits::of(&image),
            staging: &staging,
            links: BTreeMap::new(),
            levels: Vec::new(),
            done: Extracted::default(),
            to: &to,
        };
        image.walk(&mut |path, inode| tree.file(path, inode))?;
        // Before the root gets its time.
        tree.leave(Some(b""))?;
        staging.remove(&to)?;
        tree.leave(None)?;
        Ok(tree.done)
    })
}

/// The space that the files of an image take in a tmpfs.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// The content.
    pub content: FilePages,
    /// The number of files of any type.
    pub files: u64,
}

impl Needed {
    /// Bytes of memory: the content in pages of `page_size` bytes, inodes and names.
    pub fn memory(self, page_size: u64) -> u64 {
        let names = self.files.saturating_mul(FILE_MEMORY);
        self.content.bytes(page_size).saturating_add(names)
    }
}

/// The space that the files of an image take. With `holes`, holes count as data, which saves the search for
/// them.
///
/// # Errors
/// The image is damaged.
pub fn needed(bytes: Bytes<'_>, superblock: &Superblock, holes: bool) -> Result<Needed> {
    needed_of(&Image::new(bytes, superblock)?, holes)
}

/// The same for an open image.
///
/// # Errors
/// The image is damaged.
pub fn needed_of(image: &Image, holes: bool) -> Result<Needed> {
    let (mut content, mut files) = (FilePages::default(), 0u64);
    let mut seen = BTreeSet::new();
    let mut limits = Limits::of(image);
    image.walk(&mut |path, inode| {
        let again = inode.nlink > 1 && !inode.is_directory() && !seen.insert(inode.nid);
        if path.is_empty() || again {
            return Ok(());
        }
        files = files.saturating_add(1);
        match inode.file_type() {
            libc::S_IFREG if holes => content.add(inode.size),
            libc::S_IFREG => {
                for extent in image.extents(inode) {
                    let extent = extent.map_err(|fault| fault.of_inode(inode.nid))?;
                    limits.extent(inode, &extent)?;
                    if extent.data != Data::Hole {
                        content.add(extent.length);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(Needed { content, files })
}

/// A directory whose files are being written.
struct Level {
    file: OwnedFd,
    attributes: Attributes,
    /// Its path from the root.
    path: Vec<u8>,
}

struct Tree<'a, 'w, 'b> {
    image: &'a Image<'a>,
    writer: &'w mut Writer<'b>,
    onto: Onto,
    marks: MarkReader<'a>,
    limits: Limits,
    staging: &'a Staging,
    /// The path of each inode with several names, from the root.
    links: BTreeMap<u64, Vec<u8>>,
    /// The directory of the current file, and those around it.
    levels: Vec<Level>,
    done: Extracted,
    to: &'a OwnedFd,
}

impl Tree<'_, '_, '_> {
    /// Writes the next file of a walk.
    fn file(&mut self, path: &[u8], inode: &Inode) -> Result<()> {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let parent = path.get(..slash.unwrap_or(0)).unwrap_or_default();
        self.leave(Some(parent))?;
        let name = path.get(slash.map_or(0, |slash| slash.saturating_add(1))..);
        let name = name.unwrap_or_default();
        let below = match self.levels.pop() {
            None => Some(self.to.try_clone().during("open", "the root")?),
            Some(level) => {
                self.done.files = self.done.files.saturating_add(1);
                let created = self.create(inode, &level.file, name, path);
                self.levels.push(level);
                created.during("extract", format_args!("/{}", Shown(path)))?
            }
        };
        if let Some(file) = below {
            let level = Level {
                file,
                attributes: self.attributes(inode)?,
                path: path.to_vec(),
            };
            self.levels.push(level);
        }
        Ok(())
    }

    /// Finishes directories, but not the ones that stay open: creating files in a directory changes its time.
    fn leave(&mut self, until: Option<&[u8]>) -> Result<()> {
        while let Some(level) = self.levels.pop_if(|level| Some(&*level.path) != until) {
            let shown = Shown(&level.path);
            attributes::set_on_file(&level.file, &level.attributes)
                .during("set the attributes of", format_args!("/{shown}"))?;
        }
        Ok(())
    }

    fn attributes(&mut self, inode: &Inode) -> Result<Attributes> {
        let stacked = self.onto == Onto::Layer;
        let mut attributes = Attributes::of(self.image, inode, stacked, &mut self.limits)?;
        // Root creates files of root, unless a set-group-ID directory of a layer below decides.
        if self.onto != Onto::Layers && attributes.owner == Some((0, 0)) {
            attributes.owner = None;
        }
        Ok(attributes)
    }

    /// Creates a file of any type. Returns a directory, open.
    fn create(
        &mut self,
        inode: &Inode,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<OwnedFd>> {
        let c_name = c_string(name).during("name", Shown(name))?;
        let name = c_name.as_c_str();
        let mut metacopy = false;
        if self.onto != Onto::Layer {
            let marks = self.marks.of(inode)?;
            metacopy = marks.metacopy;
            if self.onto == Onto::Layers {
                let moved = marks.redirect.is_some() || marks.opaque;
                let keep = inode.is_directory() && !moved;
                self.make_room(directory, name, keep)?;
            }
            if marks.whiteout {
                return Ok(None);
            }
        }
        if inode.is_directory() {
            self.staging.put(self.to, path, directory, name)?;
            return node::directory(directory, name)
                .during("create", "directory")
                .map(Some);
        }
        if inode.nlink > 1 {
            if let Some(first) = self.links.get(&inode.nid) {
                let first = c_string(first).during("link to", "another name")?;
                linkat(self.to, first.as_c_str(), directory, name, AtFlags::empty())
                    .during("link to", format_args!("/{}", Shown(first.to_bytes())))?;
                return Ok(None);
            }
            self.links.insert(inode.nid, path.to_vec());
        }
        let attributes = self.attributes(inode)?;
        match inode.file_type() {
            libc::S_IFREG if metacopy => {
                let bytes = self.staging.open(self.to, path)?;
                let file = node::file(directory, name, bytes.size())?;
                let path = [b"/", path].concat();
                content::copy_file(&bytes, &self.writer.file(file, attributes, path))?;
            }
            libc::S_IFREG => self.content(inode, directory, name, attributes, path)?,
            libc::S_IFLNK => {
                let target = self.image.target(inode)?;
                node::link(directory, name, &target, &attributes)?;
            }
            _ => {
                let device = inode.device.unwrap_or_default();
                node::special(directory, name, device, &attributes)?;
            }
        }
        Ok(None)
    }

    fn content(
        &mut self,
        inode: &Inode,
        directory: &OwnedFd,
        name: &CStr,
        attributes: Attributes,
        path: &[u8],
    ) -> Result<()> {
        let file = node::file(directory, name, 0)?;
        self.done.bytes = self.done.bytes.saturating_add(inode.size);
        let file = self.writer.file(file, attributes, [b"/", path].concat());
        for extent in self.image.extents(inode) {
            let extent = extent.map_err(|fault| fault.of_inode(inode.nid))?;
            self.limits.extent(inode, &extent)?;
            let end = extent.offset.saturating_add(extent.length);
            // For a file that does not end in a hole, the last write sets the size.
            if extent.data == Data::Hole && end >= inode.size {
                ftruncate(&file.file, inode.size).during("set the size of", "file")?;
            }
            self.writer.write(&file, extent)?;
        }
        Ok(())
    }

    /// Removes what the layers below have under a name, unless it is a directory that is to be kept.
    fn make_room(&self, directory: &OwnedFd, name: &CStr, keep: bool) -> Result<()> {
        let below = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).during("look for", "what is below"),
        };
        match below {
            FileType::Directory if keep => Ok(()),
            kind => remove(directory, name, Some(kind)).during("remove", "what is below"),
        }
    }
}
