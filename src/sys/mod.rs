//! The calls for which no crate has a safe function: the only `unsafe` in this program, one safe
//! function a call.

#![allow(unsafe_code, reason = "the one place for it")]

pub mod note;
mod number;
pub mod signal;

pub mod cdrom;
pub mod entry;
pub mod loopdev;
pub mod process;
pub mod watchdog;
