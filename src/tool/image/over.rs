//! An EROFS image over the layers below it, as overlayfs stacks them.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::erofs_tree::{self, Gap, Gaps};
use super::files::File;
use super::rootfs::{FileData, Node, Rootfs, join};
use super::unpack::NAMES_MAX;
use crate::boot::mount::extract::marks::{MarkReader, Marks, Origins};
use crate::error::{Error, Result};
use crate::format::erofs::{Image, Inode};

/// An image on its way into a rootfs.
pub(super) struct OverImage<'r> {
    rootfs: &'r mut Rootfs,
    layer: usize,
    /// The names of the layers below, where the image refers to them by other paths.
    lower: BTreeMap<Vec<u8>, usize>,
    origins: Origins,
    /// The node of each inode with several names.
    links: HashMap<u64, usize>,
    gaps: Gaps,
}

impl<'r> OverImage<'r> {
    /// Stacks the files of an image over the tree. The gaps are what a kernel may refuse.
    ///
    /// # Errors
    /// The image is damaged, has a redirect that overlayfs refuses, or there are more names than a hostile image
    /// may make.
    pub fn put(rootfs: &'r mut Rootfs, image: &Image, layer: usize) -> Result<Gaps> {
        let mut refers = false;
        if layer > 0 {
            let mut marks = MarkReader::new(image);
            image.walk(&mut |_, inode| {
                let marks = marks.of(inode)?;
                refers |= marks.redirect.is_some() || marks.metacopy;
                Ok(())
            })?;
        }
        let mut over = Self {
            layer,
            lower: match refers {
                true => rootfs.names.clone(),
                false => BTreeMap::new(),
            },
            rootfs,
            origins: Origins::default(),
            links: HashMap::new(),
            gaps: Gaps::default(),
        };
        let mut reader = MarkReader::new(image);
        erofs_tree::walk(image, |file, inode| {
            let marks = match over.rootfs.as_is {
                true => Marks::default(),
                false => reader.of(inode)?,
            };
            over.file(file, inode, &marks)
        })?;
        Ok(over.gaps)
    }

    fn file(&mut self, file: File, inode: &Inode, marks: &Marks) -> Result<()> {
        let path = file.path.clone();
        let origin = self.origins.of(&path, marks)?;
        if marks.whiteout {
            self.rootfs.whiteout(&path);
            return Ok(());
        }
        let mut new = node(file, inode, self.layer);
        if inode.is_directory() {
            if marks.opaque {
                self.rootfs.make_opaque(&path);
            }
            let moved = marks.redirect.is_some() && !marks.opaque;
            if moved {
                self.rootfs.remove(&path);
            }
            self.rootfs.put(path.clone(), new);
            return match origin.filter(|_| moved) {
                Some(origin) => self.copy(&origin, &path),
                None => self.check_size(),
            };
        }
        if marks.metacopy {
            new.data = self.bytes(&path, origin);
        }
        self.rootfs.put(path.clone(), new);
        // One file, also where only one of its names replaces a file of a lower layer.
        match self.links.get(&inode.nid).copied() {
            _ if inode.nlink < 2 => {}
            Some(first) => self.rootfs.name(path, first),
            None => {
                let index = self.rootfs.names.get(&path).copied();
                self.links.extend(index.map(|index| (inode.nid, index)));
            }
        }
        self.check_size()
    }

    /// Adds what the lower directory `from` holds to the directory `to`.
    fn copy(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let index = self.lower.get(from);
        let node = index.and_then(|index| self.rootfs.nodes.get(*index));
        if !node.is_some_and(|node| node.has_type(libc::S_IFDIR)) {
            return Ok(());
        }
        let prefix = match from {
            b"" => Vec::new(),
            from => [from, b"/"].concat(),
        };
        let names = std::mem::take(&mut self.lower);
        let below = names.range(prefix.clone()..);
        for (name, index) in below.take_while(|(name, _)| name.starts_with(&prefix)) {
            let rest = name.get(prefix.len()..).unwrap_or_default();
            let old = self.rootfs.nodes.get(*index);
            match old.filter(|node| node.has_type(libc::S_IFDIR)).cloned() {
                _ if rest.is_empty() => {}
                Some(directory) => self.rootfs.insert(join(to, rest), directory),
                None => self.rootfs.name(join(to, rest), *index),
            }
            self.check_size()?;
        }
        self.lower = names;
        Ok(())
    }

    /// The bytes of a file with metadata only.
    fn bytes(&mut self, path: &[u8], origin: Option<Vec<u8>>) -> FileData {
        self.gaps.add(Gap::Metacopy, path);
        let index = origin.and_then(|origin| self.lower.get(&origin).copied());
        let node = index.and_then(|index| self.rootfs.nodes.get(index));
        let data = match node.filter(|node| node.has_type(libc::S_IFREG)) {
            Some(node) if matches!(node.data, FileData::Own) => {
                FileData::Lower(Rc::new(node.clone()))
            }
            Some(node) => node.data.clone(),
            None => FileData::Missing,
        };
        if matches!(data, FileData::Missing) {
            self.gaps.add(Gap::Missing, path);
        }
        data
    }

    fn check_size(&self) -> Result<()> {
        if self.rootfs.size <= NAMES_MAX {
            return Ok(());
        }
        let layer = format_args!("layer {}", self.layer);
        let what = format!("names of more than {NAMES_MAX} bytes in all layers");
        Err(Error::new("read", layer, what))
    }
}

/// A file of an image.
fn node(file: File, inode: &Inode, layer: usize) -> Node {
    Node {
        mode: file.mode,
        target: file.target.unwrap_or_default(),
        layer,
        owner: (inode.uid, inode.gid),
        mtime: (inode.mtime, inode.mtime_nsec),
        device: inode.device,
        inode: Some(Box::new(inode.clone())),
        ..Node::default()
    }
}
