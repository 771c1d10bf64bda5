//! Files of cpio archives and EROFS images, as `layerinit list --files` shows them.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::io::Read;

use super::date::format_utc;
use crate::bytes::{ReadAt, Skip};
use crate::error::{Context, Result};
use crate::format::compress::Codec;
use crate::format::cpio::{Archive, Header, Member, Next, PATH_MAX};
use crate::initrd::{self, Segment};
use crate::json::Object;
use crate::text::shown;

/// The first names of files with several names, up to 64 MiB of them: only a hostile image has more.
#[derive(Debug)]
pub struct Links<K> {
    names: HashMap<K, Vec<u8>>,
    left: usize,
}

impl<K> Default for Links<K> {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            left: 64 << 20,
        }
    }
}

impl<K: Eq + Hash> Links<K> {
    /// The first name of a file; `None` if this is the first, which is stored.
    pub fn first(&mut self, inode: K, name: &[u8]) -> Option<Vec<u8>> {
        if let Some(first) = self.names.get(&inode) {
            return Some(first.clone());
        }
        if let Some(left) = self.left.checked_sub(name.len().saturating_add(64)) {
            self.left = left;
            self.names.insert(inode, name.to_vec());
        }
        None
    }
}

/// A directory entry with the attributes of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// The path as stored.
    pub path: Vec<u8>,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Size of the content in bytes. In a cpio archive only the last of several hard links has content.
    pub size: u64,
    /// Modification time, in seconds since 1970.
    pub mtime: i64,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// The first name of the same file, if this is a further name.
    pub link: Option<Vec<u8>>,
}

impl File {
    /// The file type, as in the JSON listing.
    pub fn kind(&self) -> &'static str {
        kind(self.mode)
    }

    /// Writes the file's fields to a JSON object.
    pub fn json(&self, object: &mut Object) {
        object
            .text("path", &shown(&self.path))
            .text("type", self.kind())
            .text("mode", &format!("{:04o}", self.mode & 0o7777))
            .number("links", self.nlink)
            .number("uid", self.uid)
            .number("gid", self.gid)
            .number("size", self.size)
            .signed("mtime", self.mtime);
        if let Some((major, minor)) = self.device {
            object.number("major", major).number("minor", minor);
        }
        if let Some(target) = &self.target {
            object.text("target", &shown(target));
        }
        if let Some(link) = &self.link {
            object.text("link_to", &shown(link));
        }
    }
}

/// The name of a file type.
pub fn kind(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        libc::S_IFLNK => "symlink",
        libc::S_IFCHR => "character device",
        libc::S_IFBLK => "block device",
        libc::S_IFIFO => "pipe",
        libc::S_IFSOCK => "socket",
        _ => "unknown",
    }
}

/// A line like that of `ls -ln`, with the time in UTC.
impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = match self.device {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => self.size.to_string(),
        };
        let (mode, time) = (permissions(self.mode), format_utc(self.mtime));
        let Self {
            nlink, uid, gid, ..
        } = self;
        let path = match self.path.as_slice() {
            b"" => ".".into(),
            path => shown(path),
        };
        write!(
            f,
            "{mode} {nlink:>3} {uid:>5} {gid:>5} {size:>10} {time} {path}"
        )?;
        if let Some(target) = &self.target {
            write!(f, " -> {}", shown(target))?;
        }
        if let Some(link) = &self.link {
            write!(f, " link to {}", shown(link))?;
        }
        Ok(())
    }
}

/// A mode as ten letters, such as `drwxr-xr-x`.
fn permissions(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFREG => '-',
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Calls `visit` for each member of a cpio segment.
pub fn cpio(
    image: &dyn ReadAt,
    segment: &Segment,
    codec: Option<Codec>,
    mut visit: impl FnMut(File) -> Result<()>,
) -> Result<()> {
    let context = || format!("archive at {:#x}", segment.offset);
    let mut archive = initrd::open_archive(image, segment.offset, segment.length, codec)
        .during("read", context())?;
    let mut links = Links::default();
    loop {
        match archive.next_member()? {
            Next::Member(member) => {
                let mut file = file(&member);
                if file.mode & libc::S_IFMT == libc::S_IFLNK {
                    file.target = Some(target(&mut archive).during("read", context())?);
                }
                file.link = link(&mut links, &member);
                visit(file)?;
            }
            // Several compressed archives without padding between them are one segment.
            Next::Trailer => links = Links::default(),
            Next::End => return Ok(()),
        }
    }
}

fn file(member: &Member) -> File {
    let Header {
        mode,
        nlink,
        uid,
        gid,
        ..
    } = member.header;
    let device = matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
    File {
        path: member.name.clone(),
        mode,
        nlink,
        uid,
        gid,
        size: member.header.filesize.into(),
        mtime: member.header.mtime.into(),
        device: device.then_some((member.header.rmaj, member.header.rmin)),
        target: None,
        link: None,
    }
}

/// A symbolic link's target, without the NUL that gen_init_cpio stores.
fn target<I: Skip>(archive: &mut Archive<I>) -> std::io::Result<Vec<u8>> {
    let mut target = Vec::new();
    archive
        .by_ref()
        .take(PATH_MAX.into())
        .read_to_end(&mut target)?;
    let end = target.iter().position(|byte| *byte == 0);
    target.truncate(end.unwrap_or(target.len()));
    Ok(target)
}

/// The first name of the file for which this member is a further name.
fn link(links: &mut Links<(u32, u32, u32)>, member: &Member) -> Option<Vec<u8>> {
    let header = &member.header;
    if header.nlink < 2 || header.file_type() == libc::S_IFDIR {
        return None;
    }
    links.first((header.maj, header.min, header.ino), &member.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_ls_shows_them() {
        for (mode, expected) in [
            (0o100_644, "-rw-r--r--"),
            (0o104_755, "-rwsr-xr-x"),
            (0o106_644, "-rwSr-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o120_777, "lrwxrwxrwx"),
            (0o020_600, "crw-------"),
            (0o060_660, "brw-rw----"),
            (0o010_000, "p---------"),
            (0o140_000, "s---------"),
            (0o000_001, "?--------x"),
        ] {
            assert_eq!(permissions(mode), expected);
        }
    }
}
