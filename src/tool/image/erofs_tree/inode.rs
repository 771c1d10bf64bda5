//! One inode: the two forms in which it is stored, and what they say.

use crate::bytes::Cursor;
use crate::tool::image::files::File;

/// How a file's bytes are stored, as far as they are read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    FlatPlain,
    FlatInline,
    Compressed,
    Chunks,
}

/// What is read of an inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Where it is: a number of slots from the start of the metadata area.
    pub nid: u64,
    /// The attributes; without a path.
    pub file: File,
    pub(super) layout: Layout,
    pub(super) startblk: u64,
    /// Where its attributes are, in bytes from the start of the image.
    pub(super) xattrs: u64,
    /// Where inline data would be, in bytes from the start of the image: behind the attributes.
    pub(super) inline: u64,
}

impl Inode {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.file.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// How its bytes are stored, where that is a way that is not read here.
    pub fn unread(&self) -> Option<&'static str> {
        match self.layout {
            Layout::FlatPlain | Layout::FlatInline => None,
            Layout::Compressed => Some("compressed"),
            Layout::Chunks => Some("in chunks"),
        }
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
    /// The lower bits of a block number, or a device.
    i_u: u32,
    i_uid: u32,
    i_gid: u32,
    /// In seconds since 1970.
    i_mtime: i64,
    /// What the extended form alone has.
    i_nlink: Option<u32>,
}

/// EROFS_I_NLINK_1_BIT, or EROFS_I_DOT_OMITTED_BIT in directories.
const BIT4: u16 = 1 << 4;

impl Raw {
    pub(super) const COMPACT: usize = 32;
    pub(super) const EXTENDED: usize = 64;

    /// The fields of either form; behind a compact one anything may stand.
    pub(super) fn parse(bytes: &[u8; Self::EXTENDED], epoch: i64) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let (i_format, i_xattr_icount) = (cursor.le16()?, cursor.le16()?);
        let (i_mode, i_nb) = (cursor.le16()?, cursor.le16()?);
        let (i_size, i_u, i_uid, i_gid, i_mtime, i_nlink);
        if Self::is_extended(i_format) {
            i_size = cursor.le64()?;
            i_u = cursor.le32()?;
            let _i_ino = cursor.le32()?;
            (i_uid, i_gid) = (cursor.le32()?, cursor.le32()?);
            i_mtime = cursor.le64()?.cast_signed();
            let _i_mtime_nsec = cursor.le32()?;
            i_nlink = Some(cursor.le32()?);
        } else {
            i_size = cursor.le32()?.into();
            i_mtime = epoch.saturating_add(cursor.le32()?.into());
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
            i_nlink,
        })
    }

    /// Whether it is an extended one, by its i_format.
    pub(super) fn is_extended(i_format: u16) -> bool {
        i_format & 1 != 0
    }

    /// What the fields say of inode `nid`, which lies at `iloc`; else what is wrong with them.
    pub(super) fn inode(self, nid: u64, iloc: u64) -> Result<Inode, String> {
        const I_ALL: u16 = (1 << 5) - 1;
        if self.i_format & !I_ALL != 0 {
            return Err(format!("unknown inode format {:#x}", self.i_format));
        }
        let layout = match self.i_format >> 1 & 7 {
            0 => Layout::FlatPlain,
            2 => Layout::FlatInline,
            1 | 3 => Layout::Compressed,
            4 => Layout::Chunks,
            other => return Err(format!("unknown data layout {other}")),
        };
        let mode = u32::from(self.i_mode);
        let device = match mode & libc::S_IFMT {
            libc::S_IFCHR | libc::S_IFBLK => {
                // new_decode_dev in include/linux/kdev_t.h.
                let minor = (self.i_u & 0xff) | (self.i_u >> 12 & 0xf_ff00);
                Some((self.i_u >> 8 & 0xfff, minor))
            }
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK | libc::S_IFIFO | libc::S_IFSOCK => None,
            _ => return Err(format!("mode {mode:o} is no type of file")),
        };
        let one_link = mode & libc::S_IFMT != libc::S_IFDIR && self.i_format & BIT4 != 0;
        let (nlink, startblk_hi) = match self.i_nlink {
            Some(nlink) => (nlink, self.i_nb),
            None if one_link => (1, self.i_nb),
            None => (self.i_nb.into(), 0),
        };
        let inode_isize = match Self::is_extended(self.i_format) {
            true => Self::EXTENDED,
            false => Self::COMPACT,
        };
        let xattr_isize = match u64::from(self.i_xattr_icount) {
            0 => 0,
            // A header of 12 bytes, and 4 bytes for each but the first.
            n => n.saturating_mul(4).saturating_add(8),
        };
        let xattrs = iloc.saturating_add(inode_isize as u64);
        Ok(Inode {
            nid,
            file: File {
                mode,
                size: self.i_size,
                uid: self.i_uid,
                gid: self.i_gid,
                mtime: self.i_mtime,
                nlink,
                device,
                ..File::default()
            },
            layout,
            startblk: u64::from(self.i_u) | u64::from(startblk_hi) << 32,
            xattrs,
            inline: xattrs.saturating_add(xattr_isize),
        })
    }
}
