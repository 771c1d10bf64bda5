//! The files of the layers of an image: those of each layer, and those of all layers so far.
//!
//! Pure, except that the content of files stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use super::file_slice::FileSlice;
use super::member::{DeviceNode, TarAttributes};

/// Paths have no leading slash; the root directory is the empty path.
pub(super) type Path = Vec<u8>;

/// A file.
#[derive(Debug)]
pub struct StackedFile {
    /// Its type and content.
    pub body: StackedKind,
    /// Owner, mode, time and extended attributes.
    pub attributes: TarAttributes,
}

/// The type and content of a file.
#[derive(Debug)]
pub enum StackedKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileSlice),
    /// A symbolic link, with its target.
    Symlink(Vec<u8>),
    /// A device.
    Device(DeviceNode),
    /// A named pipe.
    Fifo,
}

/// What a layer has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEntry {
    /// The file of this index in the stack. Several paths with the same one are hard links.
    Node(usize),
    /// A whiteout: it hides the file of a lower layer.
    Whiteout,
}

/// The files of one layer. The directory of each file is among them.
#[derive(Debug, Default)]
pub struct LayerFiles {
    /// What is at each path.
    pub places: BTreeMap<Path, PathEntry>,
    /// The directories that hide those of lower layers.
    pub opaque: BTreeSet<Path>,
}

/// The files of all layers so far.
#[derive(Debug)]
pub struct LayerStack {
    pub(super) nodes: Vec<StackedFile>,
    pub(super) merged: BTreeMap<Path, usize>,
}

impl Default for LayerStack {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerStack {
    /// An empty root directory.
    pub fn new() -> Self {
        Self {
            nodes: vec![implicit_directory()],
            merged: BTreeMap::from([(Vec::new(), 0)]),
        }
    }

    /// The file of this index.
    pub fn node(&self, index: usize) -> Option<&StackedFile> {
        self.nodes.get(index)
    }

    /// All layers as one.
    pub fn flatten(&self) -> LayerFiles {
        let files = self.merged.iter();
        LayerFiles {
            places: files
                .map(|(path, index)| (path.clone(), PathEntry::Node(*index)))
                .collect(),
            opaque: BTreeSet::new(),
        }
    }

    pub(super) fn is_directory(&self, index: usize) -> bool {
        matches!(self.node(index), Some(node) if matches!(node.body, StackedKind::Directory))
    }

    /// Removes a path and all paths below it.
    pub(super) fn remove(&mut self, path: &[u8]) {
        remove_below(&mut self.merged, path);
        self.merged.remove(path);
    }
}

/// A directory that the archive does not have: as umoci(1) and GNU tar create it.
pub(super) fn implicit_directory() -> StackedFile {
    StackedFile {
        body: StackedKind::Directory,
        attributes: TarAttributes {
            mode: 0o755,
            ..TarAttributes::default()
        },
    }
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Path {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

/// A map or set in the order of paths.
pub(super) trait Paths {
    fn starting_at(&self, start: Path) -> impl Iterator<Item = &Path>;
}

impl<T> Paths for BTreeMap<Path, T> {
    fn starting_at(&self, start: Path) -> impl Iterator<Item = &Path> {
        self.range(start..).map(|(path, _)| path)
    }
}

impl Paths for BTreeSet<Path> {
    fn starting_at(&self, start: Path) -> impl Iterator<Item = &Path> {
        self.range(start..)
    }
}

/// The paths below a directory.
pub(super) fn below<'a>(paths: &'a impl Paths, directory: &[u8]) -> impl Iterator<Item = &'a Path> {
    let prefix = match directory {
        b"" => Vec::new(),
        directory => [directory, b"/"].concat(),
    };
    let found = paths.starting_at(prefix.clone());
    found
        .take_while(move |path| path.starts_with(&prefix))
        .filter(|path| !path.is_empty())
}

pub(super) fn remove_below<T>(map: &mut BTreeMap<Path, T>, directory: &[u8]) {
    let paths: Vec<_> = below(map, directory).cloned().collect();
    for path in paths {
        map.remove(&path);
    }
}
