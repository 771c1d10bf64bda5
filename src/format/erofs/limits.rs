//! Limits on what an image can hold, from its length. They bound the work that a hostile image causes.

use super::{Data, Extent, Image, Inode};
use crate::error::{Error, Result};

/// The rest of each limit.
pub struct Limits {
    names: u64,
    extents: u64,
    content: u64,
    xattrs: u64,
}

/// For small images.
const ROOM: u64 = 1 << 20;

impl Limits {
    /// The limits of an image: names as `names` computes them; an extent and 16 bytes of extended attributes for each
    /// byte of metadata, because files share them; and [`Self::content_max`].
    pub fn of(image: &Image) -> Self {
        /// How much the metabox may be compressed.
        const METABOX_RATIO: u64 = 64;
        let longest = image.bytes().size().saturating_mul(METABOX_RATIO);
        let metadata = image.metadata_length().min(longest);
        Self {
            names: Self::names(image),
            extents: metadata.saturating_add(ROOM),
            content: Self::content_max(image),
            xattrs: metadata.saturating_mul(16).saturating_add(ROOM),
        }
    }

    /// The most names that a valid image can have.
    fn names(image: &Image) -> u64 {
        /// The fewest bytes of a name in a directory: a dirent and a letter.
        const NAME_MIN: u64 = 13;
        /// The compression of large directories. Small ones with similar names compress to almost nothing.
        const RATIO_MAX: u64 = 16;
        const SMALL: u64 = 1 << 18;
        let names = image.bytes().size() / NAME_MIN;
        match image.superblock().is_compressed() {
            false => names,
            true => names.saturating_mul(RATIO_MAX).max(SMALL),
        }
    }

    /// The most bytes that the files of an image may have without their holes: 4096 for each byte of the image. A
    /// cluster decodes to at most 3072 times its length, and files may share clusters.
    pub fn content_max(image: &Image) -> u64 {
        image
            .bytes()
            .size()
            .saturating_mul(4096)
            .saturating_add(ROOM)
    }

    /// Counts a name in a directory.
    ///
    /// # Errors
    /// This limit is exceeded; the same holds for the other functions.
    pub fn name(&mut self, directory: &Inode) -> Result<()> {
        take(&mut self.names, 1, directory, "names")
    }

    /// Counts an extent of a file.
    pub fn extent(&mut self, file: &Inode, extent: &Extent) -> Result<()> {
        if extent.data != Data::Hole {
            take(&mut self.content, extent.length, file, "content")?;
        }
        take(&mut self.extents, 1, file, "extents")
    }

    /// Counts the bytes of a file without its holes.
    pub fn file(&mut self, image: &Image, file: &Inode) -> Result<u64> {
        let before = self.content;
        for extent in image.extents(file) {
            let extent = extent.map_err(|fault| fault.of_inode(file.nid))?;
            self.extent(file, &extent)?;
        }
        Ok(before.saturating_sub(self.content))
    }

    /// Counts bytes of extended attributes.
    pub fn xattrs(&mut self, file: &Inode, bytes: u64) -> Result<()> {
        take(&mut self.xattrs, bytes, file, "attributes")
    }
}

fn take(left: &mut u64, n: u64, inode: &Inode, what: &str) -> Result<()> {
    *left = left.checked_sub(n).ok_or_else(|| {
        let inode = format_args!("EROFS inode {}", inode.nid);
        Error::new(
            "read",
            inode,
            format!("more {what} than the image has room for"),
        )
    })?;
    Ok(())
}
