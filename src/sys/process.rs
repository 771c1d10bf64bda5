//! Child processes.

use std::ffi::c_int;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

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
