//! Starts the program, and waits for it: environment, directory, user, signals, children.

use std::ffi::{CStr, CString, OsStr, c_int};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};
use rustix::thread::{Gid, Uid, set_thread_gid, set_thread_groups, set_thread_uid};

use super::config::{Config, FILE, PROGRAM, SIZE_MAX};
use super::user::{self, Credentials};
use crate::error::{Context, Error, Result};
use crate::sys::process::{replace, send, start_foreground_as};
use crate::text::shown;

/// The search path if the environment has no PATH (that of Docker).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The exit status if the program cannot be started, as in a shell.
pub const NOT_STARTED: i32 = 127;

/// How long the other processes may take to end after the program has ended.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Names of programs that only work as PID 1.
const INITS: [&[u8]; 2] = [b"init", b"systemd"];

/// Reads the configuration, starts the program and waits for it. Returns its exit status, or 128 plus the
/// number of the signal that killed it.
///
/// # Errors
/// The configuration is damaged; there is no such user, directory or program; the program cannot be executed.
pub fn run() -> Result<i32> {
    let mut config = Config::parse(&read(FILE)?)?;
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(|path| read(path).unwrap_or_default());
    let credentials = user::find(&config.user, &passwd, &group)?;
    complete(&mut config, &credentials);
    enter(&config.directory)?;
    let program = find_program(&config)?;
    let arguments: Vec<&CStr> = config.arguments.iter().map(AsRef::as_ref).collect();
    let environment: Vec<&CStr> = config.environment.iter().map(AsRef::as_ref).collect();
    let object = shown(program.to_bytes());
    let path = Path::new(OsStr::from_bytes(program.to_bytes()));
    if fs::canonicalize(path).is_ok_and(|path| path == Path::new(PROGRAM)) {
        return Err(Error::new("start", object, "it is layerinit-run itself"));
    }
    if is_init(&program) {
        return Err(replace(&program, &arguments, &environment)).during("start", object);
    }
    give_console(&credentials);

    let signals = SigSet::all();
    signals.thread_block().during("block", "signals")?;
    let groups: Vec<_> = credentials
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let child = start_foreground_as(&program, &arguments, &environment, || {
        signals
            .thread_unblock()
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        // user::find() refuses -1, which would change nothing.
        set_thread_groups(&groups)?;
        set_thread_gid(Gid::from_raw(credentials.gid))?;
        set_thread_uid(Uid::from_raw(credentials.uid))
    });
    Ok(wait_for(
        child.during("start", object)?,
        &signals,
        config.stop_signal,
    ))
}

/// Waits until the child ends. Other children are reaped, and signals go to the child.
fn wait_for(child: c_int, signals: &SigSet, stop_signal: c_int) -> i32 {
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == child {
                return exit_status(status);
            }
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {}
            // Ctrl-Alt-Del arrives as SIGINT (reboot(2), CAD_OFF).
            Ok(Signal::SIGTERM | Signal::SIGINT) => send(child, stop_signal),
            // These signals of the program's own terminal would stop it forever.
            Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) => {}
            Ok(signal) => send(child, signal as c_int),
            // A realtime signal.
            Err(_) => {}
        }
    }
}

/// The exit status, as in a shell.
fn exit_status(status: WaitStatus) -> i32 {
    let killed = status
        .terminating_signal()
        .map(|signal| signal.saturating_add(128));
    status.exit_status().or(killed).unwrap_or(NOT_STARTED)
}

/// Ends all other processes, and waits for them for some time.
pub fn end_others() {
    let deadline = Instant::now().checked_add(END_TIMEOUT);
    send(-1, libc::SIGTERM);
    // Other processes become children of this one when their parents end.
    while deadline.is_some_and(|deadline| Instant::now() < deadline) {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
    send(-1, libc::SIGKILL);
    while let Ok(Some(_)) = wait(WaitOptions::empty()) {}
}

/// Adds the variables that container engines add to the environment.
fn complete(config: &mut Config, credentials: &Credentials) {
    let home = credentials.home.as_deref().filter(|home| !home.is_empty());
    let terminal = std::env::var_os("TERM");
    for (name, value) in [
        ("PATH", Some(PATH.as_bytes())),
        ("HOME", Some(home.unwrap_or(b"/"))),
        ("TERM", terminal.as_ref().map(|value| value.as_bytes())),
    ] {
        if let Some(value) = value.filter(|_| config.variable(name).is_none()) {
            let variable = CString::new([name.as_bytes(), b"=", value].concat());
            config.environment.extend(variable.ok());
        }
    }
}

/// Enters the working directory, which is created if it does not exist.
fn enter(directory: &[u8]) -> Result<()> {
    let directory = match directory {
        b"" => Path::new("/"),
        directory => Path::new(OsStr::from_bytes(directory)),
    };
    // The next step reports an error.
    let _ = fs::create_dir_all(directory);
    let object = || {
        format!(
            "the working directory {}",
            shown(directory.as_os_str().as_bytes())
        )
    };
    std::env::set_current_dir(directory).during("enter", object())
}

/// The path of the program, which is searched in PATH if it has no slash.
fn find_program(config: &Config) -> Result<CString> {
    let Some(program) = config.arguments.first() else {
        return Err(Error::new("read", FILE, "it names no program"));
    };
    let name = program.to_bytes();
    if name.contains(&b'/') {
        return Ok(program.clone());
    }
    let path = config.variable("PATH").unwrap_or_default();
    let candidates = path
        .split(|byte| *byte == b':')
        .map(|directory| match directory {
            b"" => name.to_vec(),
            directory => [directory, b"/", name].concat(),
        });
    let can_start = |path: &Vec<u8>| {
        let metadata = fs::metadata(PathBuf::from(OsStr::from_bytes(path)));
        metadata
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let found = candidates
        .filter(can_start)
        .find_map(|path| CString::new(path).ok());
    found.ok_or_else(|| {
        let what = format!("not in PATH ({})", shown(path));
        Error::new("find", format_args!("the program {}", shown(name)), what)
    })
}

/// Whether a program only works as PID 1. It then becomes PID 1, and no line reports its exit status.
fn is_init(program: &CStr) -> bool {
    let name = program.to_bytes().rsplit(|byte| *byte == b'/').next();
    INITS.iter().any(|init| Some(*init) == name)
}

/// Makes the program's user the owner of the console: opening /dev/stdout needs that.
fn give_console(credentials: &Credentials) {
    if credentials.uid == 0 {
        return;
    }
    let uid = Uid::from_raw(credentials.uid);
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        // There may be no console.
        let _ = rustix::fs::fchown(stream, Some(uid), None);
    }
}

/// Reads a file of at most [`SIZE_MAX`] bytes.
fn read(path: &str) -> Result<Vec<u8>> {
    let file = File::open(path).during("open", path)?;
    let mut bytes = Vec::new();
    let n = file
        .take(SIZE_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .during("read", path)?;
    match n as u64 > SIZE_MAX {
        true => Err(Error::new("read", path, "too large")),
        false => Ok(bytes),
    }
}
