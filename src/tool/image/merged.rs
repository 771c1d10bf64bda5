//! The new root: the files of all layers, stacked as overlayfs does it.

use super::erofs_tree::{self, Attributes, Gap, Gaps};
use super::files::File;
use super::rootfs::{Changes, Node, Rootfs};
use super::unpack::Packed;
use crate::bytes::{Part, ReadAt};
use crate::error::Result;
use crate::format::compress::Codec;
use crate::format::erofs::{Image, Inode, Superblock};
use crate::plan::{Content, Layer, Plan};
use crate::tool::finding::Findings;

/// The bytes of the layers, lowest first.
#[derive(Default)]
pub struct Layers<'a> {
    pieces: Vec<Piece<'a>>,
}

enum Piece<'a> {
    Erofs(Box<Image<'a>>),
    /// An uncompressed archive: its source, and its offset in there.
    Cpio(&'a dyn ReadAt, u64),
    Unread,
}

impl Layers<'_> {
    /// The bytes of a regular file, unless it is in a compressed archive.
    pub fn content<'n>(&'n self, node: &'n Node) -> Option<Box<dyn ReadAt + 'n>> {
        match (self.pieces.get(node.layer)?, &node.inode, node.body) {
            (Piece::Erofs(image), Some(inode), _) => Some(Box::new(image.content(inode))),
            (Piece::Cpio(source, offset), None, Some(body)) => {
                let offset = offset.saturating_add(body.offset);
                Some(Box::new(Part::new(*source, offset, body.length)))
            }
            _ => None,
        }
    }
}

/// The bytes of each layer.
pub fn layer_parts<'a>(
    plan: &Plan,
    sources: &'a [Box<dyn ReadAt + 'a>],
) -> Vec<Part<&'a dyn ReadAt>> {
    static EMPTY: &[u8] = &[];
    let part = |layer: &Layer| match sources.get(layer.source) {
        Some(source) => Part::new(&**source, layer.offset, layer.length),
        // The plan is made from these sources.
        None => Part::new(&EMPTY as &dyn ReadAt, 0, 0),
    };
    plan.layers.iter().map(part).collect()
}

/// Stacks the layers of a plan. `sources` and `parts` are the bytes of all sources and of each layer. With
/// `changes`, what layers change in those below them is recorded. Findings are about the layers' content.
pub fn merge<'a>(
    plan: &'a Plan,
    sources: &'a [Box<dyn ReadAt + 'a>],
    parts: &'a [Part<&'a dyn ReadAt>],
    changes: bool,
) -> (Rootfs, Layers<'a>, Findings) {
    let mut rootfs = Rootfs::empty();
    rootfs.changes = changes.then(Changes::default);
    // The content of a device is unknown here.
    rootfs.partial = plan.device.is_some();
    let mut findings = Findings::default();
    let mut pieces = Vec::new();
    for ((index, layer), part) in plan.layers.iter().enumerate().zip(parts) {
        rootfs.layer = Some(index);
        let mut piece = Piece::Unread;
        match &layer.content {
            Content::Erofs { superblock, .. } if superblock.unknown_incompat() == 0 => {
                match rootfs.put_image(part, superblock, index) {
                    Ok((image, gaps)) => {
                        piece = Piece::Erofs(Box::new(image));
                        for what in gaps.clauses() {
                            findings.warning(layer, what);
                            rootfs.partial = true;
                        }
                    }
                    Err(error) => {
                        findings.error(layer, error.to_string());
                        rootfs.partial = true;
                    }
                }
            }
            // The tool does not read SquashFS.
            Content::Erofs { .. } | Content::Squashfs { .. } => rootfs.partial = true,
            Content::Cpio { codec, .. } => {
                if let Some(source) = sources.get(layer.source) {
                    if codec.is_none() {
                        piece = Piece::Cpio(&**source, layer.offset);
                    }
                    rootfs.put_archive(layer, *codec, &**source, &mut findings);
                }
            }
        }
        pieces.push(piece);
    }
    (rootfs, Layers { pieces }, findings)
}

impl Rootfs {
    fn put_archive(
        &mut self,
        layer: &Layer,
        codec: Option<Codec>,
        source: &dyn ReadAt,
        findings: &mut Findings,
    ) {
        let packed = Packed {
            offset: layer.offset,
            length: layer.length,
            codec,
            only_early: false,
        };
        if let Err(error) = self.unpack(source, packed, findings) {
            findings.error(layer, error.to_string());
            self.partial = true;
        }
    }

    /// Stacks the files of an EROFS image over the tree, as overlayfs does. The gaps are what cannot be read.
    fn put_image<'a>(
        &mut self,
        part: &'a Part<&'a dyn ReadAt>,
        superblock: &Superblock,
        layer: usize,
    ) -> Result<(Image<'a>, Gaps)> {
        let image = Image::new(part, superblock)?;
        let mut gaps = Gaps::default();
        let mut attributes = Attributes::new(&image);
        erofs_tree::walk(&image, |file, inode| {
            if file.device == Some((0, 0)) && file.mode & libc::S_IFMT == libc::S_IFCHR {
                self.whiteout(&file.path);
                return Ok(());
            }
            let marks = attributes.marks(inode)?;
            let directory = inode.is_directory();
            if directory && marks.opaque {
                self.make_opaque(&file.path);
            }
            // Without a lower directory that shows, overlayfs does not look at a redirect.
            let merges = directory && !marks.opaque && (layer > 0 || self.partial);
            let metacopy = marks.metacopy && file.mode & libc::S_IFMT == libc::S_IFREG;
            for (found, gap) in [
                (marks.redirect && merges, Gap::Redirect),
                (metacopy, Gap::Metacopy),
            ] {
                if found {
                    gaps.add(gap, &file.path);
                }
            }
            self.put(file.path.clone(), node(file, inode, layer));
            Ok(())
        })?;
        Ok((image, gaps))
    }

    /// Adds a file. A directory takes over the files of an earlier directory; any other file replaces what
    /// was at its path, with all files below.
    pub(super) fn put(&mut self, path: Vec<u8>, node: Node) {
        let directory = |node: &Node| node.mode & libc::S_IFMT == libc::S_IFDIR;
        let Some(index) = self.names.get(&path).copied() else {
            return self.insert(path, node);
        };
        let Some(old) = self.nodes.get(index).cloned() else {
            return;
        };
        let merge = directory(&old) && directory(&node);
        // The kernel writes to an existing file, under all its names. A layer does not change those below.
        let in_place =
            old.layer == node.layer && old.mode & libc::S_IFMT == node.mode & libc::S_IFMT;
        let below = match directory(&old) && !merge {
            true => self.remove(&path),
            false => 0,
        };
        if let Some(changes) = &mut self.changes {
            changes.replaced(&path, &old, &node, below);
        }
        match self.nodes.get_mut(index).filter(|_| in_place || merge) {
            Some(old) => *old = node,
            None => self.insert(path, node),
        }
    }

    /// Removes the file that a whiteout hides.
    pub(super) fn whiteout(&mut self, path: &[u8]) {
        let exists = self.names.contains_key(path);
        self.remove(path);
        if let (false, false, Some(changes), Some(layer)) =
            (exists, self.partial, &mut self.changes, self.layer)
        {
            changes.useless_whiteout(path, layer);
        }
    }
}

fn node(file: File, inode: &Inode, layer: usize) -> Node {
    Node {
        mode: file.mode,
        target: file.target.unwrap_or_default(),
        layer,
        inode: Some(Box::new(inode.clone())),
        ..Node::default()
    }
}
