//! A cpio layer: an archive in a tmpfs of its own, unpacked over the layers below.
//!
//! The kernel unpacks all archives into one tree. So a member may need what earlier ones have left: a
//! directory for it to go into, a symbolic link on the way there, a directory that is not empty and
//! stays. An overlay of the layers below, with the new tmpfs on top, is that tree: the unpacker works
//! there, and what it changes lands in the tmpfs, directories that it only needs with their owner,
//! mode, time and attributes. Then the overlay goes, and the tmpfs is the layer.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, open, stat, utimensat,
};
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, mount_remount, unmount};

use super::context::{Context, Mount};
use super::overlay::{self, Stack};
use super::upper::copy_attributes;
use crate::error::{Context as _, Result};
use crate::sys::process::run_chrooted;

/// Runs `work` with the root directory where the archive is to be unpacked, and attaches what it
/// leaves at `target`, sealed. `below` are the layers below; `bench` is an empty directory on another
/// filesystem than theirs. `work` gets the directory that takes what it changes, if that is not its
/// root itself: see [`unpack`](super::unpack::unpack).
pub fn layer<T: Send>(
    name: &str,
    below: &Stack,
    bench: &str,
    target: &str,
    work: impl FnOnce(Option<OwnedFd>) -> T + Send,
) -> Result<T> {
    let done = match below.names.last() {
        None => {
            tmpfs(name, target)?;
            run_chrooted(target, || work(None)).during("enter", target)?
        }
        Some(_) => {
            tmpfs(name, bench)?;
            let done = over(below, bench, target, work)?;
            unmount(bench, UnmountFlags::empty()).during("unmount", bench)?;
            done
        }
    };
    mount_remount(target, MountFlags::RDONLY, "").during("seal", target)?;
    Ok(done)
}

/// The same in `bench`, a directory of a tmpfs, which then holds what changed in `upper`.
pub(super) fn over<T: Send>(
    below: &Stack,
    bench: &str,
    target: &str,
    work: impl FnOnce(Option<OwnedFd>) -> T + Send,
) -> Result<T> {
    let [upper, scratch, root] = ["upper", "work", "root"].map(|name| format!("{bench}/{name}"));
    for directory in [&upper, &scratch, &root] {
        fs::create_dir(directory).during("create", directory)?;
    }
    // What `/` is like if the archive does not say.
    let top = below.names.last().map_or("", String::as_str);
    let top = &format!("{}/{top}", below.directory);
    copy_attributes(top, &upper)?;
    let time = stat(top).during("stat", top)?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: time.st_mtime,
            tv_nsec: time.st_mtime_nsec.try_into().unwrap_or(0),
        },
    };
    utimensat(CWD, &upper, &times, AtFlags::empty()).during("set time of", &upper)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(&upper, flags, Mode::empty()).during("open", &upper)?;

    overlay::collect(below, bench, &root)?;
    let done = run_chrooted(&root, || work(Some(directory))).during("enter", &root)?;
    unmount(&root, UnmountFlags::empty()).during("unmount", &root)?;
    // overlayfs leaves its own directories in there, empty and without permissions.
    for directory in [&root, &scratch] {
        fs::remove_dir_all(directory).during("remove", directory)?;
    }
    Mount::again(&upper, false)?.attach(target)?;
    Ok(done)
}

pub(super) fn tmpfs(name: &str, target: &str) -> Result<()> {
    let context = Context::new("tmpfs")?;
    context.string("source", name)?;
    // The default of half the memory has nothing to do with what a layer needs.
    context.string("size", "100%")?;
    context.string("nr_inodes", "0")?;
    context.string("mode", "0755")?;
    context.mount(MountAttrFlags::empty())?.attach(target)
}
