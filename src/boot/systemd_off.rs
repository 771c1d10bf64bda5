//! Without the feature `systemd`: the real init gets the kernel's arguments only.

use std::ffi::CString;

/// A time that nothing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp;

impl Timestamp {
    /// The present time.
    pub fn now() -> Self {
        Self
    }
}

/// Creates no link.
pub fn link_volatile_root(_node: &str) {}

/// No arguments.
pub fn arguments(_init: &str, _started: Timestamp) -> Vec<CString> {
    Vec::new()
}

/// Copies nothing.
pub fn keep_stub_files(_new_root: &str) {}

/// Nothing.
pub fn environment(_init: &str) -> Vec<CString> {
    Vec::new()
}
