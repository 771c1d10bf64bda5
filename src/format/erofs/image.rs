//! An image, open for reading its files.
//!
//! Source: fs/erofs/super.c, inode.c and data.c of Linux 7.2.

use std::cell::{OnceCell, RefCell};

use super::cluster::Cache;
use super::inode::{NID_METABOX, Raw};
use super::xattr::Prefix;
use super::{
    Extent, Extents, Fault, INCOMPAT_DEVICE_TABLE, INCOMPAT_FRAGMENTS, INCOMPAT_METABOX, Inode,
    InodeContent, SUPER_OFFSET, Superblock,
};
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};

/// An inode with an identity of its own lies at a multiple of this many bytes (EROFS_ISLOTBITS).
const ISLOTBITS: u32 = 5;

/// The longest target of a symbolic link, its NUL included (PATH_MAX).
const PATH_MAX: u64 = 4096;

/// An image whose files can be read. One thread uses it; other threads can decompress its clusters
/// ([`super::Cluster`]).
pub struct Image<'a> {
    pub(super) bytes: &'a dyn ReadAt,
    pub(super) superblock: Superblock,
    /// The inode that holds other inodes, compressed.
    metabox: Option<Inode>,
    /// The part of the metabox that was last read.
    metabox_extent: RefCell<Option<Extent>>,
    packed: OnceCell<Inode>,
    pub(super) prefixes: OnceCell<Vec<Prefix>>,
    pub(super) cache: RefCell<Cache>,
    pages: RefCell<Pages>,
}

impl<'a> Image<'a> {
    /// Opens the image that is all of `bytes`.
    ///
    /// # Errors
    /// There is no superblock, or it is damaged.
    pub fn open(bytes: &'a dyn ReadAt) -> Result<Self> {
        let superblock = Superblock::read(bytes, 0).during("read", "EROFS superblock")?;
        let none = || Error::new("read", "EROFS superblock", "there is none");
        Self::new(bytes, &superblock.ok_or_else(none)?)
    }

    /// Opens an image whose superblock was read before. Does not verify the checksum.
    pub fn new(bytes: &'a dyn ReadAt, superblock: &Superblock) -> Result<Self> {
        let broken = |what: String| Err(Error::new("read", "EROFS superblock", what));
        let (unknown, dirblkbits) = (superblock.unknown_incompat(), superblock.dirblkbits);
        if unknown != 0 {
            return broken(format!("unknown features {unknown:#x}"));
        }
        if dirblkbits != 0 {
            return broken(format!("dirblkbits {dirblkbits}, which no kernel supports"));
        }
        if superblock.packed_nid & NID_METABOX != 0 {
            return broken("the packed inode is in the metabox, which no kernel supports".into());
        }
        let mut image = Self {
            bytes,
            superblock: superblock.clone(),
            metabox: None,
            metabox_extent: RefCell::default(),
            packed: OnceCell::new(),
            prefixes: OnceCell::new(),
            cache: RefCell::default(),
            pages: RefCell::default(),
        };
        if superblock.feature_incompat & INCOMPAT_METABOX != 0 {
            image.metabox = Some(image.find_metabox()?);
        }
        Ok(image)
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The bytes of the image, from which [`super::Cluster::decode`] reads.
    pub fn bytes(&self) -> &'a dyn ReadAt {
        self.bytes
    }

    /// The metabox inode, whose number follows the first 128 bytes of the superblock.
    fn find_metabox(&self) -> Result<Inode> {
        const METABOX_NID: u64 = SUPER_OFFSET + 128;
        let broken = |what: &str| Error::new("read", "EROFS superblock", what);
        let mut nid = [0; 8];
        if self.superblock.sb_extslots == 0 {
            return Err(broken("it is too short to name the metabox"));
        }
        self.bytes
            .read_exact_at(&mut nid, METABOX_NID)
            .during("read", "EROFS superblock")?;
        let nid = u64::from_le_bytes(nid);
        if nid & NID_METABOX != 0 {
            return Err(broken("the metabox is said to be in itself"));
        }
        let metabox = self.inode(nid)?;
        match metabox.file_type() {
            libc::S_IFREG => Ok(metabox),
            _ => Err(Fault::Corrupt("the metabox is no file", metabox.nid).of_inode(nid)),
        }
    }

    /// The root directory.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(self.superblock.root_nid)?;
        match root.is_directory() {
            true => Ok(root),
            false => {
                let inode = format_args!("EROFS inode {}", root.nid);
                Err(Error::new("read", inode, "the root is no directory"))
            }
        }
    }

    /// Reads an inode (erofs_read_inode).
    ///
    /// # Errors
    /// The inode is damaged, or outside of the image.
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        self.read_inode(nid).map_err(|fault| fault.of_inode(nid))
    }

    pub(super) fn read_inode(&self, nid: u64) -> std::result::Result<Inode, Fault> {
        let in_metabox = nid & NID_METABOX != 0;
        let base = match in_metabox {
            true => 0,
            false => u64::from(self.superblock.meta_blkaddr) << self.superblock.blkszbits,
        };
        let iloc = (nid & !NID_METABOX)
            .checked_mul(1 << ISLOTBITS)
            .and_then(|offset| base.checked_add(offset))
            .ok_or(Fault::BeyondEnd(u64::MAX))?;
        let mut bytes = [0; Raw::EXTENDED];
        let (compact, more) = bytes.split_at_mut(Raw::COMPACT);
        self.read_metadata(in_metabox, compact, iloc)?;
        let i_format = compact.first().copied().unwrap_or_default();
        if Raw::is_extended(i_format.into()) {
            self.read_metadata(in_metabox, more, iloc.saturating_add(Raw::COMPACT as u64))?;
        }
        let epoch = (self.superblock.epoch, self.superblock.fixed_nsec);
        Raw::parse(&bytes, epoch)
            .ok_or(Fault::BeyondEnd(iloc))?
            .inode(nid, iloc)
    }

    /// The inode that holds others, if there is one.
    pub(super) fn metabox(&self) -> Option<&Inode> {
        self.metabox.as_ref()
    }

    /// The packed inode, which holds fragments of files and prefixes of attributes.
    pub(super) fn packed(&self) -> std::result::Result<&Inode, Fault> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let superblock = &self.superblock;
        if superblock.feature_incompat & INCOMPAT_FRAGMENTS == 0 || superblock.packed_nid == 0 {
            return Err(Fault::Corrupt(
                "a fragment, where there is no packed inode",
                0,
            ));
        }
        let packed = self.read_inode(superblock.packed_nid)?;
        if packed.file_type() != libc::S_IFREG {
            return Err(Fault::Corrupt("the packed inode is no file", packed.nid));
        }
        Ok(self.packed.get_or_init(|| packed))
    }

    /// The number of bytes that can be metadata: those of the image, and of the metabox.
    pub fn metadata_length(&self) -> u64 {
        let metabox = self.metadata_size(true);
        self.metadata_size(false).saturating_add(metabox)
    }

    /// The length of the space that holds metadata: the image, or the metabox.
    pub(super) fn metadata_size(&self, in_metabox: bool) -> u64 {
        match (&self.metabox, in_metabox) {
            (Some(metabox), true) => metabox.size,
            (None, true) => 0,
            (_, false) => self.bytes.size(),
        }
    }

    /// Fills `buf` with metadata from the image, or from the metabox (erofs_read_metabuf).
    pub(super) fn read_metadata(
        &self,
        in_metabox: bool,
        mut buf: &mut [u8],
        mut at: u64,
    ) -> std::result::Result<(), Fault> {
        let metabox = match (&self.metabox, in_metabox) {
            (_, false) => return self.read(buf, at),
            (None, true) => return Err(Fault::Corrupt("the image has no metabox", at)),
            (Some(metabox), true) => metabox,
        };
        while !buf.is_empty() {
            if at >= metabox.size {
                return Err(Fault::BeyondEnd(at));
            }
            let mut extent = self.metabox_extent.borrow_mut();
            if !extent.as_ref().is_some_and(|extent| extent.has(at)) {
                *extent = Extents::new(self, metabox, at).next_extent()?;
            }
            let Some(extent) = &*extent else {
                return Err(Fault::BeyondEnd(at));
            };
            let n = self.copy(extent, at, buf)?;
            buf = buf.get_mut(n..).unwrap_or_default();
            at = at.saturating_add(n as u64);
        }
        Ok(())
    }

    /// Fills `buf` from the image.
    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> std::result::Result<(), Fault> {
        if self.pages.borrow_mut().read(self.bytes, buf, at).is_some() {
            return Ok(());
        }
        self.bytes
            .read_exact_at(buf, at)
            .map_err(|error| Fault::of_read(&error, at))
    }

    /// The extents of a file, a directory or a symbolic link, from the start.
    pub fn extents<'i>(&'i self, inode: &'i Inode) -> Extents<'i> {
        Extents::new(self, inode, 0)
    }

    /// The bytes of a file, at any offset.
    pub fn content<'i>(&'i self, inode: &'i Inode) -> InodeContent<'i> {
        InodeContent::new(self, inode)
    }

    /// The target of a symbolic link (erofs_fill_symlink, page_get_link).
    pub fn target(&self, link: &Inode) -> Result<Vec<u8>> {
        if link.size >= PATH_MAX {
            let inode = format_args!("EROFS inode {}", link.nid);
            let what = "the target is longer than a path can be";
            return Err(Error::new("read", inode, what));
        }
        let mut target = vec![0; usize::try_from(link.size).unwrap_or(0)];
        self.content(link)
            .fill(&mut target, 0)
            .map_err(|fault| fault.of_inode(link.nid))?;
        Ok(target)
    }
}

/// The most recently read pages of the image. Inodes, attributes and indexes are smaller, and lie side by side.
#[derive(Default)]
struct Pages {
    /// The numbers of pages, and their bytes. Each page has one slot, and evicts what is there.
    pages: Vec<(u64, Vec<u8>)>,
}

impl Pages {
    const COUNT: u64 = 64;
    const PAGE: usize = 4096;

    /// Fills `buf`. `None` if `buf` is not shorter than a page, or a page cannot be read.
    fn read(&mut self, bytes: &dyn ReadAt, mut buf: &mut [u8], mut at: u64) -> Option<()> {
        if buf.len() >= Self::PAGE {
            return None;
        }
        while !buf.is_empty() {
            let page = self.page(bytes, at / Self::PAGE as u64)?;
            let skip = usize::try_from(at % Self::PAGE as u64).ok()?;
            let from = page.get(skip..).filter(|from| !from.is_empty())?;
            let n = from.len().min(buf.len());
            let (to, rest) = buf.split_at_mut_checked(n)?;
            to.copy_from_slice(from.get(..n)?);
            at = at.checked_add(n as u64)?;
            buf = rest;
        }
        Some(())
    }

    fn page(&mut self, bytes: &dyn ReadAt, number: u64) -> Option<&[u8]> {
        if self.pages.is_empty() {
            let none = || (u64::MAX, Vec::new());
            self.pages.resize_with(Self::COUNT as usize, none);
        }
        let place = usize::try_from(number % Self::COUNT).ok()?;
        let (there, page) = self.pages.get_mut(place)?;
        if *there != number {
            *there = u64::MAX;
            let start = number.checked_mul(Self::PAGE as u64)?;
            let length = bytes.size().checked_sub(start)?.min(Self::PAGE as u64);
            page.resize(usize::try_from(length).ok()?, 0);
            bytes.read_exact_at(page, start).ok()?;
            *there = number;
        }
        Some(page)
    }
}

/// Checks that data lies in the image.
pub(super) fn in_image(image: &Image, start: u64, length: u64) -> std::result::Result<(), Fault> {
    match start.checked_add(length) {
        Some(end) if end <= image.bytes.size() => Ok(()),
        _ if device_id_mask(image) != 0 && start >= image.superblock.length() => {
            Err(Fault::OtherDevice(0))
        }
        _ => Err(Fault::BeyondEnd(start)),
    }
}

/// The significant bits of a device number (erofs_init_devices).
pub(super) fn device_id_mask(image: &Image) -> u16 {
    let superblock = &image.superblock;
    match superblock.feature_incompat & INCOMPAT_DEVICE_TABLE {
        0 => 0,
        _ => (u32::from(superblock.extra_devices) + 1)
            .next_power_of_two()
            .saturating_sub(1) as u16,
    }
}
