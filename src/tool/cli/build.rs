//! `layerinit build`: arguments, and the layer that each --as and --label applies to.

use std::io::Write;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, ArgMatches, Args};

use super::bundle::{BundleArgs, kernel_release};
use super::container::ContainerArgs;
use super::verification::VerificationArgs;
use crate::error::{Context, Result};
use crate::tool::build::archive::CpioOptions;
use crate::tool::build::depmod::ModuleSelection;
use crate::tool::build::layer::{LayerFormat, LayerInput};
use crate::tool::build::mkfs::ErofsOptions;
use crate::tool::build::module::ModuleOptions;
use crate::tool::build::outside::Outside;
use crate::tool::build::temp_files::TempFiles;
use crate::tool::build::tree::Timestamps;
use crate::tool::build::{self, BuildOptions, label};
use crate::tool::bundle::{self, BundleOptions};
use crate::tool::platform::{self, Platform};
use crate::tool::progress::{self, ProgressLevel};

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

  For a container image without an init, the guest starts Entrypoint and Cmd, with Env, WorkingDir,
  User and StopSignal of its configuration: a layer on top has a small init, layerinit-run, which
  prints `layerinit-run: exit status N` and powers off when the program ends. The init of busybox
  counts only if there is no Entrypoint, and Cmd is a shell. With --entrypoint, any layers work.

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

  With --key, the list may come from outside: from the first archive after the loader, with a
  signature by minisign (package minisign), so that layers can be replaced without the loader.
  --sign makes it; minisign reads the password of the key from standard input. --minimum-version
  keeps a loader from booting an older list.

  With --layers-outside, the layers are files for a disk, and the policy allows rd.layers.from=.
  /init copies them into memory and hashes them there. With --verity the kernel reads and verifies
  them block by block on the disk, as it does with --fs-verity, if that is enabled for the files
  (fsverity enable). A list that is signed goes beside the layers.

  If the first layer is neither an EROFS nor a SquashFS image, or the list is signed, the loader
  ends with a stop, at which the kernel's unpacker stops: what follows is not unpacked over the
  loader.

Boot loaders:
  With --uki, --fit and --iso, the kernel and the image become one file, which the programs of the
  distribution write: ukify (systemd-ukify, systemd-boot-efi), mkimage (u-boot-tools) and
  grub-mkrescue (grub-common, xorriso, GRUB's platforms). -o is not needed then. The kernel is
  --kernel FILE, or the usr/lib/modules/VERSION/vmlinuz of the layers with the highest version, as
  bootc images have it; --modules without DIR takes its modules. With --modules, the release of FILE
  is that in its name, vmlinuz-RELEASE.

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
  layerinit build --uki linux.efi --modules --layer oci:bootc:latest
  layerinit build --uki app.addon.efi --layer app/
  layerinit build --fit image.itb --kernel Image --dtb board.dtb --layer rootfs/
  layerinit build --iso demo.iso --kernel /boot/vmlinuz-$(uname -r) --modules / --layer rootfs/
  layerinit build -o demo.img --layer base/ --layer app/ --verify \\
    --verify-except credentials:/run/credentials
  layerinit build -o loader.img --layers-outside disk/layers --layer base/ --verify --verity
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
    /// Write the layers into the directory DIR instead, as 10-NAME, 20-NAME and so on, for a disk that
    /// rd.layers.from= names
    #[arg(
        long,
        value_name = "DIR",
        requires = "layers",
        conflicts_with = "layers_inside",
        help_heading = "Layer options"
    )]
    layers_outside: Option<PathBuf>,
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
    #[command(flatten)]
    container: ContainerArgs,
    /// Pass an option to mkfs.erofs, after the options of this tool
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
    /// Build for this architecture (x86_64, aarch64, arm or riscv64, or Debian's name of it): /init is
    /// ../lib/layerinit/ARCH/init, or what cargo has built for it
    /// [default: the architecture of the kernel and its modules]
    #[arg(long, value_name = "ARCH", value_parser = platform, help_heading = "Loader options")]
    target: Option<&'static Platform>,
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

    /// Add erofs, overlay and loop, with their dependencies, from DIR/lib/modules; without DIR, from
    /// the layers
    #[arg(long, value_name = "DIR", num_args = 0..=1, help_heading = "Module options")]
    modules: Option<Option<PathBuf>>,
    /// Set the release of the kernel, as printed by uname -r [default: the only one in DIR; of the
    /// layers, the highest version with a vmlinuz]; or the kernel's file, for --uki, --fit and --iso
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

    #[command(flatten)]
    verification: VerificationArgs,

    #[command(flatten)]
    bundles: BundleArgs,
}

fn format_parser() -> impl TypedValueParser<Value = LayerFormat> {
    PossibleValuesParser::new(LayerFormat::all().map(LayerFormat::suffix)).try_map(|name| {
        let mut formats = LayerFormat::all();
        formats
            .find(|format| format.suffix() == name)
            .ok_or("no format")
    })
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
    /// --as or --label comes before the first --layer, or twice after the same one.
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
        let options = self.bundles.options(self.kernel.as_deref());
        options.check()?;
        if options.is_addon()
            && (self.modules.is_some()
                || !self.specs.is_empty()
                || self.init.is_some()
                || self.verification.verify)
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
        bundles.fit_key = self.bundles.fit_key()?;
        let temp = bundles.first();
        let temp = temp
            .map(|first| TempFiles::with_names(Some(first)))
            .transpose()?;
        let mtime = build::mtime(self.mtime)?;
        let release = self.kernel.as_deref().map(kernel_release).transpose()?;
        let kernel = self.kernel.map(PathBuf::from);
        let kernel = kernel.filter(|path| path.is_file());
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
            target: self.target,
            kernel,
            modules,
            layers,
            layers_only: bundles.is_addon(),
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
            outside: self.layers_outside.map(|directory| Outside {
                directory,
                protection: self.verification.protection(),
            }),
            verify: self.verification.options(),
            container: self.container.options(),
            run: self.container.run_options(),
        })?;
        if let (Some(temp), Some(image)) = (&temp, output) {
            if let (Some(own), Some(last)) = (own.filter(|own| *own == image), lines.last_mut()) {
                // The user has not named this file.
                *last = last.replacen(&own.display().to_string(), "initrd", 1);
            }
            lines.extend(bundle::write(&image, &bundles, temp)?);
        }
        let quiet = progress::level() == ProgressLevel::Quiet;
        let shown = |line: &String| !quiet || line.starts_with("warning: ");
        for line in lines.into_iter().filter(shown) {
            match to_file {
                true => writeln!(out, "{line}").during("write", "standard output")?,
                false => eprintln!("{line}"),
            }
        }
        Ok(())
    }
}

fn platform(name: &str) -> std::result::Result<&'static Platform, String> {
    let known = || format!("not one of {}", platform::names().join(", "));
    Platform::named(name).ok_or_else(known)
}

/// What the command line of `build` means beyond its single options.
#[derive(Default)]
pub struct BuildRequest {
    /// The layers, each with the --as and --label that follow it.
    pub layers: Vec<LayerInput>,
    /// What to write besides the image.
    pub bundles: BundleOptions,
}
