//! A tree of files, without their bytes, and path resolution.

use std::collections::BTreeMap;
use std::fmt;

use super::changes::Changes;
use super::node::Node;
use crate::boot::resolve::MAX_SYMLINKS;
use crate::format::cpio::normalized;

/// A tree of files. Paths have no leading slash.
#[derive(Debug)]
pub struct Rootfs {
    pub(crate) names: BTreeMap<Vec<u8>, usize>,
    pub(crate) nodes: Vec<Node>,
    /// The approximate number of bytes of memory that this takes.
    pub(super) size: usize,
    /// Index of the layer that is being added; `None` for a rootfs that the kernel unpacks.
    pub(super) layer: Option<usize>,
    /// Whether some of its files are unknown: a missing directory may exist.
    pub(crate) partial: bool,
    /// Whether to keep an archive as it is: marks for overlayfs are files, and missing directories are
    /// created.
    pub(super) as_is: bool,
    /// The changes of layers to those below them, if recorded.
    pub(crate) changes: Option<Changes>,
}

/// Why a path cannot be resolved. Displayed as a clause about a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// A component does not exist, or is not a directory (ENOENT, ENOTDIR).
    Missing,
    /// There are more symbolic links than the kernel follows (ELOOP).
    Links,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "which does not exist",
            Self::Links => "which is in a loop of symlinks (ELOOP)",
        })
    }
}

impl Rootfs {
    /// An empty root directory.
    pub fn empty() -> Self {
        let root = Node {
            mode: libc::S_IFDIR | 0o755,
            ..Node::default()
        };
        Self {
            names: BTreeMap::from([(Vec::new(), 0)]),
            nodes: vec![root],
            size: 0,
            layer: None,
            partial: false,
            as_is: false,
            changes: None,
        }
    }

    /// The rootfs before the kernel unpacks the initrd: the built-in archive of a kernel without
    /// CONFIG_INITRAMFS_SOURCE (usr/default_cpio_list).
    pub fn default_initramfs() -> Self {
        let mut rootfs = Self::empty();
        for (name, mode) in [
            ("dev", 0o040_755),
            ("dev/console", 0o020_600),
            ("root", 0o040_700),
        ] {
            rootfs.insert(
                name.into(),
                Node {
                    mode,
                    ..Node::default()
                },
            );
        }
        rootfs
    }

    /// The file at a path, with symbolic links followed, and its path without them.
    pub fn find(&self, path: &[u8]) -> Option<(Vec<u8>, &Node)> {
        let path = self.resolve(path).ok()?;
        let node = self.lookup(&path)?;
        Some((path, node))
    }

    /// The file at a path in which no directory is a symbolic link.
    pub fn lookup(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(*self.names.get(path)?)
    }

    /// The names in a directory, in order of their bytes.
    pub fn directory<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.below(path).filter(|name| !name.contains(&b'/'))
    }

    /// All paths below a directory, relative to it.
    pub(crate) fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let prefix = match path {
            b"" => Vec::new(),
            path => [path, b"/"].concat(),
        };
        let names = self
            .names
            .range(prefix.clone()..)
            .map(|(name, _)| name.as_slice());
        names
            .map_while(move |name| name.strip_prefix(prefix.as_slice()))
            .filter(|name| !name.is_empty())
    }

    /// Removes a path and all paths below it. Returns the number of paths below it.
    pub(super) fn remove(&mut self, path: &[u8]) -> usize {
        let below: Vec<_> = self.below(path).map(|name| join(path, name)).collect();
        for name in &below {
            self.names.remove(name);
        }
        if !path.is_empty() {
            self.names.remove(path);
        }
        below.len()
    }

    /// Removes the files of lower layers from a directory.
    pub(super) fn make_opaque(&mut self, directory: &[u8]) {
        let own = |name: &Vec<u8>| {
            let node = self.lookup(name);
            node.is_some_and(|node| Some(node.layer) == self.layer)
        };
        let below: Vec<_> = self
            .below(directory)
            .map(|name| join(directory, name))
            .collect();
        let ours: Vec<_> = below.iter().filter(|name| own(name)).cloned().collect();
        for name in below {
            // A directory of lower layers stays if this layer has files in it.
            let prefix = [name.as_slice(), b"/"].concat();
            let start = ours.partition_point(|own| *own < prefix);
            let needed = ours.get(start).is_some_and(|own| own.starts_with(&prefix));
            if !needed && ours.binary_search(&name).is_err() {
                self.names.remove(&name);
            }
        }
    }

    /// Adds a file. A directory keeps the files of an earlier directory; any other file replaces the earlier
    /// file at its path, with all files below.
    pub(super) fn put(&mut self, path: Vec<u8>, node: Node) {
        let Some(index) = self.names.get(&path).copied() else {
            return self.insert(path, node);
        };
        let Some(old) = self.nodes.get(index).cloned() else {
            return;
        };
        let merge = old.has_type(libc::S_IFDIR) && node.has_type(libc::S_IFDIR);
        // The kernel writes to an existing file, under all its names. A layer does not change the layers
        // below.
        let in_place =
            old.layer == node.layer && old.mode & libc::S_IFMT == node.mode & libc::S_IFMT;
        let below = match old.has_type(libc::S_IFDIR) && !merge {
            true => self.remove(&path),
            false => 0,
        };
        if let Some(changes) = &mut self.changes {
            changes.replaced(&path, &old, &node, below);
        }
        match self.nodes.get_mut(index).filter(|_| in_place) {
            Some(old) => *old = node,
            None => self.insert(path, node),
        }
    }

    /// Removes the file that a whiteout hides.
    pub(super) fn whiteout(&mut self, path: &[u8]) {
        let exists = self.names.contains_key(path);
        self.remove(path);
        if let (false, false, Some(changes), Some(layer)) =
            (exists, self.partial, &mut self.changes, self.layer)
        {
            changes.useless_whiteout(path, layer);
        }
    }

    pub(super) fn insert(&mut self, path: Vec<u8>, node: Node) {
        self.size = self.size.saturating_add(node.target.len());
        self.name(path, self.nodes.len());
        self.nodes.push(node);
    }

    /// Adds a name to a node.
    pub(super) fn name(&mut self, path: Vec<u8>, index: usize) {
        const ENTRY: usize = 128;
        self.size = self.size.saturating_add(path.len()).saturating_add(ENTRY);
        self.names.insert(path, index);
    }

    /// The target of a dangling symbolic link, and why it cannot be resolved.
    pub fn dangling_link(&self, path: &[u8]) -> Option<(&[u8], ResolveError)> {
        let error = self.resolve(path).err()?;
        let path = normalized(path);
        let (directory, last) = split(&path);
        let node = self.lookup(&join(&self.resolve(directory).ok()?, last))?;
        let is_link = node.mode & libc::S_IFMT == libc::S_IFLNK;
        is_link.then_some((node.target.as_slice(), error))
    }

    /// All files with their paths, in the order of the paths.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        let names = self.names.iter();
        names.filter_map(|(name, index)| Some((name.as_slice(), self.nodes.get(*index)?)))
    }

    /// Follows all symbolic links of a path.
    pub(crate) fn resolve(&self, path: &[u8]) -> std::result::Result<Vec<u8>, ResolveError> {
        let mut todo: Vec<Vec<u8>> = components(path);
        let mut here = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if self.lookup(&here).ok_or(ResolveError::Missing)?.mode & libc::S_IFMT != libc::S_IFDIR
            {
                return Err(ResolveError::Missing);
            }
            if name == b".." {
                let parent = here.iter().rposition(|byte| *byte == b'/');
                here.truncate(parent.unwrap_or(0));
                continue;
            }
            let next = join(&here, &name);
            let node = self.lookup(&next).ok_or(ResolveError::Missing)?;
            if node.mode & libc::S_IFMT != libc::S_IFLNK {
                here = next;
                continue;
            }
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(ResolveError::Links);
            }
            if node.target.starts_with(b"/") {
                here.clear();
            }
            todo.extend(components(&node.target));
        }
        Ok(here)
    }
}

/// The directory of a path, and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash.saturating_add(1)..).unwrap_or_default(),
        ),
        None => (b"", path),
    }
}

/// The components of a path, the last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').rev();
    names
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}
