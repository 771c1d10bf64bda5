//! Files of each type, created below an open directory: no name in an image leads out of it.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, chmodat, ftruncate, makedev, mkdirat, mknodat, openat,
    symlinkat,
};
use rustix::io::Errno;

use super::attributes::{Attributes, c_string, set_on_name};
pub use crate::boot::mount::trees::DIRECTORY;
use crate::error::{Context as _, Result};

/// Opens a directory, and creates it if it does not exist.
pub fn directory(parent: &OwnedFd, name: &CStr) -> std::result::Result<OwnedFd, Errno> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => openat(parent, name, DIRECTORY, Mode::empty()),
        Err(errno) => Err(errno),
    }
}

/// Creates a regular file of the given length, all of it a hole. The file must not exist.
pub fn file(parent: &OwnedFd, name: &CStr, length: u64) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR).during("create", "file")?;
    if length > 0 {
        ftruncate(&file, length).during("set the size of", "file")?;
    }
    Ok(file)
}

/// Creates a symbolic link, with its attributes.
pub fn link(parent: &OwnedFd, name: &CStr, target: &[u8], attributes: &Attributes) -> Result<()> {
    let target = c_string(target).during("read", "its target")?;
    symlinkat(target.as_c_str(), parent, name).during("create", "symbolic link")?;
    set_on_name(parent, name, attributes).during("set", "attributes")
}

/// Creates a device, a pipe or a socket, with its attributes.
pub fn special(
    parent: &OwnedFd,
    name: &CStr,
    (major, minor): (u32, u32),
    attributes: &Attributes,
) -> Result<()> {
    let kind = FileType::from_raw_mode(attributes.mode);
    let mode = Mode::from_raw_mode(attributes.mode & 0o7777);
    mknodat(parent, name, kind, mode, makedev(major, minor)).during("create", "special file")?;
    // mknod(2) applies the umask.
    chmodat(parent, name, mode, AtFlags::empty()).during("set", "mode")?;
    set_on_name(parent, name, attributes).during("set", "attributes")
}
