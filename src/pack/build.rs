//! Builds an image: the loader, then the layers in order, each aligned.

use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use super::archive::{self, Settings};
use super::depmod::{self, Modules};
use super::layer::{self, Erofs, Layer, Wanted};
use super::loader;
use super::machine;
use super::output::{Output, Scratch};
use crate::error::{Context, Error, Result};
use crate::proof::LINKS;
use crate::words::shown;

/// What to build.
#[derive(Clone, Debug)]
pub struct Build {
    /// The image to be written.
    pub output: PathBuf,
    /// The loader's specs, one after the other; the standard one where there are none.
    pub specs: Vec<PathBuf>,
    /// What the standard spec's `/init` is; the one beside the tool where not given.
    pub init: Option<PathBuf>,
    /// Kernel modules for the loader.
    pub modules: Option<Modules>,
    /// The layers, lowest first.
    pub layers: Vec<Wanted>,
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
    // A symbolic link stays; what it leads to is written anew, where it is or is going to be.
    let target = behind_links(&build.output)?;
    let scratch = Scratch::new(&target)?;
    let mut layers = Vec::new();
    for (number, wanted) in build.layers.iter().enumerate() {
        layers.push(layer::prepare(wanted, number, &build.erofs, &scratch)?);
    }
    let lengths = layers.iter().map(|layer| layer.length);
    let expected = lengths.fold(loader::size(&entries), u64::saturating_add);

    let mut output = Output::new(&target, scratch, expected)?;
    let image = build.output.display().to_string();
    let written = archive::write(&entries, build.settings, &mut output, &image)?;
    for layer in &mut layers {
        output.align(build.align)?;
        append(layer, &mut output)?;
    }
    // Whoever appends more with `cat` finds the place where an archive may start.
    output.align(4)?;
    let length = output.length();
    output.finish()?;

    let unaligned = written.unaligned.iter();
    lines.extend(
        unaligned.map(|name| format!("warning: {name}: its name would get too long; not aligned")),
    );
    lines.extend(layers.iter().filter_map(|layer| layer.warning.clone()));
    lines.push(format!(
        "{}: {length} bytes, loader {} bytes, {}",
        shown(build.output.as_os_str().as_encoded_bytes()),
        written.length,
        match layers.len() {
            1 => "1 layer".to_string(),
            n => format!("{n} layers"),
        }
    ));
    Ok(lines)
}

/// What symbolic links lead to, there or not; of links without end, one of them.
fn behind_links(path: &Path) -> Result<PathBuf> {
    // Before the links are followed: that of a pipe leads nowhere (/dev/stdout).
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let what = "it exists, and is not a regular file";
        return Err(Error::new("write", path.display(), what));
    }
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
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
