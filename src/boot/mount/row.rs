//! Many archives in a row.
//!
//! An overlay costs the kernel time for each of its layers, and every archive is unpacked over all layers
//! below it: the 499th took twice as long as the 250th. Here, what the archives of a row have left is merged
//! into one directory, which stands for them when the next ones are unpacked. It has the directories,
//! whiteouts and opaque directories that an overlay of them shows, and hard links to their files, so that
//! all of a row lie on one tmpfs. It goes when the row ends; the layers stay as they were unpacked.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use log::debug;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, fstat, futimens,
    getxattr, linkat, mkdirat, openat, setxattr, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::archive::{over, tmpfs};
use super::context::Mount;
use super::overlay::Stack;
use super::upper::copy_attributes;
use crate::error::{Context as _, Result};
use crate::sys::process::run_chrooted;

/// As many archives of a row are stacked one by one. A shorter row needs none of this.
pub const SEPARATE: usize = 16;

/// What overlayfs marks a directory with that hides those below (ovl_set_opaque in fs/overlayfs).
const OPAQUE: &CStr = c"trusted.overlay.opaque";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A row of archives that are being unpacked.
pub struct Row {
    /// Where its tmpfs is mounted.
    bench: String,
    /// The layers below the row.
    below: Stack,
    /// The names of the row's layers.
    names: Vec<String>,
    /// As many of the first of them are merged.
    merged: usize,
    /// Whether they can be: an attempt that failed is not repeated.
    merges: bool,
}

impl Row {
    /// Begins a row over the layers `below`, on a tmpfs at `bench`, an empty directory beside theirs.
    pub fn begin(below: &Stack, bench: &str) -> Result<Self> {
        tmpfs("layers", bench)?;
        Ok(Self {
            bench: bench.into(),
            below: below.clone(),
            names: Vec::new(),
            merged: 0,
            merges: true,
        })
    }

    /// What the next archive is unpacked over.
    pub fn stack(&self) -> Stack {
        let mut stack = self.below.clone();
        if self.merged > 0 {
            let bench = Path::new(&self.bench).file_name().unwrap_or_default();
            let merged = format!("../{}/merged", bench.to_string_lossy());
            stack.names.push(merged);
        }
        let separate = self.names.iter().skip(self.merged);
        stack.names.extend(separate.cloned());
        stack
    }

    /// Unpacks the next archive, as [`layer`](super::archive::layer) does, to the directory `name` beside
    /// the layers below.
    pub fn layer<T: Send>(
        &mut self,
        name: &str,
        work: impl FnOnce(Option<OwnedFd>) -> T + Send,
    ) -> Result<T> {
        let target = format!("{}/{name}", self.below.directory);
        let place = self.place(self.names.len());
        fs::create_dir(&place).during("create", &place)?;
        let stack = self.stack();
        let done = match stack.names.as_slice() {
            [] => {
                let upper = format!("{place}/upper");
                fs::create_dir(&upper).during("create", &upper)?;
                let done = run_chrooted(&upper, || work(None)).during("enter", &upper)?;
                Mount::again(&upper, false)?.attach(&target)?;
                done
            }
            _ => over(&stack, &place, &target, work)?,
        };
        // The mount alone: the rest of the row is to be written to the same filesystem.
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&target, flags, "").during("seal", &target)?;
        self.names.push(name.into());
        if self.merges && self.names.len().saturating_sub(self.merged) >= SEPARATE {
            match self.merge() {
                Ok(()) => self.merged = self.names.len(),
                // Directories deeper than there are descriptors, say. It is slow then, and right.
                Err(error) => {
                    debug!("{error}; all layers below are stacked from now on");
                    (self.merges, self.merged) = (false, 0);
                }
            }
        }
        Ok(done)
    }

    /// Ends the row.
    pub fn end(self) -> Result<()> {
        let merged = self.merged_directory();
        match fs::remove_dir_all(&merged) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).during("remove", &merged);
            }
            _ => {}
        }
        unmount(&self.bench, UnmountFlags::empty()).during("unmount", &self.bench)
    }

    /// Where an archive of the row is unpacked.
    fn place(&self, index: usize) -> String {
        format!("{}/{index}", self.bench)
    }

    fn merged_directory(&self) -> String {
        format!("{}/merged", self.bench)
    }

    /// Merges the archives that stand separately.
    fn merge(&self) -> Result<()> {
        let merged = self.merged_directory();
        if self.merged == 0 {
            fs::create_dir(&merged).during("create", &merged)?;
        }
        let open = |path: &str| openat(CWD, path, DIRECTORY, Mode::empty()).during("open", path);
        let to = open(&merged)?;
        for index in self.merged..self.names.len() {
            let from = format!("{}/upper", self.place(index));
            merge(&open(&from)?, &to)?;
        }
        Ok(())
    }
}

/// Merges the directory `from` into `to`, such that `to` is for an overlay what the two were, `from` on top.
fn merge(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
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
            // Files, symbolic links, nodes, whiteouts among them.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {
                remove(to, name, below).during("remove", shown())?;
                linkat(from, name, to, name, AtFlags::empty()).during("link", shown())?;
                continue;
            }
            inside => inside.during("open", shown())?,
        };
        let hides = is_opaque(&inside).during("read attribute of", shown())?;
        let stays = below == Some(FileType::Directory) && !hides;
        if !stays {
            remove(to, name, below).during("remove", shown())?;
            mkdirat(to, name, Mode::from_raw_mode(0o700)).during("create", shown())?;
        }
        let place = openat(to, name, DIRECTORY, Mode::empty()).during("open", shown())?;
        // What was no directory here hid those of the layers below, as whiteouts do.
        if hides || !stays && below.is_some() {
            setxattr(path(&place), OPAQUE, b"y", XattrFlags::empty())
                .during("set attribute of", shown())?;
        }
        merge(&inside, &place)?;
    }
    // The unpacker keeps the times of directories, and the time of this one has changed with each name.
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

/// A path of an open directory.
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

/// Removes what has a name, if anything has: `kind` is what it is.
fn remove(parent: &OwnedFd, name: &CStr, kind: Option<FileType>) -> std::io::Result<()> {
    match kind {
        None => Ok(()),
        Some(FileType::Directory) => {
            let name = OsStr::from_bytes(name.to_bytes());
            fs::remove_dir_all(Path::new(&path(parent)).join(name))
        }
        Some(_) => Ok(unlinkat(parent, name, AtFlags::empty())?),
    }
}
