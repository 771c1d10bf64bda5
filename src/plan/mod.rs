//! Segments and options to the plan: what is going to be mounted, by what, and what is started.
//!
//! Pure. `/init` makes the plan before it changes anything, `layerinit plan` makes the same one on
//! a host, and both print it with the same `Display`.

pub mod backend;
pub mod device_spec;
pub mod feature;

pub mod cmdline;

pub mod words;

mod device;
mod layers;
mod upper;

mod display;

use crate::error::{Error, Result};
use crate::format::compress::Codec;
use crate::format::erofs::Superblock;
use crate::initrd::Walk;
use backend::Backend;
use cmdline::Options;
pub use device::Device;
pub use layers::segments as layer_segments;
pub use upper::{PersistentUpper, Upper};

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
    /// The directory of the files that are one layer, or several, each.
    pub const LAYERS: &str = "/layers";

    /// Its path in the initramfs.
    pub fn path(&self) -> String {
        match self {
            Self::File(name) => format!("{}/{name}", Self::LAYERS),
            Self::InitrdImage => "/initrd.image".into(),
            Self::Initrd => "/sys/firmware/initrd".into(),
        }
    }
}

/// A source of layers, walked.
#[derive(Debug)]
pub struct Source {
    /// Where it is.
    pub place: Place,
    /// What is in it.
    pub walk: Walk,
}

impl AsRef<Self> for Source {
    fn as_ref(&self) -> &Self {
        self
    }
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
        /// Bytes of memory that it will take, with what the kernel needs for a file.
        memory: u64,
        /// Whether it says what its root directory is like.
        has_root: bool,
    },
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
    /// One tmpfs that all layers are written into, in order (`rd.layers.backend=extract`).
    Extracted {
        /// Options of the tmpfs.
        options: Vec<String>,
        /// Whether it takes writes when it is complete.
        writable: bool,
    },
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
    /// What is odd about the command line but no reason to stop, one sentence each.
    pub cmdline_warnings: Vec<String>,
    /// The same of the sources and layers.
    pub content_warnings: Vec<String>,
    /// Where a source ends in what is not understood, and layers may be missing: to be told whatever
    /// else is not.
    pub unread: Vec<String>,
    /// Why what is written will be lost, where `rd.overlay=` names a device to keep it: to be told
    /// whatever else is not.
    pub lost: Option<String>,
}

impl Plan {
    /// All that is odd but no reason to stop.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.cmdline_warnings.iter().chain(&self.content_warnings)
    }

    /// The devices that are to be mounted.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        let store = match &self.root {
            Root::Overlay(Upper::Device(store)) => Some(&store.device),
            _ => None,
        };
        self.device.iter().chain(store)
    }

    /// All that is to be told whatever else is not.
    pub fn alarms(&self) -> impl Iterator<Item = &String> {
        self.unread.iter().chain(&self.lost)
    }
}

/// Somebody who asks for a stateless system must not find the disk written to without a word.
const VOLATILE: &str = "systemd.volatile=yes: only overlay is understood here; the root device is used as it is, \
                        and what is written to / is written to it";

/// Decides. Sources are in the order of layers: the files of `/layers` in order of their names,
/// then one initrd.
pub fn plan(sources: &[impl AsRef<Source>], options: &Options) -> Result<Plan> {
    let mut cmdline_warnings = options.problems.clone();
    let mut content_warnings = Vec::new();
    let mut unread = Vec::new();
    let mut layers = Vec::new();
    let device = device::root(options, &mut cmdline_warnings);
    // The root device is number 0.
    let first = usize::from(matches!(device, Ok(Some(_))));
    let sources: Vec<&Source> = sources.iter().map(AsRef::as_ref).collect();
    for (index, &source) in sources.iter().enumerate() {
        for segment in layers::segments(source) {
            let number = layers.len().saturating_add(first);
            layers.extend(layers::layer(
                number,
                index,
                &source.place,
                segment,
                options,
            ));
        }
    }
    for source in &sources {
        for segment in &source.walk.segments {
            content_warnings.extend(layers::stopped(&source.place, segment));
        }
        let Some(trouble) = &source.walk.trouble else {
            continue;
        };
        let trouble = match source.place {
            Place::InitrdImage => format!(
                "{trouble} (if the kernel's log says \"incomplete write\", the rootfs had no room for this copy of the \
                 initrd; retain_initrd needs none, from Linux 6.8 on)"
            ),
            Place::Initrd | Place::File(_) => trouble.to_string(),
        };
        if options.strict {
            let what = format!("{trouble} (rd.layers.strict)");
            return Err(Error::new("plan", &source.place, what));
        }
        // Somebody meant there to be layers: starting the initramfs instead would hide it.
        if layers.is_empty() && options.root.is_none() {
            return Err(Error::new("plan", &source.place, trouble));
        }
        unread.push(format!(
            "{}: {trouble}: what follows is not used",
            source.place
        ));
    }
    layers::numbers(&layers, &sources, options, &mut cmdline_warnings);
    layers::select(&mut layers, options, &mut cmdline_warnings)?;
    if let Some(layer) = layers.get(MAX_LAYERS.saturating_sub(first)) {
        let what = format!("more than the {MAX_LAYERS} layers that overlayfs can stack");
        return Err(Error::new("plan", &layer.place, what));
    }
    for layer in &layers {
        layers::doubts(layer, &mut content_warnings);
    }
    let mut device = match device {
        Err(error) if !layers.is_empty() => {
            cmdline_warnings.push(format!("{error}; not used"));
            None
        }
        device => device?,
    };
    let (upper, mut lost) = upper::upper(options)?;
    let over_device = options.overlay_root && upper != Upper::None;
    let root = match (layers.as_slice(), upper) {
        ([], upper) if device.is_none() => {
            let why = "there are neither layers nor root= to lay it over";
            lost = lost.or(upper.unused(why)?);
            Root::Initramfs
        }
        ([], _) if !over_device => Root::Device,
        ([_], Upper::None) if device.is_none() => Root::Layer,
        (_, upper) => Root::Overlay(upper),
    };
    let extracted = options.backends.iter().all(|backend| backend.is_extract());
    let root = match root {
        Root::Overlay(Upper::Tmpfs(options)) if extracted && device.is_none() => Root::Extracted {
            options,
            writable: true,
        },
        Root::Layer | Root::Overlay(Upper::None) if extracted && device.is_none() => {
            Root::Extracted {
                options: Vec::new(),
                writable: false,
            }
        }
        root => root,
    };
    if options.volatile && root == Root::Device {
        cmdline_warnings.push(VOLATILE.into());
    }
    if let Some(device) = &mut device {
        device.writable &= root == Root::Device && !options.overlay_readonly;
    }
    let modules = modules(&layers, &root, options);
    for module in &modules {
        if options
            .driver_blacklist
            .iter()
            .any(|name| name == module.name())
        {
            cmdline_warnings.push(format!(
                "rd.driver.blacklist={}: {}, unless the kernel has it built in",
                module.name(),
                module.purpose()
            ));
        }
    }
    Ok(Plan {
        modules,
        device,
        layers,
        root,
        inits: options.inits(),
        cmdline_warnings,
        content_warnings,
        unread,
        lost,
    })
}

/// The plan where the kernel has stacked the layers itself (the in-kernel integration of the EROFS
/// memback series): what is left is to start the real init.
pub fn assembled(options: &Options) -> Result<Plan> {
    let (upper, lost) = upper::upper(options)?;
    let why = "the kernel has stacked the layers already, under a tmpfs";
    Ok(Plan {
        device: None,
        layers: Vec::new(),
        root: Root::Assembled,
        modules: Vec::new(),
        inits: options.inits(),
        cmdline_warnings: options.problems.clone(),
        content_warnings: Vec::new(),
        unread: Vec::new(),
        lost: lost.or(upper.unused(why)?),
    })
}

fn modules(layers: &[Layer], root: &Root, options: &Options) -> Vec<Module> {
    let mut modules = Vec::new();
    if matches!(root, Root::Extracted { .. }) {
        return modules;
    }
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
    // Where another backend may do, the loop driver is loaded if and when that one fails; but it takes
    // the kernel a while, and where no other will do it is better begun at once.
    let by_loop = |layer: &Layer| match (backends(layer).flatten(), &layer.place) {
        (None, _) => false,
        (Some(Backend::Loop), _) => true,
        // A kernel with memback keeps the initrd without being told to.
        (Some(Backend::Memback), Place::Initrd) => options.retain_initrd,
        // A mount of a regular file is refused on a tmpfs.
        (Some(Backend::File), Place::File(_)) => options.rootfs_is_tmpfs(),
        _ => false,
    };
    if layers.iter().any(by_loop) && options.backends.contains(&Backend::Loop) {
        modules.push(Module::Loop);
    }
    modules
}
