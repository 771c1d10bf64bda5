//! Applies the members of an archive to the layers below, as umoci(1) does it: the files of a layer, and what it
//! changes in those below.
//!
//! A tar archive may leave out the directories that its files are in, name files through symbolic links of lower
//! layers, and hold hard links to files of lower layers. An EROFS image below overlayfs can do none of these. So the
//! stack knows the files of all layers so far, and a layer gets the directories with their attributes, the files where
//! the links lead, and every name of a file that gets another one.

use std::collections::{BTreeMap, HashMap};

use super::member::{TarMember, TarMemberKind};
use super::stack::{
    LayerFiles, LayerStack, Path, PathEntry, StackedFile, StackedKind, below, implicit_directory,
    join, remove_below,
};
use crate::boot::resolve::MAX_SYMLINKS;
use crate::error::{Error, Result};
use crate::format::cpio::OPAQUE;
use crate::text::shown;

/// The prefix of the name of a whiteout (OCI image specification, layer.md).
const WHITEOUT: &[u8] = b".wh.";

/// The prefix of names that belong to aufs.
const AUFS: &[u8] = b".wh..wh.";

/// How to read archives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Whether absolute names are relative to the root directory.
    pub absolute_names: bool,
    /// Whether all layers below are in the stack, so that a whiteout which hides nothing can be left out.
    pub complete: bool,
}

impl LayerStack {
    /// Starts a layer. `object` is its name in messages.
    pub fn begin<'a>(&'a mut self, object: &'a str, rules: Rules) -> LayerBuilder<'a> {
        LayerBuilder {
            lower: self.merged.clone(),
            lower_names: None,
            stack: self,
            layer: LayerFiles::default(),
            object,
            rules,
        }
    }
}

/// A layer while members are added to it.
pub struct LayerBuilder<'a> {
    stack: &'a mut LayerStack,
    /// The files of the layers below.
    lower: BTreeMap<Path, usize>,
    /// The names of each file of the layers below, once a hard link needs them.
    lower_names: Option<HashMap<usize, Vec<Path>>>,
    layer: LayerFiles,
    object: &'a str,
    rules: Rules,
}

impl LayerBuilder<'_> {
    /// Adds a member of the archive.
    ///
    /// # Errors
    /// Its name or target leads out of the root directory or through a file that is not a directory, or the
    /// target does not exist.
    pub fn add(&mut self, member: TarMember) -> Result<()> {
        let mut names = self.components(&member.name, &member.name)?;
        let body = match member.kind {
            TarMemberKind::HardLink(target) => {
                let Some(name) = names.pop() else {
                    return Err(self.refuse(&member.name, "a link in place of the root directory"));
                };
                let directory = self.directory(&member.name, names)?;
                return self.hard_link(&member.name, join(&directory, &name), &target);
            }
            TarMemberKind::Directory => StackedKind::Directory,
            TarMemberKind::File(content) => StackedKind::File(content),
            TarMemberKind::Symlink(target) => StackedKind::Symlink(target),
            TarMemberKind::Device(device) => StackedKind::Device(device),
            TarMemberKind::Fifo => StackedKind::Fifo,
        };
        let Some(name) = names.pop() else {
            if !matches!(body, StackedKind::Directory) {
                return Err(self.refuse(&member.name, "a file in place of the root directory"));
            }
            self.insert(
                Vec::new(),
                StackedFile {
                    body,
                    attributes: member.attributes,
                },
            );
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.mark(&member.name, names, &name, hidden);
        }
        let directory = self.directory(&member.name, names)?;
        self.insert(
            join(&directory, &name),
            StackedFile {
                body,
                attributes: member.attributes,
            },
        );
        Ok(())
    }

    /// The finished layer.
    pub fn finish(mut self) -> LayerFiles {
        let root = self.stack.merged.get(&Vec::new()).copied().unwrap_or(0);
        self.layer
            .places
            .entry(Vec::new())
            .or_insert(PathEntry::Node(root));
        self.layer
    }

    fn refuse(&self, name: &[u8], what: &str) -> Error {
        Error::new("read", self.object, format!("{}: {what}", shown(name)))
    }

    /// The components of a name or of the target of a hard link. `member` is for messages.
    fn components(&self, member: &[u8], path: &[u8]) -> Result<Vec<Path>> {
        if path.starts_with(b"/") && !self.rules.absolute_names {
            let what = match member == path {
                true => "an absolute name".into(),
                false => format!("a link to the absolute name {}", shown(path)),
            };
            let error = self.refuse(member, &what);
            return Err(error.hint("--absolute-names takes it relative to the new root"));
        }
        let parts: Vec<_> = path.split(|byte| *byte == b'/').collect();
        if parts.contains(&&b".."[..]) {
            let what = match member == path {
                true => "a name with .. in it".into(),
                false => format!("a link to {}, with .. in it", shown(path)),
            };
            return Err(self.refuse(member, &what));
        }
        if path.contains(&0) {
            return Err(self.refuse(member, "a name with a NUL in it"));
        }
        if let Some(long) = parts.iter().find(|part| part.len() > 255) {
            let what = format!(
                "a name of {} bytes; no filesystem has more than 255",
                long.len()
            );
            return Err(self.refuse(member, &what));
        }
        let parts = parts
            .into_iter()
            .filter(|part| !part.is_empty() && *part != b".");
        Ok(parts.map(<[u8]>::to_vec).collect())
    }

    /// Follows the links in a path to a directory. With `create`, the directories on the path become part of
    /// the layer, and missing ones are created. Without it, `None` if one is missing.
    fn follow(&mut self, member: &[u8], names: Vec<Path>, create: bool) -> Result<Option<Path>> {
        let mut todo: Vec<Path> = names.into_iter().rev().collect();
        let mut here = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                if here.is_empty() {
                    return Err(
                        self.refuse(member, "a link on its path leads out of the root directory")
                    );
                }
                let parent = here.iter().rposition(|byte| *byte == b'/');
                here.truncate(parent.unwrap_or(0));
                continue;
            }
            let next = join(&here, &name);
            let index = self.stack.merged.get(&next).copied();
            match index.and_then(|index| Some((index, &self.stack.node(index)?.body))) {
                Some((index, StackedKind::Directory)) => {
                    if create {
                        let place = self.layer.places.entry(next.clone());
                        place.or_insert(PathEntry::Node(index));
                    }
                    here = next;
                }
                Some((_, StackedKind::Symlink(target))) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(self.refuse(
                            member,
                            "more symbolic links on its path than the kernel follows",
                        ));
                    }
                    let target = target.clone();
                    if target.starts_with(b"/") {
                        // An archive of a real tree cannot have a file below a link.
                        if self.layer.places.contains_key(&next) {
                            let what = format!(
                                "{} of the same archive is a link to {}",
                                shown(&next),
                                shown(&target)
                            );
                            return Err(self.refuse(member, &what));
                        }
                        here.clear();
                    }
                    let parts = target.split(|byte| *byte == b'/').rev();
                    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
                    todo.extend(parts.map(<[u8]>::to_vec));
                }
                Some(_) => {
                    let what = format!("{} is not a directory", shown(&next));
                    return Err(self.refuse(member, &what));
                }
                None if create => {
                    self.insert(next.clone(), implicit_directory());
                    here = next;
                }
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The directory that a new member is in, which becomes part of the layer.
    fn directory(&mut self, member: &[u8], names: Vec<Path>) -> Result<Path> {
        self.follow(member, names, true)
            .map(Option::unwrap_or_default)
    }

    /// Adds a file, and replaces an existing one.
    fn insert(&mut self, path: Path, node: StackedFile) {
        let index = self.stack.nodes.len();
        let is_directory = matches!(node.body, StackedKind::Directory);
        self.stack.nodes.push(node);
        let old = self.stack.merged.get(&path).copied();
        let merges = is_directory && old.is_some_and(|old| self.stack.is_directory(old));
        if !merges {
            self.replace(&path, is_directory);
        }
        self.stack.merged.insert(path.clone(), index);
        self.layer.places.insert(path, PathEntry::Node(index));
    }

    /// Removes the file at a path. If a directory replaces it, that hides a directory of lower layers.
    fn replace(&mut self, path: &[u8], with_directory: bool) {
        self.stack.remove(path);
        remove_below(&mut self.layer.places, path);
        let hidden = self.layer.places.remove(path) == Some(PathEntry::Whiteout);
        let below: Vec<_> = below(&self.layer.opaque, path).cloned().collect();
        for path in below {
            self.layer.opaque.remove(&path);
        }
        self.layer.opaque.remove(path);
        let lower = self.lower.get(path).copied();
        if with_directory
            && (lower.is_some_and(|lower| self.stack.is_directory(lower))
                || hidden && !self.rules.complete)
        {
            self.layer.opaque.insert(path.to_vec());
        }
    }

    /// Whether any part of a path is neither a directory nor a link.
    fn is_below_file(&self, names: &[Path]) -> bool {
        let mut path = Vec::new();
        names.iter().any(|name| {
            path = join(&path, name);
            let node = self.stack.merged.get(&path);
            let node = node.and_then(|index| self.stack.node(*index));
            node.is_some_and(|node| {
                !matches!(node.body, StackedKind::Directory | StackedKind::Symlink(_))
            })
        })
    }

    /// A whiteout, or the mark of an opaque directory.
    fn mark(&mut self, member: &[u8], names: Vec<Path>, name: &[u8], hidden: &[u8]) -> Result<()> {
        if name != OPAQUE && name.starts_with(AUFS) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.refuse(member, "a whiteout without a name"));
        }
        // umoci also hides the files of a directory that it replaces with a file.
        if self.is_below_file(&names) {
            return Ok(());
        }
        // A directory that does not exist has nothing to hide.
        let Some(directory) = self.follow(member, names.clone(), !self.rules.complete)? else {
            return Ok(());
        };
        self.directory(member, names)?;
        match name == OPAQUE {
            true => self.make_opaque(directory),
            false => self.whiteout(join(&directory, hidden)),
        }
        Ok(())
    }

    /// Hides the file of lower layers at a path. Files of this layer stay.
    fn whiteout(&mut self, path: Path) {
        match self.layer.places.get(&path) {
            Some(PathEntry::Node(index)) if self.stack.is_directory(*index) => {
                self.make_opaque(path)
            }
            Some(_) => {}
            None => {
                self.stack.remove(&path);
                if self.lower.contains_key(&path) || !self.rules.complete {
                    self.layer.places.insert(path, PathEntry::Whiteout);
                }
            }
        }
    }

    /// Hides the files of lower layers in a directory.
    fn make_opaque(&mut self, directory: Path) {
        let hidden: Vec<_> = below(&self.stack.merged, &directory)
            .filter(|path| !self.layer.places.contains_key(*path))
            .cloned()
            .collect();
        for path in hidden {
            self.stack.merged.remove(&path);
        }
        let lower = self.lower.get(&directory).copied();
        if directory.is_empty() {
            // overlayfs merges the root directories of all layers.
            let names: Vec<_> = self
                .lower
                .keys()
                .filter(|path| !path.is_empty() && !path.contains(&b'/'))
                .cloned()
                .collect();
            names.into_iter().for_each(|name| self.whiteout(name));
        } else if lower.is_some_and(|lower| self.stack.is_directory(lower)) {
            self.layer.opaque.insert(directory);
            return;
        }
        if !self.rules.complete {
            self.layer.opaque.insert(directory);
        }
    }

    fn hard_link(&mut self, member: &[u8], path: Path, target: &[u8]) -> Result<()> {
        let mut names = self.components(member, target)?;
        let missing = format!("a hard link to {}, which does not exist", shown(target));
        let name = names.pop().ok_or_else(|| self.refuse(member, &missing))?;
        let directory = self.follow(member, names, false)?;
        let target = directory.map(|directory| join(&directory, &name));
        let found =
            target.and_then(|target| Some((self.stack.merged.get(&target).copied()?, target)));
        let Some((index, target)) = found else {
            return Err(self.refuse(member, &missing));
        };
        if self.stack.is_directory(index) {
            return Err(self.refuse(member, "a hard link to a directory"));
        }
        if target == path {
            return Ok(());
        }
        if !self.layer.places.contains_key(&target) {
            self.copy_up(index);
        }
        self.replace(&path, false);
        self.stack.merged.insert(path.clone(), index);
        self.layer.places.insert(path, PathEntry::Node(index));
        Ok(())
    }

    /// Makes a file of a lower layer part of this one, under all its names: they stay hard links.
    fn copy_up(&mut self, index: usize) {
        let lower = &self.lower;
        let names = self.lower_names.get_or_insert_with(|| {
            let mut names: HashMap<usize, Vec<Path>> = HashMap::new();
            for (path, index) in lower {
                names.entry(*index).or_default().push(path.clone());
            }
            names
        });
        for path in names.get(&index).cloned().unwrap_or_default() {
            if self.stack.merged.get(&path) != Some(&index) {
                continue;
            }
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            for (end, _) in ends {
                let directory = path.get(..end).unwrap_or_default();
                if let Some(index) = self.stack.merged.get(directory) {
                    let place = self.layer.places.entry(directory.to_vec());
                    place.or_insert(PathEntry::Node(*index));
                }
            }
            self.layer.places.insert(path, PathEntry::Node(index));
        }
    }
}
