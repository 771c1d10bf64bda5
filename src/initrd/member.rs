//! Rules of the kernel's unpacker (init/initramfs.c) for one member of an archive, and those for layers that the
//! kernel does not have. `/init` unpacks by them, and the tool foresees the result.

use std::io::{self, Read};

use crate::bytes::Skip;
use crate::format::cpio::{self, Archive, Header, Member, OPAQUE};

/// Identifies hard links: device, inode and file type (struct hash).
pub type LinkKey = (u32, u32, u32, u32);

/// The key of a member that may have further names, by the number of its links (maybe_link).
pub fn link_key(header: &Header) -> Option<LinkKey> {
    let key = (header.maj, header.min, header.ino, header.file_type());
    (header.nlink > 1).then_some(key)
}

/// Major and minor number of a device node, as MKDEV makes them: 12 and 20 bits, the excess of the minor number in
/// the major number.
pub fn device_number(header: &Header) -> (u32, u32) {
    let device = header.rmaj << 20 | header.rmin;
    (device >> 20, device & 0xf_ffff)
}

/// What a member of a layer hides of the layers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// The file or directory of its name.
    Name,
    /// The contents of this directory.
    Directory(&'a [u8]),
}

/// What a member hides, if that is its purpose: a character device 0:0, as for overlayfs, or a file [`OPAQUE`].
pub fn whiteout(member: &Member) -> Option<Whiteout<'_>> {
    let (parent, last) = split_name(&member.name);
    // Not the name of a file: the kernel creates none.
    if matches!(last, b"" | b"." | b"..") {
        return None;
    }
    match member.header.file_type() {
        libc::S_IFREG if last == OPAQUE => Some(Whiteout::Directory(parent)),
        libc::S_IFCHR if device_number(&member.header) == (0, 0) => Some(Whiteout::Name),
        _ => None,
    }
}

/// Splits a name into that of its directory and the last component, without trailing slashes.
pub fn split_name(name: &[u8]) -> (&[u8], &[u8]) {
    let end = name.iter().rposition(|byte| *byte != b'/');
    let name = name
        .get(..end.map_or(0, |end| end.saturating_add(1)))
        .unwrap_or_default();
    match name.iter().rposition(|byte| *byte == b'/') {
        None => (b"", name),
        Some(slash) => (
            name.get(..slash.max(1)).unwrap_or_default(),
            name.get(slash.saturating_add(1)..).unwrap_or_default(),
        ),
    }
}

/// Reads the target of a symbolic link, which ends at a NUL.
pub fn link_target<I: Skip>(archive: &mut Archive<I>) -> io::Result<Vec<u8>> {
    let mut target = Vec::new();
    archive.read_to_end(&mut target)?;
    let end = target.iter().position(|byte| *byte == 0);
    target.truncate(end.unwrap_or(target.len()));
    Ok(target)
}

/// Reads the body of the member, which is next in the archive, and returns the sum of its bytes if the header has
/// another. The kernel checks the sums of regular files only.
pub fn wrong_sum<I: Skip>(member: &Member, archive: &mut Archive<I>) -> io::Result<Option<u32>> {
    let header = &member.header;
    if !header.crc || header.file_type() != libc::S_IFREG {
        return Ok(None);
    }
    let mut sum = 0;
    let mut buffer = [0; 4096];
    loop {
        match archive.read(&mut buffer)? {
            0 => return Ok(Some(sum).filter(|sum| *sum != header.chksum)),
            n => sum = cpio::sum(sum, buffer.get(..n).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &[u8], mode: u32, rmaj: u32, rmin: u32) -> Member {
        Member {
            offset: 0,
            body: 0,
            header: Header {
                mode,
                rmaj,
                rmin,
                ..Header::default()
            },
            name: name.into(),
        }
    }

    #[test]
    fn device_numbers_overflow_as_in_the_kernel() {
        for (rmaj, rmin, number) in [
            (8, 17, (8, 17)),
            (0x1000, 0, (0, 0)),
            (1, 0x10_0000, (1, 0)),
            (0, 0x20_0001, (2, 1)),
        ] {
            let header = member(b"a", 0, rmaj, rmin).header;
            assert_eq!(device_number(&header), number);
        }
    }

    #[test]
    fn whiteouts_are_devices_0_0_and_opaque_marks() {
        for (name, mode, rmaj, expected) in [
            (&b"a/b"[..], 0o020000, 0, Some(Whiteout::Name)),
            (b"a/b/", 0o020644, 0x1000, Some(Whiteout::Name)),
            (b"a/b", 0o020000, 1, None),
            (b"a/b", 0o060000, 0, None),
            (b"a/..", 0o020000, 0, None),
            (b"/", 0o020000, 0, None),
            (b"a/.", 0o020000, 0, None),
            (
                b"a/.wh..wh..opq",
                0o100644,
                0,
                Some(Whiteout::Directory(b"a")),
            ),
            (
                b"/.wh..wh..opq",
                0o100644,
                0,
                Some(Whiteout::Directory(b"/")),
            ),
            (b".wh..wh..opq", 0o100644, 0, Some(Whiteout::Directory(b""))),
            (b".wh..wh..opq", 0o040755, 0, None),
        ] {
            let member = member(name, mode, rmaj, 0);
            assert_eq!(whiteout(&member), expected, "{member:?}");
        }
    }

    #[test]
    fn only_members_with_several_links_have_a_key() {
        let mut header = member(b"a", 0o100644, 0, 0).header;
        (header.maj, header.min, header.ino, header.nlink) = (1, 2, 3, 1);
        assert_eq!(link_key(&header), None);
        header.nlink = 2;
        assert_eq!(link_key(&header), Some((1, 2, 3, 0o100000)));
    }
}
