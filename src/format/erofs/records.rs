//! Extent records, which replace the index in images with 48-bit addresses.
//!
//! Source: fs/erofs/zmap.c of Linux 7.2 (z_erofs_map_blocks_ext), struct z_erofs_extent.

use super::index::Window;
use super::{Fault, PCLUSTER_MAX_SIZE};

/// Z_EROFS_EXTENT_PLEN_MASK: the length of an extent; above it are a flag and the algorithm.
pub(super) const EXTENT_PLEN_MASK: u32 = (PCLUSTER_MAX_SIZE << 1) - 1;

/// The extent records of a file (struct z_erofs_extent).
pub(super) struct ExtentRecords {
    pub(super) start: u64,
    /// The size of each; shorter ones lack the last fields.
    pub(super) recsz: u64,
    pub(super) count: u64,
    /// The number of records that were read, and the physical start of the next one.
    pub(super) passed: (u64, u64),
}

/// A decoded record.
pub(super) struct ExtentRecord {
    pub(super) lstart: u64,
    pub(super) lend: u64,
    pub(super) last: bool,
    /// Whether the record has an address of its own.
    pub(super) wide: bool,
    /// The physical start, and plen as stored. `None` if no record covers this part.
    pub(super) physical: Option<(u64, u32)>,
}

impl ExtentRecords {
    /// The record that covers the byte at `at`.
    pub(super) fn find(
        &mut self,
        window: &mut Window,
        size: u64,
        bits: u32,
        at: u64,
    ) -> Result<ExtentRecord, Fault> {
        match self.recsz {
            4 | 8 => self.find_regular(window, size, bits, at),
            _ => self.find_sorted(window, size, at),
        }
    }

    fn position(&self, n: u64) -> Result<u64, Fault> {
        n.checked_mul(self.recsz)
            .and_then(|offset| self.start.checked_add(offset))
            .ok_or(Fault::BeyondEnd(u64::MAX))
    }

    /// Finds a record among those of one logical cluster each. Records of 4 bytes follow one address.
    fn find_regular(
        &mut self,
        window: &mut Window,
        size: u64,
        bits: u32,
        at: u64,
    ) -> Result<ExtentRecord, Fault> {
        let n = at >> bits;
        let (pstart, plen);
        if self.recsz == 8 {
            let [p0, p1, p2, p3, s @ ..]: [u8; 8] = window.array(self.position(n)?)?;
            plen = u32::from_le_bytes([p0, p1, p2, p3]);
            pstart = u32::from_le_bytes(s).into();
        } else {
            let base = u64::from_le_bytes(window.array(self.start)?);
            let (mut passed, mut sum) = self.passed;
            if passed > n || passed == 0 {
                (passed, sum) = (0, base);
            }
            while passed < n {
                let plen = self.short(window, passed)?;
                sum = sum.saturating_add((plen & EXTENT_PLEN_MASK).into());
                passed = passed.saturating_add(1);
            }
            self.passed = (passed, sum);
            (pstart, plen) = (sum, self.short(window, n)?);
        }
        let next = n.saturating_add(1).saturating_mul(1 << bits);
        Ok(ExtentRecord {
            lstart: n << bits,
            lend: next.min(size),
            last: next >= size,
            wide: self.recsz > 4,
            physical: Some((pstart, plen)),
        })
    }

    /// Reads a record of 4 bytes, which follows the address that they start with.
    fn short(&self, window: &mut Window, n: u64) -> Result<u32, Fault> {
        let position = self.position(n)?.saturating_add(8);
        window.array(position).map(u32::from_le_bytes)
    }

    /// Finds a record among those sorted by logical start.
    fn find_sorted(&self, window: &mut Window, size: u64, at: u64) -> Result<ExtentRecord, Fault> {
        let (mut low, mut high) = (0, self.count);
        let mut record = ExtentRecord {
            lstart: at,
            lend: size,
            last: true,
            wide: true,
            physical: None,
        };
        while low < high {
            let middle = low + (high - low) / 2;
            let position = self.position(middle)?;
            let bytes: [u8; 16] = window.array(position)?;
            let (words, _) = bytes.as_chunks::<4>();
            let words: [u32; 4] =
                std::array::from_fn(|n| words.get(n).copied().map(u32::from_le_bytes).unwrap_or(0));
            let [plen, pstart_lo, pstart_hi, lstart_lo] = words;
            let mut lstart = u64::from(lstart_lo);
            if self.recsz > 16 {
                let hi = window.array(position.saturating_add(16))?;
                lstart |= u64::from(u32::from_le_bytes(hi)) << 32;
            }
            if lstart > at {
                high = middle;
                if lstart > record.lend {
                    let what = "its records are in no order";
                    return Err(Fault::Corrupt(what, position));
                }
                record.lend = lstart;
            } else {
                low = middle + 1;
                record.lstart = lstart;
                let pstart = u64::from(pstart_lo) | u64::from(pstart_hi) << 32;
                record.physical = Some((pstart, plen));
            }
        }
        record.last = low >= self.count;
        Ok(record)
    }
}
