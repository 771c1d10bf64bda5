//! The files in an EROFS image, as a listing or overlayfs sees them.
//!
//! [`crate::format::erofs::Image`] reads them; this module adds their paths. The size of a hostile image
//! bounds its cost.

mod gaps;

use super::files::{File, Links};
use crate::error::Result;
use crate::format::erofs::{Image, Inode};
pub use gaps::{Gap, Gaps};

/// Calls `take` with every file, a directory before its contents.
pub fn walk(image: &Image, mut take: impl FnMut(File, &Inode) -> Result<()>) -> Result<()> {
    let mut links = Links::default();
    image.walk(&mut |path, inode| {
        let mut file = file(inode, path.to_vec());
        if inode.file_type() == libc::S_IFLNK {
            file.target = Some(image.target(inode)?);
        }
        if !inode.is_directory() && file.nlink > 1 {
            file.link = links.first(inode.nid, path);
        }
        take(file, inode)
    })
}

/// An inode under a name.
fn file(inode: &Inode, path: Vec<u8>) -> File {
    File {
        path,
        mode: inode.mode,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        size: inode.size,
        mtime: inode.mtime,
        device: inode.device,
        target: None,
        link: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::mount::extract::marks::MarkReader;
    use crate::format::erofs::MAGIC;

    /// The slot of the first inode; the others follow, `SLOTS` slots apart.
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

    /// A compact inode of uid 1 and gid 2, with its data after it.
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
        let mut lines = Vec::new();
        let image = Image::open(&image).map_err(|error| error.to_string())?;
        let mut marks = MarkReader::new(&image);
        let walked = walk(&image, |file, inode| {
            lines.push(file.to_string());
            marks.of(inode).map(|_| ())
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

    /// Found by fuzzing.
    #[test]
    fn extents_do_not_overlap_where_their_records_are_in_no_order() {
        // A map of 3 records of 16 bytes, all holes: plen, pstart, lstart.
        let mut map = vec![3, 0, 0, 0, 5, 0, 0, 0];
        map.resize(16, 0);
        for lstart in [0, 30, 0] {
            map.extend_from_slice(&[0; 12]);
            map.extend_from_slice(&u32::to_le_bytes(lstart));
        }
        let mut file = inode(0o100_644, 1, 0, &map);
        file[0] = 1 << 1;
        let bytes = image(&[file]);
        let bytes: &[u8] = &bytes;
        let image = Image::open(&bytes).unwrap();
        let inode = image.inode(FIRST).unwrap();
        let extents = image.extents(&inode).map(|extent| extent.unwrap());
        let extents: Vec<_> = extents
            .map(|extent| (extent.offset, extent.length))
            .collect();
        assert_eq!(extents, [(0, 30), (30, inode.size - 30)]);
    }

    #[test]
    fn what_would_go_on_for_ever_ends() {
        let mut circle = sound();
        circle[1] = inode(0o040_700, 2, 0, &names(&[("up", 0)]));
        assert_eq!(
            list(&image(&circle)).unwrap_err(),
            "read EROFS inode 36: a directory that is in the tree twice"
        );
        // Three directories that share one block of 240 names.
        let letters: Vec<_> = (0..240).map(|n| format!("{n:03}")).collect();
        let letters: Vec<_> = letters.iter().map(|name| (name.as_str(), 2)).collect();
        let mut block = names(&letters);
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
        let mut twice = sound();
        twice[1] = inode(0o040_700, 2, 0, &names(&[("b", 2), ("b", 3)]));
        assert_eq!(
            list(&image(&twice)).unwrap_err(),
            "read EROFS inode 42: a directory whose names are not in order"
        );
    }

    #[test]
    fn attributes_that_overlap_are_read_only_so_often() {
        // A file with two thousand bytes of them, under two hundred names in each of two or three directories.
        let mut crowded = inode(0o100_600, 1, 0, b"");
        crowded[2..4].copy_from_slice(&500u16.to_le_bytes());
        let letters: Vec<_> = (0..200).map(|n| format!("{n:03}")).collect();
        let letters: Vec<_> = letters.iter().map(|name| (name.as_str(), 4)).collect();
        let mut block = names(&letters);
        block.resize(4096, 0);
        let mut shared = inode(0o040_755, 2, 1, b"");
        (shared[0], shared[8], shared[9]) = (0, 0x00, 0x10);
        let whole = |directories: &[(&str, u64)]| {
            let root = inode(0o040_755, 2, 0, &names(directories));
            let shared = || shared.clone();
            let inodes = [root, shared(), shared(), shared(), crowded.clone()];
            [image(&inodes), block.clone()].concat()
        };
        let two = whole(&[("a", 1), ("b", 2)]);
        assert_eq!(list(&two).unwrap().len(), 1 + 2 + 400);
        let error = list(&whole(&[("a", 1), ("b", 2), ("c", 3)])).unwrap_err();
        assert_eq!(
            error,
            "read EROFS inode 60: more attributes than the image has room for"
        );
    }

    #[test]
    fn names_that_make_no_sense_are_refused() {
        for bad in ["a/b", "/", "a\0b", ""] {
            let mut tree = sound();
            tree[0] = inode(0o040_755, 2, 0, &names(&[(bad, 2), ("x", 2)]));
            let expected = "read EROFS inode 36: its names make no sense (at 0x0)";
            assert_eq!(list(&image(&tree)).unwrap_err(), expected, "{bad:?}");
        }
    }

    #[test]
    fn an_inode_of_a_metabox_that_is_not_there_is_refused() {
        let mut image = image(&sound());
        // The first dirent except `.` and `..`, after the root's inode.
        image[FIRST as usize * 32 + 32 + 2 * 12 + 7] = 0x80;
        assert_eq!(
            list(&image).unwrap_err(),
            "read EROFS inode 42 of the metabox: the image has no metabox (at 0x540)"
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
