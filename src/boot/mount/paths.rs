//! The directories of the boot. Those below /run exist in the new root, too.

use std::fs;
use std::io::ErrorKind;

use crate::error::{Context, Result};

/// The directory in which each layer is mounted at its number.
pub const LAYERS: &str = "/run/initramfs/layers";

/// The mount point of the filesystem that overlayfs writes to.
pub const UPPER: &str = "/run/initramfs/upper";

/// The mount point of the device that keeps the writes to the directories of `rd.overlay.for=`.
pub const KEPT: &str = "/run/initramfs/kept";

/// An empty directory, the lower one of a directory of `rd.overlay.for=` that no layer has.
pub const EMPTY: &str = "/run/initramfs/empty";

/// The directory in which archives are unpacked over the layers below them; removed before the new root
/// starts.
pub const UNPACK_DIR: &str = "/run/initramfs/unpack";

/// The mount point of the new root until it becomes `/`.
pub const SYSROOT: &str = "/sysroot";

/// The mount point of the layer with this number.
pub fn layer_directory(number: usize) -> String {
    format!("{LAYERS}/{number}")
}

/// Creates a directory unless it exists.
pub fn create_directory(path: &str) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        done => done.during("create", path),
    }
}
