//! Images for the tests, byte by byte.
#![allow(dead_code, reason = "each test binary uses some of it")]

pub mod disk;
// It needs the /init that cargo builds for tests; tests/differential, a program, does not.
#[cfg(test)]
pub mod guest;

use layerinit::format::cpio::{Header, padding};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// mkfs.erofs of Debian 13. Finding its path runs apt, so all tests share the result.
pub static NEWER_MKFS: LazyLock<PathBuf> = LazyLock::new(|| mkfs_erofs("newer_mkfs_erofs"));
/// mkfs.erofs of Debian unstable.
pub static NEWEST_MKFS: LazyLock<PathBuf> = LazyLock::new(|| mkfs_erofs("newest_mkfs_erofs"));

/// Copies a program so that it can be run. cp(1) does it, because a file that this process writes may still
/// be open in a child that another test is starting, and then cannot be run (ETXTBSY).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut cp = Command::new("cp");
    let status = cp.arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(status.expect("cp runs").success(), "{cp:?}");
}

/// mkfs.erofs of a Debian suite, from a function of qemu/lib.sh. fsck.erofs is in the same directory.
fn mkfs_erofs(function: &str) -> PathBuf {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/lib.sh");
    let script = format!(". '{}' && {function}", lib.display());
    let output = Command::new("bash").args(["-c", &script]).output();
    let output = output.expect("bash runs");
    let path = String::from_utf8(output.stdout).expect("a path");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test needs {function}: {text}"
    );
    PathBuf::from(path.trim())
}

/// A member of a literal archive.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub header: Header,
    pub body: &'a [u8],
}

/// A member of root's, as tools write it. `mode` includes the file type.
pub fn entry<'a>(name: &'a str, mode: u32, body: &'a [u8]) -> Entry<'a> {
    Entry {
        name: name.as_bytes(),
        header: Header {
            mode,
            nlink: 1,
            ..Header::default()
        },
        body,
    }
}

pub fn dir(name: &str) -> Entry<'_> {
    entry(name, 0o040755, b"")
}

pub fn file<'a>(name: &'a str, body: &'a [u8]) -> Entry<'a> {
    entry(name, 0o100644, body)
}

pub fn program(name: &str) -> Entry<'_> {
    entry(name, 0o100755, b"\x7fELF")
}

/// As much of layerinit's `/init` as the tool reads: an ELF program for no machine, with the note by which
/// the tool recognises it.
pub const OWN_INIT: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\
    \x02\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\
    \x04\0\0\0\x04\0\0\0\x78\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x20\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\
    \x0a\0\0\0\x08\0\0\0\x01\0\0\0layerinit\0\0\x000.1.0\0\0\0";

pub fn own_init(name: &str) -> Entry<'_> {
    entry(name, 0o100_755, OWN_INIT)
}

/// The same for a machine, by its e_machine.
pub fn init_for(machine: u16) -> Vec<u8> {
    let mut init = OWN_INIT.to_vec();
    init[18..20].copy_from_slice(&machine.to_le_bytes());
    init
}

/// The archive of these members, with its trailer.
pub fn cpio(entries: &[Entry]) -> Vec<u8> {
    let mut archive = cpio_without_trailer(entries);
    member(&mut archive, &entry("TRAILER!!!", 0, b""));
    archive
}

pub fn cpio_without_trailer(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        member(&mut archive, entry);
    }
    archive
}

fn member(archive: &mut Vec<u8>, entry: &Entry) {
    let header = Header {
        filesize: entry.body.len() as u32,
        namesize: entry.name.len() as u32 + 1,
        ..entry.header
    };
    archive.extend_from_slice(header.encode().as_bytes());
    archive.extend_from_slice(entry.name);
    archive.push(0);
    pad(archive, 4);
    archive.extend_from_slice(entry.body);
    pad(archive, 4);
}

/// The output of GRUB 2.06 for `newc:etc/motd:FILE`, where FILE holds "hello\n", including the padding after
/// the body and the trailer. Names have no NUL, and their lengths do not count one.
pub const GRUB_2_06: &[u8] = b"\
070701\
00000000000041ff000000000000000000000001\
0000000000000000000000000000000000000000\
000000000000000300000000\
etc\0\0\0\
070701\
00000000000081ff000000000000000000000001\
0000000000000006000000000000000000000000\
000000000000000800000000\
etc/motd\0\0hello\n\0\0\
070701\
0000000000000000000000000000000000000001\
0000000000000000000000000000000000000000\
000000000000000a00000000\
TRAILER!!!";

/// Appends zeros up to a multiple of `align`.
pub fn pad(bytes: &mut Vec<u8>, align: usize) {
    bytes.resize(bytes.len().next_multiple_of(align), 0);
}

/// An EROFS image of `blocks` blocks of 4096 bytes, with only a superblock.
pub fn erofs(blocks: u32, label: &str) -> Vec<u8> {
    let mut image = vec![0; 4096 * blocks as usize];
    image[1024..1028].copy_from_slice(&layerinit::format::erofs::MAGIC);
    image[1036] = 12;
    image[1060..1064].copy_from_slice(&blocks.to_le_bytes());
    image[1088..1088 + label.len()].copy_from_slice(label.as_bytes());
    image
}

/// The pieces, joined.
pub fn join(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.concat()
}

/// The bootconfig trailer of Documentation/admin-guide/bootconfig.rst.
pub fn bootconfig(text: &[u8]) -> Vec<u8> {
    let mut trailer = text.to_vec();
    trailer.resize(text.len() + padding(text.len() as u64) as usize, 0);
    let sum: u32 = trailer.iter().map(|byte| u32::from(*byte)).sum();
    let length = trailer.len() as u32;
    trailer.extend_from_slice(&length.to_le_bytes());
    trailer.extend_from_slice(&sum.to_le_bytes());
    trailer.extend_from_slice(b"#BOOTCONFIG\n");
    trailer
}
