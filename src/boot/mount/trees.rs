//! Whole trees of a tmpfs: merged with hard links, and removed.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, fstat, futimens,
    getxattr, linkat, mkdirat, openat, setxattr, statat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::copy_attributes;
use crate::error::{Context, Result};

/// The attribute of an overlayfs directory that hides the lower ones (ovl_set_opaque in fs/overlayfs).
const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// How a directory is opened: never through a symbolic link.
pub const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Merges the directory `from` into `to`. For an overlay, `to` then equals the two stacked, with `from` above
/// `to`.
pub fn merge(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let (source, target) = (path(from), path(to));
    copy_attributes(&source, &target)?;
    let stat = fstat(from).during("stat", &source)?;
    for entry in Dir::read_from(from).during("read directory", &source)? {
        let entry = entry.during("read directory", &source)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let shown = || format!("{source}/{}", name.to_string_lossy());
        let below = match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            found => Some(FileType::from_raw_mode(
                found.during("stat", shown())?.st_mode,
            )),
        };
        let inside = match openat(from, name, DIRECTORY, Mode::empty()) {
            // A file, a symbolic link, or a node, which includes whiteouts.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {
                remove(to, name, below).during("remove", shown())?;
                linkat(from, name, to, name, AtFlags::empty()).during("link", shown())?;
                continue;
            }
            inside => inside.during("open", shown())?,
        };
        let opaque = is_opaque(&inside).during("read attribute of", shown())?;
        let keep = below == Some(FileType::Directory) && !opaque;
        if !keep {
            remove(to, name, below).during("remove", shown())?;
            mkdirat(to, name, Mode::from_raw_mode(0o700)).during("create", shown())?;
        }
        let into = openat(to, name, DIRECTORY, Mode::empty()).during("open", shown())?;
        // A file or whiteout that the directory replaces hid the directories of the layers below.
        if opaque || !keep && below.is_some() {
            setxattr(path(&into), OPAQUE, b"y", XattrFlags::empty())
                .during("set attribute of", shown())?;
        }
        merge(&inside, &into)?;
    }
    // The unpacker preserves the times of directories, and each name that was created here has changed this
    // one's.
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    futimens(to, &times).during("set time of", &target)
}

/// A path to an open directory.
fn path(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

fn is_opaque(directory: &OwnedFd) -> std::result::Result<bool, Errno> {
    match getxattr(path(directory), OPAQUE, &mut [0; 1]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes an entry of a directory. `kind` is its type, or `None` where it does not exist.
pub fn remove(parent: &OwnedFd, name: &CStr, kind: Option<FileType>) -> std::io::Result<()> {
    match kind {
        None => Ok(()),
        Some(FileType::Directory) => {
            let name = OsStr::from_bytes(name.to_bytes());
            fs::remove_dir_all(Path::new(&path(parent)).join(name))
        }
        Some(_) => Ok(unlinkat(parent, name, AtFlags::empty())?),
    }
}
