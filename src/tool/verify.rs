//! `layerinit verify`: whether an image holds what its loader lists.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::image::boot::{Boot, StandIns};
use super::image::input::Initrd;
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::plan::{self, Source};
use crate::text::shown;
use crate::verify::content::SignedList;
use crate::verify::digest::Digest;
use crate::verify::list::{self, ListEntry};
use crate::verify::policy::{self, Policy};
use crate::verify::signature::{self, Key};
use crate::verify::{measure, read_list, read_signed};

/// The longest file that is read from the rootfs, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Prints the digest of each layer, and compares the layers with the list. `key` is the public key that has to have
/// signed the list; `None`: one of the loader's, if it has keys.
///
/// # Errors
/// Those of [`check`](crate::verify::check), or there is no list.
pub fn verify(image: &Initrd, key: Option<&Path>, out: &mut dyn Write) -> Result<()> {
    let boot = Boot::new(image, "retain_initrd", &StandIns::default());
    let entries = entries(&boot, image, key)?.ok_or_else(|| {
        let error = Error::new("verify", &image.name, format!("there is no {}", list::PATH));
        error.hint("`layerinit build --verify` makes an image that has it")
    })?;
    let mut write = |line: String| writeln!(out, "{line}").during("write", "the digests");
    compare(&boot, image, &entries, |name, digest| {
        write(format!("{digest}  {}", shown(name.as_bytes())))
    })?;
    let name = &image.name;
    write(format!("{name}: as the loader lists it"))
}

/// The list of an image, if it has one, after its signature is verified.
///
/// # Errors
/// The list, a key or the policy is damaged, or the signature is not one of the keys'.
pub fn entries(
    boot: &Boot,
    image: &(dyn ReadAt + Sync),
    key: Option<&Path>,
) -> Result<Option<Vec<ListEntry>>> {
    let mut keys = Vec::new();
    if let Some(path) = key {
        let text = fs::read(path).during("read", path.display())?;
        keys.push(Key::parse(&path.display().to_string(), &text)?);
    } else {
        for name in boot
            .rootfs
            .directory(signature::KEYS.trim_start_matches('/').as_bytes())
        {
            let path = format!("{}/{}", signature::KEYS, String::from_utf8_lossy(name));
            if let Some(text) = file(boot, image, &path)?.filter(|_| name.ends_with(b".pub")) {
                keys.push(Key::parse(&path, &text)?);
            }
        }
    }
    let (list, signed) = (
        file(boot, image, list::PATH)?,
        file(boot, image, signature::PATH)?,
    );
    if keys.is_empty() {
        return list.map(|text| read_list(&text)).transpose();
    }
    let found = match (&boot.signed, list, signed) {
        (Some(found), ..) => found.clone(),
        (None, Some(list), Some(signature)) => SignedList { list, signature },
        (None, list, _) => {
            let missing = list.map_or(list::PATH, |_| signature::PATH);
            let what = format!("the list has to be signed, and there is no {missing}");
            return Err(Error::new("verify", "the layers", what));
        }
    };
    let policy = file(boot, image, policy::PATH)?;
    let policy = policy.map(|text| Policy::parse(&text)).transpose()?;
    let minimum = policy.and_then(|policy| policy.minimum_version);
    read_signed(&keys, &found, minimum).map(Some)
}

/// Compares the layers of an image with its list. `tell` gets the name and the digest of each layer.
///
/// # Errors
/// Those of [`check`](crate::verify::check) and of `tell`.
pub fn compare(
    boot: &Boot,
    image: &(dyn ReadAt + Sync),
    entries: &[ListEntry],
    mut tell: impl FnMut(&str, Digest) -> Result<()>,
) -> Result<()> {
    let on_a_disk = |source| crate::verify::check_memory(source, || true);
    boot.sources.iter().try_for_each(on_a_disk)?;
    let files = boot.open(image)?;
    let files: Vec<&dyn ReadAt> = files.iter().map(|file| &**file as _).collect();
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
pub fn file(boot: &Boot, image: &(dyn ReadAt + Sync), path: &str) -> Result<Option<Vec<u8>>> {
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
