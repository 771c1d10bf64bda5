//! The attributes by which a layer tells overlayfs what to make of a file.
//!
//! Source: fs/erofs/xattr.c and fs/erofs/super.c (erofs_read_metadata) of Linux 7.2; for what they mean
//! fs/overlayfs/namei.c (ovl_lookup_single).

use std::collections::HashSet;

use super::{Inode, Tree, broken};
use crate::bytes::{Cursor, ReadAt};
use crate::error::{Error, Result};
use crate::format::erofs::{COMPAT_PLAIN_XATTR_PFX, INCOMPAT_FRAGMENTS};

/// EROFS_XATTR_INDEX_TRUSTED.
const TRUSTED: u8 = 4;

/// EROFS_XATTR_LONG_PREFIX: the rest of the index is that of a prefix of the image's own.
const LONG_PREFIX: u8 = 1 << 7;

/// Reads the attributes of one file after the other.
pub struct Attributes<'t> {
    tree: &'t Tree<'t>,
    /// Those of the image's own; `None` where they lie in a way that is not read here.
    prefixes: Option<Vec<Prefix>>,
    /// How many bytes of attributes there can be besides those that were read.
    left: u64,
    seen: HashSet<u64>,
}

/// What overlayfs is told of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// trusted.overlay.opaque is `y`: a directory in which nothing of lower layers shows.
    pub opaque: bool,
    /// trusted.overlay.redirect: a directory in which that of lower layers shows which has another name.
    pub redirect: bool,
    /// trusted.overlay.metacopy: a file whose bytes are in a lower layer.
    pub metacopy: bool,
    /// There is an attribute that may be one of these, but for a prefix that is not known.
    pub unknown: bool,
}

/// struct erofs_xattr_long_prefix.
struct Prefix {
    base_index: u8,
    infix: Vec<u8>,
}

impl<'t> Attributes<'t> {
    /// A reader of the attributes of an image.
    pub fn new(tree: &'t Tree<'t>) -> Result<Self> {
        let prefixes = prefixes(tree).map_err(|what| {
            let prefixes = "EROFS image's prefixes of attributes";
            Error::new("read", prefixes, what)
        })?;
        Ok(Self {
            tree,
            prefixes,
            left: tree.image.size(),
            seen: HashSet::new(),
        })
    }

    /// What the attributes of a file say (erofs_xattr_iter_inline, erofs_xattr_iter_shared). Of a file
    /// with several names, only the first time.
    pub fn marks(&mut self, inode: &Inode) -> Result<Marks> {
        let mut marks = Marks::default();
        let length = inode.inline.saturating_sub(inode.xattrs);
        if length == 0 || !self.seen.insert(inode.nid) {
            return Ok(marks);
        }
        // An honest image stores the attributes of every inode apart. One in which inodes overlap could
        // go on for a long time.
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| broken(inode.nid, "more attributes than the image has room for"))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.tree.read(inode.nid, &mut bytes, inode.xattrs)?;
        let mut cursor = Cursor::new(&bytes);
        let Some(shared) = shared(&mut cursor) else {
            return Ok(marks);
        };
        while let Some(entry) = Entry::take(&mut cursor) {
            self.mark(&entry, &mut marks);
        }
        for id in shared {
            // As much as the longest name and the value that are looked for take.
            let mut bytes = [0; 32];
            let superblock = self.tree.superblock;
            let start = u64::from(superblock.xattr_blkaddr) << superblock.blkszbits;
            let at = start.saturating_add(u64::from(id).saturating_mul(4));
            let left = self.tree.image.size().saturating_sub(at);
            let n = left.min(bytes.len() as u64);
            let bytes = bytes
                .get_mut(..usize::try_from(n).unwrap_or(0))
                .unwrap_or_default();
            self.tree.read(inode.nid, bytes, at)?;
            if let Some(entry) = Entry::take(&mut Cursor::new(bytes)) {
                self.mark(&entry, &mut marks);
            }
        }
        Ok(marks)
    }

    /// Adds what one attribute says.
    fn mark(&self, entry: &Entry, marks: &mut Marks) {
        let mut add = |name: &[u8], mark: &mut bool| match self.is(entry, name) {
            Some(yes) => *mark |= yes,
            None => marks.unknown = true,
        };
        if entry.value == Some(b"y") {
            add(b"overlay.opaque", &mut marks.opaque);
        }
        add(b"overlay.redirect", &mut marks.redirect);
        add(b"overlay.metacopy", &mut marks.metacopy);
    }

    /// Whether it is the attribute trusted.`name`. `None`: it may be.
    fn is(&self, entry: &Entry, name: &[u8]) -> Option<bool> {
        if entry.index & LONG_PREFIX == 0 {
            return Some(entry.index == TRUSTED && entry.name == name);
        }
        let Some(prefixes) = &self.prefixes else {
            return (!name.ends_with(entry.name)).then_some(false);
        };
        // The kernel passes over an attribute with a prefix that is not there.
        let prefix = prefixes.get(usize::from(entry.index & !LONG_PREFIX));
        Some(prefix.is_some_and(|prefix| {
            prefix.base_index == TRUSTED && name.strip_prefix(&*prefix.infix) == Some(entry.name)
        }))
    }
}

/// Takes the head of a file's attributes (struct erofs_xattr_ibody_header): the numbers of those that
/// it shares with others.
fn shared(cursor: &mut Cursor) -> Option<Vec<u32>> {
    let _h_name_filter = cursor.le32()?;
    let h_shared_count = cursor.u8()?;
    let _h_reserved2 = cursor.take(7)?;
    (0..h_shared_count).map(|_| cursor.le32()).collect()
}

/// One attribute (struct erofs_xattr_entry).
struct Entry<'a> {
    index: u8,
    /// Without what the index stands for.
    name: &'a [u8],
    /// `None` where not all of it was read.
    value: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    fn take(cursor: &mut Cursor<'a>) -> Option<Self> {
        let name_length = usize::from(cursor.u8()?);
        let index = cursor.u8()?;
        let value_length = usize::from(cursor.le16()?);
        let name = cursor.take(name_length)?;
        let value = cursor.take(value_length);
        let end = name_length.saturating_add(value_length);
        let padding = match value {
            Some(_) => end.wrapping_neg() & 3,
            // It was the last.
            None => cursor.rest().len(),
        };
        // Behind the last one there need be nothing.
        cursor.take(padding).unwrap_or_default();
        Some(Self { index, name, value })
    }
}

/// The prefixes of the image's own (erofs_xattr_prefixes_init). `None` where they are in a packed inode
/// that is not read here; else what is wrong with them.
fn prefixes(tree: &Tree) -> std::result::Result<Option<Vec<Prefix>>, String> {
    /// EROFS_NAME_LEN, and the base_index.
    const LENGTH_MAX: usize = 255 + 1;
    let superblock = tree.superblock;
    if superblock.xattr_prefix_count == 0 {
        return Ok(Some(Vec::new()));
    }
    let plain = superblock.feature_compat & COMPAT_PLAIN_XATTR_PFX != 0
        || superblock.feature_incompat & INCOMPAT_FRAGMENTS == 0
        || superblock.packed_nid == 0;
    let packed;
    let source: &dyn ReadAt = if plain {
        tree.image
    } else {
        let inode = tree.inode(superblock.packed_nid);
        match tree.content(inode.map_err(|error| error.to_string())?) {
            None => return Ok(None),
            Some(content) => packed = content,
        }
        &packed
    };
    let read = |bytes: &mut [u8], at: u64| {
        let done = source.read_exact_at(bytes, at);
        done.map_err(|error| format!("those at {at:#x}: {error}"))
    };
    let mut at = u64::from(superblock.xattr_prefix_start).saturating_mul(4);
    let mut prefixes = Vec::new();
    for _ in 0..superblock.xattr_prefix_count {
        let mut length = [0; 2];
        read(&mut length, at)?;
        let length = usize::from(u16::from_le_bytes(length));
        if length == 0 || length > LENGTH_MAX {
            return Err(format!("one at {at:#x} is {length} bytes long"));
        }
        let mut bytes = vec![0; length];
        at = at.saturating_add(2);
        read(&mut bytes, at)?;
        if let [base_index, infix @ ..] = &*bytes {
            prefixes.push(Prefix {
                base_index: *base_index,
                infix: infix.to_vec(),
            });
        }
        let end = at.saturating_add(length as u64);
        at = end.checked_next_multiple_of(4).unwrap_or(end);
    }
    Ok(Some(prefixes))
}
