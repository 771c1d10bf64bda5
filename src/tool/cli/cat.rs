//! `layerinit cat`: arguments and help.

use std::io::Write;

use clap::Args;

use super::image::{ImageArgs, images};
use crate::error::Result;
use crate::tool::cat;

/// Print a file of the layers to standard output
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
File:
  The path is one in the root that overlayfs would make from the layers: files of higher layers hide
  those of lower ones, whiteouts apply, and symbolic links are followed inside that root. The image
  is not mounted, and no privileges are needed.

Exit status:
  1 if there is no such file, or it cannot be read; 2 for wrong usage.

Examples:
  layerinit cat initrd.img /etc/os-release
  layerinit cat initrd.img /etc/fstab --layer 1"))]
pub(super) struct CatArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The path of the file in the root
    #[arg(value_name = "PATH")]
    path: String,
    /// Read only this layer, numbered as in `layerinit plan`; 0 is the lowest
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
}

impl CatArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<()> {
        cat::cat(&self.image.open()?, &self.path, self.layer, out)
    }
}
