//! Child processes.

use std::ffi::{CStr, c_char, c_int};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::signal::with_signal_stack;

/// Starts the program at `path` with `arguments`, the first of which is its name, and the environment of this
/// process. It leads a new session, whose controlling terminal is standard input if that is a terminal: job
/// control and Ctrl-C need both. Returns its process id.
///
/// std's Command is not used: where code runs between fork and exec, it needs a pair of sockets, and a kernel
/// without CONFIG_UNIX has none.
pub fn start_session(path: &CStr, arguments: &[&CStr]) -> io::Result<c_int> {
    start(path, arguments, None, Session::Own, || Ok(()))
}

/// The same in the session of this process, which becomes its leader, as the foreground process group of the terminal:
/// when the leader of a session ends, the kernel drops what the terminal has not transmitted yet (disassociate_ctty in
/// drivers/tty/tty_jobctrl.c), and so the last words of a program that leads. The program gets an environment, strings
/// `NAME=VALUE`. `prepare` runs in the child and must only make system calls. SIGTTOU has to be blocked.
pub fn start_foreground_as(
    path: &CStr,
    arguments: &[&CStr],
    environment: &[&CStr],
    prepare: impl FnOnce() -> rustix::io::Result<()>,
) -> io::Result<c_int> {
    start(
        path,
        arguments,
        Some(environment),
        Session::OfParent,
        prepare,
    )
}

/// The session of a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    Own,
    OfParent,
}

/// Makes this process the leader of a session, with standard input as its terminal. Standard input may be no terminal,
/// or another session's: a shell then lacks job control.
fn lead_session() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
}

fn start(
    path: &CStr,
    arguments: &[&CStr],
    environment: Option<&[&CStr]>,
    session: Session,
    prepare: impl FnOnce() -> rustix::io::Result<()>,
) -> io::Result<c_int> {
    let argv = pointers(arguments);
    let envp = environment.map(pointers);
    // The child writes an errno if it fails. Otherwise execve(2) closes the pipe: its ends are close-on-exec.
    let (mut reader, writer) = io::pipe()?;
    if session == Session::OfParent {
        lead_session();
    }
    // SAFETY: the child has none of the other threads, so it must not wait for a lock that one of them held:
    // it only makes system calls, allocates nothing, and exits.
    let child = match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => child.as_raw(),
        ForkResult::Child => {
            match session {
                Session::Own => lead_session(),
                Session::OfParent => {
                    let _ = rustix::process::setpgid(None, None);
                    // Standard input may be no terminal.
                    let group = rustix::process::getpgrp();
                    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), group);
                }
            }
            let errno = match (prepare(), &envp) {
                (Err(errno), _) => errno.raw_os_error(),
                (Ok(()), Some(envp)) => {
                    // SAFETY: NUL ends `path` and every string of `argv` and `envp`, and a null pointer ends both
                    // lists. All of them belong to the parent, whose memory the child has a copy of.
                    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
                    nix::errno::Errno::last_raw()
                }
                (Ok(()), None) => {
                    // SAFETY: as above.
                    unsafe { libc::execv(path.as_ptr(), argv.as_ptr()) };
                    nix::errno::Errno::last_raw()
                }
            };
            // If the write fails, the parent sees a program that has exited.
            let _ = rustix::io::write(&writer, &errno.to_ne_bytes());
            // SAFETY: _exit(2) flushes and undoes nothing of the parent.
            unsafe { libc::_exit(127) }
        }
    };
    drop(writer);
    let mut errno = [0; size_of::<c_int>()];
    match reader.read_exact(&mut errno) {
        Ok(()) => {
            // Reaps the child. If another call has done so, the error is harmless.
            let _ = waitpid(Pid::from_raw(child), WaitOptions::empty());
            Err(io::Error::from_raw_os_error(c_int::from_ne_bytes(errno)))
        }
        Err(_) => Ok(child),
    }
}

/// The list of pointers that execve(2) takes.
fn pointers(strings: &[&CStr]) -> Vec<*const c_char> {
    let strings = strings.iter().map(|string| string.as_ptr());
    strings.chain([ptr::null()]).collect()
}

/// Replaces this process by a program. Returns only the error.
pub fn replace(path: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: NUL ends `path` and every string of the lists, and a null pointer ends both lists.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Sends a signal, also a realtime signal, to a process; -1 is every process but PID 1 and this one.
pub fn send(process: c_int, signal: c_int) {
    // SAFETY: kill(2) takes two integers. A process that has ended is no error here.
    unsafe { libc::kill(process, signal) };
}

/// Waits for any child to end, and returns its process id; `None` if there is no child.
pub fn reap() -> Option<c_int> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) => return Some(pid.as_raw_nonzero().get()),
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Runs `work` in a forked child that the caller does not wait for. Only `kept` stays open in the child: the
/// real init could not open a watchdog that is still open there.
pub fn fork_detached(kept: BorrowedFd<'_>, work: impl FnOnce()) -> nix::Result<()> {
    // SAFETY: the child has none of the other threads, so it must not wait for a lock that one of them held.
    // fork(3) releases those of the C library, and `work` takes no others.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            close_others(kept.as_raw_fd());
            work();
            // SAFETY: _exit(2) flushes and undoes nothing of the parent.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Closes all descriptors but `kept`. Before Linux 5.9 they stay open.
fn close_others(kept: RawFd) {
    let close_range = |first: RawFd, last: RawFd| {
        // SAFETY: only a child calls this, and it uses none of its parent's descriptors any more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }
    };
    if kept > 0 {
        close_range(0, kept.saturating_sub(1));
    }
    close_range(kept.saturating_add(1), RawFd::MAX);
}

/// Runs `work` on a new thread whose root and working directory are `root`, so that no path, symbolic link or
/// `..` leads out of it. The other threads keep theirs. When the function returns, the thread no longer keeps
/// a filesystem at `root` busy.
pub fn run_chrooted<T: Send>(
    root: &str,
    work: impl FnOnce() -> T + Send,
) -> std::result::Result<T, rustix::io::Errno> {
    let run = || {
        // SAFETY: CLONE_FS only gives this thread its own copy of root, working directory and umask; the
        // other threads keep sharing theirs.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let before = rustix::fs::open("/", flags, Mode::empty())?;
        rustix::process::chroot(root)?;
        rustix::process::chdir("/")?;
        rustix::process::umask(Mode::empty());
        let done = work();
        // A join can return before the kernel releases the root directory of the thread (do_exit).
        rustix::process::fchdir(before)?;
        rustix::process::chroot(".")?;
        Ok(done)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, with_signal_stack(run));
        match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            // In `/init` the panic hook has ended the boot already; tests get here.
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
    fn a_detached_child_has_only_the_kept_file_open() {
        let other = File::open("/dev/null").unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        let kept = writer.try_clone().unwrap();
        fork_detached(kept.as_fd(), || {
            let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            let other = fs::exists(format!("/proc/self/fd/{}", other.as_raw_fd()));
            let _ = writeln!(&kept, "{open} {}", other.is_ok_and(|there| there));
        })
        .unwrap();
        writer.flush().unwrap();
        drop((writer, kept));
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        // Two: the kept file, and the directory that is being read.
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
