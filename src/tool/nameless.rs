//! Temporary files without a name: nothing is left of them when the program is killed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Makes a file without a name in this directory. An error where the filesystem has none, or where nothing could give
/// it a name later.
pub fn create(directory: &Path) -> io::Result<File> {
    let mut options = File::options();
    let options = options.read(true).write(true).custom_flags(libc::O_TMPFILE);
    let file = options.open(directory)?;
    fs::metadata(through_proc(&file))?;
    Ok(file)
}

/// The path by which an open file is found. /proc has to be there.
pub fn through_proc(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
