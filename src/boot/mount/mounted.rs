//! What is mounted: the layers, the root device and the filesystems for writes.

use super::device::MountedDevice;
use super::kept::MountedKept;
use super::upper::MountedUpper;
use crate::plan::Layer;
use crate::plan::backend::Backend;
use crate::plan::identity::StackMember;

/// How a layer was mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountMethod {
    /// As an EROFS image, by this backend.
    Erofs(Backend),
    /// As a SquashFS image, by this backend.
    Squashfs(Backend),
    /// As a tmpfs that an archive was unpacked into.
    Unpacked,
    /// As a tmpfs that the files of an EROFS image were written into.
    #[cfg(feature = "extract")]
    Extracted,
}

impl MountMethod {
    /// Whether the kernel still reads the bytes of the layer in place.
    pub(super) fn reads_in_place(self) -> bool {
        match self {
            Self::Erofs(_) | Self::Squashfs(_) => true,
            Self::Unpacked => false,
            #[cfg(feature = "extract")]
            Self::Extracted => false,
        }
    }
}

/// A layer of the plan, mounted in [`LAYERS`](super::LAYERS).
#[derive(Debug)]
pub struct MountedLayer<'a> {
    /// The layer.
    pub layer: &'a Layer,
    /// How it was mounted.
    pub method: MountMethod,
    /// Its identity, if it will be compared with the record of a persistent upper: its bytes may be freed by
    /// then.
    pub identity: Option<StackMember>,
}

/// What the new root consists of.
#[derive(Debug, Default)]
pub struct MountedRoot<'a> {
    /// The root device.
    pub device: Option<MountedDevice>,
    /// The layers of the initrd, lowest first.
    pub layers: Vec<MountedLayer<'a>>,
    /// The filesystem that overlayfs writes to.
    pub upper: Option<MountedUpper>,
    /// Bytes of the initrd and of layer files that were freed.
    pub freed: u64,
    /// The directories of `rd.overlay.for=`.
    pub kept: Option<MountedKept>,
    /// Whether all layers were written into one tmpfs, which is the root.
    pub single: bool,
}

impl<'a> MountedRoot<'a> {
    /// The layers whose bytes the kernel still reads in place.
    pub fn images(&self) -> Vec<&'a Layer> {
        let layers = self.layers.iter();
        let mounted = layers.filter(|mounted| mounted.method.reads_in_place());
        mounted.map(|mounted| mounted.layer).collect()
    }
}
