//! Owner, mode, extended attributes and time of a file of an image.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr,
    futimens, lsetxattr, utimensat,
};
use rustix::io::Errno;

use crate::error::Result;
use crate::format::erofs::{Image, Inode, Xattr};

/// The attributes that overlayfs alone reads.
pub const OVERLAY: &[u8] = b"trusted.overlay.";

/// What a file gets beside its content.
#[derive(Clone, Debug)]
pub struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    time: Timespec,
    xattrs: Vec<Xattr>,
}

impl Attributes {
    /// Those of an inode; without the attributes of overlayfs where nothing is stacked.
    pub fn of(image: &Image, inode: &Inode, stacked: bool) -> Result<Self> {
        Ok(Self {
            uid: inode.uid,
            gid: inode.gid,
            mode: inode.mode,
            time: Timespec {
                tv_sec: inode.mtime,
                tv_nsec: inode.mtime_nsec.into(),
            },
            xattrs: image.xattrs_if(inode, |name| stacked || !name.starts_with(OVERLAY))?,
        })
    }

    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: self.time,
            last_modification: self.time,
        }
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        // chown(2) takes -1 for "leave it"; no inode has that owner.
        let id = |id: u32| Some(id).filter(|id| *id != u32::MAX);
        (
            id(self.uid).map(Uid::from_raw),
            id(self.gid).map(Gid::from_raw),
        )
    }

    fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o7777)
    }
}

/// Sets them on a file or a directory. The owner comes first: chown(2) clears set-user-ID bits and
/// capabilities.
pub fn set_on_file(file: &OwnedFd, attributes: &Attributes) -> std::result::Result<(), Errno> {
    let (uid, gid) = attributes.owner();
    fchown(file, uid, gid)?;
    fchmod(file, attributes.mode())?;
    for xattr in &attributes.xattrs {
        fsetxattr(
            file,
            c_string(&xattr.name)?.as_c_str(),
            &xattr.value,
            XattrFlags::empty(),
        )?;
    }
    futimens(file, &attributes.times())
}

/// Sets them on a symbolic link or a special file: its mode is set already, where it has one.
pub fn set_on_name(
    directory: impl AsFd,
    name: &CStr,
    attributes: &Attributes,
) -> std::result::Result<(), Errno> {
    let directory = directory.as_fd();
    let (uid, gid) = attributes.owner();
    chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if !attributes.xattrs.is_empty() {
        // There is no setxattrat(2) before Linux 6.13.
        let path = format!("/proc/self/fd/{}/", directory.as_raw_fd());
        let path = c_string(&[path.as_bytes(), name.to_bytes()].concat())?;
        for xattr in &attributes.xattrs {
            let key = c_string(&xattr.name)?;
            lsetxattr(
                path.as_c_str(),
                key.as_c_str(),
                &xattr.value,
                XattrFlags::empty(),
            )?;
        }
    }
    let times = attributes.times();
    utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// A name for a system call. None of an image has a NUL in it.
pub fn c_string(name: &[u8]) -> std::result::Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}
