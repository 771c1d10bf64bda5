//! Terminals. Source: tcdrain(3), tcsetpgrp(3).

use std::os::fd::{AsFd, AsRawFd};

/// Waits until the terminal has transmitted what was written to it. Another file is left alone.
pub fn drain(terminal: impl AsFd) {
    // SAFETY: tcdrain(3) takes a descriptor, which is open as long as it is borrowed.
    unsafe { libc::tcdrain(terminal.as_fd().as_raw_fd()) };
}

/// Makes the process group of this process the foreground one of its terminal. Another file is left alone. A process of
/// another group has to block SIGTTOU.
pub fn set_foreground(terminal: impl AsFd) {
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    // SAFETY: tcsetpgrp(3) takes a descriptor, which is open as long as it is borrowed, and a number.
    unsafe { libc::tcsetpgrp(terminal.as_fd().as_raw_fd(), group) };
}
