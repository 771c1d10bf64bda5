//! The segments of an initrd.
//!
//! The walk goes from segment to segment. It never searches data for a magic number, because a cpio member
//! may hold an EROFS image. It follows the kernel's unpacker (unpack_to_rootfs() in init/initramfs.c) and
//! goes on where that stops, at the first byte that is neither cpio nor zero. Pure: bytes come through
//! [`ReadAt`].

mod bootconfig;
pub mod file_pages;
pub mod member;
pub mod stop;

mod contents;
mod display;

mod foreign;
mod sums;

mod walk;

use std::io;

use crate::bytes::{ReadAt, Reader, Skip};
use crate::error::Error;
use crate::format::compress::{Codec, Decoder};
use crate::format::cpio::Archive;
use crate::format::erofs::Superblock;
use crate::format::squashfs::SquashfsSuperblock;
use file_pages::FilePages;
use walk::Walker;

/// One contiguous part of an initrd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts, in bytes from the start of the initrd.
    pub offset: u64,
    /// Its length in bytes, compressed if it is.
    pub length: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a segment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Zero bytes.
    Padding,
    /// A cpio archive, plain or compressed.
    Cpio(Cpio),
    /// An EROFS image.
    Erofs(Superblock),
    /// A SquashFS image.
    Squashfs(SquashfsSuperblock),
    /// A block at which the kernel's unpacker stops ([`stop::STOP`]).
    Stop,
    /// A bootconfig trailer (Documentation/admin-guide/bootconfig.rst).
    Bootconfig {
        /// Whether size and checksum are correct; the kernel ignores it otherwise.
        intact: bool,
    },
}

/// A summary of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpio {
    /// How it is compressed.
    pub codec: Option<Codec>,
    /// The number of members, without the trailer.
    pub members: u64,
    /// The content of its files when unpacked.
    pub unpacked: FilePages,
    /// Whether the kernel's unpacker reached it and can decompress it.
    pub by_kernel: bool,
    /// Why the kernel's unpacker reached it and cannot unpack it.
    pub refused: Option<&'static str>,
    /// Where the kernel's unpacker stopped: the offset in the plain archive of a member whose bytes do not
    /// match the sum in its 070702 header. Only computed where the unpacker got to.
    pub bad_sum: Option<u64>,
    /// The same, for the member whose name has no NUL ([`Archive::unterminated`]).
    pub bad_name: Option<u64>,
    /// Whether it holds the file that the kernel starts (`rdinit=`).
    pub holds_init: bool,
    /// Whether it has a member for its root directory (`.` or `/`).
    pub has_root: bool,
    /// Whether the kernel uses all of it before it unpacks anything: CPU microcode
    /// (Documentation/arch/x86/microcode.rst) or ACPI tables.
    pub only_early: bool,
    /// Whether all of it is in `/layers`.
    pub only_layer_files: bool,
    /// Whether all of it is in `/.extra`, from systemd-stub(7).
    pub only_extra: bool,
}

/// The bytes of memory that a tmpfs takes for a file beside its pages: struct shmem_inode_info, a dentry, the
/// directory entry, the blob of a security module.
pub const FILE_MEMORY: u64 = 1280;

impl Cpio {
    /// The offset, in the plain archive, of the member at which the kernel's unpacker stopped.
    pub fn stopped_at(&self) -> Option<u64> {
        self.bad_sum.or(self.bad_name)
    }

    /// Memory that it takes when unpacked into a tmpfs, in bytes, beside the content of its files: inodes and
    /// names, which do not count for the size of the tmpfs. A layer is unpacked through an overlay, which takes
    /// more.
    pub fn inodes(&self, overlay: bool) -> u64 {
        /// struct ovl_inode, and one more dentry.
        const OVERLAY: u64 = 768;
        let file = if overlay {
            FILE_MEMORY + OVERLAY
        } else {
            FILE_MEMORY
        };
        self.members.saturating_mul(file)
    }
}

/// The result of a walk.
#[derive(Debug, Default)]
pub struct Walk {
    /// In order, without gaps, from offset 0.
    pub segments: Vec<Segment>,
    /// Why the walk stopped before the end, if it did. The segments before that are valid.
    pub trouble: Option<Error>,
}

impl Walk {
    /// Whether an archive holds the file that the kernel starts, even one that the kernel does not unpack.
    pub fn holds_init(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.holds_init))
    }

    /// Whether the kernel unpacked all of it.
    pub fn is_unpacked_whole(&self) -> bool {
        let taken = |segment: &Segment| match &segment.kind {
            Kind::Cpio(cpio) => cpio.by_kernel && cpio.stopped_at().is_none(),
            Kind::Padding | Kind::Bootconfig { intact: true } => true,
            Kind::Erofs(_)
            | Kind::Squashfs(_)
            | Kind::Stop
            | Kind::Bootconfig { intact: false } => false,
        };
        self.trouble.is_none() && self.segments.iter().all(taken)
    }
}

/// Walks `image` from start to end. `rdinit` is the path of the file that the kernel starts: `rdinit=` of the
/// command line, or `/init`.
pub fn walk(image: &dyn ReadAt, rdinit: &[u8]) -> Walk {
    Walker::new(image, rdinit).walk()
}

/// Walks a file that holds layers only. Data after an EROFS or SquashFS image (a dm-verity hash tree, a signature) is ignored,
/// and not read.
pub fn walk_layer_file(image: &dyn ReadAt) -> Walk {
    let walker = Walker::new(image, b"");
    walker.up_to_image().walk()
}

/// Walks a block device that holds images one after the other. 2 MiB of zeros end them: the rest of
/// the device is not read.
pub fn walk_device(device: &dyn ReadAt) -> Walk {
    let walker = Walker::new(device, b"");
    walker.with_padding(DEVICE_PADDING).walk()
}

/// More zero bytes than are between two images on a device: partitioning tools align to 1 MiB.
const DEVICE_PADDING: u64 = 2 << 20;

/// Opens the archive of a cpio segment.
///
/// # Errors
/// The compression is one that this build lacks, or the archive cannot be read.
pub fn open_archive<'a>(
    image: &'a dyn ReadAt,
    offset: u64,
    length: u64,
    codec: Option<Codec>,
) -> io::Result<Archive<Box<dyn Skip + 'a>>> {
    let reader = Reader::bounded(image, offset, offset.saturating_add(length));
    let input: Box<dyn Skip + 'a> = match codec {
        None => Box::new(reader),
        Some(codec) => Box::new(io::BufReader::new(Decoder::new(codec, reader)?)),
    };
    Ok(Archive::new(input))
}
