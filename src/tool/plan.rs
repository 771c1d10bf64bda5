//! `layerinit plan`: the plan that `/init` makes for an image.

use std::io::Write;

use super::check;
use super::image::boot::{Boot, StandIns};
use super::image::input::Initrd;
use super::image::rdinit::check_is_layerinit;
use crate::error::{Context, Result};

/// Prints the plan for an image, and the errors that [`check`] finds. Without `cmdline`, it uses the command
/// line of the image. Returns whether there are no errors.
///
/// # Errors
/// The image has no plan, or the kernel would start another program than this `/init`.
pub fn print(
    image: &Initrd,
    cmdline: Option<&str>,
    stand_ins: &StandIns,
    out: &mut dyn Write,
) -> Result<bool> {
    let cmdline = cmdline.or(image.cmdline.as_deref()).unwrap_or_default();
    let boot = Boot::new(image, cmdline, stand_ins);
    check_is_layerinit(&boot, image)?;
    write!(out, "{}", boot.plan()?).during("write", "the plan")?;
    check::errors(image, cmdline, stand_ins, out)
}
