//! The hardware watchdog (`rd.watchdog`): pinged until the real init has it.
//!
//! Opening the device starts it. It is pinged by a thread as long as this program waits for something:
//! a root device, a user in a shell. At execve(2) it is closed and runs on, so that the real init can
//! open it (no device can be opened twice) and the machine restarts if that never happens. The kernel
//! then says `watchdog did not stop!`. Where a failure leaves nothing to wait for, the pings end.
//! Source: Documentation/watchdog/watchdog-api.rst.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{debug, info, warn};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::sys::signal::guarded;
use crate::sys::watchdog::{support, timeout};

/// Where the driver does not tell its timeout, it is at least some seconds.
const UNKNOWN: u32 = 3;

struct Watchdog {
    device: File,
    path: String,
    /// Seconds.
    timeout: u32,
}

static WATCHDOG: Mutex<Option<Watchdog>> = Mutex::new(None);

/// Whether it is pinged: a signal handler ends that without the lock.
static PINGED: AtomicBool = AtomicBool::new(false);

fn watchdog() -> MutexGuard<'static, Option<Watchdog>> {
    // A panic while it was held has left it as it was.
    WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a watchdog. The command line can name anything, and a ping is a byte written: what is not a
/// character device is not opened, and what does not answer as a watchdog is not written to.
fn open(path: &str) -> Result<File> {
    const STEP: &str = "open watchdog";
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let node = openat(CWD, path, flags, Mode::empty()).during(STEP, path)?;
    let mode = fstat(&node).during(STEP, path)?.st_mode;
    let kind = match FileType::from_raw_mode(mode) {
        FileType::CharacterDevice => None,
        FileType::BlockDevice => Some("a block device"),
        FileType::Directory => Some("a directory"),
        FileType::RegularFile => Some("a regular file"),
        _ => Some("not a character device"),
    };
    if let Some(kind) = kind {
        let what = format!("{path} is not a watchdog: it is {kind}");
        return Err(Error::new(STEP, path, what));
    }
    // The same node that was looked at. A serial line is not waited for, and becomes no terminal of ours.
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match openat(
        CWD,
        format!("/proc/self/fd/{}", node.as_raw_fd()),
        flags,
        Mode::empty(),
    ) {
        // A kernel without proc.
        Err(Errno::NOENT) => openat(CWD, path, flags, Mode::empty()),
        opened => opened,
    };
    let device = opened.during(STEP, path)?;
    if let Err(errno) = support(&device) {
        let answer = crate::error::name(errno);
        let what = format!("{path} is not a watchdog: WDIOC_GETSUPPORT gives {answer}");
        return Err(Error::new(STEP, path, what));
    }
    Ok(device.into())
}

/// Opens the device, which starts the watchdog, and pings it from now on.
pub fn start(path: &str) -> Result<()> {
    let device = open(path)?;
    let timeout = match timeout(&device) {
        Ok(seconds) => u32::try_from(seconds).unwrap_or(UNKNOWN).max(1),
        Err(errno) => {
            debug!(
                "{path} does not tell its timeout: {}",
                crate::error::name(errno)
            );
            UNKNOWN
        }
    };
    info!(
        "{path} restarts the machine after {timeout} s without a ping; pinged until the real init starts"
    );
    *watchdog() = Some(Watchdog {
        device,
        path: path.into(),
        timeout,
    });
    PINGED.store(true, Ordering::Relaxed);
    let interval = Duration::from_millis(u64::from(timeout).saturating_mul(1000) / 3);
    let thread = std::thread::Builder::new().spawn(guarded(move || {
        while ping() {
            std::thread::sleep(interval);
        }
    }));
    match thread {
        Ok(_) => Ok(()),
        Err(error) => {
            stop();
            Err(Error::new("ping watchdog", path, error.to_string()))
        }
    }
}

/// Gives the machine the whole timeout again. Whether there is a watchdog to be pinged.
pub fn ping() -> bool {
    let mut watchdog = watchdog();
    let pinged = PINGED.load(Ordering::Relaxed);
    let Some(watchdog) = watchdog.as_mut().filter(|_| pinged) else {
        return false;
    };
    if let Err(error) = watchdog.device.write_all(b"\0") {
        warn!("ping {}: {error}", watchdog.path);
    }
    true
}

/// Ends the pings: the watchdog restarts the machine. Within how many seconds; `None` where there is
/// no watchdog.
pub fn abandon() -> Option<u32> {
    PINGED.store(false, Ordering::Relaxed);
    watchdog().as_ref().map(|watchdog| watchdog.timeout)
}

/// [`abandon`] for a signal handler, which waits for no lock. Whether a watchdog was pinged.
pub fn abandon_from_handler() -> bool {
    PINGED.swap(false, Ordering::Relaxed)
}

/// [`stop`] for a signal handler. Where the lock is held just now, the watchdog runs on.
pub fn stop_from_handler() {
    if let Ok(mut watchdog) = WATCHDOG.try_lock()
        && let Some(watchdog) = watchdog.as_mut()
    {
        PINGED.store(false, Ordering::Relaxed);
        // A driver stops at the close after it, which the end of the machine is not: where it has no timer
        // of its own in the kernel, it runs on.
        let _ = watchdog.device.write_all(b"V");
    }
}

/// Stops the watchdog, where its driver allows it (`nowayout`): a machine that is to stand still must
/// not be restarted.
pub fn stop() {
    if let Some(mut watchdog) = watchdog().take() {
        // The magic close. A driver that knows none stops at any close.
        if let Err(error) = watchdog.device.write_all(b"V") {
            warn!("stop {}: {error}", watchdog.path);
        }
    }
}
