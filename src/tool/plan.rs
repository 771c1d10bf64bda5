//! `layerinit plan`: what `/init` would do with an image.

use std::io::Write;

use super::check;
use super::image::boot::Boot;
use super::image::input::Initrd;
use super::image::whose_init;
use crate::error::{Context, Result};

/// Prints the plan for an image, by its own command line where there is no other, and the errors that [`check`] finds with this command line.
/// Whether there are none.
///
/// # Errors
/// The image has no plan, or the kernel would start another program than our `/init`.
pub fn print(image: &Initrd, cmdline: Option<&str>, out: &mut dyn Write) -> Result<bool> {
    let cmdline = cmdline.or(image.cmdline.as_deref()).unwrap_or_default();
    // What is wrong with single files is what `check` is for.
    let boot = Boot::new(image, cmdline, &mut |_, _, _| {})?;
    whose_init::check(&boot, image)?;
    write!(out, "{}", boot.plan()?).during("write", "the plan")?;
    check::errors(image, cmdline, out)
}
