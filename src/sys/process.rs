//! Child processes.

use std::ffi::{CStr, c_int};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::signal::guarded;

/// Starts the program at `path` with `arguments`, its own name first, and this one's environment. It
/// leads a session of its own, with standard input as controlling terminal where that is a terminal:
/// what job control and Ctrl-C need.
///
/// Not std's Command, which with anything to be done between fork and exec wants a pair of sockets: a
/// kernel without CONFIG_UNIX has none, and a rescue shell is not to need a network.
pub fn start_session(path: &CStr, arguments: &[&CStr]) -> io::Result<c_int> {
    let mut argv: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    argv.push(ptr::null());
    // An errno, or the end at once when the program has replaced the child: both ends are close-on-exec.
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: other threads do not go on in the child, so it must not wait for a lock that one of them
    // had: it makes system calls, allocates nothing, and ends.
    let child = match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => child.as_raw(),
        ForkResult::Child => {
            // Not a terminal, or not ours to take: the shell works without job control.
            if rustix::process::setsid().is_ok() {
                let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
            }
            // SAFETY: `path` ends with NUL, as every string of `argv` does; that ends with a null
            // pointer. All of them live in the caller, of which this is a copy.
            unsafe { libc::execv(path.as_ptr(), argv.as_ptr()) };
            let errno = nix::errno::Errno::last_raw();
            // Without it the parent takes this for a program that has ended.
            let _ = rustix::io::write(&writer, &errno.to_ne_bytes());
            // SAFETY: nothing that the parent has is flushed or undone by it.
            unsafe { libc::_exit(127) }
        }
    };
    drop(writer);
    let mut errno = [0; size_of::<c_int>()];
    match reader.read_exact(&mut errno) {
        Ok(()) => {
            // Nobody else is to be told of it. Where it has been reaped already, that is as well.
            let _ = waitpid(Pid::from_raw(child), WaitOptions::empty());
            Err(io::Error::from_raw_os_error(c_int::from_ne_bytes(errno)))
        }
        Err(_) => Ok(child),
    }
}

/// Waits for any child; `None` where there is none left.
pub fn reap() -> Option<c_int> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
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
        let thread = std::thread::Builder::new().spawn_scoped(scope, guarded(run));
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
    use std::ffi::CString;
    use std::fs::{self, File};
    use std::io::Write as _;
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

    #[test]
    fn a_program_leads_its_session_and_one_that_cannot_be_started_says_why() {
        let scratch =
            std::env::temp_dir().join(format!("layerinit-session-{}", std::process::id()));
        // The fields after the name are state, parent, process group and session.
        let script = format!(
            "read pid name state parent group session rest </proc/$$/stat; \
             echo $# $0 $((pid == $$ && group == $$ && session == $$)) >{}",
            scratch.display()
        );
        let script = CString::new(script).unwrap();
        let pid = start_session(c"/bin/sh", &[c"sh", c"-c", &script, c"zero", c"one"]).unwrap();
        let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty())
            .unwrap()
            .unwrap();
        assert_eq!(status.exit_status(), Some(0));
        assert_eq!(fs::read_to_string(&scratch).unwrap(), "1 zero 1\n");
        fs::remove_file(&scratch).unwrap();

        let error = start_session(c"/nowhere/sh", &[c"-sh"]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
