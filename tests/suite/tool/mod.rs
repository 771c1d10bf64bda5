//! The host tool as a program: arguments, exact output, exit status and files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{
    bootconfig, copy_program, cpio, dir, entry, erofs, file, init_for, join, own_init, pad, program,
};
use crate::support::{aligned, elf, erofs_with_init, said, scratch, tool};
use layerinit::bytes::Opened;

mod boot;
mod build;
mod build_as;
mod build_failure;
mod build_host;
mod build_modules;
mod build_output;
mod bundle;
mod container;
mod gen_init_cpio;
pub mod inputs;
mod list;
mod outside;
mod plan;
mod progress;
mod reproducible;
mod usage;

mod verify;

/// Runs the tool with these words.
fn run(directory: &Path, words: &[&str]) -> (String, String, i32) {
    said(&tool(directory).args(words).output().unwrap())
}

/// Runs the tool, expects success, and returns its output.
fn good(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = run(directory, words);
    assert_eq!((stderr.as_str(), status), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// Runs the tool, expects a failure without output, and returns its message.
fn bad(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = run(directory, words);
    assert_eq!((stdout.as_str(), status), ("", 1), "{words:?}: {stderr}");
    stderr
}

/// The names in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Writes an executable script.
fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A directory with everything that a build may use.
fn workshop(name: &str) -> std::path::PathBuf {
    let directory = scratch(name);
    script(&directory.join("init"), "the loader");
    fs::create_dir_all(directory.join("root/etc")).unwrap();
    fs::write(directory.join("root/etc/motd"), "hello\n").unwrap();
    fs::write(directory.join("base.erofs"), erofs(2, "base")).unwrap();
    fs::write(directory.join("late.cpio"), cpio(&[file("x", b"1")])).unwrap();
    directory
}
