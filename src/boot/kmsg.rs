//! The `log` crate's records, written to the kernel log.
//!
//! Not the kernlog crate: that one sends `info` at the kernel's notice level and `debug` at info, so
//! that `loglevel=` sorts them wrongly, loses records of more than 1024 bytes, and cannot do without
//! /dev/kmsg. Here levels are printk's own, long texts become several records, and without a kernel
//! log the records go to standard error.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::{Mode, OFlags};

use crate::plan::cmdline::Verbosity;

/// printk's prefix, the same on every line.
const PREFIX: &str = "layerinit: ";

/// Bytes of a record. devkmsg_write (kernel/printk/printk.c) refuses more than 1024 with level, prefix and
/// line feed, and before Linux 6.3 more than LOG_LINE_MAX: 976, with CONFIG_PRINTK_CALLER.
const RECORD: usize = 960;

/// Records before the limit is lifted: below the kernel's ten, which a short boot stays below, too.
const FREE_RECORDS: u32 = 8;

/// KERN_ERR (linux/kern_levels.h).
const ERROR: u8 = 3;

const DEVKMSG: &str = "/proc/sys/kernel/printk_devkmsg";

struct Kmsg {
    file: OnceLock<File>,
    /// `rd.debug`: debug records at the info level.
    shown: AtomicBool,
    /// Records written.
    records: AtomicU32,
    /// The limit that was there before it was lifted.
    limit: OnceLock<String>,
    /// `printk.devkmsg=` fixes the limit.
    fixed: AtomicBool,
}

static KMSG: Kmsg = Kmsg {
    file: OnceLock::new(),
    shown: AtomicBool::new(false),
    records: AtomicU32::new(0),
    limit: OnceLock::new(),
    fixed: AtomicBool::new(false),
};

/// Starts logging, to standard error until /dev/kmsg can be opened.
pub fn start() {
    // A second call changes nothing: the logger is already this one.
    let _ = log::set_logger(&KMSG);
    log::set_max_level(LevelFilter::Info);
    // Who may write to the log may not always read it (dmesg_restrict).
    if let Ok(file) = open(true).or_else(|_| open(false)) {
        let _ = KMSG.file.set(file);
    }
}

fn open(read: bool) -> io::Result<File> {
    let mut options = File::options();
    // The flag is for reading: it ends where the log does.
    let options = options.read(read).append(true);
    options.custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")
}

/// Follows the command line.
pub fn follow(verbosity: Verbosity) {
    if verbosity != Verbosity::Normal {
        log::set_max_level(LevelFilter::Debug);
    }
    KMSG.shown
        .store(verbosity == Verbosity::Shown, Ordering::Relaxed);
}

/// Lifts the kernel's limit of ten records in five seconds from userspace; [`end`] puts it back. Where
/// `printk.devkmsg=` fixes it, it holds for all but errors.
pub fn lift_limit() {
    let before = fs::read_to_string(DEVKMSG).ok();
    let Some(before) = before.filter(|now| now.trim() != "on") else {
        return;
    };
    match set_limit("on\n") {
        Ok(()) => {
            // Where it was lifted before, that is known already.
            let _ = KMSG.limit.set(before);
        }
        Err(_) => KMSG.fixed.store(true, Ordering::Relaxed),
    }
}

/// Puts back the kernel's limit, for the real init. What is still to be said keeps to it.
pub fn end() {
    KMSG.records
        .store(FREE_RECORDS.saturating_add(1), Ordering::Relaxed);
    if let Some(before) = KMSG.limit.get() {
        // The real init can live with more records than the kernel's default.
        let _ = set_limit(before);
    }
}

/// Sets the limit, where the kernel has it: without /proc nothing is created in its place.
fn set_limit(limit: &str) -> io::Result<()> {
    let mut file = File::options().write(true).open(DEVKMSG)?;
    file.write_all(limit.as_bytes())
}

/// Records of lower levels show up on the console: `loglevel=`, the first number of
/// /proc/sys/kernel/printk. A signal handler asks, too: nothing is allocated.
fn console_level() -> u8 {
    let read = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(c"/proc/sys/kernel/printk", flags, Mode::empty()).ok()?;
        let mut text = [0; 64];
        let n = rustix::io::read(&file, &mut text).ok()?;
        let text = std::str::from_utf8(text.get(..n)?).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok()
    };
    read().unwrap_or(u8::MAX)
}

/// Warnings that are kept: a machine can have any number of devices without a driver.
const WARNINGS_MAX: usize = 200;

/// What was warned of, for the report.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn kept() -> MutexGuard<'static, Vec<String>> {
    // A panic while it was held has left whole texts.
    WARNINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(text: &str) {
    let mut kept = kept();
    match kept.len() {
        ..WARNINGS_MAX => kept.push(text.into()),
        WARNINGS_MAX => kept.push("... and more: see the kernel's log".into()),
        _ => {}
    }
}

/// All that was warned of so far, in order.
pub fn warnings() -> Vec<String> {
    kept().clone()
}

/// A warning on the kernel log and the console, once each, whatever `loglevel=` says.
pub fn say(text: &str) {
    keep(text);
    show(text);
}

/// The same of what is no warning.
pub fn show(text: &str) {
    log::error!("{text}");
    if console_level() <= ERROR {
        // Not eprintln!, which panics where the console takes nothing: a terminal that was hung up.
        let _ = writeln!(std::io::stderr(), "layerinit: {text}");
    }
}

/// As [`say`], from the handler of a signal: it takes no lock and allocates nothing (signal-safety(7)).
/// `text` is one record.
pub fn say_from_handler(text: &str) {
    let mut record = Line::new();
    let _ = writeln!(record, "<{ERROR}>{PREFIX}{text}");
    let record = record.text().as_bytes();
    // The kernel's limit is one of each descriptor: a new one has records left.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fresh = rustix::fs::open(c"/dev/kmsg", flags, Mode::empty());
    let logged = fresh.and_then(|file| rustix::io::write(&file, record));
    if logged.is_err() || console_level() <= ERROR {
        // Nobody is left to be told when the console takes nothing.
        let _ = rustix::io::write(rustix::stdio::stderr(), record.get(3..).unwrap_or_default());
    }
}

/// One line in a buffer of its own; what is too long for it is cut off.
pub struct Line {
    bytes: [u8; RECORD / 2],
    length: usize,
}

impl Line {
    /// An empty one.
    #[allow(clippy::new_without_default, reason = "one way to make it is enough")]
    pub fn new() -> Self {
        Self {
            bytes: [0; RECORD / 2],
            length: 0,
        }
    }

    /// What was written.
    pub fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let text = text.get(..text.floor_char_boundary(room.len()));
        let text = text.unwrap_or_default().as_bytes();
        for (to, from) in room.iter_mut().zip(text) {
            *to = *from;
        }
        self.length = self.length.saturating_add(text.len());
        Ok(())
    }
}

/// The records of the kernel log, to be read: Documentation/ABI/testing/dev-kmsg. There is one position
/// in the log: who asks for records last gets them.
#[derive(Debug)]
pub struct Records {
    file: Option<&'static File>,
}

impl Records {
    /// All that the log still has.
    pub fn all() -> Self {
        Self::after(SeekFrom::Start(0))
    }

    /// Those from now on.
    pub fn from_now() -> Self {
        Self::after(SeekFrom::End(0))
    }

    fn after(position: SeekFrom) -> Self {
        let file = KMSG.file.get();
        Self {
            file: file.filter(|file| (&**file).seek(position).is_ok()),
        }
    }
}

/// Ends where there are no more at present.
impl Iterator for Records {
    type Item = KernelRecord;

    fn next(&mut self) -> Option<KernelRecord> {
        let mut file = self.file?;
        let mut record = [0; 8192];
        loop {
            match file.read(&mut record) {
                Ok(0) => return None,
                Ok(n) => {
                    let record = String::from_utf8_lossy(record.get(..n).unwrap_or_default());
                    if let Some(record) = KernelRecord::parse(&record) {
                        return Some(record);
                    }
                }
                // Overwritten while being read: the next one is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                // EAGAIN: the end.
                Err(_) => return None,
            }
        }
    }
}

/// A record of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRecord {
    /// The level, from 0 (the system is unusable) to 7 (debugging).
    pub level: u8,
    /// Whether the kernel itself said it, and not a program.
    pub by_kernel: bool,
    /// What is said, without dictionary and continuation lines.
    pub text: String,
}

impl KernelRecord {
    /// `PRIORITY,SEQUENCE,TIME,FLAGS[,...];TEXT`; lines of a dictionary may follow.
    fn parse(record: &str) -> Option<Self> {
        let (prefix, text) = record.split_once(';')?;
        let priority: u32 = prefix.split(',').next()?.parse().ok()?;
        Some(Self {
            level: (priority & 7) as u8,
            by_kernel: priority < 8,
            text: text.lines().next().unwrap_or_default().trim_end().into(),
        })
    }
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // linux/kern_levels.h.
        let level = match record.level() {
            Level::Error => ERROR,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace if self.shown.load(Ordering::Relaxed) => 6,
            Level::Debug | Level::Trace => 7,
        };
        let text = record.args().to_string();
        if record.level() == Level::Warn {
            keep(&text);
        }
        for line in text.lines().flat_map(Chunks) {
            let mut out = String::with_capacity(line.len().saturating_add(20));
            // One write a record. Nobody is left to be told when the kernel log refuses it. Without
            // the line feed the kernel keeps a record back until the next one, in case that
            // continues it (vprintk_store in kernel/printk/printk.c): the last is never seen.
            let _ = match self.file.get() {
                Some(file) => {
                    if self.records.fetch_add(1, Ordering::Relaxed) == FREE_RECORDS {
                        lift_limit();
                    }
                    let _ = writeln!(out, "<{level}>{PREFIX}{line}");
                    // The kernel counts for each open file (struct devkmsg_user), and drops what is beyond
                    // without an error: why a boot has failed goes through a file of its own.
                    let fresh = match level == ERROR && self.fixed.load(Ordering::Relaxed) {
                        true => open(false).ok(),
                        false => None,
                    };
                    let mut file = fresh.as_ref().unwrap_or(file);
                    file.write_all(out.as_bytes())
                }
                // As the kernel would show it.
                None if level < console_level() => {
                    let _ = writeln!(out, "{PREFIX}{line}");
                    std::io::stderr().write_all(out.as_bytes())
                }
                None => Ok(()),
            };
        }
    }

    fn flush(&self) {}
}

/// A line in pieces that fit into a record, cut between words: a UUID is of no use in two halves.
struct Chunks<'a>(&'a str);

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0;
        let mut end = text.floor_char_boundary(RECORD);
        if end < text.len()
            && let Some(space) = text.get(..end)?.rfind(' ').filter(|at| *at > RECORD / 2)
        {
            end = space.saturating_add(1);
        }
        let (chunk, rest) = text.split_at_checked(end)?;
        self.0 = rest;
        Some(chunk).filter(|chunk| !chunk.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_other_text_is_not() {
        let record = |level, by_kernel, text: &str| KernelRecord {
            level,
            by_kernel,
            text: text.into(),
        };
        for (text, expected) in [
            (
                "3,600,7000,-;EXT4-fs (vda1): bad\n SUBSYSTEM=block\n",
                Some(record(3, true, "EXT4-fs (vda1): bad")),
            ),
            (
                "14,601,7001,-,caller=T1;layerinit: a; b\n",
                Some(record(6, false, "layerinit: a; b")),
            ),
            ("<6>layerinit: a; b", None),
            ("no record", None),
        ] {
            assert_eq!(KernelRecord::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn long_lines_are_cut_between_words_or_characters_and_nothing_is_lost() {
        let uuid = "UUID=0f0f0f0f-0101-4202-8303-040404040404; ";
        for (line, lengths) in [
            ("ä".repeat(1201), vec![960, 960, 482]),
            (uuid.repeat(45), vec![43 * 22, 43 * 22, 43]),
            (format!("a {}", "b".repeat(1000)), vec![960, 42]),
            (String::new(), vec![]),
        ] {
            let chunks: Vec<_> = Chunks(&line).collect();
            let found: Vec<_> = chunks.iter().map(|chunk| chunk.len()).collect();
            assert_eq!(found, lengths);
            assert_eq!(chunks.concat(), line);
        }
        // What Linux 6.2 takes, with PRINTK_CALLER.
        assert!("<3>".len() + PREFIX.len() + RECORD + "\n".len() <= 1024 - 48);
    }
}
