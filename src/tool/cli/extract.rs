//! `layerinit extract`: arguments and help.

use std::path::PathBuf;

use clap::Args;

use super::image::{images, pad_parser};
use crate::error::Result;
use crate::tool::extract;
use crate::tool::image::input::Initrd;
use crate::tool::segments;

/// Extract the root that results from the layers, or parts of it, into a directory
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
Root:
  The files are those of the root that overlayfs would make from the layers: files of higher layers
  hide those of lower ones, whiteouts, opaque directories, redirects and files with metadata only
  (metacopy) apply, and the attributes for overlayfs are left out. An image without layers is an
  initramfs, whose own files are extracted. --layer extracts one layer as it is, with whiteouts and
  these attributes.

Files:
  For root, modes, times, owners, devices, hard links, holes and extended attributes (ACLs,
  capabilities, labels) are those of the image. Other users get the files without owners, devices
  and extended attributes, and a warning that says so. Nothing is written outside of the directory,
  whatever the links in the image or in the directory are, and no existing file is replaced.
  Compressed archives are decompressed into a temporary file first (TMPDIR).

Limits:
  The cost of a damaged or hostile image is bounded. The tool refuses files that take more room than
  there is, more than 256 MiB of names, and more than an EROFS image of its length can have: a name
  for each 13 bytes (16 times as many in a compressed image), an extent, 16 bytes of extended
  attributes and 4096 bytes of content for each byte.

Segments:
  --segments writes the parts of the image as they are: 0.cpio, 1.erofs, 2.cpio.zst and so on. Zeros
  that follow a part belong to it. `cat DIR/*` restores the image, byte for byte.

Exit status:
  1 if something could not be extracted, 2 for wrong usage.

Examples:
  layerinit extract initrd.img -C tree
  layerinit extract initrd.img -C tree etc usr/lib/systemd
  layerinit extract initrd.img -C tree --layer 1
  layerinit extract initrd.img -C parts --segments"))]
pub(super) struct ExtractArgs {
    /// Image, unified kernel image or U-Boot ramdisk
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// Extract only these files, and directories with their contents
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Append this file to the image, as a boot loader does; may be given several times
    #[arg(long, value_name = "IMG")]
    and: Vec<PathBuf>,
    /// Start each of several images at a multiple of BYTES, as the boot loader does
    #[arg(long, value_name = "BYTES", default_value = "4", value_parser = pad_parser())]
    pad: u64,
    /// Extract into this directory, which is created if it is missing
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Extract this layer as it is, numbered as in `layerinit plan`; 0 is the lowest
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Write the parts of the image as they are, not their files
    #[arg(long, conflicts_with_all = ["layer", "paths", "unprivileged"])]
    segments: bool,
    /// Extract as if the user were not root: without owners, devices and extended attributes
    #[arg(long)]
    unprivileged: bool,
}

impl ExtractArgs {
    pub(super) fn run(self) -> Result<bool> {
        let images = [vec![self.image], self.and].concat();
        let image = Initrd::open(&images, self.pad)?;
        if self.segments {
            return segments::write(&image, &self.directory);
        }
        let wanted = extract::Wanted {
            directory: self.directory,
            paths: self.paths,
            layer: self.layer,
            unprivileged: self.unprivileged,
        };
        for line in extract::extract(&image, &wanted)? {
            eprintln!("layerinit: {line}");
        }
        Ok(true)
    }
}
