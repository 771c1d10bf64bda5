//! Copies the attributes that an upper directory needs from the directory below it.

use std::ffi::CStr;

use log::debug;
use rustix::fs::{Gid, Mode, Uid, XattrFlags, chmod, chown, getxattr, listxattr, setxattr, stat};
use rustix::io::Errno;

use crate::error::{self, Cause, Context, Error, Result};
use crate::text::shown;

/// Gives the directory `to` the owner, mode and extended attributes (among them security labels and ACLs) of
/// `from`.
pub fn copy_attributes(from: &str, to: &str) -> Result<()> {
    let root = stat(from).during("stat", from)?;
    let (uid, gid) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
    chown(to, Some(uid), Some(gid)).during("set owner of", to)?;
    chmod(to, Mode::from_raw_mode(root.st_mode & 0o7777)).during("set mode of", to)?;
    // An empty buffer returns the length only. Most directories have no attributes, and a buffer of 64 KiB
    // costs 16 page faults.
    match listxattr(from, &mut [0; 0]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        _ => {}
    }
    // XATTR_LIST_MAX and XATTR_SIZE_MAX of include/uapi/linux/limits.h.
    let mut names = vec![0; 65536];
    let mut value = vec![0; 65536];
    let n = listxattr(from, &mut *names).during("list attributes of", from)?;
    let names = names.get(..n).unwrap_or_default();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        // The private attributes of one overlay must not reach another.
        if name.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        let copied = getxattr(from, name, &mut *value).and_then(|n| {
            setxattr(
                to,
                name,
                value.get(..n).unwrap_or_default(),
                XattrFlags::empty(),
            )
        });
        match copied {
            Ok(()) => {}
            // A tmpfs without user attributes (before 6.6, or without TMPFS_XATTR).
            Err(errno @ Errno::OPNOTSUPP) => debug!(
                "{} of {from}: {}",
                shown(name.to_bytes()),
                error::name(errno)
            ),
            Err(errno) => {
                let object = format_args!("attribute {} of {from}", name.to_string_lossy());
                return Err(Error::with("copy", object, Cause::Os(errno)));
            }
        }
    }
    Ok(())
}
