//! The image that a command reads, with the section of its help.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::named;
use crate::error::Result;
use crate::tool::image::input::Initrd;

/// The alignments that boot loaders use between files, in bytes.
const PADS: [(&str, u64); 3] = [("1", 1), ("4", 4), ("4096", 4096)];

/// The section of the help that these commands share.
macro_rules! images {
    () => {
        "\
Images:
  An image is a file or a block device. From a unified kernel image or an addon, the sections
  .initrd, .ucode and .cmdline are used; from a U-Boot ramdisk, everything after the header; from a
  FIT image, the ramdisk of its default configuration; from an ISO, /boot/initrd.img, or the file of
  FILE.iso:/PATH. Several images are concatenated in this order, as a boot loader does. Offsets
  count from the start of the first.

"
    };
}
pub(super) use images;

/// The image that a command reads.
#[derive(Args)]
pub(super) struct ImageArgs {
    /// Image, unified kernel image, FIT image, ISO or U-Boot ramdisk; several are concatenated in this
    /// order
    #[arg(value_name = "IMG", required = true)]
    images: Vec<PathBuf>,
    /// Start each of several images at a multiple of BYTES, as the boot loader does
    #[arg(long, value_name = "BYTES", default_value = "4", value_parser = pad_parser())]
    pad: u64,
}

impl ImageArgs {
    pub(super) fn open(&self) -> Result<Initrd> {
        Initrd::open(&self.images, self.pad)
    }
}

/// The stand-ins for devices.
#[derive(Args)]
pub(super) struct FromArgs {
    /// Directory with the files of the device of rd.layers.from=; for several devices, one each, in the order
    /// in which the command line first names them. For a device without a filesystem, a file
    #[arg(long, value_name = "DIR")]
    pub(super) from: Vec<PathBuf>,
}

pub(super) fn pad_parser() -> impl TypedValueParser<Value = u64> {
    PossibleValuesParser::new(PADS.map(|(name, _)| name)).try_map(|name| named(&PADS, &name))
}
