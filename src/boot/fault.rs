//! A fault of `/init`: a signal that would end PID 1, after which the kernel panics.
//!
//! The failure policy of [`crate::boot::rescue`] applies, except that no shell is started: a signal handler
//! may do very little (signal-safety(7)), so nothing in this file takes a lock or allocates.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::pause;
use rustix::process::getpid;
use rustix::system::reboot;
use rustix::thread::{NanosleepRelativeResult, Timespec, gettid, nanosleep};

use super::kmsg::{LineBuffer, warn_from_handler};
use super::rescue::{options, reboot_command};
use super::watchdog;
use crate::plan::cmdline::Emergency;
use crate::sys::process::reap;
use crate::sys::signal::{self, AlternateStack, FAULTS, FaultSignal, Origin};

/// Whether a fault has been reported.
static REPORTED: AtomicBool = AtomicBool::new(false);

/// Makes a fault of `/init` a failure of the boot. execve(2) undoes it.
pub fn install_handler() {
    // The stack is needed as long as the program runs.
    std::mem::forget(AlternateStack::new());
    signal::install_handler(handle);
}

fn handle(fault: &FaultSignal) {
    let process = getpid();
    // The signal ends a child, as it does any program.
    if !process.is_init() {
        return;
    }
    if !REPORTED.swap(true, Ordering::Relaxed) {
        report(fault);
    }
    // The first thread runs the boot, which must not continue.
    if gettid() != process {
        signal::pass_to_first_thread(fault.signal);
        loop {
            pause();
        }
    }
    apply_policy()
}

fn report(fault: &FaultSignal) {
    let name = FAULTS.iter().find(|(number, _)| *number == fault.signal);
    let mut line = LineBuffer::new();
    let _ = write!(
        line,
        "boot failed: {}",
        name.map_or("a signal", |(_, name)| name)
    );
    let _ = match fault.origin {
        Origin::Address(address) => write!(line, ", address {address:#x}"),
        Origin::Kernel => Ok(()),
        Origin::Process(1) => write!(line, ", raised by /init itself"),
        Origin::Process(process) => write!(line, ", sent by process {process}"),
    };
    if let Some(instruction) = fault.instruction {
        let _ = write!(line, ", instruction {instruction:#x}");
    }
    warn_from_handler(line.text());
    if !matches!(fault.origin, Origin::Process(process) if process != 1) {
        warn_from_handler(
            "this is a bug in layerinit, or bad memory; please report the line above",
        );
    }
}

fn apply_policy() -> ! {
    let policy = options().map_or((None, 0), |options| (options.emergency, options.panic));
    match policy {
        (Some(action), _) => run_emergency_action(action),
        (None, 0) => {
            warn_from_handler(
                "waiting: after a fault no shell is started, and neither rd.emergency= nor panic= \
                 is set",
            );
            stay()
        }
        (None, seconds) => {
            if seconds > 0 {
                let mut line = LineBuffer::new();
                let _ = write!(line, "restarting in {seconds} s (panic=)");
                warn_from_handler(line.text());
                sleep(seconds);
            }
            run_emergency_action(Emergency::Reboot)
        }
    }
}

fn sleep(seconds: i64) {
    let mut left = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    while let NanosleepRelativeResult::Interrupted(rest) = nanosleep(&left) {
        left = rest;
    }
}

fn run_emergency_action(action: Emergency) -> ! {
    let (command, text) = reboot_command(action);
    warn_from_handler(text);
    if action != Emergency::Reboot {
        watchdog::stop_from_handler();
    }
    if let Err(errno) = reboot(command) {
        let mut line = LineBuffer::new();
        let _ = write!(line, "{text}: errno {}", errno.raw_os_error());
        warn_from_handler(line.text());
    }
    stay()
}

/// Never returns, because PID 1 must not exit, and reaps children.
fn stay() -> ! {
    match watchdog::stop_pinging_from_handler() {
        true => warn_from_handler("nothing more will happen; the watchdog restarts the machine"),
        false => warn_from_handler("nothing more will happen; restart the machine"),
    }
    loop {
        if reap().is_none() {
            pause();
        }
    }
}
