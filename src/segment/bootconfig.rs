//! The bootconfig trailer (Documentation/admin-guide/bootconfig.rst).

use std::io::{self, BufRead};

use super::{Kind, Segment};
use crate::bytes::{Cursor, ReadAt, Reader};

/// Finds a bootconfig trailer: its text, size and checksum (both little endian), and a magic word
/// at the very end, or up to 3 bytes before it (get_boot_config_from_initrd in init/main.c).
pub(super) fn find(image: &dyn ReadAt) -> io::Result<Option<Segment>> {
    const MAGIC: &[u8] = b"#BOOTCONFIG\n";
    let size = image.size();
    for padding in 0..4 {
        let Some(header) = size.checked_sub(8 + MAGIC.len() as u64 + padding) else {
            break;
        };
        let mut bytes = [0; 20];
        image.read_exact_at(&mut bytes, header)?;
        let mut cursor = Cursor::new(&bytes);
        let (Some(length), Some(stored)) = (cursor.le32(), cursor.le32()) else {
            break;
        };
        if cursor.rest() != MAGIC {
            continue;
        }
        let Some(offset) = header.checked_sub(length.into()) else {
            break;
        };
        let mut reader = Reader::bounded(image, offset, header);
        let mut sum = 0u32;
        loop {
            let ahead = reader.fill_buf()?;
            if ahead.is_empty() {
                break;
            }
            sum = ahead
                .iter()
                .fold(sum, |sum, byte| sum.wrapping_add((*byte).into()));
            let n = ahead.len();
            reader.consume(n);
        }
        return Ok(Some(Segment {
            offset,
            length: size.saturating_sub(offset),
            kind: Kind::Bootconfig {
                intact: sum == stored,
            },
        }));
    }
    Ok(None)
}
