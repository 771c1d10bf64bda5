//! Temporary files of a build, which are removed when the build ends, the program ends or a signal comes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;
use rustix::process::{self, Pid};

use crate::error::{Context, Error, Result};
use crate::tool::tmpfile;

/// How long to wait for a killed child.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The signals that end a build. SIGXFSZ goes to the thread that writes: blocked, the write fails with EFBIG.
const SIGNALS: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGXFSZ,
];

/// Creates temporary files in the directory of the image: unnamed ones (O_TMPFILE, open(2)), which disappear
/// with the program, or files in a temporary directory if the filesystem has no unnamed ones. The directory
/// is removed on drop and when a signal ends the program; SIGKILL leaves it behind.
pub struct TempFiles {
    /// The directory of the image. Absolute.
    parent: PathBuf,
    /// A path in `parent` that no other program uses.
    own: PathBuf,
    /// Whether the files are unnamed; otherwise `own` is their directory.
    unnamed: bool,
    /// Whether `parent` will hold the image.
    holds_image: bool,
}

/// The paths to remove when a signal ends the program: directories and files. Locked while an image gets its name.
static PATHS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The process to kill then. Locked while it is started, so that a signal at that time finds it.
static CHILD: Mutex<Running> = Mutex::new(Running {
    pid: None,
    ends: false,
});

/// The process that was started.
struct Running {
    pid: Option<Pid>,
    /// Whether a signal ends the program: no other process may start.
    ends: bool,
}

/// Starts the thread that waits for signals once.
static SIGNALS_HANDLED: Mutex<bool> = Mutex::new(false);

impl TempFiles {
    /// Finds the place for the files, and handles signals from now on. `image` is the path of the image; `None`:
    /// standard output.
    ///
    /// # Errors
    /// The path has no file name; its directory does not exist or cannot be written.
    pub fn new(image: Option<&Path>) -> Result<Self> {
        Self::create_for(image, true)
    }

    /// The same with a directory next to `image`, for files that are opened by name.
    pub fn with_names(image: Option<&Path>) -> Result<Self> {
        Self::create_for(image, false)
    }

    fn create_for(image: Option<&Path>, unnamed: bool) -> Result<Self> {
        let (parent, name) = match image {
            Some(image) => {
                let name = image.file_name();
                let name =
                    name.ok_or_else(|| Error::new("write", image.display(), "not a file name"))?;
                match image.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => (parent.into(), name),
                    _ => (PathBuf::from("."), name),
                }
            }
            None => (std::env::temp_dir(), OsStr::new("stdout")),
        };
        let parent = fs::canonicalize(&parent).during("write into", parent.display())?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".layerinit-{}", std::process::id()));
        let own = parent.join(hidden);

        handle_signals()?;
        let unnamed = unnamed && tmpfile::create(&parent).is_ok();
        if !unnamed {
            let mut paths = locked(&PATHS);
            // The files do not have the mode of the image that they replace yet.
            let created = fs::DirBuilder::new().mode(0o700).create(&own);
            created.during("create", own.display())?;
            paths.push(own.clone());
        }
        Ok(Self {
            parent,
            own,
            unnamed,
            holds_image: image.is_some(),
        })
    }

    /// The path of a file of [`with_names`](Self::with_names).
    pub fn path(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    /// A path next to `output` for a program to write to. It is removed at the end unless it is
    /// [renamed](Self::rename).
    pub fn beside(&self, output: &Path) -> Result<PathBuf> {
        let name = output.file_name();
        let name = name.ok_or_else(|| Error::new("write", output.display(), "not a file name"))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".layerinit-new-{}", std::process::id()));
        let path = output.with_file_name(hidden);
        locked(&PATHS).push(path.clone());
        Ok(path)
    }

    /// Gives a file of [`beside`](Self::beside) its final name.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        // A signal waits until this is done.
        let mut paths = locked(&PATHS);
        fs::rename(from, to).during("rename to", to.display())?;
        paths.retain(|path| path != from);
        Ok(())
    }

    /// Whether the image or a temporary file has a name below this directory, which is an absolute path.
    pub fn is_inside(&self, directory: &Path) -> bool {
        (self.holds_image || !self.unnamed) && self.parent.starts_with(directory)
    }

    /// Creates an empty file for reading and writing. Also returns its path, if it has one.
    pub fn create(&self, name: &str) -> Result<(File, Option<PathBuf>)> {
        if self.unnamed {
            let file = tmpfile::create(&self.parent);
            let file = file.during("create a file in", self.parent.display())?;
            return Ok((file, None));
        }
        let path = self.own.join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        Ok((file.during("create", path.display())?, Some(path)))
    }

    /// Creates an empty directory, which is removed at the end with its contents.
    ///
    /// It is next to the image if that filesystem has unnamed files, else among the system's temporary files:
    /// a filesystem without unnamed files, such as FAT, has no owners and devices, either.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let mut hidden = self.directory_prefix();
        hidden.push(name);
        let path = PathBuf::from(hidden);
        let mut paths = locked(&PATHS);
        let created = fs::DirBuilder::new().mode(0o700).create(&path);
        created.during("create", path.display())?;
        paths.push(path.clone());
        Ok(path)
    }

    /// The prefix of the paths of [`directory`](Self::directory).
    fn directory_prefix(&self) -> OsString {
        let mut prefix = self.own.clone().into_os_string();
        if !self.unnamed {
            prefix = std::env::temp_dir().into_os_string();
            prefix.push(format!("/layerinit-{}", std::process::id()));
        }
        prefix.push(".");
        prefix
    }

    /// Removes a directory of [`directory`](Self::directory) early.
    pub fn remove_directory(&self, path: &Path) -> Result<()> {
        let mut paths = locked(&PATHS);
        let removed = fs::remove_dir_all(path);
        removed.during("remove", path.display())?;
        paths.retain(|other| other != path);
        Ok(())
    }

    /// Gives a file the name of the image, and replaces a file of that name. `from` is the present path.
    ///
    /// # Errors
    /// The file cannot be linked or renamed.
    pub fn publish(&self, file: &File, from: Option<&Path>, image: &Path) -> Result<()> {
        // A signal waits until this is done.
        let _paths = locked(&PATHS);
        if let Some(from) = from {
            return fs::rename(from, image).during("rename to", image.display());
        }
        match link(file, image) {
            Err(Errno::EXIST) => {}
            done => return done.during("link to", image.display()),
        }
        // No system call replaces a file with an unnamed one, so this one gets a temporary name before the
        // rename. A SIGKILL in between leaves the complete image under that name.
        link(file, &self.own).during("link to", self.own.display())?;
        fs::rename(&self.own, image)
            .during("rename to", image.display())
            .inspect_err(|_| {
                // The error of the rename is the one to report.
                fs::remove_file(&self.own).unwrap_or(());
            })
    }

    /// Starts a process that a signal to this program kills.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut running = locked(&CHILD);
        if running.ends {
            drop(running);
            // The thread that has the signal ends the program here.
            loop {
                thread::park();
            }
        }
        let child = command.spawn()?;
        running.pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(child)
    }

    /// The process of [`spawn`](Self::spawn) has ended: its number may belong to another process now.
    pub fn forget_child(&self) {
        locked(&CHILD).pid = None;
    }
}

impl Drop for TempFiles {
    fn drop(&mut self) {
        let new = format!(".layerinit-new-{}", std::process::id());
        let prefix = self.directory_prefix();
        let is_own = |path: &PathBuf| {
            let name = path.as_os_str().as_bytes();
            *path == self.own
                || name.ends_with(new.as_bytes())
                || name.starts_with(prefix.as_bytes())
        };
        let mut paths = locked(&PATHS);
        let (own, others) = std::mem::take(&mut *paths).into_iter().partition(is_own);
        *paths = others;
        remove(own);
    }
}

/// Handles signals from now on, before there are other threads, which inherit the mask.
fn handle_signals() -> Result<()> {
    let mut handled = locked(&SIGNALS_HANDLED);
    if !*handled {
        let signals = block_signals()?;
        thread::spawn(move || exit_on_signal(&signals));
        *handled = true;
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks the signals that end a build, except those that are ignored (nohup, background jobs of a shell): waiting for
/// an ignored signal would receive it.
fn block_signals() -> Result<SigSet> {
    let ignored = ignored_signals();
    let mut signals = SigSet::empty();
    for signal in SIGNALS {
        let bit = 1u64.checked_shl((signal as u32).saturating_sub(1));
        if bit.is_none_or(|bit| ignored & bit == 0) {
            signals.add(signal);
        }
    }
    signals.thread_block().during("block", "signals")?;
    Ok(signals)
}

/// The mask of ignored signals of this process, bit 0 for signal 1: `SigIgn` in proc_pid_status(5).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Waits for one of the signals, then kills the child, removes the files and ends the program.
fn exit_on_signal(signals: &SigSet) {
    let Ok(signal) = signals.wait() else { return };
    // This waits while the image gets its name.
    let mut paths = locked(&PATHS);
    // A running child could still create a file in the directory. The lock keeps another one from starting.
    let mut running = locked(&CHILD);
    running.ends = true;
    let deadline = Instant::now() + KILL_TIMEOUT;
    while let Some(pid) = running.pid
        && Instant::now() < deadline
    {
        // The child may have ended already: then there is nothing to do.
        process::kill_process(pid, process::Signal::KILL).unwrap_or(());
        drop(running);
        thread::sleep(Duration::from_millis(1));
        running = locked(&CHILD);
    }
    // Both locks are held up to the end.
    remove(std::mem::take(&mut *paths));
    std::process::exit((signal as i32).saturating_add(128));
}

/// Removes directories and files. Prints errors: nothing else can be done about them.
fn remove(paths: Vec<PathBuf>) {
    for path in paths {
        let removed = match fs::symlink_metadata(&path) {
            Ok(stat) if stat.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            // A program did not write it.
            Err(_) => Ok(()),
        };
        if let Err(error) = removed {
            eprintln!("layerinit: remove {}: {error}", path.display());
        }
    }
}

/// Links an unnamed file to a path that does not exist. Through /proc, as AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH.
fn link(file: &File, to: &Path) -> std::result::Result<(), Errno> {
    let from = tmpfile::proc_path(file);
    linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)
}
