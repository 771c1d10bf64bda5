//! The watchdog driver's ioctls. Source: include/uapi/linux/watchdog.h,
//! Documentation/watchdog/watchdog-api.rst.

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

/// `struct watchdog_info`.
#[repr(C)]
struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const _: () = assert!(size_of::<WatchdogInfo>() == 40);

const WDIOC_GETSUPPORT: Opcode = opcode::read::<WatchdogInfo>(b'W', 0);
const WDIOC_GETTIMEOUT: Opcode = opcode::read::<c_int>(b'W', 7);

/// Succeeds if the device is a watchdog. ENOTTY or EINVAL from any other driver.
pub fn support(device: impl AsFd) -> Result<()> {
    // SAFETY: the ioctl writes one struct watchdog_info, whose size is part of its number.
    let get = unsafe { Getter::<WDIOC_GETSUPPORT, WatchdogInfo>::new() };
    // SAFETY: as above; any bits are a valid struct watchdog_info.
    unsafe { ioctl(device, get) }.map(|_| ())
}

/// The timeout in seconds: the watchdog restarts the machine after that time without a ping. EOPNOTSUPP or
/// ENOTTY if the driver does not report it.
pub fn timeout(device: impl AsFd) -> Result<c_int> {
    // SAFETY: the ioctl writes one int.
    let get = unsafe { Getter::<WDIOC_GETTIMEOUT, c_int>::new() };
    // SAFETY: as above; any bits are a valid int.
    unsafe { ioctl(device, get) }
}
