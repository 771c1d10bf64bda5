//! Clusters: pieces of content that are decoded independently of each other.

use std::rc::Rc;

use super::{Fault, decompress};
use crate::bytes::ReadAt;

/// How the bytes of a cluster are stored (Z_EROFS_COMPRESSION_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// An LZ4 block.
    Lz4,
    /// MicroLZMA: raw LZMA with its properties in the first byte.
    Lzma,
    /// A raw DEFLATE stream.
    Deflate,
    /// A Zstandard frame.
    Zstd,
    /// Uncompressed, from the first byte on.
    Shifted,
    /// Uncompressed and rotated: each byte at its own offset in the block.
    Interlaced,
}

impl Algorithm {
    /// The algorithm with this number in an index.
    pub(super) fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Lz4,
            1 => Self::Lzma,
            2 => Self::Deflate,
            3 => Self::Zstd,
            _ => return None,
        })
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "LZ4",
            Self::Lzma => "MicroLZMA",
            Self::Deflate => "DEFLATE",
            Self::Zstd => "Zstandard",
            Self::Shifted | Self::Interlaced => "uncompressed",
        }
    }
}

/// Where the stored bytes of a cluster are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packed {
    /// In the image, from an offset on; both in bytes.
    Image {
        /// From the start of the image.
        offset: u64,
        /// At most [`super::PCLUSTER_MAX_SIZE`].
        length: u32,
    },
    /// Here: they were stored with other metadata.
    Bytes(Vec<u8>),
}

/// A physical cluster, and how to decode it. A plain value, so any thread can decode it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its stored bytes.
    pub packed: Packed,
    /// Where these start, for messages.
    pub at: u64,
    /// The length of the decoded data in bytes, at most [`super::PCLUSTER_MAX_DSIZE`].
    pub length: u32,
    /// How it is decoded.
    pub algorithm: Algorithm,
    /// The stored bytes may decode to more than `length` bytes, and other data may follow them.
    pub partial: bool,
    /// Zeros may precede the compressed bytes (EROFS_FEATURE_INCOMPAT_ZERO_PADDING).
    pub zero_padding: bool,
    /// For [`Algorithm::Interlaced`]: the offset of the first decoded byte in its block, and the length of the block.
    pub interlaced: (u32, u32),
}

impl Cluster {
    /// Decodes it into `plain`, which is resized to `length`. `image` is [`super::Image::bytes`].
    pub fn decode(&self, image: &dyn ReadAt, plain: &mut Vec<u8>) -> Result<(), Fault> {
        // The old content is overwritten, so only added bytes are cleared.
        plain.resize(usize::try_from(self.length).unwrap_or(0), 0);
        self.decode_into(image, &mut Vec::new(), plain)
    }

    /// Decodes it into `plain`, which must have `length` bytes. `buffer` receives the stored bytes.
    pub fn decode_into(
        &self,
        image: &dyn ReadAt,
        buffer: &mut Vec<u8>,
        plain: &mut [u8],
    ) -> Result<(), Fault> {
        let packed = match &self.packed {
            Packed::Bytes(bytes) => bytes,
            Packed::Image { offset, length } => {
                buffer.resize(usize::try_from(*length).unwrap_or(0), 0);
                let done = image.read_exact_at(buffer, *offset);
                done.map_err(|error| Fault::of_read(&error, *offset))?;
                buffer
            }
        };
        decompress::decompress(self, packed, plain)
            .map_err(|what| Fault::Decompress(self.algorithm.name(), what, self.at))
    }
}

/// The most recently decoded clusters: metadata and the tails of files share clusters.
#[derive(Default)]
pub(super) struct Cache {
    /// The most recently used one comes last.
    clusters: Vec<(Cluster, Rc<Vec<u8>>)>,
}

impl Cache {
    /// One for the metabox, one for the packed inode, one for a directory, one for a file.
    const CLUSTERS: usize = 4;

    /// The decoded bytes of a cluster.
    pub(super) fn decoded(
        &mut self,
        cluster: &Cluster,
        image: &dyn ReadAt,
    ) -> Result<Rc<Vec<u8>>, Fault> {
        let found = self.clusters.iter().position(|(known, _)| known == cluster);
        let (cluster, plain) = match found {
            Some(index) => self.clusters.remove(index),
            None => {
                let mut plain = match self.clusters.len() < Self::CLUSTERS {
                    true => Vec::new(),
                    false => Rc::try_unwrap(self.clusters.remove(0).1).unwrap_or_default(),
                };
                cluster.decode(image, &mut plain)?;
                (cluster.clone(), Rc::new(plain))
            }
        };
        self.clusters.push((cluster, Rc::clone(&plain)));
        Ok(plain)
    }
}
