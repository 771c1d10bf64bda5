//! The image being written: under its name only when it is complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{self, Pid};

use crate::error::{Context, Error, Result};

/// How long a killed child is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A directory beside the image for what is not complete. It goes when dropped, and when the
/// program is interrupted.
pub struct Scratch {
    /// Absolute.
    path: PathBuf,
    /// Held while the directory must not go away under a finished image.
    alive: Arc<Mutex<bool>>,
    /// The process to end with us. Held while it is started: a signal at that time must find it.
    child: Arc<Mutex<Option<Pid>>>,
}

impl Scratch {
    /// Makes the directory, and sees to signals that would end the program from here on. `image` is where
    /// the image is going to be.
    pub fn new(image: &Path) -> Result<Self> {
        let context = || image.display();
        let name = image
            .file_name()
            .ok_or_else(|| Error::new("write", context(), "not a file name"))?;
        let parent = match image.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = fs::canonicalize(parent).during("write into", parent.display())?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".layerinit-{}", std::process::id()));
        let path = parent.join(hidden);

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
        fs::create_dir(&path).during("create", path.display())?;
        let scratch = Self {
            path,
            alive: Arc::new(Mutex::new(true)),
            child: Arc::new(Mutex::new(None)),
        };
        let (path, alive, child) = (
            scratch.path.clone(),
            scratch.alive.clone(),
            scratch.child.clone(),
        );
        thread::spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            // Waits where the image is just being given its name.
            let _alive = locked(&alive);
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
            remove(&path);
            std::process::exit((signal as i32).saturating_add(128));
        });
        Ok(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
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
        let mut alive = locked(&self.alive);
        if std::mem::replace(&mut *alive, false) {
            remove(&self.path);
        }
    }
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

/// Removes the directory. What cannot be removed is said, once: there is nothing else to do.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("layerinit: remove {}: {error}", path.display());
    }
}

/// The image on its way.
pub struct Output {
    writer: BufWriter<File>,
    scratch: Scratch,
    image: PathBuf,
    progress: ProgressBar,
    /// Bytes written.
    length: u64,
}

impl Output {
    /// Starts an image that is going to be `image`. `expected` is about how many bytes there will
    /// be, for the progress bar.
    pub fn new(image: &Path, scratch: Scratch, expected: u64) -> Result<Self> {
        /// Writing less than this many bytes takes no time worth showing.
        const LONG: u64 = 64 << 20;
        let path = scratch.path().join("image");
        let file = File::create_new(&path).during("create", path.display())?;
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
            image: image.into(),
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
        io::copy(&mut io::Read::take(io::repeat(0), zeros), self)
            .during("write", self.image.display())?;
        Ok(())
    }

    /// Gives the image its name, in place of whatever had it.
    pub fn finish(mut self) -> Result<()> {
        let context = || self.image.display().to_string();
        self.writer.flush().during("write", context())?;
        // A full disk or a failing one must not leave a torn image under the right name.
        self.writer
            .get_ref()
            .sync_all()
            .during("write", context())?;
        self.progress.finish_and_clear();
        let whole = locked(&self.scratch.alive);
        fs::rename(self.scratch.path().join("image"), &self.image)
            .during("rename to", context())?;
        drop(whole);
        Ok(())
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
