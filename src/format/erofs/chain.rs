//! Where extents start and end, from the entries of an index.
//!
//! Source: fs/erofs/zmap.c of Linux 7.2.

use super::index::{ClusterIndex, Head, Lcluster, Window};
use super::{Fault, PCLUSTER_MAX_DSIZE};

/// The index entry of a logical cluster in which a physical cluster starts.
pub(super) struct HeadEntry {
    pub(super) kind: Head,
    pub(super) clusterofs: u32,
    pub(super) pblk: u32,
    pub(super) partial: bool,
}

impl ClusterIndex {
    /// Finds the logical cluster in which the extent that covers `at` starts, and its entry.
    pub(super) fn head(&self, window: &mut Window, at: u64) -> Result<(u64, HeadEntry), Fault> {
        let first = at >> self.lclusterbits;
        let within = at & ((1 << self.lclusterbits) - 1);
        let mut lcn = first;
        loop {
            let (lcluster, _) = self.load(window, lcn)?;
            let back = match lcluster {
                Lcluster::Head {
                    kind,
                    clusterofs,
                    pblk,
                    partial,
                } if lcn != first || within >= clusterofs.into() => {
                    let head = HeadEntry {
                        kind,
                        clusterofs,
                        pblk,
                        partial,
                    };
                    return Ok((lcn, head));
                }
                Lcluster::Head { .. } => 1,
                Lcluster::NonHead { back, .. } => back,
            };
            let far = (first - lcn) << self.lclusterbits > PCLUSTER_MAX_DSIZE.into();
            lcn = lcn
                .checked_sub(back.into())
                .filter(|_| back != 0 && !far)
                .ok_or(Fault::Corrupt(
                    "the index leads back to no head",
                    self.start,
                ))?;
        }
    }

    /// The number of blocks of the physical cluster that starts in `lcn`
    /// (z_erofs_get_extent_compressedlen).
    pub(super) fn physical_blocks(
        &self,
        window: &mut Window,
        lcn: u64,
        kind: Head,
    ) -> Result<u32, Fault> {
        let [big_1, big_2] = self.big_pcluster;
        let big = match kind {
            Head::Head1 => big_1,
            Head::Plain | Head::Head2 => big_2,
        };
        let next = lcn.saturating_add(1);
        if !big || self.start_of(next) >= self.size {
            return Ok(1);
        }
        match self.load(window, next)?.0 {
            Lcluster::Head { .. } => Ok(1),
            Lcluster::NonHead {
                back: 1,
                blocks: Some(blocks),
                ..
            } if blocks != 0 => Ok(blocks),
            Lcluster::NonHead { .. } => {
                let what = "the index does not count the blocks of a cluster";
                Err(Fault::Corrupt(what, self.start))
            }
        }
    }

    /// The end of the extent that starts in `lcn` (z_erofs_get_extent_decompressedlen).
    pub(super) fn logical_end(&self, window: &mut Window, lcn: u64) -> Result<u64, Fault> {
        let mut next = lcn.saturating_add(1);
        loop {
            let start = self.start_of(next);
            if start >= self.size {
                return Ok(self.size);
            }
            if (next - lcn) << self.lclusterbits > u64::from(PCLUSTER_MAX_DSIZE) << 1 {
                return Ok(start);
            }
            match self.load(window, next)?.0 {
                Lcluster::Head { clusterofs, .. } => return Ok(start | u64::from(clusterofs)),
                // mkfs.erofs before 1.0 may have written 0.
                Lcluster::NonHead { ahead, .. } => next = next.saturating_add(ahead.max(1).into()),
            }
        }
    }

    /// The start of a logical cluster. Saturates, which is beyond the end of any file.
    fn start_of(&self, lcn: u64) -> u64 {
        lcn.saturating_mul(1 << self.lclusterbits)
    }
}
