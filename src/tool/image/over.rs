//! An image over the layers below it, as overlayfs stacks them.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::erofs_tree::{self, Gap, Gaps};
use super::files::File;
use super::node::{ArchiveExtent, FileData, Node};
use super::rootfs::{Rootfs, join};
use super::squashfs::{SquashfsContent, SquashfsInode, SquashfsKind};
use super::unpack::NAMES_MAX;
use crate::boot::mount::extract::marks::{MarkReader, Marks, Origins};
use crate::error::{Context, Error, Result};
use crate::format::erofs::{Image, Inode};

/// An image on its way into a rootfs.
pub(super) struct OverImage<'r> {
    rootfs: &'r mut Rootfs,
    layer: usize,
    /// The names of the layers below, if the image refers to them by other paths.
    lower: BTreeMap<Vec<u8>, usize>,
    origins: Origins,
    /// The node of each inode with several names.
    links: HashMap<u64, usize>,
    gaps: Gaps,
}

impl<'r> OverImage<'r> {
    /// Stacks the files of an image over the tree. Returns the gaps: what a kernel may refuse.
    ///
    /// # Errors
    /// The image is damaged, has a redirect that overlayfs refuses, or has more names than the limit for
    /// hostile images.
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
        let mut over = Self::new(rootfs, layer, refers);
        let mut reader = MarkReader::new(image);
        erofs_tree::walk(image, |file, inode| {
            let marks = match over.rootfs.as_is {
                true => Marks::default(),
                false => reader.of(inode)?,
            };
            let path = file.path.clone();
            let links = (inode.nid, inode.nlink);
            over.file(path, node(file, inode, layer), links, &marks)
        })?;
        Ok(over.gaps)
    }

    /// Stacks the files of a SquashFS image over the tree, and gives their content its place in `content`.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_squashfs(
        rootfs: &'r mut Rootfs,
        content: &mut SquashfsContent,
        layer: usize,
    ) -> Result<Gaps> {
        let mut files = Vec::new();
        content.image().walk(&mut |path, inode| {
            files.push((path.to_vec(), inode.clone()));
            Ok(())
        })?;
        let data = files.iter().filter_map(|(_, inode)| match &inode.kind {
            SquashfsKind::File(data) => Some((inode.number, *data)),
            _ => None,
        });
        content.add(data).during("read", "SquashFS image")?;
        let refers = layer > 0 && content.image().has_xattrs();
        let mut over = Self::new(rootfs, layer, refers);
        // Files with the same attributes share them.
        let mut known = HashMap::new();
        for (path, inode) in &files {
            let xattrs = match inode.xattrs {
                None => None,
                Some(number) => match known.get(&number) {
                    Some(xattrs) => Some(Rc::clone(xattrs)),
                    None => {
                        let xattrs = Rc::new(content.image().xattrs(inode)?);
                        known.insert(number, Rc::clone(&xattrs));
                        Some(xattrs)
                    }
                },
            };
            let mut node = squashfs_node(content, inode, layer);
            let kind = node.mode & libc::S_IFMT;
            let mut marks = Marks::of_device(kind, node.device);
            for xattr in xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
                marks.add(&xattr.name, &xattr.value, kind, node.size());
            }
            if over.rootfs.as_is {
                marks = Marks::default();
            }
            node.xattrs = xattrs.filter(|xattrs| !xattrs.is_empty());
            let links = (inode.number.into(), inode.nlink);
            over.file(path.clone(), node, links, &marks)?;
        }
        Ok(over.gaps)
    }

    /// `refers`: whether the image refers to lower layers by other paths.
    fn new(rootfs: &'r mut Rootfs, layer: usize, refers: bool) -> Self {
        Self {
            layer,
            lower: match refers {
                true => rootfs.names.clone(),
                false => BTreeMap::new(),
            },
            rootfs,
            origins: Origins::default(),
            links: HashMap::new(),
            gaps: Gaps::default(),
        }
    }

    /// Stacks a file over the tree. `links`: the number of its inode, and how many names that has.
    fn file(
        &mut self,
        path: Vec<u8>,
        mut new: Node,
        links: (u64, u32),
        marks: &Marks,
    ) -> Result<()> {
        let origin = self.origins.of(&path, marks)?;
        if marks.whiteout {
            self.rootfs.whiteout(&path);
            return Ok(());
        }
        if new.has_type(libc::S_IFDIR) {
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
        // It is one file, even if only one of its names replaces a file of a lower layer.
        let (inode, nlink) = links;
        match self.links.get(&inode).copied() {
            _ if nlink < 2 => {}
            Some(first) => self.rootfs.name(path, first),
            None => {
                let index = self.rootfs.names.get(&path).copied();
                self.links.extend(index.map(|index| (inode, index)));
            }
        }
        self.check_size()
    }

    /// Adds the contents of the lower directory `from` to the directory `to`.
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

/// A file of a SquashFS image, without its extended attributes.
fn squashfs_node(content: &SquashfsContent, inode: &SquashfsInode, layer: usize) -> Node {
    let mut node = Node {
        mode: inode.mode,
        layer,
        owner: inode.owner,
        mtime: (inode.mtime.into(), 0),
        ..Node::default()
    };
    match &inode.kind {
        SquashfsKind::File(data) => {
            node.body = content.offset(inode.number).map(|offset| ArchiveExtent {
                segment: 0,
                offset,
                length: data.size,
            });
        }
        SquashfsKind::Link(target) => node.target.clone_from(target),
        SquashfsKind::Device(major, minor) => node.device = Some((*major, *minor)),
        SquashfsKind::Directory { .. } | SquashfsKind::Other => {}
    }
    node
}
