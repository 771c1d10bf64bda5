//! Owner, mode, time and device number of a member, as the kernel's unpacker sets them.

use rustix::fs::{
    AtFlags, CWD, Dev, Gid, Mode, Timespec, Timestamps, Uid, chmod, chown, makedev, utimensat,
};
use rustix::io::Errno;

use crate::format::cpio::Header;
use crate::initrd::member;

/// Sets owner, then mode: chown(2) clears the set-user-ID bits.
pub fn set_attributes(name: &[u8], header: &Header) -> Result<(), Errno> {
    let (uid, gid) = owner(header);
    let owned = chown(name, uid, gid);
    owned.and(chmod(name, mode(header)))
}

/// Sets access and modification time of a name, not of the target of a link.
pub fn set_times(name: &[u8], time: Timespec) -> Result<(), Errno> {
    utimensat(CWD, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)
}

/// The device number of a node.
pub fn device(header: &Header) -> Dev {
    let (major, minor) = member::device_number(header);
    makedev(major, minor)
}

/// The permissions.
pub fn mode(header: &Header) -> Mode {
    Mode::from_raw_mode(header.mode & 0o7777)
}

/// The owner. An ID of -1 is left out: chown(2) does not change the owner then.
pub fn owner(header: &Header) -> (Option<Uid>, Option<Gid>) {
    let id = |id: u32| Some(id).filter(|id| *id != u32::MAX);
    (
        id(header.uid).map(Uid::from_raw),
        id(header.gid).map(Gid::from_raw),
    )
}

/// The modification time.
pub fn mtime(header: &Header) -> Timespec {
    Timespec {
        tv_sec: header.mtime.into(),
        tv_nsec: 0,
    }
}

/// One time for access and modification.
pub fn times(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
