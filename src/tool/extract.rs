//! `layerinit extract`: the files of an EROFS layer, written into a directory.
//!
//! Everything is made below that directory and no link is followed: what an image names cannot lead out
//! of it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chmodat,
    chownat, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, openat2, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::image::boot::{Boot, StandIns};
use super::image::erofs_tree::walk;
use super::image::files;
use super::image::input::Initrd;
use super::image::merged::layer_parts;
use crate::error::{Context, Error, Result, name};
use crate::format::erofs::{Cluster, Data, Image, Inode};
use crate::plan::{Content, Plan};
use crate::text::shown;

/// What is to be extracted, and where.
pub struct Wanted {
    /// The directory; made if it is missing.
    pub directory: PathBuf,
    /// Files, and directories with all that is in them. None: everything.
    pub paths: Vec<String>,
    /// The layer's number in the plan. `None`: the only EROFS layer.
    pub layer: Option<usize>,
}

/// Extracts a layer. False, if attributes or special files were refused to this user; `out` says which.
pub fn extract(image: &Initrd, wanted: &Wanted, out: &mut dyn Write) -> Result<bool> {
    // What is wrong with single files is what `check` is for.
    let boot = Boot::new(image, "", &StandIns::default());
    let plan = boot.plan()?;
    let index = choose(&plan, wanted.layer)?;
    let sources = boot.open(image)?;
    let parts = layer_parts(&plan, &sources);
    let layer = plan.layers.get(index).map(|layer| &layer.content);
    let (Some(part), Some(Content::Erofs { superblock, .. })) = (parts.get(index), layer) else {
        let what = "it is a cpio archive; cpio extracts it";
        return Err(Error::new("extract", format_args!("layer {index}"), what));
    };
    let image = Image::new(part, superblock)?;
    let is_new = !wanted.directory.exists();
    if is_new {
        fs::create_dir(&wanted.directory).during("create", wanted.directory.display())?;
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, &wanted.directory, flags, Mode::empty());
    let paths = wanted.paths.iter();
    let mut writer = Writer {
        image: &image,
        top: top.during("open", wanted.directory.display())?,
        paths: paths
            .map(|path| path.trim_matches('/').as_bytes())
            .collect(),
        is_root: rustix::process::geteuid().is_root(),
        written: HashSet::new(),
        directories: Vec::new(),
        decoded: None,
        plain: Vec::new(),
        refused: Vec::new(),
    };
    walk(&image, |file, inode| match file.path.is_empty() {
        true if is_new && wanted.paths.is_empty() => {
            writer.directories.push((b".".to_vec(), inode.clone()));
            Ok(())
        }
        true => Ok(()),
        false => writer.file(&file, inode),
    })?;
    writer.finish()?;
    for line in &writer.refused {
        writeln!(out, "warning: {line}").during("write", "standard output")?;
    }
    if writer.written.is_empty() && !wanted.paths.is_empty() {
        return Err(Error::new("find", wanted.paths.join(" "), "not there"));
    }
    Ok(writer.refused.is_empty())
}

/// The layer with this number, or the only one that is an EROFS image.
fn choose(plan: &Plan, layer: Option<usize>) -> Result<usize> {
    let number = plan.layers.len();
    match layer {
        Some(layer) if layer < number => return Ok(layer),
        Some(layer) => {
            let what = format!("there is none; the image has {number}, and the first is layer 0");
            return Err(Error::new("find", format_args!("layer {layer}"), what));
        }
        None => {}
    }
    let layers = plan.layers.iter().enumerate();
    let mut images = layers.filter(|(_, layer)| matches!(layer.content, Content::Erofs { .. }));
    match (images.next(), images.next()) {
        (Some((index, _)), None) => Ok(index),
        (None, _) => Err(Error::new("find", "an EROFS layer", "the image has none")),
        _ => {
            let what =
                "the image has several: choose one with --layer (`layerinit plan` lists them)";
            Err(Error::new("find", "the EROFS layer", what))
        }
    }
}

struct Writer<'i> {
    image: &'i Image<'i>,
    top: OwnedFd,
    paths: Vec<&'i [u8]>,
    is_root: bool,
    /// Paths of files that others may be links to.
    written: HashSet<Vec<u8>>,
    /// They get their attributes at the end.
    directories: Vec<(Vec<u8>, Inode)>,
    /// The cluster that `plain` is of: the ends of files share theirs.
    decoded: Option<Cluster>,
    plain: Vec<u8>,
    refused: Vec<String>,
}

impl Writer<'_> {
    fn is_wanted(&self, path: &[u8]) -> bool {
        let below = |wanted: &&[u8]| {
            let rest = path.strip_prefix(*wanted);
            wanted.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.paths.is_empty() || self.paths.iter().any(below)
    }

    fn file(&mut self, file: &files::File, inode: &Inode) -> Result<()> {
        if !self.is_wanted(&file.path) {
            return Ok(());
        }
        let context = || shown(&file.path);
        let (parent, last) = self.parent(&file.path).during("create", context())?;
        let link = file
            .link
            .as_ref()
            .filter(|first| self.written.contains(*first));
        if let Some(first) = link {
            let (from, first) = self.parent(first).during("link", context())?;
            linkat(from, first, parent, last, AtFlags::empty()).during("link", context())?;
            return Ok(());
        }
        let made = match inode.file_type() {
            libc::S_IFDIR => match mkdirat(&parent, last, Mode::RWXU) {
                Err(Errno::EXIST) => open_directory(&parent, last).map(drop),
                made => made,
            },
            libc::S_IFREG => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let opened = openat(&parent, last, flags, Mode::RUSR | Mode::WUSR);
                let to = File::from(opened.during("create", context())?);
                self.content(&to, inode, &file.path)?;
                Ok(())
            }
            libc::S_IFLNK => {
                let target = file.target.as_deref().unwrap_or_default();
                symlinkat(OsStr::from_bytes(target), &parent, last)
            }
            _ => {
                let (major, minor) = inode.device.unwrap_or_default();
                let kind = FileType::from_raw_mode(inode.mode);
                match mknodat(&parent, last, kind, Mode::RUSR, makedev(major, minor)) {
                    Err(Errno::PERM) => {
                        self.refuse(&file.path, "not made", Errno::PERM);
                        return Ok(());
                    }
                    made => made,
                }
            }
        };
        made.during("create", context())?;
        self.written.insert(file.path.clone());
        match inode.is_directory() {
            true => self.directories.push((file.path.clone(), inode.clone())),
            false => self.attributes(&parent, last, inode, &file.path)?,
        }
        Ok(())
    }

    /// The directory that a path is in, and the name there. Directories that are missing are made.
    fn parent<'p>(&self, path: &'p [u8]) -> std::result::Result<(OwnedFd, &'p OsStr), Errno> {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (parent, last) = match slash.and_then(|at| path.split_at_checked(at)) {
            Some((parent, last)) => (parent, last.get(1..).unwrap_or_default()),
            None => (&b"."[..], path),
        };
        let opened = match open_directory(&self.top, OsStr::from_bytes(parent)) {
            // What it is in was not wanted.
            Err(Errno::NOENT) => {
                let (above, name) = self.parent(parent)?;
                let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
                mkdirat(&above, name, mode)?;
                open_directory(&above, name)?
            }
            opened => opened?,
        };
        Ok((opened, OsStr::from_bytes(last)))
    }

    /// Writes the content of a file; its holes stay holes.
    fn content(&mut self, to: &File, inode: &Inode, path: &[u8]) -> Result<()> {
        let image = self.image.bytes();
        let mut buffer = Vec::new();
        for extent in self.image.extents(inode) {
            let extent = extent.map_err(|fault| fault.of_inode(inode.nid))?;
            let write =
                |bytes: &[u8], at: u64| to.write_all_at(bytes, at).during("write", shown(path));
            match &extent.data {
                Data::Hole => {}
                Data::Bytes(bytes) => write(bytes, extent.offset)?,
                Data::Raw(offset) => {
                    let mut done = 0;
                    while done < extent.length {
                        let n = extent.length.saturating_sub(done).min(1 << 20);
                        buffer.resize(usize::try_from(n).unwrap_or(0), 0);
                        image
                            .read_exact_at(&mut buffer, offset.saturating_add(done))
                            .during("read", shown(path))?;
                        write(&buffer, extent.offset.saturating_add(done))?;
                        done = done.saturating_add(n);
                    }
                }
                Data::Cluster(cluster, skip) => {
                    if self.decoded.as_ref() != Some(cluster) {
                        self.decoded = None;
                        let done = cluster.decode(image, &mut self.plain);
                        done.map_err(|fault| fault.of_inode(inode.nid))?;
                        self.decoded = Some(cluster.clone());
                    }
                    let part = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                    let range = part(*skip)..part(skip.saturating_add(extent.length));
                    let bytes = self.plain.get(range).unwrap_or_default();
                    write(bytes, extent.offset)?;
                }
            }
        }
        to.set_len(inode.size).during("write", shown(path))
    }

    /// The owner first: a change of it drops capabilities. The times last: all else may change them.
    fn attributes(
        &mut self,
        parent: &OwnedFd,
        last: &OsStr,
        inode: &Inode,
        path: &[u8],
    ) -> Result<()> {
        use rustix::fs::{Gid, Uid};
        if self.is_root {
            let owner = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
            chownat(
                parent,
                last,
                Some(owner.0),
                Some(owner.1),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .during("change the owner of", shown(path))?;
        }
        let place = Path::new("/proc/self/fd")
            .join(parent.as_raw_fd().to_string())
            .join(last);
        for xattr in self.image.xattrs(inode)? {
            let key = OsStr::from_bytes(&xattr.name);
            let set = lsetxattr(&place, key, &xattr.value, XattrFlags::empty());
            if let Err(errno) = set {
                self.refuse(path, &format!("no attribute {}", shown(&xattr.name)), errno);
            }
        }
        mode_and_times(parent, last, inode).during("change", shown(path))
    }

    fn refuse(&mut self, path: &[u8], what: &str, errno: Errno) {
        /// More than anybody reads.
        const REFUSED_MAX: usize = 1000;
        if self.refused.len() < REFUSED_MAX {
            let line = format!("{}: {what}: {}", shown(path), name(errno));
            self.refused.push(line);
        }
    }

    /// Attributes of directories, those in others first. Before, a default ACL would go to what is made in
    /// them, and they might not be writable.
    fn finish(&mut self) -> Result<()> {
        while let Some((path, inode)) = self.directories.pop() {
            let (parent, last) = match &*path {
                b"." => (self.top.try_clone().during("open", ".")?, OsStr::new(".")),
                path => self.parent(path).during("change", shown(path))?,
            };
            self.attributes(&parent, last, &inode, &path)?;
        }
        Ok(())
    }
}

fn open_directory(at: impl AsFd, path: &OsStr) -> std::result::Result<OwnedFd, Errno> {
    let at: BorrowedFd = at.as_fd();
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(at, path, flags, Mode::empty(), resolve)
}

fn mode_and_times(parent: &OwnedFd, last: &OsStr, inode: &Inode) -> std::result::Result<(), Errno> {
    if inode.file_type() != libc::S_IFLNK {
        chmodat(
            parent,
            last,
            Mode::from_raw_mode(inode.mode),
            AtFlags::empty(),
        )?;
    }
    let time = Timespec {
        tv_sec: inode.mtime,
        tv_nsec: inode.mtime_nsec.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(parent, last, &times, AtFlags::SYMLINK_NOFOLLOW)
}
