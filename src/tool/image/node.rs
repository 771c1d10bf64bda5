//! A file of a rootfs or of the new root, without its bytes.

use std::rc::Rc;

use crate::format::erofs::{Inode, Xattr};

/// A file of the rootfs. Hard links are one file with several names.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// The bytes of a regular file of an archive or a SquashFS image; `None` if it is empty.
    pub body: Option<ArchiveExtent>,
    /// Index of its layer in the plan.
    pub layer: usize,
    /// Its inode, where that layer is an EROFS image.
    pub inode: Option<Box<Inode>>,
    /// User and group.
    pub owner: (u32, u32),
    /// Modification time: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// For a member of an archive that is written over a file: the layer and inode of that file, whose
    /// extended attributes it keeps.
    pub over: Option<Rc<(usize, Inode)>>,
    /// The extended attributes from a SquashFS image.
    pub xattrs: Option<Rc<Vec<Xattr>>>,
    /// The location of the bytes if this file has metadata only (trusted.overlay.metacopy).
    pub data: FileData,
}

/// The location of the bytes of a regular file.
#[derive(Clone, Debug, Default)]
pub enum FileData {
    /// In the layer that the file is from.
    #[default]
    Own,
    /// In this file, of a lower layer.
    Lower(Rc<Node>),
    /// In a file that no lower layer has.
    Missing,
}

impl Node {
    /// The length of a regular file in bytes.
    pub fn size(&self) -> u64 {
        match (&self.inode, self.body) {
            _ if !self.has_type(libc::S_IFREG) => 0,
            _ if matches!(self.data, FileData::Lower(_)) => self.with_bytes().size(),
            (Some(inode), _) => inode.size,
            (None, body) => body.map_or(0, |body| body.length),
        }
    }

    /// Whether it is a file of this type, one of `S_IFREG`, `S_IFDIR`, ...
    pub fn has_type(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    /// The file that has its bytes: itself, or one of a lower layer.
    pub fn with_bytes(&self) -> &Self {
        match &self.data {
            FileData::Lower(node) => node,
            FileData::Own | FileData::Missing => self,
        }
    }

    /// The layer and the inode with its extended attributes, if it can have any.
    pub fn attributes(&self) -> Option<(usize, &Inode)> {
        let own = self.inode.as_deref().map(|inode| (self.layer, inode));
        own.or(self.over.as_deref().map(|(layer, inode)| (*layer, inode)))
    }
}

/// The location of the bytes of a file in an archive or a SquashFS image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveExtent {
    /// Offset of the archive's segment in the image; 0 for a SquashFS image.
    pub segment: u64,
    /// Offset of the first byte in the archive, decompressed; in the content of all files of a SquashFS image.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}
