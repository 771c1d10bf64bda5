//! The allowed content of an archive that the list does not fix.

use std::collections::BTreeSet;
use std::io::Read;

use crate::bytes::ReadAt;
use crate::format::compress::Codec;
use crate::format::cpio::{Member, Next};
use crate::initrd::open_archive;
use crate::text::shown;

/// The paths that `/init` uses in the rootfs, as in an archive: only the loader may put files there.
const LOADER: [&str; 10] = [
    "init",
    "etc/layerinit",
    "layers",
    "lib/modules",
    "usr/lib/modules",
    "etc/modprobe.d",
    "run/modprobe.d",
    "lib/modprobe.d",
    "usr/lib/modprobe.d",
    "usr/local/lib/modprobe.d",
];

/// Calls `refuse` for each member of an archive. Fails with the first answer.
fn each(
    file: &dyn ReadAt,
    offset: u64,
    length: u64,
    codec: Option<Codec>,
    mut refuse: impl FnMut(&Member, &str) -> Option<String>,
) -> std::result::Result<(), String> {
    let archive = open_archive(file, offset, length, codec);
    let mut archive = archive.map_err(|error| error.to_string())?;
    loop {
        match archive.next_member().map_err(|error| error.to_string())? {
            Next::Member(member) => {
                let path = member.path();
                let path = std::str::from_utf8(&path)
                    .map_err(|_| format!("{} is not UTF-8", shown(&path)))?;
                if let Some(what) = refuse(&member, path) {
                    return Err(format!("{} {what}", shown(&member.name)));
                }
            }
            Next::Trailer => {}
            Next::End => return Ok(()),
        }
    }
}

/// Whether `path` is `directory` or below it. Neither has a leading slash.
fn is_in(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks that an archive holds nothing but regular files below `directory`, and their parent directories;
/// else says why not.
///
/// Set-user-ID and set-group-ID files, whiteouts and opaque directories are refused, and parent directories
/// that do not belong to root or that others may write to: the archive may only change the mode of
/// directories below `directory`.
pub fn is_below(
    file: &dyn ReadAt,
    offset: u64,
    length: u64,
    codec: Option<Codec>,
    directory: &str,
) -> std::result::Result<(), String> {
    let inside = directory.trim_start_matches('/');
    each(file, offset, length, codec, |member, path| {
        let header = &member.header;
        let outside = || Some(format!("is not below {directory}"));
        let name = path.rsplit('/').next().unwrap_or_default();
        match header.file_type() {
            _ if path.split('/').any(|name| name == "..") => outside(),
            libc::S_IFDIR if is_in(path, inside) => None,
            libc::S_IFDIR if path.is_empty() || is_in(inside, path) => {
                let safe = header.mode & 0o7022 == 0 && header.uid == 0 && header.gid == 0;
                (!safe).then(|| "is a directory that others than root may write to".into())
            }
            libc::S_IFREG if name.starts_with(".wh.") => Some("hides files of lower layers".into()),
            libc::S_IFREG if header.mode & 0o6000 != 0 => {
                Some("is a set-user-ID or set-group-ID file".into())
            }
            libc::S_IFREG if is_in(path, inside) && path != inside => None,
            libc::S_IFREG | libc::S_IFDIR => outside(),
            _ => Some("is not a regular file".into()),
        }
    })
}

/// Checks that an archive that is unpacked into the rootfs changes nothing that `/init` uses; else says what
/// it changes. `links` are the symbolic links of earlier archives; those of this one are added. A path
/// through a link is refused, wherever it leads.
pub fn changes_loader(
    file: &dyn ReadAt,
    offset: u64,
    length: u64,
    codec: Option<Codec>,
    links: &mut BTreeSet<String>,
) -> std::result::Result<(), String> {
    each(file, offset, length, codec, |member, path| {
        let is_directory = member.header.file_type() == libc::S_IFDIR;
        if path.split('/').any(|name| name == "..") {
            return Some("leads out of its directory".into());
        }
        let mut used = LOADER.iter();
        if !is_directory && used.any(|used| is_in(path, used) || is_in(used, path)) {
            return Some("is where /init reads its own files".into());
        }
        if links.iter().any(|link| is_in(path, link) && path != link) {
            return Some("is behind a symbolic link".into());
        }
        if member.header.file_type() == libc::S_IFLNK {
            links.insert(path.into());
        }
        None
    })
}

/// A list and its signature.
#[derive(Clone, Debug)]
pub struct SignedList {
    /// The bytes of the list.
    pub list: Vec<u8>,
    /// The signature, as minisign writes it.
    pub signature: Vec<u8>,
}

/// The longest list or signature that is read, in bytes: enough for 500 lines.
pub const LIST_MAX: u64 = 1 << 20;

/// The list and the signature in an archive that holds nothing else except directories.
pub fn signed_list(
    file: &dyn ReadAt,
    offset: u64,
    length: u64,
    codec: Option<Codec>,
) -> Option<SignedList> {
    let mut archive = open_archive(file, offset, length, codec).ok()?;
    let (mut list, mut signature) = (None, None);
    loop {
        let member = match archive.next_member().ok()? {
            Next::Member(member) => member,
            Next::Trailer => continue,
            Next::End => break,
        };
        let path = [b"/", &member.path()[..]].concat();
        let place = match member.header.file_type() {
            libc::S_IFDIR => continue,
            libc::S_IFREG if path == super::list::PATH.as_bytes() => &mut list,
            libc::S_IFREG if path == super::signature::PATH.as_bytes() => &mut signature,
            _ => return None,
        };
        let mut bytes = Vec::new();
        (&mut archive).take(LIST_MAX).read_to_end(&mut bytes).ok()?;
        *place = Some(bytes);
    }
    Some(SignedList {
        list: list?,
        signature: signature?,
    })
}

/// The directory that holds all regular files of an archive, as an absolute path; `None` if it has none, or cannot be
/// read.
pub fn directory(
    file: &dyn ReadAt,
    offset: u64,
    length: u64,
    codec: Option<Codec>,
) -> Option<String> {
    let mut common: Option<String> = None;
    let read = each(file, offset, length, codec, |member, path| {
        if member.header.file_type() == libc::S_IFREG {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let mut shared = common.take().unwrap_or_else(|| parent.into());
            while !shared.is_empty() && !is_in(parent, &shared) {
                let end = shared.rfind('/').unwrap_or(0);
                shared.truncate(end);
            }
            common = Some(shared);
        }
        None
    });
    read.ok()?;
    common.map(|path| format!("/{path}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::format::cpio::{Header, padding};

    /// An archive of members: name and mode.
    fn archive(members: &[(&str, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, mode) in members.iter().chain([&("TRAILER!!!", 0)]) {
            let header = Header {
                mode: *mode,
                namesize: name.len() as u32 + 1,
                ..Header::default()
            };
            bytes.extend(header.encode().as_bytes());
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.resize(bytes.len() + padding(bytes.len() as u64) as usize, 0);
        }
        bytes
    }

    fn said(result: std::result::Result<(), String>) -> String {
        result.err().unwrap_or_else(|| "good".into())
    }

    #[test]
    fn an_archive_that_may_vary_holds_files_of_one_directory() {
        const FILE: u32 = 0o100_644;
        const DIR: u32 = 0o040_755;
        for (members, expected) in [
            (&[("run/creds/a", FILE)][..], "good"),
            (
                &[
                    (".", DIR),
                    ("run", DIR),
                    ("run/creds", 0o042_777),
                    ("./run/creds/b/c", 0o100_777),
                ],
                "good",
            ),
            (&[], "good"),
            (
                &[("run/creds/a", FILE), ("etc/passwd", FILE)],
                "etc/passwd is not below /run/creds",
            ),
            (&[("run/creds", FILE)], "run/creds is not below /run/creds"),
            (
                &[("run/credsx", FILE)],
                "run/credsx is not below /run/creds",
            ),
            (
                &[("run/creds/../../etc/passwd", FILE)],
                "run/creds/../../etc/passwd is not below /run/creds",
            ),
            (
                &[("run/creds/link", 0o120_777)],
                "run/creds/link is not a regular file",
            ),
            (
                &[("run/creds/null", 0o020_666)],
                "run/creds/null is not a regular file",
            ),
            (
                &[("run/creds/.wh..wh..opq", FILE)],
                "run/creds/.wh..wh..opq hides files of lower layers",
            ),
            (
                &[("run/creds/su", 0o104_755)],
                "run/creds/su is a set-user-ID or set-group-ID file",
            ),
            (
                &[("run", 0o040_777)],
                "run is a directory that others than root may write to",
            ),
            (&[("usr", DIR)], "usr is not below /run/creds"),
        ] {
            let bytes = archive(members);
            let file = &bytes.as_slice();
            let result = is_below(file, 0, bytes.len() as u64, None, "/run/creds");
            assert_eq!(said(result), expected, "{members:?}");
        }
    }

    #[test]
    fn an_archive_changes_the_loader_if_it_writes_where_init_reads() {
        for (members, expected) in [
            (
                &[
                    ("bin", 0o040_755),
                    ("bin/sh", 0o100_755),
                    ("lib", 0o040_755),
                ][..],
                "good",
            ),
            (
                &[("init", 0o100_755)],
                "init is where /init reads its own files",
            ),
            (
                &[("/etc/layerinit/policy", 0o100_644)],
                "/etc/layerinit/policy is where /init reads its own files",
            ),
            (
                &[("etc", 0o120_777)],
                "etc is where /init reads its own files",
            ),
            (
                &[("layers/x", 0o120_777)],
                "layers/x is where /init reads its own files",
            ),
            (
                &[("lib/modules/6.12/x.ko", 0o100_644)],
                "lib/modules/6.12/x.ko is where /init reads its own files",
            ),
            (
                &[("a", 0o120_777), ("a/x", 0o100_644)],
                "a/x is behind a symbolic link",
            ),
            (
                &[("a/../init", 0o100_644)],
                "a/../init leads out of its directory",
            ),
        ] {
            let bytes = archive(members);
            let file = &bytes.as_slice();
            let result = changes_loader(file, 0, bytes.len() as u64, None, &mut BTreeSet::new());
            assert_eq!(said(result), expected, "{members:?}");
        }
        // The link of an earlier archive.
        let links = &mut BTreeSet::from(["a".into()]);
        let bytes = archive(&[("a/x", 0o100_644)]);
        let result = changes_loader(&bytes.as_slice(), 0, bytes.len() as u64, None, links);
        assert_eq!(said(result), "a/x is behind a symbolic link");
    }

    #[test]
    fn the_directory_of_an_archive_holds_all_its_files() {
        for (members, expected) in [
            (&["a/b/c", "a/b/d/e"][..], Some("/a/b")),
            (&["a/b/c", "a/bc"], Some("/a")),
            (&["a/b", "c/d"], Some("/")),
            (&[], None),
        ] {
            let members: Vec<_> = members.iter().map(|name| (*name, 0o100_644)).collect();
            let bytes = archive(&members);
            let found = directory(&bytes.as_slice(), 0, bytes.len() as u64, None);
            assert_eq!(found.as_deref(), expected);
        }
    }
}
