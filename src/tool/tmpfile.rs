//! Unnamed temporary files (O_TMPFILE, open(2)): they disappear when the program is killed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Creates an unnamed file in a directory, for reading and writing.
///
/// # Errors
/// The filesystem does not support such files, or /proc, through which the file gets a name, is not mounted.
pub fn create(directory: &Path) -> io::Result<File> {
    let mut options = File::options();
    let options = options.read(true).write(true).custom_flags(libc::O_TMPFILE);
    let file = options.open(directory)?;
    fs::metadata(proc_path(&file))?;
    Ok(file)
}

/// A path to an open file, valid in this process and its children that inherit the descriptor.
pub fn proc_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A path to an open file for another program of the same user, valid while this process keeps the file open. Files of
/// this program are not inherited.
pub fn shared_path(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}
