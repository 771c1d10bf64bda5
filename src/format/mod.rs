//! Formats: bytes to values and back. Pure: bytes come through [`crate::bytes`], nothing is changed.

pub mod checksum;
pub mod elf;

pub mod compress;
pub mod cpio;
pub mod erofs;
pub mod squashfs;

pub mod superblock;
pub mod verity;
