//! The bootconfig trailer (Documentation/admin-guide/bootconfig.rst).

use std::io;

use super::{Kind, Segment};
use crate::bytes::{Cursor, ReadAt};
use crate::format::cpio;

const MAGIC: &[u8] = b"#BOOTCONFIG\n";

/// The longest text (XBC_DATA_MAX in include/linux/bootconfig.h).
const DATA_MAX: u32 = 32767;

/// The longest trailer: text, size, checksum, magic number, and padding by GRUB.
pub(super) const LENGTH_MAX: u64 = DATA_MAX as u64 + 8 + MAGIC.len() as u64 + 3;

/// What the magic number ends.
pub(super) enum Trailer {
    /// The kernel removes it from the initrd.
    Intact(Segment),
    /// The kernel ignores it. Its start is unknown, because its size may be wrong.
    Damaged,
}

/// Finds a bootconfig trailer: text, size and checksum (both little endian), and a magic number at the very
/// end or up to 3 bytes before it (get_boot_config_from_initrd() in init/main.c).
pub(super) fn find(image: &dyn ReadAt) -> io::Result<Option<Trailer>> {
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
        let offset = header.checked_sub(length.into());
        let Some(offset) = offset.filter(|_| length <= DATA_MAX) else {
            return Ok(Some(Trailer::Damaged));
        };
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        image.read_exact_at(&mut text, offset)?;
        return Ok(Some(match cpio::sum(0, &text) == stored {
            true => Trailer::Intact(Segment {
                offset,
                length: size.saturating_sub(offset),
                kind: Kind::Bootconfig { intact: true },
            }),
            false => Trailer::Damaged,
        }));
    }
    Ok(None)
}
