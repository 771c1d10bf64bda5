//! `layerinit verify`: whether an image holds what its loader lists.

use std::io::Write;

use super::image::boot::Boot;
use super::image::input::Initrd;
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::plan::{self, Source};
use crate::text::shown;
use crate::verify::digest::Digest;
use crate::verify::list::{self, Entry};
use crate::verify::{measure, read_list};

/// The longest file that is read from the rootfs, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Prints the digest of each layer, and compares the layers with the list.
///
/// # Errors
/// Those of [`check`](crate::verify::check), or there is no list.
pub fn verify(image: &Initrd, out: &mut dyn Write) -> Result<()> {
    let boot = Boot::new(image, "retain_initrd");
    let text = file(&boot, image, list::PATH)?.ok_or_else(|| {
        let error = Error::new("verify", &image.name, format!("there is no {}", list::PATH));
        error.hint("`layerinit build --verify` makes an image that has it")
    })?;
    let entries = read_list(&text)?;
    let mut write = |line: String| writeln!(out, "{line}").during("write", "the digests");
    compare(&boot, image, &entries, |name, digest| {
        write(format!("{digest}  {}", shown(name.as_bytes())))
    })?;
    let name = &image.name;
    write(format!("{name}: as the loader lists it"))
}

/// Compares the layers of an image with its list. `tell` gets the name and the digest of each layer.
///
/// # Errors
/// Those of [`check`](crate::verify::check) and of `tell`.
pub fn compare(
    boot: &Boot,
    image: &dyn ReadAt,
    entries: &[Entry],
    mut tell: impl FnMut(&str, Digest) -> Result<()>,
) -> Result<()> {
    let files = boot.open(image)?;
    let files: Vec<&dyn ReadAt> = files.iter().map(|file| &**file).collect();
    let sources: Vec<&Source> = boot.sources.iter().collect();
    let mut measured = Vec::new();
    for layer in plan::collect_layers(&sources, &boot.options, 0) {
        let missing = || Error::new("read", &layer, "its source is not open");
        let file = files.get(layer.source).copied().ok_or_else(missing)?;
        let digests = measure(&layer, file).during("read", &layer)?;
        tell(&layer.name, digests.exact)?;
        measured.push((layer, digests));
    }
    crate::verify::check(entries, &measured, &sources, &files)
}

/// The content of a file of the rootfs, if it exists.
pub fn file(boot: &Boot, image: &dyn ReadAt, path: &str) -> Result<Option<Vec<u8>>> {
    let Some((_, node)) = boot.rootfs.find(path.as_bytes()) else {
        return Ok(None);
    };
    let content = boot.content(image, node)?;
    if content.size() > FILE_MAX {
        let what = format!("{} bytes are too many", content.size());
        return Err(Error::new("read", path, what));
    }
    let mut bytes = vec![0; usize::try_from(content.size()).unwrap_or_default()];
    content.read_exact_at(&mut bytes, 0).during("read", path)?;
    Ok(Some(bytes))
}
