//! The loop backend: EROFS or SquashFS on a loop device over a part of a file, at any byte offset.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use log::debug;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, statfs};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{FsContext, Mount};
use crate::boot::filesystem::is_in_memory;
use crate::boot::source::OpenSource;
use crate::error::{self, Context, Error, Result};
use crate::module::loader::Loader;
use crate::plan::{Content, Layer, Module, Place};
use crate::sys::loopdev::{self, Range};

/// The driver's major number (LOOP_MAJOR in include/uapi/linux/major.h).
const LOOP_MAJOR: u32 = 7;

const CONTROL: &str = "/dev/loop-control";

/// The largest page that a kernel may have, in bytes.
const PAGE_MAX: u64 = 65536;

/// Mounts an image on a loop device, which the kernel detaches with the mount (LO_FLAGS_AUTOCLEAR).
///
/// # Errors
/// There is no loop device, or the driver refuses the image.
pub fn mount(layer: &Layer, source: &OpenSource, loader: &mut Loader) -> Result<Mount> {
    loader.need(Module::Loop)?;
    if layer.place.is_verity() && layer.offset == 0 {
        // The dm-verity device is on a loop device already.
        return mount_device(layer, &source.path());
    }
    let range = Range {
        offset: layer.offset,
        length: whole_pages(layer.length),
        // The pages of a file in memory are in the page cache already.
        direct: matches!(&layer.place, Place::Medium(_)) && !layer.place.is_in_initramfs(),
    };
    let end = range.offset.saturating_add(range.length);
    let path = source.path();
    if let Err(error) = extend(Path::new(&path), end) {
        debug!("{layer}: its last page may not be readable: {error}");
    }
    // Held open until the mount holds the device.
    let (node, _device) = attach(&source.file.file, range)?;
    mount_device(layer, &node)
}

fn mount_device(layer: &Layer, node: &str) -> Result<Mount> {
    let context = match &layer.content {
        Content::Squashfs { .. } => FsContext::read_only("squashfs")?,
        Content::Erofs { .. } | Content::Cpio { .. } => FsContext::read_only("erofs")?,
    };
    context.string("source", node)?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// The length of a loop device that covers the last page of an image. A kernel without BUFFER_HEAD reads the
/// page cache of the device in whole pages, and fails with EIO where the device ends inside a page
/// (blkdev_iomap_begin in block/fops.c). EROFS never uses the bytes after the image. The driver cuts the
/// device at the end of the file (get_size in drivers/block/loop.c), so the file has to be as long.
fn whole_pages(length: u64) -> u64 {
    length.checked_next_multiple_of(PAGE_MAX).unwrap_or(length)
}

/// Extends a file on a ramfs or tmpfs to `end` with a hole, which takes no memory: a file of /layers, or the
/// kernel's copy of the initrd. Does not touch a file on another filesystem.
fn extend(path: &Path, end: u64) -> Result<()> {
    let in_memory = statfs(path).is_ok_and(|filesystem| is_in_memory(&filesystem));
    if in_memory && path.is_file() {
        let file = File::options().write(true).open(path);
        let file = file.during("open", path.display())?;
        if file.metadata().during("stat", path.display())?.len() < end {
            file.set_len(end).during("extend", path.display())?;
        }
    }
    Ok(())
}

/// Attaches the range of a file to a free loop device. Returns the path of the device, and the open device.
pub(super) fn attach(file: &File, range: Range) -> Result<(String, File)> {
    let control = File::options()
        .read(true)
        .write(true)
        .open(CONTROL)
        .during("open", CONTROL)?;
    // Another process may take the free device before this one attaches a file to it (EBUSY): losetup(8)
    // retries, too. In an initramfs the first attempt succeeds.
    let mut taken = None;
    for _ in 0..32 {
        let number = loopdev::get_free(&control).during("find", "a free loop device")?;
        let path = format!("/dev/loop{number}");
        let device = open_device(&path, makedev(LOOP_MAJOR, number.unsigned_abs()))?;
        let attached = match loopdev::configure(&device, file, range) {
            // LOOP_CONFIGURE came with Linux 5.8.
            Err(Errno::INVAL | Errno::NOTTY) => loopdev::set_fd_and_status(&device, file, range),
            done => done,
        };
        match attached {
            Ok(()) => return Ok((path, device)),
            Err(errno @ Errno::BUSY) => {
                debug!("{path}: {}", error::name(errno));
                taken = Some(Error::with("attach", path, error::Cause::Os(errno)));
            }
            Err(errno) => return Err(errno).during("attach", path),
        }
    }
    Err(taken.unwrap_or_else(|| Error::new("attach", "a loop device", "all are taken")))
}

/// Opens a block device by its number. Creates its node where there is no devtmpfs.
pub(super) fn open_device(path: &str, device: u64) -> Result<File> {
    let is_node = |path: &Path| {
        let metadata = path.symlink_metadata();
        metadata.is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == device)
    };
    if !is_node(Path::new(path)) {
        mknodat(
            CWD,
            path,
            FileType::BlockDevice,
            Mode::from_raw_mode(0o600),
            device,
        )
        .during("create", path)?;
    }
    // Read-only: on a device that is open for writing the driver makes a writable loop device, if the file
    // is open for writing as well (loop_configure in drivers/block/loop.c).
    File::open(path).during("open", path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_in_memory_is_extended_to_the_end_of_a_page() {
        let name = format!("layerinit-extend-{}", std::process::id());
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        for (directory, expected) in [
            (Path::new("/dev/shm"), 65536),
            (Path::new(env!("CARGO_MANIFEST_DIR")), 4608),
        ] {
            let path = directory.join(&name);
            fs::write(&path, [1; 4608]).unwrap();
            extend(&path, whole_pages(4608)).unwrap();
            let (extended, bytes) = (length(&path), fs::read(&path).unwrap());
            fs::remove_file(&path).unwrap();
            assert_eq!(extended, expected, "{}", path.display());
            assert_eq!(bytes[..4608], [1; 4608]);
            assert!(bytes[4608..].iter().all(|byte| *byte == 0));
        }
        // A longer file keeps its length, and a file of sysfs is not touched.
        extend(Path::new("/sys/kernel/notes"), 1 << 20).unwrap();
    }

    #[test]
    fn a_device_ends_where_a_page_of_any_size_does() {
        for (image, device) in [
            (4608, 65536),
            (65536, 65536),
            (65537, 131_072),
            (u64::MAX - 511, u64::MAX - 511),
        ] {
            assert_eq!(whole_pages(image), device);
        }
    }
}
