//! The checksums of gzip and xz.

use std::sync::OnceLock;

/// Eight tables of 16 KiB in all: the sum of a byte that has 0 to 7 bytes after it.
type Tables = [[u64; 256]; 8];

/// CRC32 or CRC64, bit-reflected. A reflected CRC shifts towards its low end, so both widths fit
/// the same 64-bit register.
///
/// Eight bytes at a time: gzip spends two fifths of its time here when it goes byte by byte. The
/// tables are made at first use, in microseconds, because in the file they would be 32 KiB.
pub(crate) struct Crc {
    tables: &'static Tables,
    ones: u64,
    value: u64,
}

impl Crc {
    /// The CRC of gzip (RFC 1952, section 8) and of all xz headers.
    pub(crate) fn of32() -> Crc {
        static TABLES: OnceLock<Box<Tables>> = OnceLock::new();
        let ones = u64::from(u32::MAX);
        Crc {
            tables: TABLES.get_or_init(|| tables(0xedb8_8320)),
            ones,
            value: ones,
        }
    }

    /// xz's CRC64, of ECMA-182.
    #[cfg(feature = "xz")]
    pub(super) fn of64() -> Crc {
        static TABLES: OnceLock<Box<Tables>> = OnceLock::new();
        Crc {
            tables: TABLES.get_or_init(|| tables(0xc96c_5795_d787_0f42)),
            ones: u64::MAX,
            value: u64::MAX,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        // A byte can't be outside a table of 256.
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

    pub(crate) fn sum(&self) -> u64 {
        self.value ^ self.ones
    }
}

fn tables(polynomial: u64) -> Box<Tables> {
    let mut tables = Box::new([[0; 256]; 8]);
    let mut before = [0; 256];
    for (byte, sum) in (0u64..).zip(&mut before) {
        *sum = (0..8).fold(byte, |sum, _| (sum >> 1) ^ ((sum & 1) * polynomial));
    }
    let step = before;
    for table in tables.iter_mut() {
        *table = before;
        // A zero byte after it.
        before = before.map(|sum| (sum >> 8) ^ step[usize::from(sum as u8)]);
    }
    tables
}
