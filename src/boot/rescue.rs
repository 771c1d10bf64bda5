//! The failure policy: one message, then a shell, a restart, or waiting. PID 1 never exits.

use std::ffi::CStr;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

use log::{error, info, warn};
use rustix::fs::{Access, access, statfs, sync};
use rustix::process::getpid;
use rustix::system::{RebootCommand, reboot};

use super::console::{DRIVER_WAIT, is_interactive, reopen_streams};
use super::drivers::Drivers;
use super::filesystem::{is_in_memory, is_mount_point};
use super::kmsg::{self, print_on_console, warn_on_console};
use super::mount::{LAYERS, SYSROOT};
use super::priority::restore_priority;
use super::{verified, watchdog};
use crate::error::Error;
use crate::plan::cmdline::{Break, Emergency, Options};
use crate::sys::process::{reap, start_session};

/// The shells that an initramfs may hold, in order of preference.
const SHELLS: [&CStr; 5] = [
    c"/bin/sh",
    c"/usr/bin/sh",
    c"/bin/bash",
    c"/bin/busybox",
    c"/busybox",
];

/// Without -f, busybox signals PID 1, and only its own init knows these signals.
const REBOOT_NOTE: &str =
    "in the shell: reboot -f or poweroff -f; without -f they have no effect here";

/// A shell that ran for less than this had no user.
const ATTENDED: Duration = Duration::from_secs(1);

/// The options of the command line, once it has been read.
static OPTIONS: OnceLock<Options> = OnceLock::new();

/// How often the boot has failed: it can continue after a shell, and fail again.
static FAILURES: AtomicU32 = AtomicU32::new(0);

/// Makes a panic of `/init` a failure like any other.
pub fn catch_panics() {
    panic::set_hook(Box::new(|info| {
        // A child that panics is no failure of the boot.
        if !getpid().is_init() {
            return;
        }
        kmsg::lift_limit();
        error!("{info}");
        warn_on_console("this is a bug in layerinit; please report the line above");
        apply_policy(false);
    }));
}

/// Applies the policy of these options from now on.
pub fn set_options(options: &Options) {
    // A boot that continues after the shell sets the same options again.
    let _ = OPTIONS.set(options.clone());
}

/// The options, or `None` if the boot has not read the command line yet.
pub fn options() -> Option<&'static Options> {
    OPTIONS.get()
}

/// Reports a failure and applies the policy. Returns only if the rescue shell has left a root mounted at
/// /sysroot: the boot can continue with that root.
pub fn fail(failure: &Error) {
    FAILURES.fetch_add(1, Ordering::Relaxed);
    kmsg::lift_limit();
    warn_on_console(&format!("boot failed: {failure}"));
    if let Some(hint) = hint() {
        warn_on_console(hint);
    }
    apply_policy(true);
}

/// Starts a shell at this point of the boot, if `rd.break=` names it.
pub fn break_at(point: Break, options: &Options) {
    if !options.breaks.contains(&point) {
        return;
    }
    let point = match point {
        Break::Plan => "plan",
        Break::Mount => "mount",
        Break::Switch => "switch",
    };
    if shells().next().is_none() {
        warn!("rd.break={point}: the initramfs holds no shell");
        return;
    }
    let _drivers = Drivers::load(options.clone());
    reopen_streams(DRIVER_WAIT);
    if !is_interactive() {
        warn!("rd.break={point}: there is no console for a shell");
        return;
    }
    print_on_console(&format!("rd.break={point}: exit the shell to continue"));
    if run_shell().is_none() {
        warn!("rd.break={point}: no shell could be started");
    }
}

/// A shell if the options allow one, then `rd.emergency=`, `panic=`, or waiting. `may_continue`: whether the
/// boot can continue with a root that the shell leaves at /sysroot.
fn apply_policy(may_continue: bool) {
    // Before the command line is read, there is no policy.
    let unread = || (verified::wanted_by().is_none(), None, 0);
    let (may_start_shell, emergency, seconds) = options().map_or_else(unread, |options| {
        (options.shell, options.emergency, options.panic)
    });
    if may_start_shell && shells().next().is_some() {
        // Not after a panic: loading them may have caused it.
        let _drivers = may_continue.then(|| Drivers::load(options().cloned().unwrap_or_default()));
        reopen_streams(DRIVER_WAIT);
        // Without a console the shell would end at once, and the machine would not wait.
        if is_interactive() {
            announce_shell(may_continue);
            if let Some(open) = run_shell() {
                // A shell that ends at once each time has no user: its terminal may have been hung up.
                let attended = FAILURES.load(Ordering::Relaxed) < 2 || open > ATTENDED;
                if may_continue && attended && is_mount_point(Path::new(SYSROOT)) {
                    return;
                }
                run_emergency_action(emergency.unwrap_or(Emergency::Reboot));
            }
        }
    }
    match (emergency, seconds) {
        (Some(action), _) => run_emergency_action(action),
        (None, 0) => {
            warn_on_console(
                "waiting: no shell can be started, and neither rd.emergency= nor panic= \
                 is set",
            );
            stay()
        }
        (None, seconds) => {
            if let Ok(seconds) = u64::try_from(seconds) {
                warn_on_console(&format!("restarting in {seconds} s (panic=)"));
                thread::sleep(Duration::from_secs(seconds));
            }
            run_emergency_action(Emergency::Reboot)
        }
    }
}

/// Tells the user what the shell is for.
fn announce_shell(may_continue: bool) {
    // Creates the mount point for a root that the user mounts, but not after the switch: `/` may then be on a
    // disk, which /init never writes to.
    if statfs("/").is_ok_and(|root| is_in_memory(&root)) {
        let _ = fs::create_dir(SYSROOT);
    }
    warn_on_console(&match (may_continue, is_mount_point(Path::new(SYSROOT))) {
        (false, _) => "starting a shell; exit to restart".into(),
        (true, true) => format!(
            "starting a shell. The root that failed is at {SYSROOT}: exit to retry it; \
             umount -l {SYSROOT} and exit to restart"
        ),
        (true, false) => format!(
            "starting a shell. Mount a root at {SYSROOT} and exit to boot it; exit without one to restart"
        ),
    });
    warn_on_console(REBOOT_NOTE);
}

/// The probable reason where no layers were found at all.
fn hint() -> Option<&'static str> {
    let images = ["/sys/firmware/initrd", "/initrd.image"];
    // After the switch the sources are gone, and layers are mounted. The loader has an empty /layers.
    let holds_files =
        |path: &&str| fs::read_dir(path).is_ok_and(|mut files| files.next().is_some());
    let files = [LAYERS, "/layers"].iter().any(holds_files);
    let named = options().is_some_and(|options| options.root.is_some() || !options.from.is_empty());
    if files || named || images.iter().any(|image| Path::new(image).exists()) {
        return None;
    }
    let retain = options().is_some_and(|options| options.retain_initrd);
    Some(match (initrd_was_discarded(), retain) {
        (true, false) => {
            "hint: the initrd held more than cpio archives, and the kernel has discarded the rest: add \
             retain_initrd to the command line (Linux 6.8 or newer), or put the layers into /layers of the \
             initramfs"
        }
        (true, true) => {
            "hint: the initrd held more than cpio archives, and this kernel does not keep it: retain_initrd \
             provides /sys/firmware/initrd from Linux 6.8 on; put the layers into /layers of the \
             initramfs instead"
        }
        (false, _) => {
            "hint: there are no layers: no /layers in the initramfs, and nothing but cpio archives in \
             the initrd"
        }
    })
}

/// Whether the kernel log says that the kernel did not recognise all of the initrd.
fn initrd_was_discarded() -> bool {
    let mut records = kmsg::KernelRecords::all();
    records.any(|record| record.by_kernel && record.text.contains("Initramfs unpacking failed"))
}

/// The argument of reboot(2) for an action, and the message that announces it.
pub fn reboot_command(action: Emergency) -> (RebootCommand, &'static str) {
    match action {
        Emergency::Reboot => (RebootCommand::Restart, "restarting"),
        Emergency::Poweroff => (RebootCommand::PowerOff, "switching off"),
        Emergency::Halt => (RebootCommand::Halt, "halting"),
    }
}

/// Restarts, switches off or halts the machine; stays if the kernel cannot.
fn run_emergency_action(action: Emergency) -> ! {
    let (command, text) = reboot_command(action);
    warn_on_console(text);
    if action != Emergency::Reboot {
        watchdog::stop();
    }
    if let Err(errno) = reboot(command) {
        warn_on_console(&format!("{text}: {}", crate::error::name(errno)));
    }
    stay()
}

/// Never returns, because PID 1 must not exit, and reaps children.
pub fn stay() -> ! {
    match watchdog::stop_pinging() {
        Some(seconds) => warn_on_console(&format!(
            "nothing more will happen; the watchdog restarts the machine within {seconds} s"
        )),
        None => warn_on_console("nothing more will happen; restart the machine"),
    }
    loop {
        if reap().is_none() {
            thread::park();
        }
    }
}

/// The shells that exist in the initramfs.
fn shells() -> impl Iterator<Item = &'static CStr> {
    let exists = |path: &&CStr| access(*path, Access::EXISTS).is_ok();
    SHELLS.into_iter().filter(exists)
}

/// Runs a shell on the console until it ends. Returns how long it ran, or `None` if none could be started.
fn run_shell() -> Option<Duration> {
    restore_priority();
    let started = Instant::now();
    for path in shells() {
        // A login shell reads /etc/profile, as it does on any console.
        let arguments: &[&CStr] = match path.to_bytes().ends_with(b"busybox") {
            true => &[path, c"sh"],
            false => &[c"-sh"],
        };
        match start_session(path, arguments) {
            Ok(pid) => {
                // Processes that the shell leaves behind become children of PID 1.
                while let Some(child) = reap() {
                    if child == pid {
                        break;
                    }
                }
                info!("the shell has ended");
                // The user may have repaired files on a disk. Nothing else writes them back before a restart.
                sync();
                return Some(started.elapsed());
            }
            Err(error) => warn!("start {}: {error}", path.to_string_lossy()),
        }
    }
    None
}
