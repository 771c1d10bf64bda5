//! The superblock of a SquashFS image, version 4.
//!
//! Source: `struct squashfs_super_block` of fs/squashfs/squashfs_fs.h, Documentation/filesystems/squashfs.rst.

use std::io;

use crate::bytes::{Cursor, ReadAt};

/// The first bytes of an image.
pub const MAGIC: [u8; 4] = *b"hsqs";

/// The bytes of the superblock.
const SIZE: usize = 96;

/// The only version that the kernel mounts.
const MAJOR: u16 = 4;

/// A superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SquashfsSuperblock {
    /// The number of inodes.
    pub inodes: u32,
    /// The size of a data block in bytes.
    pub block_size: u32,
    /// The number of the compression.
    pub compression: u16,
    /// The length of the image in bytes, without the padding of mksquashfs(1).
    pub bytes_used: u64,
}

impl SquashfsSuperblock {
    /// Reads the superblock of the image that starts at `offset`; `None`: there is none.
    pub fn read(source: &dyn ReadAt, offset: u64) -> io::Result<Option<Self>> {
        let mut bytes = [0; SIZE];
        match source.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            done => done?,
        }
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Cursor::new(bytes);
        let s_magic = fields.array::<4>()?;
        let inodes = fields.le32()?;
        let _mkfs_time = fields.le32()?;
        let block_size = fields.le32()?;
        let _fragments = fields.le32()?;
        let compression = fields.le16()?;
        let _block_log = fields.le16()?;
        let _flags = fields.le16()?;
        let _no_ids = fields.le16()?;
        let s_major = fields.le16()?;
        let _s_minor = fields.le16()?;
        let _root_inode = fields.le64()?;
        let bytes_used = fields.le64()?;
        (s_magic == MAGIC && s_major == MAJOR).then_some(Self {
            inodes,
            block_size,
            compression,
            bytes_used,
        })
    }

    /// The name of the compression, and the kernel option that decompresses it, with `CONFIG_`.
    pub fn decompressor(&self) -> Option<(&'static str, &'static str)> {
        Some(match self.compression {
            1 => ("gzip", "CONFIG_SQUASHFS_ZLIB"),
            3 => ("lzo", "CONFIG_SQUASHFS_LZO"),
            4 => ("xz", "CONFIG_SQUASHFS_XZ"),
            5 => ("lz4", "CONFIG_SQUASHFS_LZ4"),
            6 => ("zstd", "CONFIG_SQUASHFS_ZSTD"),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_where_the_kernel_has_them() {
        let mut image = [0; SIZE];
        image[..4].copy_from_slice(b"hsqs");
        image[4] = 7;
        image[12..16].copy_from_slice(&131_072_u32.to_le_bytes());
        image[20] = 6;
        image[28] = 4;
        image[40..48].copy_from_slice(&5000_u64.to_le_bytes());
        let superblock = SquashfsSuperblock::read(&&image[..], 0).unwrap().unwrap();
        assert_eq!(
            superblock,
            SquashfsSuperblock {
                inodes: 7,
                block_size: 131_072,
                compression: 6,
                bytes_used: 5000,
            }
        );
        assert_eq!(
            superblock.decompressor(),
            Some(("zstd", "CONFIG_SQUASHFS_ZSTD"))
        );
        // Version 3, and an image that is cut off.
        assert_eq!(SquashfsSuperblock::read(&&image[..95], 0).unwrap(), None);
        image[28] = 3;
        assert_eq!(SquashfsSuperblock::read(&&image[..], 0).unwrap(), None);
    }
}
