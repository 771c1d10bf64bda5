//! The members of a tar archive, as layers of container images have them.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use tar::{Archive, EntryType, GnuExtSparseHeader, Header};

use super::file_slice::{FileSlice, FileSliceReader};
use super::pax::{self, PaxRecord};
use super::sparse;
use super::spool::SparseSpool;
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::text::shown;

/// The most members of one archive: more files than an initrd can reasonably hold.
pub const MEMBERS_MAX: usize = 500_000;

/// The most bytes that the files of one archive may take: more than an initrd can reasonably hold.
pub const BYTES_MAX: u64 = 8 << 30;

/// The most bytes of names, targets and extended attributes in one archive.
const NAMES_MAX: usize = 512 << 20;

/// The most bytes of the headers of one member.
const HEADERS_MAX: u64 = 4 << 20;

/// A member of an archive.
#[derive(Debug)]
pub struct TarMember {
    /// Its name, unchecked.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: TarMemberKind,
    /// Owner, mode, time and extended attributes.
    pub attributes: TarAttributes,
}

/// What a member is.
#[derive(Debug)]
pub enum TarMemberKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileSlice),
    /// A symbolic link, with its target.
    Symlink(Vec<u8>),
    /// A further name of the file with this name, unchecked.
    HardLink(Vec<u8>),
    /// A device.
    Device(DeviceNode),
    /// A named pipe.
    Fifo,
}

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// A character device, else a block device.
    pub character: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// The attributes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TarAttributes {
    /// Permissions, with setuid, setgid and sticky bit.
    pub mode: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Modification time in whole seconds since 1970: mkfs.erofs 1.8 misreads fractions.
    pub mtime: u64,
    /// Extended attributes, in the order of their names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether a file begins as a tar archive: its first 512 bytes.
pub fn is_tar(first: &[u8]) -> bool {
    let Some(first) = first.first_chunk::<512>().filter(|first| first[0] != 0) else {
        return false;
    };
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(first);
    let stored = header.cksum().ok();
    header.set_cksum();
    stored.is_some() && stored == header.cksum().ok()
}

/// Calls `take` with each member of an archive. `object` is the archive in messages. Sparse files are
/// expanded into `spool`.
///
/// # Errors
/// The archive is damaged, cut, or holds more than the limits of this module; `take` fails.
pub fn read(
    archive: &FileSlice,
    object: &str,
    spool: &mut SparseSpool<'_>,
    mut take: impl FnMut(TarMember) -> Result<()>,
) -> Result<()> {
    let refuse = |what: String| Error::new("read", object, what);
    let headers = Rc::new(Cell::new(HEADERS_MAX));
    let reader = Limited {
        reader: archive.reader(),
        left: headers.clone(),
    };
    let mut tar = Archive::new(reader);
    let mut entries = tar.entries_with_seek().during("read", object)?;
    let (mut members, mut bytes, mut names) = (0usize, 0u64, 0usize);
    let mut end = 0;
    loop {
        headers.set(HEADERS_MAX);
        let Some(entry) = entries.next() else {
            return Ok(());
        };
        let mut entry = entry.during("read", object)?;
        let name = entry.path_bytes().into_owned();
        let file = entry.header().entry_type();
        members = members.saturating_add(1);
        if members > MEMBERS_MAX {
            let what = format!("it has more than {MEMBERS_MAX} files, too many for an initrd");
            return Err(refuse(what));
        }
        let invalid = |what: &str| refuse(format!("{}: {what}", shown(&name)));
        // The crate has read the extended headers, but does not return their bytes.
        let start = entry.raw_header_position();
        let before = archive.part(end, start.saturating_sub(end));
        let extended = before.map_or_else(Vec::new, |before| extended_header(&before));
        let records = pax::records(&extended).ok_or_else(|| invalid("malformed pax header"))?;
        if records
            .iter()
            .any(|(key, value)| *key == b"size" && pax::number(value) != Some(entry.size()))
        {
            return Err(invalid("its headers contradict each other about its size"));
        }
        let data = entry.raw_file_position();
        let stored = match file {
            EntryType::GNUSparse => {
                gnu_sparse_size(archive, entry.header(), data).during("read", object)?
            }
            _ => entry.size(),
        };
        end = data.saturating_add(stored.next_multiple_of(512));
        let Some(content) = archive.part(data, stored) else {
            return Err(invalid("the archive is truncated in this file"));
        };
        bytes = bytes.saturating_add(entry.size());
        let map = sparse::map(&records, &content).map_err(invalid)?;
        bytes = bytes.saturating_add(map.as_ref().map_or(0, |map| map.size));
        if bytes > BYTES_MAX {
            let what = format!(
                "its files take more than {} GiB, too much for an initrd",
                BYTES_MAX >> 30
            );
            return Err(refuse(what));
        }
        let link = || {
            let target = entry.link_name_bytes().map(|target| target.into_owned());
            target
                .filter(|target| !target.is_empty())
                .ok_or_else(|| invalid("a link without a target"))
        };
        let kind = match file {
            EntryType::Directory => TarMemberKind::Directory,
            // Archives from before POSIX store directories so.
            EntryType::Regular if name.ends_with(b"/") => TarMemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => match map {
                Some(map) => TarMemberKind::File(
                    spool
                        .expand(map.size, |place| map.expand(&content, place))
                        .during("expand", object)?,
                ),
                None => TarMemberKind::File(content),
            },
            EntryType::GNUSparse => {
                let size = entry.size();
                headers.set(u64::MAX);
                let expanded = spool.expand(size, |place| place(0, &mut entry));
                TarMemberKind::File(expanded.during("expand", object)?)
            }
            EntryType::Symlink => TarMemberKind::Symlink(link()?),
            EntryType::Link => TarMemberKind::HardLink(link()?),
            EntryType::Char | EntryType::Block => {
                let device = device(entry.header(), file == EntryType::Char);
                TarMemberKind::Device(device.ok_or_else(|| invalid("a device without numbers"))?)
            }
            EntryType::Fifo => TarMemberKind::Fifo,
            // A comment on the whole archive, from git archive.
            EntryType::XGlobalHeader => continue,
            other => {
                let what = format!("a member of unknown type {:#04x}", other.as_byte());
                return Err(invalid(&what));
            }
        };
        let name = sparse::name(&records).map_or(name.clone(), <[u8]>::to_vec);
        let attributes = attributes(entry.header(), &records)
            .ok_or_else(|| invalid("a number in its header is invalid"))?;
        names = names
            .saturating_add(name.len())
            .saturating_add(attributes.size());
        if let TarMemberKind::Symlink(target) | TarMemberKind::HardLink(target) = &kind {
            names = names.saturating_add(target.len());
        }
        if names > NAMES_MAX {
            return Err(refuse(
                "its names and attributes take more memory than sensible".into(),
            ));
        }
        take(TarMember {
            name,
            kind,
            attributes,
        })?;
    }
}

impl TarAttributes {
    /// Bytes of the extended attributes.
    fn size(&self) -> usize {
        let sizes = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len().saturating_add(value.len()));
        sizes.fold(0, usize::saturating_add)
    }
}

/// The records of the pax headers among the members in `headers`.
fn extended_header(headers: &FileSlice) -> Vec<u8> {
    let mut records = Vec::new();
    let mut tar = Archive::new(headers.reader());
    let entries = tar
        .entries()
        .into_iter()
        .flat_map(|entries| entries.raw(true));
    for mut entry in entries.map_while(io::Result::ok) {
        if entry.header().entry_type().is_pax_local_extensions() {
            // The caller treats a short header as malformed.
            let _ = entry.read_to_end(&mut records);
        }
    }
    records
}

/// The stored size of a sparse file of the GNU format: the rest of its map, and its data.
fn gnu_sparse_size(archive: &FileSlice, header: &Header, data: u64) -> io::Result<u64> {
    let mut more = header.as_gnu().is_some_and(|gnu| gnu.is_extended());
    let mut map = 0u64;
    while more {
        let mut next = GnuExtSparseHeader::new();
        archive.read_exact_at(next.as_mut_bytes(), data.saturating_add(map))?;
        more = next.is_extended();
        map = map.saturating_add(512);
    }
    Ok(map.saturating_add(header.entry_size()?))
}

fn device(header: &Header, character: bool) -> Option<DeviceNode> {
    Some(DeviceNode {
        character,
        major: header.device_major().ok()??,
        minor: header.device_minor().ok()??,
    })
}

/// Attributes that depend on the machine where the image was made (labels, mounts), or belong to overlayfs,
/// which no layer may forge. umoci(1) leaves out the same ones.
fn is_foreign(xattr: &[u8]) -> bool {
    xattr.starts_with(b"trusted.overlay.")
        || matches!(xattr, b"security.selinux" | b"system.nfs4_acl")
}

fn attributes(header: &Header, records: &[PaxRecord<'_>]) -> Option<TarAttributes> {
    const XATTR: &[u8] = b"SCHILY.xattr.";
    let mut attributes = TarAttributes {
        mode: header.mode().ok()? & 0o7777,
        mtime: header.mtime().unwrap_or(0),
        ..TarAttributes::default()
    };
    let (mut uid, mut gid) = (header.uid().ok()?, header.gid().ok()?);
    for (key, value) in records {
        match *key {
            b"uid" => uid = pax::number(value)?,
            b"gid" => gid = pax::number(value)?,
            b"mtime" => attributes.mtime = pax::seconds(value)?,
            key => {
                let name = key.strip_prefix(XATTR);
                if let Some(name) = name.filter(|name| !name.is_empty() && !is_foreign(name)) {
                    attributes.xattrs.retain(|(other, _)| other != name);
                    attributes.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    attributes.uid = u32::try_from(uid).ok()?;
    attributes.gid = u32::try_from(gid).ok()?;
    attributes.xattrs.sort();
    Some(attributes)
}

/// A reader with a limit: the crate reads extended headers of any size into memory.
struct Limited<'a> {
    reader: FileSliceReader<'a>,
    left: Rc<Cell<u64>>,
}

impl Read for Limited<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        match self.left.get().checked_sub(n as u64) {
            Some(left) => self.left.set(left),
            None => {
                return Err(io::Error::other(
                    "the headers of a file are larger than 4 MiB",
                ));
            }
        }
        Ok(n)
    }
}

impl Seek for Limited<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}
