//! Taking away what the layers below have: through the overlay, which makes whiteouts of it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, Mode, OFlags, open, openat, statat};
use rustix::io::Errno;
use rustix::process::{chdir, fchdir, getcwd};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Removes a file, or a directory with all that is in it. That it is not there is no failure.
pub fn remove(name: &[u8]) -> Result<(), Errno> {
    let path = Path::new(OsStr::from_bytes(name));
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(errno),
    }
}

/// Removes all that the layers below have in the directory `name`, and leaves what is of this layer:
/// that is in `changes`, the directory that takes what is changed at `/`. Without one, nothing is of this layer.
pub fn all_below(name: &[u8], changes: Option<&OwnedFd>) -> Result<(), Errno> {
    // A directory that is not there hides nothing.
    let directory = match open(
        if name.is_empty() { b"." } else { name },
        DIRECTORY,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    // Where links on the way lead, from `/`.
    fchdir(&directory)?;
    let path = getcwd(Vec::new());
    chdir("/")?;
    let path = PathBuf::from(OsStr::from_bytes(path?.as_bytes()));
    let inside = path.strip_prefix("/").unwrap_or(&path);
    let inside = if inside.as_os_str().is_empty() {
        Path::new(".")
    } else {
        inside
    };
    let ours = changes.and_then(|changes| openat(changes, inside, DIRECTORY, Mode::empty()).ok());
    clear(&path, ours.as_ref())
}

/// Removes what is in `directory` and not in `ours`, which is the part of it that is of this layer.
fn clear(directory: &Path, ours: Option<&OwnedFd>) -> Result<(), Errno> {
    let names: io::Result<Vec<_>> = fs::read_dir(directory)
        .map_err(errno)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect();
    for name in names.map_err(errno)? {
        let path = directory.join(&name);
        let own = ours.and_then(|ours| {
            statat(ours, &name, AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .map(|stat| (ours.as_fd(), stat))
        });
        match own {
            None => remove(path.as_os_str().as_bytes())?,
            Some((ours, stat)) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                let flags = DIRECTORY.union(OFlags::NOFOLLOW);
                let ours = openat(ours, &name, flags, Mode::empty())?;
                clear(&path, Some(&ours))?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
