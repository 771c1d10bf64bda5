//! EROFS images: the superblock, and the files in them.
//!
//! Source: fs/erofs/erofs_fs.h of Linux 7.2, whose field names are kept, and fs/erofs/super.c. The
//! [`Superblock`] says where an image starts and ends, whether it is whole, and what a kernel must
//! support to mount it. [`Image`] reads the files without mounting: everything that mkfs.erofs
//! writes, but for data on other devices, which is refused.
//!
//! A hostile image costs at most [`PCLUSTER_MAX_DSIZE`] of memory for each cluster, and each loop ends, because every
//! round consumes another part of the image. Callers must limit the total size of the files: clusters may be shared,
//! and files may be sparse.

mod decompress;
mod fault;

mod cluster;
mod dir;
mod inode;
mod xattr;

mod image;
mod index;

mod chain;
mod records;

mod zmap;

mod map;

mod limits;

mod walk;

pub use cluster::{Algorithm, Cluster, Packed};
pub use dir::{Dirent, Entries};
pub use fault::Fault;
pub use image::Image;
pub use inode::Inode;
pub use limits::Limits;
pub use map::{Data, Extent, Extents, InodeContent};
pub use xattr::Xattr;
pub use zmap::{PCLUSTER_MAX_DSIZE, PCLUSTER_MAX_SIZE};

use std::{fmt, io};

use super::checksum::crc32c;
use crate::bytes::{Cursor, ReadAt, dashed};

/// The superblock lies this many bytes into the image (EROFS_SUPER_OFFSET).
pub const SUPER_OFFSET: u64 = 1024;

/// EROFS_SUPER_MAGIC_V1 as it stands in the image.
pub const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();

const SUPER_LEN: usize = 128;

/// Features that a kernel may ignore (EROFS_FEATURE_COMPAT_*), by bit.
const COMPAT: [&str; 6] = [
    "sb_chksum",
    "mtime",
    "xattr_filter",
    "shared_ea_in_metabox",
    "plain_xattr_pfx",
    "ishare_xattrs",
];

/// Features without which a kernel must refuse the image (EROFS_FEATURE_INCOMPAT_*), by bit.
/// Bits 1, 3 and 5 each have two names in the header.
const INCOMPAT: [&str; 9] = [
    "0padding",
    "big_pcluster/compr_cfgs",
    "chunked_file",
    "device_table/compr_head2",
    "ztailpacking",
    "fragments/dedupe",
    "xattr_prefixes",
    "48bit",
    "metabox",
];

const COMPAT_SB_CHKSUM: u32 = 1 << 0;

/// EROFS_FEATURE_COMPAT_SHARED_EA_IN_METABOX: attributes that inodes share lie in the metabox.
const COMPAT_SHARED_EA_IN_METABOX: u32 = 1 << 3;

/// EROFS_FEATURE_COMPAT_PLAIN_XATTR_PFX: prefixes of attributes lie in the image, not in the packed inode.
pub const COMPAT_PLAIN_XATTR_PFX: u32 = 1 << 4;

/// EROFS_FEATURE_INCOMPAT_ZERO_PADDING: the image may hold compressed data, of LZ4 without the next feature.
pub const INCOMPAT_0PADDING: u32 = 1 << 0;
/// EROFS_FEATURE_INCOMPAT_COMPR_CFGS: the superblock names the algorithms.
const INCOMPAT_COMPR_CFGS: u32 = 1 << 1;
/// EROFS_FEATURE_INCOMPAT_DEVICE_TABLE: data may lie on other devices.
const INCOMPAT_DEVICE_TABLE: u32 = 1 << 3;
/// EROFS_FEATURE_INCOMPAT_FRAGMENTS: there may be a packed inode.
pub const INCOMPAT_FRAGMENTS: u32 = 1 << 5;
/// EROFS_FEATURE_INCOMPAT_48BIT: block numbers may have 48 bits, and the root any number.
const INCOMPAT_48BIT: u32 = 1 << 7;
/// EROFS_FEATURE_INCOMPAT_METABOX: inodes may lie, compressed, in a file of the image.
pub const INCOMPAT_METABOX: u32 = 1 << 8;

/// Compression algorithms by bit of `available_compr_algs` (Z_EROFS_COMPRESSION_*).
const ALGORITHMS: [&str; 4] = ["lz4", "lzma", "deflate", "zstd"];

/// The fields of a superblock that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Features that a kernel may ignore, as stored.
    pub feature_compat: u32,
    /// Features that a kernel must know, as stored.
    pub feature_incompat: u32,
    /// Block size as a power of two: 9 to 16.
    pub blkszbits: u8,
    /// Length of the image in blocks; up to 48 bits.
    pub blocks: u64,
    /// The root directory's inode.
    pub root_nid: u64,
    /// The base of a compact inode's time, in seconds since 1970.
    pub epoch: i64,
    /// The nanoseconds of every compact inode's time.
    pub fixed_nsec: u32,
    /// Units of 16 bytes by which the superblock is longer than 128 bytes.
    pub sb_extslots: u8,
    /// The block that inode numbers count from.
    pub meta_blkaddr: u32,
    /// The block that the numbers of shared attributes count from.
    pub xattr_blkaddr: u32,
    /// Blocks in a piece of a directory, as a power of two; kernels support 0 only.
    pub dirblkbits: u8,
    /// Number of prefixes of attributes that the image defines.
    pub xattr_prefix_count: u8,
    /// Where they start, in units of four bytes.
    pub xattr_prefix_start: u32,
    /// The packed inode, which holds fragments of files.
    pub packed_nid: u64,
    /// Number of inodes.
    pub inos: u64,
    /// Volume UUID.
    pub uuid: [u8; 16],
    /// Volume label, NUL padded.
    pub volume_name: [u8; 16],
    /// Bitmap of algorithms, where the compr_cfgs feature is set; else the LZ4 window.
    pub available_compr_algs: u16,
    /// Devices besides this one that the image needs.
    pub extra_devices: u16,
    /// Whether the stored checksum is correct.
    pub checksum: Checksum,
}

/// The state of a superblock's crc32c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The image carries none (no sb_chksum feature).
    None,
    /// It is correct.
    Good,
    /// It is wrong: the kernel refuses the image with EBADMSG.
    Bad {
        /// As stored in the image.
        stored: u32,
        /// As it should be.
        computed: u32,
    },
    /// The block that it covers is truncated.
    Truncated,
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Good => f.write_str("good"),
            Self::Bad { stored, computed } => {
                write!(f, "bad (stored {stored:#010x}, computed {computed:#010x})")
            }
            Self::Truncated => f.write_str("truncated"),
        }
    }
}

impl Superblock {
    /// Looks for a superblock of an image that would start at `offset`, which may be unaligned. `None` if there is
    /// none (no magic, or fields that no EROFS image has).
    pub fn read(image: &dyn ReadAt, offset: u64) -> io::Result<Option<Self>> {
        let Some(at) = offset.checked_add(SUPER_OFFSET) else {
            return Ok(None);
        };
        let mut bytes = [0; SUPER_LEN];
        match image.read_exact_at(&mut bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            done => done?,
        }
        let Some((mut superblock, stored)) = Self::decode(&bytes) else {
            return Ok(None);
        };
        if superblock.feature_compat & COMPAT_SB_CHKSUM != 0 {
            superblock.checksum = verify(image, at, superblock.blkszbits, stored)?;
        }
        Ok(Some(superblock))
    }

    /// Decodes the superblock in `bytes`. Returns the stored checksum unverified.
    fn decode(bytes: &[u8; SUPER_LEN]) -> Option<(Self, u32)> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array()? != MAGIC {
            return None;
        }
        let checksum = cursor.le32()?;
        let feature_compat = cursor.le32()?;
        let blkszbits = cursor.u8()?;
        let sb_extslots = cursor.u8()?;
        let rb = cursor.le16()?;
        let inos = cursor.le64()?;
        let epoch = cursor.le64()?.cast_signed();
        let fixed_nsec = cursor.le32()?;
        let blocks_lo = cursor.le32()?;

        let meta_blkaddr = cursor.le32()?;
        let xattr_blkaddr = cursor.le32()?;
        let uuid = cursor.array()?;
        let volume_name = cursor.array()?;
        let feature_incompat = cursor.le32()?;
        let available_compr_algs = cursor.le16()?;
        let extra_devices = cursor.le16()?;
        let _devt_slotoff = cursor.le16()?;
        let dirblkbits = cursor.u8()?;
        let xattr_prefix_count = cursor.u8()?;
        let xattr_prefix_start = cursor.le32()?;
        let packed_nid = cursor.le64()?;
        let _reserved = cursor.take(4)?;
        let _build_time = cursor.le32()?;
        let rootnid_8b = cursor.le64()?;

        // The kernel takes 512 bytes (bit 9) to a page; pages have up to 64 KiB.
        if !(9..=16).contains(&blkszbits) {
            return None;
        }
        // The same 16 bits are the root's number, or the upper bits of the number of blocks if the root has its own
        // field.
        let wide = feature_incompat & INCOMPAT_48BIT != 0 && rootnid_8b != 0;
        let (blocks_hi, root_nid) = match wide {
            true => (rb, rootnid_8b),
            false => (0, rb.into()),
        };
        let superblock = Self {
            feature_compat,
            feature_incompat,
            blkszbits,
            blocks: u64::from(blocks_lo) | u64::from(blocks_hi) << 32,
            root_nid,
            epoch,
            fixed_nsec,
            sb_extslots,
            meta_blkaddr,
            xattr_blkaddr,
            dirblkbits,
            xattr_prefix_count,
            xattr_prefix_start,
            packed_nid,
            inos,
            uuid,
            volume_name,
            available_compr_algs,
            extra_devices,
            checksum: Checksum::None,
        };
        Some((superblock, checksum))
    }

    /// Block size in bytes.
    pub fn block_size(&self) -> u64 {
        1 << self.blkszbits
    }

    /// Length of the image in bytes.
    pub fn length(&self) -> u64 {
        // 48 bits of blocks of 16 bits: cannot overflow.
        self.blocks << self.blkszbits
    }

    /// The volume label, without its padding.
    pub fn label(&self) -> String {
        let end = self.volume_name.iter().position(|byte| *byte == 0);
        let label = self
            .volume_name
            .get(..end.unwrap_or(16))
            .unwrap_or_default();
        String::from_utf8_lossy(label).into_owned()
    }

    /// The volume UUID in its usual form.
    pub fn uuid(&self) -> String {
        dashed(self.uuid)
    }

    /// Names of the features, those that may be ignored first; unknown ones as `compat:0x..` and
    /// `incompat:0x..`.
    pub fn features(&self) -> Vec<String> {
        let mut names = bits(self.feature_compat, &COMPAT, "compat");
        names.extend(bits(self.feature_incompat, &INCOMPAT, "incompat"));
        names
    }

    /// Bits of feature_incompat that Linux 7.2 does not know: no kernel so far mounts this.
    pub fn unknown_incompat(&self) -> u32 {
        self.feature_incompat & !((1 << INCOMPAT.len()) - 1)
    }

    /// Names of the compression algorithms that the superblock lists. Without the compr_cfgs feature: lz4, if the
    /// superblock has a window for it or the 0padding feature.
    pub fn algorithms(&self) -> Vec<String> {
        let window = self.available_compr_algs;
        match self.feature_incompat & (INCOMPAT_COMPR_CFGS | INCOMPAT_0PADDING) {
            0 if window == 0 => Vec::new(),
            features if features & INCOMPAT_COMPR_CFGS == 0 => vec!["lz4".into()],
            _ => bits(window.into(), &ALGORITHMS, "algorithm"),
        }
    }

    /// Whether the superblock lists a compression algorithm.
    pub fn is_compressed(&self) -> bool {
        self.available_compr_algs != 0 || self.feature_incompat & INCOMPAT_0PADDING != 0
    }

    /// Why the image cannot be mounted as a layer, if a part of it lies on other devices.
    pub fn in_pieces(&self) -> Option<String> {
        let devices = match self.extra_devices {
            0 => return None,
            1 => "1 more device".to_string(),
            n => format!("{n} more devices"),
        };
        Some(format!(
            "the image needs {devices}: only images of one piece can be mounted"
        ))
    }
}

/// The names of the bits set in `value`; the bits without a name in one hexadecimal number.
fn bits(value: u32, names: &[&str], unknown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = value;
    for (bit, name) in names.iter().enumerate() {
        let mask = 1u32.checked_shl(bit as u32).unwrap_or(0);
        if value & mask != 0 {
            found.push((*name).to_string());
        }
        rest &= !mask;
    }
    if rest != 0 {
        found.push(format!("{unknown}:{rest:#x}"));
    }
    found
}

/// Checks the crc32c over the superblock's block from the superblock on, the checksum field
/// taken as 0 (erofs_superblock_csum_verify in fs/erofs/super.c). `at` is where the superblock is.
fn verify(image: &dyn ReadAt, at: u64, blkszbits: u8, stored: u32) -> io::Result<Checksum> {
    let block = 1usize << blkszbits;
    let mut bytes = vec![
        0;
        block
            .checked_sub(SUPER_OFFSET as usize)
            .filter(|n| *n > 0)
            .unwrap_or(block)
    ];
    match image.read_exact_at(&mut bytes, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Checksum::Truncated);
        }
        done => done?,
    }
    if let Some(field) = bytes.get_mut(4..8) {
        field.fill(0);
    }
    let computed = crc32c(&bytes);
    Ok(match computed == stored {
        true => Checksum::Good,
        false => Checksum::Bad { stored, computed },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of an image with block size 4096 and `blocks` blocks.
    fn image(blocks: u32, compat: u32, incompat: u32) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[1024..1028].copy_from_slice(&MAGIC);
        image[1032..1036].copy_from_slice(&compat.to_le_bytes());
        image[1036] = 12;
        image[1038..1040].copy_from_slice(&7u16.to_le_bytes());
        image[1060..1064].copy_from_slice(&blocks.to_le_bytes());
        image[1072..1088].copy_from_slice(&[0xAB; 16]);
        image[1088..1092].copy_from_slice(b"base");
        image[1104..1108].copy_from_slice(&incompat.to_le_bytes());
        let crc = crc32c(&image[1024..]);
        image[1028..1032].copy_from_slice(&crc.to_le_bytes());
        image
    }

    fn read(image: &[u8]) -> Option<Superblock> {
        Superblock::read(&image, 0).unwrap()
    }

    #[test]
    fn fields_are_where_the_kernel_has_them() {
        let sb = read(&image(3, 1, 0x22)).unwrap();
        assert_eq!((sb.block_size(), sb.length()), (4096, 3 * 4096));
        assert_eq!(sb.label(), "base");
        assert_eq!(sb.uuid(), "abababab-abab-abab-abab-abababababab");
        assert_eq!(
            sb.features(),
            ["sb_chksum", "big_pcluster/compr_cfgs", "fragments/dedupe"]
        );
        assert_eq!(sb.checksum, Checksum::Good);
        assert_eq!(sb.unknown_incompat(), 0);
    }

    #[test]
    fn lz4_is_named_with_and_without_a_list_of_algorithms() {
        // What mkfs.erofs 1.8.6 writes: uncompressed, -zlz4, -Elegacy-compress -zlz4, -zlz4 -C65536,
        // -zlz4:zstd.
        for (incompat, field, expected) in [
            (0, 0, &[][..]),
            (1, 0xffff, &["lz4"]),
            (0, 0xffff, &["lz4"]),
            (3, 1, &["lz4"]),
            (3, 9, &["lz4", "zstd"]),
        ] {
            let mut image = image(1, 0, incompat);
            image[1108..1110].copy_from_slice(&u16::to_le_bytes(field));
            assert_eq!(read(&image).unwrap().algorithms(), expected, "{incompat}");
        }
    }

    #[test]
    fn sixteen_bits_are_the_roots_or_the_block_counts_upper_ones() {
        let read = |incompat, rootnid_8b: u64| {
            let mut image = image(1, 0, incompat);
            image[1136..1144].copy_from_slice(&rootnid_8b.to_le_bytes());
            let superblock = read(&image).unwrap();
            (superblock.blocks, superblock.root_nid)
        };
        assert_eq!(read(0, 0), (1, 7));
        assert_eq!(read(0, 99), (1, 7));
        // mkfs.erofs sets the feature for more than that: both numbers may still be small.
        assert_eq!(read(INCOMPAT_48BIT, 0), (1, 7));
        assert_eq!(read(INCOMPAT_48BIT, 1 << 40), (7 << 32 | 1, 1 << 40));
    }

    #[test]
    fn a_flipped_bit_under_the_checksum_is_seen_and_one_before_it_is_not() {
        let mut bad = image(3, 1, 0);
        bad[4095] ^= 1;
        assert!(matches!(read(&bad).unwrap().checksum, Checksum::Bad { .. }));
        let mut boot_sector = image(3, 1, 0);
        boot_sector[0] = 0xEB;
        assert_eq!(read(&boot_sector).unwrap().checksum, Checksum::Good);
        assert_eq!(
            read(&image(3, 1, 0)[..4000]).unwrap().checksum,
            Checksum::Truncated
        );
    }

    #[test]
    fn unknown_features_are_named_by_their_bits() {
        let sb = read(&image(3, 0x8000_0000, 0x4000_0001)).unwrap();
        assert_eq!(
            sb.features(),
            ["compat:0x80000000", "0padding", "incompat:0x40000000"]
        );
        assert_eq!(sb.unknown_incompat(), 0x4000_0000);
    }

    #[test]
    fn what_is_too_short_or_has_no_such_block_size_is_no_image() {
        let whole = image(3, 0, 0);
        for length in 0..1024 + SUPER_LEN {
            assert_eq!(read(&whole[..length]), None);
        }
        for bits in [0, 8, 17, 255] {
            let mut odd = whole.clone();
            odd[1036] = bits;
            assert_eq!(read(&odd), None);
        }
    }
}
