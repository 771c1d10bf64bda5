//! Without the feature `disk`: the rescue shell has only the drivers that the boot has loaded.

use crate::plan::cmdline::Options;

/// No drivers.
#[derive(Debug)]
pub struct Drivers;

impl Drivers {
    /// Loads nothing.
    pub fn load(_options: Options) -> Self {
        Self
    }
}
