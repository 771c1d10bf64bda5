//! What a check is asked for.

use std::path::PathBuf;

use super::firmware::Firmware;

/// What is known of the boot that is checked, and what is asked of the check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The kernel command line, if it is known.
    pub cmdline: Option<String>,
    /// Where the loader is.
    pub loader: Loader,
    /// The kernel's configuration: a file as /boot/config-* or /proc/config.gz.
    pub kernel_config: Option<PathBuf>,
    /// What layers do to those below is listed, too.
    pub conflicts: bool,
    /// Who loads the initrd.
    pub firmware: Option<Firmware>,
}

/// Where the kernel has the loader from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loader {
    /// The image must hold it.
    #[default]
    InImage,
    /// The kernel has it built in.
    BuiltIn,
    /// The kernel has it built in if the image does not hold it.
    Either,
}
