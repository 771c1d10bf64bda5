//! Verification: the list of layers in the loader, the policy for words of the command line, and the files
//! that the kernel unpacked before `/init` could check them.
//!
//! Pure; [`crate::boot::trust`] reads the files and refuses the boot, and `layerinit verify` checks an image
//! by the same code. docs/trust.md describes the threats.

pub mod digest;
pub mod policy;

pub mod list;
pub mod signature;
pub mod tree;

pub mod measured;

pub mod content;

mod compare;

use std::collections::BTreeSet;
use std::io;

use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::initrd::{Kind, Segment};
use crate::plan::{self, Content, Layer, Place, Source, Storage};
use content::SignedList;
use digest::Digests;
use list::ListEntry;
use measured::Measured;
use signature::Key;

/// The directory of the loader that this room reads.
pub const DIRECTORY: &str = "/etc/layerinit";

/// Computes the digests of a layer. `file` is its source.
pub fn measure(layer: &Layer, file: &dyn ReadAt) -> io::Result<Measured> {
    let archive = matches!(layer.content, Content::Cpio { codec: None, .. });
    Digests::of(file, layer.offset, layer.length, archive).map(Measured::Hashed)
}

/// Refuses a source that could change after it is hashed: a device, or a file on one. `in_memory` tells whether a path of
/// the initramfs leads to a file in memory, and not to a disk that is mounted there.
///
/// # Errors
/// It could change.
pub fn check_memory(source: &Source, in_memory: impl FnOnce() -> bool) -> Result<()> {
    let is_safe = match &source.place {
        // Only the kernel and /init have it.
        Place::Initrd | Place::InitrdImage => true,
        Place::File(_) => in_memory(),
        Place::Medium(file) => match file.storage {
            Storage::Initramfs => in_memory(),
            // dm-verity verifies what is read from it.
            Storage::Verity => true,
            Storage::Filesystem | Storage::Device => false,
        },
    };
    match is_safe {
        true => Ok(()),
        false => {
            let what = "it is on a disk, and could change after it is verified";
            let object = match &source.place {
                Place::Medium(file) => file.name.clone(),
                place => place.path(),
            };
            Err(Error::new("verify", object, what))
        }
    }
}

/// Checks that the layers are those of the list, in its order, and that the kernel has unpacked nothing but the
/// loader. `layers` are all layers of `sources`, with their digests; `files` are the bytes of each source.
///
/// # Errors
/// A layer differs from the list or is missing, a source has unrecognised data, or an archive in front of the
/// loader changes the loader. The error names the first of these.
pub fn check(
    entries: &[ListEntry],
    layers: &[(Layer, Measured)],
    sources: &[&Source],
    files: &[&dyn ReadAt],
) -> Result<()> {
    for (source, file) in sources.iter().zip(files) {
        before_loader(source, *file)?;
    }
    compare::compare(entries, layers, |layer, directory| {
        let (Some(source), Some(file)) = (sources.get(layer.source), files.get(layer.source))
        else {
            return Err("its source is not open".into());
        };
        may_vary(layer, source, *file, directory)
    })
    .map_err(|error| match unread(sources) {
        Some(trouble) => error.hint(trouble),
        None => error,
    })?;
    match unread(sources) {
        Some(trouble) => Err(Error::new("verify", "the layers", trouble)),
        None => Ok(()),
    }
}

/// Why a source was not read to its end, if one was not.
fn unread(sources: &[&Source]) -> Option<String> {
    let mut all = sources.iter();
    all.find_map(|source| {
        let trouble = source.walk.trouble.as_ref()?;
        Some(format!("{}: {trouble}", source.place))
    })
}

/// Whether a layer is an archive that may vary, with files below `directory` only; else why it is not.
fn may_vary(
    layer: &Layer,
    source: &Source,
    file: &dyn ReadAt,
    directory: &str,
) -> std::result::Result<(), String> {
    let Content::Cpio { codec, .. } = &layer.content else {
        return Err("it is not a cpio archive".into());
    };
    content::is_below(file, layer.offset, layer.length, *codec, directory)?;
    if !source.place.is_initrd() {
        return Ok(());
    }
    let mut segments = source.walk.segments.iter();
    let by_kernel = |segment: &Segment| {
        segment.offset == layer.offset
            && matches!(&segment.kind, Kind::Cpio(cpio) if cpio.by_kernel)
    };
    // The kernel has then unpacked its files into the rootfs, too.
    match segments.any(by_kernel) {
        true => {
            let links = &mut BTreeSet::new();
            content::changes_loader(file, layer.offset, layer.length, *codec, links)
        }
        false => Ok(()),
    }
}

/// Checks the archives in front of the loader, which the kernel has unpacked: they may hold files for the
/// kernel itself, and files that `/init` does not use.
fn before_loader(source: &Source, file: &dyn ReadAt) -> Result<()> {
    let length = plan::loader_length(source);
    let before = length.saturating_sub(1);
    let mut links = BTreeSet::new();
    for segment in source.walk.segments.iter().take(before) {
        let Kind::Cpio(cpio) = &segment.kind else {
            continue;
        };
        if cpio.only_early || !cpio.by_kernel {
            continue;
        }
        let (offset, length) = (segment.offset, segment.length);
        content::changes_loader(file, offset, length, cpio.codec, &mut links).map_err(|what| {
            let object = format!("the archive at {offset:#x} in front of the loader");
            Error::new("verify", object, what).hint(
                "build its files into the loader: what verifies the loader then verifies them",
            )
        })?;
    }
    Ok(())
}

/// Takes the signed list out of the first archive after the loader, if it is there. That archive is then not
/// a layer.
pub fn take_list(source: &mut Source, file: &dyn ReadAt) -> Option<SignedList> {
    let loader = plan::loader_length(source);
    let mut segments = source.walk.segments.iter_mut().skip(loader);
    let segment = segments.find(|segment| matches!(segment.kind, Kind::Cpio(_)))?;
    let Kind::Cpio(cpio) = &segment.kind else {
        return None;
    };
    let found = content::signed_list(file, segment.offset, segment.length, cpio.codec)?;
    segment.kind = Kind::Padding;
    Some(found)
}

/// Verifies a signature with the keys of the loader, and reads the list.
///
/// # Errors
/// Those of [`signature::verify`] and [`list::parse`].
pub fn read_signed(
    keys: &[Key],
    found: &SignedList,
    minimum: Option<u64>,
) -> Result<Vec<ListEntry>> {
    signature::verify(keys, &found.list, &found.signature, minimum)?;
    read_list(&found.list)
}

/// Reads a list, as [`list::parse`] does, with its path in the error.
///
/// # Errors
/// Those of [`list::parse`].
pub fn read_list(text: &[u8]) -> Result<Vec<ListEntry>> {
    list::parse(text).during("read", list::PATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initrd::Walk;
    use crate::plan::MediumFile;

    fn refusal(place: Place, in_memory: bool) -> Option<String> {
        let walk = Walk::default();
        let checked = check_memory(&Source { place, walk }, || in_memory);
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_on_a_disk_is_refused() {
        let on = |storage| {
            Place::Medium(MediumFile {
                medium: 0,
                name: "LABEL=sys:/a/base.erofs".into(),
                path: "/run/initramfs/media/0/a/base.erofs".into(),
                storage,
            })
        };
        let medium = "verify LABEL=sys:/a/base.erofs: it is on a disk, and could change after it is verified";
        for storage in [Storage::Filesystem, Storage::Device] {
            // Also a filesystem on a device that happens to be memory, such as a RAM disk.
            for in_memory in [true, false] {
                assert_eq!(refusal(on(storage), in_memory).as_deref(), Some(medium));
            }
        }
        assert_eq!(refusal(on(Storage::Initramfs), true), None);
        assert_eq!(
            refusal(on(Storage::Initramfs), false).as_deref(),
            Some(medium)
        );
        let file = || Place::File("base.erofs".into());
        assert_eq!(refusal(file(), true), None);
        let linked =
            "verify /layers/base.erofs: it is on a disk, and could change after it is verified";
        assert_eq!(refusal(file(), false).as_deref(), Some(linked));
        assert_eq!(refusal(Place::Initrd, false), None);
        assert_eq!(refusal(Place::InitrdImage, false), None);
    }
}
