//! What a layer tells overlayfs about its files: attributes, and the paths that they lead to.
//!
//! Source: fs/overlayfs/namei.c (ovl_lookup, ovl_lookup_single, ovl_check_redirect) and fs/overlayfs/util.c of
//! Linux 7.2, with redirect_dir=follow, which is the default, and metacopy=on.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::format::cpio::PATH_MAX;
use crate::format::erofs::{Image, Inode, Limits};
use crate::text::shown;

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const METACOPY: &[u8] = b"trusted.overlay.metacopy";
const WHITEOUT: &[u8] = b"trusted.overlay.whiteout";

/// What a layer tells overlayfs about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// A directory that hides the contents of lower layers (trusted.overlay.opaque is `y`).
    pub opaque: bool,
    /// trusted.overlay.redirect: the name or path of the directory or file of lower layers that overlayfs
    /// uses in place of the one with the same path.
    pub redirect: Option<Vec<u8>>,
    /// trusted.overlay.metacopy: a file whose bytes are in a lower layer.
    pub metacopy: bool,
    /// It hides the file of lower layers at its path: a character device 0:0, or an empty file with
    /// trusted.overlay.whiteout (Linux 6.7).
    pub whiteout: bool,
}

impl Marks {
    /// The marks of a file without extended attributes. `kind` is its type, as in `st_mode`.
    pub fn of_device(kind: u32, device: Option<(u32, u32)>) -> Self {
        Self {
            whiteout: kind == libc::S_IFCHR && device == Some((0, 0)),
            ..Self::default()
        }
    }

    /// Adds what an extended attribute says about a file with this type and size.
    pub fn add(&mut self, name: &[u8], value: &[u8], kind: u32, size: u64) {
        let regular = kind == libc::S_IFREG;
        match name {
            OPAQUE => self.opaque |= kind == libc::S_IFDIR && value == b"y",
            // A longer path is not valid, and files may share the value.
            REDIRECT if value.len() >= PATH_MAX as usize => self.redirect = Some(Vec::new()),
            REDIRECT => self.redirect = Some(value.to_vec()),
            METACOPY => self.metacopy |= regular,
            WHITEOUT => self.whiteout |= regular && size == 0,
            _ => {}
        }
    }
}

/// Reads the marks of files.
pub struct MarkReader<'i> {
    image: &'i Image<'i>,
    limits: Limits,
    /// Those of files with several names.
    seen: BTreeMap<u64, Marks>,
}

impl<'i> MarkReader<'i> {
    /// A reader of the marks in an image.
    pub fn new(image: &'i Image<'i>) -> Self {
        Self {
            image,
            limits: Limits::of(image),
            seen: BTreeMap::new(),
        }
    }

    /// The marks of a file.
    pub fn of(&mut self, inode: &Inode) -> Result<Marks> {
        let mut marks = Marks::of_device(inode.file_type(), inode.device);
        let length = inode.xattrs_length();
        if length == 0 || marks.whiteout {
            return Ok(marks);
        }
        if let Some(seen) = self.seen.get(&inode.nid) {
            return Ok(seen.clone());
        }
        // A valid image stores the attributes of every inode separately. With overlapping inodes, a hostile
        // one could take very long.
        self.limits.xattrs(inode, length)?;
        let wanted = |name: &[u8]| [OPAQUE, REDIRECT, METACOPY, WHITEOUT].contains(&name);
        for xattr in self.image.xattrs_if(inode, wanted)? {
            marks.add(&xattr.name, &xattr.value, inode.file_type(), inode.size);
        }
        if inode.nlink > 1 && !inode.is_directory() {
            self.seen.insert(inode.nid, marks.clone());
        }
        Ok(marks)
    }
}

/// The paths at which overlayfs looks in the layers below for each file of an image.
#[derive(Default)]
pub struct Origins {
    /// The directories around the current file that are not merged with the lower directory of the same path,
    /// each with the lower path it is merged with, if there is one. The innermost is the last.
    moved: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Origins {
    /// The lower path of a file. Files come in the order of [`Image::walk`]. `None`: the lower layers are
    /// hidden there.
    ///
    /// # Errors
    /// overlayfs refuses its redirect.
    pub fn of(&mut self, path: &[u8], marks: &Marks) -> Result<Option<Vec<u8>>> {
        let inside = |(directory, _): &(Vec<u8>, _)| {
            let rest = path.strip_prefix(&**directory);
            directory.is_empty() || rest.is_some_and(|rest| rest.starts_with(b"/"))
        };
        while self.moved.pop_if(|moved| !inside(moved)).is_some() {}
        let own = match self.moved.last() {
            None => Some(path.to_vec()),
            Some((_, None)) => None,
            Some((directory, Some(origin))) => {
                let rest = path.get(directory.len()..).unwrap_or_default();
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                Some(join(origin, rest))
            }
        };
        let origin = match &marks.redirect {
            _ if marks.opaque || marks.whiteout => None,
            None => return Ok(own),
            Some(value) if !is_redirect(value) => {
                let what = "its trusted.overlay.redirect is neither a name nor a path from the root: overlayfs \
                            refuses it";
                return Err(Error::new("merge", shown(path), what));
            }
            Some(value) => match (value.strip_prefix(b"/"), own) {
                (Some(absolute), _) => Some(absolute.to_vec()),
                (None, own) => own.map(|own| {
                    let slash = own.iter().rposition(|byte| *byte == b'/');
                    join(own.get(..slash.unwrap_or(0)).unwrap_or_default(), value)
                }),
            },
        };
        self.moved.push((path.to_vec(), origin.clone()));
        Ok(origin)
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

/// Whether overlayfs accepts the value of a redirect: a name, or a path from the root
/// (ovl_get_redirect_xattr).
fn is_redirect(value: &[u8]) -> bool {
    let names = value.strip_prefix(b"/").unwrap_or(value);
    let good = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    names.split(|byte| *byte == b'/').all(good)
        && (value.starts_with(b"/") || !value.contains(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_a_name_or_a_path_from_the_root() {
        for (value, good) in [
            (&b"name"[..], true),
            (b"/name", true),
            (b"/a/b", true),
            (b"a/b", false),
            (b"", false),
            (b"/", false),
            (b"/a//b", false),
            (b"/a/", false),
            (b"/a/../b", false),
            (b"..", false),
            (b"a\0b", false),
        ] {
            assert_eq!(is_redirect(value), good, "{value:?}");
        }
    }

    #[test]
    fn a_path_leads_to_the_lower_layers_through_the_directories_around_it() {
        let mut origins = Origins::default();
        let mut of = |path: &str, opaque: bool, redirect: Option<&str>| {
            let marks = Marks {
                opaque,
                redirect: redirect.map(|value| value.as_bytes().to_vec()),
                ..Marks::default()
            };
            let origin = origins.of(path.as_bytes(), &marks).unwrap();
            origin.map_or("-".into(), |origin| String::from_utf8(origin).unwrap())
        };
        let lines = [
            ("", false, None, ""),
            ("a", false, Some("old"), "old"),
            ("a/b", false, None, "old/b"),
            ("a/c", false, Some("/x/y"), "x/y"),
            ("a/c/d", false, Some("e"), "x/y/e"),
            ("a/c/d/f", false, None, "x/y/e/f"),
            ("a/g", true, None, "-"),
            ("a/g/h", false, None, "-"),
            ("a/g/i", false, Some("j"), "-"),
            ("a/g/k", false, Some("/l"), "l"),
            ("a/m", false, None, "old/m"),
            ("ab", false, None, "ab"),
        ];
        for (path, opaque, redirect, expected) in lines {
            assert_eq!(of(path, opaque, redirect), expected, "{path}");
        }
    }
}
