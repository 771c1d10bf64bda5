//! Superblocks that are recognised only to be refused by name: swap, LUKS, dm-verity hashes, LVM and software
//! RAID.

use std::io;

use super::{Volume, VolumeKind, block, field, label, uuid};
use crate::bytes::ReadAt;

/// The page sizes of swap headers.
const PAGE_SIZES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

/// `union swap_header` of include/linux/swap.h: the magic ends the first page. A suspended system
/// (kernel/power/swap.c, and the userspace tools' own) replaces the magic.
pub(super) fn swap(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const INFO: u64 = 1024;

    for page in PAGE_SIZES {
        let Some(magic) = block::<10>(device, page.saturating_sub(10))? else {
            break;
        };
        let kind = match &magic {
            b"SWAPSPACE2" => VolumeKind::Swap,
            // The old format has neither UUID nor label.
            b"SWAP-SPACE" => return Ok(Some(Volume::new(VolumeKind::Swap, None, None))),
            b"S1SUSPEND\0" | b"S2SUSPEND\0" | b"ULSUSPEND\0" | b"LINHIB0001" => {
                VolumeKind::Suspended
            }
            _ => continue,
        };
        let Some(info) = block::<44>(device, INFO)? else {
            break;
        };
        let mut cursor = field(&info, 0);
        let version = cursor.le32().unwrap_or(0);
        let last_page = cursor.le32().unwrap_or(0);
        let _nr_badpages = cursor.le32();
        let uuid = cursor.array().and_then(uuid);
        let label = label(cursor.rest());
        // In the byte order of the machine that made it.
        let one = version == 1 || version.swap_bytes() == 1;
        if kind == VolumeKind::Swap && (!one || last_page == 0) {
            continue;
        }
        return Ok(Some(Volume::new(kind, uuid, label)));
    }
    Ok(None)
}

/// `struct luks_phdr` and `struct luks2_hdr_disk` (cryptsetup's docs/on-disk-format): the two
/// versions have the UUID in the same place, version 2 a label besides.
pub(super) fn luks(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const VERSION: usize = 6;
    const LABEL: usize = 24;
    const LABEL_LEN: usize = 48;
    const UUID: usize = 168;
    const UUID_LEN: usize = 40;

    let Some(header) = block::<256>(device, 0)? else {
        return Ok(None);
    };
    if !header.starts_with(b"LUKS\xba\xbe") {
        return Ok(None);
    }
    let uuid = field(&header, UUID).take(UUID_LEN).and_then(label);
    let label = match field(&header, VERSION).array() {
        Some([0, 2]) => field(&header, LABEL).take(LABEL_LEN).and_then(label),
        _ => None,
    };
    Ok(Some(Volume::new(VolumeKind::Luks, uuid, label)))
}

/// `struct verity_sb` (cryptsetup's lib/verity/verity.c).
pub(super) fn verity(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const VERSION: usize = 8;
    const UUID: usize = 16;
    let Some(superblock) = block::<512>(device, 0)? else {
        return Ok(None);
    };
    let ours =
        superblock.starts_with(b"verity\0\0") && field(&superblock, VERSION).le32() == Some(1);
    let uuid = field(&superblock, UUID).array().and_then(uuid);
    Ok(ours.then(|| Volume::new(VolumeKind::Verity, uuid, None)))
}

/// `struct label_header` and `struct pv_header` of LVM2 (lib/label/label.h,
/// lib/format_text/layout.h): in one of the first four sectors.
pub(super) fn lvm(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const SECTOR_XL: usize = 8;
    const OFFSET_XL: usize = 20;
    const TYPE: usize = 24;
    const ID_LEN: usize = 32;
    /// Groups of the identifier as it is printed.
    const GROUPS: [usize; 7] = [6, 4, 4, 4, 4, 4, 6];

    for sector in 0..4u64 {
        let Some(header) = block::<512>(device, sector.saturating_mul(512))? else {
            break;
        };
        if !header.starts_with(b"LABELONE")
            || field(&header, SECTOR_XL).le64() != Some(sector)
            || field(&header, TYPE).array() != Some(*b"LVM2 001")
        {
            continue;
        }
        let id = field(&header, OFFSET_XL)
            .le32()
            .and_then(|offset| field(&header, offset as usize).take(ID_LEN))
            .filter(|id| id.iter().all(u8::is_ascii_graphic));
        let mut cursor = field(id.unwrap_or_default(), 0);
        let groups: Vec<_> = GROUPS
            .iter()
            .filter_map(|length| cursor.take(*length))
            .map(String::from_utf8_lossy)
            .collect();
        let uuid = Some(groups.join("-")).filter(|uuid| !uuid.is_empty());
        return Ok(Some(Volume::new(VolumeKind::Lvm, uuid, None)));
    }
    Ok(None)
}

/// `struct mdp_superblock_1` and `mdp_superblock_s` of include/uapi/linux/raid/md_p.h.
pub(super) fn raid(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    /// 1.1 at the start, 1.2 a little after, 1.0 at the end in steps of 4 KiB.
    fn places(size: u64) -> [Option<u64>; 3] {
        let end = (size / 512)
            .checked_sub(16)
            .map(|sector| (sector & !7).saturating_mul(512));
        [Some(0), Some(4096), end]
    }
    let size = device.size();
    for at in places(size).into_iter().flatten() {
        if let Some(volume) = raid1(device, at)? {
            return Ok(Some(volume));
        }
    }
    raid0(device, size)
}

const MD_SB_MAGIC: u32 = 0xa92b_4efc;

/// Version 1, at `at`.
fn raid1(device: &dyn ReadAt, at: u64) -> io::Result<Option<Volume>> {
    const SET_UUID: usize = 16;
    const SET_NAME_LEN: usize = 32;
    const SUPER_OFFSET: usize = 144;

    let Some(superblock) = block::<256>(device, at)? else {
        return Ok(None);
    };
    let mut start = field(&superblock, 0);
    let ours = (start.le32(), start.le32()) == (Some(MD_SB_MAGIC), Some(1));
    // In sectors. A superblock elsewhere belongs to a disk image, for example.
    if !ours || field(&superblock, SUPER_OFFSET).le64() != Some(at / 512) {
        return Ok(None);
    }
    let mut names = field(&superblock, SET_UUID);
    let uuid = names.array().and_then(uuid);
    let label = names.take(SET_NAME_LEN).and_then(label);
    Ok(Some(Volume::new(VolumeKind::Raid, uuid, label)))
}

/// Version 0.90, in the last but one aligned 64 KiB, in the byte order of the machine that made it.
fn raid0(device: &dyn ReadAt, size: u64) -> io::Result<Option<Volume>> {
    const RESERVED: u64 = 64 << 10;
    /// The size, in KiB, that the RAID uses; it ends before the superblock.
    const SIZE: usize = 8 * 4;
    /// Words: the first quarter of the set's UUID, and the others.
    const SET_UUID0: usize = 5 * 4;
    const SET_UUID1: usize = 13 * 4;

    let Some(at) = (size & !(RESERVED.saturating_sub(1))).checked_sub(RESERVED) else {
        return Ok(None);
    };
    let Some(superblock) = block::<128>(device, at)? else {
        return Ok(None);
    };
    let mut start = field(&superblock, 0);
    let (Some(magic), Some(major)) = (start.array(), start.array()) else {
        return Ok(None);
    };
    let swapped = magic == MD_SB_MAGIC.to_be_bytes();
    if !(swapped || magic == MD_SB_MAGIC.to_le_bytes()) || major != [0; 4] {
        return Ok(None);
    }
    let used = field(&superblock, SIZE)
        .array()
        .map_or(0, |size| match swapped {
            true => u32::from_be_bytes(size),
            false => u32::from_le_bytes(size),
        });
    if u64::from(used).saturating_mul(1024) > at {
        return Ok(None);
    }
    let first = field(&superblock, SET_UUID0).array::<4>();
    let rest = field(&superblock, SET_UUID1).array::<12>();
    let uuid = first.zip(rest).and_then(|(first, rest)| {
        let mut bytes = [0; 16];
        // blkid prints big-endian words in order, and the others reversed.
        let (words, _) = rest.as_chunks::<4>();
        for (to, word) in bytes
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip([&first].into_iter().chain(words))
        {
            *to = *word;
            if !swapped {
                to.reverse();
            }
        }
        uuid(bytes)
    });
    Ok(Some(Volume::new(VolumeKind::Raid, uuid, None)))
}
