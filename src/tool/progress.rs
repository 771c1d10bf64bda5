//! The progress bar of commands that write much.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar for so many bytes, on standard error. It is hidden for few bytes, and where that is no terminal.
pub fn bar(expected: u64) -> ProgressBar {
    /// Less takes no time, in bytes.
    const PROGRESS_MIN: u64 = 64 << 20;
    let progress = match expected {
        PROGRESS_MIN.. => {
            let stderr = ProgressDrawTarget::stderr_with_hz(4);
            ProgressBar::with_draw_target(Some(expected), stderr)
        }
        _ => ProgressBar::hidden(),
    };
    if let Ok(style) =
        ProgressStyle::with_template("{bytes}/{total_bytes} {wide_bar} {bytes_per_sec}, {eta}")
    {
        progress.set_style(style);
    }
    progress
}
