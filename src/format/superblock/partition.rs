//! Partition tables: GPT and MBR, as block/partitions/efi.c and msdos.c of Linux 7.2 read them.

use std::io;

use super::{block, field, le_units, wide_label};
use crate::bytes::{Cursor, ReadAt, dashed};
use crate::format::checksum::Crc;

/// The highest number of a partition (DISK_MAX_PARTS of include/linux/genhd.h, less the disk).
const NUMBER_MAX: u32 = 255;

/// An entry of a partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1; logical partitions of an MBR from 5.
    pub number: u32,
    /// Its offset in bytes.
    pub start: u64,
    /// Its length in bytes; may go beyond the end of the disk.
    pub length: u64,
    /// PARTUUID: a GPT's GUID in lower case, or an MBR's `SSSSSSSS-NN`. An extended partition has
    /// none, as in the kernel.
    pub uuid: Option<String>,
    /// PARTLABEL, of a GPT.
    pub label: Option<String>,
}

/// The kind of a table, and which copy of it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// The GPT at the start of the disk.
    Gpt,
    /// The GPT at the end of the disk, because the first is damaged. The kernel uses it only with `gpt` on
    /// the command line.
    GptBackup,
    /// MBR.
    Mbr,
}

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its kind.
    pub scheme: Scheme,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
}

/// Reads the partition table of `disk`, whose sectors (logical blocks) have `sector_size` bytes,
/// 512 to 65536. `None`: there is none, or it is damaged.
///
/// Reads at most 4 MiB and returns at most 255 partitions.
pub fn table(disk: &dyn ReadAt, sector_size: u64) -> io::Result<Option<Table>> {
    let sector_size = sector_size.clamp(512, 65536);
    let Some(mbr) = Mbr::read(disk, 0)? else {
        return Ok(None);
    };
    if mbr.entries.iter().any(|entry| entry.kind == MBR_GPT) {
        return gpt(disk, sector_size);
    }
    // Other values are the boot code of a filesystem on the whole disk.
    if mbr.entries.iter().any(|entry| entry.boot & 0x7f != 0) {
        return Ok(None);
    }
    let partitions = primaries(disk, sector_size, &mbr)?;
    Ok(Some(Table {
        scheme: Scheme::Mbr,
        partitions,
    }))
}

/// The type of the entry of a protective MBR, before a GPT.
const MBR_GPT: u8 = 0xee;

/// The first sector of a disk, or of a logical partition.
struct Mbr {
    signature: u32,
    entries: Vec<MbrEntry>,
}

/// `struct msdos_partition`; numbers are in sectors.
struct MbrEntry {
    boot: u8,
    kind: u8,
    start: u64,
    length: u64,
}

impl MbrEntry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn decode(cursor: &mut Cursor<'_>) -> Option<Self> {
        let boot = cursor.u8()?;
        let _first_chs = cursor.take(3)?;
        let kind = cursor.u8()?;
        let _last_chs = cursor.take(3)?;
        Some(Self {
            boot,
            kind,
            start: cursor.le32()?.into(),
            length: cursor.le32()?.into(),
        })
    }
}

impl Mbr {
    /// `None` where there is no signature.
    fn read(disk: &dyn ReadAt, at: u64) -> io::Result<Option<Self>> {
        const SIGNATURE: usize = 440;
        const ENTRIES: usize = 446;
        let Some(sector) = block::<512>(disk, at)? else {
            return Ok(None);
        };
        let signature = field(&sector, SIGNATURE).le32().unwrap_or(0);
        let mut cursor = field(&sector, ENTRIES);
        let entries: Vec<_> = (0..4)
            .map_while(|_| MbrEntry::decode(&mut cursor))
            .collect();
        let signed = cursor.array() == Some([0x55, 0xaa]);
        Ok(signed.then_some(Self { signature, entries }))
    }
}

/// The four partitions of the MBR, and the logical ones inside.
fn primaries(disk: &dyn ReadAt, sector_size: u64, mbr: &Mbr) -> io::Result<Vec<Partition>> {
    let bytes = |sectors: u64| sectors.saturating_mul(sector_size);
    let named = |number: u32, start: u64, length: u64| Partition {
        number,
        start: bytes(start),
        length: bytes(length),
        uuid: Some(format!("{:08x}-{number:02x}", mbr.signature)),
        label: None,
    };
    let mut partitions = Vec::new();
    let mut logicals = Vec::new();
    for (number, entry) in (1..).zip(&mbr.entries) {
        if entry.length == 0 {
            continue;
        }
        if entry.is_extended() {
            logicals.extend(extended(disk, sector_size, entry, logicals.len())?);
            partitions.push(Partition {
                // Room for a boot loader, as in the kernel, and no more: nobody should make a filesystem
                // there.
                length: bytes(entry.length).min(1024.max(sector_size)),
                uuid: None,
                ..named(number, entry.start, entry.length)
            });
        } else {
            partitions.push(named(number, entry.start, entry.length));
        }
    }
    let logicals = (5..=NUMBER_MAX).zip(logicals);
    partitions.extend(logicals.map(|(number, (start, length))| named(number, start, length)));
    Ok(partitions)
}

/// Start and length, in sectors, of each logical partition in the extended partition `outer`. `already` is
/// the number of those in other ones. The tables form a chain, which may loop on a damaged disk: the numbers
/// of empty tables and of partitions are limited.
fn extended(
    disk: &dyn ReadAt,
    sector_size: u64,
    outer: &MbrEntry,
    already: usize,
) -> io::Result<Vec<(u64, u64)>> {
    const EMPTY_MAX: u32 = 100;
    let mut found: Vec<(u64, u64)> = Vec::new();
    let outer_end = outer.start.saturating_add(outer.length);
    let (mut here, mut here_length) = (outer.start, outer.length);
    let mut empty = 0u32;
    while empty < EMPTY_MAX {
        empty = empty.saturating_add(1);
        let Some(table) = Mbr::read(disk, here.saturating_mul(sector_size))? else {
            break;
        };
        for (slot, entry) in table.entries.iter().enumerate() {
            if entry.length == 0 || entry.is_extended() {
                continue;
            }
            let start = here.saturating_add(entry.start);
            let end = start.saturating_add(entry.length);
            // The third and fourth entry can be garbage.
            let inside = entry.start.saturating_add(entry.length) <= here_length
                && start >= outer.start
                && end <= outer_end;
            if slot >= 2 && !inside {
                continue;
            }
            if already.saturating_add(found.len()) >= NUMBER_MAX as usize {
                return Ok(found);
            }
            found.push((start, entry.length));
            empty = 0;
        }
        let mut links = table.entries.iter();
        let Some(link) = links.find(|entry| entry.length != 0 && entry.is_extended()) else {
            break;
        };
        here = outer.start.saturating_add(link.start);
        here_length = link.length;
    }
    Ok(found)
}

/// The first GPT, or the one at the end of the disk.
fn gpt(disk: &dyn ReadAt, sector_size: u64) -> io::Result<Option<Table>> {
    let last = (disk.size() / sector_size).saturating_sub(1);
    for (lba, scheme) in [(1, Scheme::Gpt), (last, Scheme::GptBackup)] {
        if let Some(header) = GptHeader::read(disk, sector_size, lba)?
            && let Some(partitions) = header.partitions(disk, sector_size, last)?
        {
            return Ok(Some(Table { scheme, partitions }));
        }
    }
    Ok(None)
}

/// The fields in use of a GPT header (`struct gpt_header` of block/partitions/efi.h).
struct GptHeader {
    partition_entry_lba: u64,
    num_partition_entries: u32,
    sizeof_partition_entry: u32,
    partition_entry_array_crc32: u32,
}

impl GptHeader {
    /// The header in sector `lba`, if its checksum is correct.
    fn read(disk: &dyn ReadAt, sector_size: u64, lba: u64) -> io::Result<Option<Self>> {
        const LENGTH: usize = 512;
        let Some(sector) = block::<LENGTH>(disk, lba.saturating_mul(sector_size))? else {
            return Ok(None);
        };
        Ok(Self::decode(&sector, lba))
    }

    fn decode(sector: &[u8], lba: u64) -> Option<Self> {
        let mut cursor = Cursor::new(sector);
        let _signature = cursor.array().filter(|bytes| bytes == b"EFI PART")?;
        let _revision = cursor.le32()?;
        let header_size = cursor.le32()?;
        let header_crc32 = cursor.le32()?;
        let _reserved = cursor.le32()?;
        let my_lba = cursor.le64()?;
        let _alternate_lba = cursor.le64()?;
        let _first_usable_lba = cursor.le64()?;
        let _last_usable_lba = cursor.le64()?;
        let _disk_guid = cursor.take(16)?;
        let header = Self {
            partition_entry_lba: cursor.le64()?,
            num_partition_entries: cursor.le32()?,
            sizeof_partition_entry: cursor.le32()?,
            partition_entry_array_crc32: cursor.le32()?,
        };

        // The checksum counts as 0. The kernel accepts headers up to a sector, this up to 512 bytes, of
        // which 92 are defined.
        let mut cursor = Cursor::new(sector.get(..header_size as usize)?);
        let mut crc = Crc::crc32();
        crc.update(cursor.take(16)?);
        let _header_crc32 = cursor.take(4)?;
        crc.update(&[0; 4]);
        crc.update(cursor.rest());
        (header_size >= 92 && my_lba == lba && crc.sum() == u64::from(header_crc32))
            .then_some(header)
    }

    /// The entries, if their checksum is correct. `last` is the last sector of the disk.
    fn partitions(
        &self,
        disk: &dyn ReadAt,
        sector_size: u64,
        last: u64,
    ) -> io::Result<Option<Vec<Partition>>> {
        const ENTRY: u32 = 128;
        const ENTRY_MAX: u32 = 4096;
        const ENTRIES_MAX: u64 = 4 << 20;

        let size = self.sizeof_partition_entry;
        let length = u64::from(self.num_partition_entries).saturating_mul(size.into());
        let sane = (ENTRY..=ENTRY_MAX).contains(&size) && size.is_multiple_of(8);
        if !sane || length > ENTRIES_MAX {
            return Ok(None);
        }
        let mut at = self.partition_entry_lba.saturating_mul(sector_size);
        let mut bytes = [0; ENTRY_MAX as usize];
        let Some(entry) = bytes.get_mut(..size as usize) else {
            return Ok(None);
        };
        let mut partitions = Vec::new();
        let mut crc = Crc::crc32();
        for number in 1..=self.num_partition_entries {
            match disk.read_exact_at(entry, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                done => done?,
            }
            at = at.saturating_add(size.into());
            crc.update(entry);
            if number <= NUMBER_MAX {
                partitions.extend(gpt_entry(entry, number, sector_size, last));
            }
        }
        let good = crc.sum() == u64::from(self.partition_entry_array_crc32);
        Ok(good.then_some(partitions))
    }
}

/// `struct gpt_entry`; `None` for one that is unused or outside the disk.
fn gpt_entry(entry: &[u8], number: u32, sector_size: u64, last: u64) -> Option<Partition> {
    let mut cursor = Cursor::new(entry);
    let partition_type_guid: [u8; 16] = cursor.array()?;
    let unique_partition_guid: [u8; 16] = cursor.array()?;
    let starting_lba = cursor.le64()?;
    let ending_lba = cursor.le64()?;
    let _attributes = cursor.le64()?;
    let partition_name = cursor.take(72)?;

    let sectors = ending_lba.checked_sub(starting_lba)?.checked_add(1)?;
    (partition_type_guid != [0; 16] && ending_lba <= last).then(|| Partition {
        number,
        start: starting_lba.saturating_mul(sector_size),
        length: sectors.saturating_mul(sector_size),
        uuid: Some(guid(unique_partition_guid)),
        label: wide_label(le_units(partition_name)),
    })
}

/// A GUID: the first three numbers are little endian (`%pUl` of the kernel).
fn guid(mut bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, ..] = bytes;
    for (to, from) in bytes.iter_mut().zip([d, c, b, a, f, e, h, g]) {
        *to = from;
    }
    dashed(bytes)
}
