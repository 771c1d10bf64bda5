//! The scheduling priority of `/init`, and the processors that it may use.

use std::sync::OnceLock;

use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::sched_getaffinity;

/// The nice value that `/init` was started with.
static INITIAL_NICE: OnceLock<i32> = OnceLock::new();

/// Raises the priority of `/init`, and of the threads that load modules for it, above the kernel's own
/// threads: early in the boot these run the self-tests of the crypto algorithms, which take as long as
/// the whole of `/init`.
pub fn raise_priority() {
    // Without the privilege (in a container, say) the boot is slower, and nothing else changes.
    if let Ok(nice) = getpriority_process(None)
        && setpriority_process(None, -20).is_ok()
    {
        let _ = INITIAL_NICE.set(nice);
    }
}

/// The number of processors that this thread may run on, from sched_getaffinity(2). std's `available_parallelism` also
/// reads the limits of cgroups, which a boot does not have; that is 10 KB of `/init`.
pub fn processors() -> usize {
    let number = sched_getaffinity(None).map_or(1, |set| set.count());
    usize::try_from(number).unwrap_or(1).max(1)
}

/// Restores the initial nice value, for a program that `/init` starts.
pub fn restore_priority() {
    if let Some(nice) = INITIAL_NICE.get() {
        // It was the value before, so the kernel accepts it.
        let _ = setpriority_process(None, *nice);
    }
}
