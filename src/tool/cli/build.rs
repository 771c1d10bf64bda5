//! `layerinit build`: arguments, and the layer that each --as and --label applies to.

use std::io::Write;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Args};

use super::named;
use crate::error::{Context, Result};
use crate::tool::build::archive::CpioOptions;
use crate::tool::build::container::layers::ContainerOptions;
use crate::tool::build::depmod::ModuleSelection;
use crate::tool::build::layer::{LayerFormat, LayerInput};
use crate::tool::build::mkfs::ErofsOptions;
use crate::tool::build::module::ModuleOptions;
use crate::tool::build::tree::Timestamps;
use crate::tool::build::{self, BuildOptions, label};

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
  layerinit build -o demo.img --modules / --kernel $(uname -r) --layer rootfs/
  layerinit build -o demo.img --layer base/ --layer app/ --layers-inside
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) --host
  layerinit build -o loader.cpio --modules / --kernel $(uname -r) \\
    --module virtio_pci,virtio_blk,ext4
  BUSYBOX=/bin/busybox layerinit build -o loader.cpio --spec initramfs-spec/loader \\
    --spec initramfs-spec/shell
  layerinit build -o demo.img --layer rootfs/ --mkfs-erofs-arg=--all-root
  layerinit build -o - --layer rootfs/ | ssh board 'cat >/boot/initrd.img'";

/// Build an image of the loader and the layers
#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct BuildArgs {
    /// Write the image to this file; `-` writes it to standard output, and messages to standard error
    #[arg(short, long, value_name = "IMG")]
    output: PathBuf,

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
                mtime,
                args: self.mkfs_erofs_args,
            },
            container: ContainerOptions {
                platform: self.platform,
                flatten: self.flatten,
                cache: (!self.no_cache).then(|| self.cache_size.saturating_mul(1 << 20)),
                absolute_names: self.absolute_names,
            },
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
