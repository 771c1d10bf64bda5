//! The cargo features of `/init` that words of the command line need.

/// A cargo feature.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Whether this program is built with it.
    pub is_on: bool,
    /// Why a word that needs it has no effect.
    pub missing: &'static str,
}

/// `root=`, and an upper on a device.
pub const DISK: Feature = Feature {
    is_on: cfg!(feature = "disk"),
    missing: "this /init is built without disks (feature disk)",
};

/// The arguments and files for systemd as the real init.
pub const SYSTEMD: Feature = Feature {
    is_on: cfg!(feature = "systemd"),
    missing: "this /init is built without support for systemd (feature systemd)",
};

/// `roothash=`.
pub const VERITY: Feature = Feature {
    is_on: cfg!(all(feature = "disk", feature = "verify")),
    missing: "this /init is built without dm-verity (features disk and verify)",
};

/// `rd.watchdog`.
pub const WATCHDOG: Feature = Feature {
    is_on: cfg!(feature = "watchdog"),
    missing: "this /init is built without watchdogs (feature watchdog)",
};
