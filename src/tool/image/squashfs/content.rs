//! The content of all files of an image, one after the other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::decompress::damaged;
use super::{BLOCKS_MAX, SquashfsFile, SquashfsImage};
use crate::bytes::{Cursor, ReadAt};

/// The number of decompressed blocks that are kept.
const CACHED: usize = 8;

/// The bit of a length that marks a block that is not compressed.
const PLAIN: u32 = 1 << 24;

/// The offset of each block of a file in the image, and its length with [`PLAIN`]; 0: a hole.
type BlockList = Arc<Vec<(u64, u32)>>;

/// The content of the files of an image, at offsets that [`add`](Self::add) assigns.
pub struct SquashfsContent<'a> {
    image: SquashfsImage<'a>,
    /// By offset.
    files: BTreeMap<u64, SquashfsFile>,
    /// Offsets by the numbers of inodes.
    offsets: HashMap<u32, u64>,
    end: u64,
    /// The blocks of the file that was read last, and its offset.
    blocks: Mutex<Option<(u64, BlockList)>>,
    /// Decompressed blocks by their offsets, the oldest first.
    plain: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl<'a> SquashfsContent<'a> {
    /// The content of no file yet.
    pub fn new(image: SquashfsImage<'a>) -> Self {
        Self {
            image,
            files: BTreeMap::new(),
            offsets: HashMap::new(),
            end: 0,
            blocks: Mutex::default(),
            plain: Mutex::default(),
        }
    }

    /// The image.
    pub fn image(&self) -> &SquashfsImage<'a> {
        &self.image
    }

    /// Adds files: the number of each inode, and the location of its content.
    ///
    /// # Errors
    /// They are larger than any image.
    pub fn add(&mut self, files: impl IntoIterator<Item = (u32, SquashfsFile)>) -> io::Result<()> {
        for (number, data) in files {
            if data.size > 0 && !self.offsets.contains_key(&number) {
                let end = self.end.checked_add(data.size);
                self.offsets.insert(number, self.end);
                self.files.insert(self.end, data);
                self.end = end.ok_or_else(|| damaged("file size"))?;
            }
        }
        Ok(())
    }

    /// The offset of the content of an inode.
    pub fn offset(&self, number: u32) -> Option<u64> {
        self.offsets.get(&number).copied()
    }

    /// The file at an offset, with its own offset.
    fn file(&self, offset: u64) -> Option<(u64, &SquashfsFile)> {
        let (start, data) = self.files.range(..=offset).next_back()?;
        (offset.saturating_sub(*start) < data.size).then_some((*start, data))
    }

    /// The blocks of the file at an offset, without its fragment.
    fn blocks(&self, start: u64, data: &SquashfsFile) -> io::Result<BlockList> {
        let mut known = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, blocks)) = known.as_ref().filter(|(at, _)| *at == start) {
            return Ok(Arc::clone(blocks));
        }
        let block_size = u64::from(self.image.block_size);
        let count = match data.fragment {
            Some(_) => data.size.checked_div(block_size).unwrap_or(0),
            None => data.size.div_ceil(block_size),
        };
        if count > BLOCKS_MAX {
            return Err(damaged("file size"));
        }
        let mut at = data.lengths;
        let mut offset = data.start;
        let mut blocks = Vec::new();
        let lengths = self
            .image
            .metadata()
            .read(&mut at, (count as usize).saturating_mul(4))?;
        let mut lengths = Cursor::new(&lengths);
        while let Some(length) = lengths.le32() {
            blocks.push((offset, length));
            let stored = u64::from(length & !PLAIN);
            offset = offset.checked_add(stored).ok_or_else(|| damaged("file"))?;
        }
        let blocks = Arc::new(blocks);
        *known = Some((start, Arc::clone(&blocks)));
        Ok(blocks)
    }

    /// The plain bytes of a block.
    fn plain(&self, (offset, length): (u64, u32)) -> io::Result<Arc<Vec<u8>>> {
        let lock = || self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plain)) = lock().iter().find(|(at, _)| *at == offset) {
            return Ok(Arc::clone(plain));
        }
        let stored = length & !PLAIN;
        if stored > self.image.block_size {
            return Err(damaged("block length"));
        }
        let mut plain = vec![0; stored as usize];
        self.image.bytes.read_exact_at(&mut plain, offset)?;
        if length & PLAIN == 0 {
            let max = self.image.block_size as usize;
            plain = self.image.algorithm.decompress(&plain, max)?;
        }
        let plain = Arc::new(plain);
        let mut cache = lock();
        if cache.len() >= CACHED {
            cache.pop_front();
        }
        cache.push_back((offset, Arc::clone(&plain)));
        Ok(plain)
    }

    /// The location of a fragment.
    fn fragment(&self, number: u32) -> io::Result<(u64, u32)> {
        let (table, count) = self.image.fragments;
        if number >= count {
            return Err(damaged("fragment"));
        }
        let offset = u64::from(number).saturating_mul(16);
        let entry = self.image.metadata().table(table, offset, 16)?;
        let mut fields = Cursor::new(&entry);
        match (fields.le64(), fields.le32()) {
            (Some(start), Some(length)) => Ok((start, length)),
            _ => Err(damaged("fragment")),
        }
    }
}

impl ReadAt for SquashfsContent<'_> {
    fn size(&self) -> u64 {
        self.end
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some((start, data)) = self.file(offset) else {
            return Ok(0);
        };
        let within = offset.saturating_sub(start);
        let block_size = u64::from(self.image.block_size);
        let index = within.checked_div(block_size).unwrap_or(0);
        let inside = within.checked_rem(block_size).unwrap_or(0);
        let rest = data.size.saturating_sub(within);
        let length = rest
            .min(block_size.saturating_sub(inside))
            .min(buf.len() as u64);
        let length = usize::try_from(length).unwrap_or(0);
        let to = buf.get_mut(..length).unwrap_or_default();
        let blocks = self.blocks(start, data)?;
        let block = usize::try_from(index)
            .ok()
            .and_then(|index| blocks.get(index));
        let (block, skip) = match (block, data.fragment) {
            (Some((_, 0)), _) => {
                to.fill(0);
                return Ok(length);
            }
            (Some(block), _) => (*block, inside),
            (None, Some((number, skip))) => {
                (self.fragment(number)?, inside.saturating_add(skip.into()))
            }
            (None, None) => return Err(damaged("file")),
        };
        let plain = self.plain(block)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let from = plain.get(skip..skip.saturating_add(length));
        to.copy_from_slice(from.ok_or_else(|| damaged("block: it is too short"))?);
        Ok(length)
    }

    fn next_data(&self, offset: u64) -> u64 {
        let Some((start, data)) = self.file(offset) else {
            return offset;
        };
        let Ok(blocks) = self.blocks(start, data) else {
            return offset;
        };
        let block_size = u64::from(self.image.block_size);
        let first = offset.saturating_sub(start).checked_div(block_size);
        let first = first
            .and_then(|first| usize::try_from(first).ok())
            .unwrap_or(0);
        let holes = blocks.get(first..).unwrap_or_default().iter();
        let holes = holes.take_while(|(_, length)| *length == 0).count() as u64;
        if holes == 0 {
            return offset;
        }
        let next = holes
            .saturating_add(first as u64)
            .saturating_mul(block_size);
        start.saturating_add(next.min(data.size))
    }
}
