//! Drives whose medium can be changed: of discs, of cards.

use std::fs;

use log::debug;

use super::Device;

/// How often the kernel asks the drives for a new medium, in milliseconds, where a drive's driver or
/// `events_poll_msecs` of its own do not say (Documentation/admin-guide/kernel-parameters.txt).
const POLLING: &str = "/sys/module/block/parameters/events_dfl_poll_msecs";

/// What udev has them asked for (its 60-block.rules).
const EVERY: &str = "2000";

/// Has the kernel look for new media, as long as this lives: by itself it does not, and the device of a
/// drive is there without one.
#[derive(Debug)]
pub(super) struct Polling {
    changed: bool,
}

impl Polling {
    pub(super) fn start() -> Self {
        let off = fs::read_to_string(POLLING).is_ok_and(|text| text.trim() == "0");
        let changed = off && set(EVERY);
        Self { changed }
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if self.changed {
            set("0");
        }
    }
}

/// Where it cannot be set (sysfs is not writable in a container), a new medium is not noticed.
fn set(milliseconds: &str) -> bool {
    let done = fs::write(POLLING, milliseconds);
    done.inspect_err(|error| debug!("write {POLLING}: {error}"))
        .is_ok()
}

impl Device {
    /// Whether its medium can be changed: then what cannot be read is no medium, as a rule.
    pub(super) fn is_removable(&self) -> bool {
        fs::read_to_string(self.directory().join("removable")).is_ok_and(|text| text.trim() == "1")
    }

    /// Lets the kernel find out what a changed drive holds now: its size and its partitions. It does so when
    /// somebody opens the drive.
    pub(super) fn revalidate(&self) {
        if let Err(error) = self.open() {
            debug!("{error}");
        }
    }
}
