//! What the boot needs to know about verification, whether this `/init` is built with it or not.

use std::path::Path;

use crate::plan::loader_files;

/// The layers that were verified.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    /// Their number.
    pub layers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The time that took, in microseconds.
    pub microseconds: u64,
}

/// The first file in the rootfs that turns verification on; `None`: there is none.
pub fn wanted_by() -> Option<&'static str> {
    let mut files = loader_files::ALL.into_iter();
    files.find(|path| Path::new(path).exists())
}
