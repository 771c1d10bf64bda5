//! The backends: ways to mount an EROFS layer. Everything about a backend except the mount itself is in this
//! file; `boot::mount` has one file per backend for the mount.

use std::fmt;

use super::{Module, Place};
use crate::format::erofs::Superblock;

/// A way to mount an EROFS layer. Ordered from the cheapest to the one that most kernels support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// The EROFS driver on the initrd's memory.
    Memback,
    /// The EROFS driver on a regular file, without a block device.
    File,
    /// The EROFS driver on a loop device.
    Loop,
    /// No driver: `/init` reads the image and writes its files into a tmpfs.
    #[cfg(feature = "extract")]
    Extract,
}

/// What [`Backend`]'s methods return.
struct Properties {
    name: &'static str,
    help: &'static str,
    mainline: bool,
    options: &'static [&'static str],
    modules: &'static [Module],
}

impl Backend {
    /// Every backend, in the order in which `/init` tries them by default.
    pub const ALL: &'static [Self] = &[
        Self::Memback,
        Self::File,
        Self::Loop,
        #[cfg(feature = "extract")]
        Self::Extract,
    ];

    fn properties(self) -> Properties {
        match self {
            Self::Memback => Properties {
                name: "memback",
                help: "EROFS on the memory of the initrd; needs a kernel with the patches in qemu/kernel",
                mainline: false,
                options: &[],
                modules: &[Module::Erofs],
            },
            Self::File => Properties {
                name: "file",
                help: "EROFS on a file of a ramfs or a disk, from Linux 6.12 on",
                mainline: true,
                options: &["CONFIG_EROFS_FS_BACKED_BY_FILE"],
                modules: &[Module::Erofs],
            },
            Self::Loop => Properties {
                name: "loop",
                help: "EROFS on a loop device; works on every kernel that has both",
                mainline: true,
                options: &[],
                modules: &[Module::Erofs, Module::Loop],
            },
            #[cfg(feature = "extract")]
            Self::Extract => Properties {
                name: "extract",
                mainline: true,
                help: "the files are written into a tmpfs; needs no EROFS, and no overlayfs where all layers are extracted",
                options: &[],
                modules: &[],
            },
        }
    }

    /// The name on the command line and in messages.
    pub fn name(self) -> &'static str {
        self.properties().name
    }

    /// A one-line description.
    pub fn help(self) -> &'static str {
        self.properties().help
    }

    /// Whether a kernel's configuration tells if the kernel supports this backend: it does not for patches
    /// that add no option.
    pub fn is_mainline(self) -> bool {
        self.properties().mainline
    }

    /// The kernel options that must be built in, with `CONFIG_`, in addition to those of the
    /// [`modules`](Self::modules).
    pub fn options(self) -> &'static [&'static str] {
        self.properties().options
    }

    /// The kernel modules that must be loaded, unless they are built in.
    pub fn modules(self) -> &'static [Module] {
        self.properties().modules
    }

    /// Whether it can mount an image that starts `offset` bytes into the source at `place`.
    pub fn can_mount(self, place: &Place, offset: u64, superblock: &Superblock) -> bool {
        match self {
            Self::Memback => *place == Place::Initrd,
            // A sysfs file returns at most a page per read, which EROFS takes for an I/O error; and
            // fsoffset= must be a multiple of the block size (fs/erofs/super.c).
            Self::File => *place != Place::Initrd && offset.is_multiple_of(superblock.block_size()),
            Self::Loop => true,
            #[cfg(feature = "extract")]
            Self::Extract => true,
        }
    }

    /// Whether it needs no EROFS in the kernel.
    pub fn is_extract(self) -> bool {
        match self {
            Self::Memback | Self::File | Self::Loop => false,
            #[cfg(feature = "extract")]
            Self::Extract => true,
        }
    }

    /// Whether it probably works for a layer in `place` that it [can mount](Self::can_mount).
    ///
    /// `/init` loads the modules of the next backend early where this returns `false`.
    pub fn is_likely(self, place: &Place, hints: Hints) -> bool {
        match self {
            // A kernel with the memback patches keeps the initrd without retain_initrd.
            Self::Memback => !hints.retain_initrd,
            // The kernel does not mount files of a tmpfs (ENOTBLK).
            Self::File => !matches!(place, Place::File(_)) || !hints.rootfs_is_tmpfs,
            Self::Loop => true,
            #[cfg(feature = "extract")]
            Self::Extract => true,
        }
    }

    /// The one of `backends` that most kernels support, if a configuration tells whether they do. Extraction
    /// needs nothing of a kernel, and counts only if it is alone.
    pub fn most_portable(backends: &[Self]) -> Option<Self> {
        let mainline = || backends.iter().filter(|backend| backend.is_mainline());
        let in_place = mainline().filter(|backend| !backend.is_extract()).max();
        in_place.or_else(|| mainline().max()).copied()
    }
}

/// What the command line tells about the kernel, for [`Backend::is_likely`].
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    /// `retain_initrd` is set.
    pub retain_initrd: bool,
    /// The rootfs is a tmpfs rather than a ramfs.
    pub rootfs_is_tmpfs: bool,
}

/// The names of all backends, separated by commas.
pub fn names() -> String {
    let names: Vec<_> = Backend::ALL.iter().map(|backend| backend.name()).collect();
    names.join(", ")
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
