//! A cpio archive into a tmpfs, with the result that the kernel's own unpacker would have had:
//! init/initramfs.c, function by function, mtimes included (INITRAMFS_PRESERVE_MTIME).
//!
//! The caller gives it a root directory of its own (see [`crate::sys::process::run_chrooted`]), so that
//! paths mean what they mean to the kernel, and nothing leads out.
//!
//! Two names mean more here than to the kernel, because the archive is a layer: a character device
//! 0:0 hides what the layers below have of its name, and a file [`OPAQUE`] hides all that they have of
//! the directory it is in. Neither is there afterwards.

mod hide;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::OwnedFd;

use log::{debug, warn};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmod, chown,
    chownat, fchmod, fchown, ftruncate, futimens, link, lstat, makedev, mkdir, mknodat, open,
    rmdir, stat, symlink, unlink, utimensat,
};
use rustix::io::{Errno, write};

use crate::bytes::Skip;
use crate::error::{self, Cause, Context, Error, Result};
use crate::format::cpio::{self, Archive, Header, Member, Next, OPAQUE};
use crate::text::shown;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Members, the trailers not counted.
    pub members: u64,
    /// Members that could not be created, as when their parent directory is missing. The kernel
    /// drops them without a word.
    pub dropped: u64,
    /// Directories in which everybody may create and delete files.
    pub open: u64,
}

/// Which earlier member a hard link is to: device, inode and type (struct hash).
type Key = (u32, u32, u32, u32);

/// Unpacks every member of `archive` into the root directory. Where that is an overlay, `changes` is
/// the directory that takes the changes, open.
pub fn unpack<I: Skip>(mut archive: Archive<I>, changes: Option<OwnedFd>) -> Result<Unpacked> {
    let mut unpacker = Unpacker {
        changes,
        links: BTreeMap::new(),
        directories: Vec::new(),
        kept: Vec::new(),
        seen: BTreeSet::new(),
        buffer: vec![0; 128 << 10],
        done: Unpacked::default(),
    };
    let result = loop {
        match archive.next_member() {
            Ok(Next::Member(member)) => {
                if let Err(error) = unpacker.member(&member, &mut archive) {
                    break Err(error);
                }
            }
            // Links do not reach across archives.
            Ok(Next::Trailer) => unpacker.links.clear(),
            Ok(Next::End) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    unpacker.directory_times();
    result.map(|()| unpacker.done)
}

/// Removes everything in the directories that an archive marks as opaque: what the layers below have there.
pub fn clear_opaque<I: Skip>(mut archive: Archive<I>) -> Result<()> {
    loop {
        match archive.next_member()? {
            Next::Member(member) if member.counts() => {
                let (parent, last) = split(&member.name);
                if last == OPAQUE && member.header.file_type() == libc::S_IFREG {
                    hide::all_below(parent, None)
                        .during("clear", format_args!("directory {}", shown(parent)))?;
                }
            }
            Next::Member(_) | Next::Trailer => {}
            Next::End => return Ok(()),
        }
    }
}

struct Unpacker {
    /// What of the tree is not of the layers below.
    changes: Option<OwnedFd>,
    links: BTreeMap<Key, Vec<u8>>,
    /// Directories whose times are set when nothing is created in them any more (dir_utime).
    directories: Vec<(Vec<u8>, Timespec)>,
    /// Directories of the layers below with a time that no archive gave them: any member's counts more.
    kept: Vec<(Vec<u8>, Timespec)>,
    /// Names that have been looked at for directories of the layers below.
    seen: BTreeSet<Vec<u8>>,
    buffer: Vec<u8>,
    done: Unpacked,
}

impl Unpacker {
    /// do_name and do_symlink.
    fn member<I: Skip>(&mut self, member: &Member, archive: &mut Archive<I>) -> Result<()> {
        self.done.members = self.done.members.saturating_add(1);
        if !member.counts() {
            self.drop(member, "the kernel passes it over, too");
            return Ok(());
        }
        let (name, header) = (&member.name, &member.header);
        if self.changes.is_some() {
            self.remember(name);
        }
        if let Some(hidden) = self.hides(name, header) {
            return hidden.or_else(|error| self.refused(member, error));
        }
        // As the kernel does, owner, mode and time are set on whatever stands there now, made for
        // this member or not: a directory that is not empty stays.
        let done = match header.file_type() {
            libc::S_IFREG => return self.file(member, archive),
            libc::S_IFLNK => {
                let mut target = Vec::new();
                let read = archive.read_to_end(&mut target);
                read.during("read", format_args!("link {}", shown(name)))?;
                let end = target.iter().position(|byte| *byte == 0);
                target.truncate(end.unwrap_or(target.len()));
                clean(name, None);
                let created = symlink(&*target, &**name);
                let (uid, gid) = owner(header);
                let owned = chownat(CWD, &**name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
                created
                    .and(owned)
                    .and(set_times(name, seconds(header.mtime)))
            }
            libc::S_IFDIR => {
                clean(name, Some(libc::S_IFDIR));
                let created = mkdir(&**name, mode(header));
                let attributes = attributes(name, header);
                self.directories.push((name.clone(), seconds(header.mtime)));
                if attributes.is_ok() && is_open_to_all(header.mode) {
                    self.open_to_all(name, header.mode);
                }
                unless_there(created, name, libc::S_IFDIR).and(attributes)
            }
            kind @ (libc::S_IFBLK | libc::S_IFCHR | libc::S_IFIFO | libc::S_IFSOCK) => {
                clean(name, Some(kind));
                match self.linked(member) {
                    Some(linked) => linked,
                    None => {
                        let node = FileType::from_raw_mode(kind);
                        let created = mknodat(CWD, &**name, node, mode(header), device(header));
                        let attributes = attributes(name, header);
                        let timed = set_times(name, seconds(header.mtime));
                        unless_there(created, name, kind).and(attributes).and(timed)
                    }
                }
            }
            // Not a type; still, what had this name before is gone.
            other => {
                clean(name, Some(other));
                Err(Errno::INVAL)
            }
        };
        done.or_else(|errno| self.refused(member, errno))
    }

    /// The regular file's part of do_name, and do_copy.
    fn file<I: Skip>(&mut self, member: &Member, archive: &mut Archive<I>) -> Result<()> {
        let (name, header) = (&member.name, &member.header);
        clean(name, Some(libc::S_IFREG));
        let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        match self.linked(member) {
            // The data may have come with an earlier link, or comes with this one.
            Some(Ok(())) if opens(name) => {}
            // The kernel would write to the device, or wait for somebody to read from the pipe.
            Some(Ok(())) => return self.refused(member, Errno::NXIO),
            Some(Err(errno)) => return self.refused(member, errno),
            None => flags |= OFlags::TRUNC,
        }
        let file = match open(&**name, flags, mode(header)) {
            Ok(file) => file,
            Err(errno) => return self.refused(member, errno),
        };
        let (uid, gid) = owner(header);
        let failed = |errno| Error::with("write", shown(name), Cause::Os(errno));
        fchown(&file, uid, gid).map_err(failed)?;
        fchmod(&file, mode(header)).map_err(failed)?;
        if header.filesize != 0 {
            ftruncate(&file, header.filesize.into()).map_err(failed)?;
        }
        let mut sum = 0u32;
        loop {
            let n = archive.read(&mut self.buffer).during("read", shown(name))?;
            let mut data = self.buffer.get(..n).unwrap_or_default();
            if data.is_empty() {
                break;
            }
            if header.crc {
                sum = cpio::sum(sum, data);
            }
            while !data.is_empty() {
                let n = write(&file, data).map_err(failed)?;
                data = data.get(n..).unwrap_or_default();
            }
        }
        // The time is for people; a file without it is still the file.
        let _ = futimens(&file, &times(seconds(header.mtime)));
        if header.crc && sum != header.chksum {
            let what = format!(
                "the sum of its bytes is {sum:#x}, its header says {:#x}",
                header.chksum
            );
            return Err(Error::new("unpack", shown(name), what));
        }
        Ok(())
    }

    /// maybe_link: links the member to an earlier one of the same inode, if there is one, and
    /// remembers it otherwise.
    fn linked(&mut self, member: &Member) -> Option<std::result::Result<(), Errno>> {
        let header = &member.header;
        if header.nlink < 2 {
            return None;
        }
        let key = (header.maj, header.min, header.ino, header.file_type());
        match self.links.get(&key) {
            Some(old) => {
                clean(&member.name, None);
                Some(link(&**old, &*member.name))
            }
            None => {
                self.links.insert(key, member.name.clone());
                None
            }
        }
    }

    /// What the kernel takes for nothing is counted; running out of memory is an error.
    fn refused(&mut self, member: &Member, errno: Errno) -> Result<()> {
        if matches!(errno, Errno::NOSPC | Errno::NOMEM) {
            return Err(errno).during("create", shown(&member.name));
        }
        self.drop(member, &error::name(errno).to_string());
        Ok(())
    }

    fn drop(&mut self, member: &Member, why: &str) {
        /// On a serial console a line takes ten milliseconds.
        const TOLD_MAX: u64 = 20;
        match self.done.dropped {
            ..TOLD_MAX => warn!("{}: not created: {why}", shown(&member.name)),
            TOLD_MAX => warn!("... and more: see `layerinit check`"),
            _ => debug!("{}: not created: {why}", shown(&member.name)),
        }
        self.done.dropped = self.done.dropped.saturating_add(1);
    }

    /// Warns of a directory where everybody may replace what is in it: GRUB makes all of an archive's so.
    fn open_to_all(&mut self, name: &[u8], mode: u32) {
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let (name, mode) = (shown(name), mode & 0o7777);
        match self.done.open {
            ..OPEN_TOLD_MAX => warn!(
                "directory /{name}: mode {mode:04o}: everybody may write to it; give it mode 0755 in the archive"
            ),
            OPEN_TOLD_MAX => warn!("... and more directories that everybody may write to"),
            _ => debug!("directory /{name}: mode {mode:04o}"),
        }
        self.done.open = self.done.open.saturating_add(1);
    }

    /// Hides what the layers below have, if that is what this member is for.
    fn hides(&self, name: &[u8], header: &Header) -> Option<std::result::Result<(), Errno>> {
        let (parent, last) = split(name);
        // No name of a file, and the kernel creates nothing there.
        if matches!(last, b"" | b"." | b"..") {
            return None;
        }
        match header.file_type() {
            libc::S_IFREG if last == OPAQUE => Some(match &self.changes {
                Some(changes) => hide::all_below(parent, Some(changes)),
                None => Ok(()),
            }),
            libc::S_IFCHR if device(header) == 0 => Some(hide::remove(name)),
            _ => None,
        }
    }

    /// Sees to it that a directory of the layers below keeps its time when things are made in it, or
    /// it is made again: the kernel sets all directories' times when all archives are unpacked.
    fn remember(&mut self, name: &[u8]) {
        // With a dot at its end: a link on the way stays one, and a link at the end is followed.
        let parent = [split(name).0, b"/."].concat();
        let parent = parent.strip_prefix(b"/").unwrap_or(&parent);
        for directory in [parent, name] {
            if self.seen.contains(directory) {
                continue;
            }
            self.seen.insert(directory.to_vec());
            if let Ok(stat) = lstat(directory)
                && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
            {
                let time = Timespec {
                    tv_sec: stat.st_mtime,
                    tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0),
                };
                // Archives know whole seconds.
                if time.tv_nsec == 0 {
                    self.directories.push((directory.to_vec(), time));
                } else if directory == parent {
                    self.kept.push((directory.to_vec(), time));
                }
            }
        }
    }

    fn directory_times(&mut self) {
        let kept = self.kept.drain(..).rev();
        for (name, time) in kept.chain(self.directories.drain(..).rev()) {
            if let Err(errno) = set_times(&name, time) {
                debug!("{}: no time: {}", shown(&name), error::name(errno));
            }
        }
    }
}

/// As many of one archive are named: on a serial console a line takes ten milliseconds.
const OPEN_TOLD_MAX: u64 = 5;

/// Whether a directory of this mode is everybody's to write to, without the bit that keeps what is in
/// it to its owner (/tmp has that).
fn is_open_to_all(mode: u32) -> bool {
    mode & libc::S_IWOTH != 0 && mode & libc::S_ISVTX == 0
}

/// The directory that a name is in, and the rest of the name, without slashes at its end.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
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

/// clean_path: removes what is there unless it is of type `keep`.
fn clean(name: &[u8], keep: Option<u32>) {
    let Ok(stat) = lstat(name) else {
        return;
    };
    let kind = stat.st_mode & libc::S_IFMT;
    if keep == Some(kind) {
        return;
    }
    // Where this fails (a directory that is not empty), creating the member fails next, and says so.
    let _ = match kind {
        libc::S_IFDIR => rmdir(name),
        _ => unlink(name),
    };
}

/// Whether opening `name` for writing opens a file, or makes one. What an earlier member of the
/// same inode was called may have become something else since, and this is a link to that.
fn opens(name: &[u8]) -> bool {
    match stat(name) {
        Ok(stat) => stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        Err(_) => true,
    }
}

/// That something of the same type was there already is no failure.
fn unless_there(
    created: std::result::Result<(), Errno>,
    name: &[u8],
    kind: u32,
) -> std::result::Result<(), Errno> {
    match (created, lstat(name)) {
        (Err(Errno::EXIST), Ok(stat)) if stat.st_mode & libc::S_IFMT == kind => Ok(()),
        (created, _) => created,
    }
}

/// Owner, then mode: chown takes set-user-ID bits away.
fn attributes(name: &[u8], header: &Header) -> std::result::Result<(), Errno> {
    let (uid, gid) = owner(header);
    let owned = chown(name, uid, gid);
    owned.and(chmod(name, mode(header)))
}

/// MKDEV of the kernel: 12 bits of major above 20 of minor, what is too large for them included.
fn device(header: &Header) -> Dev {
    let device = header.rmaj << 20 | header.rmin;
    makedev(device >> 20, device & 0xf_ffff)
}

fn mode(header: &Header) -> Mode {
    Mode::from_raw_mode(header.mode & 0o7777)
}

/// An owner of -1, which chown(2) takes for "leave it", is no owner that an archive can ask for.
fn owner(header: &Header) -> (Option<Uid>, Option<Gid>) {
    let id = |id: u32| Some(id).filter(|id| *id != u32::MAX);
    (
        id(header.uid).map(Uid::from_raw),
        id(header.gid).map(Gid::from_raw),
    )
}

fn seconds(mtime: u32) -> Timespec {
    Timespec {
        tv_sec: mtime.into(),
        tv_nsec: 0,
    }
}

fn times(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn set_times(name: &[u8], time: Timespec) -> std::result::Result<(), Errno> {
    utimensat(CWD, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)
}
