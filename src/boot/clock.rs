//! The kernel's clocks.

use rustix::time::{ClockId, clock_gettime};

/// The time of `clock` in microseconds (clock_gettime(2)).
pub fn microseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = time.tv_sec.unsigned_abs().saturating_mul(1_000_000);
    seconds.saturating_add(time.tv_nsec.unsigned_abs() / 1000)
}
