//! Metadata: blocks of up to 8 KiB, each after its length and compressed separately.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::NONE;
use super::decompress::{SquashfsAlgorithm, damaged};
use crate::bytes::{Cursor, ReadAt};

/// The most bytes of a block, decompressed.
const BLOCK: usize = 8192;

/// The number of blocks that are kept.
const CACHED: usize = 256;

/// A place in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataPosition {
    /// Offset of the block in the image.
    block: u64,
    /// Offset in the block, decompressed.
    offset: usize,
}

impl MetadataPosition {
    /// The place of a reference: 48 bits for the block from `table` on, and 16 for the offset in it.
    pub fn of(table: u64, reference: u64) -> io::Result<Self> {
        Self::at(table, reference >> 16, reference as u16)
    }

    /// The offset in the block that is `block` bytes from `table`.
    pub fn at(table: u64, block: u64, offset: u16) -> io::Result<Self> {
        let block = table
            .checked_add(block)
            .ok_or_else(|| damaged("reference"))?;
        Ok(Self {
            block,
            offset: offset.into(),
        })
    }
}

struct MetadataBlock {
    plain: Vec<u8>,
    next: u64,
}

/// Blocks by their offsets, decompressed.
#[derive(Default)]
pub struct MetadataCache(Mutex<HashMap<u64, Arc<MetadataBlock>>>);

/// Reads metadata.
#[derive(Clone, Copy)]
pub struct MetadataReader<'a> {
    bytes: &'a (dyn ReadAt + Sync),
    algorithm: SquashfsAlgorithm,
    cache: &'a MetadataCache,
}

impl<'a> MetadataReader<'a> {
    /// A reader of an image.
    pub fn new(
        bytes: &'a (dyn ReadAt + Sync),
        algorithm: SquashfsAlgorithm,
        cache: &'a MetadataCache,
    ) -> Self {
        Self {
            bytes,
            algorithm,
            cache,
        }
    }

    /// Reads `length` bytes, and moves past them.
    pub fn read(self, at: &mut MetadataPosition, length: usize) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        loop {
            let missing = length.saturating_sub(found.len());
            if missing == 0 {
                return Ok(found);
            }
            let block = self.block(at.block)?;
            let rest = block
                .plain
                .get(at.offset..)
                .ok_or_else(|| damaged("reference"))?;
            let part = rest.get(..missing).unwrap_or(rest);
            found.extend_from_slice(part);
            at.offset = at.offset.saturating_add(part.len());
            if at.offset == block.plain.len() {
                *at = MetadataPosition {
                    block: block.next,
                    offset: 0,
                };
            }
        }
    }

    /// Reads a number of four bytes.
    pub fn number(self, at: &mut MetadataPosition) -> io::Result<u32> {
        let bytes = self.read(at, 4)?;
        Cursor::new(&bytes)
            .le32()
            .ok_or_else(|| damaged("metadata"))
    }

    /// Reads `length` bytes at `offset` of a table. At `index` are the offsets of its blocks in the image.
    pub fn table(self, index: u64, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let number = offset.checked_div(BLOCK as u64).unwrap_or(0);
        let pointer = index
            .checked_add(number.saturating_mul(8))
            .filter(|_| index != NONE);
        let pointer = pointer.ok_or_else(|| damaged("table"))?;
        let mut block = [0; 8];
        self.bytes.read_exact_at(&mut block, pointer)?;
        let mut at = MetadataPosition {
            block: u64::from_le_bytes(block),
            offset: usize::try_from(offset % BLOCK as u64).unwrap_or(0),
        };
        self.read(&mut at, length)
    }

    fn block(self, at: u64) -> io::Result<Arc<MetadataBlock>> {
        let lock = || self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = lock().get(&at) {
            return Ok(Arc::clone(block));
        }
        let mut header = [0; 2];
        self.bytes.read_exact_at(&mut header, at)?;
        let header = u16::from_le_bytes(header);
        let length = usize::from(header & 0x7fff);
        let start = at.checked_add(2).ok_or_else(|| damaged("metadata"))?;
        if length == 0 || length > BLOCK {
            return Err(damaged("metadata"));
        }
        let mut plain = vec![0; length];
        self.bytes.read_exact_at(&mut plain, start)?;
        if header & 0x8000 == 0 {
            plain = self.algorithm.decompress(&plain, BLOCK)?;
        }
        if plain.is_empty() {
            return Err(damaged("metadata"));
        }
        let next = start.checked_add(length as u64);
        let next = next.ok_or_else(|| damaged("metadata"))?;
        let block = Arc::new(MetadataBlock { plain, next });
        let mut blocks = lock();
        if blocks.len() >= CACHED {
            blocks.clear();
        }
        blocks.insert(at, Arc::clone(&block));
        Ok(block)
    }
}
