//! Verifies that the real init can be executed, before the point of no return: it exists in the new root, it
//! is a program for this machine, and so is every interpreter that the kernel needs with it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use log::warn;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, openat, openat2};
use rustix::io::Errno;
use rustix::system::uname;

use super::filesystem::MOVED_MOUNTS;
use super::resolve::resolve;
use crate::bytes::Opened;
use crate::error::{Cause, Context, Error, Result};
use crate::format::elf::{Machines, NotExecutable, interpreter};
use crate::text::shown;

/// The most interpreters of interpreters that the kernel follows (exec_binprm in fs/exec.c).
pub const MAX_INTERPRETERS: usize = 5;

/// Why a file cannot be the real init.
struct Refusal {
    error: Error,
    /// Whether the file exists and may be damaged. Another program in its place would hide that.
    fault: bool,
}

impl From<Error> for Refusal {
    /// `/init` skips a file that does not exist, or a dangling link, as the kernel does. Any other errno may
    /// be a fault of the medium or of the filesystem.
    fn from(error: Error) -> Self {
        const MISSING: [Errno; 4] = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG];
        let fault = error.errno().is_none_or(|errno| !MISSING.contains(&errno));
        Self { error, fault }
    }
}

/// Finds the first of `inits` that can be executed with `root` as the root directory.
///
/// # Errors
///
/// None of them can be executed; or one exists but is damaged or cannot be read, since the next one would
/// start another system.
pub fn find_init<'a>(root: &str, inits: &'a [String]) -> Result<&'a str> {
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
        match check_program(&directory, init, machines, MAX_INTERPRETERS) {
            Ok(()) => {
                for (other, refusal) in inits.iter().zip(&refusals) {
                    if exists(&directory, other) {
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

/// Whether the root holds anything of this name, even a dangling link.
fn exists(root: &OwnedFd, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}

/// Checks one program, and its interpreter in turn.
fn check_program(
    root: &OwnedFd,
    path: &str,
    machines: Machines,
    depth: usize,
) -> std::result::Result<(), Refusal> {
    // The name of a script's interpreter may end in a carriage return, which some editors write.
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
    // Possible only if the initramfs itself is the system.
    let own = || std::fs::metadata("/proc/self/exe");
    let here = rustix::fs::fstat(root).is_ok_and(|root| root.st_dev == metadata.dev());
    if here && own().is_ok_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino())) {
        return no("this is the running /init itself".into());
    }
    // `file` is an O_PATH descriptor, which cannot be read. This path opens the same file.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Some(mount) = hidden_by(root, &name) {
        return no(format!(
            "it is in /{mount}, and the filesystem that is mounted there hides it"
        ));
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
    check_program(root, &needs, machines, depth.saturating_sub(1)).map_err(
        |Refusal { error, fault }| {
            let error = Error::with("find", "its interpreter", Cause::Because(Box::new(error)));
            let error = Error::with("check", &shown, Cause::Because(Box::new(error)));
            Refusal { error, fault }
        },
    )
}

/// The mount that will be moved over a file of the new root. `file` is the file's path in /proc/self/fd.
fn hidden_by(root: &OwnedFd, file: &str) -> Option<&'static str> {
    let root = format!("/proc/self/fd/{}", root.as_raw_fd());
    let root = fs::read_link(root).ok()?;
    let file = fs::read_link(file).ok()?;
    let inside = file.strip_prefix(&root).ok()?;
    let mut moved = MOVED_MOUNTS.into_iter();
    moved.find(|name| root != Path::new("/") && inside.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_init_is_passed_over() {
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
}
