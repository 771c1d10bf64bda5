//! The watchdog driver's ioctl. Source: include/uapi/linux/watchdog.h,
//! Documentation/watchdog/watchdog-api.rst.

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

const WDIOC_GETTIMEOUT: Opcode = opcode::read::<c_int>(b'W', 7);

/// Seconds without a ping after which the watchdog restarts the machine. EOPNOTSUPP or ENOTTY where
/// the driver cannot tell.
pub fn timeout(device: impl AsFd) -> Result<c_int> {
    // SAFETY: the ioctl writes one int.
    let get = unsafe { Getter::<WDIOC_GETTIMEOUT, c_int>::new() };
    // SAFETY: as above; any bits are an int.
    unsafe { ioctl(device, get) }
}
