//! Builds an image: the loader, then the layers in order, each aligned.

pub mod compressed;
pub mod host;
pub mod label;
pub mod output;
pub mod spec;

pub mod archive;
pub mod loader;
pub mod machine;
pub mod module;
pub mod tree;

pub mod depmod;
pub mod layer;

use std::fs;
use std::io::{self, IsTerminal, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::boot::resolve::MAX_SYMLINKS;
use crate::error::{Context, Error, Result};
use crate::format::cpio::normalized;
use crate::text::shown;
use archive::Settings;
use depmod::Modules;
use layer::{Erofs, Layer, Wanted};
use output::{Output, STDOUT, Scratch};
use spec::{Body, Content, Entry};

/// Where /init looks for files that are layers, as a name in an archive.
const DIRECTORY: &[u8] = b"layers";

/// An initrd lies in memory as a whole. A file that is larger than this, in bytes, is sparse, and has become a layer
/// by mistake.
const IMAGE_MAX: u64 = 1 << 40;

/// What to build.
#[derive(Clone, Debug)]
pub struct Build {
    /// The image to be written; `None`: to standard output.
    pub output: Option<PathBuf>,
    /// The loader's specs, one after the other; the standard one where there are none.
    pub specs: Vec<PathBuf>,
    /// What the standard spec's `/init` is; the one beside the tool where not given.
    pub init: Option<PathBuf>,
    /// Kernel modules for the loader.
    pub modules: Option<Modules>,
    /// The layers, lowest first.
    pub layers: Vec<Wanted>,
    /// Whether they become files of the loader's /layers.
    pub layers_inside: bool,
    /// Where layers start: at a multiple of this many bytes, itself one of 4.
    pub align: u64,
    /// How the loader is written.
    pub settings: Settings,
    /// How directories become images.
    pub erofs: Erofs,
}

/// The modification time that is given, or else the environment's SOURCE_DATE_EPOCH
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
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

/// Builds the image, or leaves nothing. Returns what there is to say about it, one line each, the
/// last one its sizes.
pub fn build(build: &Build) -> Result<Vec<String>> {
    if build.align == 0 || !build.align.is_multiple_of(4) {
        let what = "not a multiple of 4, at which the kernel expects archives";
        return Err(Error::new("align layers to", build.align, what));
    }
    let mut entries = loader::entries(&build.specs, build.init.as_deref())?;
    let mut lines = Vec::new();
    if let Some(modules) = &build.modules {
        let (files, host) = depmod::entries(modules, &entries)?;
        entries.extend(files);
        lines.extend(machine::mixed(&entries));
        if modules.host.is_some() {
            lines.push(format!(
                "modules for this machine's disks: {}",
                match host.as_slice() {
                    [] => "none (there are no disks, or the kernel has built in what they need)"
                        .to_string(),
                    names => names.join(" "),
                }
            ));
        }
    }
    let page = machine::page_max(&entries);
    // A symbolic link stays; what it leads to is written anew, where it is or is going to be.
    let target = build.output.as_deref().map(behind_links).transpose()?;
    if target.is_none() && io::stdout().is_terminal() {
        let what = "it is a terminal: redirect it, or name a file with -o";
        return Err(Error::new("write", STDOUT, what));
    }
    let scratch = Scratch::new(target.as_deref())?;
    let mut layers = Vec::new();
    for (number, wanted) in build.layers.iter().enumerate() {
        layers.push(layer::prepare(wanted, number, &build.erofs, &scratch)?);
    }
    let mut settings = build.settings;
    if build.layers_inside {
        inside(&mut entries, &layers);
        if settings.data_align == 0 {
            settings.data_align = member_align(build.align)?;
        }
    }
    let appended = match build.layers_inside {
        true => &mut [],
        false => layers.as_mut_slice(),
    };
    let lengths = appended.iter().map(|layer| layer.length);
    let expected = lengths.fold(loader::size(&entries), u64::saturating_add);

    if expected > IMAGE_MAX {
        let object = build
            .output
            .as_deref()
            .unwrap_or(Path::new(STDOUT))
            .display();
        let what = format!("{expected} bytes are more than any machine can load as an initrd");
        return Err(Error::new("write", object, what));
    }
    let mut output = Output::new(target.as_deref(), scratch, expected)?;
    let image = build.output.as_deref().unwrap_or(Path::new(STDOUT));
    let image = image.display().to_string();
    let written = archive::write(&entries, settings, &mut output, &image)?;
    let mut pages_end = 0;
    for layer in appended {
        output.align(build.align)?;
        if let Some((offset, length)) = layer.last_image {
            let pages = length.div_ceil(page).saturating_mul(page);
            pages_end = output.length().saturating_add(offset).saturating_add(pages);
        }
        append(layer, &mut output)?;
    }
    // A kernel without BUFFER_HEAD reads whole pages of a loop device.
    output.extend(pages_end)?;
    // Whoever appends more with `cat` finds the place where an archive may start.
    output.align(4)?;
    let length = output.length();
    let not_kept = output.finish()?;
    let image = build.output.as_ref().map_or(STDOUT.into(), |path| {
        shown(path.as_os_str().as_encoded_bytes())
    });

    let unaligned = written.unaligned.iter();
    lines.extend(
        unaligned.map(|name| format!("warning: {name}: its name would get too long; not aligned")),
    );
    lines.extend(layers.iter().filter_map(|layer| layer.warning.clone()));
    lines.extend(not_kept.map(|what| format!("warning: {image}: {what}")));
    lines.push(format!(
        "{image}: {length} bytes, loader {} bytes, {}{}",
        written.length,
        match layers.len() {
            1 => "1 layer".to_string(),
            n => format!("{n} layers"),
        },
        if build.layers_inside {
            " inside it"
        } else {
            ""
        }
    ));
    Ok(lines)
}

/// Adds the layers to the loader's entries: files of /layers whose names have their order.
fn inside(entries: &mut Vec<Entry>, layers: &[Layer]) {
    let entry = |name: Vec<u8>, mode, body, origin| Entry {
        name,
        mode,
        uid: 0,
        gid: 0,
        mtime: None,
        body,
        origin,
    };
    // Without it the kernel drops the files.
    if !entries
        .iter()
        .any(|entry| normalized(&entry.name) == DIRECTORY)
    {
        let mode = libc::S_IFDIR | 0o755;
        let origin = "--layers-inside".to_string();
        entries.push(entry(DIRECTORY.into(), mode, Body::Nothing, origin));
    }
    // In steps of ten: there is room between them for files of a boot loader.
    let number = |index: usize| index.saturating_add(1).saturating_mul(10);
    let width = number(layers.len().saturating_sub(1)).to_string().len();
    for (index, layer) in layers.iter().enumerate() {
        let number = format!("/{:0width$}-", number(index));
        let name = [DIRECTORY, number.as_bytes(), layer.name.as_bytes()].concat();
        let body = Body::File(Content::Location(layer.location.clone()), Vec::new());
        let origin = format!("layer {}", layer.path.display());
        entries.push(entry(name, libc::S_IFREG | 0o644, body, origin));
    }
}

/// The alignment of members for one of layers: gen_init_cpio's arithmetic takes powers of two alone.
fn member_align(align: u64) -> Result<u32> {
    let align = u32::try_from(align)
        .ok()
        .filter(|align| align.is_power_of_two());
    align.ok_or_else(|| {
        let what = "not a power of two, as files of an archive are aligned to";
        Error::new("align layers", "in the loader", what)
    })
}

/// What symbolic links lead to, there or not; of links without end, one of them.
fn behind_links(path: &Path) -> Result<PathBuf> {
    // Before the links are followed: that of a pipe leads nowhere (/dev/stdout).
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let what = "it exists, and is not a regular file";
        return Err(Error::new("write", path.display(), what));
    }
    let mut path = path.to_path_buf();
    for _ in 0..MAX_SYMLINKS {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Ok(path)
}

fn append(layer: &mut Layer, output: &mut Output) -> Result<()> {
    let context = || layer.path.display().to_string();
    layer.file.rewind().during("read", context())?;
    let copied =
        io::copy(&mut (&layer.file).take(layer.length), output).during("append", context())?;
    match copied == layer.length {
        true => Ok(()),
        false => Err(Error::new(
            "read",
            context(),
            "it gets shorter while it is being read",
        )),
    }
}
