//! The new root: the files of all layers, stacked as overlayfs does it.

use std::io;

use super::boot::Boot;
use super::changes::Changes;
use super::erofs_tree::Gaps;
use super::node::{FileData, Node};
use super::over::OverImage;
use super::rootfs::Rootfs;
use super::spool::ArchiveSpool;
use super::squashfs::{SquashfsContent, SquashfsImage};
use super::unpack::PackedArchive;
use crate::bytes::{Part, ReadAt};
use crate::error::{Error, Result};
use crate::format::compress::Codec;
use crate::format::erofs::Image;
use crate::initrd::Kind;
use crate::plan::{Content, Layer, Plan};
use crate::tool::finding::Findings;

/// A source of layers, which threads may share.
pub type LayerSource<'a> = Box<dyn ReadAt + Sync + 'a>;

/// The bytes of a layer.
pub type LayerPart<'a> = Part<&'a (dyn ReadAt + Sync)>;

/// The bytes of the layers, lowest first.
#[derive(Default)]
pub struct Layers<'a> {
    pieces: Vec<OpenLayer<'a>>,
}

enum OpenLayer<'a> {
    Erofs(Box<Image<'a>>, &'a LayerPart<'a>),
    Squashfs(Box<SquashfsContent<'a>>),
    /// Archives, each with its offset.
    Cpio(Vec<(u64, ArchiveSpool<'a>)>),
    Unread,
}

/// The location of the bytes of a file.
pub enum ContentPlace<'l> {
    /// In an image, and which one.
    Image(&'l Image<'l>, &'l (dyn ReadAt + Sync)),
    /// In these bytes, from an offset on.
    Bytes(&'l (dyn ReadAt + Sync), u64),
}

impl<'a> Layers<'a> {
    /// The bytes of the archives that the kernel unpacks, for the files of [`Boot::rootfs`].
    pub fn of_rootfs(boot: &Boot, image: &'a (dyn ReadAt + Sync)) -> Self {
        let mut archives = Vec::new();
        for segment in boot.image().map_or(&[][..], |walk| &walk.segments) {
            if let Kind::Cpio(cpio) = &segment.kind {
                let spool = ArchiveSpool::new(image, segment.offset, segment.length, cpio.codec);
                archives.push((segment.offset, spool));
            }
        }
        Self {
            pieces: vec![OpenLayer::Cpio(archives)],
        }
    }

    /// The image of a layer.
    pub fn image(&self, layer: usize) -> Option<&Image<'a>> {
        match self.pieces.get(layer)? {
            OpenLayer::Erofs(image, _) => Some(image),
            OpenLayer::Squashfs(_) | OpenLayer::Cpio(_) | OpenLayer::Unread => None,
        }
    }

    /// The location of the bytes of a regular file that is not empty. A compressed archive is decompressed
    /// into a temporary file when it is first needed.
    pub fn place<'l>(&'l self, node: &Node) -> Result<ContentPlace<'l>> {
        let lost = |what| Error::new("read", "file", what);
        match (self.pieces.get(node.layer), &node.inode, node.body) {
            (Some(OpenLayer::Erofs(image, bytes)), Some(_), None) => {
                Ok(ContentPlace::Image(image, *bytes))
            }
            (Some(OpenLayer::Squashfs(content)), None, Some(body)) => {
                Ok(ContentPlace::Bytes(&**content, body.offset))
            }
            (Some(OpenLayer::Cpio(archives)), None, Some(body)) => {
                let mut archives = archives.iter();
                let archive = archives.find(|(offset, _)| *offset == body.segment);
                let (_, spool) = archive.ok_or_else(|| lost("its archive cannot be read"))?;
                let (bytes, offset) = spool.plain()?;
                Ok(ContentPlace::Bytes(
                    bytes,
                    offset.saturating_add(body.offset),
                ))
            }
            _ => Err(lost("its layer cannot be read")),
        }
    }

    /// The bytes of a regular file.
    ///
    /// # Errors
    /// Its layer or archive cannot be read.
    pub fn content<'n>(&'n self, node: &'n Node) -> Result<Box<dyn ReadAt + 'n>> {
        static EMPTY: &[u8] = &[];
        if matches!(node.data, FileData::Missing) {
            let what = "it has metadata only, and no lower layer has its bytes";
            return Err(Error::new("read", "file", what));
        }
        let node = node.with_bytes();
        if node.size() == 0 {
            return Ok(Box::new(EMPTY));
        }
        match (self.place(node)?, &node.inode) {
            (ContentPlace::Image(image, _), Some(inode)) => Ok(Box::new(image.content(inode))),
            (ContentPlace::Image(..), None) => Err(Error::new("read", "file", "it has no inode")),
            (ContentPlace::Bytes(bytes, offset), _) => {
                Ok(Box::new(Part::new(bytes, offset, node.size())))
            }
        }
    }
}

/// Whether two files have the same bytes.
pub fn equal(a: &dyn ReadAt, b: &dyn ReadAt) -> io::Result<bool> {
    const PIECE: u64 = 1 << 18;
    if a.size() != b.size() {
        return Ok(false);
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < a.size() {
        // Skips holes of both.
        at = a.next_data(at).min(b.next_data(at)).max(at);
        let n = a.size().saturating_sub(at).min(PIECE);
        for (bytes, from) in [(&mut left, a), (&mut right, b)] {
            bytes.resize(usize::try_from(n).unwrap_or(0), 0);
            from.read_exact_at(bytes, at)?;
        }
        if left != right {
            return Ok(false);
        }
        at = at.saturating_add(n);
    }
    Ok(true)
}

/// The bytes of each layer.
pub fn layer_parts<'a>(plan: &Plan, sources: &'a [LayerSource<'a>]) -> Vec<LayerPart<'a>> {
    static EMPTY: &[u8] = &[];
    let part = |layer: &Layer| match sources.get(layer.source) {
        Some(source) => Part::new(&**source, layer.offset, layer.length),
        // The plan is made from these sources.
        None => Part::new(&EMPTY as &(dyn ReadAt + Sync), 0, 0),
    };
    plan.layers.iter().map(part).collect()
}

/// How layers are stacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stacking {
    /// Whether to record what layers change in those below them.
    pub changes: bool,
    /// Whether to keep the only layer as it is: with whiteouts and the attributes of overlayfs.
    pub as_is: bool,
}

/// Stacks the layers of a plan. `sources` and `parts` are the bytes of all sources and of each layer. Findings
/// are about the layers' content.
pub fn merge<'a>(
    plan: &'a Plan,
    sources: &'a [LayerSource<'a>],
    parts: &'a [LayerPart<'a>],
    stacking: Stacking,
) -> (Rootfs, Layers<'a>, Findings) {
    let mut rootfs = Rootfs::empty();
    rootfs.changes = stacking.changes.then(Changes::default);
    rootfs.as_is = stacking.as_is;
    // The content of a device is unknown here.
    rootfs.partial = plan.device.is_some();
    let mut findings = Findings::default();
    let mut pieces = Vec::new();
    for ((index, layer), part) in plan.layers.iter().enumerate().zip(parts) {
        rootfs.layer = Some(index);
        let mut piece = OpenLayer::Unread;
        match &layer.content {
            Content::Erofs { superblock, .. } if superblock.unknown_incompat() == 0 => {
                let image = Image::new(part, superblock).and_then(|image| {
                    let gaps = OverImage::put(&mut rootfs, &image, index)?;
                    Ok((image, gaps))
                });
                match image {
                    Ok((image, gaps)) => {
                        piece = OpenLayer::Erofs(Box::new(image), part);
                        report(&gaps, layer, &mut findings);
                    }
                    Err(error) => {
                        findings.error(layer, error.to_string());
                        rootfs.partial = true;
                    }
                }
            }
            Content::Erofs { .. } => rootfs.partial = true,
            Content::Squashfs { superblock, .. } => {
                let content = SquashfsImage::new(part, superblock).and_then(|image| {
                    let mut content = SquashfsContent::new(image);
                    let gaps = OverImage::put_squashfs(&mut rootfs, &mut content, index)?;
                    Ok((content, gaps))
                });
                match content {
                    Ok((content, gaps)) => {
                        piece = OpenLayer::Squashfs(Box::new(content));
                        report(&gaps, layer, &mut findings);
                    }
                    Err(error) => {
                        findings.error(layer, error.to_string());
                        rootfs.partial = true;
                    }
                }
            }
            Content::Cpio { codec, .. } => {
                if let Some(source) = sources.get(layer.source) {
                    let spool = ArchiveSpool::new(&**source, layer.offset, layer.length, *codec);
                    piece = OpenLayer::Cpio(vec![(layer.offset, spool)]);
                    rootfs.put_archive(layer, *codec, &**source, &mut findings);
                }
            }
        }
        pieces.push(piece);
    }
    (rootfs, Layers { pieces }, findings)
}

/// Reports what a kernel may refuse.
fn report(gaps: &Gaps, layer: &Layer, findings: &mut Findings) {
    for (what, is_error) in gaps.clauses() {
        match is_error {
            true => findings.error(layer, what),
            false => findings.warning(layer, what),
        }
    }
}

impl Rootfs {
    fn put_archive(
        &mut self,
        layer: &Layer,
        codec: Option<Codec>,
        source: &dyn ReadAt,
        findings: &mut Findings,
    ) {
        let packed = PackedArchive {
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
}
