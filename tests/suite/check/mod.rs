//! `layerinit check`, on literal images, with exact findings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::*;
use crate::support::*;

mod archives;
mod binaries;
mod cmdline;
mod erofs;
mod image;
mod in_place;
mod kernel_config;
mod memory;
mod modules;
mod new_root;
mod stack;

/// The output of `check`, and its status.
fn check(directory: &Path, image: &[u8], words: &[&str]) -> (Vec<String>, i32) {
    fs::write(directory.join("image"), image).unwrap();
    let mut command = tool(directory);
    let output = command.args(["check", "image"]).args(words).output();
    let (out, err, status) = said(&output.unwrap());
    assert_eq!(err, "");
    (out.lines().map(String::from).collect(), status)
}

fn init() -> Entry<'static> {
    own_init("init")
}

fn loader() -> Vec<u8> {
    cpio(&[init()])
}

fn x86_loader() -> Vec<u8> {
    cpio(&[entry("init", 0o100_755, &init_for(X86_64))])
}

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// The lowest layer, with a program to start, and directories.
fn base() -> Vec<u8> {
    cpio(&[
        dir("sbin"),
        program("sbin/init"),
        dir("etc"),
        file("etc/name", b"base"),
        dir("usr"),
        dir("usr/lib"),
        file("usr/lib/x", b"x"),
        file("usr/lib/y", b"y"),
        entry("lib", 0o120_777, b"usr/lib"),
    ])
}

fn node(name: &str, major: u32) -> Entry<'_> {
    let mut node = entry(name, 0o020_000, b"");
    node.header.rmaj = major;
    node
}

/// The findings for these archives above the loader and the base.
fn findings(name: &str, archives: &[&[Entry]], words: &[&str]) -> Vec<String> {
    let mut image = join(&[&loader(), &base()]);
    archives
        .iter()
        .for_each(|entries| image.extend(cpio(entries)));
    let (lines, _) = check(&scratch(&format!("check-{name}")), &image, words);
    let told = |line: &String| !line.starts_with("memory: ") && !line.starts_with("image: ");
    lines.into_iter().filter(told).collect()
}

/// An EROFS image of a directory.
fn erofs_of(directory: &Path, tree: &Path, arguments: &[&str]) -> Vec<u8> {
    erofs_by(Path::new("mkfs.erofs"), directory, tree, arguments)
}

fn erofs_by(mkfs: &Path, directory: &Path, tree: &Path, arguments: &[&str]) -> Vec<u8> {
    let image = directory.join("layer.erofs");
    let made = Command::new(mkfs)
        .args(["--quiet", "-T0"])
        .args(arguments)
        .arg(&image)
        .arg(tree)
        .output()
        .unwrap_or_else(|error| panic!("this test needs mkfs.erofs (erofs-utils): {error}"));
    assert!(made.status.success(), "{made:?}");
    let bytes = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    bytes
}

const CONFIG: &str = "\
#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 6.12.1 Kernel Configuration
#
CONFIG_BLK_DEV_INITRD=y
CONFIG_PROC_FS=y
CONFIG_SYSFS=y
CONFIG_TMPFS=y
CONFIG_TMPFS_XATTR=y
CONFIG_DEVTMPFS=y
CONFIG_OVERLAY_FS=y
CONFIG_EROFS_FS=y
CONFIG_EROFS_FS_XATTR=y
CONFIG_BLK_DEV_LOOP=y
CONFIG_BINFMT_ELF=y
CONFIG_BINFMT_SCRIPT=y
# CONFIG_BLK_DEV_RAM is not set
";

/// The same with an `/init` for another machine.
fn modules_for(machine: u16, release: &str, dep: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let top = format!("lib/modules/{release}");
    let mut names = vec!["lib".into(), "lib/modules".into(), top.clone()];
    for name in ["kernel", "kernel/fs", "kernel/fs/erofs"] {
        names.push(format!("{top}/{name}"));
    }
    let index = format!("{top}/modules.dep");
    let paths = files
        .iter()
        .map(|(name, _)| format!("{top}/kernel/fs/erofs/{name}"));
    let paths = Vec::from_iter(paths);
    let program = init_for(machine);
    let mut entries = vec![entry("init", 0o100_755, &program)];
    entries.extend(names.iter().map(|name| dir(name)));
    if !dep.is_empty() {
        entries.push(file(&index, dep.as_bytes()));
    }
    let bodies = files.iter().map(|(_, body)| *body);
    entries.extend(
        paths
            .iter()
            .zip(bodies)
            .map(|(path, body)| file(path, body)),
    );
    cpio(&entries)
}

/// A loader with modules of one kernel: the text of modules.dep, unless empty, and files in kernel/fs/erofs.
fn modules(release: &str, dep: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    modules_for(X86_64, release, dep, files)
}

const DEP: &str = "\
kernel/fs/erofs/erofs.ko: kernel/fs/erofs/libcrc32c.ko
kernel/fs/erofs/libcrc32c.ko:
kernel/fs/erofs/loop.ko:
kernel/fs/erofs/overlay.ko:
kernel/drivers/gpu/large.ko: kernel/drivers/gpu/other.ko
";

const FILES: [(&str, &[u8]); 4] = [
    ("erofs.ko", b"module"),
    ("libcrc32c.ko", b"module"),
    ("loop.ko", b"module"),
    ("overlay.ko", b"module"),
];

/// The errors and warnings for a loader in front of an EROFS image, without those about the image.
fn of_loader(directory: &Path, loader: &[u8], words: &[&str]) -> Vec<String> {
    let mut image = loader.to_vec();
    pad(&mut image, 4096);
    let tree = directory.join("tree");
    if !tree.exists() {
        fs::create_dir_all(tree.join("sbin")).unwrap();
        fs::write(tree.join("sbin/init"), elf(X86_64)).unwrap();
        let x = fs::Permissions::from_mode(0o755);
        fs::set_permissions(tree.join("sbin/init"), x).unwrap();
        fs::write(
            directory.join("tree.erofs"),
            erofs_of(directory, &tree, &[]),
        )
        .unwrap();
    }
    image.extend(fs::read(directory.join("tree.erofs")).unwrap());
    let (mut lines, _) = check(directory, &image, words);
    lines.retain(|line| line.starts_with("error: ") || line.starts_with("warning: "));
    lines
}

/// The lowest layer as an image, with a program to start, and the files that `make` adds. It has no checksum,
/// because tests change its bytes.
fn base_image(directory: &Path, make: impl FnOnce(&Path)) -> Vec<u8> {
    let tree = directory.join("tree");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join("sbin")).unwrap();
    fs::write(tree.join("sbin/init"), "\x7fELF").unwrap();
    fs::set_permissions(tree.join("sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
    make(&tree);
    let mut image = erofs_of(directory, &tree, &["-Eforce-inode-compact"]);
    image[1032] &= !1;
    image
}

/// The loader with images above it.
fn with_images(images: &[&[u8]]) -> Vec<u8> {
    let mut whole = loader();
    for image in images {
        pad(&mut whole, 4096);
        whole.extend_from_slice(image);
    }
    whole
}
