//! Drivers for the rescue shell, above all for the keyboard.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::setup::kernel_release;
use crate::device::Search;
use crate::module::loader::Loader;
use crate::plan::cmdline::Options;
use crate::sys::signal::with_signal_stack;

/// How long the shell waits for the drivers of the devices that are present.
const LOAD_WAIT: Duration = Duration::from_secs(5);

/// How often the thread checks whether its [`Drivers`] still exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A thread that loads the drivers of new devices until this is dropped: a USB keyboard appears only after
/// the driver of its controller is loaded.
#[derive(Debug)]
pub struct Drivers {
    _alive: Arc<()>,
}

impl Drivers {
    /// Loads the drivers of all devices, and waits up to five seconds for it. It runs in a thread, because
    /// the boot may have failed due to a driver that hangs.
    pub fn load(options: Options) -> Self {
        let alive = Arc::new(());
        let watch = Arc::downgrade(&alive);
        let (loaded, first_round) = mpsc::channel();
        let work = move || {
            let mut loader = Loader::new(&kernel_release(), &options);
            loader.load_pre();
            let mut load = |modaliases: &[String]| loader.load_requested(modaliases);
            let mut search = Search::new();
            // A driver may add devices: those behind a bridge, for example.
            while search.coldplug(&mut load) {}
            // The shell may have started already.
            let _ = loaded.send(());
            while watch.strong_count() > 0 {
                let until = Instant::now().checked_add(CHECK_INTERVAL);
                if search
                    .hotplug(until.unwrap_or_else(Instant::now), &mut load)
                    .is_err()
                {
                    break;
                }
            }
        };
        match thread::Builder::new().spawn(with_signal_stack(work)) {
            // The messages of drivers should come before the prompt.
            Ok(_) => drop(first_round.recv_timeout(LOAD_WAIT)),
            Err(error) => warn!("load drivers for the shell: {error}"),
        }
        Self { _alive: alive }
    }
}
