//! Cyclic redundancy checks: CRC32 of gzip, xz, GPT and U-Boot images, CRC64 of xz, CRC32C of EROFS. And a hash
//! that tells images apart.

use std::io::{self, Read};
use std::sync::OnceLock;

use crate::bytes::fill;

/// The CRCs of a byte that is followed by 0 to 7 zero bytes; 16 KiB.
type Tables = [[u64; 256]; 8];

/// A CRC32 or CRC64 over bytes that arrive in pieces. Both are bit-reflected, and such a CRC shifts towards
/// its low end, so either width fits a 64-bit register.
///
/// Takes eight bytes per step: byte by byte it is two fifths of the time that gzip takes. The tables are
/// computed at first use, in microseconds; in the executable they would be 32 KiB.
pub(crate) struct Crc {
    tables: &'static Tables,
    ones: u64,
    value: u64,
}

impl Crc {
    /// The CRC32 of IEEE 802.3 (RFC 1952, section 8).
    pub(crate) fn crc32() -> Self {
        static TABLES: OnceLock<Box<Tables>> = OnceLock::new();
        let ones = u64::from(u32::MAX);
        Self {
            tables: TABLES.get_or_init(|| tables(0xedb8_8320)),
            ones,
            value: ones,
        }
    }

    /// The CRC64 of xz, with the polynomial of ECMA-182.
    #[cfg(feature = "xz")]
    pub(crate) fn crc64() -> Self {
        static TABLES: OnceLock<Box<Tables>> = OnceLock::new();
        Self {
            tables: TABLES.get_or_init(|| tables(0xc96c_5795_d787_0f42)),
            ones: u64::MAX,
            value: u64::MAX,
        }
    }

    /// Adds the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        // A byte cannot be outside a table of 256.
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.tables;
        let mut value = self.value;
        let (eights, rest) = bytes.as_chunks();
        for &eight in eights {
            let [a, b, c, d, e, f, g, h] = (value ^ u64::from_le_bytes(eight))
                .to_le_bytes()
                .map(usize::from);
            value = t7[a] ^ t6[b] ^ t5[c] ^ t4[d] ^ t3[e] ^ t2[f] ^ t1[g] ^ t0[h];
        }
        for &byte in rest {
            value = (value >> 8) ^ t0[usize::from(value as u8 ^ byte)];
        }
        self.value = value;
    }

    /// The CRC of the bytes so far. A CRC32 is in the low half.
    pub(crate) fn sum(&self) -> u64 {
        self.value ^ self.ones
    }
}

fn tables(polynomial: u64) -> Box<Tables> {
    let mut tables = Box::new([[0; 256]; 8]);
    let mut table = [0; 256];
    for (byte, sum) in (0u64..).zip(&mut table) {
        *sum = (0..8).fold(byte, |sum, _| (sum >> 1) ^ ((sum & 1) * polynomial));
    }
    let step = table;
    for next in tables.iter_mut() {
        *next = table;
        // Appends a zero byte.
        table = table.map(|sum| (sum >> 8) ^ step[usize::from(sum as u8)]);
    }
    tables
}

/// The kernel's crc32c(~0, bytes): reflected Castagnoli polynomial, initially all ones, not inverted at the
/// end.
///
/// Each EROFS image needs one block of it, and there may be hundreds of images: four constant tables of
/// 1 KiB, four bytes per step.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    static TABLES: [[u32; 256]; 4] = {
        let mut tables = [[0; 256]; 4];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 32 {
                crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
                bit += 1;
                if bit % 8 == 0 {
                    tables[bit / 8 - 1][i] = crc;
                }
            }
            i += 1;
        }
        tables
    };
    let [t0, t1, t2, t3] = &TABLES;
    // A byte cannot be outside a table of 256.
    let (fours, rest) = bytes.as_chunks();
    let mut crc = !0;
    for &four in fours {
        let [a, b, c, d] = (crc ^ u32::from_le_bytes(four)).to_le_bytes();
        let at = usize::from;
        crc = t3[at(a)] ^ t2[at(b)] ^ t1[at(c)] ^ t0[at(d)];
    }
    rest.iter().fold(crc, |crc, byte| {
        (crc >> 8) ^ t0[usize::from(crc as u8 ^ byte)]
    })
}

/// A 128-bit hash of the rest of the input, not cryptographic. Trailing zero bytes may not change it.
pub fn digest(input: &mut dyn Read) -> io::Result<u128> {
    let mut buffer = vec![0; 1 << 16];
    let (mut a, mut b) = (0x9E37_79B9_7F4A_7C15_u64, 0xC2B2_AE3D_27D4_EB4F_u64);
    loop {
        let n = fill(input, &mut buffer)?;
        for word in buffer.get(..n).unwrap_or_default().chunks(8) {
            let mut bytes = [0; 8];
            bytes
                .iter_mut()
                .zip(word)
                .for_each(|(to, from)| *to = *from);
            let word = u64::from_le_bytes(bytes);
            a = (a ^ word)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29);
            b = (b.rotate_left(23) ^ word).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        }
        if n < buffer.len() {
            // The multiplications carry upwards only: mix the high bits back down.
            let (a, b) = (
                a ^ a >> 32 ^ b.rotate_left(17),
                b ^ b >> 29 ^ a.rotate_left(41),
            );
            return Ok(u128::from(a) << 64 | u128::from(b));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each specification gives as the check value; nine bytes take both paths of `update`.
    const CHECK: &[u8] = b"123456789";

    #[test]
    fn crc32_has_the_check_value() {
        let mut crc = Crc::crc32();
        crc.update(CHECK);
        assert_eq!(crc.sum(), 0xCBF4_3926);
    }

    #[test]
    #[cfg(feature = "xz")]
    fn crc64_has_the_check_value_in_pieces_too() {
        for split in 0..=CHECK.len() {
            let (first, rest) = CHECK.split_at(split);
            let mut crc = Crc::crc64();
            crc.update(first);
            crc.update(rest);
            assert_eq!(crc.sum(), 0x995D_C9BB_DF19_39FA, "{split}");
        }
    }

    #[test]
    fn crc32c_has_the_value_of_rfc_3720() {
        assert_eq!(!crc32c(CHECK), 0xE306_9283);
    }
}
