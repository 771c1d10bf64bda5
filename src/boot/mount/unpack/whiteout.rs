//! Hides files of the layers below: removes them from the overlay, which creates whiteouts.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, Mode, OFlags, open, openat, statat};
use rustix::io::Errno;
use rustix::process::{chdir, fchdir, getcwd};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Removes a file, or a directory with its contents, if it exists.
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

/// Removes the files of the layers below from the directory `name`, but not those of this layer, which are in
/// `upper`, the upper directory of the overlay at `/`. Without `upper`, all files are from the layers below.
pub fn remove_lower(name: &[u8], upper: Option<&OwnedFd>) -> Result<(), Errno> {
    // Without the directory there is nothing to hide.
    let directory = match open(
        if name.is_empty() { b"." } else { name },
        DIRECTORY,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    // The path from `/` with all links resolved.
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
    let ours = upper.and_then(|upper| openat(upper, inside, DIRECTORY, Mode::empty()).ok());
    clear(&path, ours.as_ref())
}

/// Removes the files that are in `directory` but not in `upper`, the same directory of this layer.
fn clear(directory: &Path, upper: Option<&OwnedFd>) -> Result<(), Errno> {
    let names: io::Result<Vec<_>> = fs::read_dir(directory)
        .map_err(errno)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect();
    for name in names.map_err(errno)? {
        let path = directory.join(&name);
        let own = upper.and_then(|upper| {
            statat(upper, &name, AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .map(|stat| (upper.as_fd(), stat))
        });
        match own {
            None => remove(path.as_os_str().as_bytes())?,
            Some((upper, stat)) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                let flags = DIRECTORY.union(OFlags::NOFOLLOW);
                let upper = openat(upper, &name, flags, Mode::empty())?;
                clear(&path, Some(&upper))?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
