//! FAT12, FAT16, FAT32, exFAT, and NTFS, whose first sector is of the same family.
//!
//! Sources: `struct fat_boot_sector` and `struct msdos_dir_entry` of
//! include/uapi/linux/msdos_fs.h; `struct boot_sector` and the entries of fs/exfat/exfat_raw.h;
//! `struct NTFS_BOOT` of fs/ntfs3/ntfs.h.

use std::io;

use super::{Volume, VolumeKind, block, field, label, le_units, wide_label};
use crate::bytes::{Cursor, ReadAt};

/// Clusters of a directory that are searched for the label, which is usually the first entry.
const CHAIN_MAX: u32 = 100;

/// Entries that are searched in each cluster: 64 KiB.
const ENTRIES_MAX: u64 = 2048;

/// The layout from a FAT boot sector. Sectors have `sector_size` bytes.
struct FatLayout {
    sector_size: u64,
    sectors_per_cluster: u64,
    reserved: u64,
    /// Sectors of all copies of the table.
    fat_size: u64,
    /// Of FAT12 and FAT16.
    dir_entries: u64,
    /// Of FAT32: sectors of one table, and where the root directory starts.
    fat32: Option<(u64, u32)>,
}

impl FatLayout {
    /// The fields of a valid boot sector (fat_valid_superblock() of libblkid).
    fn read(boot: &[u8; 512]) -> Option<Self> {
        const FAT12_MAX: u64 = 0xff4;
        const FAT16_MAX: u64 = 0xfff4;
        const FAT32_MAX: u64 = 0x0fff_fff6;
        const SECTOR_SIZE: usize = 11;
        const FAT32_LENGTH: usize = 36;
        const FAT32_ROOT_CLUSTER: usize = 44;

        let mut cursor = field(boot, SECTOR_SIZE);
        let sector_size = cursor.le16()?;
        let sectors_per_cluster = cursor.u8()?;
        let reserved = cursor.le16()?;
        let fats = cursor.u8()?;
        let dir_entries = cursor.le16()?;
        let sectors = cursor.le16()?;
        let media = cursor.u8()?;
        let fat_length = cursor.le16()?;
        let _secs_track = cursor.le16()?;
        let _heads = cursor.le16()?;
        let _hidden = cursor.le32()?;
        let total_sect = cursor.le32()?;
        let fat32_length = field(boot, FAT32_LENGTH).le32()?;
        let root_cluster = field(boot, FAT32_ROOT_CLUSTER).le32()?;

        let sane = fats > 0
            && reserved > 0
            && (media >= 0xf8 || media == 0xf0)
            && sectors_per_cluster.is_power_of_two()
            && sector_size.is_power_of_two()
            && (512..=4096).contains(&sector_size);
        if !sane {
            return None;
        }
        let is_fat32 = fat_length == 0 && fat32_length != 0;
        let length = match fat_length {
            0 => u64::from(fat32_length),
            length => u64::from(length),
        };
        let total = match sectors {
            0 => u64::from(total_sect),
            sectors => u64::from(sectors),
        };
        let fat_size = length.checked_mul(fats.into())?;
        let dir_size = u64::from(dir_entries)
            .checked_mul(DIR_ENTRY as u64)?
            .div_ceil(sector_size.into());
        let clusters = total
            .checked_sub(u64::from(reserved))?
            .checked_sub(fat_size)?
            .checked_sub(dir_size)?
            .checked_div(sectors_per_cluster.into())?;
        let max = match clusters {
            _ if is_fat32 => FAT32_MAX,
            0..=FAT12_MAX => FAT12_MAX,
            _ => FAT16_MAX,
        };
        (clusters <= max).then_some(Self {
            sector_size: sector_size.into(),
            sectors_per_cluster: sectors_per_cluster.into(),
            reserved: reserved.into(),
            fat_size,
            dir_entries: dir_entries.into(),
            fat32: is_fat32.then_some((fat32_length.into(), root_cluster)),
        })
    }

    /// The label, an entry of the root directory.
    fn label(&self, device: &dyn ReadAt) -> io::Result<Option<String>> {
        let data = self.reserved.saturating_add(self.fat_size);
        let Some((fat_length, mut cluster)) = self.fat32 else {
            let root = data.saturating_mul(self.sector_size);
            return search(device, root, self.dir_entries);
        };
        let cluster_size = self.sectors_per_cluster.saturating_mul(self.sector_size);
        let numbers = fat_length.saturating_mul(self.sector_size) / 4;
        for _ in 0..CHAIN_MAX {
            // The first two numbers of the table belong to no cluster.
            let Some(index) = cluster
                .checked_sub(2)
                .filter(|_| u64::from(cluster) < numbers)
            else {
                break;
            };
            let directory = data
                .saturating_mul(self.sector_size)
                .saturating_add(u64::from(index).saturating_mul(cluster_size));
            let found = search(device, directory, cluster_size / DIR_ENTRY as u64)?;
            if found.is_some() {
                return Ok(found);
            }
            let entry = self
                .reserved
                .saturating_mul(self.sector_size)
                .saturating_add(u64::from(cluster).saturating_mul(4));
            let Some(next) = block(device, entry)? else {
                break;
            };
            cluster = u32::from_le_bytes(next) & 0x0fff_ffff;
        }
        Ok(None)
    }
}

/// sizeof(struct msdos_dir_entry).
const DIR_ENTRY: usize = 32;

/// Looks for the label among `entries` directory entries.
fn search(device: &dyn ReadAt, mut at: u64, entries: u64) -> io::Result<Option<String>> {
    const NAME_LEN: usize = 11;
    const START_HIGH: usize = 20;
    const START: usize = 26;
    const DELETED: u8 = 0xe5;
    /// Stands for a first character of 0xe5.
    const ESCAPED: u8 = 0x05;
    const ATTR_VOLUME: u8 = 0x08;
    const ATTR_DIR: u8 = 0x10;
    const ATTR_LONG_NAME: u8 = 0x0f;
    const ATTR_MASK: u8 = 0x3f;

    for _ in 0..entries.min(ENTRIES_MAX) {
        let Some(mut entry) = block::<DIR_ENTRY>(device, at)? else {
            break;
        };
        at = at.saturating_add(DIR_ENTRY as u64);
        let clusters = (
            field(&entry, START_HIGH).le16(),
            field(&entry, START).le16(),
        );
        let attr = field(&entry, NAME_LEN).u8().unwrap_or(0);
        match entry.first_mut() {
            None | Some(0) => break,
            Some(&mut DELETED) => continue,
            Some(first) if *first == ESCAPED => *first = DELETED,
            Some(_) => {}
        }
        if clusters == (Some(0), Some(0))
            && attr & ATTR_MASK != ATTR_LONG_NAME
            && attr & (ATTR_VOLUME | ATTR_DIR) == ATTR_VOLUME
        {
            let name = field(&entry, 0).take(NAME_LEN).unwrap_or_default();
            return Ok(label(name).filter(|label| label != "NO NAME"));
        }
    }
    Ok(None)
}

/// FAT12, FAT16, FAT32. The label is that of the root directory. The boot sector has a copy from mkfs, which
/// renaming does not change; blkid prints it as LABEL_FATBOOT.
pub(super) fn vfat(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const FAT16_SERIAL: usize = 39;
    const FAT16_MAGIC: usize = 54;
    const FAT32_SERIAL: usize = 67;
    const FAT32_MAGIC: usize = 82;
    const SIGNATURE: usize = 510;
    const FAT32_INFO_SECTOR: usize = 48;

    let Some(boot) = block::<512>(device, 0)? else {
        return Ok(None);
    };
    let magic16 = field(&boot, FAT16_MAGIC).rest();
    let magic32 = field(&boot, FAT32_MAGIC).rest();
    let named = [&b"MSDOS"[..], b"FAT16   ", b"FAT12   ", b"FAT     "]
        .iter()
        .any(|magic| magic16.starts_with(magic))
        || magic32.starts_with(b"MSWIN")
        || magic32.starts_with(b"FAT32   ");
    let signed = field(&boot, SIGNATURE).array() == Some([0x55, 0xaa]);
    // OS/2 put a boot sector like FAT's in front of other filesystems.
    let other = magic16.starts_with(b"JFS     ") || magic16.starts_with(b"HPFS    ");
    if !named && (!signed || other) {
        return Ok(None);
    }
    let Some(layout) = FatLayout::read(&boot) else {
        return Ok(None);
    };
    let at = match layout.fat32 {
        Some(_) => FAT32_SERIAL,
        None => FAT16_SERIAL,
    };
    if layout.fat32.is_some()
        && let Some(sector @ 1..) = field(&boot, FAT32_INFO_SECTOR).le16()
    {
        let offset = u64::from(sector).saturating_mul(layout.sector_size);
        let info = block::<4>(device, offset)?;
        if !matches!(info.as_ref(), Some(b"RRaA" | b"RRdA" | b"\0\0\0\0")) {
            return Ok(None);
        }
    }
    let uuid = serial(field(&boot, at));
    Ok(Some(Volume::new(
        VolumeKind::Vfat,
        uuid,
        layout.label(device)?,
    )))
}

/// A serial number as `1234-ABCD`; 0 is none.
fn serial(mut cursor: Cursor<'_>) -> Option<String> {
    let number = cursor.le32().filter(|number| *number != 0)?;
    Some(format!("{:04X}-{:04X}", number >> 16, number & 0xffff))
}

/// exFAT. The label is an entry of the root directory.
pub(super) fn exfat(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const FS_NAME: usize = 3;
    const FAT_OFFSET: usize = 80;
    const SECT_SIZE_BITS: usize = 108;

    let Some(boot) = block::<512>(device, 0)? else {
        return Ok(None);
    };
    let mut cursor = field(&boot, FS_NAME);
    if cursor.array() != Some(*b"EXFAT   ") {
        return Ok(None);
    }
    let mut cursor = field(&boot, FAT_OFFSET);
    let mut bits = field(&boot, SECT_SIZE_BITS);
    let (Some(fat), Some(_), Some(heap), Some(clusters), Some(root), serial) = (
        cursor.le32(),
        cursor.le32(),
        cursor.le32(),
        cursor.le32(),
        cursor.le32(),
        serial(cursor),
    ) else {
        return Ok(None);
    };
    // exfat_read_boot_sector of fs/exfat/super.c: sectors of 512 to 4096, clusters to 32 MiB.
    let (Some(sector_bits @ 9..=12), Some(cluster_bits @ 0..=16)) = (bits.u8(), bits.u8()) else {
        return Ok(None);
    };
    let bytes = |sectors: u32| u64::from(sectors) << sector_bits;
    let cluster_size = 1u64 << sector_bits << cluster_bits;
    let mut label = None;
    let mut cluster = root;
    for _ in 0..CHAIN_MAX {
        let Some(index) = cluster.checked_sub(2).filter(|index| *index < clusters) else {
            break;
        };
        let directory = bytes(heap).saturating_add(u64::from(index).saturating_mul(cluster_size));
        match search_exfat(device, directory, cluster_size / DIR_ENTRY as u64)? {
            LabelSearch::Next => {}
            LabelSearch::End(found) => {
                label = found;
                break;
            }
        }
        let entry = bytes(fat).saturating_add(u64::from(cluster).saturating_mul(4));
        let Some(next) = block(device, entry)? else {
            break;
        };
        cluster = u32::from_le_bytes(next);
    }
    Ok(Some(Volume::new(VolumeKind::Exfat, serial, label)))
}

enum LabelSearch {
    /// No label here; the directory continues in the next cluster.
    Next,
    /// The label, or the end of the directory.
    End(Option<String>),
}

fn search_exfat(device: &dyn ReadAt, mut at: u64, entries: u64) -> io::Result<LabelSearch> {
    const EXFAT_UNUSED: u8 = 0;
    const EXFAT_VOLUME: u8 = 0x83;
    const LABEL_LEN: usize = 11;

    for _ in 0..entries.min(ENTRIES_MAX) {
        let Some(entry) = block::<DIR_ENTRY>(device, at)? else {
            return Ok(LabelSearch::End(None));
        };
        at = at.saturating_add(DIR_ENTRY as u64);
        let mut cursor = field(&entry, 0);
        match (cursor.u8(), cursor.u8()) {
            (Some(EXFAT_UNUSED), _) => return Ok(LabelSearch::End(None)),
            (Some(EXFAT_VOLUME), Some(length @ 1..)) => {
                let units = le_units(cursor.rest()).take(usize::from(length).min(LABEL_LEN));
                return Ok(LabelSearch::End(wide_label(units)));
            }
            _ => {}
        }
    }
    Ok(LabelSearch::Next)
}

/// NTFS, by its boot sector. Its label is in a file, and not read.
pub(super) fn ntfs(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const SYSTEM_ID: usize = 3;
    const SERIAL: usize = 72;
    let Some(sector) = block::<512>(device, 0)? else {
        return Ok(None);
    };
    if field(&sector, SYSTEM_ID).array() != Some(*b"NTFS    ") {
        return Ok(None);
    }
    let serial = field(&sector, SERIAL).le64().filter(|serial| *serial != 0);
    let uuid = serial.map(|serial| format!("{serial:016X}"));
    Ok(Some(Volume::new(VolumeKind::Ntfs, uuid, None)))
}
