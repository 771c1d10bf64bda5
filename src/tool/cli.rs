//! The tool's command line: arguments with their help, and what each verb calls.
//!
//! It stands in the library so that the tests of the documentation and the man pages use the same definition.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use super::build::archive::Settings;
use super::build::depmod::Modules;
use super::build::layer::{Erofs, Form, Wanted};
use super::build::module::Treatment;
use super::build::tree::Times;
use super::build::{self, Build, label};
use super::check::firmware::Firmware;
use super::check::options::{CheckOptions, Loader};
use super::image::input::Initrd;
use super::list::{self, Detail};
use super::{cat, check, extract, plan};
use crate::error::{Context, Result};
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

/// Builds, lists and checks initrds whose filesystems are mounted where they lie
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Exit status: 0 for success, 1 for a failure or a problem found, 2 for wrong usage.

Start with:
  layerinit build -o demo.img --layer rootfs/    an image of the loader and one layer
  layerinit check demo.img                       what would go wrong at boot
  qemu-system-x86_64 -nographic -kernel vmlinuz -initrd demo.img \\
      -append 'console=ttyS0 retain_initrd'")]
struct Tool {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(Box<BuildArgs>),
    List(ListArgs),
    Check(CheckArgs),
    Plan(PlanArgs),
    Cat(CatArgs),
    Extract(ExtractArgs),
}

/// Build an image: the loader, then layers in order
#[derive(Args)]
#[command(after_help = "\
Layers: the first is the lowest; what a later one holds wins. A directory is made into an EROFS
image with mkfs.erofs (package erofs-utils): owners and modes are taken over, times are --mtime
(--keep-times: their own, for what compares them: Python's .pyc, systemd's ConditionNeedsUpdate=),
the UUID is made of the content, and the volume label of the directory's name. With --as cpio behind
it, it is made into a cpio archive, which /init unpacks: good for a few small files, that need no
block device and no EROFS then. --as applies to the one --layer before it. zstd and xz are run for
cpio.zst and cpio.xz. An archive cannot hold extended attributes (capabilities, ACLs, labels); a
warning says so where there are any. An EROFS image or a cpio archive (plain, gzip, xz, zstd or
lz4) is known by its content, not by its name, and appended as it is.

To hide a file of a lower layer, put a character device 0:0 in its place. A directory that
overlayfs would know as opaque gets a file .wh..wh..opq in an archive, which says the same.

Specs are files for the kernel's usr/gen_init_cpio. With --spec and nothing else the image is what
`gen_init_cpio -t SECONDS SPEC` writes, byte for byte. Without --spec the loader is the standard one
(initramfs-spec/loader): /init, /dev/console and the mount points.

The same input gives the same bytes. A build that fails or is interrupted leaves no file. An image
that is built again keeps the mode and the owner of the file that it replaces.

Examples:
  layerinit build -o demo.img --layer base/ --layer app.erofs --layer config.cpio.gz
  layerinit build -o demo.img --layer base/ --layer etc/ --as cpio.zst
  layerinit build -o demo.img --modules / --kernel $(uname -r) --layer rootfs/
  layerinit build -o demo.img --layer base/ --layer app/ --layers-inside
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) --host
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) --module virtio_pci,virtio_blk,ext4
  BUSYBOX=/bin/busybox layerinit build -o loader.cpio --spec initramfs-spec/loader \
    --spec initramfs-spec/shell
  layerinit build -o demo.img --layer rootfs/ --mkfs-erofs-arg=--all-root
  layerinit build -o - --layer rootfs/ | ssh board 'cat >/boot/initrd.img'")]
struct BuildArgs {
    /// The image to write; `-`: to standard output, and messages to standard error
    #[arg(short, long, value_name = "IMG")]
    output: PathBuf,
    /// A spec of the loader; several make one archive, in order
    #[arg(long = "spec", value_name = "FILE")]
    specs: Vec<PathBuf>,
    /// What ${LAYERINIT_INIT} is in a spec: the program that becomes /init
    /// [default: that variable, else `init` beside this program]
    #[arg(long, value_name = "PATH", verbatim_doc_comment)]
    init: Option<PathBuf>,
    /// Put erofs, overlay and loop into the loader, with all that they depend on; DIR holds
    /// lib/modules/VERSION
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// The kernel's release, as `uname -r` says it [default: the only one in DIR]
    #[arg(long, value_name = "VERSION", requires = "modules")]
    kernel: Option<String>,
    /// More modules for the loader, by name, with all that they depend on
    #[arg(
        long = "module",
        value_name = "NAME,...",
        requires = "modules",
        value_delimiter = ','
    )]
    module: Vec<String>,
    /// The modules that this machine's disks and the filesystem of its / need; with =DIR those of
    /// the machine whose /sys and /proc/mounts are in DIR
    #[arg(long, value_name = "DIR", requires = "modules", num_args = 0..=1, require_equals = true,
        default_missing_value = "/")]
    host: Option<PathBuf>,
    /// Leave compressed modules as they are [default: decompress them; a kernel takes longer to do
    /// that than to read the larger loader, and not every one can]
    #[arg(long, requires = "modules", verbatim_doc_comment)]
    keep_compressed_modules: bool,
    /// Cut the signatures off the modules: checking one takes the kernel longer than all else that
    /// /init does. They taint it then, and a kernel that demands signatures (module.sig_enforce,
    /// lockdown as under Secure Boot) refuses them
    #[arg(long, requires = "modules")]
    strip_module_signatures: bool,
    /// A layer: a directory, an EROFS image or a cpio archive
    #[arg(long = "layer", value_name = "PATH")]
    layers: Vec<PathBuf>,
    /// What the --layer before it becomes, if that is a directory: erofs (the default), cpio,
    /// cpio.gz, cpio.lz4, cpio.xz or cpio.zst
    #[arg(long = "as", value_name = "FORM", value_parser = form, requires = "layers")]
    forms: Vec<Form>,
    /// The volume label, 15 bytes at most, of the EROFS image that the --layer before it becomes:
    /// a name for rd.layers.skip= and rd.layers.only= [default: the directory's name]
    #[arg(long = "label", value_name = "NAME", value_parser = label::parse, requires = "layers",
        verbatim_doc_comment)]
    labels: Vec<String>,
    /// Put the layers into the loader's archive, as files of its /layers: every kernel finds them
    /// there, without retain_initrd. They are called 10-NAME, 20-NAME and so on
    #[arg(long, requires = "layers")]
    layers_inside: bool,
    /// Start layers at multiples of this many bytes, itself a multiple of 4
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    align: u64,
    /// The modification time of everything, in seconds since 1970 [default: SOURCE_DATE_EPOCH of
    /// the environment, else 0]
    #[arg(long, value_name = "SECONDS")]
    mtime: Option<u32>,
    /// The files of directories keep their times, none later than --mtime or SOURCE_DATE_EPOCH if
    /// there is one [default: they get that time, too]
    #[arg(long, verbatim_doc_comment)]
    keep_times: bool,
    /// mkfs.erofs's compression, as for its -z; `none` for no compression
    #[arg(long, value_name = "ALGORITHM", default_value = "lz4hc")]
    erofs_compression: String,
    /// One more option for mkfs.erofs; wins over ours
    #[arg(
        long = "mkfs-erofs-arg",
        value_name = "ARG",
        allow_hyphen_values = true
    )]
    mkfs_erofs_args: Vec<String>,
    /// Store checksums of the loader's files, for the kernel to verify (gen_init_cpio -c)
    #[arg(long)]
    cpio_checksums: bool,
    /// Align the loader's larger files to this many bytes, a power of two (gen_init_cpio -a)
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = multiple_of_4)]
    cpio_align: u32,
}

/// The image that a command looks at.
#[derive(Args)]
struct ImageArgs {
    /// The image: a file or a block device; a unified kernel image or an addon to one, whose .initrd
    /// (and .ucode and .cmdline) is taken; a U-Boot ramdisk, without its header. Several are put
    /// together in this order, as a boot loader does it. Offsets count from the start of the first
    #[arg(value_name = "IMG", required = true)]
    images: Vec<PathBuf>,
    /// Each of several files starts at a multiple of so many bytes, zeros before it: 1, 4 or 4096.
    /// Most boot loaders take 4
    #[arg(long, value_name = "BYTES", default_value = "4", value_parser = pad)]
    pad: u64,
}

impl ImageArgs {
    fn open(&self) -> Result<Initrd> {
        Initrd::open(&self.images, self.pad)
    }
}

fn pad(text: &str) -> std::result::Result<u64, String> {
    match text {
        "1" => Ok(1),
        "4" => Ok(4),
        "4096" => Ok(4096),
        _ => Err("one of 1, 4, 4096".into()),
    }
}

/// List what an image is made of: archives, EROFS images, padding
#[derive(Args)]
#[command(after_help = "\
JSON fields:
  image, size, pieces (where it is more than one file as it is: a list of name, offset, length),
  trouble (null, or why the listing ends before the image does), segments: a list of
  offset, length, kind and, by kind,
    cpio        codec (null: plain), members, unpacked (bytes), by_kernel (whether the kernel's own
                unpacker gets there), holds_init, early (CPU microcode, ACPI tables), bad_sum
                or bad_name (where there is one: the member that ends the kernel's unpacking)
    erofs       block_size, blocks, inodes, uuid, label, features, algorithms, extra_devices,
                checksum (good, bad, none, truncated)
    bootconfig  intact
    padding     nothing more
  and with --files files: a list of path, type, mode (octal), links, uid, gid, size, mtime (seconds
  since 1970), and where there is one major, minor, target, link_to (an earlier name of the file);
  files_trouble, where the list ends early.
Bytes that are not UTF-8, control and format characters in names are written \\xNN (tab \\t, newline \\n), a
backslash \\\\.

Exit status 1 if something is neither cpio nor EROFS, or cannot be listed.

Examples:
  layerinit list initrd.img
  layerinit list --files initrd.img
  layerinit list loader.cpio base.erofs app.erofs
  layerinit list linux.efi linux.efi.extra.d/layers.addon.efi
  layerinit list --json initrd.img | jq '.segments[] | select(.kind == \"erofs\") | .uuid'")]
struct ListArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// List the files in archives and images, too
    #[arg(long)]
    files: bool,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// Check what would go wrong if this image were booted
#[derive(Args)]
#[command(after_help = "\
One line for each finding: `error:` for what goes wrong, `warning:` for what works but is odd or
costs something. The last line sums up, and names what the image needs: kernel options (built in, or
as modules in the loader) and words on the kernel command line.

Found are: no /init, one that cannot be executed, or another program in its place; modules for
another machine; no init in the layers that it could start, or one that is passed over for the next;
files that the kernel or /init drops, as where their directory is missing; a file or link in place of
/dev, /proc, /sys or /run; directories of archives that everybody may write to; broken and truncated
archives and images; wrong checksums; EROFS features that no kernel knows; files of /layers that are
no layers; more layers than can be stacked; layers that are not aligned; a command line that makes no
sense. Without --cmdline, and without one in a unified kernel image, it is taken to be retain_initrd alone.

The line `memory:` predicts what the boot takes at its peak, before the real init starts: the initrd,
kept as a whole with retain_initrd; the files that the kernel unpacks, in whole pages; the archives
that become layers, likewise; 1 to 2 KiB for each of these files; with --kernel-config the copy
that a kernel with BLK_DEV_RAM=y makes of an initrd which it does not keep; and the largest window
of a decompressor.
Pages of EROFS files are not counted, as the kernel can drop them. The machine that is named has room
for that and for 80 MiB of kernel; and for the tmpfs of the rootfs, which is half of what is left of
the memory beside the initrd. That is what the kernel needs; on a machine with UEFI the boot loader
holds the initrd several times before: --firmware says how much memory that takes.

--conflicts adds `conflict:` for a directory in place of something else, or something else in place
of a directory, in another layer, and for a whiteout of nothing; and `override:` for a file that has
other contents in a layer below. They do not count as errors.

Exit status 1 if there is an error. Warnings do not count.

Examples:
  layerinit check initrd.img
  layerinit check initrd.img --conflicts --kernel-config /boot/config-$(uname -r)
  layerinit check initrd.img --cmdline 'console=ttyS0 retain_initrd rd.layers.skip=app'")]
struct CheckArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The kernel command line [default: that of a unified kernel image]
    #[arg(long, value_name = "STRING")]
    cmdline: Option<String>,
    /// The kernel has the loader built in (CONFIG_INITRAMFS_SOURCE): the image needs none
    #[arg(long)]
    loader_built_in: bool,
    /// The kernel's configuration, like /boot/config-6.12 or /proc/config.gz: what it lacks of what
    /// the image needs is an error, and what is only lost a warning
    #[arg(long, value_name = "FILE")]
    kernel_config: Option<PathBuf>,
    /// List what layers do to those below them, too
    #[arg(long)]
    conflicts: bool,
    /// Say how much memory this needs to load the image on a machine with UEFI: grub, sd-boot
    /// (systemd-boot) or uki (systemd-stub)
    #[arg(long, value_name = "LOADER", value_parser = firmware)]
    firmware: Option<Firmware>,
}

/// Print the plan that /init would follow with this image
#[derive(Args)]
#[command(after_help = "\
The plan is made by the code that /init makes it with. The image plays /sys/firmware/initrd; files
of /layers come from the archives that the kernel unpacks.

Behind it come the errors that `layerinit check` finds, if there are any. Exit status 1 if so.

Examples:
  layerinit plan initrd.img
  layerinit plan --pad 4096 loader.cpio base.erofs
  layerinit plan initrd.img --cmdline 'rd.overlay.readonly rd.layers.backend=loop'")]
struct PlanArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The kernel command line [default: that of a unified kernel image]
    #[arg(long, value_name = "STRING")]
    cmdline: Option<String>,
}

/// Write the bytes of a file in the layers to standard output
#[derive(Args)]
#[command(after_help = "\
The file is that of the root which all layers make together, as overlayfs does it: what a higher layer
holds wins, whiteouts hide, symbolic links are followed within that root. The image is read without
mounting and without privileges, however it is compressed.

Examples:
  layerinit cat initrd.img /etc/os-release
  layerinit cat initrd.img /etc/fstab --layer 1")]
struct CatArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The file
    #[arg(value_name = "PATH")]
    path: String,
    /// Look at this layer alone, by its number in `layerinit plan`; 0 is the lowest
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
}

/// Write the files of an EROFS layer into a directory
#[derive(Args)]
#[command(after_help = "\
Modes, times, links, holes and extended attributes are those of the image; owners too, as root. Nothing
is written outside of the directory, and no file in it is replaced. Special files and attributes that
this user may not make are named, and the exit status is 1 then.

Examples:
  layerinit extract initrd.img -C tree
  layerinit extract initrd.img --layer 1 -C tree --path etc --path usr/lib/systemd")]
struct ExtractArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// The directory; made if it is missing
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Extract this file or directory alone; several are possible
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// The layer, by its number in `layerinit plan` [default: the only EROFS layer]
    #[arg(long, value_name = "N", verbatim_doc_comment)]
    layer: Option<usize>,
}

fn multiple_of_4(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(number) if number % 4 == 0 => Ok(number),
        Ok(_) => Err("not a multiple of 4".into()),
        Err(error) => Err(format!("{error}")),
    }
}

fn form(text: &str) -> std::result::Result<Form, String> {
    named(&Form::NAMES, text)
}

fn firmware(text: &str) -> std::result::Result<Firmware, String> {
    named(&Firmware::NAMES, text)
}

/// What has this name in a list.
fn named<T: Copy>(list: &[(&str, T)], text: &str) -> std::result::Result<T, String> {
    match list.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<_> = list.iter().map(|(name, _)| *name).collect();
            Err(format!("one of {}", names.join(", ")))
        }
    }
}

/// The layers with what they become, by where the words stand.
fn layers(args: &BuildArgs, matches: &ArgMatches) -> std::result::Result<Vec<Wanted>, String> {
    let places = |name| matches.indices_of(name).into_iter().flatten();
    let layers: Vec<_> = places("layers").collect();
    let mut wanted: Vec<_> = args
        .layers
        .iter()
        .map(|path| Wanted {
            path: path.clone(),
            form: None,
            label: None,
        })
        .collect();
    for (place, form) in places("forms").zip(&args.forms) {
        let layer = before(place, "--as", &layers, &mut wanted)?;
        if layer.form.replace(*form).is_some() {
            return Err(format!("--as twice for --layer {}", layer.path.display()));
        }
    }
    for (place, label) in places("labels").zip(&args.labels) {
        let layer = before(place, "--label", &layers, &mut wanted)?;
        if layer.label.replace(label.clone()).is_some() {
            return Err(format!(
                "--label twice for --layer {}",
                layer.path.display()
            ));
        }
    }
    Ok(wanted)
}

/// The layer that a word at `place` applies to. `layers` are the places of `wanted`.
fn before<'a>(
    place: usize,
    word: &str,
    layers: &[usize],
    wanted: &'a mut [Wanted],
) -> std::result::Result<&'a mut Wanted, String> {
    let before = layers.iter().rposition(|layer| *layer < place);
    let layer = before.and_then(|index| wanted.get_mut(index));
    layer.ok_or_else(|| format!("{word} applies to the --layer before it, and there is none"))
}

impl BuildArgs {
    fn run(self, layers: Vec<Wanted>, out: &mut dyn Write) -> Result<bool> {
        let mtime = build::mtime(self.mtime)?;
        let modules = self.modules.map(|root| Modules {
            root,
            kernel: self.kernel,
            names: self.module,
            host: self.host,
            treatment: Treatment {
                keep_compressed: self.keep_compressed_modules,
                strip_signatures: self.strip_module_signatures,
            },
        });
        let to_file = self.output.as_os_str() != "-";
        let lines = build::build(&Build {
            output: to_file.then_some(self.output),
            specs: self.specs,
            init: self.init,
            modules,
            layers,
            layers_inside: self.layers_inside,
            align: self.align,
            settings: Settings {
                mtime: mtime.unwrap_or(0),
                checksums: self.cpio_checksums,
                data_align: self.cpio_align,
            },
            erofs: Erofs {
                compression: Some(self.erofs_compression).filter(|name| name != "none"),
                times: match self.keep_times {
                    true => Times::Own(mtime.unwrap_or(u32::MAX)),
                    false => Times::All(mtime.unwrap_or(0)),
                },
                args: self.mkfs_erofs_args,
            },
        })?;
        for line in lines {
            match to_file {
                true => writeln!(out, "{line}").during("write", "standard output")?,
                false => eprintln!("{line}"),
            }
        }
        Ok(true)
    }
}

/// What a command line asks for.
pub struct Request {
    command: Command,
    /// What `build` appends.
    layers: Vec<Wanted>,
}

/// The definition of the command line, for what is made from it.
pub fn command() -> clap::Command {
    Tool::command()
}

/// Reads a command line, whose first word is the name of the program. `--help` and `--version` are errors, too:
/// `clap::Error::exit` prints them and ends with the right status.
pub fn parse<Words>(words: Words) -> std::result::Result<Request, clap::Error>
where
    Words: IntoIterator,
    Words::Item: Into<OsString> + Clone,
{
    let matches = Tool::command().try_get_matches_from(words)?;
    let command = Tool::from_arg_matches(&matches)?.command;
    let layers = match &command {
        Command::Build(args) => {
            let build = matches.subcommand_matches("build").unwrap_or(&matches);
            layers(args, build)
                .map_err(|what| Tool::command().error(ErrorKind::ArgumentConflict, what))?
        }
        _ => Vec::new(),
    };
    Ok(Request { command, layers })
}

impl Request {
    /// Does it, and writes what it has to say to `out`. False if a problem was found.
    pub fn run(self, out: &mut dyn Write) -> Result<bool> {
        match self.command {
            Command::Build(args) => args.run(self.layers, out),
            Command::List(ListArgs { image, files, json }) => {
                list::list(&image.open()?, Detail { files, json }, out)
            }
            Command::Check(CheckArgs {
                image,
                cmdline,
                loader_built_in,
                kernel_config,
                conflicts,
                firmware,
            }) => {
                let image = image.open()?;
                let options = CheckOptions {
                    cmdline: cmdline.or_else(|| image.cmdline.clone()),
                    loader: match loader_built_in {
                        true => Loader::BuiltIn,
                        false => Loader::InImage,
                    },
                    kernel_config,
                    conflicts,
                    firmware,
                };
                check::check(&image, &options, out)
            }
            Command::Plan(PlanArgs { image, cmdline }) => {
                plan::print(&image.open()?, cmdline.as_deref(), out)
            }
            Command::Cat(CatArgs { image, path, layer }) => {
                cat::cat(&image.open()?, &path, layer, out).map(|()| true)
            }
            Command::Extract(ExtractArgs {
                image,
                directory,
                paths,
                layer,
            }) => {
                let wanted = extract::Wanted {
                    directory,
                    paths,
                    layer,
                };
                extract::extract(&image.open()?, &wanted, out)
            }
        }
    }
}
