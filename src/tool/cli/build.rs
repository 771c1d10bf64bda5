//! `layerinit build`: arguments, and the layer that each --as and --label applies to.

use std::io::Write;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Args};

use super::named;
use crate::error::{Context, Result};
use crate::tool::build::archive::CpioOptions;
use crate::tool::build::depmod::ModuleSelection;
use crate::tool::build::layer::{LayerFormat, LayerInput};
use crate::tool::build::mkfs::ErofsOptions;
use crate::tool::build::module::ModuleOptions;
use crate::tool::build::tree::Timestamps;
use crate::tool::build::verify::{Exception, VerifyOptions};
use crate::tool::build::{self, BuildOptions, label};
use crate::verify::policy::Allowed;

const HELP: &str = "\
Layers:
  The first layer is the lowest; files of later layers hide files of earlier ones. A directory
  becomes an EROFS image, made by mkfs.erofs (package erofs-utils), or with --as a cpio archive. An
  EROFS image or a cpio archive (plain, gzip, xz, zstd or lz4) is recognized by its content and
  appended unchanged.

  --as and --label apply to the --layer before them. A volume label names the layer in
  rd.layers.only= and rd.layers.skip=. /init unpacks cpio layers: they suit a few small files, and
  need neither a block device nor EROFS. For cpio.xz and cpio.zst, xz and zstd must be installed. An
  archive cannot hold extended attributes (capabilities, ACLs, security labels); a warning names the
  first file that has some.

  To hide a file of a lower layer, put a character device 0:0 in its place. For an opaque directory
  of overlayfs, an archive gets a file .wh..wh..opq in that directory.

  With --layers-inside, the kernel unpacks the layers with the loader. Every kernel supports this,
  and retain_initrd is not needed.

Loader:
  A spec is a file for the kernel's usr/gen_init_cpio; several make one archive. With --spec and no
  other option, the image is byte for byte what `gen_init_cpio -t SECONDS SPEC` writes. Without
  --spec, the loader is the standard one (initramfs-spec/loader): /init, /dev/console, the mount
  points and /layers.

Modules:
  Modules are decompressed unless --keep-compressed-modules is given: reading a larger loader takes
  less time than decompressing modules in the kernel, and not every kernel can decompress them.

  Verifying a module's signature takes longer than everything else that /init does. A module without
  a signature taints the kernel, and a kernel that enforces signatures (module.sig_enforce, lockdown
  under Secure Boot) does not load it.

Verification:
  With --verify, the loader has the list /etc/layerinit/layers.sha256 (in the format of sha256sum)
  and the policy /etc/layerinit/policy. /init refuses to boot a layer that is not in its place in
  the list, and a word of the command line that could defeat this, such as init=, root= or
  rd.break, unless --verify-allow names it. A failed boot starts no shell without
  --verify-allow rd.shell. This protects the layers as far as the loader itself is protected, by a
  signature or by where it is stored: docs/trust.md.

  An archive that is not known yet, such as the credentials that a boot loader appends, needs
  --verify-except NAME:DIR. The name is for people, unless a layer has it as its file name.

  With --key, the list may come from outside: from the first archive behind the loader, with a
  signature by minisign (package minisign), so that layers can be replaced without the loader.
  --sign makes it; minisign reads the password of the key from standard input. --minimum-version
  keeps a loader from booting an older list.

  If the first layer is no EROFS image, or the list is signed, the loader ends with a stop, at
  which the kernel's unpacker stops: what follows is not unpacked over the loader.

Reproducible builds:
  The same input gives the same image. Files keep owner and mode. Their modification time is
  --mtime; with --keep-times, files in directories keep their own, for programs that compare times
  (Python's .pyc files, systemd's ConditionNeedsUpdate=). The UUID of an EROFS image is derived from
  its content.

  A build that fails or is interrupted leaves no file. An image that replaces a file keeps its mode
  and owner.

Examples:
  layerinit build -o demo.img --layer base/ --layer app.erofs --layer config.cpio.gz
  layerinit build -o demo.img --layer base/ --layer etc/ --as cpio.zst
  layerinit build -o demo.img --modules / --kernel $(uname -r) --layer rootfs/
  layerinit build -o demo.img --layer base/ --layer app/ --layers-inside
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) --host
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) \\
    --module virtio_pci,virtio_blk,ext4
  BUSYBOX=/bin/busybox layerinit build -o loader.cpio --spec initramfs-spec/loader \\
    --spec initramfs-spec/shell
  layerinit build -o demo.img --layer rootfs/ --mkfs-erofs-arg=--all-root
  layerinit build -o demo.img --layer base/ --layer app/ --verify \\
    --verify-except credentials:/run/credentials
  layerinit build -o - --layer rootfs/ | ssh board 'cat >/boot/initrd.img'";

/// Build an image of the loader and the layers
#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct BuildArgs {
    /// Write the image to this file; `-` writes it to standard output, and messages to standard error
    #[arg(short, long, value_name = "IMG")]
    output: PathBuf,

    /// Append a layer: a directory, an EROFS image or a cpio archive
    #[arg(long = "layer", value_name = "PATH", help_heading = "Layer options")]
    layers: Vec<PathBuf>,
    /// Make the directory of the preceding --layer into this format [default: erofs]
    #[arg(long = "as", value_name = "FORMAT", requires = "layers", help_heading = "Layer options",
        value_parser = format_parser())]
    formats: Vec<LayerFormat>,
    /// Set the volume label, at most 15 bytes, of the EROFS image made from the preceding --layer
    /// [default: the directory's name]
    #[arg(
        long = "label",
        value_name = "NAME",
        requires = "layers",
        help_heading = "Layer options",
        value_parser = label::parse
    )]
    labels: Vec<String>,
    /// Put the layers into the loader's archive, as /layers/10-NAME, /layers/20-NAME and so on
    #[arg(long, requires = "layers", help_heading = "Layer options")]
    layers_inside: bool,
    /// Start layers at a multiple of BYTES, which is a multiple of 4
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 4096,
        help_heading = "Layer options"
    )]
    align: u64,
    /// Set the compression of EROFS images, as for mkfs.erofs -z; `none` disables it
    #[arg(
        long,
        value_name = "ALGORITHM",
        default_value = "lz4hc",
        help_heading = "Layer options"
    )]
    erofs_compression: String,
    /// Pass an option to mkfs.erofs, after the tool's own
    #[arg(
        long = "mkfs-erofs-arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        help_heading = "Layer options"
    )]
    mkfs_erofs_args: Vec<String>,

    /// Read the loader from a spec file; may be given several times
    #[arg(long = "spec", value_name = "FILE", help_heading = "Loader options")]
    specs: Vec<PathBuf>,
    /// Set ${LAYERINIT_INIT}, the program that a spec installs as /init
    /// [default: the environment variable, else `init` in the directory of this program]
    #[arg(long, value_name = "PATH", help_heading = "Loader options")]
    init: Option<PathBuf>,
    /// Set the modification time of all files, in seconds since 1970
    /// [default: the environment variable SOURCE_DATE_EPOCH, else 0]
    #[arg(long, value_name = "SECONDS", help_heading = "Loader options")]
    mtime: Option<u32>,
    /// Keep the modification times of files in directories, up to --mtime or SOURCE_DATE_EPOCH
    #[arg(long, help_heading = "Layer options")]
    keep_times: bool,
    /// Store checksums of the loader's files, which the kernel verifies (gen_init_cpio -c)
    #[arg(long, help_heading = "Loader options")]
    cpio_checksums: bool,
    /// Align files of the loader that are larger than BYTES, a power of two, to BYTES
    /// (gen_init_cpio -a)
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = multiple_of_4,
        help_heading = "Loader options")]
    cpio_align: u32,

    /// Add erofs, overlay and loop, with their dependencies, from DIR/lib/modules
    #[arg(long, value_name = "DIR", help_heading = "Module options")]
    modules: Option<PathBuf>,
    /// Set the release of the kernel, as printed by uname -r [default: the only one in DIR]
    #[arg(
        long,
        value_name = "VERSION",
        requires = "modules",
        help_heading = "Module options"
    )]
    kernel: Option<String>,
    /// Add more modules, with their dependencies
    #[arg(
        long = "module",
        value_name = "NAME,...",
        requires = "modules",
        value_delimiter = ',',
        help_heading = "Module options"
    )]
    module: Vec<String>,
    /// Add the modules for the disks and the root filesystem of this machine, or of the one whose
    /// /sys and /proc/mounts are in DIR
    #[arg(long, value_name = "DIR", requires = "modules", num_args = 0..=1, require_equals = true,
        default_missing_value = "/", help_heading = "Module options")]
    host: Option<PathBuf>,
    /// Do not decompress modules
    #[arg(long, requires = "modules", help_heading = "Module options")]
    keep_compressed_modules: bool,
    /// Remove the signatures of modules: the kernel loads them faster, but is tainted
    #[arg(long, requires = "modules", help_heading = "Module options")]
    strip_module_signatures: bool,

    /// List the layers in the loader: /init boots these and no others
    #[arg(long, help_heading = "Verification options")]
    verify: bool,
    /// Let a layer vary: archives of regular files below DIR, which is by default the directory of the
    /// files of the layer with this file name
    #[arg(long, value_name = "NAME[:DIR]", requires = "verify", value_parser = Exception::parse,
        help_heading = "Verification options")]
    verify_except: Vec<Exception>,
    /// Allow a word of the kernel command line that could defeat verification
    #[arg(long, value_name = "WORD[=VALUE]", requires = "verify", value_parser = allowed,
        help_heading = "Verification options")]
    verify_allow: Vec<String>,
    /// Put a public key of minisign into the loader, which then boots only with a list that is signed
    #[arg(
        long,
        value_name = "PUB",
        requires = "verify",
        help_heading = "Verification options"
    )]
    key: Vec<PathBuf>,
    /// Sign the list with this secret key of minisign, and put it behind the loader
    #[arg(
        long,
        value_name = "KEY",
        requires = "key",
        help_heading = "Verification options"
    )]
    sign: Option<PathBuf>,
    /// Set the version in the signature
    #[arg(
        long,
        value_name = "N",
        requires = "sign",
        help_heading = "Verification options"
    )]
    list_version: Option<u64>,
    /// Boot no list that is signed with an older version than this
    #[arg(
        long,
        value_name = "N",
        requires = "key",
        help_heading = "Verification options"
    )]
    minimum_version: Option<u64>,
}

/// Checks a word for the policy.
fn allowed(text: &str) -> std::result::Result<String, String> {
    Allowed::parse(text)?;
    match text.contains('\n') {
        true => Err("it has a newline".into()),
        false => Ok(text.into()),
    }
}

fn format_parser() -> impl TypedValueParser<Value = LayerFormat> {
    PossibleValuesParser::new(LayerFormat::NAMES.map(|(name, _)| name))
        .try_map(|name| named(&LayerFormat::NAMES, &name))
}

fn multiple_of_4(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(number) if number % 4 == 0 => Ok(number),
        Ok(_) => Err("not a multiple of 4".into()),
        Err(error) => Err(format!("{error}")),
    }
}

/// The layer before the argument at index `place`. `places` are the indices of `layers`.
fn layer_before<'a>(
    place: usize,
    option: &str,
    places: &[usize],
    layers: &'a mut [LayerInput],
) -> std::result::Result<&'a mut LayerInput, String> {
    let before = places.iter().rposition(|layer| *layer < place);
    let layer = before.and_then(|index| layers.get_mut(index));
    layer.ok_or_else(|| format!("{option} applies to the --layer before it, and there is none"))
}

impl BuildArgs {
    /// The layers, each with the --as and --label that follow it.
    ///
    /// # Errors
    /// One of these stands before the first --layer, or twice behind one.
    pub(super) fn layers(
        &self,
        matches: &ArgMatches,
    ) -> std::result::Result<Vec<LayerInput>, String> {
        let indices = |name| matches.indices_of(name).into_iter().flatten();
        let places: Vec<_> = indices("layers").collect();
        let input = |path: &PathBuf| LayerInput {
            path: path.clone(),
            format: None,
            label: None,
        };
        let mut layers: Vec<_> = self.layers.iter().map(input).collect();
        for (place, format) in indices("formats").zip(&self.formats) {
            let layer = layer_before(place, "--as", &places, &mut layers)?;
            if layer.format.replace(*format).is_some() {
                return Err(format!("--as twice for --layer {}", layer.path.display()));
            }
        }
        for (place, label) in indices("labels").zip(&self.labels) {
            let layer = layer_before(place, "--label", &places, &mut layers)?;
            if layer.label.replace(label.clone()).is_some() {
                let path = layer.path.display();
                return Err(format!("--label twice for --layer {path}"));
            }
        }
        Ok(layers)
    }

    /// Builds the image and prints its size and warnings.
    pub(super) fn run(self, layers: Vec<LayerInput>, out: &mut dyn Write) -> Result<()> {
        let mtime = build::mtime(self.mtime)?;
        let modules = self.modules.map(|root| ModuleSelection {
            root,
            kernel: self.kernel,
            names: self.module,
            host: self.host,
            options: ModuleOptions {
                keep_compressed: self.keep_compressed_modules,
                strip_signatures: self.strip_module_signatures,
            },
        });
        let verify = self.verify.then_some(VerifyOptions {
            exceptions: self.verify_except,
            allowed: self.verify_allow,
            keys: self.key,
            sign: self.sign,
            version: self.list_version,
            minimum_version: self.minimum_version,
        });
        let to_file = self.output.as_os_str() != "-";
        let lines = build::build(&BuildOptions {
            output: to_file.then_some(self.output),
            specs: self.specs,
            init: self.init,
            modules,
            layers,
            layers_inside: self.layers_inside,
            align: self.align,
            cpio: CpioOptions {
                mtime: mtime.unwrap_or(0),
                checksums: self.cpio_checksums,
                data_align: self.cpio_align,
            },
            erofs: ErofsOptions {
                compression: Some(self.erofs_compression).filter(|name| name != "none"),
                times: match self.keep_times {
                    true => Timestamps::Preserved(mtime.unwrap_or(u32::MAX)),
                    false => Timestamps::Fixed(mtime.unwrap_or(0)),
                },
                args: self.mkfs_erofs_args,
            },
            verify,
        })?;
        for line in lines {
            match to_file {
                true => writeln!(out, "{line}").during("write", "standard output")?,
                false => eprintln!("{line}"),
            }
        }
        Ok(())
    }
}
