//! Frees the memory of the initrd and of layer files that is no longer needed.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use log::{debug, info};
use rustix::fs::{FallocateFlags, fallocate, fstatfs, ftruncate};
use rustix::io::Errno;

use super::filesystem::is_in_memory;
use super::source::OpenSource;
use crate::bytes::ReadAt;
use crate::error;
use crate::plan::{Layer, Place, Plan, Root};

/// The largest initrd or `/initrd.image` that is freed before the real init starts, in bytes: the kernel frees
/// 32 MiB in 16 ms. A child frees a larger one.
const FREE_AT_ONCE: u64 = 32 << 20;

/// A kernel with the memback patches frees the initrd that it has retained when 1 is written to this file
/// (qemu/kernel/patches, Documentation/ABI/testing/sysfs-firmware-initrd).
const INITRD_RELEASE: &str = "/sys/firmware/initrd_release";

/// What was freed, and what is left to a child while the real init starts.
#[derive(Debug, Default)]
pub struct Released {
    /// Bytes freed so far.
    pub bytes: u64,
    /// The rest.
    pub later: Later,
}

/// Memory that takes longer to free than the real init should wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// `/initrd.image`, which is freed with the old root.
    pub image: bool,
    /// The initrd that the kernel has retained.
    pub initrd: bool,
}

impl Later {
    /// Whether anything is left.
    pub fn is_due(self) -> bool {
        self.image || self.initrd
    }

    /// Frees the retained initrd. /sys has to be mounted.
    pub fn free_initrd(self) {
        if self.initrd {
            let _ = free_retained();
        }
    }
}

/// Frees the initrd that no layer needs: `/initrd.image` (all of it where the initrd is in sysfs too, else
/// everything outside `images`, which are mounted), and what the kernel has retained, where it can free that and
/// no image is mounted from it.
pub fn release(plan: &Plan, sources: &[OpenSource], images: &[&Layer]) -> Released {
    let mut released = Released::default();
    if matches!(plan.root, Root::Initramfs | Root::Assembled) {
        return released;
    }
    match free_image(images) {
        Some(bytes) => released.bytes = bytes,
        None => released.later.image = true,
    }
    let initrd = |place: &Place| *place == Place::Initrd;
    let source = sources.iter().find(|source| initrd(&source.source.place));
    if let Some(source) = source
        && !images.iter().any(|layer| initrd(&layer.place))
        && Path::new(INITRD_RELEASE).exists()
    {
        let size = source.file.size();
        if size > FREE_AT_ONCE {
            debug!("initrd: {size} bytes to be freed while the real init starts");
            released.later.initrd = true;
        } else {
            match free_retained() {
                Ok(()) => {
                    info!("initrd: {size} bytes freed");
                    released.bytes = released.bytes.saturating_add(size);
                }
                Err(error) => debug!("{INITRD_RELEASE}: {error}; the initrd is not freed"),
            }
        }
    }
    released
}

fn free_retained() -> std::io::Result<()> {
    fs::write(INITRD_RELEASE, "1")
}

/// Frees the parts of `/initrd.image` that no layer of the plan needs: mainly what precedes the first one.
/// Returns the number of bytes.
pub fn free_loader(plan: &Plan) -> u64 {
    let layers: Vec<_> = plan.layers.iter().collect();
    free_image(&layers).unwrap_or(0)
}

/// Frees everything of `/initrd.image` outside `needed`, in order. Returns the number of bytes freed, or `None`
/// if that takes too long now. Only a tmpfs can free parts of a file; on a ramfs the file is freed with the old
/// root.
fn free_image(needed: &[&Layer]) -> Option<u64> {
    let path = Place::InitrdImage.path();
    let Some(image) = InMemory::open(&path) else {
        return Some(0);
    };
    let before = image.allocated();
    let size = image.size();
    let mut needed = needed
        .iter()
        .filter(|layer| layer.place == Place::InitrdImage)
        .peekable();
    if needed.peek().is_none() && before > FREE_AT_ONCE {
        debug!("{path}: {before} bytes to be freed while the real init starts");
        return None;
    }
    let mut from = 0;
    for (offset, length) in needed
        .map(|layer| (layer.offset, layer.length))
        .chain([(size, 0)])
    {
        let hole = offset.saturating_sub(from);
        if let Err(errno) = image.free(from, hole) {
            debug!("{path}: unused parts are not freed: {}", error::name(errno));
            break;
        }
        from = offset.saturating_add(length);
    }
    let freed = before.saturating_sub(image.allocated());
    info!("{path}: {freed} of {before} bytes freed");
    Some(freed)
}

/// Frees the bytes of a layer that was unpacked or extracted, where they are in a file of the rootfs.
/// `others` are the layers that are still needed in place. A tmpfs frees the layer; a ramfs cannot free parts
/// of a file but its end, so it frees what follows the last of `others`. Returns the number of bytes freed.
pub fn free_layer(layer: &Layer, others: &mut dyn Iterator<Item = &Layer>) -> u64 {
    let path = layer.place.path();
    let Some(file) = InMemory::open(&path) else {
        return 0;
    };
    let end = |layer: &Layer| layer.offset.saturating_add(layer.length);
    let before = file.allocated();
    let mut done = file.free(layer.offset, layer.length);
    if done == Err(Errno::OPNOTSUPP) {
        let others = others.filter(|other| other.place == layer.place);
        let kept = others.map(end).max().unwrap_or(0);
        if kept < file.size() {
            done = ftruncate(&file.file, kept);
        }
    }
    let freed = before.saturating_sub(file.allocated());
    match done {
        Ok(()) => debug!("{layer}: {freed} bytes of {path} freed"),
        Err(errno) => debug!("{layer}: {path} is not freed: {}", error::name(errno)),
    }
    freed
}

/// Whether the bytes of a layer can be freed without those of others.
pub fn can_free(layer: &Layer) -> bool {
    let path = layer.place.path();
    // Nothing is changed: the hole is after the end.
    InMemory::open(&path).is_some_and(|file| file.free(file.size(), 4096) == Ok(()))
}

/// A file of a ramfs or tmpfs, open for writing.
struct InMemory {
    file: File,
}

impl InMemory {
    /// `None`: there is no such file, it is on a disk or in sysfs, it is a device, or another name may be another layer.
    fn open(path: &str) -> Option<Self> {
        let mut options = File::options();
        let options = options.write(true).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).ok()?;
        // The node of a disk is in a devtmpfs, which is a tmpfs: a hole would be punched into the disk.
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            debug!("{path}: not a regular file; not freed");
            return None;
        }
        if !fstatfs(&file).is_ok_and(|filesystem| is_in_memory(&filesystem)) {
            debug!("{path}: not in a ramfs or tmpfs; not freed");
            return None;
        }
        if file.metadata().is_ok_and(|metadata| metadata.nlink() > 1) {
            debug!("{path}: has several names; not freed");
            return None;
        }
        Some(Self { file })
    }

    fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// The bytes of memory that it takes. st_blocks counts units of 512 bytes on every filesystem (stat(2)).
    fn allocated(&self) -> u64 {
        let blocks = self.file.metadata().map_or(0, |metadata| metadata.blocks());
        blocks.saturating_mul(512)
    }

    fn free(&self, offset: u64, length: u64) -> std::result::Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, offset, length)
    }
}
