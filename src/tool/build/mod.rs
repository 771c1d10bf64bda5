//! Builds an image: the loader, then the layers in order, each aligned.

pub mod compressed;
pub mod host;
pub mod init_program;
pub mod label;
pub mod spec;
pub mod temp_files;

pub mod archive;
pub mod layer;
pub mod loader;
pub mod machine;
pub mod module;
pub mod output;
pub mod program;
pub mod tree;

pub mod cpio_layer;
pub mod depmod;
pub mod mkfs;

pub mod container;
pub mod target;

pub mod prepare;

pub mod new_root;

pub mod inside;

pub mod layer_modules;
pub mod outside;
pub mod runner;

pub mod verify;

use std::io::{self, IsTerminal, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::initrd::stop::STOP;
use crate::plan::Module;
use crate::text::shown;
use crate::tool::platform::Platform;
use archive::{CpioOptions, Written};
use container::layers::{ArchiveLayers, ContainerOptions};
use depmod::ModuleSelection;
use layer::{LayerInput, PreparedLayer};
use mkfs::ErofsOptions;
use output::{ImageWriter, STDOUT};
use outside::{Outside, Protection};
use runner::RunOptions;
use spec::SpecEntry;
use temp_files::TempFiles;
use verify::VerifyOptions;

/// The largest image, in bytes. No machine loads a larger initrd into memory: a sparse file must have become
/// a layer by mistake.
const IMAGE_MAX: u64 = 1 << 40;

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The image to write; `None`: to standard output.
    pub output: Option<PathBuf>,
    /// Specs of the loader, in order; if there are none, the standard one.
    pub specs: Vec<PathBuf>,
    /// The program for `${LAYERINIT_INIT}`; `None`: see [`loader::entries`].
    pub init: Option<PathBuf>,
    /// The architecture that the image is for; `None`: that of the kernel or its modules.
    pub target: Option<&'static Platform>,
    /// The kernel's file, if it is known.
    pub kernel: Option<PathBuf>,
    /// Kernel modules for the loader.
    pub modules: Option<ModuleSelection>,
    /// The layers, lowest first.
    pub layers: Vec<LayerInput>,
    /// Whether the image has no loader.
    pub layers_only: bool,
    /// Whether the layers become files in the loader's /layers.
    pub layers_inside: bool,
    /// The directory that gets the layers instead of the image.
    pub outside: Option<Outside>,
    /// The alignment of layers, in bytes: a multiple of 4.
    pub align: u64,
    /// How the loader is written.
    pub cpio: CpioOptions,
    /// How directories become EROFS images.
    pub erofs: ErofsOptions,
    /// What the loader verifies; `None`: nothing.
    pub verify: Option<VerifyOptions>,
    /// How archives and container images become EROFS images.
    pub container: ContainerOptions,
    /// Which program an image without an init starts.
    pub run: RunOptions,
}

/// The modification time from the command line, else from the environment variable SOURCE_DATE_EPOCH
/// (<https://reproducible-builds.org/specs/source-date-epoch/>), in seconds since 1970.
///
/// # Errors
/// The variable is not a number that a cpio archive can hold.
pub fn mtime(given: Option<u32>) -> Result<Option<u32>> {
    let Some(epoch) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|_| given.is_none()) else {
        return Ok(given);
    };
    let epoch = epoch.to_string_lossy();
    epoch.parse().map(Some).map_err(|_| {
        let what = "not a number of seconds that a cpio archive can hold (0 to 4294967295)";
        Error::new("read", format!("SOURCE_DATE_EPOCH={epoch}"), what)
    })
}

/// Builds the image. Returns messages, one line each; the last one has the sizes.
///
/// # Errors
/// A file is missing, unreadable or too large, or a program fails. No file is left then.
pub fn build(options: &BuildOptions) -> Result<Vec<String>> {
    if options.align == 0 || !options.align.is_multiple_of(4) {
        let what = "not a multiple of 4, at which the kernel expects archives";
        return Err(Error::new("align layers to", options.align, what));
    }
    let mut lines = Vec::new();
    let takes_modules_of_layers = options
        .modules
        .as_ref()
        .is_some_and(|modules| modules.root.is_none());
    let early = match takes_modules_of_layers {
        true => None,
        // Reports missing files before it makes layers.
        false => Some(loader_entries(options, None, &mut lines)?),
    };
    // A symbolic link stays, and its target is replaced.
    let target = options
        .output
        .as_deref()
        .map(output::resolve_links)
        .transpose()?;
    if target.is_none() && io::stdout().is_terminal() {
        let error = Error::new("write", STDOUT, "it is a terminal");
        return Err(error.hint("redirect it, or name a file with -o"));
    }
    let temp = match takes_modules_of_layers {
        true => TempFiles::with_names(target.as_deref())?,
        false => TempFiles::new(target.as_deref())?,
    };
    let mut archives = ArchiveLayers::new(&options.container, &options.erofs, &temp);
    let mut layers = Vec::new();
    for (number, input) in options.layers.iter().enumerate() {
        prepare::prepare(
            input,
            number,
            &options.erofs,
            &temp,
            &mut archives,
            &mut layers,
        )?;
    }
    let mut entries = match early {
        Some(entries) => entries,
        None => loader_entries(options, Some((&layers, &temp)), &mut lines)?,
    };
    let page = machine::page_max(&entries);
    let image = archives.image.as_ref().map(|image| &image.config);
    let init = options.init.as_deref();
    layers.extend(runner::prepare(
        &options.run,
        image,
        &layers,
        init,
        options.cpio,
        &temp,
    )?);
    let mut cpio = options.cpio;
    let mut appended = layers.as_mut_slice();
    if options.layers_inside {
        inside::add_layers(&mut entries, appended);
        if cpio.data_align == 0 {
            cpio.data_align = inside::member_align(options.align)?;
        }
        appended = &mut [];
    }
    let mut stop = false;
    let mut signed = Vec::new();
    let outside = options.outside.as_ref();
    let protections = outside
        .map(|outside| outside.protect(appended))
        .transpose()?;
    if let Some(verify) = &options.verify {
        let protections = protections.as_deref();
        let list = verify::add_files(verify, &mut entries, appended, protections, &temp)?;
        let starts_with_image = appended
            .first()
            .is_some_and(|layer| layer.starts_with_image);
        // A signed list need not be in the loader, so that the loader can stay the same.
        let apart = !verify.keys.is_empty() && !options.layers_inside;
        stop = outside.is_some() || !starts_with_image || apart;
        if !apart {
            verify::add_to_loader(&mut entries, list);
        } else if verify.sign.is_some() || outside.is_some() {
            signed = list;
        }
        // Otherwise somebody else signs it.
    }
    if let Some(outside) = outside {
        lines.extend(outside.write(appended, &protections.unwrap_or_default())?);
        outside.write_list(&std::mem::take(&mut signed))?;
        appended = &mut [];
    }
    let object = options.output.as_deref().unwrap_or(Path::new(STDOUT));
    let lengths = appended.iter().map(|layer| layer.length);
    let expected = lengths.fold(loader::size(&entries), u64::saturating_add);
    if expected > IMAGE_MAX {
        let what = format!("{expected} bytes are more than any machine can load as an initrd");
        return Err(Error::new("write", object.display(), what));
    }
    let mut output = ImageWriter::new(target.as_deref(), temp, expected)?;
    let name = object.display().to_string();
    let loader = match options.layers_only {
        true => Written::default(),
        false => archive::write(&entries, cpio, &mut output, &name)?,
    };
    if stop {
        output.write_all(STOP).during("write", &name)?;
    }
    if !signed.is_empty() {
        archive::write(&signed, cpio, &mut output, &name)?;
    }
    append(appended, options.align, page, &mut output)?;
    let length = output.length();
    let not_kept = output.finish()?;

    let image = shown(object.as_os_str().as_encoded_bytes());
    let unaligned = loader.unaligned.iter();
    lines.extend(unaligned.map(|name| {
        format!("warning: {name}: not aligned, because its name in the archive would get too long")
    }));
    lines.extend(layers.iter().filter_map(|layer| layer.note.clone()));
    lines.extend(layers.iter().filter_map(|layer| layer.warning.clone()));
    lines.extend(not_kept.map(|what| format!("warning: {image}: {what}")));
    let count = match layers.len() {
        1 => "1 layer".to_string(),
        n => format!("{n} layers"),
    };
    let inside = match (options.layers_inside, &options.outside) {
        (true, _) => " inside it".into(),
        (false, Some(outside)) => format!(" in {}", outside.directory.display()),
        (false, None) => String::new(),
    };
    let loader = loader.length;
    lines.push(format!(
        "{image}: {length} bytes, loader {loader} bytes, {count}{inside}"
    ));
    Ok(lines)
}

/// The entries of the loader, modules included. Messages are added to `lines`. The modules come from
/// `layers`, if no directory has them.
fn loader_entries(
    options: &BuildOptions,
    layers: Option<(&[PreparedLayer], &TempFiles)>,
    lines: &mut Vec<String>,
) -> Result<Vec<SpecEntry>> {
    if options.layers_only {
        return Ok(Vec::new());
    }
    let modules = selected_modules(options, layers, lines)?;
    let modules = modules
        .as_ref()
        .map(|(root, modules)| (root.as_path(), modules));
    let target = match options.target {
        Some(target) => Some(target),
        None => target::of_kernel(options.kernel.as_deref(), modules)?,
    };
    let mut entries = loader::entries(&options.specs, options.init.as_deref(), target)?;
    if let Some((target, init)) = options.target.zip(machine::init_location(&entries)) {
        target::check_init(init, target)?;
    }
    if let Some((root, modules)) = modules {
        let (files, host) = depmod::entries(root, modules, &entries)?;
        entries.extend(files);
        lines.extend(machine::architecture_warning(&entries));
        if modules.host.is_some() {
            let names = match host.as_slice() {
                [] => {
                    "none (there are no disks, or their drivers are built into the kernel)".into()
                }
                names => names.join(" "),
            };
            lines.push(format!("modules for this machine's disks: {names}"));
        }
    }
    Ok(entries)
}

/// The modules for the loader, including those that other options need, and the directory that has them.
fn selected_modules(
    options: &BuildOptions,
    layers: Option<(&[PreparedLayer], &TempFiles)>,
    lines: &mut Vec<String>,
) -> Result<Option<(PathBuf, ModuleSelection)>> {
    let Some(mut modules) = options.modules.clone() else {
        return Ok(None);
    };
    if options
        .layers
        .iter()
        .any(|layer| layer::is_squashfs(&layer.path))
    {
        modules.names.push(Module::Squashfs.name().into());
    }
    let outside = options.outside.as_ref();
    if outside.is_some_and(|outside| outside.protection == Protection::Verity) {
        modules.names.push("dm_verity".into());
    }
    let root = match (modules.root.clone(), layers) {
        (Some(root), _) => root,
        (None, Some((layers, temp))) => {
            let directory = temp.path("modules");
            let release = layer_modules::extract(layers, modules.kernel.as_deref(), &directory)?;
            lines.push(format!("modules of kernel {release}, from the layers"));
            modules.kernel = Some(release);
            directory
        }
        (None, None) => PathBuf::new(),
    };
    Ok(Some((root, modules)))
}

/// Appends the layers, each at a multiple of `align`. `page` is the page size of the kernel, in bytes.
fn append(
    layers: &mut [PreparedLayer],
    align: u64,
    page: u64,
    output: &mut ImageWriter,
) -> Result<()> {
    let mut pages_end = 0;
    for layer in layers {
        output.align(align)?;
        if let Some((offset, length)) = layer.last_image {
            let pages = length.div_ceil(page).saturating_mul(page);
            pages_end = output.length().saturating_add(offset).saturating_add(pages);
        }
        copy(layer, output)?;
    }
    // A kernel without BUFFER_HEAD reads whole pages of a loop device.
    output.extend(pages_end)?;
    // `cat` can append an archive at this offset.
    output.align(4)
}

fn copy(layer: &mut PreparedLayer, output: &mut ImageWriter) -> Result<()> {
    let context = || layer.path.display().to_string();
    layer.file.rewind().during("read", context())?;
    let mut bytes = (&layer.file).take(layer.length);
    let copied = io::copy(&mut bytes, output).during("append", context())?;
    match copied == layer.length {
        true => Ok(()),
        false => Err(Error::new(
            "read",
            context(),
            "it became shorter while it was read",
        )),
    }
}
