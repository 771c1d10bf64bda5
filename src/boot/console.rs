//! The console: standard input, output and error.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use log::debug;
use rustix::fs::{Mode, OFlags, fstat, makedev, open};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stdin};

use crate::error::{Context, Result};

const CONSOLE: &str = "/dev/console";

/// How long a console may take to appear once its driver is loaded: some devices (virtio) report it later.
pub const DRIVER_WAIT: Duration = Duration::from_millis(500);

/// Opens /dev/console as the standard streams. If that fails, output goes to the kernel log, input is
/// /dev/null, and the error is returned: a machine without a console boots, too.
///
/// # Errors
/// /dev/console cannot be opened. The boot can continue.
pub fn open_streams() -> Result<()> {
    let console = open_above_streams(CONSOLE, OFlags::RDWR);
    let (input, output) = match &console {
        Ok(console) => (console.try_clone(), console.try_clone()),
        Err(_) => {
            let null = open_above_streams("/dev/null", OFlags::RDWR)?;
            match open_above_streams("/dev/kmsg", OFlags::WRONLY) {
                Ok(kmsg) => (Ok(null), Ok(kmsg)),
                Err(_) => (null.try_clone(), Ok(null)),
            }
        }
    };
    let input = input.during("duplicate", "standard input")?;
    let output = output.during("duplicate", "standard output")?;
    set_streams(&input, &output)?;
    console.map(|_| ())
}

fn set_streams(input: &OwnedFd, output: &OwnedFd) -> Result<()> {
    dup2_stdin(input).during("open", "standard input")?;
    dup2_stdout(output).during("open", "standard output")?;
    dup2_stderr(output).during("open", "standard error")
}

/// Opens the console where [`open_streams`] could not: its driver may be a module that has been loaded since
/// then (`console=hvc0`). Retries until `wait` is over, and tries at least once.
pub fn reopen_streams(wait: Duration) {
    let started = Instant::now();
    while !is_open() {
        // ENODEV as long as there is no console, EINVAL while the kernel sets it up.
        let opened = open_above_streams(CONSOLE, OFlags::RDWR)
            .and_then(|console| set_streams(&console, &console));
        match opened {
            Ok(()) => debug!("{CONSOLE} opened"),
            Err(error) if started.elapsed() >= wait => return debug!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Whether standard input is a console (or what a test uses instead), and not /dev/null.
fn is_open() -> bool {
    !fstat(stdin()).is_ok_and(|file| file.st_rdev == makedev(1, 3))
}

/// Whether a user can type on standard input.
pub fn is_interactive() -> bool {
    // /sys/class/tty/console/active leaves out a console that cannot be written to. Without proc there
    // is no way to know.
    let consoles = fs::read_to_string("/proc/consoles").unwrap_or_default();
    is_open() && !is_ttynull(&consoles)
}

/// Whether /dev/console is the null terminal of `console=null` (CONFIG_NULL_TTY), from the text of
/// /proc/consoles. It opens like any other console, but a shell on it would wait forever. `C` marks the console
/// behind /dev/console (Documentation/filesystems/proc.rst).
fn is_ttynull(consoles: &str) -> bool {
    consoles
        .lines()
        .any(|line| line.starts_with("ttynull") && line.contains("(EC"))
}

/// Opens a file at a descriptor above the standard ones, which are closed when the kernel finds no
/// console.
fn open_above_streams(path: &str, flags: OFlags) -> Result<OwnedFd> {
    let file = open(
        path,
        flags | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during("open", path)?;
    fcntl_dupfd_cloexec(file, 3).during("duplicate", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_terminal_is_not_interactive() {
        let null = "ttynull0             --- (EC     )  252:0\n";
        let other = "ttynull0             --- (E      )  252:0\n";
        let serial = "ttyS0                -W- (EC  p a)    4:64\n";
        let early = "earlyser0            -W- (E   p  )\n";
        for (consoles, expected) in [
            (null.to_string(), true),
            (format!("{null}{early}"), true),
            (format!("{serial}{other}"), false),
            (serial.into(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_ttynull(&consoles), expected, "{consoles}");
        }
    }
}
