//! Segments to layers: which segments are layers, which backends can mount them, and which layers are left out.

use super::cmdline::Options;
use super::{Content, Layer, MediumFile, Module, Place, Source, Storage};
use crate::error::{Error, Result};
use crate::initrd::{Cpio, Kind, Segment};

/// The segments of a source that are layers: all except the loader, padding, the bootconfig, and archives for
/// the kernel itself (microcode, ACPI tables).
pub fn segments(source: &Source) -> impl Iterator<Item = &Segment> {
    source
        .walk
        .segments
        .iter()
        .skip(loader_length(source))
        .filter(|segment| match &segment.kind {
            Kind::Padding | Kind::Stop | Kind::Bootconfig { .. } => false,
            Kind::Erofs(_) | Kind::Squashfs(_) => true,
            Kind::Cpio(Cpio { members: 0, .. }) => false,
            // Files that the kernel unpacked to /layers are separate sources.
            Kind::Cpio(cpio) => {
                let by_kernel = source.place.is_initrd() && cpio.by_kernel;
                !(by_kernel && (cpio.only_early || cpio.only_layer_files))
            }
        })
}

/// The number of segments of a source that are the loader. It ends with the archive that holds the running
/// `/init`. If several archives hold one, the kernel's unpacker keeps the last.
pub fn loader_length(source: &Source) -> usize {
    let is_loader = |segment: &Segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.by_kernel && cpio.holds_init);
    match source.place.is_initrd() {
        false => 0,
        true => {
            let last = source.walk.segments.iter().rposition(is_loader);
            last.map_or(0, |last| last.saturating_add(1))
        }
    }
}

/// The layers of all sources, numbered from `first`.
pub fn collect(sources: &[&Source], options: &Options, first: usize) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        for segment in segments(source) {
            let number = layers.len().saturating_add(first);
            layers.extend(layer(number, index, &source.place, segment, options));
        }
    }
    layers
}

/// The layer in a segment; `None` for padding and a bootconfig.
fn layer(
    number: usize,
    source: usize,
    place: &Place,
    segment: &Segment,
    options: &Options,
) -> Option<Layer> {
    let content = match &segment.kind {
        Kind::Erofs(superblock) => Content::Erofs {
            superblock: superblock.clone(),
            backends: options
                .backends
                .iter()
                .copied()
                .filter(|backend| backend.can_mount(place, segment.offset, superblock))
                .collect(),
        },
        Kind::Squashfs(superblock) => Content::Squashfs {
            superblock: superblock.clone(),
            backends: options
                .backends
                .iter()
                .copied()
                .filter(|backend| backend.can_mount_squashfs())
                .collect(),
        },
        Kind::Cpio(cpio) => Content::Cpio {
            codec: cpio.codec,
            unpacked: cpio.unpacked,
            inodes: cpio.inodes(true),
            has_root: cpio.has_root,
        },
        Kind::Padding | Kind::Stop | Kind::Bootconfig { .. } => return None,
    };
    let name = match (place, segment.offset) {
        (Place::File(name), 0) => name.clone(),
        (Place::Medium(file), 0) => file.file_name().into(),
        (place, offset) => format!("{place}+{offset:#x}"),
    };
    Some(Layer {
        number,
        name,
        place: place.clone(),
        source,
        offset: segment.offset,
        length: segment.length,
        content,
    })
}

/// Warns of numbers in `rd.layers.only=` and `rd.layers.skip=` if systemd-stub has added layers: their count
/// can change from boot to boot, and the numbers of layers with it.
pub(super) fn warn_of_numbers(
    layers: &[Layer],
    sources: &[&Source],
    options: &Options,
    warnings: &mut Vec<String>,
) {
    let added = |layer: &&Layer| {
        let source = sources.get(layer.source);
        let mut segments = source.into_iter().flat_map(|source| &source.walk.segments);
        let segment = segments.find(|segment| segment.offset == layer.offset);
        segment.is_some_and(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.only_extra))
    };
    let Some(added) = layers.iter().find(added) else {
        return;
    };
    for (word, list) in [("only", &options.only), ("skip", &options.skip)] {
        if let Some(number) = list.iter().find(|item| item.parse::<usize>().is_ok()) {
            warnings.push(format!(
                "rd.layers.{word}={number}: {added} is an archive that systemd-stub has added, and the numbers of \
                 layers change with these: name layers by volume label"
            ));
        }
    }
}

/// Applies `rd.layers.only=` and `rd.layers.skip=`.
pub(super) fn select(
    layers: &mut Vec<Layer>,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let total = layers.len();
    for (word, list) in [("only", &options.only), ("skip", &options.skip)] {
        for item in list {
            if !layers.iter().any(|layer| layer.is(item)) {
                warnings.push(format!("rd.layers.{word}={item}: there is no such layer"));
            }
        }
    }
    layers.retain(|layer| {
        let named = |list: &[String]| list.iter().any(|item| layer.is(item));
        (options.only.is_empty() || named(&options.only)) && !named(&options.skip)
    });
    if layers.is_empty() && total > 0 {
        let what = format!("none of the {total} layers is left to boot from");
        return Err(Error::new(
            "plan",
            "rd.layers.only= and rd.layers.skip=",
            what,
        ));
    }
    Ok(())
}

/// Warnings about a layer that may still work.
pub(super) fn warnings(layer: &Layer) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Content::Erofs { superblock, .. } = &layer.content {
        let unknown = superblock.unknown_incompat();
        if unknown != 0 {
            warnings.push(format!(
                "{layer}: features {unknown:#x} are newer than this program knows"
            ));
        }
        let pieces = superblock.in_pieces();
        warnings.extend(pieces.map(|what| format!("{layer}: {what}")));
    }
    warnings
}

impl MediumFile {
    /// The last component of its path; for a device, its name.
    fn file_name(&self) -> &str {
        let path = match self.storage {
            Storage::Filesystem | Storage::Initramfs => &self.path,
            // The path is that of a device.
            Storage::Verity => &self.name,
            Storage::Device => return &self.name,
        };
        match path.rsplit_once('/') {
            Some((_, name)) => name,
            None => &self.name,
        }
    }
}

impl Layer {
    /// Why no backend of `rd.layers.backend=` can mount it; `None` if one can.
    pub fn unreachable(&self) -> Option<String> {
        match self.content.image() {
            Some((Module::Squashfs, [])) => Some(
                "a SquashFS image needs the backend loop, which rd.layers.backend= leaves out"
                    .into(),
            ),
            Some((_, [])) => {
                let place = self.place.path();
                Some(format!(
                    "rd.layers.backend= names none that can reach {place}"
                ))
            }
            _ => None,
        }
    }

    /// Whether an item of `rd.layers.only=` or `rd.layers.skip=` names this layer: by number, by file name with
    /// or without extension, or by volume label.
    pub fn is(&self, word: &str) -> bool {
        let label = match &self.content {
            Content::Erofs { superblock, .. } => superblock.label(),
            Content::Squashfs { .. } | Content::Cpio { .. } => String::new(),
        };
        let stem = self.name.rsplit_once('.').map(|(stem, _)| stem);
        word == self.number.to_string() || word == self.name || Some(word) == stem || word == label
    }
}

/// Warnings about archives at which the kernel's unpacker stopped.
pub(super) fn unpacker_warnings(sources: &[&Source]) -> Vec<String> {
    let mut warnings = Vec::new();
    for source in sources {
        for segment in &source.walk.segments {
            // The kernel does not read other files; /init refuses to unpack damaged ones.
            if !source.place.is_initrd() && matches!(segment.kind, Kind::Cpio(_)) {
                continue;
            }
            let what = segment.stopped();
            warnings
                .extend(what.map(|what| format!("{}+{:#x}: {what}", source.place, segment.offset)));
        }
    }
    warnings
}
