//! The CD-ROM drivers' ioctls. Source: include/uapi/linux/cdrom.h,
//! Documentation/userspace-api/ioctl/cdrom.rst.

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::ioctl::{Opcode, ioctl};

use super::number::Number;

const CDROM_DRIVE_STATUS: Opcode = 0x5326;

/// The drive itself, not a slot of a changer.
const CDSL_CURRENT: c_int = c_int::MAX;

const CDS_NO_DISC: c_int = 1;
const CDS_TRAY_OPEN: c_int = 2;

/// Whether the drive says that it has no disc. A device that is none for discs does not.
pub fn is_empty(drive: impl AsFd) -> bool {
    // SAFETY: CDROM_DRIVE_STATUS takes the slot by value.
    let status = unsafe { ioctl(drive, Number::<CDROM_DRIVE_STATUS>(CDSL_CURRENT)) };
    matches!(status, Ok(CDS_NO_DISC | CDS_TRAY_OPEN))
}
