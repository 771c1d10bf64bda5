//! Unpacks archives into a tmpfs, and lists the tmpfs as lines of text.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use layerinit::boot::mount::unpack::{Unpacked, unpack};
use layerinit::bytes::Reader;
use layerinit::format::cpio::{Archive, Header};
use layerinit::sys::process::run_chrooted;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::*;

// ---- a tmpfs ------------------------------------------------------------------------

/// A tmpfs on a directory of its own, which is unmounted on drop.
pub struct Tree {
    pub outside: PathBuf,
    pub root: PathBuf,
}

impl Tree {
    pub fn new(options: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount a tmpfs: run them as root"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("layerinit-unpack-{}-{number}", std::process::id());
        let outside = std::env::temp_dir().join(name);
        let root = outside.join("root");
        fs::create_dir_all(&root).unwrap();
        let options = std::ffi::CString::new(format!("mode=0755,{options}")).unwrap();
        mount(
            "tmpfs",
            &root,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Self { outside, root }
    }

    pub fn unpack(&self, archive: &[u8]) -> Result<Unpacked, String> {
        let work = || unpack(Archive::new(Reader::new(&archive, 0)), None);
        let done = run_chrooted(self.root.to_str().unwrap(), work).unwrap();
        if done.is_ok() {
            keep(archive);
        }
        done.map_err(|error| error.to_string())
    }

    pub fn lines(&self) -> Vec<String> {
        lines(&self.root)
    }
}

/// A line for each entry below `root`.
pub fn lines(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    list(root, root, &mut BTreeMap::new(), &mut lines);
    lines
}

fn list(
    root: &Path,
    directory: &Path,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
    lines: &mut Vec<String>,
) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let path = entry.path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let inside = path.strip_prefix(root).unwrap();
        let kind = stat.file_type();
        let device = || {
            let (major, minor) = (
                rustix::fs::major(stat.rdev()),
                rustix::fs::minor(stat.rdev()),
            );
            format!(" {major}:{minor}")
        };
        let (word, more) = if kind.is_file() {
            let content = fs::read(&path).unwrap();
            ("file", format!(" \"{}\"", content.escape_ascii()))
        } else if kind.is_dir() {
            ("dir", String::new())
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            ("link", format!(" -> {}", target.display()))
        } else if kind.is_char_device() {
            ("char", device())
        } else if kind.is_block_device() {
            ("block", device())
        } else if kind.is_fifo() {
            ("fifo", String::new())
        } else {
            ("sock", String::new())
        };
        let mut line = format!(
            "{word} {:04o} {}:{} @{} {}{more}",
            stat.mode() & 0o7777,
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            inside.display()
        );
        if !kind.is_dir() && stat.nlink() > 1 {
            line += &format!(" {} links", stat.nlink());
            match links.get(&(stat.dev(), stat.ino())) {
                Some(first) => line += &format!(" = {}", first.display()),
                None => {
                    links.insert((stat.dev(), stat.ino()), inside.to_path_buf());
                }
            }
        }
        lines.push(line);
        if kind.is_dir() {
            list(root, &path, links, lines);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = unmount(&self.root, UnmountFlags::DETACH);
        // These directories must be empty, unless the test has failed.
        let _ = fs::remove_dir_all(&self.outside);
    }
}

/// Saves the archive in the directory LAYERINIT_ARCHIVES, where qemu/differential finds it: the kernel must
/// unpack it to the same tree.
pub fn keep(archive: &[u8]) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if let Some(directory) = std::env::var_os("LAYERINIT_ARCHIVES") {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default().replace("::", "-");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        fs::write(
            Path::new(&directory).join(format!("{test}-{number}")),
            archive,
        )
        .unwrap();
    }
}

// ---- members ------------------------------------------------------------------------

pub fn change<'a>(mut entry: Entry<'a>, with: impl FnOnce(&mut Header)) -> Entry<'a> {
    with(&mut entry.header);
    entry
}

/// One of `nlink` links to inode `ino`.
pub fn one_of(nlink: u32, ino: u32, entry: Entry) -> Entry {
    change(entry, |header| (header.nlink, header.ino) = (nlink, ino))
}

pub fn at(mtime: u32, entry: Entry) -> Entry {
    change(entry, |header| header.mtime = mtime)
}

pub fn by(uid: u32, gid: u32, entry: Entry) -> Entry {
    change(entry, |header| (header.uid, header.gid) = (uid, gid))
}

pub fn node(name: &str, mode: u32, major: u32, minor: u32) -> Entry<'_> {
    change(entry(name, mode, b""), |header| {
        (header.rmaj, header.rmin) = (major, minor)
    })
}

pub fn link<'a>(name: &'a str, target: &'a str) -> Entry<'a> {
    entry(name, 0o120777, target.as_bytes())
}

/// With a checksum, as in `070702`.
pub fn summed(sum: u32, entry: Entry) -> Entry {
    change(entry, |header| (header.crc, header.chksum) = (true, sum))
}

/// A member whose name field is exactly these bytes.
pub fn raw(header: Header, name: &[u8], body: &[u8]) -> Vec<u8> {
    let header = Header {
        namesize: name.len() as u32,
        filesize: body.len() as u32,
        ..header
    };
    let mut bytes = header.encode().into_bytes();
    bytes.extend_from_slice(name);
    pad(&mut bytes, 4);
    bytes.extend_from_slice(body);
    pad(&mut bytes, 4);
    bytes
}

pub fn of_mode(mode: u32) -> Header {
    Header {
        mode,
        nlink: 1,
        ..Header::default()
    }
}
