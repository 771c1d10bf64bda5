//! The backends: the ways in which an EROFS layer becomes visible. Everything about one but the mount itself
//! is here; how each mounts is in `boot::mount`, in a file of its own.

use std::fmt;

use super::{Module, Place};
use crate::format::erofs::Superblock;

/// A way to mount an EROFS layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What is known of a backend.
struct Facts {
    /// Its name on the command line and in messages.
    name: &'static str,
    /// A line about it.
    help: &'static str,
    /// The kernel options that it needs beside EROFS_FS, without `CONFIG_`.
    options: &'static [&'static str],
    /// The kernel modules that it needs, where they are not built in.
    modules: &'static [Module],
}

impl Backend {
    /// Every backend in the order in which they are tried, the cheapest first.
    pub const ALL: &'static [Self] = &[
        Self::Memback,
        Self::File,
        Self::Loop,
        #[cfg(feature = "extract")]
        Self::Extract,
    ];

    fn facts(self) -> Facts {
        match self {
            Self::Memback => Facts {
                name: "memback",
                help: "EROFS on the memory of the initrd; needs a kernel with the patches in qemu/kernel",
                options: &[],
                modules: &[Module::Erofs],
            },
            Self::File => Facts {
                name: "file",
                help: "EROFS on a file of a ramfs or a disk, from Linux 6.12 on",
                options: &["EROFS_FS_BACKED_BY_FILE"],
                modules: &[Module::Erofs],
            },
            Self::Loop => Facts {
                name: "loop",
                help: "EROFS on a loop device; works on every kernel that has both",
                options: &["BLK_DEV_LOOP"],
                modules: &[Module::Erofs, Module::Loop],
            },
            #[cfg(feature = "extract")]
            Self::Extract => Facts {
                name: "extract",
                help: "the files are written into a tmpfs; needs no EROFS, and no overlayfs where all layers are extracted",
                options: &[],
                modules: &[],
            },
        }
    }

    /// Its name on the command line and in messages.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// A line about it.
    pub fn help(self) -> &'static str {
        self.facts().help
    }

    /// The kernel options that it needs beside EROFS_FS, without `CONFIG_`.
    pub fn options(self) -> &'static [&'static str] {
        self.facts().options
    }

    /// The kernel modules that it needs, where they are not built in.
    pub fn modules(self) -> &'static [Module] {
        self.facts().modules
    }

    /// Whether it can mount an image that starts `offset` bytes into that source.
    pub fn reaches(self, place: &Place, offset: u64, superblock: &Superblock) -> bool {
        match self {
            Self::Memback => *place == Place::Initrd,
            // A sysfs file returns a page at a time, which EROFS takes for an I/O error; and fsoffset=
            // counts in whole blocks (fs/erofs/super.c).
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
}

/// The names of all backends, as a list in a sentence.
pub fn names() -> String {
    let names: Vec<_> = Backend::ALL.iter().map(|backend| backend.name()).collect();
    names.join(", ")
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
