//! SquashFS images, version 4: their files, extended attributes and content.
//!
//! Source: fs/squashfs/squashfs_fs.h, fs/squashfs/{inode,dir,file,xattr}.c. `NAMES_MAX` bounds the names of a
//! hostile image, `XATTRS_MAX` its attributes, and `BLOCKS_MAX` the blocks of each file.
//!
//! The crate backhand (0.25) reads such images, too, but no extended attributes, and it links two C libraries.

mod decompress;

mod metadata;

mod inode;

mod content;

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::files::{File, Links};
use crate::bytes::{Cursor, ReadAt};
use crate::error::{Context, Error, Result};
use crate::format::cpio::PATH_MAX;
use crate::format::erofs::Xattr;
use crate::format::squashfs::SquashfsSuperblock;
pub use content::SquashfsContent;
use decompress::{SquashfsAlgorithm, damaged};
pub use inode::{SquashfsFile, SquashfsInode, SquashfsKind};
use metadata::{MetadataCache, MetadataPosition, MetadataReader};

/// The most bytes of names in one image, with an overhead for each: the limit of [`super::unpack`] for all
/// layers.
const NAMES_MAX: usize = 256 << 20;

/// The most bytes of extended attributes that are read from one image.
const XATTRS_MAX: usize = 64 << 20;

/// The most bytes of one value (XATTR_SIZE_MAX).
const VALUE_MAX: u32 = 1 << 16;

/// The most blocks of one file: 512 GiB in blocks of 128 KiB.
const BLOCKS_MAX: u64 = 1 << 22;

/// The largest block of a file.
const BLOCK_MAX: u32 = 1 << 20;

/// The bytes of a superblock.
const SUPERBLOCK: usize = 96;

/// A table that the image does not have.
const NONE: u64 = u64::MAX;

/// An image.
pub struct SquashfsImage<'a> {
    bytes: &'a (dyn ReadAt + Sync),
    algorithm: SquashfsAlgorithm,
    block_size: u32,
    root: u64,
    inodes: u64,
    directories: u64,
    fragments: (u64, u32),
    xattrs: u64,
    /// User and group IDs.
    ids: Vec<u32>,
    cache: MetadataCache,
    /// [`XATTRS_MAX`] less the bytes read so far.
    xattrs_left: Mutex<usize>,
}

/// The fields of the superblock that only a reader of files needs.
struct SquashfsTables {
    fragments: u32,
    ids: u16,
    root: u64,
    id_table: u64,
    xattr_table: u64,
    inode_table: u64,
    directory_table: u64,
    fragment_table: u64,
}

impl SquashfsTables {
    fn parse(bytes: &[u8; SUPERBLOCK]) -> Option<Self> {
        let mut fields = Cursor::new(bytes);
        fields.take(16)?;
        let fragments = fields.le32()?;
        fields.take(6)?;
        let ids = fields.le16()?;
        fields.take(4)?;
        let root = fields.le64()?;
        let _bytes_used = fields.le64()?;
        Some(Self {
            fragments,
            ids,
            root,
            id_table: fields.le64()?,
            xattr_table: fields.le64()?,
            inode_table: fields.le64()?,
            directory_table: fields.le64()?,
            fragment_table: fields.le64()?,
        })
    }
}

impl<'a> SquashfsImage<'a> {
    /// The image that is all of `bytes`.
    ///
    /// # Errors
    /// It is damaged, or has a compression that this program does not know.
    pub fn new(bytes: &'a (dyn ReadAt + Sync), superblock: &SquashfsSuperblock) -> Result<Self> {
        Self::open(bytes, superblock).during("read", "SquashFS image")
    }

    fn open(bytes: &'a (dyn ReadAt + Sync), superblock: &SquashfsSuperblock) -> io::Result<Self> {
        let mut head = [0; SUPERBLOCK];
        bytes.read_exact_at(&mut head, 0)?;
        let tables = SquashfsTables::parse(&head).ok_or_else(|| damaged("superblock"))?;
        let block_size = superblock.block_size;
        if !block_size.is_power_of_two() || !(4096..=BLOCK_MAX).contains(&block_size) {
            return Err(damaged("block size"));
        }
        let algorithm = SquashfsAlgorithm::of(superblock)?;
        let cache = MetadataCache::default();
        let metadata = MetadataReader::new(bytes, algorithm, &cache);
        let ids = metadata.table(
            tables.id_table,
            0,
            usize::from(tables.ids).saturating_mul(4),
        )?;
        let mut fields = Cursor::new(&ids);
        let ids = std::iter::from_fn(|| fields.le32()).collect();
        Ok(Self {
            bytes,
            algorithm,
            block_size,
            root: tables.root,
            inodes: tables.inode_table,
            directories: tables.directory_table,
            fragments: (tables.fragment_table, tables.fragments),
            xattrs: tables.xattr_table,
            ids,
            cache,
            xattrs_left: Mutex::new(XATTRS_MAX),
        })
    }

    fn metadata(&self) -> MetadataReader<'_> {
        MetadataReader::new(self.bytes, self.algorithm, &self.cache)
    }

    /// Whether files may have extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.xattrs != NONE
    }

    /// Calls `take` with every file and its path, a directory before its contents.
    ///
    /// # Errors
    /// The image is damaged, or has more names than the limit; and the errors of `take`.
    pub fn walk(&self, take: &mut dyn FnMut(&[u8], &SquashfsInode) -> Result<()>) -> Result<()> {
        let context = |path: &[u8]| format!("/{}", crate::text::shown(path));
        let mut left = NAMES_MAX;
        let mut seen = HashSet::from([self.root]);
        let root = self.inode(self.root).during("read", "/")?;
        take(b"", &root)?;
        // The names in each directory around the current file, the next one last.
        let mut around = vec![(
            Vec::new(),
            self.names(&root, &mut left).during("read", "/")?,
        )];
        while let Some((directory, names)) = around.last_mut() {
            let Some((name, reference)) = names.pop() else {
                around.pop();
                continue;
            };
            let path = match directory.as_slice() {
                b"" => name,
                directory => [directory, b"/", &name].concat(),
            };
            if path.len() >= PATH_MAX as usize {
                return Err(Error::new("read", context(&path), "its path is too long"));
            }
            let inode = self.inode(reference).during("read", context(&path))?;
            take(&path, &inode)?;
            if matches!(inode.kind, SquashfsKind::Directory { .. }) {
                if !seen.insert(reference) {
                    let what = "it is in two directories: the image is damaged";
                    return Err(Error::new("read", context(&path), what));
                }
                let names = self
                    .names(&inode, &mut left)
                    .during("read", context(&path))?;
                around.push((path, names));
            }
        }
        Ok(())
    }

    /// The inode that a reference leads to: its block in the inode table, and the offset in that.
    fn inode(&self, reference: u64) -> io::Result<SquashfsInode> {
        let mut at = MetadataPosition::of(self.inodes, reference)?;
        SquashfsInode::read(self.metadata(), &mut at, &self.ids)
    }

    /// The names in a directory with the references of their inodes, the last first.
    fn names(
        &self,
        directory: &SquashfsInode,
        left: &mut usize,
    ) -> io::Result<Vec<(Vec<u8>, u64)>> {
        /// The memory that a name takes in addition to its bytes.
        const ENTRY: usize = 64;
        let SquashfsKind::Directory {
            block,
            offset,
            size,
        } = directory.kind
        else {
            return Ok(Vec::new());
        };
        let mut at = MetadataPosition::at(self.directories, block.into(), offset)?;
        let metadata = self.metadata();
        let mut names = Vec::new();
        // The size counts "." and "..", which are not stored.
        let mut rest = u64::from(size).saturating_sub(3);
        while rest > 0 {
            let header = metadata.read(&mut at, 12)?;
            let mut fields = Cursor::new(&header);
            let (Some(count), Some(start)) = (fields.le32(), fields.le32()) else {
                return Err(damaged("directory"));
            };
            if count > 255 {
                return Err(damaged("directory"));
            }
            rest = rest.saturating_sub(12);
            for _ in 0..=count {
                let entry = metadata.read(&mut at, 8)?;
                let mut fields = Cursor::new(&entry);
                let offset = fields.le16().ok_or_else(|| damaged("directory"))?;
                fields.take(4);
                let length = fields.le16().ok_or_else(|| damaged("directory"))?;
                let length = usize::from(length).saturating_add(1);
                let name = metadata.read(&mut at, length)?;
                let is_special = matches!(name.as_slice(), b"." | b"..");
                if length > 255 || is_special || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                    return Err(damaged("name in a directory"));
                }
                *left = left
                    .checked_sub(length.saturating_add(ENTRY))
                    .ok_or_else(|| damaged("directory: more names than there are bytes for"))?;
                rest = rest.saturating_sub(8).saturating_sub(length as u64);
                names.push((name, u64::from(start) << 16 | u64::from(offset)));
            }
        }
        names.reverse();
        Ok(names)
    }

    /// The extended attributes of a file.
    ///
    /// # Errors
    /// The image is damaged, or has more of them than the limit.
    pub fn xattrs(&self, inode: &SquashfsInode) -> Result<Vec<Xattr>> {
        let Some(number) = inode.xattrs.filter(|_| self.has_xattrs()) else {
            return Ok(Vec::new());
        };
        self.read_xattrs(number)
            .during("read", "extended attributes")
    }

    fn read_xattrs(&self, number: u32) -> io::Result<Vec<Xattr>> {
        let wrong = || damaged("extended attributes");
        let mut head = [0; 16];
        self.bytes.read_exact_at(&mut head, self.xattrs)?;
        let mut fields = Cursor::new(&head);
        let start = fields.le64().ok_or_else(wrong)?;
        if number >= fields.le32().ok_or_else(wrong)? {
            return Err(wrong());
        }
        let metadata = self.metadata();
        let index = self.xattrs.checked_add(16).ok_or_else(wrong)?;
        let entry = metadata.table(index, u64::from(number).saturating_mul(16), 16)?;
        let mut fields = Cursor::new(&entry);
        let reference = fields.le64().ok_or_else(wrong)?;
        let count = fields.le32().ok_or_else(wrong)?;
        let mut at = MetadataPosition::of(start, reference)?;
        let mut left = self
            .xattrs_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for _ in 0..count {
            let header = metadata.read(&mut at, 4)?;
            let mut fields = Cursor::new(&header);
            let kind = fields.le16().ok_or_else(wrong)?;
            let length = fields.le16().ok_or_else(wrong)?;
            let prefix: &[u8] = match kind & 0xff {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                _ => return Err(wrong()),
            };
            let name = metadata.read(&mut at, length.into())?;
            let value = match kind & 0x100 {
                0 => value(metadata, &mut at),
                // The value is stored elsewhere; this is a reference to it.
                _ => {
                    let reference = value(metadata, &mut at)?;
                    let reference = Cursor::new(&reference).le64().ok_or_else(wrong)?;
                    value(metadata, &mut MetadataPosition::of(start, reference)?)
                }
            };
            let value = value?;
            *left = left
                .checked_sub(name.len().saturating_add(value.len()).saturating_add(64))
                .ok_or_else(|| damaged("extended attributes: more than there are bytes for"))?;
            let name = [prefix, &name].concat();
            found.push(Xattr { name, value });
        }
        Ok(found)
    }
}

/// The value of an extended attribute, after its length.
fn value(metadata: MetadataReader, at: &mut MetadataPosition) -> io::Result<Vec<u8>> {
    let length = metadata.number(at)?;
    if length > VALUE_MAX {
        return Err(damaged("extended attributes"));
    }
    metadata.read(at, length as usize)
}

/// Calls `take` with every file as `layerinit list --files` shows it.
///
/// # Errors
/// As [`SquashfsImage::walk`].
pub fn each_file(image: &SquashfsImage, mut take: impl FnMut(File) -> Result<()>) -> Result<()> {
    let mut links = Links::default();
    image.walk(&mut |path, inode| {
        let mut file = File {
            path: path.to_vec(),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.owner.0,
            gid: inode.owner.1,
            mtime: inode.mtime.into(),
            ..File::default()
        };
        match &inode.kind {
            SquashfsKind::File(data) => file.size = data.size,
            SquashfsKind::Link(target) => {
                file.size = target.len() as u64;
                file.target = Some(target.clone());
            }
            SquashfsKind::Device(major, minor) => file.device = Some((*major, *minor)),
            SquashfsKind::Directory { .. } | SquashfsKind::Other => {}
        }
        if inode.nlink > 1 && !matches!(inode.kind, SquashfsKind::Directory { .. }) {
            file.link = links.first(inode.number, path);
        }
        take(file)
    })
}
