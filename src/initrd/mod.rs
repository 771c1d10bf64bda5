//! Bytes to segments: what an initrd is made of.
//!
//! The walk goes from segment to segment and never searches data for a magic number: an EROFS
//! image stored inside a cpio member must not be found. It sees what the kernel's unpacker sees
//! (unpack_to_rootfs in init/initramfs.c) and goes on where that stops, at the first byte that is
//! neither cpio nor zero. Pure: bytes come through [`ReadAt`], nothing is changed.

mod bootconfig;
pub mod member;

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
use walk::Walker;

/// One contiguous part of an initrd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts, in bytes from the start of the initrd.
    pub offset: u64,
    /// Its length in bytes, as it lies there.
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
    /// A bootconfig trailer (Documentation/admin-guide/bootconfig.rst).
    Bootconfig {
        /// Whether its size and checksum fit; the kernel ignores it otherwise.
        intact: bool,
    },
}

/// What the members of an archive add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpio {
    /// How it is compressed.
    pub codec: Option<Codec>,
    /// Members, the trailer not counted.
    pub members: u64,
    /// Memory that the content of its files takes when unpacked: bytes in whole pages.
    pub unpacked: u64,
    /// Whether the kernel's unpacker got this far, and could decompress it.
    pub by_kernel: bool,
    /// Why it could not unpack it, where it got this far.
    pub refused: Option<&'static str>,
    /// Where the kernel's unpacker stopped in here: the member, in bytes from the start of the plain
    /// archive, whose bytes do not have the sum that its 070702 header says. Only looked for where
    /// that unpacker got to.
    pub bad_sum: Option<u64>,
    /// The same, for the member whose name has no NUL ([`Archive::unterminated`]).
    pub bad_name: Option<u64>,
    /// Whether it holds the file that the kernel starts (`rdinit=`).
    pub holds_init: bool,
    /// Whether it has a member for its root directory (`.` or `/`).
    pub has_root: bool,
    /// Whether all of it is for the kernel itself, before any unpacking: CPU microcode
    /// (Documentation/arch/x86/microcode.rst) or ACPI tables.
    pub only_early: bool,
    /// Whether all of it lies in `/layers`.
    pub only_layer_files: bool,
    /// Whether all of it lies in `/.extra`: systemd-stub has added it (systemd-stub(7)).
    pub only_extra: bool,
}

impl Cpio {
    /// The member at which the kernel's unpacker stopped in here, in bytes from the start of the plain
    /// archive.
    pub fn stopped_at(&self) -> Option<u64> {
        self.bad_sum.or(self.bad_name)
    }

    /// Memory that it takes when unpacked into a tmpfs, in bytes: inodes and names are the kernel's, and
    /// in no tmpfs's size. There are more of both if that is done through an overlay, as for a layer.
    pub fn memory(&self, overlay: bool) -> u64 {
        /// struct shmem_inode_info, a dentry, the entry in its directory, what a security module adds.
        const FILE: u64 = 1280;
        /// struct ovl_inode, and one more dentry.
        const OVERLAY: u64 = 768;
        let file = if overlay { FILE + OVERLAY } else { FILE };
        let files = self.members.saturating_mul(file);
        self.unpacked.saturating_add(files)
    }
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// In order, without gaps, from offset 0.
    pub segments: Vec<Segment>,
    /// Why the walk ended before the end, where it did. The segments before still count.
    pub trouble: Option<Error>,
}

impl Walk {
    /// Whether an archive holds the file that the kernel starts, be it one that the kernel unpacks or not.
    pub fn holds_init(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.holds_init))
    }

    /// Whether the kernel's unpacker came through all of it.
    pub fn is_unpacked_whole(&self) -> bool {
        let taken = |segment: &Segment| match &segment.kind {
            Kind::Cpio(cpio) => cpio.by_kernel && cpio.stopped_at().is_none(),
            Kind::Padding | Kind::Bootconfig { intact: true } => true,
            Kind::Erofs(_) | Kind::Bootconfig { intact: false } => false,
        };
        self.trouble.is_none() && self.segments.iter().all(taken)
    }
}

/// Walks `image` from its start to its end. `rdinit` is the path of the file that the kernel
/// starts, `/init` unless the command line says otherwise.
pub fn walk(image: &dyn ReadAt, rdinit: &[u8]) -> Walk {
    Walker::new(image, rdinit).walk()
}

/// Walks a file of /layers. What stands behind an EROFS image there (a hash tree of dm-verity, a
/// signature) is somebody else's, and no trouble.
pub fn walk_layer_file(image: &dyn ReadAt) -> Walk {
    let mut walk = walk(image, b"");
    let first = walk.segments.first();
    if first.is_some_and(|segment| matches!(segment.kind, Kind::Erofs(_))) {
        walk.segments.truncate(1);
        walk.trouble = None;
    }
    walk
}

/// The members of one cpio segment, wherever it lies and however it is compressed.
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
