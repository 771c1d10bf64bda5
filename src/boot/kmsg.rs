//! The `log` crate's records, written to the kernel log.
//!
//! The kernlog crate is not used: it maps `info` to the kernel's notice level and `debug` to info, so that
//! `loglevel=` filters them wrongly; it loses records of more than 1024 bytes; and it fails without
//! /dev/kmsg. This logger uses printk's levels, splits long texts into several records, and writes to
//! standard error where there is no /dev/kmsg.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::{Mode, OFlags};

use crate::plan::cmdline::Verbosity;

/// The prefix of every record, as a driver has one.
const PREFIX: &str = "layerinit: ";

/// Bytes of text in a record. devkmsg_write (kernel/printk/printk.c) refuses more than 1024 bytes including
/// level, prefix and line feed, and before Linux 6.3 more than LOG_LINE_MAX: 976 with CONFIG_PRINTK_CALLER.
const RECORD: usize = 960;

/// The number of records that are written before the limit is lifted: fewer than the kernel's ten. A short
/// boot writes no more, and needs no write to /proc/sys.
const FREE_RECORDS: u32 = 8;

/// KERN_ERR (linux/kern_levels.h).
const ERROR: u8 = 3;

const DEVKMSG: &str = "/proc/sys/kernel/printk_devkmsg";

struct Kmsg {
    file: OnceLock<File>,
    /// `rd.debug`: debug records are written at the info level.
    debug_as_info: AtomicBool,
    /// Records written.
    records: AtomicU32,
    /// The kernel's limit before it was lifted.
    saved_limit: OnceLock<String>,
    /// Whether `printk.devkmsg=` fixes the limit.
    limit_is_fixed: AtomicBool,
}

static KMSG: Kmsg = Kmsg {
    file: OnceLock::new(),
    debug_as_info: AtomicBool::new(false),
    records: AtomicU32::new(0),
    saved_limit: OnceLock::new(),
    limit_is_fixed: AtomicBool::new(false),
};

/// Installs the logger. It writes to /dev/kmsg, or to standard error where that cannot be opened.
pub fn install() {
    // A second call fails and changes nothing: this logger is installed already.
    let _ = log::set_logger(&KMSG);
    log::set_max_level(LevelFilter::Info);
    // A process that may write to the log may not be allowed to read it (dmesg_restrict).
    if let Ok(file) = open(true).or_else(|_| open(false)) {
        let _ = KMSG.file.set(file);
    }
}

fn open(read: bool) -> io::Result<File> {
    let mut options = File::options();
    // A read at the end of the log then returns EAGAIN.
    let options = options.read(read).append(true);
    options.custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")
}

/// Sets how much is logged.
pub fn set_verbosity(verbosity: Verbosity) {
    if verbosity != Verbosity::Normal {
        log::set_max_level(LevelFilter::Debug);
    }
    KMSG.debug_as_info
        .store(verbosity == Verbosity::Shown, Ordering::Relaxed);
}

/// Lifts the kernel's limit of ten records in five seconds from userspace, until [`restore_limit`]. If
/// `printk.devkmsg=` fixes the limit, it still applies to all records but errors.
pub fn lift_limit() {
    let before = fs::read_to_string(DEVKMSG).ok();
    let Some(before) = before.filter(|now| now.trim() != "on") else {
        return;
    };
    match set_limit("on\n") {
        Ok(()) => {
            // A second call keeps the limit that the first one found.
            let _ = KMSG.saved_limit.set(before);
        }
        Err(_) => KMSG.limit_is_fixed.store(true, Ordering::Relaxed),
    }
}

/// Restores the kernel's limit for the real init. It applies to all later records.
pub fn restore_limit() {
    KMSG.records
        .store(FREE_RECORDS.saturating_add(1), Ordering::Relaxed);
    if let Some(before) = KMSG.saved_limit.get() {
        // A failure only leaves the real init with a higher limit than the default.
        let _ = set_limit(before);
    }
}

/// Writes the limit. Without /proc, no file is created in its place.
fn set_limit(limit: &str) -> io::Result<()> {
    let mut file = File::options().write(true).open(DEVKMSG)?;
    file.write_all(limit.as_bytes())
}

/// The console log level (`loglevel=`): the console shows records of lower levels. The first number of
/// /proc/sys/kernel/printk. A signal handler calls it, so it allocates nothing.
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

/// The most warnings that are recorded: a machine can have any number of devices without a driver.
const WARNINGS_MAX: usize = 200;

/// The warnings so far, for the report.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn recorded() -> MutexGuard<'static, Vec<String>> {
    // A panic while the lock was held cannot have left a partial text.
    WARNINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn record_warning(text: &str) {
    let mut recorded = recorded();
    match recorded.len() {
        ..WARNINGS_MAX => recorded.push(text.into()),
        WARNINGS_MAX => recorded.push("... and more: see the kernel log".into()),
        _ => {}
    }
}

/// The warnings so far, in order.
pub fn warnings() -> Vec<String> {
    recorded().clone()
}

/// Writes a warning to the kernel log and to the console, once each, whatever `loglevel=` is.
pub fn warn_on_console(text: &str) {
    record_warning(text);
    print_on_console(text);
}

/// [`warn_on_console`] for a text that is no warning: the report does not list it.
pub fn print_on_console(text: &str) {
    log::error!("{text}");
    if console_level() <= ERROR {
        // Not eprintln!, which panics if the write fails: the terminal may have been hung up.
        let _ = writeln!(std::io::stderr(), "layerinit: {text}");
    }
}

/// [`warn_on_console`] for a signal handler: it takes no lock and allocates nothing (signal-safety(7)).
/// `text` has to fit into one record. The report does not list it.
pub fn warn_from_handler(text: &str) {
    let mut record = LineBuffer::new();
    let _ = writeln!(record, "<{ERROR}>{PREFIX}{text}");
    let record = record.text().as_bytes();
    // The kernel limits each open file separately: a new one accepts records.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fresh = rustix::fs::open(c"/dev/kmsg", flags, Mode::empty());
    let logged = fresh.and_then(|file| rustix::io::write(&file, record));
    if logged.is_err() || console_level() <= ERROR {
        // If that fails, too, there is nowhere to report it.
        let _ = rustix::io::write(rustix::stdio::stderr(), record.get(3..).unwrap_or_default());
    }
}

/// A line of text on the stack, for a signal handler. Text beyond its capacity is cut off.
pub struct LineBuffer {
    bytes: [u8; RECORD / 2],
    length: usize,
}

impl LineBuffer {
    /// An empty line.
    #[allow(clippy::new_without_default, reason = "one way to make it is enough")]
    pub fn new() -> Self {
        Self {
            bytes: [0; RECORD / 2],
            length: 0,
        }
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Write for LineBuffer {
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

/// Reads the records of the kernel log (Documentation/ABI/testing/dev-kmsg). All values share one position
/// in the log, so only the newest one may be read.
#[derive(Debug)]
pub struct KernelRecords {
    file: Option<&'static File>,
}

impl KernelRecords {
    /// All records that the log still holds.
    pub fn all() -> Self {
        Self::after(SeekFrom::Start(0))
    }

    /// Records that are written from now on.
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

/// Ends at the end of the log.
impl Iterator for KernelRecords {
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
                // The record was overwritten meanwhile: read the next one.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                // EAGAIN: the end of the log.
                Err(_) => return None,
            }
        }
    }
}

/// A record of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRecord {
    /// The level, from 0 (KERN_EMERG) to 7 (KERN_DEBUG).
    pub level: u8,
    /// Whether the kernel wrote it, and not a program.
    pub by_kernel: bool,
    /// The text, without dictionary and continuation lines.
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
            Level::Debug | Level::Trace if self.debug_as_info.load(Ordering::Relaxed) => 6,
            Level::Debug | Level::Trace => 7,
        };
        let text = record.args().to_string();
        if record.level() == Level::Warn {
            record_warning(&text);
        }
        for line in text.lines().flat_map(Chunks) {
            let mut out = String::with_capacity(line.len().saturating_add(20));
            // One write is one record. If it fails, there is nowhere to report it. Without a line feed the
            // kernel holds a record back until the next one, which might continue it (vprintk_store in
            // kernel/printk/printk.c), and never shows the last one.
            let _ = match self.file.get() {
                Some(file) => {
                    if self.records.fetch_add(1, Ordering::Relaxed) == FREE_RECORDS {
                        lift_limit();
                    }
                    let _ = writeln!(out, "<{level}>{PREFIX}{line}");
                    // The kernel limits each open file (struct devkmsg_user), and drops what is beyond the
                    // limit without an error. The reason of a failure is written to a new file.
                    let fresh = match level == ERROR && self.limit_is_fixed.load(Ordering::Relaxed)
                    {
                        true => open(false).ok(),
                        false => None,
                    };
                    let mut file = fresh.as_ref().unwrap_or(file);
                    file.write_all(out.as_bytes())
                }
                // Here the kernel would show it.
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

/// Splits a line into pieces that fit into a record, between words: half a UUID is of no use.
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
        // The limit of Linux 6.2 with CONFIG_PRINTK_CALLER.
        assert!("<3>".len() + PREFIX.len() + RECORD + "\n".len() <= 1024 - 48);
    }
}
