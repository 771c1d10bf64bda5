//! Terminals. Source: tcdrain(3).

use std::os::fd::{AsFd, AsRawFd};

/// Waits until the terminal has transmitted what was written to it. Another file is left alone.
pub fn drain(terminal: impl AsFd) {
    // SAFETY: tcdrain(3) takes a descriptor, which is open as long as it is borrowed.
    unsafe { libc::tcdrain(terminal.as_fd().as_raw_fd()) };
}
