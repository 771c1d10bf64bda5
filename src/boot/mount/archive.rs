//! A cpio layer: an archive that is unpacked into its own tmpfs, over the layers below.
//!
//! The kernel unpacks all archives into one tree. So a member may depend on files of earlier archives: its
//! parent directory, a symbolic link on its path, a directory that is not empty and stays. An overlay of the
//! layers below, with the tmpfs of the new layer as upper directory, is that tree: the archive is unpacked in
//! the overlay, and overlayfs copies up the directories that it changes, with owner, mode, time and
//! attributes. Then the overlay is unmounted, and its upper directory is the layer.

use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, open, stat, utimensat,
};
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, mount_remount, unmount};

use super::attributes::copy_attributes;
use super::context::{FsContext, Mount};
use super::overlay::{self, Stack};
use crate::error::{Context, Error, Result};
use crate::sys::process::run_chrooted;

/// Calls `unpack` in the root directory that an archive is to be unpacked into, and mounts the resulting
/// layer read-only at `target`. `below` are the layers below; `unpack_dir` is an empty directory on a
/// different filesystem from theirs; `source` is shown as the device of the mount. `unpack` gets the upper
/// directory of the overlay, if there are layers below: see [`unpack`](super::unpack::unpack).
///
/// # Errors
/// The layers below cannot be stacked, or the layer not be mounted; errors of `unpack` are in the value.
pub fn unpack_layer<T: Send>(
    source: &str,
    below: &Stack,
    unpack_dir: &str,
    target: &str,
    unpack: impl FnOnce(Option<OwnedFd>) -> T + Send,
) -> Result<T> {
    let done = match below.names.last() {
        None => {
            mount_tmpfs(source, &[], target)?;
            run_chrooted(target, || unpack(None)).during("enter", target)?
        }
        Some(_) => {
            mount_tmpfs(source, &[], unpack_dir)?;
            let done = unpack_over(below, unpack_dir, target, unpack)?;
            // Detached: a process that was forked in the meantime may have it open.
            unmount(unpack_dir, UnmountFlags::DETACH).during("unmount", unpack_dir)?;
            done
        }
    };
    mount_remount(target, MountFlags::RDONLY, "").during("remount read-only", target)?;
    Ok(done)
}

/// Calls `unpack` in an overlay of the layers `below`, and mounts its upper directory at `target`. The overlay is
/// made in `unpack_dir`, a directory of a tmpfs, in which `upper` remains.
pub fn unpack_over<T: Send>(
    below: &Stack,
    unpack_dir: &str,
    target: &str,
    unpack: impl FnOnce(Option<OwnedFd>) -> T + Send,
) -> Result<T> {
    let [upper, workdir, root] =
        ["upper", "work", "root"].map(|name| format!("{unpack_dir}/{name}"));
    for directory in [&upper, &workdir, &root] {
        fs::create_dir(directory).during("create", directory)?;
    }
    // `/` keeps the attributes and the time that it has in the layer below, unless the archive sets them.
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

    overlay::mount_for_new_layer(below, unpack_dir, &root)?;
    let done = run_chrooted(&root, || unpack(Some(directory))).during("enter", &root)?;
    unmount(&root, UnmountFlags::DETACH).during("unmount", &root)?;
    // overlayfs leaves directories in its work directory, which are empty and have mode 0.
    for directory in [&root, &workdir] {
        fs::remove_dir_all(directory).during("remove", directory)?;
    }
    Mount::bind(&upper)?.attach(target)?;
    Ok(done)
}

/// Mounts a tmpfs without limits, unless `options` set them: a layer may need more than the default of half
/// the memory.
pub fn mount_tmpfs(source: &str, options: &[String], target: &str) -> Result<()> {
    let context = FsContext::new("tmpfs")?;
    context.string("source", source)?;
    context.string("size", "100%")?;
    context.string("nr_inodes", "0")?;
    context.string("mode", "0755")?;
    for option in options {
        context.option(option)?;
    }
    context.mount(MountAttrFlags::empty())?.attach(target)
}

/// Refuses to unpack an archive that needs more bytes of memory than are available. The kernel would panic
/// when memory runs out, because there is no process to kill.
///
/// # Errors
/// The archive needs more than is available.
pub fn check_memory(layer: impl fmt::Display, needed: u64) -> Result<()> {
    match available_memory()? {
        Some(available) if available < needed => {
            let what =
                format!("it takes {needed} bytes of memory, of which {available} are available");
            Err(Error::new("unpack", layer, what))
        }
        _ => Ok(()),
    }
}

/// The bytes of memory that are available; `None` if the kernel does not say.
pub fn available_memory() -> Result<Option<u64>> {
    const MEMINFO: &str = "/proc/meminfo";
    let meminfo = fs::read_to_string(MEMINFO).during("read", MEMINFO)?;
    let kib = meminfo.lines().find_map(|line| {
        let value = line.strip_prefix("MemAvailable:")?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    Ok(kib.map(|kib| kib.saturating_mul(1024)))
}
