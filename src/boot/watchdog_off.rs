//! Without the feature `watchdog`. [`crate::plan::words`] ignores `rd.watchdog` then, so there is never a
//! watchdog to ping.

use crate::error::{Error, Result};
use crate::plan::feature::WATCHDOG;

/// Fails.
pub fn start(path: &str) -> Result<()> {
    Err(Error::new("open watchdog", path, WATCHDOG.missing))
}

/// Pings nothing.
pub fn ping() -> bool {
    false
}

/// There is no watchdog.
pub fn stop_pinging() -> Option<u32> {
    None
}

/// There is no watchdog.
pub fn stop_pinging_from_handler() -> bool {
    false
}

/// There is no watchdog.
pub fn stop_from_handler() {}

/// There is no watchdog.
pub fn stop() {}
