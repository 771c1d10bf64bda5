//! What an image tells overlayfs, and is not followed here: no damage, but not nothing either.

use std::collections::BTreeMap;
use std::fmt;

use crate::text::shown;

/// What is not read of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// trusted.overlay.redirect of a directory.
    Redirect,
    /// trusted.overlay.metacopy of a file.
    Metacopy,
}

/// All that is not read of an image: of each kind the first, and how many there are besides.
#[derive(Debug, Default)]
pub struct Gaps {
    found: BTreeMap<Gap, (Vec<u8>, usize)>,
}

impl Gaps {
    /// Adds what is not read of the file at `path`.
    pub fn add(&mut self, gap: Gap, path: &[u8]) {
        self.found
            .entry(gap)
            .and_modify(|(_, more)| *more = more.saturating_add(1))
            .or_insert_with(|| (path.to_vec(), 0));
    }

    /// Whether all of the image is read.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// A clause of each kind, about the image.
    pub fn clauses(&self) -> impl Iterator<Item = String> {
        self.found.iter().map(|(gap, (path, more))| {
            let more = match more {
                0 => String::new(),
                n => format!(" (and {n} more like it)"),
            };
            format!("{}{more}", Clause(*gap, path))
        })
    }
}

/// What is not read of one file.
struct Clause<'a>(Gap, &'a [u8]);

impl fmt::Display for Clause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(gap, path) = self;
        let named = |kind: &str| match *path {
            b"" => "its root directory".to_string(),
            path => format!("its {kind} {}", shown(path)),
        };
        match gap {
            Gap::Redirect => write!(
                f,
                "{} has trusted.overlay.redirect, which is not looked at: where the kernel follows it, what a \
                 directory of another name holds in lower layers is in it, too",
                named("directory")
            ),
            Gap::Metacopy => write!(
                f,
                "{} has trusted.overlay.metacopy, which is not looked at: its bytes are in a lower layer, and \
                 overlayfs refuses the file (EPERM) unless its metacopy is on",
                named("file")
            ),
        }
    }
}
