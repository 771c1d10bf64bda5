//! Merges the layers of many archives into one lower directory.
//!
//! Every archive is unpacked over all layers below it, and the cost of an overlay grows with the number of
//! its layers: the 499th archive took twice as long as the 250th. So the layers of consecutive archives are
//! merged into one directory, over which the next archives are unpacked. It has the directories, whiteouts
//! and opaque directories of an overlay of these layers, and hard links to their files, which is why all of
//! them are on one tmpfs. It is only used for unpacking: the new root consists of the layers themselves.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use log::debug;
use rustix::fs::{CWD, Mode, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::archive::{mount_tmpfs, unpack_over};
use super::context::Mount;
use super::overlay::Stack;
use super::trees::{DIRECTORY, merge};
use crate::error::{Context, Result};
use crate::sys::process::run_chrooted;

/// The number of layers that are stacked before they are merged. Fewer consecutive archives are not worth it.
pub const MERGE_EVERY: usize = 16;

/// Unpacks consecutive archives, and merges their layers as it goes.
pub struct MergedLayers {
    /// The mount point of the tmpfs that holds the layers.
    unpack_dir: String,
    /// The layers below all of them.
    below: Stack,
    /// The names of the layers that were unpacked.
    names: Vec<String>,
    /// The number of these that are merged, counted from the first.
    merged: usize,
    /// Whether to merge: false after a merge failed.
    enabled: bool,
}

impl MergedLayers {
    /// For archives over the layers `below`. Mounts a tmpfs at `unpack_dir`, an empty directory next to the
    /// directory of the layers.
    pub fn new(below: Stack, unpack_dir: &str) -> Result<Self> {
        mount_tmpfs("layers", &[], unpack_dir)?;
        Ok(Self {
            unpack_dir: unpack_dir.into(),
            below,
            names: Vec::new(),
            merged: 0,
            enabled: true,
        })
    }

    /// The layers that the next archive is unpacked over.
    pub fn lower(&self) -> Stack {
        let mut lower = self.below.clone();
        if self.merged > 0 {
            let directory = Path::new(&self.unpack_dir).file_name().unwrap_or_default();
            let merged = format!("../{}/merged", directory.to_string_lossy());
            lower.names.push(merged);
        }
        let separate = self.names.iter().skip(self.merged);
        lower.names.extend(separate.cloned());
        lower
    }

    /// Unpacks the next archive as [`unpack_layer`](super::archive::unpack_layer) does. The layer is mounted at
    /// `name` in the directory of the layers.
    pub fn unpack_layer<T: Send>(
        &mut self,
        name: &str,
        unpack: impl FnOnce(Option<OwnedFd>) -> T + Send,
    ) -> Result<T> {
        let target = format!("{}/{name}", self.below.directory);
        let directory = self.layer_directory(self.names.len());
        fs::create_dir(&directory).during("create", &directory)?;
        let lower = self.lower();
        let done = match lower.names.as_slice() {
            [] => {
                let upper = format!("{directory}/upper");
                fs::create_dir(&upper).during("create", &upper)?;
                let done = run_chrooted(&upper, || unpack(None)).during("enter", &upper)?;
                Mount::bind(&upper)?.attach(&target)?;
                done
            }
            _ => unpack_over(&lower, &directory, &target, unpack)?,
        };
        // Only the mount: the filesystem has to stay writable for the next archives.
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&target, flags, "").during("remount read-only", &target)?;
        self.names.push(name.into());
        if self.enabled && self.names.len().saturating_sub(self.merged) >= MERGE_EVERY {
            match self.merge() {
                Ok(()) => self.merged = self.names.len(),
                // For example, a tree deeper than the limit of open files. Unpacking is slower from here on,
                // but correct.
                Err(error) => {
                    debug!("{error}; layers are no longer merged");
                    (self.enabled, self.merged) = (false, 0);
                }
            }
        }
        Ok(done)
    }

    /// Removes the merged directory, and unmounts the tmpfs from `unpack_dir`. The layers stay mounted.
    pub fn finish(self) -> Result<()> {
        let merged = self.merged_directory();
        match fs::remove_dir_all(&merged) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).during("remove", &merged);
            }
            _ => {}
        }
        // Detached: the layers keep the tmpfs, and a process that was forked in the meantime may have it
        // open.
        unmount(&self.unpack_dir, UnmountFlags::DETACH).during("unmount", &self.unpack_dir)
    }

    /// The directory in which an archive is unpacked.
    fn layer_directory(&self, index: usize) -> String {
        format!("{}/{index}", self.unpack_dir)
    }

    fn merged_directory(&self) -> String {
        format!("{}/merged", self.unpack_dir)
    }

    /// Merges the layers that are not merged yet.
    fn merge(&self) -> Result<()> {
        let merged = self.merged_directory();
        if self.merged == 0 {
            fs::create_dir(&merged).during("create", &merged)?;
        }
        let open = |path: &str| openat(CWD, path, DIRECTORY, Mode::empty()).during("open", path);
        let to = open(&merged)?;
        for index in self.merged..self.names.len() {
            let from = format!("{}/upper", self.layer_directory(index));
            merge(&open(&from)?, &to)?;
        }
        Ok(())
    }
}
