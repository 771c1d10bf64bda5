//! Where a source of layers is.

/// Where a source of layers is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file of `/layers` in the rootfs, by name.
    File(String),
    /// What `rd.layers.from=` names: a file, or a device.
    Medium(MediumFile),
    /// `/initrd.image`: the kernel's copy of the whole initrd in the rootfs.
    InitrdImage,
    /// `/sys/firmware/initrd`: the initrd in memory, where the boot loader put it.
    Initrd,
}

/// A file with layers that `rd.layers.from=` names, or a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediumFile {
    /// The number of the [`Medium`](super::Medium).
    pub medium: usize,
    /// Device and path as in messages: `LABEL=sys:/a/base.erofs`.
    pub name: String,
    /// Its path in the initramfs, without symbolic links; for a device, the path of its node.
    pub path: String,
    /// What holds it.
    pub storage: Storage,
}

/// What holds a [`MediumFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// The filesystem on a device.
    Filesystem,
    /// The initramfs.
    Initramfs,
    /// It is the device itself, without a filesystem.
    Device,
    /// A file on a device that the kernel verifies at each read: the path is that of a dm-verity device.
    Verity,
}

impl Place {
    /// Where the filesystems of `rd.layers.from=` are mounted, each at its number.
    pub const MEDIA: &str = "/run/initramfs/media";

    /// The directory of [`Place::File`]; each file holds one layer or more.
    pub const LAYERS: &str = "/layers";

    /// The directory to which `/init` copies files of a disk, so that nobody can change them after they are
    /// verified.
    pub const COPIES: &str = "/verified";

    /// The path in the initramfs.
    pub fn path(&self) -> String {
        match self {
            Self::File(name) => format!("{}/{name}", Self::LAYERS),
            Self::Medium(file) => file.path.clone(),
            Self::InitrdImage => "/initrd.image".into(),
            Self::Initrd => "/sys/firmware/initrd".into(),
        }
    }

    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        matches!(self, Self::Medium(file) if matches!(file.storage, Storage::Device | Storage::Verity))
    }

    /// Whether it is a dm-verity device.
    pub fn is_verity(&self) -> bool {
        matches!(self, Self::Medium(file) if file.storage == Storage::Verity)
    }

    /// Whether it is a file that an archive brought into the initramfs.
    pub fn is_in_initramfs(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Medium(file) => file.storage == Storage::Initramfs,
            Self::Initrd | Self::InitrdImage => false,
        }
    }

    /// Whether the kernel unpacks its archives before `/init` starts, and one of them is the loader.
    pub fn is_initrd(&self) -> bool {
        match self {
            Self::Initrd | Self::InitrdImage => true,
            Self::File(_) | Self::Medium(_) => false,
        }
    }
}
