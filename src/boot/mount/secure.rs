//! Makes layers on a disk safe to use: the bytes that are verified must be the bytes that are used, and a
//! disk can return other bytes at the next read.
//!
//! The kernel verifies a file with fs-verity, or an image with a dm-verity hash tree, at every read, if the
//! list has its digest. `/init` copies any other file into memory, and hashes and uses it there.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use log::info;
use rustix::fs::{major, minor};

use super::archive::check_memory;
use super::loopback;
use super::verity::set_up;
use crate::boot::source::OpenSource;
use crate::boot::trust::Trust;
use crate::bytes::{Opened, ReadAt};
use crate::error::{Context, Error, Result};
use crate::initrd::{self, Kind, Segment};
use crate::module::loader::Loader;
use crate::plan::verity::LAYER;
use crate::plan::{MediumFile, Module, Place, Storage};
use crate::sys::fsverity;
use crate::sys::loopdev::Range;
use crate::verify::digest::Digest;
use crate::verify::measured::Measured;
use crate::verify::tree::{self, ImageTree};

/// Makes the layers of all sources on a disk safe. Does nothing without a list.
///
/// # Errors
/// A file cannot be read, does not fit into memory, or the kernel cannot set up dm-verity.
pub fn secure(trust: &Trust, sources: &mut [OpenSource], loader: &mut Loader) -> Result<()> {
    if trust.list().is_none() {
        return Ok(());
    }
    for (number, source) in sources.iter_mut().enumerate() {
        if !source.is_in_memory() {
            let object = source.source.place.to_string();
            secure_one(trust, number, source, loader).during("verify", object)?;
        }
    }
    Ok(())
}

fn secure_one(
    trust: &Trust,
    number: usize,
    source: &mut OpenSource,
    loader: &mut Loader,
) -> Result<()> {
    if let Some(trouble) = &source.source.walk.trouble {
        return Err(trouble.clone());
    }
    let list = trust.list().unwrap_or_default();
    if !source.source.place.is_device() {
        let digest = fsverity::measure(&source.file.file).during("measure", "fs-verity")?;
        let measured = digest.map(|digest| Measured::FsVerity(Digest(digest)));
        if let Some(measured) = measured.filter(|measured| measured.is_in(list)) {
            info!("{}: verified by fs-verity", source.source.place);
            source.measured = Some(measured);
            return Ok(());
        }
        let tree = match source.source.walk.segments.as_slice() {
            [image] if is_image(image) => {
                tree::behind_image(&source.file, image.length).during("read", "the hash tree")?
            }
            _ => None,
        };
        if let Some(tree) = tree {
            let measured = Measured::Verity(tree.root);
            if measured.is_in(list) {
                *source = verified(trust, number, source, &tree, loader)?;
                source.measured = Some(measured);
                return Ok(());
            }
        }
    }
    *source = copied(number, source)?;
    Ok(())
}

fn is_image(segment: &Segment) -> bool {
    matches!(segment.kind, Kind::Erofs(_) | Kind::Squashfs(_))
}

/// The image of a source as a dm-verity device, over a loop device over the file.
fn verified(
    trust: &Trust,
    number: usize,
    source: &OpenSource,
    tree: &ImageTree,
    loader: &mut Loader,
) -> Result<OpenSource> {
    loader.need(Module::Loop)?;
    let range = Range {
        offset: 0,
        length: source.file.size() & !511,
        direct: true,
    };
    // Held open until the dm-verity device holds it.
    let (node, device) = loopback::attach(&source.file.file, range)?;
    let device = device.metadata().during("stat", &node)?.rdev();
    let device = format!("{}:{}", major(device), minor(device));
    let parameters = trust.verity().parameters();
    let ImageTree {
        format,
        offset,
        root,
    } = tree;
    let table = format.table(&device, &device, *offset, &root.0, &parameters);
    let name = format!("{LAYER}{number}");
    let created = set_up(&name, format, &table, None, loader)?;
    let path = format!("/dev/dm-{}", minor(created));
    let file = loopback::open_device(&path, created)?;
    let size = format.sectors().unwrap_or_default().saturating_mul(512);
    let (medium, shown) = medium_of(&source.source.place);
    let place = Place::Medium(MediumFile {
        medium,
        name: shown,
        path,
        storage: Storage::Verity,
    });
    info!("{place}: verified by dm-verity, /dev/mapper/{name} on {node}");
    let secured = OpenSource::new(place, Opened::new(file, size), |file| {
        initrd::walk_layer_file(file)
    });
    match secured.source.walk.trouble {
        Some(trouble) => Err(trouble),
        None => Ok(secured),
    }
}

/// A copy of a source in the rootfs, up to the end of its layers.
fn copied(number: usize, source: &OpenSource) -> Result<OpenSource> {
    let place = &source.source.place;
    let end = |segment: &Segment| segment.offset.saturating_add(segment.length);
    let length = source.source.walk.segments.last().map_or(0, end);
    // With the zeros at the end of an archive: the digest may be that of the whole file.
    let length = length.next_multiple_of(512).min(source.file.size());
    check_memory(place, length)?;
    let directory = format!("{}/{number}", Place::COPIES);
    fs::create_dir_all(&directory).during("create", &directory)?;
    let old = place.path();
    let name = Path::new(&old).file_name().unwrap_or_default();
    let path = format!("{directory}/{}", name.to_string_lossy());
    let mut copy = File::create(&path).during("create", &path)?;
    let mut from = &source.file.file;
    from.rewind().during("read", place)?;
    let copied = io::copy(&mut io::Read::take(from, length), &mut copy);
    if copied.during("copy", place)? != length {
        return Err(Error::new("copy", place, "it ends early"));
    }
    let (medium, shown) = medium_of(place);
    let place = match place {
        Place::File(name) => {
            // In place of the link.
            fs::rename(&path, &old).during("replace", &old)?;
            Place::File(name.clone())
        }
        _ => Place::Medium(MediumFile {
            medium,
            name: shown,
            path,
            storage: Storage::Initramfs,
        }),
    };
    info!("{place}: {length} bytes copied into memory, because the disk could change");
    OpenSource::open(place, |file| initrd::walk_layer_file(file))
}

/// The medium of a place, and its name in messages.
fn medium_of(place: &Place) -> (usize, String) {
    match place {
        Place::Medium(file) => (file.medium, file.name.clone()),
        // A number that no medium has.
        other => (usize::MAX, other.path()),
    }
}
