//! `layerinit list`: arguments and help.

use std::io::Write;

use clap::Args;

use super::image::{ImageArgs, images};
use crate::error::Result;
use crate::tool::list::{self, ListOptions};

/// List the archives, EROFS images and padding in an image
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
JSON:
  --json writes one object with these fields. Fields in parentheses are not always present.

    image, size
    (pieces)    for more than one plain file, a list of: name, offset, length
    trouble     why the listing ends before the image does, or null
    segments    a list of: offset, length, kind, and the fields of the kind

  Segments have these further fields:

    cpio        codec (null: uncompressed), members, unpacked (bytes), by_kernel (the kernel
                unpacks it), holds_init, early (CPU microcode, ACPI tables); (bad_sum) or
                (bad_name): the member at which the kernel stops unpacking
    erofs       block_size, blocks, inodes, uuid, label, features, algorithms, extra_devices,
                checksum (good, bad, none, truncated)
    squashfs    block_size, inodes, algorithm (null: unknown)
    bootconfig  intact
    padding     none

  --files adds to each segment:

    files       a list of: path, type, mode (octal), links, uid, gid, size, mtime (seconds since
                1970), (major), (minor), (target), (link_to: an earlier name of the file)
    (files_trouble)  why the list is incomplete

Names:
  Bytes that are not UTF-8, and control and format characters, are written as \\xNN, a tab as \\t, a
  newline as \\n, a backslash as \\\\.

Exit status:
  1 if a part of the image is neither cpio nor EROFS, or cannot be listed; 2 for wrong usage.

Examples:
  layerinit list initrd.img
  layerinit list --files initrd.img
  layerinit list loader.cpio base.erofs app.erofs
  layerinit list linux.efi linux.efi.extra.d/layers.addon.efi
  layerinit list debian-live.iso:/live/initrd.img
  layerinit list --json initrd.img | jq '.segments[] | select(.kind == \"erofs\") | .uuid'"))]
pub(super) struct ListArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// List the files in archives and EROFS images
    #[arg(long)]
    files: bool,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<bool> {
        let options = ListOptions {
            files: self.files,
            json: self.json,
        };
        list::list(&self.image.open()?, options, out)
    }
}
