//! Fields of on-disk structures.

use std::io;

use crate::bytes::{Cursor, ReadAt, dashed};

/// `N` bytes at `offset`; `None` where the device ends before that.
pub(super) fn block<const N: usize>(
    device: &dyn ReadAt,
    offset: u64,
) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match device.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// A cursor at `offset` of an on-disk structure.
pub(super) fn field(block: &[u8], offset: usize) -> Cursor<'_> {
    Cursor::new(block.get(offset..).unwrap_or_default())
}

/// A UUID as text; `None` if it is all zeros.
pub(super) fn uuid(bytes: [u8; 16]) -> Option<String> {
    (bytes != [0; 16]).then(|| dashed(bytes))
}

/// A label up to the first NUL, without trailing white space; `None` if that is empty.
pub(super) fn label(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    trimmed(String::from_utf8_lossy(text).into_owned())
}

/// The same of UTF-16 units.
pub(super) fn wide_label(units: impl Iterator<Item = u16>) -> Option<String> {
    let units = units.take_while(|unit| *unit != 0);
    trimmed(
        char::decode_utf16(units)
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
    )
}

fn trimmed(mut text: String) -> Option<String> {
    let end = text
        .trim_end_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
        .len();
    text.truncate(end);
    Some(text).filter(|text| !text.is_empty())
}

/// Little-endian UTF-16 units.
pub(super) fn le_units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let (pairs, _) = bytes.as_chunks();
    pairs.iter().map(|pair| u16::from_le_bytes(*pair))
}
