//! `layerinit extract`: the files of an image, written into a directory.
//!
//! Every file is created below an open directory, and no symbolic link is followed: neither what an image names
//! nor a link that is there already leads out of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, fstatvfs, linkat, openat};
use rustix::io::Errno;

use super::image::input::Initrd;
use super::image::merged::ContentPlace;
use super::image::node::Node;
use super::image::rootfs::{join, split};
use super::image::view::{self, View};
use super::progress::LongStep;
use crate::boot::mount::extract::attributes::{
    Attributes, c_string, is_shown, set_on_file, show, xattrs,
};
use crate::boot::mount::extract::content::{Writer, with_writer};
use crate::boot::mount::extract::node;
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::format::cpio::normalized;
use crate::format::erofs::{self, Extent, Image, Limits};
use crate::text::shown;

/// What is to be extracted, and where.
pub struct Wanted {
    /// The directory; made if it is missing.
    pub directory: PathBuf,
    /// Files, and directories with all that is in them. None: everything.
    pub paths: Vec<String>,
    /// The layer's number in the plan. `None`: the merged root.
    pub layer: Option<usize>,
    /// Without owners, devices and extended attributes.
    pub unprivileged: bool,
}

/// Extracts the merged root, or a layer. Returns what the user should know.
///
/// # Errors
/// A layer cannot be read, there is no such file, or the directory does not take one: a file of the same name may
/// be there. What is extracted so far stays.
pub fn extract(image: &Initrd, wanted: &Wanted) -> Result<Vec<String>> {
    view::with(image, wanted.layer, |view| {
        view.complete()?;
        let names = select(view, &wanted.paths)?;
        let (top, is_empty) = open(&wanted.directory)?;
        let is_root = rustix::process::geteuid().is_root();
        let mut tree = OutputTree {
            view,
            top,
            privileged: is_root && !wanted.unprivileged,
            limits: HashMap::new(),
            directory: None,
            devices: 0,
        };
        let bytes = tree.needed(&names)?;
        check_room(&tree.top, &wanted.directory, bytes)?;
        tree.all(&names, is_empty && wanted.paths.is_empty())?;
        let mut lines = Vec::new();
        if !tree.privileged && !wanted.unprivileged {
            let devices = match tree.devices {
                0 => String::new(),
                1 => ", 1 device".into(),
                n => format!(", {n} devices"),
            };
            lines.push(format!(
                "warning: not root: extracted without owners{devices} and extended attributes"
            ));
        }
        Ok(lines)
    })
}

/// The names to extract, in the order of their bytes: a directory before what is in it. Directories around a file
/// belong to it.
fn select<'v>(view: &'v View, paths: &[String]) -> Result<Vec<(&'v [u8], usize)>> {
    let root = view.root;
    let mut found = BTreeSet::new();
    for path in paths {
        let missing = || Error::new("find", path, "not there");
        let (parent, last) = split_owned(&normalized(path.as_bytes()));
        let parent = root.resolve(&parent).map_err(|_| missing())?;
        let path = match last.as_slice() {
            b"" | b".." => root.resolve(&join(&parent, &last)).map_err(|_| missing())?,
            last => join(&parent, last),
        };
        let (name, _) = root.names.get_key_value(&path).ok_or_else(missing)?;
        found.insert(name.as_slice());
        let mut around = name.as_slice();
        while !around.is_empty() {
            around = split(around).0;
            found.extend(
                root.names
                    .get_key_value(around)
                    .map(|(name, _)| name.as_slice()),
            );
        }
        let inside = root.below(name).map(|below| join(name, below));
        for below in inside {
            found.extend(
                root.names
                    .get_key_value(&below)
                    .map(|(name, _)| name.as_slice()),
            );
        }
    }
    let names = root.names.iter();
    let names = names.map(|(name, index)| (name.as_slice(), *index));
    Ok(match paths {
        [] => names.collect(),
        _ => names.filter(|(name, _)| found.contains(name)).collect(),
    })
}

fn split_owned(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (parent, last) = split(path);
    (parent.to_vec(), last.to_vec())
}

/// Opens the directory, and whether it is empty.
fn open(directory: &Path) -> Result<(OwnedFd, bool)> {
    let context = || directory.display();
    match fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).during("create", context());
        }
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, directory, flags, Mode::empty()).during("open", context())?;
    let mut entries = fs::read_dir(directory).during("read", context())?;
    Ok((top, entries.next().is_none()))
}

/// Refuses to fill a filesystem.
fn check_room(top: &OwnedFd, directory: &Path, needed: u64) -> Result<()> {
    let filesystem = fstatvfs(top).during("stat filesystem of", directory.display())?;
    let free = filesystem.f_bavail.saturating_mul(filesystem.f_frsize);
    // Some filesystems do not know their size.
    if filesystem.f_blocks == 0 || needed <= free {
        return Ok(());
    }
    let what = format!("the files take {needed} bytes, and {free} are free there");
    Err(Error::new("extract into", directory.display(), what))
}

/// A tree of files on its way into a directory.
struct OutputTree<'v> {
    view: &'v View<'v>,
    top: OwnedFd,
    /// Whether owners, devices and extended attributes are set.
    privileged: bool,
    /// By layer.
    limits: HashMap<usize, Limits>,
    /// The directory that was used last, and its path.
    directory: Option<(Vec<u8>, OwnedFd)>,
    /// The number of devices that were left out.
    devices: usize,
}

impl<'v> OutputTree<'v> {
    /// The bytes that the files take.
    fn needed(&mut self, names: &[(&[u8], usize)]) -> Result<u64> {
        let mut total = 0u64;
        let mut seen = BTreeSet::new();
        for (name, index) in names {
            let Some(node) = self.view.root.nodes.get(*index) else {
                continue;
            };
            if !node.has_type(libc::S_IFREG) || !seen.insert(*index) {
                continue;
            }
            let context = || shown(name);
            // The error is that of its content.
            drop(
                self.view
                    .layers
                    .content(node)
                    .during("extract", context())?,
            );
            let node = node.with_bytes();
            let bytes = match (self.view.layers.image(node.layer), node.inode.as_deref()) {
                (Some(image), Some(inode)) => {
                    let limits = limits(&mut self.limits, node.layer, image);
                    limits.file(image, inode).during("extract", context())?
                }
                _ if node.size() == 0 => 0,
                _ => match self.view.layers.place(node).during("extract", context())? {
                    ContentPlace::Bytes(bytes, offset) => runs(bytes, offset, node.size())
                        .map(|(_, length)| length)
                        .sum(),
                    ContentPlace::Image(..) => node.size(),
                },
            };
            total = total.saturating_add(bytes);
        }
        self.limits.clear();
        Ok(total)
    }

    /// Writes everything: directories and small things first, then the content of each layer's files, then further
    /// names, and at last the attributes of directories, which all else changes.
    fn all(&mut self, names: &[(&[u8], usize)], root: bool) -> Result<()> {
        let mut first = BTreeMap::new();
        let mut files: BTreeMap<usize, Vec<(&[u8], &Node)>> = BTreeMap::new();
        let mut directories = Vec::new();
        let mut links = Vec::new();
        for (name, index) in names {
            let Some(node) = self.view.root.nodes.get(*index) else {
                continue;
            };
            if node.has_type(libc::S_IFDIR) {
                self.enter(name, true).during("create", shown(name))?;
                directories.push((*name, node));
            } else if let Some(first) = first.get(index) {
                links.push((*name, *first));
            } else if node.has_type(libc::S_IFREG) {
                first.insert(*index, *name);
                files
                    .entry(node.with_bytes().layer)
                    .or_default()
                    .push((*name, node));
            } else {
                let made = self.special(name, node);
                if made.during("create", shown(name))? {
                    first.insert(*index, *name);
                }
            }
        }
        for (layer, files) in files {
            let sizes = files.iter().map(|(_, node)| node.size());
            let bytes = sizes.fold(0u64, u64::saturating_add);
            let name = self.view.layer_name(layer);
            let progress = LongStep::layer(format_args!("extract {name}"), bytes);
            self.files(&files, &progress)?;
            progress.finish();
        }
        for (name, first) in links {
            self.link(first, name).during("link", shown(name))?;
        }
        while let Some((name, node)) = directories.pop() {
            if !name.is_empty() || root {
                let attributes = self.attributes(node).during("read", shown(name))?;
                let directory = self.enter(name, false).during("open", shown(name))?;
                set_on_file(directory, &attributes).during("set the attributes of", shown(name))?;
            }
        }
        Ok(())
    }

    /// Opens a directory; `make`: which may be missing. Every component is opened below the one before, and none is a
    /// link.
    fn enter(&mut self, path: &[u8], make: bool) -> std::result::Result<&OwnedFd, Errno> {
        if self.directory.as_ref().is_none_or(|(last, _)| last != path) {
            let mut here = self
                .top
                .try_clone()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            let names = path
                .split(|byte| *byte == b'/')
                .filter(|name| !name.is_empty());
            for name in names {
                let name = c_string(name)?;
                here = match make {
                    true => node::directory(&here, &name)?,
                    false => openat(&here, name.as_c_str(), node::DIRECTORY, Mode::empty())?,
                };
            }
            self.directory = Some((path.to_vec(), here));
        }
        self.directory
            .as_ref()
            .map(|(_, directory)| directory)
            .ok_or(Errno::NOENT)
    }

    /// Creates a symbolic link, a device, a pipe or a socket. False if it is left out.
    fn special(&mut self, path: &[u8], node: &Node) -> Result<bool> {
        let attributes = self.attributes(node)?;
        let (parent, last) = split(path);
        let name = c_string(last).during("name", shown(last))?;
        let is_device = node.has_type(libc::S_IFCHR) || node.has_type(libc::S_IFBLK);
        let device = node.device.unwrap_or_default();
        // Everybody may create a whiteout.
        if is_device && !self.privileged && device != (0, 0) {
            self.devices = self.devices.saturating_add(1);
            return Ok(false);
        }
        let directory = self.enter(parent, true).during("open", "directory")?;
        match node.has_type(libc::S_IFLNK) {
            true => node::link(directory, &name, &node.target, &attributes)?,
            false => node::special(directory, &name, device, &attributes)?,
        }
        Ok(true)
    }

    /// Writes files whose bytes are in one layer.
    fn files(&mut self, files: &[(&[u8], &Node)], progress: &LongStep) -> Result<()> {
        let mut places = Vec::new();
        for (name, node) in files {
            let bytes = node.with_bytes();
            // An empty file of an archive has no bytes anywhere.
            let place = match (bytes.size(), bytes.inode.is_some()) {
                (0, false) => None,
                _ => Some(
                    self.view
                        .layers
                        .place(bytes)
                        .during("extract", shown(name))?,
                ),
            };
            places.push(place);
        }
        static EMPTY: &[u8] = &[];
        let source = places.iter().flatten().next();
        let source = match source {
            Some(ContentPlace::Image(_, bytes) | ContentPlace::Bytes(bytes, _)) => *bytes,
            None => &EMPTY as &(dyn ReadAt + Sync),
        };
        with_writer(source, |writer| {
            for ((name, node), place) in files.iter().zip(&places) {
                self.file(writer, name, node, place.as_ref(), progress)
                    .during("extract", shown(name))?;
            }
            Ok(())
        })
    }

    /// Writes one file.
    fn file(
        &mut self,
        writer: &mut Writer,
        path: &[u8],
        node: &Node,
        place: Option<&ContentPlace>,
        progress: &LongStep,
    ) -> Result<()> {
        let attributes = self.attributes(node)?;
        let (parent, last) = split(path);
        let name = c_string(last).during("name", shown(last))?;
        let directory = self.enter(parent, true).during("open", "directory")?;
        let file = node::file(directory, &name, node.size())?;
        let file = writer.file(file, attributes, path.to_vec());
        let mut written = 0u64;
        let mut write = |extent: Extent| {
            let length = extent.length;
            written = written.saturating_add(length);
            writer.write(&file, extent)?;
            progress.inc(length);
            Ok::<_, Error>(())
        };
        match (place, node.with_bytes().inode.as_deref()) {
            (Some(ContentPlace::Image(image, _)), Some(inode)) => {
                for extent in image.extents(inode) {
                    write(extent.map_err(|fault| fault.of_inode(inode.nid))?)?;
                }
            }
            (Some(ContentPlace::Bytes(bytes, start)), _) => {
                for (offset, length) in runs(*bytes, *start, node.size()) {
                    write(Extent {
                        offset,
                        length,
                        data: erofs::Data::Raw(start.saturating_add(offset)),
                    })?;
                }
            }
            _ => {}
        }
        // Its holes.
        progress.inc(node.size().saturating_sub(written));
        Ok(())
    }

    /// Gives a file another name.
    fn link(&mut self, first: &[u8], path: &[u8]) -> std::result::Result<(), Errno> {
        let (from, to) = (split(first), split(path));
        let (old, new) = (c_string(from.1)?, c_string(to.1)?);
        let from = self.enter(from.0, true)?;
        let from = from
            .try_clone()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let to = self.enter(to.0, true)?;
        linkat(&from, old.as_c_str(), to, new.as_c_str(), AtFlags::empty())
    }

    fn attributes(&mut self, node: &Node) -> Result<Attributes> {
        let mut attributes = Attributes {
            owner: self.privileged.then_some(node.owner),
            mode: node.mode,
            time: Timespec {
                tv_sec: node.mtime.0,
                tv_nsec: node.mtime.1.into(),
            },
            xattrs: Vec::new(),
        };
        if self.privileged {
            attributes.xattrs = node_xattrs(self.view, node, &mut self.limits)?;
        }
        Ok(attributes)
    }
}

/// The parts of `size` bytes from `start` on that are no holes: offset from there, and length.
fn runs(bytes: &dyn ReadAt, start: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    const PIECE: u64 = 128 << 10;
    let mut at = 0u64;
    std::iter::from_fn(move || {
        at = bytes
            .next_data(start.saturating_add(at))
            .saturating_sub(start)
            .max(at);
        let length = size.saturating_sub(at).min(PIECE);
        let run = (length > 0).then_some((at, length));
        at = at.saturating_add(length);
        run
    })
}

/// The extended attributes of a file, as the new root shows them.
pub fn node_xattrs(
    view: &View,
    node: &Node,
    known: &mut HashMap<usize, Limits>,
) -> Result<Vec<erofs::Xattr>> {
    if let Some(xattrs) = &node.xattrs {
        let shown = xattrs
            .iter()
            .filter(|xattr| is_shown(&xattr.name, view.as_is));
        let mut shown: Vec<_> = shown.cloned().collect();
        for xattr in &mut shown {
            show(&mut xattr.name, view.as_is);
        }
        return Ok(shown);
    }
    let Some((layer, inode)) = node.attributes() else {
        return Ok(Vec::new());
    };
    let Some(image) = view.layers.image(layer) else {
        return Ok(Vec::new());
    };
    let mut found = xattrs(image, inode, view.as_is, limits(known, layer, image))?;
    // To write to a file removes them.
    if node.over.is_some() && node.has_type(libc::S_IFREG) {
        found.retain(|xattr| xattr.name != b"security.capability");
    }
    Ok(found)
}

fn limits<'l>(
    known: &'l mut HashMap<usize, Limits>,
    layer: usize,
    image: &Image,
) -> &'l mut Limits {
    known.entry(layer).or_insert_with(|| Limits::of(image))
}
