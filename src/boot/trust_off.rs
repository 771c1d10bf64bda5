//! Without the feature `verify`: a loader that wants verification is refused.

use super::source::OpenSource;
use super::verified::{Verified, wanted_by};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::cmdline::Options;

/// Nothing to verify.
#[derive(Debug)]
pub struct Trust;

impl Trust {
    /// Refuses a loader that wants verification, without a shell.
    pub fn restrict(options: &mut Options) -> Result<Self> {
        let Some(path) = wanted_by() else {
            return Ok(Self);
        };
        options.shell = false;
        options.breaks.clear();
        let what = "this /init is built without verification (feature verify)";
        Err(Error::new("obey", path, what))
    }

    /// Looks for none.
    pub fn find_list<'a>(
        &mut self,
        _: &mut [OpenSource],
        _: impl Iterator<Item = &'a String>,
    ) -> Result<()> {
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
