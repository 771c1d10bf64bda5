//! Layers of an image being built: as the command line names them, and ready to be appended.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::bytes::{Opened, ReadAt};
use crate::error::{Error, Result};
use crate::format::compress::Codec;
use crate::format::erofs::Superblock;
use crate::format::squashfs::SquashfsSuperblock;
use crate::initrd::{self, Kind, Segment};
use crate::tool::progress;

/// The format of the layer that is made from a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerFormat {
    /// An EROFS image.
    Erofs,
    /// A cpio archive, compressed or not.
    Cpio(Option<Codec>),
}

impl LayerFormat {
    /// Every format: those of archives are the codecs that this build has.
    pub fn all() -> impl Iterator<Item = Self> {
        let codecs = Codec::ALL.iter().filter(|codec| codec.supported());
        let compressed = codecs.map(|codec| Self::Cpio(Some(*codec)));
        [Self::Erofs, Self::Cpio(None)]
            .into_iter()
            .chain(compressed)
    }

    /// The name on the command line, which is also the suffix of a file in /layers, without a dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Cpio(None) => "cpio",
            Self::Cpio(Some(codec)) => codec.archive_suffix(),
        }
    }
}

/// A layer as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInput {
    /// A directory, or a file that holds layers.
    pub path: PathBuf,
    /// The format to make from a directory; `None`: EROFS.
    pub format: Option<LayerFormat>,
    /// The volume label of an EROFS image made from a directory; `None`: the name of the directory.
    pub label: Option<String>,
}

/// A layer that is ready to be appended.
#[derive(Debug)]
pub struct PreparedLayer {
    /// The bytes, from the start of the file to its end.
    pub file: File,
    /// The length of the file, in bytes.
    pub length: u64,
    /// Offset and length of its last EROFS image, in bytes.
    pub last_image: Option<(u64, u64)>,
    /// Whether it starts with an EROFS or SquashFS image, at which the kernel's unpacker stops.
    pub starts_with_image: bool,
    /// The path on the command line, for messages.
    pub path: PathBuf,
    /// A path that opens the file, as long as `file` is open.
    pub location: PathBuf,
    /// The name of the file in /layers, without the number in front.
    pub name: OsString,
    /// A warning about what the layer cannot hold.
    pub warning: Option<String>,
    /// A line about the origin of the layer, or its cost.
    pub note: Option<String>,
}

/// A layer from a file. `path` is for messages.
///
/// # Errors
/// The file holds anything besides EROFS and SquashFS images and cpio archives, or none of these, or an EROFS
/// image with data on other devices.
pub fn from_file(opened: Opened, path: &Path) -> Result<PreparedLayer> {
    let refuse = |what: &str| Err(Error::new("read", path.display(), what));
    let walk = initrd::walk(&opened, b"");
    if let Some(trouble) = walk.trouble {
        return refuse(&format!(
            "neither a directory, an EROFS image nor a cpio archive ({trouble})"
        ));
    }
    let mut layers = 0usize;
    let mut last_image = None;
    for segment in &walk.segments {
        match &segment.kind {
            Kind::Padding | Kind::Stop => {}
            Kind::Erofs(superblock) => {
                check_devices(superblock, path)?;
                layers = layers.saturating_add(1);
                last_image = Some((segment.offset, segment.length));
            }
            Kind::Squashfs(_) | Kind::Cpio(_) => layers = layers.saturating_add(1),
            Kind::Bootconfig { .. } => {
                return refuse(
                    "it ends with a bootconfig, which only works at the end of the whole image",
                );
            }
        }
    }
    if layers == 0 {
        return refuse(match opened.size() {
            0 => "it is empty, no layer",
            _ => "it holds only zeros, no layer",
        });
    }
    Ok(PreparedLayer {
        length: opened.size(),
        file: opened.file,
        last_image,
        starts_with_image: starts_with_image(&walk.segments),
        path: path.into(),
        location: path.into(),
        name: path.file_name().unwrap_or(OsStr::new("layer")).into(),
        warning: None,
        note: None,
    })
}

/// Whether a file begins with a SquashFS image. A file that cannot be read is reported when the layer is prepared.
pub fn is_squashfs(path: &Path) -> bool {
    let superblock = Opened::open(path).map(|file| SquashfsSuperblock::read(&file, 0));
    matches!(superblock, Ok(Ok(Some(_))))
}

impl PreparedLayer {
    /// Adds the layer, which is ready, to those before it, and shows its line.
    pub fn add_to(self, layers: &mut Vec<Self>) {
        let (number, path) = (layers.len(), self.path.display());
        progress::layer_ready(format_args!("layer {number}, {path}"), self.length);
        layers.push(self);
    }

    /// Whether `name` is the file name of this layer, with or without extensions.
    pub fn is(&self, name: &str) -> bool {
        let file = self.name.to_string_lossy();
        let mut stems = file.match_indices('.').map(|(dot, _)| file.get(..dot));
        *file == *name || stems.any(|stem| stem == Some(name))
    }
}

fn starts_with_image(segments: &[Segment]) -> bool {
    let mut segments = segments.iter();
    let first = segments.find(|segment| !matches!(segment.kind, Kind::Padding));
    first.is_some_and(|segment| matches!(segment.kind, Kind::Erofs(_) | Kind::Squashfs(_)))
}

/// Refuses an image with data on other devices: no backend can mount it.
pub fn check_devices(superblock: &Superblock, path: &Path) -> Result<()> {
    match superblock.in_pieces() {
        None => Ok(()),
        Some(what) => Err(Error::new("read", path.display(), what)),
    }
}
