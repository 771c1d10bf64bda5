//! The loop backend: EROFS on a loop device over a part of a file, at any byte offset. On
//! `/sys/firmware/initrd` and on a tmpfs, nothing is copied.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use log::debug;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, statfs};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{Context, Mount};
use crate::boot::filesystem::is_in_memory;
use crate::boot::source::Source;
use crate::error::{self, Context as _, Error, Result};
use crate::module::loader::Loader;
use crate::plan::{Layer, Module};
use crate::sys::loopdev::{self, Range};

/// The driver's major number (LOOP_MAJOR in include/uapi/linux/major.h).
const LOOP_MAJOR: u32 = 7;

const CONTROL: &str = "/dev/loop-control";

/// The largest page that a kernel may have, in bytes.
const PAGE_MAX: u64 = 65536;

/// Mounts an image through a loop device, which goes away with the mount.
pub fn mount(layer: &Layer, source: &Source, loader: &mut Loader) -> Result<Mount> {
    loader.need(Module::Loop)?;
    let range = Range {
        offset: layer.offset,
        length: whole_pages(layer.length),
    };
    let end = range.offset.saturating_add(range.length);
    if let Err(error) = reach(&source.path, end) {
        debug!("{layer}: its last page may not be readable: {error}");
    }
    let (path, _device) = bind(&source.file.file, range)?;
    let context = Context::erofs()?;
    context.string("source", &path)?;
    // From here the mount keeps the device: it is released when the last of the two is closed.
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// The length of a device that shows all of the last page of an image. A kernel without BUFFER_HEAD reads
/// the device's page cache in whole pages, and fails with EIO where the device ends inside of one
/// (blkdev_iomap_begin in block/fops.c). What lies behind the image is never looked at; the driver ends
/// the device where the file ends (get_size in drivers/block/loop.c), so that has to reach as far.
fn whole_pages(length: u64) -> u64 {
    length.checked_next_multiple_of(PAGE_MAX).unwrap_or(length)
}

/// Lets a file that lies in memory reach to `end`, with zeros that take none: a file of /layers, the
/// kernel's copy of the initrd. Others are never written to.
fn reach(path: &Path, end: u64) -> Result<()> {
    let in_memory = statfs(path).is_ok_and(|filesystem| is_in_memory(&filesystem));
    if in_memory {
        let file = File::options().write(true).open(path);
        let file = file.during("open", path.display())?;
        if file.metadata().during("stat", path.display())?.len() < end {
            file.set_len(end).during("extend", path.display())?;
        }
    }
    Ok(())
}

/// Binds a free loop device; its path, and the device held open.
fn bind(file: &File, range: Range) -> Result<(String, File)> {
    let control = File::options()
        .read(true)
        .write(true)
        .open(CONTROL)
        .during("open", CONTROL)?;
    // A device that is free when asked for may be taken by another process before it is bound, and
    // only then is it known. Each of the 32 turns asks for another one; in an initramfs the first
    // succeeds.
    let mut taken = None;
    for _ in 0..32 {
        let number = loopdev::get_free(&control).during("find", "a free loop device")?;
        let path = format!("/dev/loop{number}");
        let device = open(&path, number.unsigned_abs())?;
        let bound = match loopdev::configure(&device, file, range) {
            // Before Linux 5.8.
            Err(Errno::INVAL | Errno::NOTTY) => loopdev::set_fd_and_status(&device, file, range),
            done => done,
        };
        match bound {
            Ok(()) => return Ok((path, device)),
            Err(errno @ Errno::BUSY) => {
                debug!("{path}: {}", error::name(errno));
                taken = Some(Error::with("bind", path, error::Cause::Os(errno)));
            }
            Err(errno) => return Err(errno).during("bind", path),
        }
    }
    Err(taken.unwrap_or_else(|| Error::new("bind", "a loop device", "all are taken")))
}

/// Opens a loop device, making its node where no devtmpfs does.
fn open(path: &str, number: u32) -> Result<File> {
    let right = |path: &Path| {
        let metadata = path.symlink_metadata();
        metadata.is_ok_and(|m| {
            m.file_type().is_block_device() && m.rdev() == makedev(LOOP_MAJOR, number)
        })
    };
    if !right(Path::new(path)) {
        let device = makedev(LOOP_MAJOR, number);
        mknodat(
            CWD,
            path,
            FileType::BlockDevice,
            Mode::from_raw_mode(0o600),
            device,
        )
        .during("create", path)?;
    }
    // Opened for writing, the driver would bind a writable device where the file allows it.
    File::open(path).during("open", path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_reaches_to_the_end_of_a_page_if_it_lies_in_memory() {
        let name = format!("layerinit-reach-{}", std::process::id());
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        for (directory, expected) in [
            (Path::new("/dev/shm"), 65536),
            (Path::new(env!("CARGO_MANIFEST_DIR")), 4608),
        ] {
            let path = directory.join(&name);
            fs::write(&path, [1; 4608]).unwrap();
            reach(&path, whole_pages(4608)).unwrap();
            let (reached, bytes) = (length(&path), fs::read(&path).unwrap());
            fs::remove_file(&path).unwrap();
            assert_eq!(reached, expected, "{}", path.display());
            assert_eq!(bytes[..4608], [1; 4608]);
            assert!(bytes[4608..].iter().all(|byte| *byte == 0));
        }
        // What is longer stays as long, and sysfs is not asked.
        reach(Path::new("/sys/kernel/notes"), 1 << 20).unwrap();
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
