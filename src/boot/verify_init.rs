//! Proves that the real init can be executed, before the point of no return: it exists in the new
//! root, is a program for this machine, and so is everything that the kernel will want with it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use log::warn;
use rustix::fs::{
    CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::system::uname;

use super::setup::MOVED;
use crate::bytes::Opened;
use crate::error::{Cause, Context, Error, Result};
use crate::format::elf::{Machines, NotExecutable, interpreter};
use crate::text::shown;

/// The kernel follows `#!` and interpreters this deep (exec_binprm in fs/exec.c).
pub const DEPTH: usize = 5;

/// As many symbolic links as the kernel follows (MAXSYMLINKS in include/linux/namei.h).
pub const LINKS: usize = 40;

/// Why a file is not started.
struct Refusal {
    error: Error,
    /// It is there, and a fault may be why it cannot be used: another program in its place would hide that.
    fault: bool,
}

impl From<Error> for Refusal {
    /// What is not there, or leads nowhere, is passed over, as the kernel does; any other errno may be a
    /// fault of the medium or of the filesystem.
    fn from(error: Error) -> Self {
        const NOT_THERE: [Errno; 4] =
            [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG];
        let fault = error
            .errno()
            .is_none_or(|errno| !NOT_THERE.contains(&errno));
        Self { error, fault }
    }
}

/// The first of `inits` that can be executed with `root` as root directory. One that is there and
/// cannot be read, or is damaged, is an error: the next one is another system.
pub fn init<'a>(root: &str, inits: &'a [String]) -> Result<&'a str> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, root, flags, Mode::empty()).during("open", root)?;
    let place = match root {
        "/" => "the initramfs",
        _ => "the new root",
    };
    let failed = |refusals| Error::with("find init in", place, Cause::Each(refusals));
    let machines = Machines::of_running_kernel(uname().machine().to_bytes());
    let mut refusals = Vec::new();
    for init in inits {
        match executable(&directory, init, machines, DEPTH) {
            Ok(()) => {
                for (other, refusal) in inits.iter().zip(&refusals) {
                    if is_there(&directory, other) {
                        warn!("{refusal}; starting {init} instead");
                    }
                }
                return Ok(init);
            }
            Err(Refusal { error, fault: true }) => return Err(failed(vec![error])),
            Err(Refusal { error, .. }) => refusals.push(error),
        }
    }
    Err(failed(refusals))
}

/// Whether anything has this name in the root, were it a link that leads nowhere.
fn is_there(root: &OwnedFd, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}

/// Checks one file, and what it needs in turn.
fn executable(
    root: &OwnedFd,
    path: &str,
    machines: Machines,
    depth: usize,
) -> std::result::Result<(), Refusal> {
    // An interpreter's name ends where its line does: with a carriage return, from some editors.
    let shown = shown(path.as_bytes());
    let refuse = |what: String, fault| {
        let error = Error::new("check", &shown, what);
        Err(Refusal { error, fault })
    };
    let no = |what: String| refuse(what, false);
    let file = File::from(resolve(root.as_fd(), path).during("find", &shown)?);
    let metadata = file.metadata().during("stat", &shown)?;
    if !metadata.is_file() {
        return no("not a regular file".into());
    }
    if metadata.mode() & 0o111 == 0 {
        return no(format!(
            "not executable (mode {:04o})",
            metadata.mode() & 0o7777
        ));
    }
    let flags = fstatvfs(&file).during("stat filesystem of", &shown)?.f_flag;
    if flags.contains(StatVfsMountFlags::NOEXEC) {
        return no("its filesystem is mounted noexec".into());
    }
    // Only where the initramfs itself is the system can it be.
    let own = || std::fs::metadata("/proc/self/exe");
    let here = rustix::fs::fstat(root).is_ok_and(|root| root.st_dev == metadata.dev());
    if here && own().is_ok_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino())) {
        return no("this is the running /init itself".into());
    }
    // The O_PATH descriptor names the file; this opens it.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Some(mount) = hidden_by(root, &name) {
        return no(format!("it lies in /{mount}, which is mounted over it"));
    }
    let program = Opened::open(Path::new(&name)).map_err(|error| Refusal {
        error: error.of(&shown),
        fault: true,
    })?;
    let needs = match interpreter(&program, machines) {
        Ok(needs) => needs,
        Err(NotExecutable::Damaged(what)) => return refuse(what, true),
        Err(NotExecutable::Other(what)) => return no(what),
    };
    let Some(needs) = needs else {
        return Ok(());
    };
    if depth == 0 {
        return no("too many interpreters of interpreters".into());
    }
    executable(root, &needs, machines, depth.saturating_sub(1)).map_err(
        |Refusal { error, fault }| {
            let error = Error::with("find", "its interpreter", Cause::Each(vec![error]));
            let error = Error::with("check", &shown, Cause::Each(vec![error]));
            Refusal { error, fault }
        },
    )
}

/// The filesystem that is going to be moved over a file of the new root, whose descriptor has this name.
fn hidden_by(root: &OwnedFd, file: &str) -> Option<&'static str> {
    let root = format!("/proc/self/fd/{}", root.as_raw_fd());
    let root = fs::read_link(root).ok()?;
    let file = fs::read_link(file).ok()?;
    let inside = file.strip_prefix(&root).ok()?;
    let mut moved = MOVED.into_iter();
    moved.find(|name| root != Path::new("/") && inside.starts_with(name))
}

/// Finds a path as if `root` were `/`. Returns an O_PATH descriptor.
fn resolve(root: std::os::fd::BorrowedFd<'_>, path: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        // Before Linux 5.6, or refused by a container's filter; or somewhere something was renamed or mounted
        // meanwhile, and the kernel is not sure of a `..` on the way (openat2(2)).
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => walk(root, path),
        done => done,
    }
}

/// The same by hand: one component at a time, links included.
fn walk(root: std::os::fd::BorrowedFd<'_>, path: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = || openat(root, ".", flags, Mode::empty());
    let mut todo: Vec<String> = components(path);
    // The directories from the root down to where we are; `..` goes back up, but not beyond.
    let mut trail = vec![top()?];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let here = trail.last().ok_or(Errno::NOENT)?;
        let next = openat(here, &*name, flags, Mode::empty())?;
        match readlinkat(&next, "", Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP);
                }
                let target = target.to_string_lossy();
                if target.starts_with('/') {
                    trail = vec![top()?];
                }
                todo.extend(components(&target));
            }
            // No link (readlinkat(2)).
            Err(Errno::NOENT | Errno::INVAL) => trail.push(next),
            Err(errno) => return Err(errno),
        }
    }
    trail.pop().ok_or(Errno::NOENT)
}

/// Path components, the last first.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .rev()
        .map(Into::into)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_file_is_no_fault() {
        for (errno, fault) in [
            (Errno::NOENT, false),
            (Errno::NOTDIR, false),
            (Errno::LOOP, false),
            (Errno::NAMETOOLONG, false),
            (Errno::IO, true),
            (Errno::UCLEAN, true),
            (Errno::BADMSG, true),
            (Errno::STALE, true),
            (Errno::NODATA, true),
            (Errno::NXIO, true),
            (Errno::NOMEM, true),
            (Errno::ACCESS, true),
            (Errno::PERM, true),
            (Errno::TIMEDOUT, true),
        ] {
            let error = Error::with("find", "/sbin/init", Cause::Os(errno));
            assert_eq!(Refusal::from(error).fault, fault, "{errno:?}");
        }
    }

    #[test]
    fn both_ways_of_resolving_stay_in_the_root_and_agree() {
        let root = std::env::temp_dir().join(format!("layerinit-proof-{}", std::process::id()));
        std::fs::create_dir_all(root.join("usr/sbin")).unwrap();
        std::fs::write(root.join("usr/sbin/init"), "x").unwrap();
        for (target, link) in [
            ("/usr/sbin", "sbin"),
            ("../../../usr/sbin/init", "relative"),
            ("/sbin/init", "absolute"),
            ("around", "around"),
            ("nowhere", "dangling"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let directory = File::open(&root).unwrap();
        let inode = |found: std::result::Result<OwnedFd, Errno>| {
            found.map(|fd| File::from(fd).metadata().unwrap().ino())
        };
        for path in [
            "/sbin/init",
            "relative",
            "/absolute",
            "around",
            "dangling",
            "/..//./sbin/../sbin/init",
            "/none",
        ] {
            let by_kernel = openat2(
                &directory,
                path,
                OFlags::PATH,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            );
            assert_eq!(
                inode(walk(directory.as_fd(), path)),
                inode(by_kernel),
                "{path}"
            );
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
