//! Without the feature `disk`: no device can be mounted. The plan names none, because [`crate::plan::words`]
//! ignores `root=` and a device in `rd.layers.from=`, and the plan refuses one in `rd.overlay=`.

use super::context::Mount;
use crate::bytes::Opened;
use crate::error::{Error, Result};
use crate::module::loader::Loader;
use crate::plan::MountSpec;
use crate::plan::cmdline::Options;
use crate::plan::feature::DISK;

/// A mounted device, of which there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedDevice {
    /// The path of its device node.
    pub node: String,
    /// The filesystem type.
    pub fstype: String,
    /// The UUID of the filesystem, if it has one that is known.
    pub uuid: Option<String>,
}

/// Finds no devices.
#[derive(Debug)]
pub struct DeviceFinder;

impl DeviceFinder {
    /// A finder that refuses every device.
    pub fn new(_options: &Options) -> Self {
        Self
    }

    /// Fails.
    pub fn mount_root(
        &mut self,
        device: &MountSpec,
        _loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        Err(no_disks(device))
    }

    /// Fails.
    pub fn mount_upper(
        &mut self,
        device: &MountSpec,
        _root: Option<&MountedDevice>,
        _loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        Err(no_disks(device))
    }

    /// Fails.
    pub fn mount_medium(
        &mut self,
        device: &MountSpec,
        _loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        Err(no_disks(device))
    }

    /// Fails.
    pub fn open_medium(
        &mut self,
        device: &MountSpec,
        _loader: &mut Loader,
    ) -> Result<(String, Opened)> {
        Err(no_disks(device))
    }
}

fn no_disks(device: &MountSpec) -> Error {
    Error::new("mount", &device.spec, DISK.missing)
}
