//! A fault of this program: a signal that would end PID 1, and with it the kernel.
//!
//! It takes the way of every failure (see [`crate::boot::rescue`]), but for the shell: the handler of a signal
//! may do very little (signal-safety(7)), so nothing here takes a lock or allocates.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::pause;
use rustix::process::getpid;
use rustix::system::reboot;
use rustix::thread::{NanosleepRelativeResult, Timespec, gettid, nanosleep};

use super::kmsg::{Line, say_from_handler};
use super::rescue::{command, options};
use super::watchdog;
use crate::plan::cmdline::Emergency;
use crate::sys::process::reap;
use crate::sys::signal::{self, AlternateStack, FAULTS, Fault, Origin};

/// Whether a fault has been told of.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Makes a fault of this program take the way of every other failure. At execve(2) all is as before.
pub fn catch() {
    // It is needed as long as the program runs.
    std::mem::forget(AlternateStack::new());
    signal::catch(handle);
}

fn handle(fault: &Fault) {
    let process = getpid();
    // A child ends by the signal, as any program does.
    if !process.is_init() {
        return;
    }
    if !TOLD.swap(true, Ordering::Relaxed) {
        tell(fault);
    }
    // The boot must not go on meanwhile, and it is the first thread that does it.
    if gettid() != process {
        signal::pass_to_first_thread(fault.signal);
        loop {
            pause();
        }
    }
    follow_policy()
}

fn tell(fault: &Fault) {
    let name = FAULTS.iter().find(|(number, _)| *number == fault.signal);
    let mut line = Line::new();
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
    say_from_handler(line.text());
    if !matches!(fault.origin, Origin::Process(process) if process != 1) {
        say_from_handler(
            "this is a bug in layerinit, or a fault of the memory; please report the line above",
        );
    }
}

fn follow_policy() -> ! {
    let asked = options().map_or((None, 0), |options| (options.emergency, options.panic));
    match asked {
        (Some(action), _) => act(action),
        (None, 0) => {
            say_from_handler(
                "waiting: after a fault no shell is started, and neither rd.emergency= nor panic= says what to do",
            );
            stay()
        }
        (None, seconds) => {
            if seconds > 0 {
                let mut line = Line::new();
                let _ = write!(line, "restarting in {seconds} s (panic=)");
                say_from_handler(line.text());
                sleep(seconds);
            }
            act(Emergency::Reboot)
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

fn act(action: Emergency) -> ! {
    let (command, text) = command(action);
    say_from_handler(text);
    if action != Emergency::Reboot {
        watchdog::stop_from_handler();
    }
    if let Err(errno) = reboot(command) {
        let mut line = Line::new();
        let _ = write!(line, "{text}: errno {}", errno.raw_os_error());
        say_from_handler(line.text());
    }
    stay()
}

/// Stays, as PID 1 must, and reaps children.
fn stay() -> ! {
    match watchdog::abandon_from_handler() {
        true => say_from_handler("nothing more will happen; the watchdog restarts the machine"),
        false => say_from_handler("nothing more will happen; restart the machine"),
    }
    loop {
        if reap().is_none() {
            pause();
        }
    }
}
