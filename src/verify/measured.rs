//! What is known about the content of a layer, for the comparison with the list.

use std::fmt;

use super::digest::{Digest, Digests};
use super::list::{Expected, ListEntry};

/// What is known about the content of a layer. Displayed for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Its bytes were hashed, in memory.
    Hashed(Digests),
    /// fs-verity verifies each block of its file when it is read, by this digest.
    FsVerity(Digest),
    /// dm-verity verifies each block when it is read, by this root hash.
    Verity(Digest),
}

impl Measured {
    /// Whether this matches what the list expects.
    pub fn is(&self, expected: &Expected) -> bool {
        match (self, expected) {
            (Self::Hashed(digests), Expected::Sha256(digest)) => digests.has(digest),
            (Self::FsVerity(one), Expected::FsVerity(other)) => one == other,
            (Self::Verity(one), Expected::Verity(other)) => one == other,
            (
                _,
                Expected::Sha256(_)
                | Expected::FsVerity(_)
                | Expected::Verity(_)
                | Expected::Vary(_),
            ) => false,
        }
    }

    /// Whether a line of the list has it.
    pub fn is_in(&self, entries: &[ListEntry]) -> bool {
        entries.iter().any(|entry| self.is(&entry.expected))
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hashed(digests) => write!(f, "sha256 {}", digests.exact),
            Self::FsVerity(digest) => write!(f, "fs-verity digest sha256:{digest}"),
            Self::Verity(digest) => write!(f, "root hash verity:{digest}"),
        }
    }
}
