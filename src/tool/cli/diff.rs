//! `layerinit diff`: arguments and help.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::tool::diff::{self, DiffOptions};
use crate::tool::image::input::Initrd;

/// Compare the roots that result from two images
#[derive(Args)]
#[command(after_help = "\
Comparison:
  The roots are the merged layers, or the files of an initramfs without layers. One line for each
  file lists the differences: type, mode, owner, device, target, size, first name (of several hard
  links), xattr, content. How files are stored, and in which layer, does not matter. Neither do
  modification times, because every build may change them, and few programs depend on them; --times
  compares them, too.

JSON:
  --json writes one object with these fields. Fields in parentheses are not always present.

    old, new    the names of the images
    added       a list of: path, type
    removed     the same
    changed     a list of: path, changes, which is a list of: what, (old), (new)

Exit status:
  0 if there is no difference, 1 if there is one, 2 if an image cannot be read and for wrong usage.

Examples:
  layerinit diff old.img new.img
  layerinit diff --times --json old.img new.img")]
pub(super) struct DiffArgs {
    /// The image to compare with
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The image to compare
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Compare modification times, too
    #[arg(long)]
    times: bool,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

impl DiffArgs {
    /// Returns the exit status.
    pub(super) fn run(self, out: &mut dyn Write) -> u8 {
        let options = DiffOptions {
            times: self.times,
            json: self.json,
        };
        let open = |path| Initrd::open(&[path], 1);
        let images = open(self.old).and_then(|old| Ok((old, open(self.new)?)));
        match images.and_then(|(old, new)| diff::diff(&old, &new, options, out)) {
            Ok(same) => u8::from(!same),
            Err(error) => {
                eprintln!("layerinit: {error}");
                2
            }
        }
    }
}
