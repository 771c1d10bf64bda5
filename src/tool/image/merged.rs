//! The root that the layers make, put together as overlayfs and `/init` do it, without their bytes.

use super::boot::Boot;
use super::erofs_tree::{self, Attributes, Gap, Gaps};
use super::files::File;
use super::rootfs::{Changes, Node, Rootfs};
use super::unpack::{Report, Severity};
use crate::bytes::{Part, ReadAt};
use crate::error::Result;
use crate::format::erofs::{Image, Inode, Superblock};
use crate::initrd::Kind;
use crate::plan::{Content, Layer, Plan};

/// Where the bytes of the layers are, lowest first.
pub struct Layers<'a> {
    pieces: Vec<Piece<'a>>,
}

enum Piece<'a> {
    Erofs(Box<Image<'a>>),
    /// An archive that is not compressed: its source, and where it starts there.
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

/// Puts the layers of a plan together, and reports what is wrong with them. `sources` and `parts` are
/// the bytes of all sources, and of each layer. With `changes`, what layers do to those below is noted.
pub fn merge<'a>(
    boot: &Boot,
    plan: &'a Plan,
    sources: &'a [Box<dyn ReadAt + 'a>],
    parts: &'a [Part<&'a dyn ReadAt>],
    changes: bool,
    report: Report,
) -> (Rootfs, Layers<'a>) {
    let mut rootfs = Rootfs::empty();
    rootfs.changes = changes.then(Changes::default);
    // What is on a device cannot be seen from here.
    rootfs.partial = plan.device.is_some();
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
                            report(Severity::Warning, layer.to_string(), what);
                            rootfs.partial = true;
                        }
                    }
                    Err(error) => {
                        report(Severity::Error, layer.to_string(), error.to_string());
                        rootfs.partial = true;
                    }
                }
            }
            Content::Erofs { .. } => rootfs.partial = true,
            Content::Cpio { codec, .. } => {
                if let (None, Some(source)) = (codec, sources.get(layer.source)) {
                    piece = Piece::Cpio(&**source, layer.offset);
                }
                rootfs.put_archive(boot, layer, sources, report);
            }
        }
        pieces.push(piece);
    }
    (rootfs, Layers { pieces })
}

impl Rootfs {
    fn put_archive<'a>(
        &mut self,
        boot: &Boot,
        layer: &Layer,
        sources: &'a [Box<dyn ReadAt + 'a>],
        report: Report,
    ) {
        let found = boot.sources.get(layer.source);
        let segments = found.into_iter().flat_map(|found| &found.walk.segments);
        for segment in segments.filter(|segment| segment.offset == layer.offset) {
            if let (Kind::Cpio(cpio), Some(source)) = (&segment.kind, sources.get(layer.source))
                && let Err(error) = self.unpack(&**source, segment, cpio, report)
            {
                report(Severity::Error, layer.to_string(), error.to_string());
                self.partial = true;
            }
        }
    }

    /// Puts the files of an EROFS image over what is there, as overlayfs does, and says of which it
    /// cannot tell.
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
                self.hide(&file.path);
            }
            // Where nothing is below, or shows, overlayfs looks for no more.
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

    /// Puts a file where another may be: a directory stays, and takes the attributes; whatever else
    /// goes, with all that is below.
    pub(super) fn put(&mut self, path: Vec<u8>, node: Node) {
        let directory = |node: &Node| node.mode & libc::S_IFMT == libc::S_IFDIR;
        let Some(index) = self.names.get(&path).copied() else {
            return self.insert(path, node);
        };
        let Some(there) = self.nodes.get(index) else {
            return;
        };
        let merge = directory(there) && directory(&node);
        // The kernel writes to a file that is there, under all its names; a layer to none below.
        let in_place =
            there.layer == node.layer && there.mode & libc::S_IFMT == node.mode & libc::S_IFMT;
        let old = there.clone();
        let below = match directory(&old) && !merge {
            true => self.remove(&path),
            false => 0,
        };
        if let Some(changes) = &mut self.changes {
            changes.other(&path, &old, &node, below);
        }
        match self.nodes.get_mut(index).filter(|_| in_place || merge) {
            Some(there) => *there = node,
            None => self.insert(path, node),
        }
    }

    /// Takes away what a whiteout hides.
    pub(super) fn whiteout(&mut self, path: &[u8]) {
        let there = self.names.contains_key(path);
        self.remove(path);
        if let (false, false, Some(changes), Some(layer)) =
            (there, self.partial, &mut self.changes, self.layer)
        {
            changes.nothing(path, layer);
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
