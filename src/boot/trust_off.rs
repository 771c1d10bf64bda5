//! Without the feature `verify`: a loader that wants verification is refused.

use std::path::Path;

use super::source::OpenSource;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::cmdline::Options;

/// The files by which a loader wants verification.
const FILES: [&str; 3] = [
    "/etc/layerinit/layers.sha256",
    "/etc/layerinit/policy",
    "/etc/layerinit/keys",
];

/// Nothing to verify.
#[derive(Debug)]
pub struct Trust;

/// No layers that were verified.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    /// Their number.
    pub layers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The time that took, in microseconds.
    pub microseconds: u64,
}

/// Whether the loader wants verification.
pub fn is_configured() -> bool {
    FILES.iter().any(|path| Path::new(path).exists())
}

impl Trust {
    /// Refuses a loader that wants verification, without a shell.
    pub fn restrict(options: &mut Options) -> Result<Self> {
        let Some(path) = FILES.iter().find(|path| Path::new(path).exists()) else {
            return Ok(Self);
        };
        options.shell = false;
        options.breaks.clear();
        let what = "this /init is built without verification (feature verify)";
        Err(Error::new("obey", path, what))
    }

    /// Looks for none.
    pub fn find_list(&mut self, _: &mut [OpenSource]) -> Result<()> {
        Ok(())
    }

    /// Allows them.
    pub fn check_assembled(&self, _assembled: bool) -> Result<()> {
        Ok(())
    }

    /// Verifies nothing.
    pub fn verify(&self, _: &Plan, _: &[OpenSource], _: &Options) -> Result<Option<Verified>> {
        Ok(None)
    }
}
