//! The CD-ROM drivers' ioctls. Source: include/uapi/linux/cdrom.h,
//! Documentation/userspace-api/ioctl/cdrom.rst.

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::ioctl::{Opcode, ioctl};

use super::int_ioctl::IntIoctl;

const CDROM_DRIVE_STATUS: Opcode = 0x5326;

/// The drive itself, rather than a slot of a changer.
const CDSL_CURRENT: c_int = c_int::MAX;

const CDS_NO_DISC: c_int = 1;
const CDS_TRAY_OPEN: c_int = 2;

/// Whether the drive reports that it holds no disc. `false` for a device that is not a CD-ROM drive.
pub fn is_empty(drive: impl AsFd) -> bool {
    // SAFETY: CDROM_DRIVE_STATUS takes the slot by value.
    let status = unsafe { ioctl(drive, IntIoctl::<CDROM_DRIVE_STATUS>(CDSL_CURRENT)) };
    matches!(status, Ok(CDS_NO_DISC | CDS_TRAY_OPEN))
}
