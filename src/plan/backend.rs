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
    /// The EROFS or SquashFS driver on a loop device.
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
                modules: &[],
            },
            Self::File => Properties {
                name: "file",
                help: "EROFS on a file of a ramfs or a disk, from Linux 6.12 on",
                mainline: true,
                options: &["CONFIG_EROFS_FS_BACKED_BY_FILE"],
                modules: &[],
            },
            Self::Loop => Properties {
                name: "loop",
                help: "EROFS or SquashFS on a loop device; works on every kernel that has both",
                mainline: true,
                options: &[],
                modules: &[Module::Loop],
            },
            #[cfg(feature = "extract")]
            Self::Extract => Properties {
                name: "extract",
                help: "writes the files into a tmpfs; needs no EROFS, and no overlayfs if all layers are extracted",
                mainline: true,
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

    /// Whether the configuration of a kernel shows that it supports this backend. It does not show patches
    /// that add no option.
    pub fn is_mainline(self) -> bool {
        self.properties().mainline
    }

    /// The kernel options that must be built in, with `CONFIG_`, in addition to those of the
    /// [`modules`](Self::modules).
    pub fn options(self) -> &'static [&'static str] {
        self.properties().options
    }

    /// The kernel modules that must be loaded, unless they are built in, in addition to the filesystem's.
    pub fn modules(self) -> &'static [Module] {
        self.properties().modules
    }

    /// Whether it can mount an image that starts `offset` bytes into the source at `place`.
    pub fn can_mount(self, place: &Place, offset: u64, superblock: &Superblock) -> bool {
        match self {
            Self::Memback => *place == Place::Initrd,
            // All mounts of a block device are one filesystem, whatever their fsoffset=. A sysfs file returns
            // at most a page per read, which EROFS treats as an I/O error. fsoffset= must be a multiple of
            // the block size (fs/erofs/super.c).
            Self::File => {
                let is_file = *place != Place::Initrd && !place.is_device();
                is_file && offset.is_multiple_of(superblock.block_size())
            }
            Self::Loop => true,
            #[cfg(feature = "extract")]
            Self::Extract => true,
        }
    }

    /// Whether it can mount a SquashFS image: that driver needs a block device.
    pub fn can_mount_squashfs(self) -> bool {
        match self {
            Self::Memback | Self::File => false,
            Self::Loop => true,
            #[cfg(feature = "extract")]
            Self::Extract => false,
        }
    }

    /// Whether it reads the image itself, without EROFS in the kernel.
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
            Self::File => !place.is_in_initramfs() || !hints.rootfs_is_tmpfs,
            Self::Loop => true,
            #[cfg(feature = "extract")]
            Self::Extract => true,
        }
    }

    /// The backend in `backends` that most kernels support, apart from `extract`; `None` if there is no
    /// other.
    pub fn most_portable(backends: &[Self]) -> Option<Self> {
        let mounting = backends
            .iter()
            .copied()
            .filter(|backend| !backend.is_extract());
        mounting.max_by_key(|backend| (backend.is_mainline(), *backend))
    }
}

/// What the command line says about the kernel, for [`Backend::is_likely`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_portable_backend_is_in_the_kernel_and_last_in_the_default_order() {
        let of = |names: &[Backend]| Backend::most_portable(names).map(Backend::name);
        assert_eq!(of(Backend::ALL), Some("loop"));
        assert_eq!(of(&[Backend::Loop, Backend::File]), Some("loop"));
        assert_eq!(of(&[Backend::File, Backend::Memback]), Some("file"));
        assert_eq!(of(&[Backend::Memback]), Some("memback"));
        #[cfg(feature = "extract")]
        assert_eq!(of(&[Backend::Extract]), None);
    }

    #[test]
    fn the_command_line_tells_which_backends_probably_work() {
        let hints = |retain_initrd, rootfs_is_tmpfs| Hints {
            retain_initrd,
            rootfs_is_tmpfs,
        };
        let file = Place::File("a".into());
        assert!(Backend::Memback.is_likely(&Place::Initrd, hints(false, true)));
        assert!(!Backend::Memback.is_likely(&Place::Initrd, hints(true, true)));
        assert!(!Backend::File.is_likely(&file, hints(false, true)));
        assert!(Backend::File.is_likely(&file, hints(false, false)));
        assert!(Backend::File.is_likely(&Place::InitrdImage, hints(false, true)));
        assert!(Backend::Loop.is_likely(&file, hints(true, true)));
    }
}
