//! Owner, mode, extended attributes and time of a file that is being written.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr,
    futimens, lsetxattr, utimensat,
};
use rustix::io::Errno;

use crate::error::Result;
use crate::format::erofs::{Image, Inode, Limits, Xattr};

/// The attributes that overlayfs alone reads.
pub const OVERLAY: &[u8] = b"trusted.overlay.";
/// overlayfs shows those of an overlay in a layer without one `overlay.` (Linux 6.7).
const NESTED: &[u8] = b"trusted.overlay.overlay.";

/// Everything about a file except its content.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// User and group; `None`: those of this process.
    pub owner: Option<(u32, u32)>,
    /// The permissions, as in `st_mode`.
    pub mode: u32,
    /// The time of modification, which becomes that of access, too.
    pub time: Timespec,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

impl Attributes {
    /// Those of an inode; `stacked`: for a layer that overlayfs stacks, with the attributes that overlayfs
    /// reads.
    pub fn of(image: &Image, inode: &Inode, stacked: bool, limits: &mut Limits) -> Result<Self> {
        Ok(Self {
            owner: Some((inode.uid, inode.gid)),
            mode: inode.mode,
            time: Timespec {
                tv_sec: inode.mtime,
                tv_nsec: inode.mtime_nsec.into(),
            },
            xattrs: xattrs(image, inode, stacked, limits)?,
        })
    }

    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: self.time,
            last_modification: self.time,
        }
    }

    /// The arguments of chown(2); `None`: it is not needed.
    fn owner(&self) -> Option<(Option<Uid>, Option<Gid>)> {
        let (uid, gid) = self.owner?;
        // chown(2) takes -1 for "do not change"; no inode has that owner.
        let id = |id: u32| Some(id).filter(|id| *id != u32::MAX);
        Some((id(uid).map(Uid::from_raw), id(gid).map(Gid::from_raw)))
    }

    fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o7777)
    }
}

/// The extended attributes of an inode, as overlayfs shows them where it is not `stacked`.
pub fn xattrs(
    image: &Image,
    inode: &Inode,
    stacked: bool,
    limits: &mut Limits,
) -> Result<Vec<Xattr>> {
    let mut found = image.xattrs_if(inode, |name| is_shown(name, stacked))?;
    for Xattr { name, value } in &mut found {
        limits.xattrs(inode, name.len().saturating_add(value.len()) as u64)?;
        show(name, stacked);
    }
    Ok(found)
}

/// Whether overlayfs shows an extended attribute of a layer with this name.
pub fn is_shown(name: &[u8], stacked: bool) -> bool {
    stacked || !name.starts_with(OVERLAY) || name.starts_with(NESTED)
}

/// Changes the name of an extended attribute of a layer to the name that overlayfs shows.
pub fn show(name: &mut Vec<u8>, stacked: bool) {
    if !stacked && name.starts_with(NESTED) {
        name.drain(b"trusted.".len()..b"trusted.overlay.".len());
    }
}

/// Sets them on a file or a directory. The owner comes first: chown(2) clears set-user-ID bits and
/// capabilities.
pub fn set_on_file(file: &OwnedFd, attributes: &Attributes) -> std::result::Result<(), Errno> {
    if let Some((uid, gid)) = attributes.owner() {
        fchown(file, uid, gid)?;
    }
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
    if let Some((uid, gid)) = attributes.owner() {
        chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
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

/// A name for a system call. Names in an image have no NUL.
pub fn c_string(name: &[u8]) -> std::result::Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}
