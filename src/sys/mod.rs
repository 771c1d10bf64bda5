//! The calls for which no crate has a safe function: the only `unsafe` in this program, one safe
//! function a call.

pub mod cdrom;
pub mod entry;
pub mod loopdev;
mod number;
pub mod process;
pub mod signal;
pub mod watchdog;
