//! Which files of an EROFS image a kernel with the memback patches serves in place: their mappings show the pages of the
//! initrd itself (fs/erofs/inplace.c in qemu/kernel/patches). A kernel copies the other pages when they are mapped.

use std::fmt;

use super::erofs_tree;
use crate::error::Result;
use crate::format::erofs::{Data, Extent, Image, Inode};
use crate::text::shown;

/// The page size of most machines, in bytes.
pub const PAGE: u64 = 4096;

/// How many files that are not in place are named.
const NAMES_MAX: usize = 10;

/// The largest page size of any kernel.
const PAGE_MAX: usize = 1 << 16;

/// How much of the regular files of an image is in place. Files with several names count once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InPlace {
    /// Files with content.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are in place from start to end.
    pub whole_files: u64,
    /// Bytes in pages that are in place.
    pub mapped: u64,
    /// Bytes between the ends of files and those of their last blocks.
    pub padding: u64,
    /// The first files that are not in place from start to end.
    pub others: Vec<Vec<u8>>,
}

impl InPlace {
    /// Adds up the files of `image`, which starts `offset` bytes after the start of the initrd, for a kernel with
    /// pages of `page` bytes. Boot loaders put the initrd at a page boundary.
    ///
    /// # Errors
    /// Damaged metadata.
    pub fn of(image: &Image, offset: u64, page: u64) -> Result<Self> {
        let mut sum = Self::default();
        erofs_tree::walk(image, |file, inode| {
            if inode.file_type() != libc::S_IFREG || inode.size == 0 || file.link.is_some() {
                return Ok(());
            }
            let mapped = mapped(image, inode, offset, page);
            sum.files = sum.files.saturating_add(1);
            sum.bytes = sum.bytes.saturating_add(inode.size);
            sum.mapped = sum.mapped.saturating_add(mapped);
            if !inode.is_compressed() {
                let end = inode.size.next_multiple_of(image.superblock().block_size());
                sum.padding = sum.padding.saturating_add(end.saturating_sub(inode.size));
            }
            if mapped == inode.size {
                sum.whole_files = sum.whole_files.saturating_add(1);
            } else if sum.others.len() < NAMES_MAX {
                sum.others.push(file.path);
            }
            Ok(())
        })?;
        Ok(sum)
    }
}

/// The bytes of a file in pages that are in place (`erofs_inplace_page`). A damaged file has none.
fn mapped(image: &Image, inode: &Inode, offset: u64, page: u64) -> u64 {
    let mut sum = 0_u64;
    for extent in image.extents(inode) {
        let Ok(extent) = extent else {
            return 0;
        };
        sum = sum.saturating_add(mapped_of_extent(image, &extent, inode.size, offset, page));
    }
    sum
}

/// The bytes of an extent in pages that are in place. `size` is that of the file.
fn mapped_of_extent(image: &Image, extent: &Extent, size: u64, offset: u64, page: u64) -> u64 {
    let Data::Raw(start) = extent.data else {
        return 0;
    };
    // The first page of the file that starts in this extent.
    let Some(skip) = extent.offset.checked_next_multiple_of(page) else {
        return 0;
    };
    let skip = skip.saturating_sub(extent.offset);
    let address = start.saturating_add(skip);
    let Some(length) = extent.length.checked_sub(skip) else {
        return 0;
    };
    if !offset.saturating_add(address).is_multiple_of(page) {
        return 0;
    }
    let rest = length.checked_rem(page).unwrap_or(0);
    let whole = length.saturating_sub(rest);
    let behind = page.saturating_sub(rest);
    let is_last = extent.offset.saturating_add(extent.length) >= size;
    if rest > 0 && is_last && zeros_follow(image, address.saturating_add(length), behind) {
        return length;
    }
    whole
}

/// Whether the image has `length` zeros at `at`, which is less than a page.
fn zeros_follow(image: &Image, at: u64, length: u64) -> bool {
    let mut buffer = [0; PAGE_MAX];
    let Some(buffer) = usize::try_from(length)
        .ok()
        .and_then(|n| buffer.get_mut(..n))
    else {
        return false;
    };
    image.bytes().read_exact_at(buffer, at).is_ok() && buffer.iter().all(|&byte| byte == 0)
}

impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            files,
            bytes,
            whole_files,
            mapped,
            ..
        } = self;
        write!(
            f,
            "{mapped} of {bytes} bytes, {whole_files} of {files} files"
        )?;
        let names: Vec<_> = self.others.iter().map(|path| shown(path)).collect();
        if names.is_empty() {
            return Ok(());
        }
        write!(f, "; not all of {}", names.join(", "))?;
        let others = files.saturating_sub(*whole_files);
        match others.saturating_sub(u64::try_from(names.len()).unwrap_or(others)) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_in_place_are_named_and_counted() {
        let mut sum = InPlace {
            files: 3,
            bytes: 9000,
            whole_files: 1,
            mapped: 8192,
            padding: 0,
            others: vec![b"a".to_vec(), b"b/c".to_vec()],
        };
        assert_eq!(
            sum.to_string(),
            "8192 of 9000 bytes, 1 of 3 files; not all of a, b/c"
        );
        sum.files = 7;
        assert!(sum.to_string().ends_with("; not all of a, b/c and 4 more"));
        sum.others.clear();
        sum.whole_files = 7;
        assert!(sum.to_string().ends_with(", 7 of 7 files"));
    }
}
