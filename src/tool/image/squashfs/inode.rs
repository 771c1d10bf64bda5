//! Inodes: struct squashfs_*_inode.

use std::io;

use super::decompress::damaged;
use super::metadata::{MetadataPosition, MetadataReader};
use crate::bytes::Cursor;

/// No fragment, and no extended attributes.
const NONE: u32 = u32::MAX;

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SquashfsInode {
    /// Its number: names with the same number are one file.
    pub number: u32,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Modification time, in seconds since 1970.
    pub mtime: u32,
    /// The number of its names.
    pub nlink: u32,
    /// What it is.
    pub kind: SquashfsKind,
    /// The index of its extended attributes.
    pub xattrs: Option<u32>,
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SquashfsKind {
    /// A directory: the location of its names in the directory table, and their bytes.
    Directory {
        /// The block.
        block: u32,
        /// The offset in it.
        offset: u16,
        /// The number of their bytes, plus 3.
        size: u32,
    },
    /// A regular file.
    File(SquashfsFile),
    /// A symbolic link with its target.
    Link(Vec<u8>),
    /// A device with its major and minor number.
    Device(u32, u32),
    /// A pipe or a socket.
    Other,
}

/// The location of the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SquashfsFile {
    /// The size in bytes.
    pub size: u64,
    /// The offset of the first block in the image.
    pub(super) start: u64,
    /// The location of the lengths of the blocks.
    pub(super) lengths: MetadataPosition,
    /// The fragment that holds the end of the file, and the offset in it.
    pub(super) fragment: Option<(u32, u32)>,
}

impl SquashfsInode {
    /// Reads an inode.
    pub(super) fn read(
        metadata: MetadataReader,
        at: &mut MetadataPosition,
        ids: &[u32],
    ) -> io::Result<Self> {
        let wrong = || damaged("inode");
        let header = metadata.read(at, 16)?;
        let mut fields = Cursor::new(&header);
        let mut half = || fields.le16().ok_or_else(wrong);
        let (number, permissions, uid, gid) = (half()?, half()?, half()?, half()?);
        let mtime = fields.le32().ok_or_else(wrong)?;
        let inode = fields.le32().ok_or_else(wrong)?;
        let id = |index: u16| ids.get(usize::from(index)).copied().ok_or_else(wrong);
        // The extended kinds follow the basic ones in the same order.
        let (basic, extended) = match number {
            1..=7 => (number, false),
            8..=14 => (number.saturating_sub(7), true),
            _ => return Err(wrong()),
        };
        let file_type = match basic {
            1 => libc::S_IFDIR,
            2 => libc::S_IFREG,
            3 => libc::S_IFLNK,
            4 => libc::S_IFBLK,
            5 => libc::S_IFCHR,
            6 => libc::S_IFIFO,
            _ => libc::S_IFSOCK,
        };
        let (nlink, kind, xattrs) = match basic {
            1 => directory(metadata, at, extended)?,
            2 => file(metadata, at, extended)?,
            3 => link(metadata, at, extended)?,
            4 | 5 => {
                let nlink = metadata.number(at)?;
                let device = metadata.number(at)?;
                let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
                (
                    nlink,
                    SquashfsKind::Device(major, minor),
                    xattrs(metadata, at, extended)?,
                )
            }
            _ => {
                let nlink = metadata.number(at)?;
                (nlink, SquashfsKind::Other, xattrs(metadata, at, extended)?)
            }
        };
        Ok(Self {
            number: inode,
            mode: file_type | u32::from(permissions) & 0o7777,
            owner: (id(uid)?, id(gid)?),
            mtime,
            nlink,
            kind,
            xattrs: Some(xattrs).filter(|number| *number != NONE),
        })
    }
}

/// The number of extended attributes at the end of an extended inode.
fn xattrs(metadata: MetadataReader, at: &mut MetadataPosition, extended: bool) -> io::Result<u32> {
    match extended {
        true => metadata.number(at),
        false => Ok(NONE),
    }
}

type KindFields = (u32, SquashfsKind, u32);

fn directory(
    metadata: MetadataReader,
    at: &mut MetadataPosition,
    extended: bool,
) -> io::Result<KindFields> {
    let wrong = || damaged("directory");
    let bytes = metadata.read(at, if extended { 24 } else { 16 })?;
    let mut fields = Cursor::new(&bytes);
    let mut word = || fields.le32().ok_or_else(wrong);
    match extended {
        false => {
            let (block, nlink) = (word()?, word()?);
            let size = fields.le16().ok_or_else(wrong)?.into();
            let offset = fields.le16().ok_or_else(wrong)?;
            let kind = SquashfsKind::Directory {
                block,
                offset,
                size,
            };
            Ok((nlink, kind, NONE))
        }
        true => {
            let (nlink, size, block, _parent) = (word()?, word()?, word()?, word()?);
            let _indexes = fields.le16();
            let offset = fields.le16().ok_or_else(wrong)?;
            let xattrs = fields.le32().ok_or_else(wrong)?;
            let kind = SquashfsKind::Directory {
                block,
                offset,
                size,
            };
            Ok((nlink, kind, xattrs))
        }
    }
}

fn file(
    metadata: MetadataReader,
    at: &mut MetadataPosition,
    extended: bool,
) -> io::Result<KindFields> {
    let wrong = || damaged("file");
    let bytes = metadata.read(at, if extended { 40 } else { 16 })?;
    let mut fields = Cursor::new(&bytes);
    let (mut nlink, mut xattrs) = (1, NONE);
    let (start, size, fragment, offset);
    if extended {
        start = fields.le64().ok_or_else(wrong)?;
        size = fields.le64().ok_or_else(wrong)?;
        let _sparse = fields.le64();
        nlink = fields.le32().ok_or_else(wrong)?;
        fragment = fields.le32().ok_or_else(wrong)?;
        offset = fields.le32().ok_or_else(wrong)?;
        xattrs = fields.le32().ok_or_else(wrong)?;
    } else {
        start = fields.le32().ok_or_else(wrong)?.into();
        fragment = fields.le32().ok_or_else(wrong)?;
        offset = fields.le32().ok_or_else(wrong)?;
        size = fields.le32().ok_or_else(wrong)?.into();
    }
    let data = SquashfsFile {
        size,
        start,
        lengths: *at,
        fragment: (fragment != NONE).then_some((fragment, offset)),
    };
    Ok((nlink, SquashfsKind::File(data), xattrs))
}

fn link(
    metadata: MetadataReader,
    at: &mut MetadataPosition,
    extended: bool,
) -> io::Result<KindFields> {
    /// PATH_MAX, with which the kernel compares it.
    const TARGET_MAX: u32 = 4096;
    let nlink = metadata.number(at)?;
    let length = metadata.number(at)?;
    if length > TARGET_MAX {
        return Err(damaged("symbolic link"));
    }
    let target = metadata.read(at, length as usize)?;
    Ok((
        nlink,
        SquashfsKind::Link(target),
        xattrs(metadata, at, extended)?,
    ))
}
