//! The list of layers: `/etc/layerinit/layers.sha256`, in the format of sha256sum(1).
//!
//! A line for each layer, the lowest first: 64 hexadecimal digits, two blanks (or a blank and `*`), a name
//! that is only for messages. In place of the digits of a file on a disk, `sha256:` and 64 digits are its
//! fs-verity digest, as fsverity(1) prints it, also with one blank; `verity:` and 64 digits are the root hash
//! of the dm-verity hash tree after the image. `vary:/DIRECTORY` stands for archives that are not known
//! beforehand; they hold regular files below that directory only. Empty lines and lines that begin with `#`
//! are comments.

use std::fmt;

use super::digest::Digest;
use crate::error::{Error, Result};
use crate::format::cpio::normalized;
use crate::plan::loader_files;
use crate::text::shown;

/// The path of the list in the initramfs.
pub const PATH: &str = loader_files::LIST;

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// What the layer must be.
    pub expected: Expected,
    /// Its name, for messages.
    pub name: String,
}

/// What a layer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Bytes with this digest.
    Sha256(Digest),
    /// A file on a disk with this digest of fs-verity.
    FsVerity(Digest),
    /// An image on a disk, in front of a dm-verity hash tree with this root hash.
    Verity(Digest),
    /// Any number of archives of regular files below this directory: an absolute path, not `/`.
    Vary(String),
}

/// Parses a list.
///
/// # Errors
/// A line is wrong. The error names the first one; none is skipped, because its meaning is unknown.
pub fn parse(text: &[u8]) -> Result<Vec<ListEntry>> {
    let mut entries = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii_end();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let number = index.saturating_add(1);
        entries.push(
            entry(line).map_err(|what| Error::new("read", format_args!("line {number}"), what))?,
        );
    }
    Ok(entries)
}

fn entry(line: &[u8]) -> std::result::Result<ListEntry, &'static str> {
    const WRONG: &str = "not `DIGEST  NAME`, as sha256sum writes it";
    let blank = line.iter().position(|byte| *byte == b' ').ok_or(WRONG)?;
    let (first, rest) = line.split_at_checked(blank).ok_or(WRONG)?;
    let fs_verity = first.strip_prefix(b"sha256:");
    let one_blank = fs_verity.and(rest.strip_prefix(b" "));
    let name = rest
        .strip_prefix(b"  ")
        .or_else(|| rest.strip_prefix(b" *"))
        .or(one_blank)
        .ok_or(WRONG)?;
    // sha256sum escapes names with a newline or a backslash, and says so.
    let first = first.strip_prefix(b"\\").unwrap_or(first);
    let expected = match first.strip_prefix(b"vary:") {
        Some(path) => {
            let path = std::str::from_utf8(path).map_err(|_| "a directory that is not UTF-8")?;
            Expected::Vary(directory(path)?)
        }
        None => {
            let verity = first.strip_prefix(b"verity:");
            let digits = fs_verity.or(verity).unwrap_or(first);
            let digest = Digest::parse(digits).ok_or("the digest has not 64 hexadecimal digits")?;
            match (fs_verity, verity) {
                (Some(_), _) => Expected::FsVerity(digest),
                (None, Some(_)) => Expected::Verity(digest),
                (None, None) => Expected::Sha256(digest),
            }
        }
    };
    let name = shown(name);
    Ok(ListEntry { expected, name })
}

/// Checks the directory of an archive that may vary: an absolute path other than `/`, without `..`. Returns it without
/// empty and `.` components.
pub fn directory(path: &str) -> std::result::Result<String, &'static str> {
    let absolute = path.starts_with('/');
    let path = String::from_utf8(normalized(path.as_bytes())).unwrap_or_default();
    if !absolute || path.is_empty() || path.split('/').any(|name| name == "..") {
        return Err("an archive that may vary needs a directory: an absolute path, not /");
    }
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("the directory of an archive that may vary has white space in its name");
    }
    Ok(format!("/{path}"))
}

impl fmt::Display for ListEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.expected {
            Expected::Sha256(digest) => write!(f, "{digest}  {}", self.name),
            Expected::FsVerity(digest) => write!(f, "sha256:{digest}  {}", self.name),
            Expected::Verity(digest) => write!(f, "verity:{digest}  {}", self.name),
            Expected::Vary(directory) => write!(f, "vary:{directory}  {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_list_is_what_sha256sum_writes() {
        let text = format!(
            "# the layers\n\n{ABC}  10-base.erofs\r\n\\{ABC}  a\\nb\n{} *b c\nvary:/run//credentials/  creds\n\
             sha256:{ABC} d\nsha256:{ABC}  e\nverity:{ABC}  f",
            ABC.to_uppercase()
        );
        let entries = parse(text.as_bytes()).unwrap();
        let lines: Vec<_> = entries.iter().map(ListEntry::to_string).collect();
        assert_eq!(
            lines,
            [
                format!("{ABC}  10-base.erofs"),
                format!("{ABC}  a\\\\nb"),
                format!("{ABC}  b c"),
                "vary:/run/credentials  creds".into(),
                format!("sha256:{ABC}  d"),
                format!("sha256:{ABC}  e"),
                format!("verity:{ABC}  f"),
            ]
        );
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn a_wrong_line_is_an_error() {
        for (line, what) in [
            (
                ABC.to_string(),
                "not `DIGEST  NAME`, as sha256sum writes it",
            ),
            (
                format!("{ABC} x"),
                "not `DIGEST  NAME`, as sha256sum writes it",
            ),
            (
                format!("{}  x", &ABC[2..]),
                "the digest has not 64 hexadecimal digits",
            ),
            (
                format!("sha512:{ABC}  x"),
                "the digest has not 64 hexadecimal digits",
            ),
            (
                format!("verity:{ABC} x"),
                "not `DIGEST  NAME`, as sha256sum writes it",
            ),
            (
                "verity:00  x".into(),
                "the digest has not 64 hexadecimal digits",
            ),
            (
                "vary:  x".into(),
                "an archive that may vary needs a directory: an absolute path, not /",
            ),
            (
                "vary:/  x".into(),
                "an archive that may vary needs a directory: an absolute path, not /",
            ),
            (
                "vary:/run/../etc  x".into(),
                "an archive that may vary needs a directory: an absolute path, not /",
            ),
            (
                "vary:run  x".into(),
                "an archive that may vary needs a directory: an absolute path, not /",
            ),
        ] {
            let text = format!("{ABC}  good\n{line}\n");
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("read line 2: {what}"), "{line}");
        }
    }
}
