//! Marks of overlayfs in an image that a kernel may refuse to follow, and those that no kernel follows.

use std::collections::BTreeMap;
use std::fmt;

use crate::text::shown;

/// A file that a kernel refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// trusted.overlay.metacopy of a file.
    Metacopy,
    /// The same, and no lower layer has the bytes.
    Missing,
}

/// All gaps of an image: the first of each kind, and the number of the others.
#[derive(Debug, Default)]
pub struct Gaps {
    found: BTreeMap<Gap, (Vec<u8>, usize)>,
}

impl Gaps {
    /// Adds the file at `path`.
    pub fn add(&mut self, gap: Gap, path: &[u8]) {
        self.found
            .entry(gap)
            .and_modify(|(_, more)| *more = more.saturating_add(1))
            .or_insert_with(|| (path.to_vec(), 0));
    }

    /// A clause of each kind, about the image, and whether it is an error.
    pub fn clauses(&self) -> impl Iterator<Item = (String, bool)> {
        self.found.iter().map(|(gap, (path, more))| {
            let more = match more {
                0 => String::new(),
                n => format!(" (and {n} more like it)"),
            };
            let clause = format!("{}{more}", Clause(*gap, path));
            (clause, *gap != Gap::Metacopy)
        })
    }
}

/// The problem of one file.
struct Clause<'a>(Gap, &'a [u8]);

impl fmt::Display for Clause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(gap, path) = self;
        let path = shown(path);
        match gap {
            Gap::Metacopy => write!(
                f,
                "its file {path} has trusted.overlay.metacopy, so its bytes are in a lower layer: overlayfs \
                 refuses the file (EPERM) unless its metacopy is on"
            ),
            Gap::Missing => write!(
                f,
                "its file {path} has trusted.overlay.metacopy, and no lower layer has its bytes"
            ),
        }
    }
}
