//! Segments and options to the plan: what is going to be mounted, by what, and what is started.
//!
//! Pure. `/init` makes the plan before it changes anything, `layerinit plan` makes the same one on
//! a host, and both print it with the same `Display`.

mod print;

use crate::cmdline::{Backend, Options, Upper};
use crate::compress::Codec;
use crate::erofs::Superblock;
use crate::error::{Error, Result};
use crate::rootspec::Spec;
use crate::segment::{Cpio, Kind, Segment, Walk};

/// overlayfs' own limit (OVL_MAX_STACK in fs/overlayfs/params.h).
pub const MAX_LAYERS: usize = 500;

/// Where a source of layers is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file of `/layers` in the rootfs, by name.
    File(String),
    /// `/initrd.image`: the kernel's copy of the whole initrd in the rootfs.
    InitrdImage,
    /// `/sys/firmware/initrd`: the initrd in the memory where the boot loader put it.
    Initrd,
}

impl Place {
    /// Its path in the initramfs.
    pub fn path(&self) -> String {
        match self {
            Self::File(name) => format!("/layers/{name}"),
            Self::InitrdImage => "/initrd.image".into(),
            Self::Initrd => "/sys/firmware/initrd".into(),
        }
    }
}

/// One source of layers, walked.
#[derive(Debug)]
pub struct Found {
    /// Where it is.
    pub place: Place,
    /// What is in it.
    pub walk: Walk,
}

/// One layer of the new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its place among all layers that there are, 0 the lowest; stays the same when others are
    /// left out, and names its mount point in `/run/initramfs/layers`.
    pub number: usize,
    /// Its name in messages: where it comes from.
    pub name: String,
    /// Where its source is.
    pub place: Place,
    /// Index of its source in the list given to [`plan`].
    pub source: usize,
    /// Where it starts in the source, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What is mounted.
    pub content: Content,
}

/// What a layer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An EROFS image, and who can mount it from its source, the first to be tried first.
    Erofs {
        /// Its superblock.
        superblock: Superblock,
        /// The backends that can reach it.
        backends: Vec<Backend>,
    },
    /// A cpio archive, to be unpacked into a tmpfs.
    Cpio {
        /// How it is compressed.
        codec: Option<Codec>,
        /// Bytes that its files will take, in whole pages.
        unpacked: u64,
        /// Whether it says what its root directory is like.
        has_root: bool,
    },
}

/// The root device: what `root=` and its companions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which device.
    pub spec: Spec,
    /// `rootfstype=`: types to try, in order; empty: whatever is on it.
    pub types: Vec<String>,
    /// `rootflags=`: mount options.
    pub flags: Vec<String>,
    /// Whether it is mounted for writing: `rw`, and it is the root itself rather than a layer.
    pub writable: bool,
}

/// What becomes `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// The initramfs itself: there is nothing to mount over it.
    Initramfs,
    /// The root device itself.
    Device,
    /// What the kernel has assembled before it started this program.
    Assembled,
    /// The one layer that there is, read-only.
    Layer,
    /// An overlay of all layers, the root device below them if there is one.
    Overlay(Upper),
}

/// A kernel module, should the kernel turn out to need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// The EROFS filesystem.
    Erofs,
    /// overlayfs.
    Overlay,
    /// The loop device.
    Loop,
}

impl Module {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Overlay => "overlay",
            Self::Loop => "loop",
        }
    }

    /// What cannot be done without it.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Erofs => "no EROFS layer can be mounted",
            Self::Overlay => "the layers cannot be stacked",
            Self::Loop => "the loop backend cannot be used",
        }
    }
}

/// Everything that is going to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The root device. Where it is not the root itself, it is the lowest layer, number 0.
    pub device: Option<Device>,
    /// The layers of the initrd, lowest first.
    pub layers: Vec<Layer>,
    /// What they become.
    pub root: Root,
    /// What the kernel must be able to do; loaded where it is not.
    pub modules: Vec<Module>,
    /// The real init: the first of these that exists is started. With `init=`, that one only.
    pub inits: Vec<String>,
    /// What is odd but no reason to stop, one sentence each.
    pub warnings: Vec<String>,
}

/// Decides. Sources are in the order of layers: the files of `/layers` in order of their names,
/// then one initrd.
pub fn plan(sources: &[Found], options: &Options) -> Result<Plan> {
    let mut warnings = options.problems.clone();
    let mut layers = Vec::new();
    let device = root_device(options, &mut warnings);
    // The root device is number 0.
    let first = usize::from(matches!(device, Ok(Some(_))));
    for (index, found) in sources.iter().enumerate() {
        for segment in layer_segments(found) {
            let number = layers.len().saturating_add(first);
            if number == MAX_LAYERS {
                let what = format!("more than the {MAX_LAYERS} layers that overlayfs can stack");
                return Err(Error::new("plan", &found.place, what));
            }
            layers.extend(layer(number, index, &found.place, segment, options));
        }
    }
    for found in sources {
        let Some(trouble) = &found.walk.trouble else {
            continue;
        };
        if options.strict {
            return Err(Error::new(
                "plan",
                &found.place,
                format!("{trouble} (rd.layers.strict)"),
            ));
        }
        // Somebody meant there to be layers: starting the initramfs instead would hide it.
        if layers.is_empty() && options.root.is_none() {
            return Err(Error::new("plan", &found.place, trouble.to_string()));
        }
        warnings.push(format!(
            "{}: {trouble}: what follows is not used",
            found.place
        ));
    }
    select(&mut layers, options, &mut warnings)?;
    for layer in &layers {
        doubts(layer, &mut warnings);
    }
    let mut device = match device {
        Err(error) if !layers.is_empty() => {
            warnings.push(format!("{error}; not used"));
            None
        }
        device => device?,
    };
    let over_device = options.overlay_root && options.upper != Upper::None;
    let root = match (layers.as_slice(), &options.upper) {
        ([], _) if device.is_none() => Root::Initramfs,
        ([], _) if !over_device => Root::Device,
        ([_], Upper::None) if device.is_none() => Root::Layer,
        (_, upper) => Root::Overlay(upper.clone()),
    };
    if let Some(device) = &mut device {
        device.writable &= root == Root::Device && options.upper != Upper::None;
    }
    Ok(Plan {
        modules: modules(&layers, &root),
        device,
        layers,
        root,
        inits: options.inits(),
        warnings,
    })
}

/// What `root=` asks for.
fn root_device(options: &Options, warnings: &mut Vec<String>) -> Result<Option<Device>> {
    let Some(text) = &options.root else {
        return Ok(None);
    };
    let list = |list: &Option<String>| -> Vec<String> {
        let items = list.iter().flat_map(|list| list.split(','));
        items
            .filter(|item| !item.is_empty())
            .map(Into::into)
            .collect()
    };
    let spec = Spec::parse(text)?;
    if spec.is_ramdisk() {
        // The way in which boot loaders have named the initrd since before there was an initramfs.
        warnings.push(format!(
            "root={text}: the initrd is not copied into a ramdisk; its layers are used"
        ));
        return Ok(None);
    }
    Ok(Some(Device {
        spec,
        types: list(&options.rootfstype),
        flags: list(&options.rootflags),
        writable: options.root_writable,
    }))
}

/// The plan where the kernel has stacked the layers itself (the in-kernel integration of the EROFS
/// memback series): what is left is to start the real init.
pub fn assembled(options: &Options) -> Plan {
    Plan {
        device: None,
        layers: Vec::new(),
        root: Root::Assembled,
        modules: Vec::new(),
        inits: options.inits(),
        warnings: options.problems.clone(),
    }
}

/// The segments of a source that hold layers: what is no loader, no padding, and not meant for
/// the kernel itself.
fn layer_segments(found: &Found) -> impl Iterator<Item = &Segment> {
    let segments = &found.walk.segments;
    // The loader ends with the archive that holds the running /init: where several do, the
    // kernel's unpacker let the last one win.
    let loader = match found.place {
        Place::File(_) => 0,
        _ => segments
            .iter()
            .rposition(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.by_kernel && cpio.holds_init))
            .map_or(0, |last| last.saturating_add(1)),
    };
    segments
        .iter()
        .skip(loader)
        .filter(|segment| match &segment.kind {
            Kind::Padding | Kind::Bootconfig { .. } => false,
            Kind::Erofs(_) => true,
            Kind::Cpio(Cpio { members: 0, .. }) => false,
            // Files of /layers that the kernel has unpacked are sources of their own.
            Kind::Cpio(cpio) => match found.place {
                Place::File(_) => true,
                _ => !(cpio.by_kernel && (cpio.only_early || cpio.only_layer_files)),
            },
        })
}

/// The layer that a segment is; padding and trailers are none.
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
                .filter(|backend| reaches(*backend, place, segment.offset, superblock))
                .collect(),
        },
        Kind::Cpio(cpio) => Content::Cpio {
            codec: cpio.codec,
            unpacked: cpio.unpacked,
            has_root: cpio.has_root,
        },
        Kind::Padding | Kind::Bootconfig { .. } => return None,
    };
    let name = match (place, segment.offset) {
        (Place::File(name), 0) => name.clone(),
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

/// Whether a backend can mount an image that lies there at all.
fn reaches(backend: Backend, place: &Place, offset: u64, superblock: &Superblock) -> bool {
    match backend {
        Backend::Loop => true,
        Backend::Memback => *place == Place::Initrd,
        // A file of sysfs gives out a page at a time, which EROFS takes for an I/O error; and
        // fsoffset= counts in whole blocks (fs/erofs/super.c).
        Backend::File => *place != Place::Initrd && offset.is_multiple_of(superblock.block_size()),
    }
}

/// Leaves out what `rd.layers.only=` and `rd.layers.skip=` say.
fn select(layers: &mut Vec<Layer>, options: &Options, warnings: &mut Vec<String>) -> Result<()> {
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

/// Says what is odd about a layer that may still work.
fn doubts(layer: &Layer, warnings: &mut Vec<String>) {
    if let Content::Erofs { superblock, .. } = &layer.content {
        let unknown = superblock.unknown_incompat();
        if unknown != 0 {
            warnings.push(format!(
                "{layer}: features {unknown:#x} are newer than this program knows"
            ));
        }
        if superblock.extra_devices != 0 {
            let devices = superblock.extra_devices;
            warnings.push(format!(
                "{layer}: needs {devices} more devices; only images of one piece can be mounted"
            ));
        }
    }
}

fn modules(layers: &[Layer], root: &Root) -> Vec<Module> {
    let mut modules = Vec::new();
    let backends = |layer: &Layer| match &layer.content {
        Content::Erofs { backends, .. } => Some(backends.first().copied()),
        Content::Cpio { .. } => None,
    };
    if layers.iter().any(|layer| backends(layer).is_some()) {
        modules.push(Module::Erofs);
    }
    if matches!(root, Root::Overlay(_)) {
        modules.push(Module::Overlay);
    }
    // Where another backend comes first the loop driver is loaded if and when that one fails.
    if layers
        .iter()
        .any(|layer| backends(layer) == Some(Some(Backend::Loop)))
    {
        modules.push(Module::Loop);
    }
    modules
}

impl Layer {
    /// Whether a word of `rd.layers.only=` or `rd.layers.skip=` means this layer: its number, its
    /// name with or without the ending, or its volume label.
    pub fn is(&self, word: &str) -> bool {
        let label = match &self.content {
            Content::Erofs { superblock, .. } => superblock.label(),
            Content::Cpio { .. } => String::new(),
        };
        let stem = self.name.rsplit_once('.').map(|(stem, _)| stem);
        word == self.number.to_string() || word == self.name || Some(word) == stem || word == label
    }
}
