//! The files of a rootfs, without their bytes, and how paths lead to them.

use std::collections::BTreeMap;
use std::fmt;

use crate::boot::resolve::MAX_SYMLINKS;
use crate::format::cpio::normalized;
use crate::format::erofs::Inode;

/// More than anybody reads.
const CHANGES_MAX: usize = 2000;

/// A file of the rootfs. Hard links are one file with several names.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// A symbolic link's target.
    pub target: Vec<u8>,
    /// Where the bytes of a regular file in an archive are; `None` for an empty one.
    pub body: Option<Bytes>,
    /// Which layer it is from, among those that make a root.
    pub layer: usize,
    /// Which inode it is, where that layer is an EROFS image.
    pub inode: Option<Box<Inode>>,
}

impl Node {
    /// The length of a regular file in bytes.
    pub fn size(&self) -> u64 {
        match (&self.inode, self.body) {
            (Some(inode), _) => inode.size,
            (None, body) => body.map_or(0, |body| body.length),
        }
    }
}

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Which of the segments, by its offset in the image.
    pub segment: u64,
    /// Where they start in the archive that this segment is, or decompresses to.
    pub offset: u64,
    /// Their number.
    pub length: u64,
}

/// Names without leading slash, links not followed, and what they stand for.
#[derive(Debug)]
pub struct Rootfs {
    pub(crate) names: BTreeMap<Vec<u8>, usize>,
    pub(crate) nodes: Vec<Node>,
    /// About how many bytes all of this takes.
    pub(super) size: usize,
    /// The layer that is being put over those before it, where this is the root that they make.
    pub(super) layer: Option<usize>,
    /// Some of what is there is not known: a directory that is missing may exist.
    pub(crate) partial: bool,
    /// What layers did to those below, if that is asked for.
    pub(crate) changes: Option<Changes>,
}

/// Why a path leads to no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Something on the way is missing, or no directory.
    Missing,
    /// There are more symbolic links on the way than the kernel follows.
    Links,
}

/// What a symbolic link does that leads to no file.
impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "which leads nowhere",
            Self::Links => "which leads in a circle (ELOOP)",
        })
    }
}

/// What happened while layers were put over each other, in order.
#[derive(Debug, Default)]
pub struct Changes {
    pub(crate) list: Vec<(Vec<u8>, Change)>,
    /// How many there were beyond those.
    pub(crate) more: usize,
}

/// What a layer did.
#[derive(Debug)]
pub enum Change {
    /// It has something else where a layer below has this. With it went as many names.
    Other(Node, Node, usize),
    /// It hides what is not there.
    Nothing(usize),
}

impl Changes {
    /// A file took the place of another.
    pub fn other(&mut self, path: &[u8], old: &Node, new: &Node, below: usize) {
        let both = |mode: u32| old.mode & libc::S_IFMT == mode && new.mode & libc::S_IFMT == mode;
        if old.layer != new.layer && !both(libc::S_IFDIR) {
            self.add(path, Change::Other(old.clone(), new.clone(), below));
        }
    }

    /// A whiteout hid nothing.
    pub fn nothing(&mut self, path: &[u8], layer: usize) {
        self.add(path, Change::Nothing(layer));
    }

    fn add(&mut self, path: &[u8], change: Change) {
        match self.list.len() < CHANGES_MAX {
            true => self.list.push((path.to_vec(), change)),
            false => self.more = self.more.saturating_add(1),
        }
    }
}

impl Rootfs {
    /// An empty directory.
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
            changes: None,
        }
    }

    /// What is there before any initrd is: the archive that every kernel has built in, unless it was
    /// built with another (usr/default_cpio_list).
    pub fn of_the_kernel() -> Self {
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

    /// The file of this name, links followed, and its name without links.
    pub fn find(&self, path: &[u8]) -> Option<(Vec<u8>, &Node)> {
        let path = self.resolve(path)?;
        let node = self.here(&path)?;
        Some((path, node))
    }

    /// The file of this name, which must be one without links in it.
    pub fn here(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(*self.names.get(path)?)
    }

    /// Names directly in a directory, in order of their bytes.
    pub fn directory<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.below(path).filter(|name| !name.contains(&b'/'))
    }

    /// Names below a directory, relative to it.
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

    /// Takes a name away, and all below it. How many names there were below.
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

    /// Takes away what the layers below the present one have in a directory.
    pub(super) fn hide(&mut self, directory: &[u8]) {
        let own = |name: &Vec<u8>| {
            let node = self.here(name);
            node.is_some_and(|node| Some(node.layer) == self.layer)
        };
        let below: Vec<_> = self
            .below(directory)
            .map(|name| join(directory, name))
            .collect();
        let ours: Vec<_> = below.iter().filter(|name| own(name)).cloned().collect();
        for name in below {
            // A directory that only lower layers have stays where this one has something in it.
            let prefix = [name.as_slice(), b"/"].concat();
            let start = ours.partition_point(|own| *own < prefix);
            let needed = ours.get(start).is_some_and(|own| own.starts_with(&prefix));
            if !needed && ours.binary_search(&name).is_err() {
                self.names.remove(&name);
            }
        }
    }

    pub(super) fn insert(&mut self, path: Vec<u8>, node: Node) {
        self.size = self.size.saturating_add(node.target.len());
        self.name(path, self.nodes.len());
        self.nodes.push(node);
    }

    /// Gives a node a name, or one more.
    pub(super) fn name(&mut self, path: Vec<u8>, index: usize) {
        const ENTRY: usize = 128;
        self.size = self.size.saturating_add(path.len()).saturating_add(ENTRY);
        self.names.insert(path, index);
    }

    /// The target of a symbolic link that has this name, and why it leads to no file.
    pub fn link(&self, path: &[u8]) -> Option<(&[u8], Lost)> {
        let lost = self.follow(path).err()?;
        let path = normalized(path);
        let (directory, last) = parts(&path);
        let node = self.here(&join(&self.resolve(directory)?, last))?;
        let is_link = node.mode & libc::S_IFMT == libc::S_IFLNK;
        is_link.then_some((node.target.as_slice(), lost))
    }

    /// All files with their names, in order of those.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        let names = self.names.iter();
        names.filter_map(|(name, index)| Some((name.as_slice(), self.nodes.get(*index)?)))
    }

    /// Follows all symbolic links. `None` where something on the way is missing or no directory.
    pub(super) fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.follow(path).ok()
    }

    /// The same, with the reason.
    pub(crate) fn follow(&self, path: &[u8]) -> std::result::Result<Vec<u8>, Lost> {
        let mut todo: Vec<Vec<u8>> = components(path);
        let mut here = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if self.here(&here).ok_or(Lost::Missing)?.mode & libc::S_IFMT != libc::S_IFDIR {
                return Err(Lost::Missing);
            }
            if name == b".." {
                let parent = here.iter().rposition(|byte| *byte == b'/');
                here.truncate(parent.unwrap_or(0));
                continue;
            }
            let next = join(&here, &name);
            let node = self.here(&next).ok_or(Lost::Missing)?;
            if node.mode & libc::S_IFMT != libc::S_IFLNK {
                here = next;
                continue;
            }
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(Lost::Links);
            }
            if node.target.starts_with(b"/") {
                here.clear();
            }
            todo.extend(components(&node.target));
        }
        Ok(here)
    }
}

/// The directory that a path is in, and its last component.
pub(super) fn parts(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash.saturating_add(1)..).unwrap_or_default(),
        ),
        None => (b"", path),
    }
}

/// Path components, the last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').rev();
    names
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}
