//! Parser of spec files for gen_init_cpio. Pure.
//!
//! Source: usr/gen_init_cpio.c of Linux 7.2, whose program reads
//!
//! ```text
//! # a comment
//! file  <name> <location> <mode> <uid> <gid> [<hard links>]
//! dir   <name> <mode> <uid> <gid>
//! nod   <name> <mode> <uid> <gid> <b|c> <major> <minor>
//! slink <name> <target> <mode> <uid> <gid>
//! pipe  <name> <mode> <uid> <gid>
//! sock  <name> <mode> <uid> <gid>
//! ```
//!
//! with `${VAR}` expanded in `location` only. Specs have the same meaning here. Lines that gen_init_cpio drops, with
//! or without a message, are errors here: an unknown type, a type without fields, words after the last field, a device
//! type other than `b` and `c`, a mode with another file type, and names that end an archive or that the kernel skips.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::format::cpio::{PATH_MAX, TRAILER};

/// One line of a spec: a member, or several that are hard links of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecEntry {
    /// Name in the archive: without one leading slash.
    pub name: Vec<u8>,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Modification time in seconds since 1970; `None`: the one of the archive.
    pub mtime: Option<u32>,
    /// The data that depends on the file type.
    pub body: Body,
    /// Its origin for messages: `FILE line N`.
    pub origin: String,
}

impl SpecEntry {
    /// An entry that belongs to root, with the modification time of the archive.
    pub fn of_root(
        name: impl Into<Vec<u8>>,
        mode: u32,
        body: Body,
        origin: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            mode,
            uid: 0,
            gid: 0,
            mtime: None,
            body,
            origin: origin.into(),
        }
    }
}

/// The data of an entry, by file type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A regular file: content, and further names (hard links).
    File(FileContent, Vec<Vec<u8>>),
    /// A symbolic link: target.
    Link(Vec<u8>),
    /// A device: major and minor number.
    Device(u32, u32),
    /// A directory, pipe or socket: none.
    Empty,
}

/// The content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// The path of a file on this machine.
    Location(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;

/// Parses a spec. `file` is its name in messages.
///
/// # Errors
/// The first wrong line.
pub fn parse(text: &[u8], file: &str, environment: Environment) -> Result<Vec<SpecEntry>> {
    let mut entries = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let origin = || format!("{file} line {}", index.saturating_add(1));
        match entry(line, environment) {
            Ok(Some((name, mode, uid, gid, body))) => entries.push(SpecEntry {
                name,
                mode,
                uid,
                gid,
                mtime: None,
                body,
                origin: origin(),
            }),
            Ok(None) => {}
            Err(what) => return Err(Error::new("read", origin(), what)),
        }
    }
    Ok(entries)
}

/// Name, mode, user ID, group ID and data of an entry.
type Fields = (Vec<u8>, u32, u32, u32, Body);

/// Parses one line: a comment or blank line is `None`. The error is a sentence without the line number.
fn entry(line: &[u8], environment: Environment) -> std::result::Result<Option<Fields>, String> {
    if line.first() == Some(&b'#') {
        return Ok(None);
    }
    if line.contains(&0) {
        return Err("a NUL byte".into());
    }
    let mut words = SpecWords(line);
    let Some(kind) = words.next() else {
        return Ok(None);
    };
    if !line.starts_with(kind) {
        return Err(
            "white space before the first word, which gen_init_cpio does not accept".into(),
        );
    }
    let (mut file_type, syntax) = syntax(kind)?;
    let mut field = |what: &str| {
        let missing = || format!("no {what}; the line is {syntax}");
        words.next().ok_or_else(missing)
    };
    let name = member_name(field("name")?)?;
    let operand = match kind {
        b"file" => field("location")?,
        b"slink" => field("target")?,
        _ => b"",
    };
    let mode = octal(field("mode")?)?;
    let uid = id(field("uid")?)?;
    let gid = id(field("gid")?)?;
    let body = match kind {
        b"file" => {
            let location = expand(operand, environment)?;
            let links = words
                .by_ref()
                .map(member_name)
                .collect::<std::result::Result<_, _>>()?;
            let location = PathBuf::from(OsString::from_vec(location));
            Body::File(FileContent::Location(location), links)
        }
        b"slink" if operand.len() as u64 >= u64::from(PATH_MAX) => {
            return Err(format!(
                "a target of more than {} bytes, which the kernel skips",
                PATH_MAX - 1
            ));
        }
        b"slink" => Body::Link(operand.to_vec()),
        b"nod" => {
            match field("device type")? {
                b"b" => file_type = libc::S_IFBLK,
                b"c" => {}
                other => {
                    let other = String::from_utf8_lossy(other);
                    return Err(format!("device type {other:?} is neither b nor c"));
                }
            }
            let major = device(field("major number")?)?;
            Body::Device(major, device(field("minor number")?)?)
        }
        _ => Body::Empty,
    };
    if let Some(word) = words.next() {
        let word = String::from_utf8_lossy(word);
        return Err(format!(
            "{word:?} is one word too many; the line is {syntax}"
        ));
    }
    if (mode | file_type) & libc::S_IFMT != file_type {
        return Err(format!("mode {mode:o} has another file type"));
    }
    Ok(Some((name, mode | file_type, uid, gid, body)))
}

/// The file type of an entry, and the syntax of its line, from the first word.
fn syntax(kind: &[u8]) -> std::result::Result<(u32, &'static str), String> {
    Ok(match kind {
        b"file" => (
            libc::S_IFREG,
            "file NAME LOCATION MODE UID GID [HARD LINKS]",
        ),
        b"dir" => (libc::S_IFDIR, "dir NAME MODE UID GID"),
        b"nod" => (libc::S_IFCHR, "nod NAME MODE UID GID b|c MAJOR MINOR"),
        b"slink" => (libc::S_IFLNK, "slink NAME TARGET MODE UID GID"),
        b"pipe" => (libc::S_IFIFO, "pipe NAME MODE UID GID"),
        b"sock" => (libc::S_IFSOCK, "sock NAME MODE UID GID"),
        _ => {
            let kind = String::from_utf8_lossy(kind);
            return Err(format!(
                "{kind:?} is not one of file, dir, nod, slink, pipe, sock"
            ));
        }
    })
}

/// A name in the archive: without one leading slash.
fn member_name(name: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let name = name.strip_prefix(b"/").unwrap_or(name);
    if name.len() as u64 >= u64::from(PATH_MAX) {
        return Err(format!(
            "a name of more than {} bytes, which the kernel skips",
            PATH_MAX - 1
        ));
    }
    if name == TRAILER {
        return Err("this name ends an archive".into());
    }
    Ok(name.to_vec())
}

fn octal(word: &[u8]) -> std::result::Result<u32, String> {
    let digits = std::str::from_utf8(word).unwrap_or_default();
    match u32::from_str_radix(digits, 8) {
        Ok(mode) => Ok(mode),
        Err(_) => Err(format!(
            "mode {:?} is not an octal number",
            String::from_utf8_lossy(word)
        )),
    }
}

/// A user or group ID. gen_init_cpio reads signed numbers, so that -1 is the highest ID.
fn id(word: &[u8]) -> std::result::Result<u32, String> {
    let number: Option<i64> = std::str::from_utf8(word)
        .ok()
        .and_then(|word| word.parse().ok());
    number
        .and_then(|id| {
            u32::try_from(id)
                .ok()
                .or_else(|| i32::try_from(id).ok().map(i32::cast_unsigned))
        })
        .ok_or_else(|| {
            format!(
                "{:?} is not a user or group ID",
                String::from_utf8_lossy(word)
            )
        })
}

fn device(word: &[u8]) -> std::result::Result<u32, String> {
    let number = std::str::from_utf8(word)
        .ok()
        .and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("{:?} is not a device number", String::from_utf8_lossy(word)))
}

/// Replaces each `${VAR}` by its value, and starts again at the beginning after each, as the original does: a value may
/// hold another `${VAR}`. An unset variable is empty.
fn expand(location: &[u8], environment: Environment) -> std::result::Result<Vec<u8>, String> {
    /// The limit ends the expansion of a variable that contains itself.
    const ROUNDS: usize = 100;
    let mut location = location.to_vec();
    let mut unset = None;
    for _ in 0..ROUNDS {
        let Some((before, name, after)) = variable(&location) else {
            if let (true, Some(name)) = (location.is_empty(), unset) {
                return Err(format!("the location is empty: ${{{name}}} is not set"));
            }
            return match location.len() as u64 > u64::from(PATH_MAX) {
                true => Err(format!("a location of more than {PATH_MAX} bytes")),
                false => Ok(location),
            };
        };
        let value = environment(name).unwrap_or_else(|| {
            unset.get_or_insert_with(|| String::from_utf8_lossy(name).into_owned());
            Vec::new()
        });
        location = [before, value.as_slice(), after].concat();
        if location.len() > 1 << 20 {
            break;
        }
    }
    Err("the variables in the location expand endlessly".into())
}

/// Splits a text at its first `${NAME}`.
fn variable(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let start = text.windows(2).position(|two| two == b"${")?;
    let (before, rest) = text.split_at_checked(start)?;
    let rest = rest.strip_prefix(b"${")?;
    let end = rest.iter().position(|byte| *byte == b'}')?;
    let (name, after) = rest.split_at_checked(end)?;
    Some((before, name, after.strip_prefix(b"}")?))
}

/// Words separated by white space as of isspace(3).
struct SpecWords<'a>(&'a [u8]);

impl<'a> Iterator for SpecWords<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        let start = self.0.iter().position(|byte| !space(byte))?;
        let (_, text) = self.0.split_at_checked(start)?;
        let end = text.iter().position(space).unwrap_or(text.len());
        let (word, rest) = text.split_at_checked(end)?;
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &[u8]) -> Option<Vec<u8>> {
        match name {
            b"INIT" => Some(b"/bin/true".to_vec()),
            b"NESTED" => Some(b"${INIT}.d".to_vec()),
            b"LOOP" => Some(b"x${LOOP}".to_vec()),
            b"BOMB" => Some(b"${BOMB}${BOMB}".to_vec()),
            _ => None,
        }
    }

    fn one(line: &str) -> SpecEntry {
        let mut entries = parse(line.as_bytes(), "spec", &environment).unwrap();
        assert_eq!(entries.len(), 1, "{line:?}");
        entries.remove(0)
    }

    fn error(text: &str) -> String {
        parse(text.as_bytes(), "spec", &environment)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_type_of_line() {
        let entry = |name: &str, mode, body| SpecEntry {
            name: name.into(),
            mode,
            uid: 1,
            gid: 2,
            body,
            mtime: None,
            origin: "spec line 1".into(),
        };
        let file = |location: &str, links: &[&str]| {
            let links = links.iter().map(|link| link.as_bytes().to_vec()).collect();
            Body::File(FileContent::Location(location.into()), links)
        };
        for (line, expected) in [
            ("dir /dev 0755 1 2", entry("dev", 0o40755, Body::Empty)),
            ("pipe run/p 600 1 2\r", entry("run/p", 0o10600, Body::Empty)),
            ("sock\t//s 0 1 2 ", entry("/s", 0o140000, Body::Empty)),
            (
                "nod /dev/console 0600 1 2 c 5 1",
                entry("dev/console", 0o20600, Body::Device(5, 1)),
            ),
            (
                "nod /dev/sda 0660 1 2 b 8 0",
                entry("dev/sda", 0o60660, Body::Device(8, 0)),
            ),
            (
                "slink /bin usr/bin 0777 1 2",
                entry("bin", 0o120777, Body::Link(b"usr/bin".into())),
            ),
            (
                "file /init ${INIT} 0755 1 2",
                entry("init", 0o100755, file("/bin/true", &[])),
            ),
            (
                "file a ./${NO}x${NESTED}$ 04755 1 2 /b c",
                entry("a", 0o104755, file("./x/bin/true.d$", &["b", "c"])),
            ),
            (
                "file ${INIT} ${open 0100644 1 2",
                entry("${INIT}", 0o100644, file("${open", &[])),
            ),
        ] {
            assert_eq!(one(line), expected, "{line:?}");
        }
        let ids = one("dir / 0755 -1 4294967294");
        assert_eq!(
            (ids.name.as_slice(), ids.uid, ids.gid),
            (&b""[..], u32::MAX, u32::MAX - 1)
        );
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_and_counted() {
        let text = "# first\n\n \t\n#dir /x\n\r\ndir /y 0755 0 0";
        assert_eq!(one(text).origin, "spec line 6");
        assert_eq!(parse(b"", "spec", &environment).unwrap(), []);
    }

    #[test]
    fn every_bad_line_is_an_error_with_its_number() {
        for (line, expected) in [
            (
                "lnk a b 0777 0 0",
                "\"lnk\" is not one of file, dir, nod, slink, pipe, sock",
            ),
            (
                " dir a 0755 0 0",
                "white space before the first word, which gen_init_cpio does not accept",
            ),
            (
                " # comment",
                "white space before the first word, which gen_init_cpio does not accept",
            ),
            ("dir", "no name; the line is dir NAME MODE UID GID"),
            ("dir a 0755 0", "no gid; the line is dir NAME MODE UID GID"),
            ("dir a 0855 0 0", "mode \"0855\" is not an octal number"),
            ("dir a -1 0 0", "mode \"-1\" is not an octal number"),
            ("dir a 0100755 0 0", "mode 100755 has another file type"),
            ("dir a 0755 root 0", "\"root\" is not a user or group ID"),
            (
                "dir a 0755 0 4294967296",
                "\"4294967296\" is not a user or group ID",
            ),
            (
                "dir a 0755 0 0 # why",
                "\"#\" is one word too many; the line is dir NAME MODE UID GID",
            ),
            (
                "nod a 0644 0 0 u 1 2",
                "device type \"u\" is neither b nor c",
            ),
            (
                "nod a 0644 0 0 c 1",
                "no minor number; the line is nod NAME MODE UID GID b|c MAJOR MINOR",
            ),
            ("nod a 0644 0 0 c 1 -2", "\"-2\" is not a device number"),
            (
                "file a ${NOWHERE} 0644 0 0",
                "the location is empty: ${NOWHERE} is not set",
            ),
            ("dir TRAILER!!! 0755 0 0", "this name ends an archive"),
            ("file a b 0644 0 0 /TRAILER!!!", "this name ends an archive"),
            ("dir a\0 0755 0 0", "a NUL byte"),
            (
                "file a ${LOOP} 0644 0 0",
                "the variables in the location expand endlessly",
            ),
            (
                "file a ${BOMB} 0644 0 0",
                "the variables in the location expand endlessly",
            ),
        ] {
            assert_eq!(
                error(&format!("# 1\n{line}\n")),
                format!("read spec line 2: {expected}")
            );
        }
        let long = "n".repeat(4095);
        assert_eq!(one(&format!("dir /{long} 0755 0 0")).name.len(), 4095);
        assert!(error(&format!("dir n{long} 0755 0 0")).ends_with("which the kernel skips"));
        assert!(error(&format!("slink a n{long} 0755 0 0")).ends_with("which the kernel skips"));
    }
}
