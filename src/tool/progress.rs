//! What long steps show on standard error: a bar each on a terminal, else one line for each layer. Standard output is
//! never touched.
//!
//! A step is long if it has many bytes and reads or writes some of them. With `--verbose` every step is, with `--quiet`
//! none.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Once, OnceLock};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::bytes::ReadAt;

/// Fewer bytes take no time.
const LONG: u64 = 64 << 20;

/// Nothing is shown before a step has processed so many bytes: it may pass over nearly all.
const STARTED: u64 = 1 << 20;

/// How much is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressLevel {
    /// Neither bars nor lines (`--quiet`).
    Quiet,
    /// Long steps.
    #[default]
    Normal,
    /// All steps, and a line for each layer on a terminal, too (`--verbose`).
    Verbose,
}

/// The level of this process: its command line decides it once.
static LEVEL: OnceLock<ProgressLevel> = OnceLock::new();

/// All bars. They are hidden if standard error is no terminal.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(4)));

/// Sets the level, before the first step.
pub fn set_level(level: ProgressLevel) {
    // A second command line in one process keeps the level of the first.
    let _ = LEVEL.set(level);
}

/// The level.
pub fn level() -> ProgressLevel {
    LEVEL.get().copied().unwrap_or_default()
}

/// Writes a line to standard error, above the bars.
pub fn tell(line: impl Display) {
    BARS.suspend(|| eprintln!("{line}"));
}

/// Writes the line of a layer that is ready, if steps with so many bytes get one.
pub fn layer_ready(what: impl Display, bytes: u64) {
    let shown = match level() {
        ProgressLevel::Quiet => false,
        ProgressLevel::Normal => bytes >= LONG && BARS.is_hidden(),
        ProgressLevel::Verbose => true,
    };
    if shown {
        tell(format_args!("{what}: {bytes} bytes"));
    }
}

/// A step that processes a known number of bytes. Its bar ends with it.
pub struct LongStep {
    what: String,
    bytes: u64,
    /// Whether a line tells that it is done.
    has_line: bool,
    bar: ProgressBar,
    shown: Once,
    processed: AtomicU64,
}

impl LongStep {
    /// A step for a layer, or for all of them. `what` is an imperative and its object.
    pub fn layer(what: impl Display, bytes: u64) -> Self {
        Self::new(what, bytes, true)
    }

    /// A step without a line of its own: a part of one that has lines, or of a short command.
    pub fn part(what: impl Display, bytes: u64) -> Self {
        Self::new(what, bytes, false)
    }

    fn new(what: impl Display, bytes: u64, has_line: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
        let template = "{msg}: {bytes}/{total_bytes} {wide_bar} {bytes_per_sec}, {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let what = what.to_string();
        bar.set_message(what.clone());
        let step = Self {
            what,
            bytes,
            has_line,
            bar,
            shown: Once::new(),
            processed: AtomicU64::new(0),
        };
        step.show();
        step
    }

    fn is_long(&self) -> bool {
        match level() {
            ProgressLevel::Quiet => false,
            ProgressLevel::Normal => {
                self.bytes >= LONG && self.processed.load(Ordering::Relaxed) >= STARTED
            }
            ProgressLevel::Verbose => true,
        }
    }

    fn show(&self) {
        if self.is_long() && !BARS.is_hidden() {
            self.shown.call_once(|| drop(BARS.add(self.bar.clone())));
        }
    }

    /// So many bytes have been processed.
    pub fn inc(&self, bytes: u64) {
        self.reach(self.bar.position().saturating_add(bytes), bytes);
    }

    /// The bytes up to this position have been processed, `bytes` of them now.
    fn reach(&self, position: u64, bytes: u64) {
        self.processed.fetch_add(bytes, Ordering::Relaxed);
        self.show();
        if position > self.bar.position() {
            self.bar.set_position(position.min(self.bytes));
        }
    }

    /// A source of which the part from `start` on is read once, in order. It begins at the present position of the step.
    pub fn watch<'a, T: ReadAt + ?Sized>(&'a self, source: &'a T, start: u64) -> Watched<'a, T> {
        Watched {
            step: self,
            source,
            start,
            position: self.bar.position(),
        }
    }

    /// A reader or writer whose bytes count.
    pub fn count<T>(&self, inner: T) -> Counted<'_, T> {
        Counted { step: self, inner }
    }

    /// The step is done.
    pub fn finish(self) {
        if self.has_line && self.is_long() {
            layer_ready(&self.what, self.bytes);
        }
    }
}

/// A step that fails ends here, too.
impl Drop for LongStep {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A source that [`LongStep::watch`] watches.
pub struct Watched<'a, T: ?Sized> {
    step: &'a LongStep,
    source: &'a T,
    start: u64,
    position: u64,
}

impl<T: ReadAt + ?Sized> ReadAt for Watched<'_, T> {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.source.read_at(buf, offset)?;
        let n64 = n as u64;
        let end = offset.saturating_add(n64).saturating_sub(self.start);
        self.step.reach(self.position.saturating_add(end), n64);
        Ok(n)
    }

    fn next_data(&self, offset: u64) -> u64 {
        self.source.next_data(offset)
    }
}

/// A reader or writer that [`LongStep::count`] counts.
pub struct Counted<'a, T> {
    step: &'a LongStep,
    inner: T,
}

impl<T: Read> Read for Counted<'_, T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.step.inc(n as u64);
        Ok(n)
    }
}

impl<T: Write> Write for Counted<'_, T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.step.inc(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A step whose length is not known, such as another program. Its spinner ends with it.
pub struct Spinner(ProgressBar);

impl Spinner {
    /// Shows the spinner, on a terminal.
    pub fn new(what: impl Display) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_message(what.to_string());
        if level() != ProgressLevel::Quiet && !BARS.is_hidden() {
            let bar = BARS.add(bar.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
