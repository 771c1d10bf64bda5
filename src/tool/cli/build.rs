//! `layerinit build`: arguments, and the layer that each --as and --label applies to.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, ArgMatches, Args};

use super::named;
use crate::error::{Context, Error, Result};
use crate::tool::build::archive::CpioOptions;
use crate::tool::build::container::layers::ContainerOptions;
use crate::tool::build::depmod::ModuleSelection;
use crate::tool::build::layer::{LayerFormat, LayerInput};
use crate::tool::build::mkfs::ErofsOptions;
use crate::tool::build::module::ModuleOptions;
use crate::tool::build::runner::{self, RunOptions};
use crate::tool::build::temp_files::TempFiles;
use crate::tool::build::tree::Timestamps;
use crate::tool::build::verify::{Exception, VerifyOptions};
use crate::tool::build::{self, BuildOptions, label};
use crate::tool::bundle::fit::FitKey;
use crate::tool::bundle::uki::Signing;
use crate::tool::bundle::{self, BundleOptions};
use crate::verify::policy::Allowed;

const HELP: &str = "\
Layers:
  The first layer is the lowest; files of later layers hide files of earlier ones. A directory
  becomes an EROFS image, made by mkfs.erofs (package erofs-utils), or with --as a cpio archive. An
  EROFS image or a cpio archive (plain, gzip, xz, zstd or lz4) is recognized by its content and
  appended unchanged.

  A tar archive, compressed or not, becomes an EROFS image, and so does each layer of a container
  image: oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME:TAG], as skopeo names
  them. Whiteouts become those of overlayfs. mkfs.erofs reads tar archives from version 1.7 on; an
  older one needs root. The images are kept in ${XDG_CACHE_HOME:-~/.cache}/layerinit/layers.

  A container image without an init starts its Entrypoint and Cmd, with Env, WorkingDir, User and
  StopSignal of its configuration: a layer on top has a small init, layerinit-run, which prints
  `layerinit-run: exit status N` and powers off when the program ends. The init of busybox counts
  only if there is no Entrypoint, and Cmd is a shell. With --entrypoint, any layers work.

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

  If the first layer is neither an EROFS nor a SquashFS image, or the list is signed, the loader
  ends with a stop, at which the kernel's unpacker stops: what follows is not unpacked over the
  loader.

Boot loaders:
  With --uki, --fit and --iso, the kernel and the image become one file, which the programs of the
  distribution write: ukify (systemd-ukify, systemd-boot-efi), mkimage (u-boot-tools) and
  grub-mkrescue (grub-common, xorriso, GRUB's platforms). -o is not needed then. The kernel is
  --kernel FILE, or the usr/lib/modules/VERSION/vmlinuz of the layers with the highest version. With
  --modules, the release of FILE is that in its name, vmlinuz-RELEASE.

  An addon, FILE.addon.efi, has the layers and no loader. systemd-stub 257 or newer appends it to
  the initrd of the unified kernel image APP.efi if it lies in APP.efi.extra.d/ or in
  /loader/addons/.

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
  layerinit build -o demo.img --layer oci:debian:12 --layer etc.tar.gz
  layerinit build -o demo.img --layer oci:debian:12 --entrypoint 'sleep 60' --user 1000
  layerinit build -o demo.img --modules / --kernel $(uname -r) --layer rootfs/
  layerinit build -o demo.img --layer base/ --layer app/ --layers-inside
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) --host
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) \\
    --module virtio_pci,virtio_blk,ext4
  BUSYBOX=/bin/busybox layerinit build -o loader.cpio --spec initramfs-spec/loader \\
    --spec initramfs-spec/shell
  layerinit build -o demo.img --layer rootfs/ --mkfs-erofs-arg=--all-root
  layerinit build --uki linux.efi --kernel /boot/vmlinuz-$(uname -r) --modules / --layer rootfs/ \\
    --cmdline 'console=ttyS0 retain_initrd' --uki-sign db.key db.crt
  layerinit build --uki app.addon.efi --layer app/
  layerinit build --fit image.itb --kernel Image --dtb board.dtb --layer rootfs/
  layerinit build --iso demo.iso --kernel /boot/vmlinuz-$(uname -r) --modules / --layer rootfs/
  layerinit build -o demo.img --layer base/ --layer app/ --verify \\
    --verify-except credentials:/run/credentials
  layerinit build -o - --layer rootfs/ | ssh board 'cat >/boot/initrd.img'";

/// Build an image of the loader and the layers
#[derive(Args)]
#[command(after_help = HELP)]
#[command(group = ArgGroup::new("for_a_kernel").args(["modules", "uki", "fit", "iso"]).multiple(true))]
#[command(group = ArgGroup::new("for_a_cmdline").args(["uki", "iso"]).multiple(true))]
pub(super) struct BuildArgs {
    /// Write the image to this file; `-` writes it to standard output, and messages to standard error
    #[arg(short, long, value_name = "IMG", required_unless_present_any = ["uki", "fit", "iso"])]
    output: Option<PathBuf>,

    /// Append a layer: a directory, an EROFS image, a cpio or tar archive, or a container image
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
    /// Set the compression of EROFS images, as for mkfs.erofs -z; `none` disables it: larger images, without
    /// inline data, whose files a kernel with the memback patches maps in place
    #[arg(
        long,
        value_name = "ALGORITHM",
        default_value = "lz4hc",
        help_heading = "Layer options"
    )]
    erofs_compression: String,
    /// Take the image for this platform, as in linux/arm64, from those of a container image
    /// [default: this machine's]
    #[arg(
        long,
        value_name = "PLATFORM",
        requires = "layers",
        help_heading = "Container options"
    )]
    platform: Option<String>,
    /// Make one layer of each container image
    #[arg(long, requires = "layers", help_heading = "Container options")]
    flatten: bool,
    /// Take absolute names in tar archives relative to the new root
    #[arg(long, requires = "layers", help_heading = "Container options")]
    absolute_names: bool,
    /// Do not use the cache of layers
    #[arg(long, help_heading = "Container options")]
    no_cache: bool,
    /// Keep at most so many MiB in the cache of layers
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 4096,
        help_heading = "Container options"
    )]
    cache_size: u64,
    /// Start this program in place of the image's init, Entrypoint and Cmd; quotes are a shell's
    #[arg(long, value_name = "WORDS", requires = "layers", value_parser = entrypoint,
        allow_hyphen_values = true, help_heading = "Container options")]
    entrypoint: Option<Entrypoint>,
    /// Set a variable in the environment of the image's program; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE", requires = "layers", value_parser = runner::variable,
        help_heading = "Container options")]
    variables: Vec<String>,
    /// Start the image's program as this user, USER[:GROUP], names or numbers
    #[arg(
        long,
        value_name = "USER",
        requires = "layers",
        help_heading = "Container options"
    )]
    user: Option<String>,
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
    /// [default: the environment variable, else `init` in the directory of this program,
    /// else ../lib/layerinit/init from there]
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
    /// Set the release of the kernel, as printed by uname -r [default: the only one in DIR]; or the
    /// kernel's file, for --uki, --fit and --iso
    #[arg(
        long,
        value_name = "KERNEL",
        requires = "for_a_kernel",
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

    #[command(flatten)]
    bundles: BundleArgs,

    /// Print one line for each layer to standard error
    #[arg(short, long)]
    verbose: bool,
    /// Print only warnings and errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

/// Checks a word for the policy.
fn allowed(text: &str) -> std::result::Result<String, String> {
    Allowed::parse(text)?;
    match text.contains('\n') {
        true => Err("it has a newline".into()),
        false => Ok(text.into()),
    }
}

/// What boot loaders take
#[derive(Args)]
#[group(skip)]
struct BundleArgs {
    /// Write a unified kernel image with the kernel and the image; FILE.addon.efi: an addon with the
    /// layers only
    #[arg(long, value_name = "FILE", help_heading = "Boot loader options")]
    uki: Option<PathBuf>,
    /// Write a FIT image for U-Boot
    #[arg(long, value_name = "FILE", help_heading = "Boot loader options")]
    fit: Option<PathBuf>,
    /// Write an ISO that a BIOS and UEFI start
    #[arg(long, value_name = "FILE", help_heading = "Boot loader options")]
    iso: Option<PathBuf>,
    /// Set the kernel command line of --uki and --iso [default: retain_initrd, if the image needs it]
    #[arg(
        long,
        value_name = "STRING",
        requires = "for_a_cmdline",
        help_heading = "Boot loader options"
    )]
    cmdline: Option<String>,
    /// Sign the unified kernel image for Secure Boot
    #[arg(long, value_names = ["KEY", "CERTIFICATE"], num_args = 2, requires = "uki",
        help_heading = "Boot loader options")]
    uki_sign: Option<Vec<PathBuf>>,
    /// Use this systemd-stub for --uki [default: that in /usr/lib/systemd/boot/efi]
    #[arg(
        long,
        value_name = "FILE",
        requires = "uki",
        help_heading = "Boot loader options"
    )]
    uki_stub: Option<PathBuf>,
    /// Add a device tree, with a configuration of its own, to the FIT image; may be given several
    /// times
    #[arg(
        long = "dtb",
        value_name = "FILE",
        requires = "fit",
        help_heading = "Boot loader options"
    )]
    device_trees: Vec<PathBuf>,
    /// Sign the configurations of the FIT image with this key; NAME.crt is beside it
    #[arg(
        long,
        value_name = "NAME.key",
        requires = "fit",
        help_heading = "Boot loader options"
    )]
    fit_key: Option<PathBuf>,
}

/// The words of --entrypoint. (A Vec would be an option that may be repeated.)
#[derive(Clone)]
struct Entrypoint(Vec<String>);

fn entrypoint(text: &str) -> std::result::Result<Entrypoint, String> {
    runner::words(text).map(Entrypoint)
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

    /// What to write besides the image.
    ///
    /// # Errors
    /// Options do not fit together.
    pub(super) fn bundles(&self) -> std::result::Result<BundleOptions, String> {
        let args = &self.bundles;
        let signing = args.uki_sign.as_deref().and_then(|paths| match paths {
            [key, certificate] => Some(Signing {
                key: key.clone(),
                certificate: certificate.clone(),
            }),
            _ => None,
        });
        let options = BundleOptions {
            uki: args.uki.clone(),
            fit: args.fit.clone(),
            iso: args.iso.clone(),
            kernel: self.kernel.as_deref().and_then(kernel_path),
            cmdline: args.cmdline.clone(),
            signing,
            stub: args.uki_stub.clone(),
            device_trees: args.device_trees.clone(),
            fit_key: None,
        };
        options.check()?;
        if options.is_addon()
            && (self.modules.is_some()
                || !self.specs.is_empty()
                || self.init.is_some()
                || self.verify)
        {
            return Err(
                "an addon (*.addon.efi) has no loader: leave out --modules, --spec, --init and --verify"
                    .into(),
            );
        }
        if self
            .output
            .as_deref()
            .is_some_and(|output| output.as_os_str() == "-")
            && options.first().is_some()
        {
            return Err("--uki, --fit and --iso need an image in a file, and -o - has none".into());
        }
        Ok(options)
    }

    /// Builds the image and prints its size and warnings.
    pub(super) fn run(self, request: BuildRequest, out: &mut dyn Write) -> Result<()> {
        let BuildRequest {
            layers,
            mut bundles,
        } = request;
        bundles.fit_key = self
            .bundles
            .fit_key
            .as_deref()
            .map(FitKey::read)
            .transpose()?;
        let temp = bundles.first().map(TempFiles::with_names).transpose()?;
        let mtime = build::mtime(self.mtime)?;
        let release = self.kernel.as_deref().map(kernel_release).transpose()?;
        let modules = self.modules.map(|root| ModuleSelection {
            root,
            kernel: release,
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
        let to_file = self
            .output
            .as_ref()
            .is_none_or(|output| output.as_os_str() != "-");
        let own = temp.as_ref().map(|temp| temp.path("initrd"));
        let output = self.output.or(own.clone());
        let mut lines = build::build(&BuildOptions {
            output: output.clone().filter(|_| to_file),
            specs: self.specs,
            init: self.init,
            modules,
            layers,
            layers_only: bundles.is_addon(),
            verbose: self.verbose,
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
                mtime,
                args: self.mkfs_erofs_args,
            },
            verify,
            container: ContainerOptions {
                platform: self.platform,
                flatten: self.flatten,
                cache: (!self.no_cache).then(|| self.cache_size.saturating_mul(1 << 20)),
                absolute_names: self.absolute_names,
            },
            run: RunOptions {
                entrypoint: self.entrypoint.map(|Entrypoint(words)| words),
                env: self.variables,
                user: self.user,
            },
        })?;
        if let (Some(temp), Some(image)) = (&temp, output) {
            if let (Some(own), Some(last)) = (own.filter(|own| *own == image), lines.last_mut()) {
                // The user has not named this file.
                *last = last.replacen(&own.display().to_string(), "initrd", 1);
            }
            lines.extend(bundle::write(&image, &bundles, temp)?);
        }
        let shown = |line: &String| !self.quiet || line.starts_with("warning: ");
        for line in lines.into_iter().filter(shown) {
            match to_file {
                true => writeln!(out, "{line}").during("write", "standard output")?,
                false => eprintln!("{line}"),
            }
        }
        Ok(())
    }
}

/// What the command line of `build` means beyond its single options.
#[derive(Default)]
pub struct BuildRequest {
    /// The layers, each with the --as and --label that follow it.
    pub layers: Vec<LayerInput>,
    /// What to write besides the image.
    pub bundles: BundleOptions,
}

/// The kernel's file, if --kernel names one: it has a slash, or there is such a file.
fn kernel_path(kernel: &str) -> Option<PathBuf> {
    let path = Path::new(kernel);
    (kernel.contains('/') || path.is_file()).then(|| path.into())
}

/// The release of the kernel that --kernel names. That of a file is in its name: vmlinuz-RELEASE, RELEASE/vmlinuz.
fn kernel_release(kernel: &str) -> Result<String> {
    let path = Path::new(kernel);
    if !path.is_file() {
        return Ok(kernel.into());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let of_name = name.split_once('-').map(|(_, release)| release.to_string());
    let directory = path.parent().and_then(Path::file_name);
    let of_directory = || directory.map(|name| name.to_string_lossy().into_owned());
    let release = of_name.or_else(|| of_directory().filter(|_| name == "vmlinuz"));
    release.ok_or_else(|| {
        Error::new(
            "find",
            format_args!("the release of {kernel}"),
            "its name has none",
        )
    })
}
