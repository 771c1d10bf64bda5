//! Without the feature `watchdog`: there is none to ping. The command line asks for none, because
//! [`crate::plan::words`] refuses `rd.watchdog`.

use crate::error::{Error, Result};

/// Fails.
pub fn start(path: &str) -> Result<()> {
    Err(Error::new(
        "open watchdog",
        path,
        "this /init is built without watchdogs (feature watchdog)",
    ))
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
