//! The mounted root to the real init: move, make it `/`, free what was there, exec.
//!
//! Everything that can be checked is checked before ([`crate::boot::verify_init`]). From the first move on there
//! is no way back, and what still goes wrong is only reported.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use log::{LevelFilter, debug, info, warn};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, fstatvfs, mkdirat,
    openat, openat2, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, mount_move, move_mount, unmount};
use rustix::process::{chdir, chroot, pivot_root};
use rustix::thread::set_name;

use super::setup::{MOVED, belongs_at, is_in_memory, is_mount_point, is_overlay, take_turns};
use super::watchdog;
use crate::error::{self, Context, Error, Result};
use crate::sys::process::aside;
use crate::text;

/// Names of the old root that are deleted before the real init is started. The loaders that `layerinit
/// build` makes have fewer, besides a busybox's links. What is beyond does not hold up the real init
/// (2,000 files take 26 ms): a child deletes it, as that of util-linux's switch_root does. Nor is that
/// child always there: a real init may be a program that waits for the one child it started.
const IN_PLACE: u32 = 128;

/// Makes `root`, a mount point, the root directory. Moves /dev, /proc, /sys and /run there and frees
/// the old root, if that is a ramfs or tmpfs. Files that a mounted layer needs live on without their
/// names. Where there is much of it (`later`, or many names), a child does that. Returns bytes freed by
/// now, as far as the filesystem counts them: a ramfs does not.
pub fn root(root: &str, later: bool) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = openat(CWD, "/", flags, Mode::empty()).during("open", "/")?;
    let new = openat(CWD, root, flags, Mode::empty()).during("open", root)?;
    let (old_device, new_device) = (
        fstat(&old).during("stat", "/")?.st_dev,
        fstat(&new).during("stat", root)?.st_dev,
    );
    if old_device == new_device {
        return Err(Error::new(
            "switch to",
            root,
            "it is not a mounted filesystem of its own",
        ));
    }
    let disposable = is_in_memory(&fstatfs(&old).during("stat filesystem of", "/")?);

    // All places before the first move: /proc tells where links lead.
    let places = MOVED.map(|name| (name, place(name, &new)));
    for (name, place) in places {
        if let Err(error) = place.and_then(|place| carry(name, place)) {
            warn!("{error}; the new root has to do without /{name}");
        }
    }
    chdir(root).during("enter", root)?;
    // Linux 7.0 lets a process leave the rootfs like any other filesystem; before, EINVAL.
    let left = pivot_root(".", ".");
    match left {
        Ok(()) => {}
        Err(errno) => {
            debug!(
                "pivot_root: {}; moving the new root over the old one",
                error::name(errno)
            );
            mount_move(".", "/").during("move", format_args!("{root} to /"))?;
            chroot(".").during("change root to", root)?;
        }
    }
    // Committed. From here on, clean up. Unmounting alone frees nothing: Linux 7.2 keeps the rootfs
    // mounted out of sight, and a loop device on a layer file would keep it anyway.
    let before = free_bytes(&old);
    match disposable {
        true => clean_up(&old, old_device, later),
        false => debug!("the old root is neither ramfs nor tmpfs: left as it is"),
    }
    let freed = free_bytes(&old).saturating_sub(before);
    if left.is_ok() {
        // The old root lies over the new one now.
        if let Err(errno) = unmount(".", UnmountFlags::DETACH) {
            warn!("unmount the old root: {}", error::name(errno));
        }
    }
    chdir("/").during("enter", "/")?;
    Ok(freed)
}

/// Where the mount `/name` belongs in the new root: a directory of that name, or one to which a link of that
/// name leads and that [is there for it](belongs_at). What is missing is made. In an overlay anything else
/// is replaced: the layers keep it. `None`: there is no such mount.
fn place(name: &str, new: &OwnedFd) -> Result<Option<OwnedFd>> {
    const STEP: &str = "open mount point";
    let shown = format!("/{name}");
    if !is_mount_point(shown.as_ref()) {
        debug!("{shown} is not mounted: nothing to move");
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || openat(new, name, flags | OFlags::NOFOLLOW, Mode::empty());
    let make = || {
        mkdirat(new, name, Mode::from_raw_mode(0o755)).during("create", &shown)?;
        open().during(STEP, &shown).map(Some)
    };
    match open() {
        Err(Errno::NOENT) => return make(),
        // A file, or a link.
        Err(Errno::NOTDIR | Errno::LOOP) => {}
        done => return done.during(STEP, &shown).map(Some),
    }
    let what = match openat2(new, name, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(target) => match inside(new, &target) {
            Some(place) if belongs_at(name, &place) => return Ok(Some(target)),
            Some(place) => {
                let place = text::shown(place.as_os_str().as_encoded_bytes());
                format!("it is a symbolic link to {place}, which has another use")
            }
            None => "it is a symbolic link".into(),
        },
        Err(errno) => format!(
            "it is not a directory, and leads to none: {}",
            error::name(errno)
        ),
    };
    if !fstatfs(new).is_ok_and(|filesystem| is_overlay(&filesystem)) {
        return Err(Error::new(STEP, &shown, what));
    }
    unlinkat(new, name, AtFlags::empty()).during("remove", &shown)?;
    let made = make()?;
    warn!("{shown} of the new root: {what}; replaced by a directory");
    Ok(made)
}

/// Where a directory of the new root is, as seen from there.
fn inside(new: &OwnedFd, directory: &OwnedFd) -> Option<PathBuf> {
    let path = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let (root, directory) = (path(new)?, path(directory)?);
    Some(Path::new("/").join(directory.strip_prefix(root).ok()?))
}

/// Moves the mount `/name` to its place in the new root.
fn carry(name: &str, place: Option<OwnedFd>) -> Result<()> {
    let Some(place) = place else {
        return Ok(());
    };
    let from = format!("/{name}");
    move_mount(
        CWD,
        &from,
        &place,
        "",
        MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .during("move", format_args!("{from} into the new root"))
}

/// Free bytes of a filesystem, as it counts them.
fn free_bytes(directory: &OwnedFd) -> u64 {
    fstatvfs(directory).map_or(0, |filesystem| {
        filesystem.f_bfree.saturating_mul(filesystem.f_frsize)
    })
}

/// Deletes what is in the old root: most often all of it here and now; the rest in a child.
fn clean_up(old: &OwnedFd, device: u64, later: bool) {
    let mut cleanup = Cleanup {
        device,
        left: if later { 0 } else { IN_PLACE },
    };
    if cleanup.empty(old) {
        return;
    }
    cleanup.left = u32::MAX;
    let rest = || {
        take_turns();
        let _ = set_name(c"layerinit-free");
        // Its kernel log is closed, and the limit that records lift there is to stay as it is.
        log::set_max_level(LevelFilter::Off);
        cleanup.empty(old);
    };
    match aside(old.as_fd(), rest) {
        Ok(()) => debug!("there is much in the old root: a child deletes the rest"),
        Err(error) => {
            debug!("the old root is emptied before the real init starts: {error}");
            cleanup.empty(old);
        }
    }
}

/// Deletes what lies on one filesystem, with the fewest calls, as the real init waits.
struct Cleanup {
    device: u64,
    /// Names that may still be deleted, besides symbolic links.
    left: u32,
}

impl Cleanup {
    /// Deletes everything in a directory. Never goes into another filesystem, and goes on after
    /// errors. Whether it came to the end.
    fn empty(&mut self, directory: &OwnedFd) -> bool {
        let entries = match Dir::read_from(directory) {
            Ok(entries) => entries,
            Err(errno) => {
                warn!("free the old root: {}", error::name(errno));
                return true;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() != FileType::Symlink {
                let Some(left) = self.left.checked_sub(1) else {
                    return false;
                };
                self.left = left;
            }
            let removed = match entry.file_type() {
                FileType::Directory => self.remove_directory(directory, name),
                _ => unlinkat(directory, name, AtFlags::empty()).map(|()| true),
            };
            match removed {
                Ok(true) => {}
                Ok(false) => return false,
                Err(errno) => debug!(
                    "{} of the old root stays: {}",
                    text::shown(name.to_bytes()),
                    error::name(errno)
                ),
            }
        }
        true
    }

    /// Deletes a directory and all that is in it; `false` where there was too much.
    fn remove_directory(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
    ) -> std::result::Result<bool, Errno> {
        // Most are mount points that have been moved away: empty.
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            done => return done.map(|()| true),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = openat(directory, name, flags, Mode::empty())?;
        if fstat(&inside)?.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        if !self.empty(&inside) {
            return Ok(false);
        }
        unlinkat(directory, name, AtFlags::REMOVEDIR).map(|()| true)
    }
}

/// Starts the real init in place of this program, with `more` arguments after its own name, then the
/// kernel's `arguments`, and the environment as it is. Returns only in failure.
pub fn exec(init: &str, more: Vec<CString>, arguments: &[CString]) -> Error {
    let failed = |what: String| Error::new("start", init, what);
    let Ok(path) = CString::new(init) else {
        return failed("its name holds a NUL byte".into());
    };
    let mut argv = vec![path.clone()];
    argv.extend(more);
    argv.extend(arguments.iter().skip(1).cloned());
    info!("starting {init}");
    watchdog::ping();
    take_turns();
    let Err(errno) = nix::unistd::execv(&path, &argv);
    failed(errno.to_string())
}
