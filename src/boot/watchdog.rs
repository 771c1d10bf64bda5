//! The hardware watchdog (`rd.watchdog`), which `/init` pings until the real init takes over.
//!
//! Opening the device starts the watchdog. A thread pings it as long as `/init` runs, also while it waits for
//! a root device or for a user in a shell. execve(2) closes the device, and the watchdog keeps running: the
//! real init can then open the device, which only one process can have open. If it never does, the machine
//! restarts. The kernel then logs `watchdog did not stop!`. The pings end after a failure that leaves the
//! machine waiting. Source: Documentation/watchdog/watchdog-api.rst.

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
use crate::sys::signal::with_signal_stack;
use crate::sys::watchdog::{support, timeout};

/// The timeout in seconds to assume if the driver does not report it: hardware supports at least this.
const ASSUMED_TIMEOUT: u32 = 3;

struct Watchdog {
    device: File,
    path: String,
    /// Seconds.
    timeout: u32,
}

static WATCHDOG: Mutex<Option<Watchdog>> = Mutex::new(None);

/// Whether to ping. A signal handler clears this without the lock.
static PINGING: AtomicBool = AtomicBool::new(false);

fn watchdog() -> MutexGuard<'static, Option<Watchdog>> {
    // A panic while the lock was held has not changed the value.
    WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a watchdog. The command line can name any file, and a ping writes a byte to it: only a character
/// device is opened, and only one that answers as a watchdog is written to.
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
    // Opens the node that was checked, without waiting for a serial line or making it the controlling
    // terminal.
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

/// Opens the device, which starts the watchdog, and starts the thread that pings it.
///
/// # Errors
/// The device is not a watchdog, or cannot be opened. The boot can continue.
pub fn start(path: &str) -> Result<()> {
    let device = open(path)?;
    let timeout = match timeout(&device) {
        Ok(seconds) => u32::try_from(seconds).unwrap_or(ASSUMED_TIMEOUT).max(1),
        Err(errno) => {
            debug!(
                "{path} does not report its timeout: {}",
                crate::error::name(errno)
            );
            ASSUMED_TIMEOUT
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
    PINGING.store(true, Ordering::Relaxed);
    let interval = Duration::from_millis(u64::from(timeout).saturating_mul(1000) / 3);
    let thread = std::thread::Builder::new().spawn(with_signal_stack(move || {
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

/// Pings the watchdog, which restarts its timeout. Returns whether there is one to ping.
pub fn ping() -> bool {
    let mut watchdog = watchdog();
    let pinged = PINGING.load(Ordering::Relaxed);
    let Some(watchdog) = watchdog.as_mut().filter(|_| pinged) else {
        return false;
    };
    if let Err(error) = watchdog.device.write_all(b"\0") {
        warn!("ping {}: {error}", watchdog.path);
    }
    true
}

/// Ends the pings, so that the watchdog restarts the machine. Returns the number of seconds until then;
/// `None` without a watchdog.
pub fn stop_pinging() -> Option<u32> {
    PINGING.store(false, Ordering::Relaxed);
    watchdog().as_ref().map(|watchdog| watchdog.timeout)
}

/// [`stop_pinging`] for a signal handler: it takes no lock. Returns whether a watchdog was pinged.
pub fn stop_pinging_from_handler() -> bool {
    PINGING.swap(false, Ordering::Relaxed)
}

/// [`stop`] for a signal handler. If another thread holds the lock, the watchdog keeps running.
pub fn stop_from_handler() {
    if let Ok(mut watchdog) = WATCHDOG.try_lock()
        && let Some(watchdog) = watchdog.as_mut()
    {
        PINGING.store(false, Ordering::Relaxed);
        // The magic close takes effect when the device is closed, and a halt does not close it: a watchdog
        // that the kernel does not stop at a halt keeps running.
        let _ = watchdog.device.write_all(b"V");
    }
}

/// Stops the watchdog if its driver allows that (`nowayout`): it must not restart a machine that is to
/// be halted or switched off.
pub fn stop() {
    if let Some(mut watchdog) = watchdog().take() {
        // The magic close; a driver without it stops at any close.
        if let Err(error) = watchdog.device.write_all(b"V") {
            warn!("stop {}: {error}", watchdog.path);
        }
    }
}
