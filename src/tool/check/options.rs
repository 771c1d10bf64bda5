//! Options of `layerinit check`.

use std::path::PathBuf;

use super::uefi::UefiLoader;
use crate::tool::image::boot::StandIns;

/// What is known about the boot, and what to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The kernel command line, if it is known.
    pub cmdline: Option<String>,
    /// Where the loader is.
    pub loader: LoaderLocation,
    /// The kernel's configuration: a file like /boot/config-* or /proc/config.gz.
    pub kernel_config: Option<PathBuf>,
    /// Whether to list what layers change in those below them.
    pub conflicts: bool,
    /// The directories and files that stand in for the devices of `rd.layers.from=`.
    pub stand_ins: StandIns,
    /// The boot loader on a machine with UEFI, if it is known.
    pub firmware: Option<UefiLoader>,
}

/// Where the loader (the archive with `/init`) is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoaderLocation {
    /// In the image.
    #[default]
    InImage,
    /// Built into the kernel (CONFIG_INITRAMFS_SOURCE).
    BuiltIn,
    /// In the image if that has an `/init`, otherwise built into the kernel.
    Either,
}
