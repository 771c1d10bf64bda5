//! The commands that read an image: `layerinit list`, `check`, `plan`, `cat` and `extract`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::named;
use crate::error::Result;
use crate::plan::medium::WORD;
use crate::tool::check::options::{CheckOptions, LoaderLocation};
use crate::tool::check::uefi::UefiLoader;
use crate::tool::diff::{self, DiffOptions};
use crate::tool::image::boot::StandIns;
use crate::tool::image::input::Initrd;
use crate::tool::list::{self, ListOptions};
use crate::tool::verify::VerifyImageOptions;
use crate::tool::{cat, check, extract, plan, segments, verify};

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

/// What stands in for devices.
#[derive(Args)]
struct FromArgs {
    /// Directory that stands in for the device of rd.layers.from=; for several devices, one each, in
    /// the order in which the command line names them first. For a device without a filesystem, a file
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
}

fn pad_parser() -> impl TypedValueParser<Value = u64> {
    PossibleValuesParser::new(PADS.map(|(name, _)| name)).try_map(|name| named(&PADS, &name))
}

fn firmware_parser() -> impl TypedValueParser<Value = UefiLoader> {
    PossibleValuesParser::new(UefiLoader::NAMES.map(|(name, _)| name))
        .try_map(|name| named(&UefiLoader::NAMES, &name))
}

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
  it. Pages of EROFS files are not counted, as the kernel can drop them.

  The machine that the line names has room for that, for 80 MiB of kernel, and for the tmpfs of the
  rootfs, whose limit is half of the memory beside the initrd. On a machine with UEFI the boot
  loader holds the initrd several times before: --firmware predicts how much memory that takes.

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

/// Print the plan that /init makes for an image
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
Plan:
  The plan comes from the same code as in /init. The image stands for /sys/firmware/initrd; the
  files in /layers come from the archives that the kernel unpacks. The errors that `layerinit check`
  finds follow the plan.

Exit status:
  1 if there is an error, 2 for wrong usage.

Examples:
  layerinit plan initrd.img
  layerinit plan --pad 4096 loader.cpio base.erofs
  layerinit plan initrd.img --cmdline 'rd.overlay.readonly rd.layers.backend=loop'
  layerinit plan initrd.img --cmdline 'rd.layers.from=LABEL=sys:/a' --from /mnt/sys"))]
pub(super) struct PlanArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Set the kernel command line [default: that of a unified kernel image]
    #[arg(long, value_name = "STRING")]
    cmdline: Option<String>,
    #[command(flatten)]
    from: FromArgs,
}

impl PlanArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<bool> {
        let stand_ins = StandIns::new(self.from.from);
        plan::print(
            &self.image.open()?,
            self.cmdline.as_deref(),
            &stand_ins,
            out,
        )
    }
}

/// Compare the layers of an image with the list in its loader, as /init does
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
Output:
  The digest of each layer, in the format of sha256sum, and one line with the verdict. The list is
  /etc/layerinit/layers.sha256 of the rootfs that the kernel makes of the image.

  Layers on a disk are in the directory of --from, or where --cmdline names them. Hash trees of
  dm-verity are compared with the data; digests of fs-verity are computed, whether it is enabled or
  not.

Exit status:
  1 if a layer is not in its place in the list or is missing, if there is no list, or if its
  signature is wrong; 2 for wrong usage.

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

/// Compare the roots that two images make
#[derive(Args)]
#[command(after_help = "\
Comparison:
  Compared is what the new root would have: the merged layers, or the files of an initramfs without
  layers. One line says what about a file differs: type, mode, owner, device, target, size, first
  name (of several hard links), xattr, content. How files are stored, and in which layer, does not
  matter. Times of modification do not count either, as every build may change them, and no program
  behaves differently for them alone; --times has them count.

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
    /// The image that is compared
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Compare times of modification, too
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

/// Print a file of the layers to standard output
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
File:
  The path is one in the root that overlayfs makes of the layers: files of higher layers hide those
  of lower ones, whiteouts apply, and symbolic links are followed inside that root. The image is not
  mounted, and no privileges are needed.

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

/// Extract the root that the layers make, or parts of it, into a directory
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
Root:
  The files are those of the root that overlayfs makes of the layers: files of higher layers hide
  those of lower ones, whiteouts, opaque directories, redirects and files with metadata only
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
  What a damaged or hostile image can cost is bounded. Refused are files that take more room than
  there is, more than 256 MiB of names, and more than an EROFS image of its length can have: a name
  for each 13 bytes (16 times as many in a compressed image), an extent, 16 bytes of extended
  attributes and 4096 bytes of content for each byte.

Segments:
  --segments writes the parts of the image as they are: 0.cpio, 1.erofs, 2.cpio.zst and so on. Zeros
  that follow a part belong to it. `cat DIR/*` gives the image back, byte for byte.

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
    /// Extract only these files, and directories with all that is in them
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
    /// Extract as for a user who is not root: without owners, devices and extended attributes
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
