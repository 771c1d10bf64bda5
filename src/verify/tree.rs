//! The dm-verity hash tree after an image in a file.

use std::io;

use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use crate::bytes::ReadAt;
use crate::format::verity::{Format, LENGTH};

/// The blocks of such a tree, in bytes. The superblock is at the first multiple of it after the image.
pub const BLOCK: u32 = 4096;

/// The hash tree after an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTree {
    /// Its superblock.
    pub format: Format,
    /// The offset of the superblock, in bytes.
    pub offset: u64,
    /// The root hash, computed from the top block of the tree. It proves nothing by itself: only the kernel's
    /// dm-verity, with a root hash from the list, verifies the data.
    pub root: Digest,
}

/// Reads the hash tree after an image of `length` bytes at the start of a file. `None`: there is none, or it
/// differs from the form of `layerinit build --verity` and of `veritysetup format` with its defaults (format
/// 1, SHA-256, blocks of 4096 bytes).
///
/// # Errors
/// The file cannot be read.
pub fn behind_image(file: &dyn ReadAt, length: u64) -> io::Result<Option<ImageTree>> {
    let block = u64::from(BLOCK);
    let mut superblock = [0; LENGTH];
    let Some(offset) = length.checked_next_multiple_of(block) else {
        return Ok(None);
    };
    match file.read_exact_at(&mut superblock, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let Ok(format) = Format::parse(&superblock) else {
        return Ok(None);
    };
    let usual = format.hash_type == 1
        && format.algorithm == "sha256"
        && format.data_block == BLOCK
        && format.hash_block == BLOCK
        && format.data_blocks == offset.checked_div(block).unwrap_or(0);
    if !usual {
        return Ok(None);
    }
    // The top of the tree is its first block (verity_ctr() in drivers/md/dm-verity-target.c); over a single block of data
    // there is no tree.
    let top = match format.data_blocks {
        1 => 0,
        _ => offset.saturating_add(block),
    };
    let mut bytes = vec![0; BLOCK as usize];
    match file.read_exact_at(&mut bytes, top) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let root = hash(&format.salt, &bytes);
    Ok(Some(ImageTree {
        format,
        offset,
        root,
    }))
}

/// The hash of a block, as in format 1.
pub fn hash(salt: &[u8], block: &[u8]) -> Digest {
    let hash = Sha256::new().chain_update(salt).chain_update(block);
    Digest(hash.finalize().into())
}
