//! One inode: the two forms in which it is stored, and what they say.
//!
//! Source: fs/erofs/erofs_fs.h and fs/erofs/inode.c (erofs_read_inode).

use super::Fault;
use crate::bytes::Cursor;

/// EROFS_DIRENT_NID_METABOX_BIT: the inode is stored, compressed with others, in the metabox inode.
pub(super) const NID_METABOX: u64 = 1 << 63;

/// How a file's bytes are stored (EROFS_INODE_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InodeLayout {
    FlatPlain,
    CompressedFull,
    FlatInline,
    CompressedCompact,
    ChunkBased,
}

/// An inode, as read. Positions of metadata count from the start of the image, or of the metabox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number: 32-byte slots from the start of the metadata area; with the highest bit set, of the
    /// metabox.
    pub nid: u64,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// Modification time, in seconds since 1970.
    pub mtime: i64,
    /// The nanoseconds of that time.
    pub mtime_nsec: u32,
    /// A device's major and minor number.
    pub device: Option<(u32, u32)>,
    pub(super) layout: InodeLayout,
    /// The first block of a flat file; `None` is a hole as long as the file.
    pub(super) startblk: Option<u64>,
    /// The format of a chunk-based file (EROFS_CHUNK_FORMAT_*).
    pub(super) chunk_format: u16,
    /// Where the extended attributes are.
    pub(super) xattrs: u64,
    /// Where inline data or an index is: after the attributes.
    pub(super) behind: u64,
}

impl Inode {
    /// The file type alone, as in `st_mode`.
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type() == libc::S_IFDIR
    }

    /// Whether its content is stored in clusters, some of which may be compressed.
    pub fn is_compressed(&self) -> bool {
        matches!(
            self.layout,
            InodeLayout::CompressedFull | InodeLayout::CompressedCompact
        )
    }

    /// The bytes that its own extended attributes take.
    pub fn xattrs_length(&self) -> u64 {
        self.behind.saturating_sub(self.xattrs)
    }

    /// Whether it has content: it is a file, a directory or a symbolic link.
    pub(super) fn has_content(&self) -> bool {
        matches!(
            self.file_type(),
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK
        )
    }

    /// Whether it is stored in the metabox.
    pub(super) fn in_metabox(&self) -> bool {
        self.nid & NID_METABOX != 0
    }
}

/// The fields of struct erofs_inode_compact and of struct erofs_inode_extended.
pub(super) struct Raw {
    i_format: u16,
    i_xattr_icount: u16,
    i_mode: u16,
    /// The upper bits of a block number; in the compact form without [`BIT4`], the number of links.
    i_nb: u16,
    i_size: u64,
    /// The lower bits of a block number, a device, or the format of chunks.
    i_u: u32,
    i_uid: u32,
    i_gid: u32,
    /// In seconds since 1970.
    i_mtime: i64,
    i_mtime_nsec: u32,
    /// The fields that only the extended form has.
    i_nlink: Option<u32>,
}

/// EROFS_I_NLINK_1_BIT, or EROFS_I_DOT_OMITTED_BIT in directories.
const BIT4: u16 = 1 << 4;

impl Raw {
    pub(super) const COMPACT: usize = 32;
    pub(super) const EXTENDED: usize = 64;

    /// Decodes the fields of either form. Any data may follow a compact inode. The time of a compact inode counts
    /// from `epoch`, in seconds and nanoseconds.
    pub(super) fn parse(bytes: &[u8; Self::EXTENDED], epoch: (i64, u32)) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let (i_format, i_xattr_icount) = (cursor.le16()?, cursor.le16()?);
        let (i_mode, i_nb) = (cursor.le16()?, cursor.le16()?);
        let (i_size, i_u, i_uid, i_gid, i_mtime, i_mtime_nsec, i_nlink);
        if Self::is_extended(i_format) {
            i_size = cursor.le64()?;
            i_u = cursor.le32()?;
            let _i_ino = cursor.le32()?;
            (i_uid, i_gid) = (cursor.le32()?, cursor.le32()?);
            i_mtime = cursor.le64()?.cast_signed();
            i_mtime_nsec = cursor.le32()?;
            i_nlink = Some(cursor.le32()?);
        } else {
            i_size = cursor.le32()?.into();
            i_mtime = epoch.0.saturating_add(cursor.le32()?.into());
            i_mtime_nsec = epoch.1;
            i_u = cursor.le32()?;
            let _i_ino = cursor.le32()?;
            (i_uid, i_gid) = (cursor.le16()?.into(), cursor.le16()?.into());
            i_nlink = None;
        }
        Some(Self {
            i_format,
            i_xattr_icount,
            i_mode,
            i_nb,
            i_size,
            i_u,
            i_uid,
            i_gid,
            i_mtime,
            i_mtime_nsec,
            i_nlink,
        })
    }

    /// Whether it is an extended one, from its i_format.
    pub(super) fn is_extended(i_format: u16) -> bool {
        i_format & 1 != 0
    }

    /// Interprets the fields of inode `nid`, which lies at `iloc`.
    pub(super) fn inode(self, nid: u64, iloc: u64) -> Result<Inode, Fault> {
        const I_ALL: u16 = (1 << 5) - 1;
        if self.i_format & !I_ALL != 0 {
            return Err(Fault::Unsupported("inode format", self.i_format.into()));
        }
        let layout = match self.i_format >> 1 & 7 {
            0 => InodeLayout::FlatPlain,
            1 => InodeLayout::CompressedFull,
            2 => InodeLayout::FlatInline,
            3 => InodeLayout::CompressedCompact,
            4 => InodeLayout::ChunkBased,
            other => return Err(Fault::Unsupported("data layout", other.into())),
        };
        let mode = u32::from(self.i_mode);
        let device = match mode & libc::S_IFMT {
            libc::S_IFCHR | libc::S_IFBLK => {
                // new_decode_dev in include/linux/kdev_t.h.
                let minor = (self.i_u & 0xff) | (self.i_u >> 12 & 0xf_ff00);
                Some((self.i_u >> 8 & 0xfff, minor))
            }
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK | libc::S_IFIFO | libc::S_IFSOCK => None,
            _ => return Err(Fault::Mode(mode)),
        };
        let one_link = mode & libc::S_IFMT != libc::S_IFDIR && self.i_format & BIT4 != 0;
        // In the compact form, the same 16 bits are the number of links or the upper bits of a block number.
        let (nlink, startblk_hi, bits) = match self.i_nlink {
            Some(nlink) => (nlink, self.i_nb, 48),
            None if one_link => (1, self.i_nb, 48),
            None => (self.i_nb.into(), 0, 32),
        };
        let startblk = u64::from(self.i_u) | u64::from(startblk_hi) << 32;
        // EROFS_NULL_ADDR, truncated to the number of bits that the form has.
        let null = layout == InodeLayout::FlatPlain && startblk == (1 << bits) - 1;
        let inode_isize = match Self::is_extended(self.i_format) {
            true => Self::EXTENDED,
            false => Self::COMPACT,
        };
        // erofs_xattr_ibody_size: a header of 12 bytes, and 4 bytes for each attribute but the first.
        let xattr_isize = match u64::from(self.i_xattr_icount) {
            0 => 0,
            n => n.saturating_mul(4).saturating_add(8),
        };
        let xattrs = iloc.saturating_add(inode_isize as u64);
        Ok(Inode {
            nid,
            mode,
            size: self.i_size,
            uid: self.i_uid,
            gid: self.i_gid,
            mtime: self.i_mtime,
            mtime_nsec: self.i_mtime_nsec,
            nlink,
            device,
            layout,
            startblk: (!null).then_some(startblk),
            chunk_format: self.i_u as u16,
            xattrs,
            behind: xattrs.saturating_add(xattr_isize),
        })
    }
}
