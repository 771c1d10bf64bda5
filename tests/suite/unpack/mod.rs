//! Archives unpacked into a tmpfs: each corner case of init/initramfs.c, as literal members and the exact
//! tree that they become. Needs root, for mounts, owners and device nodes.
//!
//! A line of a listing is `type mode owner:group @mtime path`, then the content, `-> target` or major:minor.
//! For a file with several links, their number follows, and then `= NAME` for all except the first.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::*;
use crate::tree::*;
use layerinit::format::cpio::Header;

mod bodies;
mod initramfs_test;
mod links;
mod names;
mod replace;
mod space;
mod types;

/// Unpacks the bytes, and expects this tree, without `dropped` of the members.
#[track_caller]
fn gives_bytes(archive: &[u8], dropped: u64, expected: &[&str]) {
    let tree = Tree::new("");
    let done = tree.unpack(archive).unwrap();
    assert_eq!(tree.lines(), expected);
    assert_eq!(done.dropped, dropped, "members that were not created");
}

#[track_caller]
fn gives(entries: &[Entry], expected: &[&str]) {
    gives_bytes(&cpio(entries), 0, expected);
}

#[track_caller]
fn gives_but(dropped: u64, entries: &[Entry], expected: &[&str]) {
    gives_bytes(&cpio(entries), dropped, expected);
}

/// Unpacks the bytes, and expects this error and this tree.
#[track_caller]
fn fails(archive: &[u8], error: &str, expected: &[&str]) {
    let tree = Tree::new("");
    assert_eq!(tree.unpack(archive).unwrap_err(), error);
    assert_eq!(tree.lines(), expected);
}
