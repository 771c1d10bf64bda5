//! Directories.
//!
//! Source: fs/erofs/dir.c (erofs_fill_dentries) of Linux 7.2.

use super::{Fault, Image, Inode, InodeContent};
use crate::bytes::{Cursor, ReadAt};
use crate::error::Result;

/// EROFS_NAME_LEN.
const NAME_MAX: usize = 255;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// The inode that the name refers to.
    pub nid: u64,
    /// The name, which is neither `.` nor `..`.
    pub name: Vec<u8>,
}

/// Iterates over the names in a directory, in the order of their bytes. Ends after an error.
pub struct Entries<'i> {
    content: InodeContent<'i>,
    nid: u64,
    block: u64,
    at: u64,
    bytes: Vec<u8>,
    names: std::vec::IntoIter<Dirent>,
}

impl Image<'_> {
    /// The names in a directory (erofs_readdir). A compressed directory may have any number of them.
    pub fn entries<'i>(&'i self, directory: &'i Inode) -> Entries<'i> {
        Entries {
            content: self.content(directory),
            nid: directory.nid,
            block: self.superblock.block_size(),
            at: 0,
            bytes: Vec::new(),
            names: Vec::new().into_iter(),
        }
    }
}

impl Entries<'_> {
    /// Reads the next block; false at the end.
    fn fill(&mut self) -> std::result::Result<bool, Fault> {
        let n = self.content.size().saturating_sub(self.at).min(self.block);
        if n == 0 {
            return Ok(false);
        }
        let at = self.at;
        self.at = at.saturating_add(n);
        self.bytes.resize(usize::try_from(n).unwrap_or(0), 0);
        self.content.fill(&mut self.bytes, at)?;
        let names = block_dirents(&self.bytes);
        self.names = names
            .ok_or(Fault::Corrupt("its names make no sense", at))?
            .into_iter();
        Ok(true)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Dirent>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(dirent) = self.names.next() {
                return Some(Ok(dirent));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(fault) => {
                    self.at = u64::MAX;
                    return Some(Err(fault.of_inode(self.nid)));
                }
            }
        }
    }
}

/// The names of one directory block, without `.` and `..` (erofs_fill_dentries).
fn block_dirents(block: &[u8]) -> Option<Vec<Dirent>> {
    const DIRENT: usize = 12;
    let nameoff = |mut cursor: Cursor| {
        cursor.take(8)?;
        cursor.le16().map(usize::from)
    };
    let first = nameoff(Cursor::new(block))?;
    if first == 0 || first % DIRENT != 0 {
        return None;
    }
    let mut dirents = Vec::new();
    let mut cursor = Cursor::new(block.get(..first)?);
    while !cursor.rest().is_empty() {
        let start = nameoff(cursor)?;
        let nid = cursor.le64()?;
        cursor.take(4)?;
        let name = match cursor.rest() {
            // The last name ends with the block, or with a NUL.
            [] => block.get(start..)?.split(|byte| *byte == 0).next()?,
            _ => block.get(start..nameoff(cursor)?)?,
        };
        if name.is_empty()
            || name.len() > NAME_MAX
            || name.iter().any(|byte| matches!(byte, 0 | b'/'))
        {
            return None;
        }
        if name != b"." && name != b".." {
            let name = name.to_vec();
            dirents.push(Dirent { nid, name });
        }
    }
    Some(dirents)
}
