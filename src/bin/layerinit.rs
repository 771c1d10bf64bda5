//! The host tool: arguments and dispatch. The work is in `layerinit::pack`.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use layerinit::error::{Context, Result};
use layerinit::pack::archive::Settings;
use layerinit::pack::boot;
use layerinit::pack::build::{self, Build};
use layerinit::pack::cat;
use layerinit::pack::check;
use layerinit::pack::config::Circumstances;
use layerinit::pack::depmod::Modules;
use layerinit::pack::layer::{Erofs, Form, Wanted};
use layerinit::pack::list::{self, Detail};
use layerinit::pack::module::Treatment;
use layerinit::pack::tree::Times;

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
}

/// Build an image: the loader, then layers in order
#[derive(Args)]
#[command(after_help = "\
Layers: the first is the lowest; what a later one holds wins. A directory is made into an EROFS
image with mkfs.erofs (package erofs-utils): owners and modes are taken over, times are --mtime
(--keep-times: their own, for what compares them: Python's .pyc, systemd's ConditionNeedsUpdate=),
the UUID is made of the content. With --as cpio behind it, it is made into a cpio archive, which
/init unpacks: good for a few small files, that need no block device and no EROFS then. --as applies
to the one --layer before it. zstd and xz are run for cpio.zst and cpio.xz. An archive cannot hold
extended attributes (capabilities, ACLs, labels); a warning says so where there are any. An EROFS
image or a cpio archive (plain, gzip, xz, zstd or lz4) is known by its content, not by its name, and
appended as it is.

To hide a file of a lower layer, put a character device 0:0 in its place. A directory that
overlayfs would know as opaque gets a file .wh..wh..opq in an archive, which says the same.

Specs are files for the kernel's usr/gen_init_cpio. With --spec and nothing else the image is what
`gen_init_cpio -t SECONDS SPEC` writes, byte for byte. Without --spec the loader is the standard one
(initramfs-spec/loader): /init, /dev/console and the mount points.

The same input gives the same bytes. A build that fails or is interrupted leaves no file.

Examples:
  layerinit build -o demo.img --layer base/ --layer app.erofs --layer config.cpio.gz
  layerinit build -o demo.img --layer base/ --layer etc/ --as cpio.zst
  layerinit build -o demo.img --modules / --kernel $(uname -r) --layer rootfs/
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) --host
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) --module virtio_pci,virtio_blk,ext4
  BUSYBOX=/bin/busybox layerinit build -o loader.cpio --spec initramfs-spec/loader \
    --spec initramfs-spec/shell
  layerinit build -o demo.img --layer rootfs/ --mkfs-erofs-arg=--all-root")]
struct BuildArgs {
    /// The image to write
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

/// List what an image is made of: archives, EROFS images, padding
#[derive(Args)]
#[command(after_help = "\
JSON fields:
  image, size, trouble (null, or why the listing ends before the image does), segments: a list of
  offset, length, kind and, by kind,
    cpio        codec (null: plain), members, unpacked (bytes), by_kernel (whether the kernel's own
                unpacker gets there), holds_init, early (CPU microcode, ACPI tables), bad_sum
                (where there is one: the member that ends the kernel's unpacking)
    erofs       block_size, blocks, inodes, uuid, label, features, algorithms, extra_devices,
                checksum (good, bad, none, truncated)
    bootconfig  intact
    padding     nothing more
  and with --files files: a list of path, type, mode (octal), links, uid, gid, size, mtime (seconds
  since 1970), and where there is one major, minor, target, link_to (an earlier name of the file);
  files_trouble, where the list ends early.
Bytes that are not UTF-8 and control characters in names are written \\xNN (tab \\t, newline \\n), a
backslash \\\\.

Exit status 1 if something is neither cpio nor EROFS, or cannot be listed.

Examples:
  layerinit list initrd.img
  layerinit list --files initrd.img
  layerinit list --json initrd.img | jq '.segments[] | select(.kind == \"erofs\") | .uuid'")]
struct ListArgs {
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
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

Found are: no /init, or one that cannot be executed; no init in the layers that it could start;
files that the kernel or /init drops, as where their directory is missing; broken and truncated
archives and images; wrong checksums; EROFS features that no kernel knows; files of /layers that are
no layers; more layers than can be stacked; layers that are not aligned; a command line that makes no
sense. Without --cmdline, it is taken to be retain_initrd alone.

The line `memory:` predicts what the boot takes at its peak, before the real init starts: the initrd,
kept as a whole with retain_initrd; the files that the kernel unpacks, in whole pages; the archives
that become layers, likewise; 1 to 2 KiB for each of these files; with --kernel-config the copy
that a kernel with BLK_DEV_RAM=y makes of an initrd which it does not keep; and the largest window
of a decompressor.
Pages of EROFS files are not counted, as the kernel can drop them. The machine that is named has room
for that and for 80 MiB of kernel; and for the tmpfs of the rootfs, which is half of what is left of
the memory beside the initrd.

--conflicts adds `conflict:` for a directory in place of something else, or something else in place
of a directory, in another layer, and for a whiteout of nothing; and `override:` for a file that has
other contents in a layer below. They do not count as errors.

Exit status 1 if there is an error. Warnings do not count.

Examples:
  layerinit check initrd.img
  layerinit check initrd.img --conflicts --kernel-config /boot/config-$(uname -r)
  layerinit check initrd.img --cmdline 'console=ttyS0 retain_initrd rd.layers.skip=app'")]
struct CheckArgs {
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The kernel command line
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
}

/// Print the plan that /init would follow with this image
#[derive(Args)]
#[command(after_help = "\
The plan is made by the code that /init makes it with. The image plays /sys/firmware/initrd; files
of /layers come from the archives that the kernel unpacks.

Examples:
  layerinit plan initrd.img
  layerinit plan initrd.img --cmdline 'rd.overlay.readonly rd.layers.backend=loop'")]
struct PlanArgs {
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The kernel command line
    #[arg(
        long,
        value_name = "STRING",
        default_value = "",
        hide_default_value = true
    )]
    cmdline: String,
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
    /// The image
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// The file
    #[arg(value_name = "PATH")]
    path: String,
    /// Look at this layer alone, by its number in `layerinit plan`; 0 is the lowest
    #[arg(long, value_name = "N")]
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
    let mut forms = Form::NAMES.iter();
    match forms.find(|(name, _)| *name == text) {
        Some((_, form)) => Ok(*form),
        None => {
            let names: Vec<_> = Form::NAMES.iter().map(|(name, _)| *name).collect();
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
        })
        .collect();
    for (place, form) in places("forms").zip(&args.forms) {
        let before = layers.iter().rposition(|layer| *layer < place);
        let Some(layer) = before.and_then(|index| wanted.get_mut(index)) else {
            return Err("--as applies to the --layer before it, and there is none".into());
        };
        if layer.form.replace(*form).is_some() {
            return Err(format!("--as twice for --layer {}", layer.path.display()));
        }
    }
    Ok(wanted)
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
        let lines = build::build(&Build {
            output: self.output,
            specs: self.specs,
            init: self.init,
            modules,
            layers,
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
            writeln!(out, "{line}").during("write", "standard output")?;
        }
        Ok(true)
    }
}

/// Standard output. Once its reader has seen enough (`| head`), the rest is dropped.
struct Out(BufWriter<io::StdoutLock<'static>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes).or_else(forgive)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().or_else(forgive)
    }
}

fn forgive(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}

fn main() -> ExitCode {
    let mut out = Out(BufWriter::new(io::stdout().lock()));
    let matches = Tool::command().get_matches();
    let tool = Tool::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match tool.command {
        Command::Build(args) => {
            let build = matches.subcommand_matches("build").unwrap_or(&matches);
            let wanted = layers(&args, build).unwrap_or_else(|what| {
                Tool::command()
                    .error(ErrorKind::ArgumentConflict, what)
                    .exit()
            });
            args.run(wanted, &mut out)
        }
        Command::List(ListArgs { image, files, json }) => {
            list::list(&image, Detail { files, json }, &mut out)
        }
        Command::Check(CheckArgs {
            image,
            cmdline,
            loader_built_in,
            kernel_config,
            conflicts,
        }) => {
            let circumstances = Circumstances {
                cmdline,
                loader_built_in,
                kernel_config,
                conflicts,
            };
            check::check(&image, &circumstances, &mut out)
        }
        Command::Plan(PlanArgs { image, cmdline }) => boot::plan(&image, &cmdline, &mut out),
        Command::Cat(CatArgs { image, path, layer }) => {
            cat::cat(&image, &path, layer, &mut out).map(|()| true)
        }
    };
    // What was found before an error is worth seeing, and comes first.
    let flushed = out.flush().during("write", "standard output");
    match done.and_then(|good| flushed.map(|()| good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("layerinit: {error}");
            ExitCode::FAILURE
        }
    }
}
