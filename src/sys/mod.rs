//! The only `unsafe` of the crate: one safe function for each system call that no other crate wraps safely.

#![allow(unsafe_code, reason = "the only module that may")]

mod int_ioctl;
pub mod note;
pub mod signal;

#[cfg(feature = "disk")]
pub mod blockdev;
#[cfg(feature = "disk")]
pub mod cdrom;
#[cfg(all(feature = "disk", feature = "verify"))]
pub mod dm;
pub mod entry;
#[cfg(all(feature = "disk", feature = "verify"))]
pub mod fsverity;
#[cfg(all(feature = "disk", feature = "verify"))]
pub mod keyring;
pub mod loopdev;
pub mod program;

pub mod process;
#[cfg(feature = "watchdog")]
pub mod watchdog;
