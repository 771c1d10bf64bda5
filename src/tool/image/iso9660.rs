//! Files of an ISO 9660 filesystem, for the initrd of a bootable ISO.
//!
//! Source: ECMA-119 (4th edition); the Rock Ridge Interchange Protocol for names (SUSP and RRIP, version 1.12).

use crate::bytes::{Cursor, ReadAt};

/// The initrd of the ISOs that `layerinit build --iso` writes.
pub const INITRD: &str = "boot/initrd.img";

/// The menu of GRUB in these ISOs.
pub const GRUB_CONFIG: &str = "boot/grub/grub.cfg";

const SECTOR: u64 = 2048;

/// The number of sectors that are searched for the primary volume descriptor, from sector 16 on.
const DESCRIPTORS_MAX: u64 = 16;

/// The size of the largest directory that is read, in bytes.
const DIRECTORY_MAX: u64 = 4 << 20;

/// The most components of a path.
const DEPTH_MAX: usize = 32;

/// A file: its offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsoExtent {
    /// The offset of its first byte.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// Whether a source has the mark of ISO 9660 at the place of the volume descriptors.
pub fn is_iso(source: &dyn ReadAt) -> bool {
    let mut mark = [0; 5];
    source.read_exact_at(&mut mark, 16 * SECTOR + 1).is_ok() && mark == *b"CD001"
}

/// Finds a regular file by its path, ignoring case where there are no Rock Ridge names.
///
/// # Errors
/// The filesystem is damaged, cannot be read, or has no such file.
pub fn find(source: &dyn ReadAt, path: &str) -> Result<IsoExtent, String> {
    let mut directory = root(source)?;
    let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
    if names.len() > DEPTH_MAX {
        return Err("the path has too many components".into());
    }
    let missing = || format!("it has no file /{}", names.join("/"));
    for (index, name) in names.iter().enumerate() {
        let entry = lookup(source, directory, name.as_bytes())?.ok_or_else(missing)?;
        let last = index.saturating_add(1) == names.len();
        match (last, entry.is_directory) {
            (true, false) => return Ok(entry.extent),
            (false, true) => directory = entry.extent,
            _ => return Err(missing()),
        }
    }
    Err(missing())
}

/// A directory record.
struct DirectoryRecord {
    extent: IsoExtent,
    is_directory: bool,
    /// Whether the file continues in the next record.
    continues: bool,
    name: Vec<u8>,
}

/// The root directory, from the primary volume descriptor.
fn root(source: &dyn ReadAt) -> Result<IsoExtent, String> {
    const PRIMARY: u8 = 1;
    const TERMINATOR: u8 = 255;
    for number in 16..16_u64.saturating_add(DESCRIPTORS_MAX) {
        let mut sector = [0; SECTOR as usize];
        let read = source.read_exact_at(&mut sector, number.saturating_mul(SECTOR));
        read.map_err(|error| format!("its volume descriptors: {error}"))?;
        match sector.first() {
            Some(&PRIMARY) if sector.get(1..6) == Some(b"CD001") => {
                let record = sector.get(156..190).and_then(record);
                let record = record.filter(|record| record.is_directory);
                return Ok(record.ok_or("its root directory is damaged")?.extent);
            }
            Some(&TERMINATOR) => break,
            _ => {}
        }
    }
    Err("it has no primary volume descriptor".into())
}

/// The file with this name in a directory.
fn lookup(
    source: &dyn ReadAt,
    directory: IsoExtent,
    name: &[u8],
) -> Result<Option<DirectoryRecord>, String> {
    let length = directory.length;
    if length > DIRECTORY_MAX {
        return Err(format!("a directory of {length} bytes is too large"));
    }
    let mut found: Option<DirectoryRecord> = None;
    for sector in 0..length.div_ceil(SECTOR) {
        let mut bytes = [0; SECTOR as usize];
        let offset = directory
            .offset
            .saturating_add(sector.saturating_mul(SECTOR));
        let read = source.read_exact_at(&mut bytes, offset);
        read.map_err(|error| format!("its directory at {offset:#x}: {error}"))?;
        let mut rest = bytes.as_slice();
        // Records do not cross sectors; zeros fill the rest of one.
        while let Some(length) = rest.first().copied().filter(|length| *length > 0) {
            let (bytes, behind) = rest
                .split_at_checked(length.into())
                .ok_or_else(|| format!("its directory at {offset:#x} is damaged"))?;
            rest = behind;
            let next =
                record(bytes).ok_or_else(|| format!("its directory at {offset:#x} is damaged"))?;
            if let Some(file) = &mut found {
                // A file of 4 GiB or more has several records.
                let end = file.extent.offset.saturating_add(file.extent.length);
                if !file.continues {
                    return Ok(found);
                }
                if next.extent.offset != end {
                    return Err("a file in it is not in one piece".into());
                }
                file.extent.length = file.extent.length.saturating_add(next.extent.length);
                file.continues = next.continues;
            } else if is_named(&next, bytes, name) {
                found = Some(next);
            }
        }
    }
    Ok(found)
}

fn record(bytes: &[u8]) -> Option<DirectoryRecord> {
    const DIRECTORY: u8 = 2;
    const MULTI_EXTENT: u8 = 0x80;
    let mut cursor = Cursor::new(bytes);
    let _length = cursor.u8()?;
    let attributes = u64::from(cursor.u8()?);
    let block = u64::from(cursor.le32()?);
    cursor.take(4)?;
    let length = cursor.le32()?.into();
    cursor.take(4 + 7)?;
    let flags = cursor.u8()?;
    cursor.take(2 + 4)?;
    let name_length = cursor.u8()?;
    let name = cursor.take(name_length.into())?.to_vec();
    Some(DirectoryRecord {
        extent: IsoExtent {
            offset: block.saturating_add(attributes).saturating_mul(SECTOR),
            length,
        },
        is_directory: flags & DIRECTORY != 0,
        continues: flags & MULTI_EXTENT != 0,
        name,
    })
}

/// Whether a record has this name: the one of Rock Ridge, else the ISO name without the version.
fn is_named(record: &DirectoryRecord, bytes: &[u8], name: &[u8]) -> bool {
    if let Some(long) = rock_ridge_name(record, bytes) {
        return long == name;
    }
    let own = record
        .name
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    let own = own.strip_suffix(b".").unwrap_or(own);
    own.eq_ignore_ascii_case(name)
}

/// The name in the entries NM of the system use area. Those in a continuation area (CE) are not read.
fn rock_ridge_name(record: &DirectoryRecord, bytes: &[u8]) -> Option<Vec<u8>> {
    let start = 33_usize.checked_add(record.name.len())?;
    // A name of even length is followed by a padding byte.
    let start = start.checked_add(start % 2)?;
    let mut area = bytes.get(start..)?;
    let mut name = None;
    while let [first, second, length, ..] = *area {
        let (entry, rest) = area.split_at_checked(usize::from(length).max(4))?;
        if [first, second] == *b"NM" {
            // Signature, length, version, flags.
            name.get_or_insert_with(Vec::new).extend(entry.get(5..)?);
        }
        area = rest;
    }
    name
}

/// The kernel command line in GRUB's menu, from the first line `linux`.
pub fn command_line(menu: &str) -> Option<String> {
    let mut lines = menu.lines().map(str::trim_start);
    let line = lines.find_map(|line| line.strip_prefix("linux "))?;
    let (_kernel, words) = line.trim().split_once(' ').unwrap_or_default();
    let mut text = String::new();
    let mut quoted = None;
    let mut word = String::new();
    for c in words.trim().chars().chain([' ']) {
        match (c, quoted) {
            ('\'' | '"', None) => quoted = Some(c),
            (c, Some(quote)) if c == quote => quoted = None,
            (' ', None) => {
                let blank = word.contains(' ');
                let separator = if text.is_empty() || word.is_empty() {
                    ""
                } else {
                    " "
                };
                text.push_str(separator);
                match blank {
                    true => text.push_str(&format!("\"{word}\"")),
                    false => text.push_str(&word),
                }
                word.clear();
            }
            (c, _) => word.push(c),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory record for an extent at this block.
    fn entry(name: &[u8], block: u32, length: u32, flags: u8, long: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        for number in [block, length] {
            bytes.extend(number.to_le_bytes());
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend([0; 7]);
        bytes.extend([flags, 0, 0, 1, 0, 0, 1, name.len() as u8]);
        bytes.extend(name);
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        if !long.is_empty() {
            bytes.extend(b"RR\x05\x01\x89");
            bytes.extend([b'N', b'M', 5 + long.len() as u8, 1, 0]);
            bytes.extend(long);
        }
        bytes[0] = bytes.len() as u8;
        bytes
    }

    fn at(iso: &mut Vec<u8>, block: usize, bytes: &[u8]) {
        let offset = block * SECTOR as usize;
        iso.resize(iso.len().max(offset + SECTOR as usize), 0);
        iso[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// boot/initrd.img with the ISO's names, and Live-Image of two extents with a Rock Ridge name.
    fn iso() -> Vec<u8> {
        let mut iso = Vec::new();
        let mut primary = b"\x01CD001\x01".to_vec();
        primary.resize(156, 0);
        primary.extend(entry(b"\0", 20, 2048, 2, b""));
        at(&mut iso, 16, &primary);
        at(&mut iso, 17, b"\xffCD001\x01");
        let root = [
            entry(b"\0", 20, 2048, 2, b""),
            entry(b"\x01", 20, 2048, 2, b""),
            entry(b"BOOT", 21, 2048, 2, b""),
            entry(b"LIVE.;1", 30, 2048, 0x80, b"Live-Image"),
            entry(b"LIVE.;1", 31, 5, 0, b"Live-Image"),
        ];
        at(&mut iso, 20, &root.concat());
        at(&mut iso, 21, &entry(b"INITRD.IMG;1", 22, 6, 0, b""));
        at(&mut iso, 22, b"070701");
        iso
    }

    #[test]
    fn files_are_found_by_path() {
        let iso = iso();
        assert!(is_iso(&iso.as_slice()));
        let find = |path| find(&iso.as_slice(), path);
        let expected = IsoExtent {
            offset: 22 * SECTOR,
            length: 6,
        };
        assert_eq!(find("boot/initrd.img"), Ok(expected));
        assert_eq!(find("/BOOT//Initrd.img"), Ok(expected));
        let expected = IsoExtent {
            offset: 30 * SECTOR,
            length: SECTOR + 5,
        };
        assert_eq!(find("Live-Image"), Ok(expected));
        for path in ["live", "boot", "boot/initrd.img/x", "", "boot/none"] {
            let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
            let missing = format!("it has no file /{}", names.join("/"));
            assert_eq!(find(path), Err(missing), "{path}");
        }
    }

    #[test]
    fn damaged_filesystems_are_errors() {
        let good = iso();
        let find = |iso: &[u8]| find(&iso, "boot/initrd.img");
        for length in 0..good.len() {
            if length % 97 == 0 && length < 22 * SECTOR as usize {
                assert!(find(&good[..length]).is_err(), "{length}");
            }
        }
        let mut endless = good.clone();
        // The length of the root directory.
        endless[16 * 2048 + 156 + 10..][..4].fill(0xff);
        assert_eq!(
            find(&endless),
            Err("a directory of 4294967295 bytes is too large".into())
        );
        let mut none = good.clone();
        none[16 * 2048] = 2;
        assert_eq!(
            find(&none),
            Err("it has no primary volume descriptor".into())
        );
        let mut long = good.clone();
        long[21 * 2048] = 255;
        assert!(
            find(&long).is_ok_and(|extent| extent.length == 6),
            "the name ends in the record"
        );
        // A record that is too short for its name.
        let mut short = good.clone();
        short[21 * 2048] = 34;
        assert_eq!(
            find(&short),
            Err("its directory at 0xa800 is damaged".into())
        );
        for at in 16 * 2048..22 * 2048 {
            let mut flipped = good.clone();
            flipped[at] ^= 0xff;
            // It ends, without a panic.
            let _ = find(&flipped);
        }
    }

    #[test]
    fn the_command_line_is_that_of_the_first_entry() {
        let menu = "set timeout=0\nmenuentry 'a' {\n\tlinux /boot/vmlinuz console=ttyS0  'a=b c' x=\"y z\" 'q$'\n}\nlinux /b c\n";
        let expected = "console=ttyS0 \"a=b c\" \"x=y z\" q$";
        assert_eq!(command_line(menu).as_deref(), Some(expected));
        assert_eq!(command_line("linux /boot/vmlinuz\n").as_deref(), Some(""));
        assert_eq!(command_line("menuentry x {}\n"), None);
    }
}
