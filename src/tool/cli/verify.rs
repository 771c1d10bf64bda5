//! `layerinit verify`: arguments and help.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::image::{FromArgs, ImageArgs, images};
use crate::error::Result;
use crate::plan::medium::WORD;
use crate::tool::image::boot::StandIns;
use crate::tool::verify::{self, VerifyImageOptions};

/// Compare the layers of an image with the list in its loader, as /init does
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
Output:
  The digest of each layer, in the format of sha256sum, and one line with the verdict. The list is
  /etc/layerinit/layers.sha256 of the rootfs that the kernel unpacks from the image.

  Layers on a disk are in the directory of --from, or where --cmdline names them. Hash trees of
  dm-verity are compared with the data; digests of fs-verity are computed, whether it is enabled or
  not.

Exit status:
  1 if a layer is missing or differs from the list, if there is no list, or if its signature is
  wrong; 2 for wrong usage.

Examples:
  layerinit verify initrd.img
  layerinit verify loader.cpio base.erofs app.erofs
  layerinit verify loader.img --from disk/layers"))]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Require a signature made with this key of minisign [default: one of the loader's keys, if it has
    /// any]
    #[arg(long, value_name = "PUB")]
    key: Option<PathBuf>,
    /// Set the kernel command line [default: that of a unified kernel image; rd.layers.from= for --from]
    #[arg(long, value_name = "STRING")]
    cmdline: Option<String>,
    #[command(flatten)]
    from: FromArgs,
}

impl VerifyArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<bool> {
        let image = self.image.open()?;
        let given = self.cmdline.or_else(|| image.cmdline.clone());
        let count = self.from.from.len();
        let from = |number| format!(" {WORD}=/dev/disk{number}:/");
        let options = VerifyImageOptions {
            key: self.key,
            cmdline: given.unwrap_or_else(|| {
                let from: String = (0..count).map(from).collect();
                format!("retain_initrd{from}")
            }),
            stand_ins: StandIns::new(self.from.from),
        };
        verify::verify(&image, &options, out).map(|()| true)
    }
}
