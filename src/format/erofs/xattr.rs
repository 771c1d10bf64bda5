//! Extended attributes.
//!
//! Source: fs/erofs/xattr.c and fs/erofs/super.c (erofs_read_metadata) of Linux 7.2.

use super::{
    COMPAT_PLAIN_XATTR_PFX, COMPAT_SHARED_EA_IN_METABOX, Fault, INCOMPAT_FRAGMENTS, Image, Inode,
};
use crate::bytes::Cursor;
use crate::error::{Error, Result};

/// The prefixes of names, by index (EROFS_XATTR_INDEX_*). The kernel skips the other indexes.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// EROFS_XATTR_LONG_PREFIX: the other bits are the number of a prefix that the image defines.
const LONG_PREFIX: u8 = 1 << 7;

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its whole name, such as `security.capability`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// A prefix that the image defines (struct erofs_xattr_long_prefix).
pub(super) struct Prefix {
    base_index: u8,
    infix: Vec<u8>,
}

/// Where an attribute is (struct erofs_xattr_entry).
struct XattrEntry {
    in_metabox: bool,
    at: u64,
    e_name_len: u8,
    e_name_index: u8,
    e_value_size: u16,
}

impl XattrEntry {
    const HEADER: u64 = 4;

    fn read(image: &Image, in_metabox: bool, at: u64) -> std::result::Result<Self, Fault> {
        let mut bytes = [0; Self::HEADER as usize];
        image.read_metadata(in_metabox, &mut bytes, at)?;
        let [e_name_len, e_name_index, v0, v1] = bytes;
        Ok(Self {
            in_metabox,
            at,
            e_name_len,
            e_name_index,
            e_value_size: u16::from_le_bytes([v0, v1]),
        })
    }

    /// Its length in bytes, padded to a multiple of 4.
    fn length(&self) -> u64 {
        let length = Self::HEADER
            .saturating_add(self.e_name_len.into())
            .saturating_add(self.e_value_size.into());
        length.next_multiple_of(4)
    }

    fn name(
        &self,
        image: &Image,
        prefixes: &[Prefix],
    ) -> std::result::Result<Option<Vec<u8>>, Fault> {
        let (index, infix) = match self.e_name_index & LONG_PREFIX {
            0 => (self.e_name_index, &[][..]),
            // The kernel skips an attribute whose prefix does not exist.
            _ => match prefixes.get(usize::from(self.e_name_index & !LONG_PREFIX)) {
                Some(prefix) => (prefix.base_index, &*prefix.infix),
                None => return Ok(None),
            },
        };
        let Some((_, base)) = PREFIXES.iter().find(|(known, _)| *known == index) else {
            return Ok(None);
        };
        let mut rest = vec![0; self.e_name_len.into()];
        let at = self.at.saturating_add(Self::HEADER);
        image.read_metadata(self.in_metabox, &mut rest, at)?;
        Ok(Some([base, infix, &rest].concat()))
    }

    fn value(&self, image: &Image) -> std::result::Result<Vec<u8>, Fault> {
        let mut value = vec![0; self.e_value_size.into()];
        let at = self.at.saturating_add(Self::HEADER);
        let at = at.saturating_add(self.e_name_len.into());
        image.read_metadata(self.in_metabox, &mut value, at)?;
        Ok(value)
    }
}

impl Image<'_> {
    /// The extended attributes of a file, as stored: first its own, then the shared ones.
    ///
    /// # Errors
    /// They are damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        self.xattrs_if(inode, |_| true)
    }

    /// The extended attributes whose names `wanted` accepts. The values of others are not read.
    pub fn xattrs_if(&self, inode: &Inode, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Xattr>> {
        if inode.behind == inode.xattrs {
            return Ok(Vec::new());
        }
        let prefixes = self.prefixes()?;
        let read = || {
            let mut found = Vec::new();
            for entry in self.xattr_entries(inode)? {
                if let Some(name) = entry.name(self, prefixes)?
                    && wanted(&name)
                {
                    let value = entry.value(self)?;
                    found.push(Xattr { name, value });
                }
            }
            Ok(found)
        };
        read().map_err(|fault: Fault| fault.of_inode(inode.nid))
    }

    /// Where the attributes of a file are (erofs_xattr_iter_inline, erofs_xattr_iter_shared).
    fn xattr_entries(&self, inode: &Inode) -> std::result::Result<Vec<XattrEntry>, Fault> {
        /// struct erofs_xattr_ibody_header
        const HEADER: u64 = 12;
        if inode.behind.saturating_sub(inode.xattrs) <= HEADER {
            return Err(Fault::Unsupported("size of attributes", HEADER));
        }
        let in_metabox = inode.in_metabox();
        let mut header = [0; HEADER as usize];
        self.read_metadata(in_metabox, &mut header, inode.xattrs)?;
        let [_, _, _, _, h_shared_count, ..] = header;
        let mut shared = vec![0; usize::from(h_shared_count).saturating_mul(4)];
        let mut at = inode.xattrs.saturating_add(HEADER);
        self.read_metadata(in_metabox, &mut shared, at)?;
        at = at.saturating_add(shared.len() as u64);

        let mut entries = Vec::new();
        while at < inode.behind {
            let entry = XattrEntry::read(self, in_metabox, at)?;
            at = at.saturating_add(entry.length());
            if at > inode.behind {
                let what = "an attribute is longer than the room for them";
                return Err(Fault::Corrupt(what, entry.at));
            }
            entries.push(entry);
        }
        let in_metabox = self.superblock.feature_compat & COMPAT_SHARED_EA_IN_METABOX != 0;
        let start = u64::from(self.superblock.xattr_blkaddr) << self.superblock.blkszbits;
        let mut shared = Cursor::new(&shared);
        while let Some(id) = shared.le32() {
            let at = start.saturating_add(u64::from(id).saturating_mul(4));
            entries.push(XattrEntry::read(self, in_metabox, at)?);
        }
        Ok(entries)
    }

    /// The prefixes that the image defines (erofs_xattr_prefixes_init).
    fn prefixes(&self) -> Result<&[Prefix]> {
        if let Some(prefixes) = self.prefixes.get() {
            return Ok(prefixes);
        }
        let prefixes = self.read_prefixes().map_err(|what| {
            let prefixes = "EROFS image's prefixes of attributes";
            Error::new("read", prefixes, what)
        })?;
        Ok(self.prefixes.get_or_init(|| prefixes))
    }

    fn read_prefixes(&self) -> std::result::Result<Vec<Prefix>, String> {
        /// EROFS_NAME_LEN, and the base_index.
        const LENGTH_MAX: usize = 255 + 1;
        let superblock = &self.superblock;
        if superblock.xattr_prefix_count == 0 {
            return Ok(Vec::new());
        }
        let plain = superblock.feature_compat & COMPAT_PLAIN_XATTR_PFX != 0;
        let packed =
            superblock.feature_incompat & INCOMPAT_FRAGMENTS != 0 && superblock.packed_nid != 0;
        let packed = match packed && !plain && self.metabox().is_none() {
            true => Some(self.packed().map_err(|fault| fault.to_string())?),
            false => None,
        };
        let source = match self.metabox().or(packed) {
            Some(inode) if !plain => Some(self.content(inode)),
            _ => None,
        };
        let read = |bytes: &mut [u8], at: u64| {
            let done = match &source {
                Some(content) => content.fill(bytes, at),
                None => self.read(bytes, at),
            };
            done.map_err(|fault| format!("those at {at:#x}: {fault}"))
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
        Ok(prefixes)
    }
}
