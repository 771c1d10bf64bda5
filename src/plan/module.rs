//! The kernel modules that the mounts of a plan need.

/// A kernel module that `/init` loads unless it is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Module {
    /// The EROFS filesystem.
    Erofs,
    /// The SquashFS filesystem.
    Squashfs,
    /// overlayfs.
    Overlay,
    /// The loop device.
    Loop,
}

impl Module {
    /// Every module, in the order in which a plan lists them.
    pub const ALL: [Self; 4] = [Self::Erofs, Self::Squashfs, Self::Overlay, Self::Loop];

    /// The name, as in modules.dep.
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
            Self::Overlay => "overlay",
            Self::Loop => "loop",
        }
    }

    /// The kernel option that builds it, with `CONFIG_`.
    pub fn option(self) -> &'static str {
        match self {
            Self::Erofs => "CONFIG_EROFS_FS",
            Self::Squashfs => "CONFIG_SQUASHFS",
            Self::Overlay => "CONFIG_OVERLAY_FS",
            Self::Loop => "CONFIG_BLK_DEV_LOOP",
        }
    }

    /// What does not work without it, as a clause.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Erofs => "no EROFS layer can be mounted",
            Self::Squashfs => "no SquashFS layer can be mounted",
            Self::Overlay => "the layers cannot be stacked",
            Self::Loop => "the loop backend cannot be used",
        }
    }
}
