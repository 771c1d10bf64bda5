//! `layerinit verify`: whether an image holds what its loader lists.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::hash_tree::{HashTree, fs_verity_digest};
use super::image::boot::{Boot, StandIns};
use super::image::input::Initrd;
use super::progress::LongStep;
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::plan::{self, Layer, Place, Source};
use crate::text::shown;
use crate::verify::content::SignedList;
use crate::verify::list::{self, Expected, ListEntry};
use crate::verify::measured::Measured;
use crate::verify::policy::{self, Policy};
use crate::verify::signature::{self, Key};
use crate::verify::tree::{self, BLOCK};
use crate::verify::{measure, read_list, read_signed};

/// The longest file that is read from the rootfs, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyImageOptions {
    /// The public key that must have signed the list; `None`: one of the loader's keys, if it has any.
    pub key: Option<PathBuf>,
    /// The command line, which may name layers on disks.
    pub cmdline: String,
    /// The directories and files that stand in for the disks.
    pub stand_ins: StandIns,
}

/// Prints the digest of each layer, and compares the layers with the list.
///
/// # Errors
/// Those of [`check`](crate::verify::check), or there is no list.
pub fn verify(image: &Initrd, options: &VerifyImageOptions, out: &mut dyn Write) -> Result<()> {
    let boot = Boot::new(image, &options.cmdline, &options.stand_ins);
    let key = options.key.as_deref();
    boot.check_media()?;
    let entries = entries(&boot, image, key)?.ok_or_else(|| {
        let error = Error::new("verify", &image.name, format!("there is no {}", list::PATH));
        error.hint("`layerinit build --verify` makes an image that has it")
    })?;
    let mut write = |line: String| writeln!(out, "{line}").during("write", "the digests");
    compare(&boot, image, &entries, |name, found| {
        let name = shown(name.as_bytes());
        write(match found {
            Measured::Hashed(digests) => format!("{}  {name}", digests.exact),
            Measured::FsVerity(digest) => format!("sha256:{digest}  {name}"),
            Measured::Verity(digest) => format!("verity:{digest}  {name}"),
        })
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
    mut tell: impl FnMut(&str, Measured) -> Result<()>,
) -> Result<()> {
    let files = boot.open(image)?;
    let files: Vec<&dyn ReadAt> = files.iter().map(|file| &**file as _).collect();
    let sources: Vec<&Source> = boot.sources.iter().collect();
    let mut measured = Vec::new();
    for layer in plan::collect_layers(&sources, &boot.options, 0) {
        let missing = || Error::new("read", &layer, "its source is not open");
        let file = files.get(layer.source).copied().ok_or_else(missing)?;
        let found = match layer.place {
            Place::Medium(_) => measure_on_disk(&layer, file, entries)?,
            _ => hash(&layer, file)?,
        };
        tell(&layer.name, found)?;
        measured.push((layer, found));
    }
    crate::verify::check(entries, &measured, &sources, &files)
}

/// Measures a layer on a disk as its line of the list requires: by its bytes, by the digest that fs-verity
/// computes for its file, or by the dm-verity hash tree after it, which is compared with the data.
fn measure_on_disk(layer: &Layer, file: &dyn ReadAt, entries: &[ListEntry]) -> Result<Measured> {
    let has = |is: fn(&Expected) -> bool| entries.iter().any(|entry| is(&entry.expected));
    if has(|expected| matches!(expected, Expected::FsVerity(_))) {
        let digest = fs_verity_digest(file).during("read", layer)?;
        let found = Measured::FsVerity(digest);
        if found.is_in(entries) {
            return Ok(found);
        }
    }
    if has(|expected| matches!(expected, Expected::Verity(_)))
        && layer.offset == 0
        && layer.content.image().is_some()
        && let Some(tree) = tree::behind_image(file, layer.length).during("read", layer)?
        && Measured::Verity(tree.root).is_in(entries)
    {
        let data = HashTree::of(file, layer.length, &tree.format.salt).during("read", layer)?;
        let mut stored = vec![0; data.bytes.len()];
        let start = tree.offset.saturating_add(BLOCK.into());
        file.read_exact_at(&mut stored, start)
            .during("read", layer)?;
        if data.root != tree.root || data.bytes != stored {
            let what = "the hash tree after the image is not that of its data: a block was changed";
            return Err(Error::new("verify", layer, what));
        }
        return Ok(Measured::Verity(tree.root));
    }
    hash(layer, file)
}

/// Hashes the bytes of a layer.
fn hash(layer: &Layer, file: &dyn ReadAt) -> Result<Measured> {
    let progress = LongStep::layer(format_args!("hash {layer}"), layer.length);
    let measured = measure(layer, &progress.watch(file, layer.offset)).during("read", layer)?;
    progress.finish();
    Ok(measured)
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
