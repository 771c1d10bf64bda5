//! The files in an EROFS image, read without mounting it.
//!
//! Source: fs/erofs/erofs_fs.h, inode.c, dir.c and data.c of Linux 7.2, whose names are kept. Names,
//! attributes and symbolic links are read; the content of files is the kernel's business. What is
//! not understood is refused, and what a hostile image can cost is bounded by its size.

mod gaps;
mod inode;
mod xattr;

use std::collections::HashSet;
use std::io;

use super::files::{File, Links};
use crate::bytes::{Cursor, ReadAt};
use crate::error::{Error, Result};
use crate::format::cpio::PATH_MAX;
use crate::format::erofs::Superblock;
pub use gaps::{Gap, Gaps};
pub use inode::Inode;
use inode::{Layout, Raw};
pub use xattr::{Attributes, Marks};

/// The inode is stored compressed, with others, in the metabox inode.
const NID_METABOX: u64 = 1 << 63;

/// An inode with an identity of its own lies at a multiple of this many bytes.
const ISLOTBITS: u32 = 5;

/// EROFS_NAME_LEN.
const NAME_MAX: usize = 255;

/// The longest path that is followed. The kernel has no limit, but programs have PATH_MAX.
const DEPTH_MAX: usize = 16 * PATH_MAX as usize;

/// An image, open for reading its tree.
pub struct Tree<'a> {
    image: &'a dyn ReadAt,
    superblock: &'a Superblock,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// What it stands for.
    pub nid: u64,
    /// The name, which is neither `.` nor `..`.
    pub name: Vec<u8>,
}

impl<'a> Tree<'a> {
    /// The tree of the image that is all of `image`.
    pub fn new(image: &'a dyn ReadAt, superblock: &'a Superblock) -> Result<Self> {
        let broken = |what: String| Err(Error::new("read", "EROFS superblock", what));
        let (unknown, dirblkbits) = (superblock.unknown_incompat(), superblock.dirblkbits);
        if unknown != 0 {
            return broken(format!("unknown features {unknown:#x}"));
        }
        if dirblkbits != 0 {
            return broken(format!("dirblkbits {dirblkbits}, which no kernel supports"));
        }
        Ok(Self { image, superblock })
    }

    /// The root directory.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(self.superblock.root_nid)?;
        match root.is_directory() {
            true => Ok(root),
            false => Err(broken(root.nid, "the root is no directory")),
        }
    }

    /// Reads an inode (erofs_read_inode).
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        if nid & NID_METABOX != 0 {
            let inode = format_args!("EROFS inode {} of the metabox", nid & !NID_METABOX);
            return Err(Error::new("read", inode, "the metabox is not read here"));
        }
        let iloc = u64::from(self.superblock.meta_blkaddr)
            .checked_shl(self.superblock.blkszbits.into())
            .and_then(|meta| meta.checked_add(nid.checked_mul(1 << ISLOTBITS)?))
            .ok_or_else(|| broken(nid, "its address is beyond any image"))?;
        let mut bytes = [0; Raw::EXTENDED];
        let (compact, more) = bytes.split_at_mut(Raw::COMPACT);
        self.read(nid, compact, iloc)?;
        let i_format = compact.first().copied().unwrap_or_default();
        if Raw::is_extended(i_format.into()) {
            self.read(nid, more, iloc.saturating_add(Raw::COMPACT as u64))?;
        }
        let raw = Raw::parse(&bytes, self.superblock.epoch)
            .ok_or_else(|| broken(nid, "its inode is cut off"))?;
        raw.inode(nid, iloc).map_err(|what| broken(nid, &what))
    }

    /// The names in a directory, in their order, which is that of their bytes (erofs_readdir).
    pub fn directory(&self, directory: &Inode) -> Result<Vec<Dirent>> {
        let block = 1u64 << self.superblock.blkszbits;
        let mut dirents = Vec::new();
        let mut at = 0;
        while at < directory.file.size {
            let n = directory.file.size.saturating_sub(at).min(block);
            let mut bytes = vec![0; usize::try_from(n).unwrap_or(0)];
            self.data(directory, at, &mut bytes)?;
            let block = block_dirents(&bytes, &mut dirents);
            block.ok_or_else(|| {
                broken(
                    directory.nid,
                    &format!("its names at {at:#x} make no sense"),
                )
            })?;
            at = at.saturating_add(n);
        }
        Ok(dirents)
    }

    /// What a symbolic link leads to. `None` where it is stored in a way that is not read here.
    pub fn target(&self, link: &Inode) -> Result<Option<Vec<u8>>> {
        if link.unread().is_some() {
            return Ok(None);
        }
        if link.file.size > u64::from(PATH_MAX) {
            return Err(broken(link.nid, "the target is longer than a path can be"));
        }
        let mut target = vec![0; usize::try_from(link.file.size).unwrap_or(0)];
        self.data(link, 0, &mut target)?;
        Ok(Some(target))
    }

    /// The bytes of a regular file. `None` where they are compressed or in chunks.
    pub fn content(&self, file: Inode) -> Option<Content<'_>> {
        file.unread()
            .is_none()
            .then_some(Content { tree: self, file })
    }

    /// Reads the bytes of a flat file at `at` (erofs_map_blocks).
    fn data(&self, inode: &Inode, at: u64, bytes: &mut [u8]) -> Result<()> {
        let block = 1u64 << self.superblock.blkszbits;
        let tail = match inode.layout {
            Layout::FlatPlain => inode.file.size,
            // The last block, whole or not, is behind the inode.
            Layout::FlatInline => inode.file.size.saturating_sub(1) & !(block - 1),
            Layout::Compressed => return Err(broken(inode.nid, "it is compressed")),
            Layout::Chunks => return Err(broken(inode.nid, "it is in chunks")),
        };
        let in_blocks = usize::try_from(tail.saturating_sub(at)).unwrap_or(usize::MAX);
        let (blocks, inline) = bytes.split_at_mut(in_blocks.min(bytes.len()));
        if !blocks.is_empty() {
            // All ones is a hole, and beyond any image: no directory and no link has one.
            let start = inode.startblk.checked_mul(block);
            let start = start.and_then(|start| start.checked_add(at));
            self.read(inode.nid, blocks, start.unwrap_or(u64::MAX))?;
        }
        if !inline.is_empty() {
            let start = inode.inline.checked_add(at.saturating_sub(tail));
            self.read(inode.nid, inline, start.unwrap_or(u64::MAX))?;
        }
        Ok(())
    }

    fn read(&self, nid: u64, bytes: &mut [u8], at: u64) -> Result<()> {
        self.image
            .read_exact_at(bytes, at)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    broken(nid, &format!("{at:#x} is beyond the end of the image"))
                }
                _ => broken(nid, &error.to_string()),
            })
    }

    /// Hands over every file, a directory before what is in it; nothing of what is in a directory whose
    /// names are not read here ([`Inode::unread`]).
    pub fn walk(&self, mut take: impl FnMut(File, &Inode) -> Result<()>) -> Result<()> {
        /// The bytes that a name takes in a directory at least: a dirent and a letter.
        const NAME_MIN: u64 = 13;
        // An honest image stores every name once. One in which directories share their blocks
        // could go on for a long time.
        let mut left = self.image.size() / NAME_MIN;
        let mut seen = HashSet::new();
        let mut links = Links::default();
        // Of the entry last taken. The directory that an entry is in is always a part of it.
        let mut path: Vec<u8> = Vec::new();
        let mut todo = vec![(0, Vec::new(), self.root()?.nid)];
        while let Some((directory, name, nid)) = todo.pop() {
            path.truncate(directory);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if path.len() > DEPTH_MAX {
                return Err(broken(
                    nid,
                    "directories nested deeper than any path can be",
                ));
            }
            let inode = self.inode(nid)?;
            let mut file = inode.file.clone();
            file.path.clone_from(&path);
            if file.mode & libc::S_IFMT == libc::S_IFLNK {
                file.target = Some(self.target(&inode)?.unwrap_or_else(|| b"?".to_vec()));
            }
            if !inode.is_directory() && file.nlink > 1 {
                file.link = links.first(nid, &path);
            }
            take(file, &inode)?;
            if !inode.is_directory() {
                continue;
            }
            if !seen.insert(nid) {
                return Err(broken(nid, "a directory that is in the tree twice"));
            }
            if inode.unread().is_some() {
                continue;
            }
            let dirents = self.directory(&inode)?;
            left = left
                .checked_sub(dirents.len() as u64)
                .ok_or_else(|| broken(nid, "more names than the image has room for"))?;
            let below = dirents.into_iter().rev();
            todo.extend(below.map(|dirent| (path.len(), dirent.name, dirent.nid)));
        }
        Ok(())
    }
}

/// The bytes of a file that is stored as it is.
pub struct Content<'a> {
    tree: &'a Tree<'a>,
    file: Inode,
}

impl ReadAt for Content<'_> {
    fn size(&self) -> u64 {
        self.file.file.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.size().saturating_sub(offset);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..n).unwrap_or_default();
        match self.tree.data(&self.file, offset, buf) {
            Ok(()) => Ok(n),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }
}

/// Adds the names of one directory block, but for `.` and `..` (erofs_fill_dentries).
fn block_dirents(block: &[u8], dirents: &mut Vec<Dirent>) -> Option<()> {
    const DIRENT: usize = 12;
    let nameoff = |mut cursor: Cursor| {
        cursor.take(8)?;
        cursor.le16().map(usize::from)
    };
    let first = nameoff(Cursor::new(block))?;
    if first == 0 || first % DIRENT != 0 {
        return None;
    }
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
    Some(())
}

fn broken(nid: u64, what: &str) -> Error {
    Error::new("read", format_args!("EROFS inode {nid}"), what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::erofs::MAGIC;

    /// Where the first inode is; the others follow, `SLOTS` slots apart.
    const FIRST: u64 = 1152 / 32;
    const SLOTS: u64 = 6;

    /// One block of 4096 bytes with these inodes in it.
    fn image(inodes: &[Vec<u8>]) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[1024..1028].copy_from_slice(&MAGIC);
        image[1036] = 12;
        image[1038] = FIRST as u8;
        image[1048] = 100;
        image[1060] = 1;
        for (n, inode) in inodes.iter().enumerate() {
            let at = (FIRST as usize + n * SLOTS as usize) * 32;
            image[at..at + inode.len()].copy_from_slice(inode);
        }
        image
    }

    /// A compact inode of uid 1 and gid 2, with its data behind it.
    fn inode(mode: u16, nlink: u16, i_u: u32, data: &[u8]) -> Vec<u8> {
        let mut inode = Vec::new();
        for field in [2 << 1, 0, mode, nlink] {
            inode.extend_from_slice(&u16::to_le_bytes(field));
        }
        for field in [data.len() as u32, 5, i_u, 0] {
            inode.extend_from_slice(&field.to_le_bytes());
        }
        inode.extend_from_slice(&[1, 0, 2, 0, 0, 0, 0, 0]);
        inode.extend_from_slice(data);
        inode
    }

    /// A directory's data: names, and which of the inodes they are.
    fn names(names: &[(&str, u64)]) -> Vec<u8> {
        let mut dirents = Vec::new();
        let mut nameoff = names.len() as u16 * 12;
        for (name, inode) in names {
            dirents.extend_from_slice(&(FIRST + inode * SLOTS).to_le_bytes());
            dirents.extend_from_slice(&nameoff.to_le_bytes());
            dirents.extend_from_slice(&[0, 0]);
            nameoff += name.len() as u16;
        }
        for (name, _) in names {
            dirents.extend_from_slice(name.as_bytes());
        }
        dirents
    }

    fn list(image: &[u8]) -> std::result::Result<Vec<String>, String> {
        let superblock = Superblock::read(&image, 0)
            .unwrap()
            .ok_or("no superblock")?;
        let mut lines = Vec::new();
        let tree = Tree::new(&image, &superblock).map_err(|error| error.to_string())?;
        let mut attributes = Attributes::new(&tree).map_err(|error| error.to_string())?;
        let walked = tree.walk(|file, inode| {
            lines.push(file.to_string());
            attributes.marks(inode).map(|_| ())
        });
        walked.map(|()| lines).map_err(|error| error.to_string())
    }

    fn sound() -> Vec<Vec<u8>> {
        vec![
            inode(
                0o040_755,
                2,
                0,
                &names(&[(".", 0), ("..", 0), ("dev", 1), ("link", 3), ("tty", 2)]),
            ),
            inode(0o040_700, 2, 0, &names(&[(".", 1), ("..", 0), ("tty", 2)])),
            inode(0o020_620, 2, 0x0010_0440, b""),
            inode(0o120_777, 1, 0, b"dev/tty"),
        ]
    }

    #[test]
    fn a_small_tree() {
        assert_eq!(
            list(&image(&sound())).unwrap(),
            [
                "drwxr-xr-x   2     1     2         73 1970-01-01 00:01:45 .",
                "drwx------   2     1     2         42 1970-01-01 00:01:45 dev",
                "crw--w----   2     1     2     4, 320 1970-01-01 00:01:45 dev/tty",
                "lrwxrwxrwx   1     1     2          7 1970-01-01 00:01:45 link -> dev/tty",
                "crw--w----   2     1     2     4, 320 1970-01-01 00:01:45 tty link to dev/tty",
            ]
        );
    }

    #[test]
    fn what_would_go_on_for_ever_ends() {
        let mut circle = sound();
        circle[1] = inode(0o040_700, 2, 0, &names(&[("up", 0)]));
        assert_eq!(
            list(&image(&circle)).unwrap_err(),
            "read EROFS inode 36: a directory that is in the tree twice"
        );
        // Three directories that share one block of three hundred names.
        let mut block = names(&[("a", 2); 300]);
        block.resize(4096, 0);
        let mut shared = inode(0o040_700, 2, 1, b"");
        (shared[0], shared[8], shared[9]) = (0, 0x00, 0x10);
        let mut whole = image(&[inode(
            0o040_755,
            2,
            0,
            &names(&[("a", 1), ("b", 3), ("c", 5)]),
        )]);
        for n in [1, 3, 5, 2] {
            let at = (FIRST + n * SLOTS) as usize * 32;
            let inode = if n == 2 { &sound()[2] } else { &shared };
            whole[at..at + 32].copy_from_slice(&inode[..32]);
        }
        whole.extend_from_slice(&block);
        let error = list(&whole).unwrap_err();
        assert_eq!(
            error,
            "read EROFS inode 66: more names than the image has room for"
        );
    }

    #[test]
    fn attributes_that_overlap_are_read_only_so_often() {
        let mut crowded = inode(0o040_700, 2, 0, b"");
        // Two thousand bytes of them.
        crowded[2..4].copy_from_slice(&500u16.to_le_bytes());
        let mut tree = vec![inode(0o040_755, 2, 0, &names(&[("a", 1), ("b", 2)]))];
        tree.extend([crowded.clone(), crowded.clone()]);
        assert_eq!(list(&image(&tree)).unwrap().len(), 3);
        tree[0] = inode(0o040_755, 2, 0, &names(&[("a", 1), ("b", 2), ("c", 3)]));
        tree.push(crowded);
        let error = list(&image(&tree)).unwrap_err();
        assert_eq!(
            error,
            "read EROFS inode 54: more attributes than the image has room for"
        );
    }

    #[test]
    fn names_that_make_no_sense_are_refused() {
        for bad in ["a/b", "/", "a\0b", ""] {
            let mut tree = sound();
            tree[0] = inode(0o040_755, 2, 0, &names(&[(bad, 2), ("x", 2)]));
            let expected = "read EROFS inode 36: its names at 0x0 make no sense";
            assert_eq!(list(&image(&tree)).unwrap_err(), expected, "{bad:?}");
        }
    }

    #[test]
    fn a_metabox_is_named_as_what_is_not_read() {
        let mut image = image(&sound());
        // The first dirent but for `.` and `..`, behind the root's inode.
        image[FIRST as usize * 32 + 32 + 2 * 12 + 7] = 0x80;
        assert_eq!(
            list(&image).unwrap_err(),
            "read EROFS inode 42 of the metabox: the metabox is not read here"
        );
    }

    #[test]
    fn no_byte_can_make_it_panic() {
        let sound = image(&sound());
        for at in 1024..2048 {
            for value in [0, 1, 0x24, 0x7f, 0x80, 0xff] {
                let mut hostile = sound.clone();
                hostile[at] = value;
                let _ = list(&hostile);
            }
        }
        for length in 1024..sound.len() {
            let _ = list(&sound[..length]);
        }
    }
}
