//! Hash trees of dm-verity and fs-verity, with SHA-256 and blocks of 4096 bytes.
//!
//! Sources: Documentation/admin-guide/device-mapper/verity.rst, Documentation/filesystems/fsverity.rst.

use std::io;

use super::progress::LongStep;
use crate::bytes::ReadAt;
use crate::verify::digest::Digest;
use crate::verify::tree::{BLOCK, hash};

/// The bytes of a block.
const SIZE: usize = BLOCK as usize;

/// The hashes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashTree {
    /// The hash of the block at the top, or of the only block of data.
    pub root: Digest,
    /// The number of blocks of data.
    pub data_blocks: u64,
    /// The blocks of hashes, those of the top first. Empty for a single block of data.
    pub bytes: Vec<u8>,
}

impl HashTree {
    /// Hashes the first `length` bytes of a file, in blocks; the last is filled up with zeros.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter.
    pub fn of(file: &dyn ReadAt, length: u64, salt: &[u8]) -> io::Result<Self> {
        let progress = LongStep::part("hash the blocks", length);
        let mut hashes = Vec::new();
        let (mut at, mut data_blocks) = (0u64, 0u64);
        let mut block = vec![0; SIZE];
        let mut last = Digest([0; 32]);
        while at < length {
            let left = usize::try_from(length.saturating_sub(at)).unwrap_or(SIZE);
            let n = left.min(SIZE);
            block.fill(0);
            file.read_exact_at(block.get_mut(..n).unwrap_or_default(), at)?;
            last = hash(salt, &block);
            hashes.extend(last.0);
            at = at.saturating_add(n as u64);
            progress.inc(n as u64);
            data_blocks = data_blocks.saturating_add(1);
        }
        let mut bytes = Vec::new();
        let mut level = hashes;
        while level.len() > last.0.len() {
            level.resize(level.len().next_multiple_of(SIZE), 0);
            let above: Vec<u8> = level
                .chunks(SIZE)
                .flat_map(|block| hash(salt, block).0)
                .collect();
            level.append(&mut bytes);
            bytes = level;
            level = above;
        }
        if let Ok(root) = level.try_into() {
            last = Digest(root);
        }
        Ok(Self {
            root: last,
            data_blocks,
            bytes,
        })
    }
}

/// The fs-verity digest of a file, as `fsverity digest` prints it: the hash of `struct fsverity_descriptor`,
/// without salt and with blocks of 4096 bytes.
///
/// # Errors
/// The file cannot be read.
pub fn fs_verity_digest(file: &dyn ReadAt) -> io::Result<Digest> {
    const VERSION: u8 = 1;
    const SHA256: u8 = 1;
    const LOG_BLOCK: u8 = 12;
    let tree = HashTree::of(file, file.size(), &[])?;
    let mut descriptor = vec![VERSION, SHA256, LOG_BLOCK, 0, 0, 0, 0, 0];
    descriptor.extend(file.size().to_le_bytes());
    descriptor.extend(tree.root.0);
    descriptor.resize(256, 0);
    Ok(Digest::of(&descriptor))
}
