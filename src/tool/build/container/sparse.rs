//! Sparse files of GNU tar in the pax format, versions 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").
//! The tar crate reads those of the GNU format.

use std::io::{BufRead, BufReader, Read, Write};

use super::file_slice::FileSlice;
use super::pax::{PaxRecord, number};
use crate::bytes::ReadAt;

/// The most pieces of a sparse file.
const PIECES_MAX: usize = 1 << 20;

/// A sparse file: its pieces with data, and where the data is stored.
#[derive(Debug)]
pub struct Sparse {
    /// The size of the file, in bytes.
    pub size: u64,
    /// Offset and length of each piece, in order.
    pieces: Vec<(u64, u64)>,
    /// The offset of the data of the first piece in the stored bytes; the others follow directly.
    data: u64,
}

/// The real name of a sparse file; the name of its member only resembles it.
pub fn name<'a>(records: &[PaxRecord<'a>]) -> Option<&'a [u8]> {
    value(records, b"GNU.sparse.name")
}

/// The map of a sparse file whose member stores `stored`. `None`: it is not a sparse file.
///
/// # Errors
/// The map is invalid.
pub fn map(records: &[PaxRecord<'_>], stored: &FileSlice) -> Result<Option<Sparse>, &'static str> {
    const INVALID: &str = "the map of a sparse file is invalid";
    let get = |key: &[u8]| value(records, key).and_then(number);
    let (pieces, size, data) = match (value(records, b"GNU.sparse.major"), get(b"GNU.sparse.size"))
    {
        (Some(b"1"), _) => {
            let (pieces, data) = leading_map(stored).ok_or(INVALID)?;
            (pieces, get(b"GNU.sparse.realsize").ok_or(INVALID)?, data)
        }
        (Some(_), _) => return Err("a sparse file in an unknown format"),
        (None, Some(size)) => {
            let numbers: Option<Vec<u64>> = match value(records, b"GNU.sparse.map") {
                Some(b"") => Some(Vec::new()),
                Some(map) => map.split(|byte| *byte == b',').map(number).collect(),
                None => {
                    let parts = records.iter().filter(|(key, _)| {
                        matches!(*key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes")
                    });
                    parts.map(|(_, value)| number(value)).collect()
                }
            };
            let numbers = numbers.ok_or(INVALID)?;
            let (pairs, rest) = numbers.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(INVALID);
            }
            (pairs.iter().map(|[a, b]| (*a, *b)).collect(), size, 0)
        }
        (None, None) => return Ok(None),
    };
    let (mut end, mut total) = (0u64, data);
    for (offset, length) in &pieces {
        if *offset < end {
            return Err(INVALID);
        }
        end = offset.checked_add(*length).ok_or(INVALID)?;
        total = total.checked_add(*length).ok_or(INVALID)?;
    }
    if end > size || total > stored.size() {
        return Err(INVALID);
    }
    Ok(Some(Sparse { size, pieces, data }))
}

impl Sparse {
    /// Writes the pieces: `place` is called with the offset of each, before its data.
    pub fn expand(
        &self,
        stored: &FileSlice,
        mut place: impl FnMut(u64, &mut dyn Read) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut at = self.data;
        for (offset, length) in &self.pieces {
            let piece = stored
                .part(at, *length)
                .ok_or(std::io::ErrorKind::UnexpectedEof)?;
            place(*offset, &mut piece.reader())?;
            at = at.saturating_add(*length);
        }
        Ok(())
    }
}

fn value<'a>(records: &[PaxRecord<'a>], key: &[u8]) -> Option<&'a [u8]> {
    // The last one wins.
    let found = records.iter().rev().find(|(name, _)| *name == key);
    found.map(|(_, value)| *value)
}

/// The map of version 1.0 before the data: decimal numbers, each on a line, padded to 512 bytes. Also returns
/// its length.
fn leading_map(stored: &FileSlice) -> Option<(Vec<(u64, u64)>, u64)> {
    /// Digits of a 64-bit number, and the newline.
    const LINE_MAX: u64 = 21;
    let mut reader = BufReader::new(stored.reader());
    let mut length = 0u64;
    let mut next = || {
        let mut line = Vec::new();
        let n = reader
            .by_ref()
            .take(LINE_MAX)
            .read_until(b'\n', &mut line)
            .ok()?;
        length = length.saturating_add(n as u64);
        number(line.strip_suffix(b"\n")?)
    };
    let count = usize::try_from(next()?)
        .ok()
        .filter(|count| *count <= PIECES_MAX)?;
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push((next()?, next()?));
    }
    Some((pieces, length.checked_next_multiple_of(512)?))
}

/// Whether all bytes are zero. Compares 16 at a time.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// Copies a file, and leaves holes for its zeros. `seek` moves the position by a number of bytes.
pub fn copy_with_holes<W: Write + std::io::Seek>(
    from: &mut dyn Read,
    to: &mut W,
) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0u64;
    loop {
        let n = crate::bytes::fill(from, &mut buffer)?;
        let bytes = buffer.get(..n).unwrap_or_default();
        match is_zero(bytes) {
            true => {
                to.seek_relative(i64::try_from(n).unwrap_or(0))?;
            }
            false => to.write_all(bytes)?,
        }
        total = total.saturating_add(n as u64);
        if n < buffer.len() {
            return Ok(total);
        }
    }
}
