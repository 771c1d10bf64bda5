//! The plan: which layers are mounted, which backends may mount them, what becomes `/`, and which init starts.
//!
//! Pure: segments and options in, a [`Plan`] out. `/init` makes the plan before it mounts a layer or loads a
//! module for one, `layerinit plan` makes the same plan on a host, and both print it with the same `Display`.

mod module;
mod place;

pub mod backend;
pub mod device_spec;
pub mod feature;
pub mod loader_files;

pub mod cmdline;

pub mod verity;
pub mod words;

mod device;
pub mod identity;
mod layers;
mod upper;

pub mod medium;

mod display;

use crate::error::{Error, Result};
use crate::format::compress::Codec;
use crate::format::erofs::Superblock;
use crate::format::squashfs::SquashfsSuperblock;
use crate::initrd::Walk;
use crate::initrd::file_pages::FilePages;
use backend::Backend;
use cmdline::Options;
pub use device::MountSpec;
pub use layers::{collect as collect_layers, loader_length, segments as layer_segments};
pub use medium::Medium;
pub use module::Module;
pub use place::{MediumFile, Place, Storage};
use upper::Writes;
pub use upper::{KeptDirectories, PersistentUpper, Upper, upper_device};

/// The number of layers that overlayfs can stack (OVL_MAX_STACK in fs/overlayfs/params.h).
pub const MAX_LAYERS: usize = 500;

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
    /// Position among all layers of the initrd, 0 for the lowest. `rd.layers.only=` and `rd.layers.skip=` do
    /// not change it. Also the name of the mount point in `/run/initramfs/layers`.
    pub number: usize,
    /// Name in messages: the file name, or source and offset.
    pub name: String,
    /// Where the source is.
    pub place: Place,
    /// Index of the source in the slice passed to [`plan`].
    pub source: usize,
    /// Offset in the source, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// What the layer is.
    pub content: Content,
}

/// What a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An EROFS image.
    Erofs {
        /// The superblock of the image.
        superblock: Superblock,
        /// The backends that can mount it from its source, in the order to try them.
        backends: Vec<Backend>,
    },
    /// A SquashFS image.
    Squashfs {
        /// The superblock of the image.
        superblock: SquashfsSuperblock,
        /// The backends that can mount it, in the order to try them.
        backends: Vec<Backend>,
    },
    /// A cpio archive, which is unpacked into a tmpfs.
    Cpio {
        /// The compression; `None` for a plain archive.
        codec: Option<Codec>,
        /// The content of its files.
        unpacked: FilePages,
        /// Bytes of memory for the inodes and names of the unpacked archive.
        inodes: u64,
        /// Whether it has an entry for its root directory (`.`).
        has_root: bool,
    },
}

impl Content {
    /// Of an image: the module of its filesystem, and the backends that can mount it, in the order to try them.
    pub fn image(&self) -> Option<(Module, &[Backend])> {
        match self {
            Self::Erofs { backends, .. } => Some((Module::Erofs, backends)),
            Self::Squashfs { backends, .. } => Some((Module::Squashfs, backends)),
            Self::Cpio { .. } => None,
        }
    }
}

/// What becomes `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// The initramfs itself: there are neither layers nor a root device.
    Initramfs,
    /// The root device itself.
    Device,
    /// The stack that the kernel mounted before it started this program.
    Assembled,
    /// The only layer, or the root device without layers, read-only.
    Layer,
    /// An overlay of all layers, with the root device as the lowest if there is one.
    Overlay(Upper),
    /// One tmpfs that all layers are written into, in order (`rd.layers.backend=extract`).
    Extracted {
        /// Options of the tmpfs.
        options: Vec<String>,
        /// Whether it is writable once it is complete.
        writable: bool,
    },
}

/// What `/init` is going to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The root device. Unless it is the root itself, it is the lowest layer, number 0.
    pub device: Option<MountSpec>,
    /// What `rd.layers.from=` names.
    pub media: Vec<Medium>,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// What becomes `/`.
    pub root: Root,
    /// Directories whose writes a device keeps, while [`root`](Self::root) says where other writes go.
    pub kept: Option<KeptDirectories>,
    /// The kernel modules to load early unless they are built in. Others are loaded when a mount needs them.
    pub modules: Vec<Module>,
    /// Candidates for the real init: the first that exists is started. With `init=`, that one only.
    pub inits: Vec<String>,
    /// Warnings about the command line, one sentence each.
    pub cmdline_warnings: Vec<String>,
    /// Warnings about sources and layers, one sentence each.
    pub content_warnings: Vec<String>,
    /// One sentence for each source that was not read to its end: layers may be missing. Logged even with
    /// `quiet`.
    pub unread: Vec<String>,
    /// Why writes are lost although `rd.overlay=` names a device to keep them. Logged even with `quiet`.
    pub lost: Option<String>,
}

impl Plan {
    /// The warnings that `quiet` silences.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.cmdline_warnings.iter().chain(&self.content_warnings)
    }

    /// Whether `/init` may extract every image, where the kernel cannot mount them.
    pub fn may_extract_layers(&self) -> bool {
        self.layers.iter().all(|layer| match layer.content.image() {
            Some((_, backends)) => backends.iter().any(|backend| backend.is_extract()),
            None => true,
        })
    }

    /// Whether `/init` may write all layers into one tmpfs, where the kernel lacks overlayfs. A root device
    /// cannot be extracted, and writes to a device need the overlay.
    pub fn may_extract_all(&self) -> bool {
        let upper = matches!(self.root, Root::Overlay(Upper::Tmpfs(_) | Upper::None));
        let upper = upper && self.kept.is_none();
        cfg!(feature = "extract") && upper && self.device.is_none() && self.may_extract_layers()
    }

    /// The devices to mount, in order.
    pub fn devices(&self) -> impl Iterator<Item = &MountSpec> {
        let media = self
            .media
            .iter()
            .filter_map(|medium| medium.device.as_ref());
        let store = self.store().map(|store| &store.device);
        media.chain(&self.device).chain(store)
    }

    /// The directory on a device that keeps writes.
    pub fn store(&self) -> Option<&PersistentUpper> {
        match (&self.root, &self.kept) {
            (Root::Overlay(Upper::Device(store)), _) => Some(store),
            (_, Some(kept)) => Some(&kept.store),
            _ => None,
        }
    }

    /// The warnings that are logged even with `quiet`.
    pub fn urgent_warnings(&self) -> impl Iterator<Item = &String> {
        self.unread.iter().chain(&self.lost)
    }
}

/// Without this warning, someone who expects a stateless system would find the disk changed.
const VOLATILE: &str = "systemd.volatile=yes: /init supports only overlay; the root device is used as it is, \
                        and writes to / go to it";

/// Makes the plan. `sources` are in the order of layers: those of `rd.layers.from=`, the files of `/layers` by name,
/// then the initrd.
///
/// # Errors
///
/// `root=` or `rd.overlay=` cannot be understood and nothing can replace them, a source is damaged and
/// `rd.layers.strict` is set or there are no other layers, `rd.layers.only=` and `rd.layers.skip=` leave no
/// layer, or there are more than [`MAX_LAYERS`].
pub fn plan(sources: &[impl AsRef<Source>], options: &Options) -> Result<Plan> {
    let sources: Vec<&Source> = sources.iter().map(AsRef::as_ref).collect();
    let mut cmdline_warnings = options.problems.clone();
    let device = device::root(options, &mut cmdline_warnings);
    // The root device is number 0.
    let first = usize::from(matches!(device, Ok(Some(_))));
    let mut layers = layers::collect(&sources, options, first);
    let unread = unread(&sources, options, layers.is_empty())?;
    layers::warn_of_numbers(&layers, &sources, options, &mut cmdline_warnings);
    layers::select(&mut layers, options, &mut cmdline_warnings)?;
    if let Some(layer) = layers.get(MAX_LAYERS.saturating_sub(first)) {
        let what = format!("more than the {MAX_LAYERS} layers that overlayfs can stack");
        return Err(Error::new("plan", &layer.place, what));
    }
    let mut content_warnings = layers::unpacker_warnings(&sources);
    content_warnings.extend(layers.iter().flat_map(layers::warnings));
    let mut device = match device {
        Err(error) if !layers.is_empty() => {
            cmdline_warnings.push(format!("{error}; not used"));
            None
        }
        device => device?,
    };
    let writes = upper::writes(options)?;
    cmdline_warnings.extend_from_slice(&writes.warnings);
    let (root, kept, lost) = root(&layers, device.is_some(), writes, options)?;
    if options.volatile && root == Root::Device {
        cmdline_warnings.push(VOLATILE.into());
    }
    if let Some(device) = &mut device {
        device.writable &= root == Root::Device && !options.overlay_readonly;
    }
    let modules = modules(&layers, &root, kept.is_some(), options);
    cmdline_warnings.extend(blacklisted(&modules, options));
    Ok(Plan {
        modules,
        device,
        media: medium::media(options)?,
        layers,
        root,
        kept,
        inits: options.inits(),
        cmdline_warnings,
        content_warnings,
        unread,
        lost,
    })
}

/// A warning for each source that was not read to its end.
fn unread(sources: &[&Source], options: &Options, no_layers: bool) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for source in sources {
        let Some(trouble) = &source.walk.trouble else {
            continue;
        };
        let trouble = match source.place {
            Place::InitrdImage => format!(
                "{trouble} (if the kernel's log says \"incomplete write\", the rootfs had no room for this copy of the \
                 initrd; from Linux 6.8 on, retain_initrd needs no copy)"
            ),
            Place::Initrd | Place::File(_) | Place::Medium(_) => trouble.to_string(),
        };
        if options.strict {
            let what = format!("{trouble} (rd.layers.strict)");
            return Err(Error::new("plan", &source.place, what));
        }
        // The damaged part was meant to hold layers: starting the initramfs instead would hide that.
        if no_layers && options.root.is_none() {
            return Err(Error::new("plan", &source.place, trouble));
        }
        warnings.push(format!(
            "{}: {trouble}: what follows is not used",
            source.place
        ));
    }
    Ok(warnings)
}

/// What becomes `/`, [`Plan::kept`] and [`Plan::lost`].
fn root(
    layers: &[Layer],
    has_device: bool,
    writes: Writes,
    options: &Options,
) -> Result<(Root, Option<KeptDirectories>, Option<String>)> {
    if layers.is_empty() && !has_device {
        let lost = writes.unused("there are neither layers nor root=")?;
        return Ok((Root::Initramfs, None, lost));
    }
    let Writes {
        upper, kept, lost, ..
    } = writes;
    let over_device = options.overlay_root && upper != Upper::None;
    let root = match (layers, upper) {
        ([], Upper::None) if kept.is_some() => Root::Layer,
        ([], _) if !over_device => Root::Device,
        ([_], Upper::None) if !has_device => Root::Layer,
        (_, upper) => Root::Overlay(upper),
    };
    let extracted = kept.is_none()
        && !has_device
        && options.backends.iter().all(|backend| backend.is_extract());
    let root = match root {
        Root::Overlay(Upper::Tmpfs(options)) if extracted => Root::Extracted {
            options,
            writable: true,
        },
        Root::Layer | Root::Overlay(Upper::None) if extracted => Root::Extracted {
            options: Vec::new(),
            writable: false,
        },
        root => root,
    };
    Ok((root, kept, lost))
}

/// Warnings for modules of the plan that `rd.driver.blacklist=` forbids.
fn blacklisted<'a>(
    modules: &'a [Module],
    options: &'a Options,
) -> impl Iterator<Item = String> + 'a {
    let blacklist = &options.driver_blacklist;
    let forbidden = |module: &&Module| blacklist.iter().any(|name| name == module.name());
    modules.iter().filter(forbidden).map(|module| {
        let (name, purpose) = (module.name(), module.purpose());
        format!("rd.driver.blacklist={name}: {purpose}, unless the kernel has it built in")
    })
}

/// The plan for a kernel that has stacked the layers itself (the in-kernel integration of the EROFS
/// memback series): it only starts the real init.
///
/// # Errors
///
/// `rd.overlay=` names a device for the writes, and no fallback.
pub fn assembled(options: &Options) -> Result<Plan> {
    let writes = upper::writes(options)?;
    let mut cmdline_warnings = options.problems.clone();
    cmdline_warnings.extend_from_slice(&writes.warnings);
    let why = "the kernel has already stacked the layers, under a tmpfs";
    let mut cmdline_warnings = options.problems.clone();
    let unused = options.from.iter();
    cmdline_warnings.extend(unused.map(|text| format!("{}={text}: not used: {why}", medium::WORD)));
    Ok(Plan {
        device: None,
        media: Vec::new(),
        layers: Vec::new(),
        root: Root::Assembled,
        kept: None,
        modules: Vec::new(),
        inits: options.inits(),
        cmdline_warnings,
        content_warnings: Vec::new(),
        unread: Vec::new(),
        lost: writes.unused(why)?,
    })
}

/// The modules to load early: for each layer, those of its backends up to the first that probably works. A
/// backend after that one loads its modules when it is tried.
fn modules(layers: &[Layer], root: &Root, has_kept: bool, options: &Options) -> Vec<Module> {
    let hints = options.hints();
    let mut modules = Vec::new();
    if matches!(root, Root::Extracted { .. }) {
        return modules;
    }
    for layer in layers {
        let Some((filesystem, backends)) = layer.content.image() else {
            continue;
        };
        for backend in backends {
            if !backend.is_extract() {
                modules.push(filesystem);
            }
            modules.extend(backend.modules());
            if backend.is_likely(&layer.place, hints) {
                break;
            }
        }
    }
    if has_kept || matches!(root, Root::Overlay(_)) {
        modules.push(Module::Overlay);
    }
    modules.sort_unstable();
    modules.dedup();
    modules
}
