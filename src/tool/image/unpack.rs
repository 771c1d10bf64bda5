//! Cpio archives as the kernel unpacks them.
//!
//! Source: init/initramfs.c of Linux 7.2, do_header to do_symlink. The kernel drops files without a message;
//! this module reports each of them as a finding. `/init` unpacks cpio layers by the same rules.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use super::files::kind;
use super::node::{ArchiveExtent, Node};
use super::rootfs::{Rootfs, join, split};
use crate::bytes::{ReadAt, Skip};
use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;
use crate::format::cpio::{Archive, Header, Member, Next, PATH_MAX, normalized};
use crate::format::erofs::{Inode, Xattr};
use crate::initrd;
use crate::initrd::member::{
    LinkKey, Whiteout, device_number, link_key, link_target, whiteout, wrong_sum,
};
use crate::text::shown;
use crate::tool::finding::{Findings, FindingsAt};

/// The most bytes of names: more than in any valid initrd. It bounds the memory that a hostile one takes.
pub(super) const NAMES_MAX: usize = 256 << 20;

/// The place of an archive in an image, and how it is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct PackedArchive {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its compression.
    pub codec: Option<Codec>,
    /// Whether all of its files are for the kernel itself ([`Cpio::only_early`](crate::initrd::Cpio)): the
    /// kernel has already read them, and a missing directory does no harm.
    pub only_early: bool,
}

/// Unpacks one archive into a rootfs.
struct RootfsUnpacker<'a> {
    rootfs: &'a mut Rootfs,
    packed: PackedArchive,
    /// The first names of files with several names.
    links: HashMap<LinkKey, Vec<u8>>,
    /// The times of directories that a member does not change: those of lower layers, and those of the first
    /// member of the name.
    times: HashMap<Vec<u8>, (i64, u32)>,
}

impl Rootfs {
    /// Unpacks an archive up to the member at which the kernel (for a layer, `/init`) stops. Members that are
    /// dropped or changed are findings.
    ///
    /// # Errors
    /// The archive cannot be read, or has more names than the limit.
    pub fn unpack(
        &mut self,
        image: &dyn ReadAt,
        packed: PackedArchive,
        findings: &mut Findings,
    ) -> Result<()> {
        let unpacker = RootfsUnpacker {
            rootfs: self,
            packed,
            links: HashMap::new(),
            times: HashMap::new(),
        };
        unpacker.run(image, findings)
    }
}

impl RootfsUnpacker<'_> {
    fn run(mut self, image: &dyn ReadAt, findings: &mut Findings) -> Result<()> {
        let result = self.unpack(image, findings);
        // The times are set on the file that has the name of the directory at the end.
        let layer = self.rootfs.layer.unwrap_or(0);
        for (path, time) in self.times {
            let index = self.rootfs.names.get(&path);
            let node = index.and_then(|index| self.rootfs.nodes.get_mut(*index));
            if let Some(node) = node.filter(|node| node.layer == layer) {
                node.mtime = time;
            }
        }
        result
    }

    fn unpack(&mut self, image: &dyn ReadAt, findings: &mut Findings) -> Result<()> {
        let PackedArchive {
            offset,
            length,
            codec,
            only_early,
        } = self.packed;
        let context = || format!("archive at {offset:#x}");
        let mut archive =
            initrd::open_archive(image, offset, length, codec).during("read", context())?;
        loop {
            let next = archive.next_member()?;
            // The walk has found that the kernel stops here; /init does not.
            if self.rootfs.layer.is_none() && archive.unterminated().is_some() {
                return Ok(());
            }
            let member = match next {
                Next::Member(member) => member,
                // Hard links do not reach across archives.
                Next::Trailer => {
                    self.links.clear();
                    continue;
                }
                Next::End => return Ok(()),
            };
            let place = match codec {
                None => format!("{:#010x}", offset.saturating_add(member.offset)),
                Some(codec) => format!("{offset:#010x} ({codec} {:#x})", member.offset),
            };
            let mut findings = findings.at(format_args!("{place} {}", display(&member.name)));
            let created = self.member(&member, &mut archive, &mut findings);
            if let Err(what) = &created
                && !only_early
            {
                findings.error(what);
            }
            let wrong = wrong_sum(&member, &mut archive).during("read", context())?;
            // The sum of a file that was not created is not checked.
            if let Some(sum) = wrong
                && created.is_ok()
            {
                let stored = member.header.chksum;
                let effect = match self.rootfs.layer {
                    Some(_) => "/init refuses the layer",
                    None => "the kernel stops here",
                };
                findings.error(format!(
                    "the sum of its bytes is {sum:#x}, but {stored:#x} in its header: {effect}"
                ));
                return Ok(());
            }
            if self.rootfs.size > NAMES_MAX {
                let what = format!("names of more than {NAMES_MAX} bytes; the rest is not checked");
                return Err(Error::new("check", context(), what));
            }
        }
    }

    /// Creates the file of one member. The error says why the kernel does not.
    fn member<I: Skip>(
        &mut self,
        member: &Member,
        archive: &mut Archive<I>,
        findings: &mut FindingsAt,
    ) -> std::result::Result<(), String> {
        let header = &member.header;
        let file_type = header.file_type();
        check_member(member)?;
        check_parents(&member.name, findings);
        // tmpfs, ramfs and overlayfs.
        const NAME_MAX: usize = 255;
        let mut components = member.name.split(|byte| *byte == b'/');
        if let Some(long) = components.find(|component| component.len() > NAME_MAX) {
            let length = long.len();
            return Err(format!(
                "a name of {length} bytes, where {NAME_MAX} is the limit: {}",
                self.dropped()
            ));
        }
        let Some(path) = self.path(&member.name)? else {
            return Ok(());
        };
        self.preserve_times(&path);
        if path.is_empty() {
            return self.root_directory(header);
        }
        if self.hides(&path, member, findings) {
            return Ok(());
        }
        self.replace(&path, header, findings)?;
        let mut node = self.node(&path, header);
        match file_type {
            libc::S_IFREG => {
                node.body = Some(ArchiveExtent {
                    segment: self.packed.offset,
                    offset: member.body,
                    length: header.filesize.into(),
                });
                return self.file(member, path, node);
            }
            libc::S_IFLNK => {
                let error = |error: io::Error| error.to_string();
                node.target = link_target(archive).map_err(error)?;
            }
            libc::S_IFDIR | libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => {}
            _ => {
                return Err(format!(
                    "mode {:o} has no valid file type: the kernel skips it",
                    header.mode
                ));
            }
        }
        self.rootfs.put(path, node);
        Ok(())
    }

    /// A member for the root directory itself, which the kernel cannot replace.
    fn root_directory(&mut self, header: &Header) -> std::result::Result<(), String> {
        let file_type = header.file_type();
        if file_type != libc::S_IFDIR {
            return Err(format!(
                "a {} named as the root directory: {}",
                kind(file_type),
                self.dropped()
            ));
        }
        let root = self.node(b"", header);
        self.rootfs.put(Vec::new(), root);
        Ok(())
    }

    /// The file of a member. Like the kernel, this keeps an existing file of that name and type, with its
    /// extended attributes.
    fn node(&mut self, path: &[u8], header: &Header) -> Node {
        let mut mtime = (header.mtime.into(), 0);
        let kind = header.file_type();
        if kind == libc::S_IFDIR {
            mtime = *self.times.entry(path.to_vec()).or_insert(mtime);
        }
        let old = self.rootfs.lookup(path);
        let old = old.filter(|old| old.has_type(kind) && kind != libc::S_IFLNK);
        let device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
        Node {
            mode: header.mode,
            layer: self.rootfs.layer.unwrap_or(0),
            owner: (header.uid, header.gid),
            mtime,
            // mknod(2) does not change an existing device.
            device: match old {
                Some(old) if device => old.device,
                _ => device.then(|| device_number(header)),
            },
            over: old.and_then(xattrs_of),
            xattrs: old.and_then(kept_xattrs),
            ..Node::default()
        }
    }

    /// `/init` preserves the times of the directories of lower layers that a member changes or replaces, if
    /// they have whole seconds, as in archives.
    fn preserve_times(&mut self, path: &[u8]) {
        if self.rootfs.layer.unwrap_or(0) == 0 {
            return;
        }
        for directory in [split(path).0, path] {
            let node = self.rootfs.lookup(directory);
            let node = node.filter(|node| node.has_type(libc::S_IFDIR) && node.mtime.1 == 0);
            if let Some(node) = node
                && !self.times.contains_key(directory)
            {
                self.times.insert(directory.to_vec(), node.mtime);
            }
        }
    }

    /// The clause about who drops a file.
    fn dropped(&self) -> &'static str {
        match self.rootfs.layer {
            Some(_) => "/init leaves the file out, as the kernel would",
            None => "the kernel drops the file without a message",
        }
    }

    /// Applies a whiteout or an opaque marker of a layer. False if the member is neither.
    fn hides(&mut self, path: &[u8], member: &Member, findings: &mut FindingsAt) -> bool {
        if self.rootfs.layer.is_none() || self.rootfs.as_is {
            return false;
        }
        let (parent, last) = split(path);
        match whiteout(member) {
            Some(Whiteout::Directory(_)) => self.rootfs.make_opaque(parent),
            Some(Whiteout::Name) => self.rootfs.whiteout(path),
            None if member.header.file_type() == libc::S_IFREG && last.starts_with(b".wh.") => {
                findings.warning(
                    "a whiteout of OCI images is an ordinary file here: use a character device 0:0",
                );
                return false;
            }
            None => return false,
        }
        true
    }

    /// A regular file: a new one, another member with an earlier name, or another name of an earlier file.
    fn file(
        &mut self,
        member: &Member,
        path: Vec<u8>,
        node: Node,
    ) -> std::result::Result<(), String> {
        let header = &member.header;
        let rootfs = &mut *self.rootfs;
        let empty = node.body.is_none_or(|body| body.length == 0);
        if let Some(key) = link_key(header) {
            if !self.links.contains_key(&key) {
                let size = path.len().saturating_add(size_of::<LinkKey>());
                rootfs.size = rootfs.size.saturating_add(size);
            }
            let first = self.links.entry(key).or_insert_with(|| path.clone());
            if *first != path {
                let Some(index) = rootfs.names.get(first).copied() else {
                    return Err(format!(
                        "a hard link to {}, which does not exist",
                        shown(first)
                    ));
                };
                rootfs.name(path, index);
                if let Some(first) = rootfs.nodes.get_mut(index).filter(|_| !empty) {
                    *first = node;
                }
                return Ok(());
            }
        }
        rootfs.put(path, node);
        Ok(())
    }

    /// The path of a member, with the symbolic links to its directory resolved.
    /// `None` if a layer that cannot be read may have that directory.
    fn path(&mut self, name: &[u8]) -> std::result::Result<Option<Vec<u8>>, String> {
        let path = normalized(name);
        let (parent, last) = split(&path);
        let rootfs = &*self.rootfs;
        let is_directory = |path: &Vec<u8>| {
            rootfs
                .lookup(path)
                .is_some_and(|node| node.mode & libc::S_IFMT == libc::S_IFDIR)
        };
        let mut directory = rootfs.resolve(parent).ok().filter(is_directory);
        if directory.is_none() && rootfs.as_is {
            directory = self.make_directories(parent);
        }
        let rootfs = &*self.rootfs;
        match (directory, rootfs.layer) {
            (None, Some(_)) if rootfs.partial => Ok(None),
            (None, Some(_)) => Err(format!(
                "there is no directory {} in this layer or below: /init leaves the file out",
                shown(parent)
            )),
            (None, None) => Err(format!(
                "there is no directory {}: the kernel drops the file without a message",
                shown(parent)
            )),
            (Some(directory), _) if last == b".." || last.is_empty() => Ok(Some(
                rootfs.resolve(&join(&directory, last)).unwrap_or_default(),
            )),
            (Some(directory), _) => Ok(Some(join(&directory, last))),
        }
    }

    /// Creates the directories of a path for a layer that is kept as it is: lower layers have them.
    fn make_directories(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        let mut here = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            let next = join(&here, name);
            match self.rootfs.lookup(&next) {
                Some(node) if node.has_type(libc::S_IFDIR) => here = next,
                Some(_) => here = self.rootfs.resolve(&next).ok()?,
                None if name == b".." => return None,
                None => {
                    let node = Node {
                        mode: libc::S_IFDIR | 0o755,
                        layer: self.rootfs.layer.unwrap_or(0),
                        ..Node::default()
                    };
                    self.rootfs.put(next.clone(), node);
                    here = next;
                }
            }
        }
        let is_directory = self.rootfs.lookup(&here)?.has_type(libc::S_IFDIR);
        is_directory.then_some(here)
    }

    /// Sets the attributes of a directory that is in the way of a link or a special file, as the kernel does.
    fn keep_directory(&mut self, path: &[u8], header: &Header) {
        let file_type = header.file_type();
        let Some(old) = self.rootfs.lookup(path) else {
            return;
        };
        if file_type == libc::S_IFREG {
            return;
        }
        let over = xattrs_of(old);
        let mut node = Node {
            layer: self.rootfs.layer.unwrap_or(0),
            owner: (header.uid, header.gid),
            inode: None,
            over,
            ..old.clone()
        };
        if file_type != libc::S_IFLNK {
            node.mode = libc::S_IFDIR | header.mode & 0o7777;
        }
        if node.mtime.1 != 0 && !self.times.contains_key(path) {
            node.mtime = (header.mtime.into(), 0);
        }
        self.rootfs.put(path.to_vec(), node);
    }

    /// Removes an earlier file of another type (clean_path in init/initramfs.c).
    fn replace(
        &mut self,
        path: &[u8],
        header: &Header,
        findings: &mut FindingsAt,
    ) -> std::result::Result<(), String> {
        let file_type = header.file_type();
        let old = self.rootfs.lookup(path).map(|node| (node.mode, node.layer));
        let Some((old, layer)) = old.filter(|(mode, _)| mode & libc::S_IFMT != file_type) else {
            return Ok(());
        };
        let new = kind(file_type);
        if old & libc::S_IFMT == libc::S_IFDIR && self.rootfs.below(path).next().is_some() {
            self.keep_directory(path, header);
            let effect = match self.rootfs.layer {
                Some(_) => "/init leaves it out, as the kernel would",
                None => "the kernel drops it",
            };
            return Err(format!(
                "a {new} in place of a directory that is not empty: {effect}"
            ));
        }
        // Files of lower layers are replaced in `put`, which records the change.
        if self.rootfs.layer.is_none_or(|own| own == layer) {
            findings.warning(format!("a {new} in place of an earlier {}", kind(old)));
            self.rootfs.names.remove(path);
        }
        Ok(())
    }
}

/// The layer and inode of the extended attributes that a file keeps when a member is written over it.
fn xattrs_of(old: &Node) -> Option<Rc<(usize, Inode)>> {
    let own = old
        .inode
        .as_deref()
        .filter(|inode| inode.xattrs_length() > 0);
    let own = own.map(|inode| Rc::new((old.layer, inode.clone())));
    own.or_else(|| old.over.clone())
}

/// The extended attributes of a file of a SquashFS image that are kept when a member is written over it.
fn kept_xattrs(old: &Node) -> Option<Rc<Vec<Xattr>>> {
    let xattrs = old.xattrs.as_ref()?;
    let is_lost =
        |xattr: &Xattr| old.has_type(libc::S_IFREG) && xattr.name == b"security.capability";
    Some(match xattrs.iter().any(is_lost) {
        true => Rc::new(
            xattrs
                .iter()
                .filter(|xattr| !is_lost(xattr))
                .cloned()
                .collect(),
        ),
        false => Rc::clone(xattrs),
    })
}

/// Why the kernel skips a member, regardless of the rootfs.
fn check_member(member: &Member) -> std::result::Result<(), String> {
    let header = &member.header;
    if header.namesize == 0 || header.namesize > PATH_MAX {
        let length = header.namesize;
        return Err(format!("a name of {length} bytes: the kernel skips it"));
    }
    if member.counts() {
        return Ok(());
    }
    Err(match header.file_type() {
        _ if member.name.is_empty() => "an empty name: the kernel skips it".into(),
        libc::S_IFLNK => "a target of more than 4096 bytes: the kernel skips it".into(),
        _ => format!("a {} with a body: the kernel skips it", kind(header.mode)),
    })
}

/// Reports a name with `..` in it. The kernel's unpacker follows these, but not above the root.
fn check_parents(name: &[u8], findings: &mut FindingsAt) {
    let mut depth = 0i64;
    let mut lowest = 0;
    for component in normalized(name).split(|byte| *byte == b'/') {
        depth = depth.saturating_add(if component == b".." { -1 } else { 1 });
        lowest = depth.min(lowest);
    }
    if lowest < 0 {
        findings.error("its name leads out of the archive");
    } else if name
        .split(|byte| *byte == b'/')
        .any(|component| component == b"..")
    {
        findings.warning("its name has `..` in it");
    }
}

/// The name of a member, for a message.
fn display(name: &[u8]) -> String {
    match name {
        b"" => "(no name)".into(),
        name => shown(name),
    }
}
