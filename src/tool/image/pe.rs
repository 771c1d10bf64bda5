//! The sections of a PE file, one of which holds the initrd of a unified kernel image. Pure.
//!
//! Source: Microsoft's "PE Format", and the UAPI group's specification of unified kernel images for
//! what the sections mean (<https://uapi-group.org/specifications/specs/unified_kernel_image/>).

use crate::bytes::Cursor;

/// Number of bytes at the start of a file that hold its headers.
pub const HEAD: usize = 1 << 16;

/// A section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name, padded with NULs.
    pub name: [u8; 8],
    /// The offset of its first byte in the file.
    pub offset: u64,
    /// Its length in bytes, without the padding to the file's alignment.
    pub length: u64,
}

impl Section {
    fn is(&self, name: &[u8]) -> bool {
        let end = self.name.iter().rposition(|byte| *byte != 0);
        let end = end.map_or(0, |last| last.saturating_add(1));
        self.name.get(..end) == Some(name)
    }
}

/// The sections of a file that starts with `head`; `None` if it is not a PE file.
pub fn sections(head: &[u8]) -> Result<Option<Vec<Section>>, &'static str> {
    let Some(mut cursor) = coff_header(head) else {
        return Ok(None);
    };
    table(&mut cursor)
        .map(Some)
        .ok_or("a PE file with a truncated section table")
}

/// The COFF header, after the signature `PE`.
fn coff_header(head: &[u8]) -> Option<Cursor<'_>> {
    let mut dos = Cursor::new(head);
    if dos.take(2)? != b"MZ" {
        return None;
    }
    dos.take(0x3c - 2)?;
    let e_lfanew = usize::try_from(dos.le32()?).ok()?;
    let mut cursor = Cursor::new(head.get(e_lfanew..)?);
    (cursor.take(4)? == b"PE\0\0").then_some(cursor)
}

fn table(cursor: &mut Cursor) -> Option<Vec<Section>> {
    let _machine = cursor.le16()?;
    let sections = cursor.le16()?;
    let _time_date_stamp = cursor.le32()?;
    let _pointer_to_symbol_table = cursor.le32()?;
    let _number_of_symbols = cursor.le32()?;
    let size_of_optional_header = cursor.le16()?;
    let _characteristics = cursor.le16()?;
    cursor.take(size_of_optional_header.into())?;
    (0..sections).map(|_| section(cursor)).collect()
}

fn section(cursor: &mut Cursor) -> Option<Section> {
    let name = cursor.array()?;
    let virtual_size = cursor.le32()?;
    let _virtual_address = cursor.le32()?;
    let size_of_raw_data = cursor.le32()?;
    let pointer_to_raw_data = cursor.le32()?;
    // Relocations and line numbers, which images do not have, and characteristics.
    cursor.take(16)?;
    let length = match virtual_size {
        0 => size_of_raw_data,
        size => size.min(size_of_raw_data),
    };
    Some(Section {
        name,
        offset: pointer_to_raw_data.into(),
        length: length.into(),
    })
}

/// The section of this name that systemd-stub uses by default: of the first profile, otherwise of the part
/// before the profiles.
pub fn find<'a>(sections: &'a [Section], name: &str) -> Option<&'a Section> {
    let mut groups = sections.split(|section| section.is(b".profile"));
    let (base, profile) = (groups.next(), groups.next());
    let mut groups = [profile, base].into_iter().flatten();
    groups.find_map(|group| group.iter().find(|section| section.is(name.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file with an optional header of 4 bytes and these sections: name, VirtualSize, SizeOfRawData and
    /// PointerToRawData.
    fn pe(sections: &[(&[u8; 8], u32, u32, u32)]) -> Vec<u8> {
        let mut file = b"MZ".to_vec();
        file.resize(0x3c, 0xEE);
        file.extend(0x48u32.to_le_bytes());
        file.resize(0x48, 0xEE);
        file.extend(b"PE\0\0\x64\x86");
        file.extend((sections.len() as u16).to_le_bytes());
        file.extend([0xEE; 12]);
        file.extend(4u16.to_le_bytes());
        file.extend([0xEE; 2 + 4]);
        for (name, virtual_size, raw_size, pointer) in sections {
            file.extend(*name);
            for field in [*virtual_size, 0xEEEE_EEEE, *raw_size, *pointer] {
                file.extend(field.to_le_bytes());
            }
            file.extend([0xEE; 16]);
        }
        file
    }

    #[test]
    fn sections_are_where_the_format_has_them() {
        let file = pe(&[
            (b".cmdline", 5, 512, 1024),
            (b".initrd\0", 0x9000, 0x8000, 1536),
            (b".linux\0\0", 0, 512, 99),
        ]);
        let section = |name: &[u8; 8], offset, length| Section {
            name: *name,
            offset,
            length,
        };
        let expected = [
            section(b".cmdline", 1024, 5),
            section(b".initrd\0", 1536, 0x8000),
            section(b".linux\0\0", 99, 512),
        ];
        assert_eq!(sections(&file).unwrap().unwrap(), expected);
        assert_eq!(find(&expected, ".initrd"), Some(&expected[1]));
        assert_eq!(find(&expected, ".cmdline"), Some(&expected[0]));
        assert_eq!(find(&expected, ".init"), None);
    }

    #[test]
    fn the_first_profile_wins_over_what_all_have_in_common() {
        let file = pe(&[
            (b".initrd\0", 1, 1, 1),
            (b".ucode\0\0", 2, 2, 2),
            (b".profile", 3, 3, 3),
            (b".initrd\0", 4, 4, 4),
            (b".profile", 5, 5, 5),
            (b".initrd\0", 6, 6, 6),
            (b".cmdline", 7, 7, 7),
        ]);
        let sections = sections(&file).unwrap().unwrap();
        let offset = |name| find(&sections, name).map(|section| section.offset);
        assert_eq!(offset(".initrd"), Some(4));
        assert_eq!(offset(".ucode"), Some(2));
        assert_eq!(offset(".cmdline"), None);
    }

    #[test]
    fn a_truncated_file_is_an_error_and_another_file_is_none() {
        let file = pe(&[(b".initrd\0", 1, 1, 1)]);
        for length in 0..file.len() {
            // Behind the signature it is one.
            match length {
                0..0x4c => assert_eq!(sections(&file[..length]), Ok(None), "{length}"),
                _ => assert_eq!(
                    sections(&file[..length]),
                    Err("a PE file with a truncated section table"),
                    "{length}"
                ),
            }
        }
        assert_eq!(sections(&pe(&[])), Ok(Some(Vec::new())));
        assert_eq!(sections(b"070701"), Ok(None));
        let mut far = file;
        far[0x3c..0x40].fill(0xff);
        assert_eq!(sections(&far), Ok(None));
    }
}
