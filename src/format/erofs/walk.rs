//! All files of an image with their paths.

use std::collections::BTreeSet;

use super::{Image, Inode, Limits};
use crate::error::{Error, Result};

/// The longest path that is followed. The kernel has no limit, but programs have PATH_MAX.
const DEPTH_MAX: usize = 16 * 4096;

impl Image<'_> {
    /// Calls `take` with every file and its path from the root, a directory before its files. The path of the root is
    /// empty. Names in a directory are sorted by their bytes.
    ///
    /// # Errors
    /// `take` fails. The image is damaged, or has more names than an image of its length can have, a directory in two
    /// places, or names that are not sorted.
    pub fn walk(&self, take: &mut dyn FnMut(&[u8], &Inode) -> Result<()>) -> Result<()> {
        let mut limits = Limits::of(self);
        let mut seen = BTreeSet::new();
        // The path of the last entry. It starts with the path of the next entry's directory.
        let mut path: Vec<u8> = Vec::new();
        let mut todo = vec![(0, Vec::new(), self.root()?.nid)];
        while let Some((directory, name, nid)) = todo.pop() {
            path.truncate(directory);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let broken = |what| Error::new("read", format_args!("EROFS inode {nid}"), what);
            if path.len() > DEPTH_MAX {
                return Err(broken("directories nested deeper than any path can be"));
            }
            let inode = self.inode(nid)?;
            take(&path, &inode)?;
            if !inode.is_directory() {
                continue;
            }
            if !seen.insert(nid) {
                return Err(broken("a directory that is in the tree twice"));
            }
            let first = todo.len();
            for dirent in self.entries(&inode) {
                let dirent = dirent?;
                limits.name(&inode)?;
                // The kernel searches them by bisection.
                let last = todo.get(first..).and_then(<[_]>::last);
                if last.is_some_and(|(_, last, _)| *last >= dirent.name) {
                    return Err(broken("a directory whose names are not in order"));
                }
                todo.push((path.len(), dirent.name, dirent.nid));
            }
            if let Some(below) = todo.get_mut(first..) {
                below.reverse();
            }
        }
        Ok(())
    }
}
