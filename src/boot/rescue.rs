//! The failure policy: one message, then a shell, a restart, or waiting. PID 1 never exits.

use std::ffi::CStr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

use log::{error, info, warn};
use rustix::fs::{Access, access, statfs, sync};
use rustix::process::getpid;
use rustix::system::{RebootCommand, reboot};

use super::kmsg::{self, say, show};
use super::mount::{LAYERS, SYSROOT};
use super::setup::{
    CONSOLE_WAIT, has_console, is_in_memory, is_mount_point, release, take_turns, take_up_console,
};
use super::watchdog;
use crate::device::Search;
use crate::error::Error;
use crate::module::loader::Loader;
use crate::plan::cmdline::{Break, Emergency, Options};
use crate::sys::process::{reap, start_session};
use crate::sys::signal::guarded;

/// Shells that an initramfs may hold, the plainest name first.
const SHELLS: [&CStr; 5] = [
    c"/bin/sh",
    c"/usr/bin/sh",
    c"/bin/bash",
    c"/bin/busybox",
    c"/busybox",
];

/// Without -f, busybox sends PID 1 a signal that only its own init knows.
const BY_FORCE: &str = "in the shell: reboot -f or poweroff -f; without -f they do nothing here";

/// How long a shell waits for the drivers of the devices that are there.
const DRIVERS_WAIT: Duration = Duration::from_secs(5);

/// How often who waits for devices looks whether the shell is still there.
const ALIVE: Duration = Duration::from_secs(1);

/// The command line, as soon as it has been read.
static OPTIONS: OnceLock<Options> = OnceLock::new();

/// How often the boot has failed: the shell lets it go on.
static FAILURES: AtomicU32 = AtomicU32::new(0);

/// Makes a panic of this program take the way of every other failure.
pub fn catch_panics() {
    panic::set_hook(Box::new(|info| {
        // In a child it is no failure of the boot.
        if !getpid().is_init() {
            return;
        }
        kmsg::lift_limit();
        error!("{info}");
        say("this is a bug in layerinit; please report the line above");
        after_failure(false);
    }));
}

/// Follows the command line from here on.
pub fn follow(options: &Options) {
    // The second call, from a boot that the shell lets go on, has the same options.
    let _ = OPTIONS.set(options.clone());
}

/// The command line, where the boot has come so far as to read it.
pub fn options() -> Option<&'static Options> {
    OPTIONS.get()
}

/// Reports a failure and does what the command line says. Returns where the rescue shell has left a
/// root mounted at /sysroot: the boot can go on with that.
pub fn fail(failure: &Error) {
    FAILURES.fetch_add(1, Ordering::Relaxed);
    kmsg::lift_limit();
    say(&format!("boot failed: {failure}"));
    if let Some(hint) = hints() {
        say(hint);
    }
    after_failure(true);
}

/// Stops for a shell where `rd.break=` says so.
pub fn pause(here: Break, options: &Options) {
    if !options.breaks.contains(&here) {
        return;
    }
    let point = match here {
        Break::Plan => "plan",
        Break::Mount => "mount",
        Break::Switch => "switch",
    };
    if shells().next().is_none() {
        warn!("rd.break={point}: the initramfs holds no shell");
        return;
    }
    let _drivers = Drivers::load();
    take_up_console(CONSOLE_WAIT);
    if !has_console() {
        warn!("rd.break={point}: there is no console for a shell");
        return;
    }
    show(&format!("rd.break={point}: exit the shell to go on"));
    if shell().is_none() {
        warn!("rd.break={point}: there is no shell that could be started");
    }
}

fn after_failure(may_go_on: bool) {
    let (may_start_shell, emergency, seconds) = options().map_or((true, None, 0), |options| {
        (options.shell, options.emergency, options.panic)
    });
    if may_start_shell && shells().next().is_some() {
        // Not behind a panic: it may have come from there.
        let _drivers = may_go_on.then(Drivers::load);
        take_up_console(CONSOLE_WAIT);
        // Without a console the shell would end at once, and with it the waiting.
        if has_console() {
            offer(may_go_on);
            if let Some(open) = shell() {
                // Nobody needs less, but for the first time: a line that was hung up, a shell that fails.
                let attended =
                    FAILURES.load(Ordering::Relaxed) < 2 || open > Duration::from_secs(1);
                if may_go_on && attended && is_mount_point(Path::new(SYSROOT)) {
                    return;
                }
                act(emergency.unwrap_or(Emergency::Reboot));
            }
        }
    }
    match (emergency, seconds) {
        (Some(action), _) => act(action),
        (None, 0) => {
            say(
                "waiting: no shell can be started, and neither rd.emergency= nor panic= says what to do",
            );
            end()
        }
        (None, seconds) => {
            if let Ok(seconds) = u64::try_from(seconds) {
                say(&format!("restarting in {seconds} s (panic=)"));
                thread::sleep(Duration::from_secs(seconds));
            }
            act(Emergency::Reboot)
        }
    }
}

/// The drivers of whatever somebody in a shell needs, a keyboard above all. As long as this lives, those
/// of devices that come are loaded as well: the keyboard comes after its USB controller.
struct Drivers {
    /// The thread ends with it.
    _alive: Arc<()>,
}

impl Drivers {
    /// Loads them, on a thread: a driver that hangs may be the failure that the shell is for.
    fn load() -> Self {
        let alive = Arc::new(());
        let watch = Arc::downgrade(&alive);
        let (loaded, first) = mpsc::channel();
        let work = move || {
            let options = options().cloned().unwrap_or_default();
            let mut loader = Loader::new(&release(), &options);
            loader.load_pre();
            let mut follow = |modaliases: &[String]| loader.load_requested(modaliases);
            let mut search = Search::new();
            // What a driver has found is there now: a bridge, and what stands behind it.
            while search.coldplug(&mut follow) {}
            // Nobody may be waiting any more.
            let _ = loaded.send(());
            while watch.strong_count() > 0 {
                let until = Instant::now().checked_add(ALIVE);
                if search
                    .hotplug(until.unwrap_or_else(Instant::now), &mut follow)
                    .is_err()
                {
                    break;
                }
            }
        };
        match thread::Builder::new().spawn(guarded(work)) {
            // What drivers say comes before the prompt.
            Ok(_) => drop(first.recv_timeout(DRIVERS_WAIT)),
            Err(error) => warn!("load drivers for the shell: {error}"),
        }
        Self { _alive: alive }
    }
}

/// Says what the shell is for.
fn offer(may_go_on: bool) {
    // For whoever does what is said here; not on a disk, behind the switch.
    if statfs("/").is_ok_and(|root| is_in_memory(&root)) {
        let _ = fs::create_dir(SYSROOT);
    }
    say(&match (may_go_on, is_mount_point(Path::new(SYSROOT))) {
        (false, _) => "starting a shell; exit to restart".into(),
        (true, true) => format!(
            "starting a shell. The root that failed is at {SYSROOT}: exit to try it again; \
             umount -l {SYSROOT} and exit to restart"
        ),
        (true, false) => format!(
            "starting a shell. Mount a root at {SYSROOT} and exit to go on with it; exit without one to restart"
        ),
    });
    say(BY_FORCE);
}

/// What is likely to be the reason where no layers were found at all.
fn hints() -> Option<&'static str> {
    let sources = ["/sys/firmware/initrd", "/initrd.image", "/layers"];
    // Behind the switch these are gone, and layers are mounted.
    let mounted = fs::read_dir(LAYERS).is_ok_and(|mut layers| layers.next().is_some());
    let root = options().is_some_and(|options| options.root.is_some());
    if mounted || root || sources.iter().any(|source| Path::new(source).exists()) {
        return None;
    }
    let retain = options().is_some_and(|options| options.retain_initrd);
    Some(match (thrown_away(), retain) {
        (true, false) => {
            "hint: the initrd held more than cpio archives, and the kernel has thrown that away: add \
             retain_initrd to the command line (Linux 6.8 or newer), or put the layers into /layers of the initramfs"
        }
        (true, true) => {
            "hint: the initrd held more than cpio archives, and this kernel does not keep it: retain_initrd gives \
             /sys/firmware/initrd from Linux 6.8 on; put the layers into /layers of the initramfs instead"
        }
        (false, _) => {
            "hint: there are no layers: no /layers in the initramfs, and nothing but cpio archives in the initrd"
        }
    })
}

/// Whether the kernel's log says that it did not understand all of the initrd.
fn thrown_away() -> bool {
    let mut records = kmsg::Records::all();
    records.any(|record| record.by_kernel && record.text.contains("Initramfs unpacking failed"))
}

/// What to tell the kernel for an action, and whoever reads along.
pub fn command(action: Emergency) -> (RebootCommand, &'static str) {
    match action {
        Emergency::Reboot => (RebootCommand::Restart, "restarting"),
        Emergency::Poweroff => (RebootCommand::PowerOff, "switching off"),
        Emergency::Halt => (RebootCommand::Halt, "halting"),
    }
}

/// Restarts, switches off or stops the machine; stays where the kernel cannot.
fn act(action: Emergency) -> ! {
    let (command, text) = command(action);
    say(text);
    if action != Emergency::Reboot {
        watchdog::stop();
    }
    if let Err(errno) = reboot(command) {
        say(&format!("{text}: {}", crate::error::name(errno)));
    }
    end()
}

/// Stays, as PID 1 must, and takes in the dead.
pub fn end() -> ! {
    match watchdog::abandon() {
        Some(seconds) => say(&format!(
            "nothing more will happen; the watchdog restarts the machine within {seconds} s"
        )),
        None => say("nothing more will happen; restart the machine"),
    }
    loop {
        if reap().is_none() {
            thread::park();
        }
    }
}

fn shells() -> impl Iterator<Item = &'static CStr> {
    let there = |path: &&CStr| access(*path, Access::EXISTS).is_ok();
    SHELLS.into_iter().filter(there)
}

/// Runs a shell on the console until it ends. How long it ran, if there was one.
fn shell() -> Option<Duration> {
    take_turns();
    let started = Instant::now();
    for path in shells() {
        // A login shell reads /etc/profile, as on any console.
        let arguments: &[&CStr] = match path.to_bytes().ends_with(b"busybox") {
            true => &[path, c"sh"],
            false => &[c"-sh"],
        };
        match start_session(path, arguments) {
            Ok(pid) => {
                // Whatever the shell leaves behind becomes a child of PID 1.
                while let Some(dead) = reap() {
                    if dead == pid {
                        break;
                    }
                }
                info!("the shell has ended");
                // What was mended may be on a disk, and nothing else writes it back before a restart.
                sync();
                return Some(started.elapsed());
            }
            Err(error) => warn!("start {}: {error}", path.to_string_lossy()),
        }
    }
    None
}
