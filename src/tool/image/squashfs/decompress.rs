//! The compression of blocks.

use std::io;

use crate::format::compress::Codec;
use crate::format::squashfs::SquashfsSuperblock;

/// The error for a damaged image.
pub fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged {what}"))
}

/// A compression that this program decompresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SquashfsAlgorithm {
    /// A zlib stream.
    Zlib,
    /// An LZ4 block.
    Lz4,
    /// A stream of `xz` or `zstd`.
    Stream(Codec),
}

impl SquashfsAlgorithm {
    /// The compression of an image.
    pub fn of(superblock: &SquashfsSuperblock) -> io::Result<Self> {
        let name = superblock.decompressor().map(|(name, _)| name);
        Ok(match name {
            Some("gzip") => Self::Zlib,
            Some("lz4") => Self::Lz4,
            Some("xz") => Self::Stream(Codec::Xz),
            Some("zstd") => Self::Stream(Codec::Zstd),
            name => {
                let name = name.map_or(format!("number {}", superblock.compression), Into::into);
                let what = format!(
                    "compressed with {name}, which this program does not decompress (unsquashfs may)"
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
        })
    }

    /// Decompresses a block, to at most `max` bytes.
    ///
    /// # Errors
    /// The block is damaged, or longer than `max`.
    pub fn decompress(self, packed: &[u8], max: usize) -> io::Result<Vec<u8>> {
        let plain = match self {
            Self::Zlib => miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(packed, max).ok(),
            Self::Lz4 => {
                let mut plain = vec![0; max];
                let length = lz4_flex::block::decompress_into(packed, &mut plain).ok();
                length.map(|length| {
                    plain.truncate(length);
                    plain
                })
            }
            // One byte more shows that a block is too long.
            Self::Stream(codec) => {
                let plain = codec.decompress(packed, (max as u64).saturating_add(1))?;
                (plain.len() <= max).then_some(plain)
            }
        };
        plain.ok_or_else(|| damaged("compressed block"))
    }
}
