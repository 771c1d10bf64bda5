//! Where the bytes of a clustered file are.
//!
//! Source: fs/erofs/zmap.c of Linux 7.2 (z_erofs_map_blocks_fo, z_erofs_map_blocks_ext).

use super::image::in_image;
use super::index::{ClusterIndex, Head, Window};
use super::inode::InodeLayout;
use super::records::{EXTENT_PLEN_MASK, ExtentRecord, ExtentRecords};
use super::{Algorithm, Cluster, Data, Extent, Fault, INCOMPAT_0PADDING, INCOMPAT_COMPR_CFGS};
use super::{Image, Inode, Packed};

/// Z_EROFS_PCLUSTER_MAX_SIZE: the most bytes that a physical cluster has.
pub const PCLUSTER_MAX_SIZE: u32 = 1 << 20;
/// Z_EROFS_PCLUSTER_MAX_DSIZE: the most bytes that it can decode to.
pub const PCLUSTER_MAX_DSIZE: u32 = 12 << 20;

// Z_EROFS_ADVISE_*
const ADVISE_COMPACTED_2B: u16 = 1 << 0;
/// The same bit, of a file with a full index.
const ADVISE_EXTENTS: u16 = 1 << 0;
const ADVISE_BIG_PCLUSTER_1: u16 = 1 << 1;
const ADVISE_BIG_PCLUSTER_2: u16 = 1 << 2;
const ADVISE_INLINE_PCLUSTER: u16 = 1 << 3;
const ADVISE_INTERLACED_PCLUSTER: u16 = 1 << 4;
const ADVISE_FRAGMENT_PCLUSTER: u16 = 1 << 5;

// Above the length of an extent are a flag and the algorithm.
const EXTENT_PLEN_PARTIAL: u32 = 1 << 27;
const EXTENT_PLEN_FMT_BIT: u32 = 28;

/// The mapping of a part of a file.
pub(super) enum Mapped {
    Extent(Extent),
    /// A part of the packed inode, which starts at `at`.
    Fragment {
        offset: u64,
        length: u64,
        at: u64,
    },
}

/// The tail of a file, if it is not stored in blocks.
#[derive(Clone, Copy)]
enum Tail {
    None,
    /// In the metadata: offset and length.
    Inline(u64, u32),
    /// In the packed inode: offset.
    Fragment(u64),
}

enum MapKind {
    /// The whole file is in the packed inode, at this offset.
    Fragment(u64),
    /// An entry for each logical cluster; the logical cluster in which the last extent starts.
    Index(ClusterIndex, Tail, u64),
    Extents(ExtentRecords),
}

/// The map of a clustered file (struct z_erofs_map_header, and what follows it).
pub(super) struct ZMap<'i> {
    image: &'i Image<'i>,
    inode: &'i Inode,
    window: Window<'i>,
    advise: u16,
    algorithms: [u8; 2],
    lclusterbits: u32,
    kind: MapKind,
}

/// The position of a physical cluster, unchecked.
struct Physical {
    algorithm: Algorithm,
    start: u64,
    length: u64,
    partial: bool,
    inline: bool,
}

impl<'i> ZMap<'i> {
    /// Reads the header (z_erofs_fill_inode).
    pub(super) fn new(image: &'i Image<'i>, inode: &'i Inode) -> Result<Self, Fault> {
        let mut window = Window::new(image, inode.in_metabox());
        let align = |at: u64, to| {
            at.checked_next_multiple_of(to)
                .ok_or(Fault::BeyondEnd(u64::MAX))
        };
        let header = align(inode.behind, 8)?;
        let end = header.saturating_add(8);
        let bytes: [u8; 8] = window.array(header)?;
        let [x0, x1, x2, x3, a0, a1, h_algorithmtype, h_clusterbits] = bytes;
        let first = u32::from_le_bytes([x0, x1, x2, x3]);
        let advise = u16::from_le_bytes([a0, a1]);
        let full = inode.layout == InodeLayout::CompressedFull;
        let lclusterbits = u32::from(image.superblock.blkszbits) + u32::from(h_clusterbits & 15);
        let mut zmap = Self {
            image,
            inode,
            window,
            advise,
            algorithms: [h_algorithmtype & 15, h_algorithmtype >> 4],
            lclusterbits,
            kind: MapKind::Fragment(u64::from_le_bytes(bytes) & !(1 << 63)),
        };
        // Z_EROFS_FRAGMENT_INODE_BIT
        if h_clusterbits >> 7 != 0 {
            return Ok(zmap);
        }
        if full && advise & ADVISE_EXTENTS != 0 {
            let recsz = 4 << (advise >> 1 & 3);
            let hi = u16::from_le_bytes([h_algorithmtype, h_clusterbits]);
            zmap.kind = MapKind::Extents(ExtentRecords {
                start: align(end, recsz)?,
                recsz,
                count: u64::from(first) | u64::from(hi) << 32,
                passed: (0, 0),
            });
            return Ok(zmap);
        }
        let big_pcluster =
            [ADVISE_BIG_PCLUSTER_1, ADVISE_BIG_PCLUSTER_2].map(|bit| advise & bit != 0);
        if !full
            && big_pcluster
                .iter()
                .any(|big| *big != (advise & ADVISE_BIG_PCLUSTER_1 != 0))
        {
            let what = "its compact index has big clusters of one algorithm alone";
            return Err(Fault::Corrupt(what, header));
        }
        let index = ClusterIndex {
            start: if full { end.saturating_add(8) } else { end },
            full,
            size: inode.size,
            lclusterbits,
            totalidx: inode.size.div_ceil(image.superblock.block_size()),
            compacted_2b: !full && advise & ADVISE_COMPACTED_2B != 0,
            big_pcluster,
        };
        let idata_size = u32::from(u16::from_le_bytes([x2, x3]));
        let tail = match () {
            () if advise & ADVISE_FRAGMENT_PCLUSTER != 0 => Tail::Fragment(first.into()),
            () if advise & ADVISE_INLINE_PCLUSTER != 0 && idata_size != 0 => {
                Tail::Inline(0, idata_size)
            }
            () => Tail::None,
        };
        zmap.find_tail(index, tail)?;
        Ok(zmap)
    }

    /// Finds the extent that holds the end of the file (EROFS_GET_BLOCKS_FINDTAIL).
    fn find_tail(&mut self, index: ClusterIndex, mut tail: Tail) -> Result<(), Fault> {
        let mut tail_lcn = u64::MAX;
        if !matches!(tail, Tail::None) && self.inode.size > 0 {
            let last = self.inode.size - 1;
            let (_, next) = index.load(&mut self.window, last >> self.lclusterbits)?;
            let (lcn, head) = index.head(&mut self.window, last)?;
            tail_lcn = lcn;
            match &mut tail {
                Tail::Inline(at, _) => *at = next,
                // A full index stores the upper bits of the offset in the packed inode.
                Tail::Fragment(at) if index.full => *at |= u64::from(head.pblk) << 32,
                _ => {}
            }
        }
        self.kind = match tail {
            Tail::Fragment(at) if tail_lcn == 0 => MapKind::Fragment(at),
            _ => MapKind::Index(index, tail, tail_lcn),
        };
        Ok(())
    }

    /// Maps the byte at `at`, which must be within the file.
    pub(super) fn map(&mut self, at: u64) -> Result<Mapped, Fault> {
        let mapped = self.map_any(at)?;
        match &mapped {
            // The distances back to a head and on to the next one may disagree.
            Mapped::Extent(extent) if !extent.has(at) => {
                let what = "the index leads back to a head too far away";
                Err(Fault::Corrupt(what, self.inode.behind))
            }
            _ => Ok(mapped),
        }
    }

    fn map_any(&mut self, at: u64) -> Result<Mapped, Fault> {
        match &mut self.kind {
            MapKind::Fragment(start) => Ok(Mapped::Fragment {
                offset: 0,
                length: self.inode.size,
                at: *start,
            }),
            MapKind::Index(index, tail, tail_lcn) => {
                let (index, tail, tail_lcn) = (*index, *tail, *tail_lcn);
                self.map_index(&index, tail, tail_lcn, at)
            }
            MapKind::Extents(records) => {
                let record =
                    records.find(&mut self.window, self.inode.size, self.lclusterbits, at)?;
                self.map_record(&record)
            }
        }
    }

    fn map_index(
        &mut self,
        index: &ClusterIndex,
        tail: Tail,
        tail_lcn: u64,
        at: u64,
    ) -> Result<Mapped, Fault> {
        let (lcn, head) = index.head(&mut self.window, at)?;
        let offset = lcn << self.lclusterbits | u64::from(head.clusterofs);
        let (start, length, inline) = match tail {
            Tail::Fragment(at) if lcn == tail_lcn => {
                return Ok(Mapped::Fragment {
                    offset,
                    length: self.inode.size.saturating_sub(offset),
                    at,
                });
            }
            Tail::Inline(at, length) if lcn == tail_lcn => (at, length.into(), true),
            _ => {
                let blkszbits = self.image.superblock.blkszbits;
                let blocks = index.physical_blocks(&mut self.window, lcn, head.kind)?;
                (
                    u64::from(head.pblk) << blkszbits,
                    u64::from(blocks) << blkszbits,
                    false,
                )
            }
        };
        let end = match inline {
            true => self.inode.size,
            false => index.logical_end(&mut self.window, lcn)?,
        };
        let number = match head.kind {
            Head::Plain => None,
            Head::Head1 => self.algorithms.first(),
            Head::Head2 => self.algorithms.get(1),
        };
        let algorithm = match number {
            None if self.advise & ADVISE_INTERLACED_PCLUSTER != 0 => Algorithm::Interlaced,
            None => Algorithm::Shifted,
            Some(number) => self.algorithm(*number)?,
        };
        self.extent(
            offset,
            end,
            Physical {
                algorithm,
                start,
                length,
                partial: head.partial,
                inline,
            },
        )
    }

    fn algorithm(&self, number: u8) -> Result<Algorithm, Fault> {
        let superblock = &self.image.superblock;
        let algorithm = Algorithm::of(number);
        let algorithm = algorithm.ok_or(Fault::Unsupported("algorithm", number.into()))?;
        let available = match superblock.feature_incompat & INCOMPAT_COMPR_CFGS {
            0 => 1,
            _ => superblock.available_compr_algs,
        };
        match available >> number & 1 {
            0 => Err(Fault::Corrupt(
                "an algorithm that the superblock does not name",
                self.inode.behind,
            )),
            _ => Ok(algorithm),
        }
    }

    /// The extent of a file from `offset` to `end`, for which a cluster is decoded.
    fn extent(&self, offset: u64, end: u64, physical: Physical) -> Result<Mapped, Fault> {
        let at = physical.start;
        let length = end.saturating_sub(offset);
        if length == 0 {
            return Err(Fault::Corrupt("a cluster without content", at));
        }
        if physical.length > PCLUSTER_MAX_SIZE.into() || physical.length == 0 {
            return Err(Fault::Unsupported(
                "length of a physical cluster",
                physical.length,
            ));
        }
        if length > PCLUSTER_MAX_DSIZE.into() {
            return Err(Fault::Unsupported("length of a decoded cluster", length));
        }
        let block = self.image.superblock.block_size();
        let plain = matches!(
            physical.algorithm,
            Algorithm::Shifted | Algorithm::Interlaced
        );
        if plain && length > physical.length {
            return Err(Fault::Corrupt(
                "a cluster of fewer bytes than its content",
                at,
            ));
        }
        let packed = match physical.inline {
            false => {
                in_image(self.image, at, physical.length)?;
                Packed::Image {
                    offset: at,
                    length: physical.length as u32,
                }
            }
            true if (at & (block - 1)).saturating_add(physical.length) > block => {
                return Err(Fault::Corrupt("its inline cluster goes across blocks", at));
            }
            true => {
                let mut bytes = vec![0; usize::try_from(physical.length).unwrap_or(0)];
                let in_metabox = self.inode.in_metabox();
                self.image.read_metadata(in_metabox, &mut bytes, at)?;
                Packed::Bytes(bytes)
            }
        };
        let visible = end.min(self.inode.size).saturating_sub(offset);
        let data = match (physical.algorithm, &packed) {
            (Algorithm::Shifted, Packed::Image { offset, .. }) => Data::Raw(*offset),
            (algorithm, _) => {
                let superblock = &self.image.superblock;
                let cluster = Cluster {
                    packed,
                    at,
                    length: length as u32,
                    algorithm,
                    partial: physical.partial,
                    zero_padding: algorithm != Algorithm::Lz4
                        || superblock.feature_incompat & INCOMPAT_0PADDING != 0,
                    interlaced: ((offset & (block - 1)) as u32, block as u32),
                };
                Data::Cluster(cluster, 0)
            }
        };
        Ok(Mapped::Extent(Extent {
            offset,
            length: visible,
            data,
        }))
    }

    /// The extent that a record describes.
    fn map_record(&self, record: &ExtentRecord) -> Result<Mapped, Fault> {
        let (offset, end) = (record.lstart, record.lend);
        let length = end.saturating_sub(offset);
        let hole = Mapped::Extent(Extent {
            offset,
            length,
            data: Data::Hole,
        });
        let Some((pstart, plen)) = record.physical else {
            return Ok(hole);
        };
        if record.last && self.advise & ADVISE_FRAGMENT_PCLUSTER != 0 {
            // The longer records store the upper bits of the offset in the packed inode.
            let hi = if record.wide { pstart << 32 } else { 0 };
            return Ok(Mapped::Fragment {
                offset,
                length,
                at: hi | u64::from(plen),
            });
        }
        let bytes = u64::from(plen & EXTENT_PLEN_MASK);
        if bytes == 0 {
            return Ok(hole);
        }
        let interlaced = self.advise & ADVISE_INTERLACED_PCLUSTER != 0
            && (pstart | bytes) & (self.image.superblock.block_size() - 1) == 0;
        let algorithm = match plen >> EXTENT_PLEN_FMT_BIT {
            0 if interlaced => Algorithm::Interlaced,
            0 => Algorithm::Shifted,
            n => self.algorithm(n as u8 - 1)?,
        };
        self.extent(
            offset,
            end,
            Physical {
                algorithm,
                start: pstart,
                length: bytes,
                partial: plen & EXTENT_PLEN_PARTIAL != 0,
                inline: false,
            },
        )
    }
}
