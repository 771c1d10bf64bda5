//! Child processes.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};

/// Makes `command`'s process lead a session of its own, with its standard input as controlling
/// terminal where that is a terminal: what job control and Ctrl-C need.
pub fn own_session(command: &mut Command) -> &mut Command {
    let enter = || {
        // Not a terminal, or not ours to take: the shell works without job control.
        if rustix::process::setsid().is_ok() {
            let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
        }
        Ok::<_, io::Error>(())
    };
    // SAFETY: between fork and exec, `enter` makes two system calls and neither allocates nor
    // takes a lock.
    unsafe { command.pre_exec(enter) }
}

/// Waits for any child; `None` where there is none left.
pub fn reap() -> Option<c_int> {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(Some((pid, _))) => return Some(pid.as_raw_nonzero().get()),
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Runs `work` in a child of which nobody waits for the end, and that has no file open but `kept`: a
/// watchdog that stayed open there could not be opened by the real init.
pub fn aside(kept: BorrowedFd<'_>, work: impl FnOnce()) -> nix::Result<()> {
    // SAFETY: other threads do not go on in the child, so it must not wait for a lock that one of them
    // had. The C library's own are good after its fork, and `work` takes none.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            close_others(kept.as_raw_fd());
            work();
            // SAFETY: nothing that the parent has is flushed or undone by it.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Closes all descriptors but one. Linux 5.9 and newer; before, they stay open.
fn close_others(kept: RawFd) {
    let close_range = |first: RawFd, last: RawFd| {
        // SAFETY: only called in a child that does not use its parent's descriptors any more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }
    };
    if kept > 0 {
        close_range(0, kept.saturating_sub(1));
    }
    close_range(kept.saturating_add(1), RawFd::MAX);
}

/// Runs `work` on a thread whose root and working directory are `root`: whatever path it uses,
/// symbolic links and `..` included, it stays below. The rest of the process keeps its own. When it
/// returns, nothing of the thread is left at `root` that would keep a filesystem there busy.
pub fn confined<T: Send>(
    root: &str,
    work: impl FnOnce() -> T + Send,
) -> std::result::Result<T, rustix::io::Errno> {
    let run = || {
        // SAFETY: CLONE_FS takes nothing away that the rest of the process relies on: this thread
        // gets a copy of root, working directory and umask, the others keep theirs.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let before = rustix::fs::open("/", flags, Mode::empty())?;
        rustix::process::chroot(root)?;
        rustix::process::chdir("/")?;
        rustix::process::umask(Mode::empty());
        let done = work();
        // A thread has been joined before the kernel lets go of its root directory (do_exit).
        rustix::process::fchdir(before)?;
        rustix::process::chroot(".")?;
        Ok(done)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, run);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            // A panic has ended the boot in its hook already; tests see this.
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => {
                Err(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::AGAIN))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_child_aside_has_nothing_open_but_what_it_keeps() {
        let other = File::open("/dev/null").unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        let kept = writer.try_clone().unwrap();
        aside(kept.as_fd(), || {
            let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            let other = fs::exists(format!("/proc/self/fd/{}", other.as_raw_fd()));
            let _ = writeln!(&kept, "{open} {}", other.is_ok_and(|there| there));
        })
        .unwrap();
        writer.flush().unwrap();
        drop((writer, kept));
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        // The other one is the directory that it looked into.
        assert_eq!(said, "2 false\n");
    }
}
