//! The attributes by which a layer tells overlayfs what to make of a file.
//!
//! Source: fs/overlayfs/namei.c (ovl_lookup_single) of Linux 7.2.

use std::collections::HashSet;

use super::broken;
use crate::error::Result;
use crate::format::erofs::{Image, Inode};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const METACOPY: &[u8] = b"trusted.overlay.metacopy";

/// Reads the attributes of one file after the other.
pub struct Attributes<'i> {
    image: &'i Image<'i>,
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
}

impl<'i> Attributes<'i> {
    /// A reader of the attributes of an image.
    pub fn new(image: &'i Image<'i>) -> Self {
        Self {
            image,
            left: image.metadata_length(),
            seen: HashSet::new(),
        }
    }

    /// What the attributes of a file say. Of a file with several names, only the first time.
    pub fn marks(&mut self, inode: &Inode) -> Result<Marks> {
        let mut marks = Marks::default();
        let length = inode.xattrs_length();
        if length == 0 || !self.seen.insert(inode.nid) {
            return Ok(marks);
        }
        // An honest image stores the attributes of every inode apart. One in which inodes overlap could
        // go on for a long time.
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| broken(inode.nid, "more attributes than the image has room for"))?;
        let wanted = |name: &[u8]| [OPAQUE, REDIRECT, METACOPY].contains(&name);
        for xattr in self.image.xattrs_if(inode, wanted)? {
            match &*xattr.name {
                OPAQUE => marks.opaque |= xattr.value == b"y",
                REDIRECT => marks.redirect = true,
                _ => marks.metacopy = true,
            }
        }
        Ok(marks)
    }
}
