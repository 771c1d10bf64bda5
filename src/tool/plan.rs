//! `layerinit plan`: what `/init` would do with an image.

use std::io::Write;
use std::path::Path;

use super::image::boot::Boot;
use super::image::{input, whose_init};
use crate::error::{Context, Result};

/// Prints the plan for an image.
///
/// # Errors
/// The image has no plan, or the kernel would start another program than our `/init`.
pub fn print(path: &Path, cmdline: &str, out: &mut dyn Write) -> Result<bool> {
    let image = input::open(path)?;
    // What is wrong with single files is what `check` is for.
    let boot = Boot::new(&image, cmdline, &mut |_, _, _| {})?;
    whose_init::check(&boot, &image)?;
    write!(out, "{}", boot.plan()?).during("write", "the plan")?;
    Ok(true)
}
