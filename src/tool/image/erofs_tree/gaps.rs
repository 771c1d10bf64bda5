//! What an image has for the kernel, and is not read here: no damage, but not nothing either.

use std::collections::BTreeMap;
use std::fmt;

use super::Inode;
use crate::text::shown;

/// What is not read of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// The names in a directory, for how they are stored.
    Directory(&'static str),
    /// Where a symbolic link leads, for how that is stored.
    Link(&'static str),
    /// An attribute that may be one for overlayfs, under a prefix of the image's own.
    Prefix,
    /// trusted.overlay.redirect of a directory.
    Redirect,
    /// trusted.overlay.metacopy of a file.
    Metacopy,
}

impl Gap {
    /// What is not read of the tree because of how an inode is stored. The bytes of a regular file are
    /// no part of the tree.
    pub fn of(inode: &Inode) -> Option<Self> {
        let stored = inode.unread()?;
        match inode.file.mode & libc::S_IFMT {
            libc::S_IFDIR => Some(Self::Directory(stored)),
            libc::S_IFLNK => Some(Self::Link(stored)),
            _ => None,
        }
    }
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
            Gap::Directory(stored) => write!(
                f,
                "{} is {stored}, and what it holds is not looked at",
                named("directory")
            ),
            Gap::Link(stored) => write!(
                f,
                "{} is {stored}, and where it leads is not looked at",
                named("symbolic link")
            ),
            Gap::Prefix => write!(
                f,
                "{} has an attribute under a prefix of the image's own, which is compressed and not looked at: it \
                 may be one for overlayfs, such as trusted.overlay.opaque",
                named("file")
            ),
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
