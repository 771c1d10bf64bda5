//! `layerinit check`: arguments and help.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::image::{FromArgs, ImageArgs, images};
use super::named;
use crate::error::Result;
use crate::tool::check;
use crate::tool::check::options::{CheckOptions, LoaderLocation};
use crate::tool::check::uefi::UefiLoader;
use crate::tool::image::boot::StandIns;

/// The sections after the options of `check`, with the list of its checks.
fn check_help() -> String {
    format!(
        concat!(
            images!(),
            "\
Output:
  One line for each finding: `error:` for what fails, `warning:` for what works but is unusual or
  costly. The last line sums up, and names the kernel options that the image needs (built in, or as
  modules in the loader) and the words that it needs on the kernel command line.

Checks:
{}
  Without --cmdline, and without one in a unified kernel image, the command line is retain_initrd
  alone.

Memory:
  The line `memory:` predicts the peak before the real init starts: the initrd, which retain_initrd
  keeps as a whole; the files that the kernel unpacks and the archives that become layers, in whole
  pages, and 1 to 2 KiB for each of these files; the largest window of a decompressor; with
  --kernel-config, the copy of the initrd that a kernel with BLK_DEV_RAM=y makes if it does not keep
  it. Pages of EROFS files are not counted, because the kernel can drop them.

  The machine in that line has room for this, for 80 MiB of kernel, and for the tmpfs of the rootfs,
  whose limit is half of the memory without the initrd. On a machine with UEFI the boot loader first
  holds several copies of the initrd: --firmware predicts how much memory that takes.

Conflicts:
  --conflicts adds `conflict:` for a directory in place of another type of file in another layer, or
  the reverse, and for a whiteout of nothing; and `override:` for a file with other contents in a
  lower layer. They do not count as errors.

Exit status:
  1 if there is an error; warnings do not count. 2 for wrong usage.

Examples:
  layerinit check initrd.img
  layerinit check initrd.img --conflicts --kernel-config /boot/config-$(uname -r)
  layerinit check initrd.img --cmdline 'console=ttyS0 retain_initrd rd.layers.skip=app'
  layerinit check initrd.img --cmdline 'rd.layers.from=LABEL=sys:/a' --from /mnt/sys"
        ),
        check::help()
    )
}

/// Check an image for problems that its boot would show
#[derive(Args)]
#[command(after_help = check_help())]
pub(super) struct CheckArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Set the kernel command line [default: that of a unified kernel image]
    #[arg(long, value_name = "STRING")]
    cmdline: Option<String>,
    /// The loader is built into the kernel (CONFIG_INITRAMFS_SOURCE), not part of the image
    #[arg(long)]
    loader_built_in: bool,
    /// Report options that the image needs and this kernel configuration lacks (/boot/config-*,
    /// /proc/config.gz)
    #[arg(long, value_name = "FILE")]
    kernel_config: Option<PathBuf>,
    #[command(flatten)]
    from: FromArgs,
    /// List files and directories that override or conflict with those of lower layers
    #[arg(long)]
    conflicts: bool,
    /// Predict the memory that this boot loader needs for the image on a machine with UEFI
    #[arg(long, value_name = "LOADER", value_parser = firmware_parser())]
    firmware: Option<UefiLoader>,
}

impl CheckArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<bool> {
        let image = self.image.open()?;
        let options = CheckOptions {
            cmdline: self.cmdline.or_else(|| image.cmdline.clone()),
            loader: match self.loader_built_in {
                true => LoaderLocation::BuiltIn,
                false => LoaderLocation::InImage,
            },
            kernel_config: self.kernel_config,
            conflicts: self.conflicts,
            stand_ins: StandIns::new(self.from.from),
            firmware: self.firmware,
        };
        check::check(&image, &options, out)
    }
}

fn firmware_parser() -> impl TypedValueParser<Value = UefiLoader> {
    PossibleValuesParser::new(UefiLoader::NAMES.map(|(name, _)| name))
        .try_map(|name| named(&UefiLoader::NAMES, &name))
}
