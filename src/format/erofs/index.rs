//! The indexes of clustered files: one entry for each logical cluster.
//!
//! Source: fs/erofs/zmap.c of Linux 7.2 (z_erofs_load_full_lcluster, z_erofs_load_compact_lcluster).

use super::{Fault, Image};
use crate::bytes::Cursor;

/// Z_EROFS_LI_D0_CBLKCNT: the entry has the number of the cluster's blocks, not a distance.
const LI_D0_CBLKCNT: u32 = 1 << 11;
/// Z_EROFS_LI_PARTIAL_REF: the extent uses a part of the physical cluster.
const LI_PARTIAL_REF: u16 = 1 << 15;

/// A window on metadata, read a piece at a time.
pub(super) struct Window<'i> {
    image: &'i Image<'i>,
    in_metabox: bool,
    start: u64,
    bytes: Vec<u8>,
}

impl<'i> Window<'i> {
    const LENGTH: u64 = 1024;
    /// Packs of a compact index lie at multiples of this.
    const ALIGN: u64 = 32;

    pub(super) fn new(image: &'i Image<'i>, in_metabox: bool) -> Self {
        Self {
            image,
            in_metabox,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// The bytes at `at`.
    pub(super) fn array<const N: usize>(&mut self, at: u64) -> Result<[u8; N], Fault> {
        if let Some(array) = self.find(at) {
            return Ok(array);
        }
        self.start = at & !(Self::ALIGN - 1);
        let size = self.image.metadata_size(self.in_metabox);
        let left = size.saturating_sub(self.start).min(Self::LENGTH);
        self.bytes.resize(usize::try_from(left).unwrap_or(0), 0);
        let (image, in_metabox) = (self.image, self.in_metabox);
        let read = image.read_metadata(in_metabox, &mut self.bytes, self.start);
        if read.is_err() {
            self.bytes.clear();
        }
        read?;
        self.find(at).ok_or(Fault::BeyondEnd(at))
    }

    fn find<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let skip = usize::try_from(at.checked_sub(self.start)?).ok()?;
        Cursor::new(self.bytes.get(skip..)?).array()
    }
}

/// The decoded entry of a logical cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lcluster {
    /// A physical cluster starts in it.
    Head {
        kind: Head,
        /// Where in the logical cluster it starts.
        clusterofs: u32,
        /// The first block of the physical cluster.
        pblk: u32,
        /// Z_EROFS_LI_PARTIAL_REF
        partial: bool,
    },
    /// No physical cluster starts in it.
    NonHead {
        /// How many entries before this one the head is; 0 is not allowed.
        back: u32,
        /// How many entries after this one the next head may be; 0 is 1.
        ahead: u32,
        /// The number of the physical cluster's blocks.
        blocks: Option<u32>,
    },
}

/// Z_EROFS_LCLUSTER_TYPE_*
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Not compressed.
    Plain,
    /// Compressed by the first algorithm.
    Head1,
    /// Compressed by the second algorithm.
    Head2,
}

impl Head {
    /// `None` for an entry that is no head.
    fn of(kind: u32) -> Option<Self> {
        match kind & 3 {
            0 => Some(Self::Plain),
            1 => Some(Self::Head1),
            2 => None,
            _ => Some(Self::Head2),
        }
    }
}

/// An index: where it is, and how it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClusterIndex {
    /// The first byte of its first entry.
    pub(super) start: u64,
    /// Entries have 8 bytes each; in a compact index, 2 or 4.
    pub(super) full: bool,
    /// The size of a logical cluster, as a power of two of bytes.
    pub(super) lclusterbits: u32,
    /// The size of the file in bytes.
    pub(super) size: u64,
    /// The size of the file in blocks: the number of entries that a compact index is laid out for.
    pub(super) totalidx: u64,
    /// Z_EROFS_ADVISE_COMPACTED_2B
    pub(super) compacted_2b: bool,
    /// Z_EROFS_ADVISE_BIG_PCLUSTER_1 and _2
    pub(super) big_pcluster: [bool; 2],
}

impl ClusterIndex {
    /// Reads the entry of logical cluster `lcn`. Also returns where the next entry starts, or in a compact index the
    /// next pack.
    pub(super) fn load(&self, window: &mut Window, lcn: u64) -> Result<(Lcluster, u64), Fault> {
        let (lcluster, next, at) = match self.full {
            true => self.load_full(window, lcn)?,
            false => self.load_compact(window, lcn)?,
        };
        match lcluster {
            Lcluster::Head { clusterofs, .. } if clusterofs >> self.lclusterbits != 0 => Err(
                Fault::Corrupt("a cluster starts after its logical cluster", at),
            ),
            Lcluster::NonHead {
                blocks: Some(_), ..
            } if self.big_pcluster == [false; 2] => {
                let what = "the index counts blocks, and the file has no big clusters";
                Err(Fault::Corrupt(what, at))
            }
            _ => Ok((lcluster, next)),
        }
    }

    /// struct z_erofs_lcluster_index
    fn load_full(&self, window: &mut Window, lcn: u64) -> Result<(Lcluster, u64, u64), Fault> {
        let at = lcn
            .checked_mul(8)
            .and_then(|offset| self.start.checked_add(offset))
            .ok_or(Fault::BeyondEnd(u64::MAX))?;
        let [a0, a1, c0, c1, u0, u1, u2, u3] = window.array(at)?;
        let di_advise = u16::from_le_bytes([a0, a1]);
        let lcluster = match Head::of(di_advise.into()) {
            Some(kind) => Lcluster::Head {
                kind,
                clusterofs: u16::from_le_bytes([c0, c1]).into(),
                pblk: u32::from_le_bytes([u0, u1, u2, u3]),
                partial: di_advise & LI_PARTIAL_REF != 0,
            },
            None => {
                let delta0 = u32::from(u16::from_le_bytes([u0, u1]));
                let blocks = (delta0 & LI_D0_CBLKCNT != 0).then_some(delta0 & !LI_D0_CBLKCNT);
                Lcluster::NonHead {
                    back: if blocks.is_some() { 1 } else { delta0 },
                    ahead: u16::from_le_bytes([u2, u3]).into(),
                    blocks,
                }
            }
        };
        Ok((lcluster, at.saturating_add(8), at))
    }

    fn load_compact(&self, window: &mut Window, lcn: u64) -> Result<(Lcluster, u64, u64), Fault> {
        let (at, size) = self.place(lcn)?;
        let pack = Pack::read(window, at, size, self)?;
        let slot = (at - pack.start) / size;
        let lcluster = pack.lcluster(u32::try_from(slot).unwrap_or(0), self)?;
        Ok((lcluster, pack.start.saturating_add(pack.length), at))
    }

    /// The position of the entry of `lcn` in a compact index, and its size: 4 bytes up to a multiple of 32, then 2
    /// bytes as long as 16 entries fill a pack, then 4 bytes again.
    fn place(&self, lcn: u64) -> Result<(u64, u64), Fault> {
        if lcn >= self.totalidx {
            return Err(Fault::Corrupt("the index is too short", self.start));
        }
        let compacted_4b_initial = (self.start.wrapping_neg() % 32) / 4;
        let compacted_2b = match self.compacted_2b {
            true => self.totalidx.saturating_sub(compacted_4b_initial) & !15,
            false => 0,
        };
        let of_4 = lcn.min(compacted_4b_initial);
        let of_2 = lcn.saturating_sub(of_4).min(compacted_2b);
        let of_4_again = lcn.saturating_sub(of_4).saturating_sub(of_2);
        let size = match lcn >= compacted_4b_initial && of_2 < compacted_2b {
            true => 2,
            false => 4,
        };
        let offset = of_4
            .checked_add(of_4_again)
            .and_then(|n| n.checked_mul(4)?.checked_add(of_2.checked_mul(2)?));
        let at = offset.and_then(|offset| self.start.checked_add(offset));
        Ok((at.ok_or(Fault::BeyondEnd(u64::MAX))?, size))
    }
}

/// A pack of a compact index: bit-packed entries, then the number of the block that they count from.
struct Pack {
    bytes: [u8; Self::MAX as usize],
    start: u64,
    length: u64,
    entries: u32,
    entry_bits: u32,
    /// Bits of an entry below its type.
    low_bits: u32,
}

impl Pack {
    const MAX: u64 = 32;

    fn read(window: &mut Window, at: u64, size: u64, index: &ClusterIndex) -> Result<Self, Fault> {
        let (entries, length) = match size {
            2 if index.lclusterbits <= 12 => (16, 32),
            4 if index.lclusterbits <= 14 => (2, 8),
            _ => {
                let what = "logical cluster size of a compact index, in bits,";
                return Err(Fault::Unsupported(what, index.lclusterbits.into()));
            }
        };
        let start = at & !(length - 1);
        let mut bytes = [0; Self::MAX as usize];
        match length {
            8 => {
                let pack: [u8; 8] = window.array(start)?;
                if let Some(first) = bytes.first_chunk_mut() {
                    *first = pack;
                }
            }
            _ => bytes = window.array(start)?,
        }
        Ok(Self {
            bytes,
            start,
            length,
            entries,
            entry_bits: if entries == 2 { 16 } else { 14 },
            low_bits: index.lclusterbits.max(LI_D0_CBLKCNT.ilog2() + 1),
        })
    }

    /// The type and the lower bits of an entry (decode_compactedbits).
    fn entry(&self, slot: u32) -> (Option<Head>, u32) {
        let bit = slot.saturating_mul(self.entry_bits);
        let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        let word = self.bytes.get(at..).unwrap_or_default();
        let word = Cursor::new(word).le32().unwrap_or_default() >> (bit % 8);
        (
            Head::of(word >> self.low_bits),
            word & ((1 << self.low_bits) - 1),
        )
    }

    fn lcluster(&self, slot: u32, index: &ClusterIndex) -> Result<Lcluster, Fault> {
        let (kind, low) = self.entry(slot);
        if let Some(kind) = kind {
            return Ok(Lcluster::Head {
                kind,
                clusterofs: low,
                pblk: self.pblk(slot, index.big_pcluster != [false; 2])?,
                partial: false,
            });
        }
        let blocks = (low & LI_D0_CBLKCNT != 0).then_some(low & !LI_D0_CBLKCNT);
        let back = match blocks {
            Some(_) => 1,
            None if slot + 1 != self.entries => low,
            // The last entry of a pack stores the distance to the next head. The one to the previous head follows
            // from the entry before it.
            None => match self.entry(slot.saturating_sub(1)) {
                (Some(_), _) => 1,
                (None, low) if low & LI_D0_CBLKCNT != 0 => 2,
                (None, low) => low.saturating_add(1),
            },
        };
        Ok(Lcluster::NonHead {
            back,
            ahead: self.ahead(slot),
            blocks,
        })
    }

    /// The distance to the next head (get_compacted_la_distance).
    fn ahead(&self, slot: u32) -> u32 {
        let mut distance = 0u32;
        for slot in slot..self.entries {
            let (kind, low) = self.entry(slot);
            if kind.is_some() {
                return distance;
            }
            distance = distance.saturating_add(1);
            if slot + 1 == self.entries && low & LI_D0_CBLKCNT == 0 {
                distance = distance.saturating_add(low).saturating_sub(1);
            }
        }
        distance
    }

    /// The first block of a head's physical cluster: the pack's own block, plus the blocks of the clusters before it
    /// in the pack.
    fn pblk(&self, slot: u32, big_pcluster: bool) -> Result<u32, Fault> {
        let mut blocks = if big_pcluster { 0u32 } else { 1 };
        let mut slot = i64::from(slot);
        while slot > 0 {
            slot -= 1;
            let (kind, low) = self.entry(u32::try_from(slot).unwrap_or(0));
            match kind {
                Some(_) => blocks = blocks.wrapping_add(1),
                None if !big_pcluster => {
                    slot -= i64::from(low);
                    if slot >= 0 {
                        blocks = blocks.wrapping_add(1);
                    }
                }
                None if low & LI_D0_CBLKCNT != 0 => {
                    slot -= 1;
                    blocks = blocks.wrapping_add(low & !LI_D0_CBLKCNT);
                }
                None if low <= 1 => {
                    let what = "the index does not count the blocks of a big cluster";
                    return Err(Fault::Corrupt(what, self.start));
                }
                None => slot -= i64::from(low) - 2,
            }
        }
        let base = usize::try_from(self.length).unwrap_or(0).saturating_sub(4);
        let base = Cursor::new(self.bytes.get(base..).unwrap_or_default()).le32();
        Ok(base.unwrap_or_default().wrapping_add(blocks))
    }
}
