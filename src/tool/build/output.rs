//! The image being written: under its name only when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;
use rustix::process::{self, Pid};

use crate::error::{Context, Error, Result};
use crate::tool::nameless;

/// What messages call standard output.
pub const STDOUT: &str = "standard output";

/// How long a killed child is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the files that are not complete, beside the image: without a name where the filesystem has such files
/// (O_TMPFILE), so that they go with the program however it ends; else in a directory. That goes when dropped,
/// and when the program is interrupted, but SIGKILL leaves it.
pub struct Scratch {
    /// Where the files are. Absolute.
    parent: PathBuf,
    /// A name in there that is this program's own.
    own: PathBuf,
    /// Whether the files have no names, and `own` is no directory.
    nameless: bool,
    /// Whether the image is going to be in `parent`.
    beside: bool,
    /// What is to be removed at the end. Held while the image gets its name.
    left: Arc<Mutex<Option<PathBuf>>>,
    /// The process to end with us. Held while it is started: a signal at that time must find it.
    child: Arc<Mutex<Option<Pid>>>,
}

impl Scratch {
    /// Finds a place for the files, and sees to signals that would end the program from here on. `image` is where
    /// the image is going to be; `None`: on standard output.
    pub fn new(image: Option<&Path>) -> Result<Self> {
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

        let mut signals = SigSet::empty();
        let ignored = ignored();
        // SIGXFSZ goes to the thread that writes: blocked, the write fails with EFBIG instead.
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGXFSZ,
        ] {
            let bit = 1u64.checked_shl((signal as u32).saturating_sub(1));
            if bit.is_none_or(|bit| ignored & bit == 0) {
                signals.add(signal);
            }
        }
        // Before there are other threads, which all inherit this.
        signals.thread_block().during("block", "signals")?;
        let nameless = nameless::create(&parent).is_ok();
        if !nameless {
            // What is in there has not yet the mode of the image that it replaces.
            let mut directory = fs::DirBuilder::new();
            directory
                .mode(0o700)
                .create(&own)
                .during("create", own.display())?;
        }
        let scratch = Self {
            parent,
            left: Arc::new(Mutex::new((!nameless).then(|| own.clone()))),
            own,
            nameless,
            beside: image.is_some(),
            child: Arc::new(Mutex::new(None)),
        };
        let (left, child) = (scratch.left.clone(), scratch.child.clone());
        thread::spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            // Waits where the image is just being given its name.
            let mut left = locked(&left);
            // Until it is gone the child could still put a file into the directory; and while there is none,
            // none is started.
            let mut running = locked(&child);
            let patience = Instant::now() + PATIENCE;
            while let Some(pid) = *running
                && Instant::now() < patience
            {
                // It may have ended by itself: nothing is left to be done then.
                process::kill_process(pid, process::Signal::KILL).unwrap_or(());
                drop(running);
                thread::sleep(Duration::from_millis(1));
                running = locked(&child);
            }
            left.take().iter().for_each(|path| remove(path));
            std::process::exit((signal as i32).saturating_add(128));
        });
        Ok(scratch)
    }

    /// Whether the image, or a file on its way, would be found in this directory. It is absolute.
    pub fn is_inside(&self, directory: &Path) -> bool {
        (self.beside || !self.nameless) && self.parent.starts_with(directory)
    }

    /// Makes an empty file for reading and writing, and the name that it has, if it has one.
    pub fn file(&self, name: &str) -> Result<(File, Option<PathBuf>)> {
        if self.nameless {
            let file = nameless::create(&self.parent);
            return Ok((
                file.during("create a file in", self.parent.display())?,
                None,
            ));
        }
        let path = self.own.join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        Ok((file.during("create", path.display())?, Some(path)))
    }

    /// Gives a file the name of the image, in place of whatever had it. `from` is the name that it has.
    fn publish(&self, file: &File, from: Option<&Path>, image: &Path) -> Result<()> {
        // A signal now waits until this is done.
        let _left = locked(&self.left);
        if let Some(from) = from {
            return fs::rename(from, image).during("rename to", image.display());
        }
        match link(file, image) {
            Err(Errno::EXIST) => {}
            done => return done.during("link to", image.display()),
        }
        // No call replaces a file by one that has no name, so this one gets a name for the moment until the rename:
        // what SIGKILL leaves behind just then is the complete image.
        link(file, &self.own).during("link to", self.own.display())?;
        fs::rename(&self.own, image)
            .during("rename to", image.display())
            .inspect_err(|_| {
                // What is to be said is why the image did not get its name.
                fs::remove_file(&self.own).unwrap_or(());
            })
    }

    /// Starts a process that is to be ended with this one.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut running = locked(&self.child);
        let child = command.spawn()?;
        *running = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(child)
    }

    /// The process that was started has ended.
    pub fn ended(&self) {
        *locked(&self.child) = None;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        locked(&self.left)
            .take()
            .iter()
            .for_each(|path| remove(path));
    }
}

/// Gives a file without a name one that nothing has. By /proc: by AT_EMPTY_PATH it takes CAP_DAC_READ_SEARCH.
fn link(file: &File, to: &Path) -> std::result::Result<(), Errno> {
    linkat(
        CWD,
        nameless::through_proc(file),
        CWD,
        to,
        AtFlags::SYMLINK_FOLLOW,
    )
}

/// Gives the new file the owner, the group and the mode of the one that it is to replace. What is to be said where
/// that is not allowed.
fn take_over(file: &File, old: &Metadata) -> io::Result<Option<String>> {
    let new = file.metadata()?;
    let mut mode = old.mode() & 0o7777;
    let mut warning = None;
    if (new.uid(), new.gid()) != (old.uid(), old.gid())
        && let Err(error) = fchown(file, Some(old.uid()), Some(old.gid()))
    {
        // Members of a group may give it their own files.
        let group = new.gid() == old.gid() || fchown(file, None, Some(old.gid())).is_ok();
        if !group {
            // They are for another group.
            mode &= !0o070;
        }
        let lost = if group { "owner" } else { "owner and group" };
        warning = Some(format!(
            "the {lost} of the file that it replaces could not be kept: {error}"
        ));
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(warning)
}

/// The signals that whoever started this program wants ignored (nohup, a shell's background jobs), bit 0 for
/// number 1: one that is waited for would come all the same.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Removes a directory. What cannot be removed is said, once: there is nothing else to do.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("layerinit: remove {}: {error}", path.display());
    }
}

/// The image on its way.
pub struct Output {
    writer: BufWriter<File>,
    scratch: Scratch,
    /// What the file is going to be called, and its name until then; `None`: it is standard output.
    names: Option<(PathBuf, Option<PathBuf>)>,
    progress: ProgressBar,
    /// Bytes written.
    length: u64,
}

impl Output {
    /// Starts an image that is going to be `image`, or goes to standard output. `expected` is about how many bytes
    /// there will be, for the progress bar.
    pub fn new(image: Option<&Path>, scratch: Scratch, expected: u64) -> Result<Self> {
        /// Writing less than this many bytes takes no time worth showing.
        const LONG: u64 = 64 << 20;
        let (file, names) = match image {
            Some(image) => {
                let (file, name) = scratch.file("image")?;
                (file, Some((image.into(), name)))
            }
            None => {
                let stdout = io::stdout().as_fd().try_clone_to_owned();
                (stdout.during("write", STDOUT)?.into(), None)
            }
        };
        // Hidden by itself where stderr is not a terminal.
        let progress = match expected {
            LONG.. => {
                let stderr = ProgressDrawTarget::stderr_with_hz(4);
                ProgressBar::with_draw_target(Some(expected), stderr)
            }
            _ => ProgressBar::hidden(),
        };
        if let Ok(style) =
            ProgressStyle::with_template("{bytes}/{total_bytes} {wide_bar} {bytes_per_sec}, {eta}")
        {
            progress.set_style(style);
        }
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 20, file),
            scratch,
            names,
            progress,
            length: 0,
        })
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Zero bytes up to the next multiple of `align`.
    pub fn align(&mut self, align: u64) -> Result<()> {
        let past = self.length.checked_rem(align).unwrap_or(0);
        let zeros = align.saturating_sub(past).checked_rem(align).unwrap_or(0);
        self.extend(self.length.saturating_add(zeros))
    }

    /// Zero bytes up to this length, if it is not reached yet.
    pub fn extend(&mut self, length: u64) -> Result<()> {
        let zeros = length.saturating_sub(self.length);
        io::copy(&mut io::Read::take(io::repeat(0), zeros), self).during("write", self.name())?;
        Ok(())
    }

    /// Gives the image its name, in place of whatever had it, with the mode and the owner of that. What is to be
    /// said about it, if anything.
    pub fn finish(mut self) -> Result<Option<String>> {
        self.writer.flush().during("write", self.name())?;
        self.progress.finish_and_clear();
        let Some((image, name)) = &self.names else {
            return Ok(None);
        };
        let file = self.writer.get_ref();
        let old = fs::metadata(image);
        let warning = match old.map(|old| take_over(file, &old)) {
            Ok(taken) => taken.during("set the mode of", image.display())?,
            // There is none.
            Err(_) => None,
        };
        // A full disk or a failing one must not leave a torn image under the right name.
        file.sync_all().during("write", image.display())?;
        self.scratch.publish(file, name.as_deref(), image)?;
        Ok(warning)
    }

    /// What a message calls it.
    fn name(&self) -> String {
        match &self.names {
            Some((image, _)) => image.display().to_string(),
            None => STDOUT.into(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.writer.write(bytes)?;
        self.length = self.length.saturating_add(n as u64);
        self.progress.inc(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
