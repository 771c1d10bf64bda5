//! dm-verity: the superblock of a hash device, and the parameters of the kernel's target. Pure.
//!
//! Sources: lib/verity/verity.c of cryptsetup (<https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity>),
//! Documentation/admin-guide/device-mapper/verity.rst.

use std::fmt::Write as _;

use crate::bytes::{Cursor, dashed};

/// The length of a superblock, in bytes.
pub const LENGTH: usize = 512;

const MAGIC: &[u8; 8] = b"verity\0\0";

/// The largest block that dm-verity has, in bytes: a page, 64 KiB at most.
const BLOCK_MAX: u32 = 1 << 16;

/// How a device is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// 1 for the usual format, 0 for that of Chromium OS.
    pub hash_type: u32,
    /// The UUID as text; empty without a superblock.
    pub uuid: String,
    /// The hash algorithm, by the kernel's name.
    pub algorithm: String,
    /// Bytes of a block of data: a power of two.
    pub data_block: u32,
    /// Bytes of a block of hashes: a power of two.
    pub hash_block: u32,
    /// The number of blocks of data.
    pub data_blocks: u64,
    /// The salt; may be empty.
    pub salt: Vec<u8>,
}

/// What the kernel does with a block that does not match its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Corruption {
    /// Fails to read it (EIO).
    #[default]
    Error,
    /// Logs it, and reads it.
    Ignore,
    /// Restarts.
    Restart,
    /// Panics.
    Panic,
}

impl Format {
    /// Reads a superblock.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8; LENGTH]) -> std::result::Result<Self, &'static str> {
        const SHORT: &str = "the superblock is cut off";
        let mut cursor = Cursor::new(bytes);
        if cursor.take(8) != Some(MAGIC) {
            return Err("no dm-verity superblock");
        }
        if cursor.le32() != Some(1) {
            return Err("the version of the superblock is not 1");
        }
        let hash_type = cursor.le32().ok_or(SHORT)?;
        let uuid = dashed(cursor.array().ok_or(SHORT)?);
        let algorithm = cursor.take(32).ok_or(SHORT)?;
        let end = algorithm.iter().position(|byte| *byte == 0);
        let algorithm = algorithm.get(..end.unwrap_or(32)).unwrap_or_default();
        let data_block = cursor.le32().ok_or(SHORT)?;
        let hash_block = cursor.le32().ok_or(SHORT)?;
        let data_blocks = cursor.le64().ok_or(SHORT)?;
        let salt_size = cursor.le16().ok_or(SHORT)?;
        cursor.take(6).ok_or(SHORT)?;
        let salt = cursor.take(256).ok_or(SHORT)?;
        let salt = salt.get(..salt_size.into());
        let format = Self {
            hash_type,
            uuid,
            algorithm: String::from_utf8_lossy(algorithm).into_owned(),
            data_block,
            hash_block,
            data_blocks,
            salt: salt.ok_or("the salt has more than 256 bytes")?.to_vec(),
        };
        format.check()?;
        Ok(format)
    }

    /// Whether the kernel can use it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> std::result::Result<(), &'static str> {
        let is_block = |size: u32| size.is_power_of_two() && (512..=BLOCK_MAX).contains(&size);
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_()".contains(c);
        match self {
            _ if self.hash_type > 1 => Err("the hash type is neither 0 nor 1"),
            _ if !is_block(self.data_block) || !is_block(self.hash_block) => {
                Err("a block size is not a power of two from 512 to 65536")
            }
            _ if self.data_blocks == 0 || self.sectors().is_none() => {
                Err("the number of blocks is impossible")
            }
            // It is a word of the table.
            _ if self.algorithm.is_empty() || !self.algorithm.chars().all(is_name) => {
                Err("the name of the hash algorithm is wrong")
            }
            _ => Ok(()),
        }
    }

    /// The length of the data in units of 512 bytes; `None` if that is too large for a device.
    pub fn sectors(&self) -> Option<u64> {
        let bytes = self.data_blocks.checked_mul(self.data_block.into())?;
        i64::try_from(bytes).ok()?;
        Some(bytes / 512)
    }

    /// The parameters of the target `verity`. `data` and `hash` are device numbers as `MAJOR:MINOR`; `hash_start` is
    /// the byte on the hash device at which the superblock is, or without one the tree.
    pub fn table(
        &self,
        data: &str,
        hash: &str,
        hash_start: u64,
        root_hash: &[u8],
        options: &[&str],
    ) -> String {
        let after = match self.uuid.is_empty() {
            true => hash_start,
            false => hash_start.saturating_add(LENGTH as u64),
        };
        let start = after.div_ceil(self.hash_block.max(1).into());
        let salt = match self.salt.as_slice() {
            [] => "-".to_string(),
            salt => hexadecimal(salt),
        };
        let mut table = format!(
            "{} {data} {hash} {} {} {} {start} {} {} {salt}",
            self.hash_type,
            self.data_block,
            self.hash_block,
            self.data_blocks,
            self.algorithm,
            hexadecimal(root_hash),
        );
        if !options.is_empty() {
            let _ = write!(table, " {} {}", options.len(), options.join(" "));
        }
        table
    }
}

impl Corruption {
    /// The parameter of the kernel's target.
    pub fn parameter(self) -> Option<&'static str> {
        match self {
            Self::Error => None,
            Self::Ignore => Some("ignore_corruption"),
            Self::Restart => Some("restart_on_corruption"),
            Self::Panic => Some("panic_on_corruption"),
        }
    }
}

/// Bytes as hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hexadecimal digits of either case.
pub fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks();
    let value = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(value(*high)? << 4 | value(*low)?).ok();
    match rest {
        [] => pairs.iter().map(byte).collect(),
        _ => None,
    }
}

/// Reads base64 of RFC 4648 with its padding, as systemd and base64(1) write it, in one line.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=');
    let (groups, []) = text.as_bytes().as_chunks::<4>() else {
        return None;
    };
    let padding = text.len().saturating_sub(digits.len());
    let mut bytes = Vec::new();
    for group in groups {
        let mut value = 0u32;
        for digit in group {
            let found = DIGITS.iter().position(|other| other == digit);
            // Padding counts as zero; elsewhere than at the end, it makes the text too long.
            let found = found.or((*digit == b'=').then_some(0))?;
            value = value << 6 | u32::try_from(found).ok()?;
        }
        bytes.extend(value.to_be_bytes().into_iter().skip(1));
    }
    let is_padding_at_end = padding <= 2 && !digits.contains('=');
    bytes.truncate(bytes.len().saturating_sub(padding));
    is_padding_at_end.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `veritysetup format --salt=0102 --uuid=...` writes.
    fn superblock() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = 1;
        bytes[12] = 1;
        bytes[16..32].copy_from_slice(&(0..16).collect::<Vec<u8>>());
        bytes[32..38].copy_from_slice(b"sha256");
        bytes[65] = 0x10;
        bytes[69] = 0x10;
        bytes[72] = 200;
        bytes[80] = 2;
        bytes[88..90].copy_from_slice(&[1, 2]);
        bytes
    }

    #[test]
    fn a_superblock_becomes_a_table() {
        let format = Format::parse(&superblock()).unwrap();
        assert_eq!(format.uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(format.sectors(), Some(1600));
        let table =
            |start, options: &[&str]| format.table("254:1", "254:2", start, &[0xab, 0xcd], options);
        assert_eq!(
            table(0, &[]),
            "1 254:1 254:2 4096 4096 200 1 sha256 abcd 0102"
        );
        assert_eq!(
            table(819_200, &["restart_on_corruption", "check_at_most_once"]),
            "1 254:1 254:2 4096 4096 200 201 sha256 abcd 0102 2 restart_on_corruption check_at_most_once"
        );
        let bare = Format {
            uuid: String::new(),
            salt: Vec::new(),
            ..format.clone()
        };
        assert_eq!(
            bare.table("8:1", "8:1", 819_200, &[1], &[]),
            "1 8:1 8:1 4096 4096 200 200 sha256 01 -"
        );
    }

    #[test]
    fn a_wrong_superblock_is_an_error() {
        for (at, value, what) in [
            (0, b'V', "no dm-verity superblock"),
            (8, 2, "the version of the superblock is not 1"),
            (12, 2, "the hash type is neither 0 nor 1"),
            (32, b' ', "the name of the hash algorithm is wrong"),
            (32, 0, "the name of the hash algorithm is wrong"),
            (
                64,
                1,
                "a block size is not a power of two from 512 to 65536",
            ),
            (
                71,
                1,
                "a block size is not a power of two from 512 to 65536",
            ),
            (72, 0, "the number of blocks is impossible"),
            (79, 1, "the number of blocks is impossible"),
            (81, 2, "the salt has more than 256 bytes"),
        ] {
            let mut bytes = superblock();
            bytes[at] = value;
            assert_eq!(Format::parse(&bytes), Err(what), "{at}");
        }
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base64("+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
        for wrong in [
            "Z", "Zg=", "Zg", "Z===", "====", "Zg==Zg==", "Zm9\n", "Zm9-", "Zm=v", "Zm 9",
        ] {
            assert_eq!(from_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(from_hexadecimal("00fFa1"), Some(vec![0, 255, 161]));
        for wrong in ["0", "0g", "+1", "\u{e9}"] {
            assert_eq!(from_hexadecimal(wrong), None);
        }
    }
}
