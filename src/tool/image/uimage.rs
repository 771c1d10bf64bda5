//! The header of a U-Boot ramdisk (mkimage(1)). Pure.
//!
//! Source: include/image.h of U-Boot, `struct legacy_img_hdr`; all numbers are big endian.

use std::io::{self, BufRead};

use crate::bytes::Cursor;
use crate::format::checksum::Crc;

/// Length of the header in bytes.
pub const HEADER: usize = 64;

const MAGIC: [u8; 4] = 0x2705_1956_u32.to_be_bytes();

/// IH_TYPE_RAMDISK.
const RAMDISK: u8 = 3;

/// The fields of a ramdisk's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UimageRamdisk {
    /// Length of the ramdisk in bytes (ih_size).
    pub length: u32,
    /// CRC32 of the ramdisk (ih_dcrc).
    pub crc: u32,
}

/// Reads the header at the start of a file; `None` if it has none. The error says why U-Boot refuses it.
pub fn ramdisk(head: &[u8]) -> Result<Option<UimageRamdisk>, String> {
    let mut cursor = Cursor::new(head);
    if cursor.array() != Some(MAGIC) {
        return Ok(None);
    }
    let header = head.get(..HEADER).and_then(fields);
    let (stored, computed, header, image_type) =
        header.ok_or("a U-Boot image with a truncated header")?;
    if stored != computed {
        return Err(format!(
            "the header of this U-Boot image has the CRC {computed:#010x} and says {stored:#010x}: U-Boot refuses it"
        ));
    }
    match image_type {
        RAMDISK => Ok(Some(header)),
        other => Err(format!(
            "a U-Boot image of type {other}; a ramdisk has {RAMDISK}"
        )),
    }
}

/// The stored CRC of the header, the computed one, the ramdisk's fields, and the type of the image.
fn fields(header: &[u8]) -> Option<(u32, u32, UimageRamdisk, u8)> {
    let mut cursor = Cursor::new(header);
    let be32 = |cursor: &mut Cursor| cursor.array().map(u32::from_be_bytes);
    let magic = cursor.take(4)?;
    let ih_hcrc = be32(&mut cursor)?;
    let rest = cursor.rest();
    let _ih_time = be32(&mut cursor)?;
    let length = be32(&mut cursor)?;
    let _ih_load = be32(&mut cursor)?;
    let _ih_ep = be32(&mut cursor)?;
    let crc = be32(&mut cursor)?;
    let _ih_os = cursor.u8()?;
    let _ih_arch = cursor.u8()?;
    let ih_type = cursor.u8()?;
    // The field itself counts as zeros.
    let mut computed = Crc::crc32();
    for piece in [magic, &[0; 4], rest] {
        computed.update(piece);
    }
    let computed = computed.sum() as u32;
    Some((ih_hcrc, computed, UimageRamdisk { length, crc }, ih_type))
}

/// The CRC32 of the rest of `input`.
pub fn crc(input: &mut impl BufRead) -> io::Result<u32> {
    let mut crc = Crc::crc32();
    loop {
        let ahead = input.fill_buf()?;
        let n = ahead.len();
        if n == 0 {
            return Ok(crc.sum() as u32);
        }
        crc.update(ahead);
        input.consume(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `mkimage -A arm64 -T ramdisk -C none -n initrd` puts before the three bytes "abc", but for the time.
    const HEAD: [u8; HEADER] = *b"\x27\x05\x19\x56\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\
        \x00\x00\x00\x00\x00\x00\x00\x00\x35\x24\x41\xc2\x05\x16\x03\x00\
        initrd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    fn signed(mut head: [u8; HEADER]) -> [u8; HEADER] {
        head[4..8].fill(0);
        let crc = crc(&mut &head[..]).unwrap();
        head[4..8].copy_from_slice(&crc.to_be_bytes());
        head
    }

    #[test]
    fn a_ramdisk_is_known_by_its_header() {
        assert_eq!(crc(&mut &b"abc"[..]).unwrap(), 0x3524_41c2);
        let expected = UimageRamdisk {
            length: 3,
            crc: 0x3524_41c2,
        };
        assert_eq!(ramdisk(&signed(HEAD)), Ok(Some(expected)));
        assert_eq!(ramdisk(b"070701"), Ok(None));
        assert_eq!(ramdisk(b""), Ok(None));
    }

    #[test]
    fn what_u_boot_refuses_is_refused() {
        let head = signed(HEAD);
        for length in 4..HEADER {
            let cut = Err("a U-Boot image with a truncated header".into());
            assert_eq!(ramdisk(&head[..length]), cut);
        }
        let mut kernel = HEAD;
        kernel[30] = 2;
        let other = "a U-Boot image of type 2; a ramdisk has 3";
        assert_eq!(ramdisk(&signed(kernel)), Err(other.into()));
        for at in 4..HEADER {
            let mut flipped = head;
            flipped[at] ^= 1;
            let error = ramdisk(&flipped).unwrap_err();
            assert!(error.ends_with("U-Boot refuses it"), "{at}: {error}");
        }
    }
}
