//! Drives with removable media: optical drives, card readers.

use std::fs;

use log::debug;

use super::Device;

/// How often the kernel polls drives for media changes by default, in milliseconds; 0 is off
/// (Documentation/admin-guide/kernel-parameters.txt).
const POLLING: &str = "/sys/module/block/parameters/events_dfl_poll_msecs";

/// The interval that udev sets (60-block.rules), in milliseconds.
const INTERVAL: &str = "2000";

/// Makes the kernel poll drives for media changes until it is dropped. By default the kernel does not poll,
/// and a drive has a device even without a medium.
#[derive(Debug)]
pub(super) struct MediaPolling {
    changed: bool,
}

impl MediaPolling {
    pub(super) fn start() -> Self {
        let off = fs::read_to_string(POLLING).is_ok_and(|text| text.trim() == "0");
        let changed = off && set(INTERVAL);
        Self { changed }
    }
}

impl Drop for MediaPolling {
    fn drop(&mut self) {
        if self.changed {
            set("0");
        }
    }
}

/// Without the setting (in a container, sysfs is read-only), a new medium goes unnoticed.
fn set(milliseconds: &str) -> bool {
    let done = fs::write(POLLING, milliseconds);
    done.inspect_err(|error| debug!("write {POLLING}: {error}"))
        .is_ok()
}

impl Device {
    /// Whether the medium is removable: then a failed read usually means that there is none.
    pub(super) fn is_removable(&self) -> bool {
        fs::read_to_string(self.directory().join("removable")).is_ok_and(|text| text.trim() == "1")
    }

    /// Makes the kernel read size and partitions of a new medium, which it does when the drive is opened.
    pub(super) fn revalidate(&self) {
        if let Err(error) = self.open() {
            debug!("{error}");
        }
    }
}
