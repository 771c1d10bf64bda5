//! The block layer's ioctls. Source: include/uapi/linux/fs.h, block/ioctl.c.

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl};

const BLKROSET: Opcode = 0x125d;
const BLKROGET: Opcode = 0x125e;

/// Whether the kernel lets nobody write to a block device.
pub fn is_read_only(device: impl AsFd) -> Result<bool> {
    // SAFETY: BLKROGET writes one int.
    let get = unsafe { Getter::<BLKROGET, c_int>::new() };
    // SAFETY: as above.
    Ok(unsafe { ioctl(device, get) }? != 0)
}

/// Sets whether the kernel lets nobody write to a block device. Filesystems that are mounted keep their access.
pub fn set_read_only(device: impl AsFd, read_only: bool) -> Result<()> {
    // SAFETY: BLKROSET reads one int.
    let set = unsafe { Setter::<BLKROSET, c_int>::new(read_only.into()) };
    // SAFETY: as above.
    unsafe { ioctl(device, set) }
}
