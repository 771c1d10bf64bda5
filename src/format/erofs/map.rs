//! Content: the extents that a file consists of, and its bytes at any offset.
//!
//! Source: fs/erofs/data.c (erofs_map_blocks) of Linux 7.2.

use std::cell::RefCell;
use std::io;

use super::image::{device_id_mask, in_image};
use super::inode::InodeLayout;
use super::zmap::{Mapped, ZMap};
use super::{Cluster, Fault, Image, Inode};
use crate::bytes::ReadAt;

/// EROFS_CHUNK_FORMAT_BLKBITS_MASK: the size of a chunk, as a power of two of blocks.
const CHUNK_FORMAT_BLKBITS_MASK: u16 = 0x1f;
/// EROFS_CHUNK_FORMAT_INDEXES: each chunk has an index of 8 bytes, not a block number of 4.
const CHUNK_FORMAT_INDEXES: u16 = 0x20;
/// EROFS_CHUNK_FORMAT_48BIT: block numbers in indexes have 48 bits.
const CHUNK_FORMAT_48BIT: u16 = 0x40;
const CHUNK_FORMAT_ALL: u16 = 0x7f;

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes; never 0.
    pub length: u64,
    /// Its data.
    pub data: Data,
}

/// The data of an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Zeros that are not stored.
    Hole,
    /// Uncompressed bytes, at this offset in the image.
    Raw(u64),
    /// These bytes, which are stored among compressed metadata.
    Bytes(Vec<u8>),
    /// Bytes of a decoded cluster, from this offset on.
    Cluster(Cluster, u64),
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    pub(super) fn has(&self, at: u64) -> bool {
        (self.offset..self.end()).contains(&at)
    }

    /// The part of it from `at` to `end`, which are offsets in the same file.
    fn cut(mut self, at: u64, end: u64) -> Self {
        let before = at.saturating_sub(self.offset);
        self.length = end.min(self.end()).saturating_sub(self.offset.max(at));
        self.offset = self.offset.max(at);
        match &mut self.data {
            Data::Hole => {}
            Data::Raw(offset) | Data::Cluster(_, offset) => *offset = offset.saturating_add(before),
            Data::Bytes(bytes) => {
                let before = usize::try_from(before).unwrap_or(usize::MAX);
                bytes.drain(..before.min(bytes.len()));
                bytes.truncate(usize::try_from(self.length).unwrap_or(usize::MAX));
            }
        }
        self
    }
}

/// The extents of a file, in order and without gaps. Ends after an error.
pub struct Extents<'i> {
    image: &'i Image<'i>,
    inode: &'i Inode,
    zmap: Option<ZMap<'i>>,
    at: u64,
    /// Whether the next extent follows another one.
    follows: bool,
    /// In a fragment: the extents of the packed inode, and what to add to their offsets to get those in this file.
    packed: Option<(Box<Extents<'i>>, u64, u64)>,
}

impl<'i> Extents<'i> {
    /// Starts at an offset; the first extent may start before it.
    pub(super) fn new(image: &'i Image<'i>, inode: &'i Inode, at: u64) -> Self {
        Self {
            image,
            inode,
            zmap: None,
            at,
            follows: false,
            packed: None,
        }
    }

    /// Continues at another offset.
    fn seek(&mut self, at: u64) {
        self.at = at;
        self.follows = false;
        self.packed = None;
    }

    /// The next extent; `None` at the end of the file.
    pub(super) fn next_extent(&mut self) -> Result<Option<Extent>, Fault> {
        if let Some((_, start, end)) = self.packed {
            if self.at < end {
                return self.of_packed(start, end).map(Some);
            }
            self.packed = None;
        }
        if self.at >= self.inode.size || !self.inode.has_content() {
            return Ok(None);
        }
        if !self.inode.is_compressed() {
            let extent = map_blocks(self.image, self.inode, self.at)?;
            return Ok(Some(self.pass(extent)));
        }
        let zmap = match &mut self.zmap {
            Some(zmap) => zmap,
            None => self.zmap.insert(ZMap::new(self.image, self.inode)?),
        };
        let (offset, end, fragment) = match zmap.map(self.at)? {
            Mapped::Extent(extent) => return Ok(Some(self.pass(extent))),
            Mapped::Fragment { offset, length, at } => (offset, offset.saturating_add(length), at),
        };
        let packed = self.image.packed()?;
        if self.inode.nid == packed.nid {
            let what = "the packed inode has a fragment";
            return Err(Fault::Corrupt(what, self.inode.behind));
        }
        if fragment.checked_add(end.saturating_sub(offset)).is_none() {
            return Err(Fault::BeyondEnd(fragment));
        }
        let start = fragment.saturating_add(self.at.saturating_sub(offset));
        let extents = Extents::new(self.image, packed, start);
        self.packed = Some((Box::new(extents), fragment.wrapping_sub(offset), end));
        self.of_packed(fragment.wrapping_sub(offset), end).map(Some)
    }

    /// Passes an extent. In a damaged index, one that follows another may start before the end of that; the kernel
    /// reads the bytes of the first one there.
    fn pass(&mut self, extent: Extent) -> Extent {
        let extent = match self.follows && extent.offset < self.at {
            true => extent.cut(self.at, u64::MAX),
            false => extent,
        };
        self.follows = true;
        self.at = extent.end();
        extent
    }

    /// The next extent of the packed inode, as an extent of this file, whose fragment ends at `end`.
    fn of_packed(&mut self, shift: u64, end: u64) -> Result<Extent, Fault> {
        let from = self.at.wrapping_add(shift);
        let extent = match &mut self.packed {
            Some((packed, ..)) => packed.next_extent()?,
            None => None,
        };
        let extent = extent.filter(|extent| extent.has(from));
        let extent = extent.ok_or(Fault::Corrupt(
            "a fragment beyond the end of the packed inode",
            from,
        ))?;
        let mut extent = extent.cut(from, end.wrapping_add(shift));
        extent.offset = self.at;
        self.at = extent.end();
        self.follows = true;
        Ok(extent)
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_extent();
        if next.is_err() {
            self.seek(u64::MAX);
        }
        next.transpose()
    }
}

/// The extent of a flat or chunk-based file that covers the byte at `at` (erofs_map_blocks).
fn map_blocks(image: &Image, inode: &Inode, at: u64) -> Result<Extent, Fault> {
    let blkszbits = image.superblock.blkszbits;
    let block = image.superblock.block_size();
    let size = inode.size;
    let tail = match inode.layout {
        InodeLayout::ChunkBased => return map_chunk(image, inode, at),
        // The last block, whole or not, follows the inode.
        InodeLayout::FlatInline => size.saturating_sub(1) & !(block - 1),
        _ => size,
    };
    if at < tail {
        let data = match inode.startblk {
            None => Data::Hole,
            Some(startblk) => {
                let start = startblk.checked_mul(1 << blkszbits);
                let start = start.ok_or(Fault::BeyondEnd(u64::MAX))?;
                raw(image, start, tail)?
            }
        };
        return Ok(Extent {
            offset: 0,
            length: tail,
            data,
        });
    }
    let length = size.saturating_sub(tail);
    if (inode.behind & (block - 1)).saturating_add(length) > block {
        return Err(Fault::Corrupt(
            "its inline data goes across blocks",
            inode.behind,
        ));
    }
    let data = match inode.in_metabox() {
        false => Data::Raw(inode.behind),
        true => {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            image.read_metadata(true, &mut bytes, inode.behind)?;
            Data::Bytes(bytes)
        }
    };
    Ok(Extent {
        offset: tail,
        length,
        data,
    })
}

/// The extent of a chunk-based file that covers the byte at `at` (erofs_map_chunks).
fn map_chunk(image: &Image, inode: &Inode, at: u64) -> Result<Extent, Fault> {
    let format = inode.chunk_format;
    if format & !CHUNK_FORMAT_ALL != 0 {
        return Err(Fault::Unsupported("chunk format", format.into()));
    }
    let blkszbits = image.superblock.blkszbits;
    let chunkbits = u32::from(format & CHUNK_FORMAT_BLKBITS_MASK) + u32::from(blkszbits);
    let indexes = format & CHUNK_FORMAT_INDEXES != 0;
    let unit: u64 = if indexes { 8 } else { 4 };
    let chunk = at >> chunkbits;
    let position = inode
        .behind
        .checked_next_multiple_of(unit)
        .and_then(|start| start.checked_add(chunk.checked_mul(unit)?))
        .ok_or(Fault::BeyondEnd(u64::MAX))?;
    let offset = chunk << chunkbits;
    let length = (1 << chunkbits).min(inode.size.saturating_sub(offset));
    let (startblk, bits);
    if indexes {
        // struct erofs_inode_chunk_index
        let mut index = [0; 8];
        image.read_metadata(inode.in_metabox(), &mut index, position)?;
        let [hi0, hi1, id0, id1, lo @ ..] = index;
        let (lo, hi) = (u32::from_le_bytes(lo), u16::from_le_bytes([hi0, hi1]));
        (startblk, bits) = match format & CHUNK_FORMAT_48BIT {
            0 => (lo.into(), 32),
            _ => (u64::from(lo) | u64::from(hi) << 32, 48),
        };
        let device = u16::from_le_bytes([id0, id1]) & device_id_mask(image);
        if device != 0 && startblk != (1 << bits) - 1 {
            return Err(Fault::OtherDevice(device));
        }
    } else {
        let mut block = [0; 4];
        image.read_metadata(inode.in_metabox(), &mut block, position)?;
        (startblk, bits) = (u64::from(u32::from_le_bytes(block)), 32);
    }
    let data = match startblk == (1 << bits) - 1 {
        true => Data::Hole,
        false => raw(image, startblk << blkszbits, length)?,
    };
    Ok(Extent {
        offset,
        length,
        data,
    })
}

/// Data at `start` in the address space of all devices. Those of the other devices follow this device's blocks.
fn raw(image: &Image, start: u64, length: u64) -> Result<Data, Fault> {
    in_image(image, start, length).map(|()| Data::Raw(start))
}

impl Image<'_> {
    /// Copies bytes of an extent from `at` on, an offset in its file. Returns how many.
    pub(super) fn copy(&self, extent: &Extent, at: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        let left = usize::try_from(extent.end().saturating_sub(at)).unwrap_or(usize::MAX);
        let n = left.min(buf.len());
        let buf = buf.get_mut(..n).unwrap_or_default();
        let skip = at.saturating_sub(extent.offset);
        let from = |bytes: &[u8], skip: u64, buf: &mut [u8]| {
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let bytes = skip
                .checked_add(buf.len())
                .and_then(|end| bytes.get(skip..end))
                .ok_or(Fault::Corrupt("a cluster is shorter than its extent", at))?;
            buf.copy_from_slice(bytes);
            Ok(())
        };
        match &extent.data {
            Data::Hole => buf.fill(0),
            Data::Raw(offset) => self.read(buf, offset.saturating_add(skip))?,
            Data::Bytes(bytes) => from(bytes, skip, buf)?,
            Data::Cluster(cluster, offset) => {
                let plain = self.cache.borrow_mut().decoded(cluster, self.bytes)?;
                from(&plain, offset.saturating_add(skip), buf)?;
            }
        }
        Ok(n)
    }
}

/// The bytes of a file.
pub struct InodeContent<'i> {
    image: &'i Image<'i>,
    inode: &'i Inode,
    /// Where the last read ended, and the extent that it read.
    state: RefCell<(Extents<'i>, Option<Extent>)>,
}

impl<'i> InodeContent<'i> {
    pub(super) fn new(image: &'i Image<'i>, inode: &'i Inode) -> Self {
        Self {
            image,
            inode,
            state: RefCell::new((Extents::new(image, inode, 0), None)),
        }
    }

    /// Fills `buf` with the bytes at `at`, all of which must exist.
    pub(super) fn fill(&self, mut buf: &mut [u8], mut at: u64) -> Result<(), Fault> {
        while !buf.is_empty() {
            let n = self.some(buf, at)?;
            if n == 0 {
                return Err(Fault::BeyondEnd(at));
            }
            buf = buf.get_mut(n..).unwrap_or_default();
            at = at.saturating_add(n as u64);
        }
        Ok(())
    }

    /// Calls `take` with the extent that covers the byte at `at`; `None` at the end.
    fn with_extent<T>(
        &self,
        at: u64,
        take: impl FnOnce(Option<&Extent>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (extents, last) = &mut *self.state.borrow_mut();
        if !last.as_ref().is_some_and(|extent| extent.has(at)) {
            if extents.at != at {
                extents.seek(at);
            }
            *last = extents.next_extent()?;
        }
        take(last.as_ref())
    }

    /// Copies bytes at `at`: at least one, unless `at` is the end.
    fn some(&self, buf: &mut [u8], at: u64) -> Result<usize, Fault> {
        self.with_extent(at, |extent| match extent {
            None => Ok(0),
            Some(extent) => self.image.copy(extent, at, buf),
        })
    }
}

impl ReadAt for InodeContent<'_> {
    fn size(&self) -> u64 {
        match self.inode.has_content() {
            true => self.inode.size,
            false => 0,
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        Ok(self.some(buf, offset)?)
    }

    fn next_data(&self, mut offset: u64) -> u64 {
        while offset < self.size() {
            let end = self.with_extent(offset, |extent| {
                let hole = extent.filter(|extent| extent.data == Data::Hole);
                Ok(hole.map(Extent::end))
            });
            match end {
                Ok(Some(end)) if end > offset => offset = end,
                // A read reports the fault.
                _ => break,
            }
        }
        offset
    }
}
