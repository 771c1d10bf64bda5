//! Unpacks a cpio archive into a tmpfs with the same result as the kernel's unpacker, init/initramfs.c, whose
//! functions the comments name. Modification times are preserved (INITRAMFS_PRESERVE_MTIME).
//!
//! The caller sets the root directory (see [`crate::sys::process::run_chrooted`]), so that the kernel
//! resolves paths as during its own unpacking, and none leads out of the layer.
//!
//! Two kinds of members are for layers only, and the kernel would create them: a character device 0:0 hides its
//! name in the layers below, and a file [`OPAQUE`](crate::format::cpio::OPAQUE) hides their contents of its
//! directory. Neither is created.

mod attributes;

mod times;
mod whiteout;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::OwnedFd;

use log::{debug, warn};
use rustix::fs::{
    AtFlags, CWD, FileType, OFlags, chownat, fchmod, fchown, fstat, ftruncate, futimens, link,
    lstat, mkdir, mknodat, open, rmdir, stat, symlink, unlink,
};
use rustix::io::{Errno, write};

use crate::bytes::Skip;
use crate::error::{self, Cause, Context, Error, Result};
use crate::format::cpio::{self, Archive, Member, Next};
use crate::initrd::member::{LinkKey, Whiteout, link_key, link_target, whiteout};
use crate::text::shown;
use attributes::{device, mode, mtime, owner, set_attributes, set_times, times};
use times::DirectoryTimes;

/// The result of a system call whose failure is not an error of the archive.
type Done = std::result::Result<(), Errno>;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Members, without the trailers.
    pub members: u64,
    /// Members that could not be created, for example because their parent directory is missing. The kernel
    /// drops them silently.
    pub dropped: u64,
    /// World-writable directories without the sticky bit.
    pub open: u64,
}

/// Unpacks every member of `archive` into the root directory. Where that is an overlay, `upper` is its upper
/// directory.
///
/// # Errors
/// The archive is damaged, or memory runs out. Members that the kernel would drop are not errors.
pub fn unpack<I: Skip>(archive: Archive<I>, upper: Option<OwnedFd>) -> Result<Unpacked> {
    let over = upper.is_some();
    unpack_members(archive, upper, over)
}

/// The same if the root directory itself holds the files of the layers below.
pub fn unpack_over<I: Skip>(archive: Archive<I>) -> Result<Unpacked> {
    unpack_members(archive, None, true)
}

fn unpack_members<I: Skip>(
    mut archive: Archive<I>,
    upper: Option<OwnedFd>,
    over: bool,
) -> Result<Unpacked> {
    let mut unpacker = Unpacker {
        upper,
        over,
        own: BTreeSet::new(),
        links: BTreeMap::new(),
        times: DirectoryTimes::default(),
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
            // Hard links do not reach across archives.
            Ok(Next::Trailer) => unpacker.links.clear(),
            Ok(Next::End) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    unpacker.times.set();
    result.map(|()| unpacker.done)
}

/// Removes the files of the layers below from the directories that an archive marks as opaque.
pub fn clear_opaque<I: Skip>(mut archive: Archive<I>) -> Result<()> {
    loop {
        match archive.next_member()? {
            Next::Member(member) if member.counts() => {
                if let Some(Whiteout::Directory(directory)) = whiteout(&member) {
                    let mut times = DirectoryTimes::default();
                    times.preserve(&member.name);
                    whiteout::remove_lower(directory, None)
                        .during("clear", format_args!("directory {}", shown(directory)))?;
                    times.set();
                }
            }
            Next::Member(_) | Next::Trailer => {}
            Next::End => return Ok(()),
        }
    }
}

struct Unpacker {
    /// The upper directory of the overlay.
    upper: Option<OwnedFd>,
    /// Whether there are layers below.
    over: bool,
    /// The inodes of this archive's files with several names.
    own: BTreeSet<u64>,
    /// The first name of each file that may have further ones.
    links: BTreeMap<LinkKey, Vec<u8>>,
    times: DirectoryTimes,
    buffer: Vec<u8>,
    done: Unpacked,
}

impl Unpacker {
    /// do_name and do_symlink. Like the kernel, they set owner, mode and time of what has the name afterwards,
    /// even if it was not created for this member: a directory that is not empty is kept.
    fn member<I: Skip>(&mut self, member: &Member, archive: &mut Archive<I>) -> Result<()> {
        self.done.members = self.done.members.saturating_add(1);
        if !member.counts() {
            self.drop(member, "the kernel skips it, too");
            return Ok(());
        }
        let name = &member.name;
        if self.over {
            self.times.preserve(name);
        }
        let done = match (whiteout(member), member.header.file_type()) {
            (Some(whiteout), _) => self.hide(whiteout, name),
            (None, libc::S_IFREG) => return self.file(member, archive),
            (None, libc::S_IFLNK) => {
                let target = link_target(archive);
                let target = target.during("read", format_args!("link {}", shown(name)))?;
                create_link(member, &target)
            }
            (None, libc::S_IFDIR) => self.directory(member),
            (None, libc::S_IFBLK | libc::S_IFCHR | libc::S_IFIFO | libc::S_IFSOCK) => {
                self.node(member)
            }
            // Not a file type, but do_name calls clean_path first.
            (None, other) => {
                clean_path(name, Some(other));
                Err(Errno::INVAL)
            }
        };
        done.or_else(|errno| self.refused(member, errno))
    }

    /// The part of do_name for regular files, and do_copy.
    fn file<I: Skip>(&mut self, member: &Member, archive: &mut Archive<I>) -> Result<()> {
        let (name, header) = (&member.name, &member.header);
        clean_path(name, Some(libc::S_IFREG));
        self.unshare(name);
        let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        match self.link(member) {
            // The data comes with this name, or came with an earlier one.
            Some(Ok(())) if opens(name) => {}
            // The kernel would write to the device, or wait for a reader of the pipe.
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
        if self.over && link_key(header).is_some() {
            self.own.insert(fstat(&file).map_err(failed)?.st_ino);
        }
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
        // A file with another time is still usable.
        let _ = futimens(&file, &times(mtime(header)));
        if header.crc && sum != header.chksum {
            let what = format!(
                "the sum of its bytes is {sum:#x}, its header says {:#x}",
                header.chksum
            );
            return Err(Error::new("unpack", shown(name), what));
        }
        Ok(())
    }

    /// Removes a file of lower layers that has other names, too: the other names keep their content, as in an
    /// overlay.
    fn unshare(&self, name: &[u8]) {
        if self.over
            && self.upper.is_none()
            && let Ok(stat) = lstat(name)
            && stat.st_nlink > 1
            && !self.own.contains(&stat.st_ino)
        {
            // If this fails, opening the file fails, too, and is reported.
            let _ = unlink(name);
        }
    }

    fn directory(&mut self, member: &Member) -> Done {
        let (name, header) = (&member.name, &member.header);
        clean_path(name, Some(libc::S_IFDIR));
        let created = mkdir(&**name, mode(header));
        let attributes = set_attributes(name, header);
        self.times.add(name, mtime(header));
        if attributes.is_ok() && is_open_to_all(header.mode) {
            self.warn_of_mode(name, header.mode);
        }
        unless_there(created, name, libc::S_IFDIR).and(attributes)
    }

    fn node(&mut self, member: &Member) -> Done {
        let (name, header) = (&member.name, &member.header);
        let kind = header.file_type();
        clean_path(name, Some(kind));
        if let Some(linked) = self.link(member) {
            return linked;
        }
        let node = FileType::from_raw_mode(kind);
        let created = mknodat(CWD, &**name, node, mode(header), device(header));
        let attributes = set_attributes(name, header);
        let timed = set_times(name, mtime(header));
        unless_there(created, name, kind).and(attributes).and(timed)
    }

    /// maybe_link: links the member to an earlier one of the same inode. `None` if it is the first.
    fn link(&mut self, member: &Member) -> Option<Done> {
        let key = link_key(&member.header)?;
        match self.links.get(&key) {
            Some(first) => {
                clean_path(&member.name, None);
                Some(link(&**first, &*member.name))
            }
            None => {
                self.links.insert(key, member.name.clone());
                None
            }
        }
    }

    /// Hides files of the layers below.
    fn hide(&self, whiteout: Whiteout<'_>, name: &[u8]) -> Done {
        match (whiteout, &self.upper) {
            (Whiteout::Name, _) => whiteout::remove(name),
            (Whiteout::Directory(directory), Some(upper)) => {
                whiteout::remove_lower(directory, Some(upper))
            }
            (Whiteout::Directory(_), None) => Ok(()),
        }
    }

    /// Counts a member that could not be created, which the kernel ignores. Running out of memory is an
    /// error.
    fn refused(&mut self, member: &Member, errno: Errno) -> Result<()> {
        if matches!(errno, Errno::NOSPC | Errno::NOMEM) {
            return Err(errno).during("create", shown(&member.name));
        }
        self.drop(member, &error::name(errno).to_string());
        Ok(())
    }

    fn drop(&mut self, member: &Member, why: &str) {
        let name = shown(&member.name);
        match self.done.dropped {
            ..DROPPED_MAX => warn!("{name}: not created: {why}"),
            DROPPED_MAX => warn!("more members are not created: see `layerinit check`"),
            _ => debug!("{name}: not created: {why}"),
        }
        self.done.dropped = self.done.dropped.saturating_add(1);
    }

    /// Warns of a world-writable directory. With `newc:`, GRUB makes all directories of an archive
    /// world-writable.
    fn warn_of_mode(&mut self, name: &[u8], mode: u32) {
        let name = shown(name.strip_prefix(b"/").unwrap_or(name));
        let mode = mode & 0o7777;
        match self.done.open {
            ..OPEN_MAX => warn!(
                "directory /{name}: mode {mode:04o}: world-writable; give it mode 0755 in the archive"
            ),
            OPEN_MAX => warn!("more directories are world-writable"),
            _ => debug!("directory /{name}: mode {mode:04o}"),
        }
        self.done.open = self.done.open.saturating_add(1);
    }
}

/// The number of warnings about members that are not created, per archive: on a serial console, a line takes ten
/// milliseconds.
const DROPPED_MAX: u64 = 20;

/// The number of warnings about world-writable directories.
const OPEN_MAX: u64 = 5;

/// Whether a mode lets every user replace the files of a directory: world-writable without the sticky bit, which
/// /tmp has.
fn is_open_to_all(mode: u32) -> bool {
    mode & libc::S_IWOTH != 0 && mode & libc::S_ISVTX == 0
}

/// do_symlink.
fn create_link(member: &Member, target: &[u8]) -> Done {
    let (name, header) = (&member.name, &member.header);
    clean_path(name, None);
    let created = symlink(target, &**name);
    let (uid, gid) = owner(header);
    let owned = chownat(CWD, &**name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    created.and(owned).and(set_times(name, mtime(header)))
}

/// Removes the file of that name, unless it is of type `keep`.
fn clean_path(name: &[u8], keep: Option<u32>) {
    let Ok(stat) = lstat(name) else {
        return;
    };
    let kind = stat.st_mode & libc::S_IFMT;
    if keep == Some(kind) {
        return;
    }
    // If this fails, as for a directory that is not empty, creating the member also fails, and is reported.
    let _ = match kind {
        libc::S_IFDIR => rmdir(name),
        _ => unlink(name),
    };
}

/// Whether opening `name` for writing opens or creates a regular file. A hard link leads to the file that now
/// has the earlier name, which a later member may have replaced.
fn opens(name: &[u8]) -> bool {
    match stat(name) {
        Ok(stat) => stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        Err(_) => true,
    }
}

/// Accepts EEXIST where there is a file of the same type.
fn unless_there(created: Done, name: &[u8], kind: u32) -> Done {
    match (created, lstat(name)) {
        (Err(Errno::EXIST), Ok(stat)) if stat.st_mode & libc::S_IFMT == kind => Ok(()),
        (created, _) => created,
    }
}
