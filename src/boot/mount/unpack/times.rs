//! The modification times of directories, which are set at the end: creating a file in a directory changes its
//! time (dir_utime in init/initramfs.c).

use std::collections::BTreeSet;

use log::debug;
use rustix::fs::{Timespec, lstat};

use super::attributes::set_times;
use crate::error;
use crate::initrd::member::split_name;
use crate::text::shown;

/// The times to set when an archive is unpacked.
#[derive(Default)]
pub struct DirectoryTimes {
    /// Times from archives.
    archived: Vec<(Vec<u8>, Timespec)>,
    /// Times of directories of the layers below, which are not from this archive. A time from the archive
    /// overrides them.
    preserved: Vec<(Vec<u8>, Timespec)>,
    /// Names that `preserve` has looked at.
    seen: BTreeSet<Vec<u8>>,
}

impl DirectoryTimes {
    /// Records the time of a member.
    pub fn add(&mut self, name: &[u8], time: Timespec) {
        self.archived.push((name.to_vec(), time));
    }

    /// Preserves the time of a directory of the layers below that the member `name` changes, or is: the kernel
    /// sets the times of all directories when all archives are unpacked.
    pub fn preserve(&mut self, name: &[u8]) {
        // With "/." at the end, lstat(2) follows a link that is the parent.
        let parent = [split_name(name).0, b"/."].concat();
        let parent = parent.strip_prefix(b"/").unwrap_or(&parent);
        for directory in [parent, name] {
            if self.seen.contains(directory) {
                continue;
            }
            self.seen.insert(directory.to_vec());
            if let Ok(stat) = lstat(directory)
                && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
            {
                let time = Timespec {
                    tv_sec: stat.st_mtime,
                    tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0),
                };
                // Archives have whole seconds.
                if time.tv_nsec == 0 {
                    self.archived.push((directory.to_vec(), time));
                } else if directory == parent {
                    self.preserved.push((directory.to_vec(), time));
                }
            }
        }
    }

    /// Sets the times, that of the first member of a name last.
    pub fn set(self) {
        let preserved = self.preserved.into_iter().rev();
        for (name, time) in preserved.chain(self.archived.into_iter().rev()) {
            if let Err(errno) = set_times(&name, time) {
                debug!("{}: time not set: {}", shown(&name), error::name(errno));
            }
        }
    }
}
