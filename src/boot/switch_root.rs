//! Switches to the new root: moves the mounts, makes it `/`, frees the old root, and executes the real init.
//!
//! [`crate::boot::verify_init`] has checked everything that can be checked before. The first move cannot be
//! undone, so later errors are only reported.

use std::ffi::{CStr, CString, OsString};
use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use log::{LevelFilter, debug, info, warn};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, fstatvfs, mkdirat,
    openat, openat2, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, mount_move, move_mount, unmount};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::process::{chdir, chroot, pivot_root};
use rustix::thread::set_name;

use super::filesystem::{MOVED_MOUNTS, is_in_memory, is_mount_point, is_mount_target, is_overlay};
use super::priority::restore_priority;
use super::release::Later;
use super::watchdog;
use crate::error::{self, Context, Error, Result};
use crate::sys::process::fork_detached;
use crate::sys::program::expect_no_reuse;
use crate::text;

/// The most names of the old root, without symbolic links, that `/init` itself deletes before the real init
/// starts. The loaders of `layerinit build` hold fewer. A child deletes the rest, as in util-linux's
/// switch_root, because 2,000 files take 26 ms. The child is not always forked, because the real init may be
/// a program that waits for the only child it expects.
const DELETED_BEFORE_EXEC: u32 = 128;

/// Makes `root`, a mount point, the root directory. Moves /dev, /proc, /sys and /run there and frees the old
/// root, if that is a ramfs or tmpfs. A file that a mounted layer needs loses only its name. A child frees an
/// old root that is large or has many names, and everything else that takes long (`later`).
///
/// Returns the bytes freed so far, as the filesystem counts them; a ramfs does not count.
///
/// # Errors
///
/// `root` is not a mount point, or cannot become `/`. Where the error comes before the first move, nothing
/// has changed.
pub fn switch(root: &str, later: Later) -> Result<u64> {
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
            "no filesystem is mounted there",
        ));
    }
    let disposable = is_in_memory(&fstatfs(&old).during("stat filesystem of", "/")?);

    // Opens all mount points before the first move, because that needs /proc to resolve links.
    let mount_points = MOVED_MOUNTS.map(|name| (name, open_mount_point(name, &new)));
    for (name, mount_point) in mount_points {
        if let Err(error) = mount_point.and_then(|target| move_mount_into(name, target)) {
            warn!("{error}; the new root will lack /{name}");
        }
    }
    chdir(root).during("enter", root)?;
    // From Linux 7.0 on, the rootfs can be pivoted away like any other filesystem; before, EINVAL.
    let pivoted = pivot_root(".", ".");
    match pivoted {
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
    // The new root is `/`. Unmounting the old one would free nothing: Linux 7.2 keeps the rootfs mounted
    // out of reach, and a loop device on a layer file keeps it busy anyway.
    let before = free_bytes(&old);
    match disposable {
        true => free_old_root(&old, old_device, later),
        false => debug!("the old root is neither ramfs nor tmpfs, so not freed"),
    }
    let freed = free_bytes(&old).saturating_sub(before);
    if pivoted.is_ok() {
        // The old root is mounted over the new one now.
        if let Err(errno) = unmount(".", UnmountFlags::DETACH) {
            warn!("unmount the old root: {}", error::name(errno));
        }
    }
    chdir("/").during("enter", "/")?;
    Ok(freed)
}

/// Opens the mount point for the mount `/name` in the new root: a directory of that name, or the
/// [target](is_mount_target) of a link of that name. A missing directory is created. In an overlay anything
/// else is replaced by a directory, which changes no layer. `None` if nothing is mounted on `/name`.
fn open_mount_point(name: &str, new: &OwnedFd) -> Result<Option<OwnedFd>> {
    const STEP: &str = "open mount point";
    let shown = format!("/{name}");
    if !is_mount_point(shown.as_ref()) {
        debug!("nothing is mounted on {shown}, so nothing is moved");
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || openat(new, name, flags | OFlags::NOFOLLOW, Mode::empty());
    let create = || {
        mkdirat(new, name, Mode::from_raw_mode(0o755)).during("create", &shown)?;
        open().during(STEP, &shown).map(Some)
    };
    match open() {
        Err(Errno::NOENT) => return create(),
        // A file, or a link.
        Err(Errno::NOTDIR | Errno::LOOP) => {}
        done => return done.during(STEP, &shown).map(Some),
    }
    let what = match openat2(new, name, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(target) => match path_below(new, &target) {
            Some(place) if is_mount_target(name, &place) => return Ok(Some(target)),
            Some(place) => {
                let place = text::shown(place.as_os_str().as_encoded_bytes());
                format!("it is a symbolic link to {place}, which has another use")
            }
            None => "it is a symbolic link".into(),
        },
        Err(errno) => format!(
            "it is neither a directory nor a link to one: {}",
            error::name(errno)
        ),
    };
    if !fstatfs(new).is_ok_and(|filesystem| is_overlay(&filesystem)) {
        return Err(Error::new(STEP, &shown, what));
    }
    unlinkat(new, name, AtFlags::empty()).during("remove", &shown)?;
    let created = create()?;
    warn!("{shown} of the new root: {what}; replaced by a directory");
    Ok(created)
}

/// The path of a directory of the new root, as seen in the new root.
fn path_below(new: &OwnedFd, directory: &OwnedFd) -> Option<PathBuf> {
    let path = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let (root, directory) = (path(new)?, path(directory)?);
    Some(Path::new("/").join(directory.strip_prefix(root).ok()?))
}

/// Moves the mount `/name` to its mount point in the new root, if there is such a mount.
fn move_mount_into(name: &str, target: Option<OwnedFd>) -> Result<()> {
    let Some(target) = target else {
        return Ok(());
    };
    let from = format!("/{name}");
    move_mount(
        CWD,
        &from,
        &target,
        "",
        MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .during("move", format_args!("{from} into the new root"))
}

/// The free bytes of a filesystem, as it counts them.
fn free_bytes(directory: &OwnedFd) -> u64 {
    fstatvfs(directory).map_or(0, |filesystem| {
        filesystem.f_bfree.saturating_mul(filesystem.f_frsize)
    })
}

/// Deletes the files of the old root; if there are many, a child deletes the rest.
fn free_old_root(old: &OwnedFd, device: u64, later: Later) {
    let mut deletion = Deletion {
        device,
        left: if later.is_due() {
            0
        } else {
            DELETED_BEFORE_EXEC
        },
    };
    if deletion.empty(old) {
        return;
    }
    deletion.left = u32::MAX;
    let rest = || {
        restore_priority();
        let _ = set_name(c"layerinit-free");
        // The child's /dev/kmsg is closed, and a record could lift the limit again.
        log::set_max_level(LevelFilter::Off);
        deletion.empty(old);
        later.free_initrd();
    };
    match fork_detached(old.as_fd(), rest) {
        Ok(()) => debug!("the old root is large: a child deletes the rest"),
        Err(error) => {
            debug!("the old root is deleted before the real init starts: {error}");
            deletion.empty(old);
            later.free_initrd();
        }
    }
}

/// Deletes the files of one filesystem with as few system calls as possible, because the real init waits.
struct Deletion {
    device: u64,
    /// Names that may still be deleted. Symbolic links do not count.
    left: u32,
}

impl Deletion {
    /// Deletes everything in a directory, except on other filesystems, and continues after errors. Returns
    /// `false` if names were left when [`left`](Self::left) ran out.
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
                    "{} of the old root cannot be deleted: {}",
                    text::shown(name.to_bytes()),
                    error::name(errno)
                ),
            }
        }
        true
    }

    /// Deletes a directory and everything in it; `false` as for [`empty`](Self::empty).
    fn remove_directory(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
    ) -> std::result::Result<bool, Errno> {
        // Most directories are the mount points of mounts that were moved, and empty.
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

/// Executes the real init in place of `/init`: its arguments are its name, `more`, and `arguments` of the
/// kernel without the first. The environment is passed on, with `variables` added. Returns only on failure.
pub fn exec(
    init: &str,
    more: Vec<CString>,
    variables: Vec<CString>,
    arguments: &[CString],
) -> Error {
    let failed = |what: String| Error::new("start", init, what);
    let Ok(path) = CString::new(init) else {
        return failed("its name holds a NUL byte".into());
    };
    let mut argv = vec![path.clone()];
    argv.extend(more);
    argv.extend(arguments.iter().skip(1).cloned());
    info!("starting {init}");
    watchdog::ping();
    // Freeing the pages of `/init` takes a millisecond. Without a socket the real init waits for it.
    let program = keep_program_open();
    expect_no_reuse();
    if let Err(errno) = &program {
        debug!(
            "the memory of /init is freed first: {}",
            error::name(*errno)
        );
    }
    restore_priority();
    let Err(errno) = match variables.is_empty() {
        true => nix::unistd::execv(&path, &argv),
        false => {
            let variable = |(name, value): (OsString, OsString)| {
                CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok()
            };
            let mut environment: Vec<_> = std::env::vars_os().filter_map(variable).collect();
            environment.extend(variables);
            nix::unistd::execve(&path, &argv, &environment)
        }
    };
    failed(errno.to_string())
}

/// Keeps the file of `/init` open until the real init runs, so that a kernel thread frees its pages, not
/// execve(2). Returns what has to stay open until then.
fn keep_program_open() -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = rustix::fs::open("/proc/self/exe", flags, Mode::empty())?;
    keep_open(program.as_fd())
}

/// Keeps a file open until some time after the returned socket is closed.
///
/// The file is in a message to a socket that only this message holds open. When the other socket is closed,
/// the kernel finds that nobody can receive the message, and drops it (unix_gc in net/unix/garbage.c: from
/// Linux 6.9 on in a worker, before that at once).
fn keep_open(file: BorrowedFd) -> std::result::Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let (sender, receiver) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let files = [file, receiver.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    let message = [IoSlice::new(b"/")];
    sendmsg(&sender, &message, &mut control, SendFlags::NOSIGNAL)?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_file_is_open_until_the_socket_is_closed_and_not_for_ever() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let socket = keep_open(writer.as_fd()).unwrap();
        drop(writer);
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let open = reader.read(&mut [0]).unwrap_err();
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
        rustix::io::ioctl_fionbio(&reader, false).unwrap();
        drop(socket);
        // This waits for the kernel to close the pipe.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
