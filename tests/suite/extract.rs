//! EROFS images written into a tmpfs, compared with their source.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::guest::{Scratch, run};
use layerinit::boot::mount::extract::{Onto, extract, needed};
use layerinit::bytes::Opened;
use layerinit::format::erofs::Superblock;
use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, getxattr, listxattr, lsetxattr, makedev, mknodat,
};

/// All attributes of each file of a tree, by path. Names that cannot be opened are omitted: overlayfs lists
/// whiteouts in directories that only one layer has.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut names = BTreeMap::<(u64, u64), String>::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let Some(stat) = there(&path) else {
                continue;
            };
            if stat.is_dir() {
                directories.push(path.clone());
            } else {
                let first = names
                    .entry((stat.dev(), stat.ino()))
                    .or_insert(name.clone());
                *first = name.clone().min(first.clone());
            }
            found.insert(name, about(&path));
        }
    }
    for (name, line) in &mut found {
        let stat = root.join(name).symlink_metadata().unwrap();
        if let Some(first) = names.get(&(stat.dev(), stat.ino())) {
            *line += &format!(" is {first}");
        }
    }
    found.insert(String::new(), about(root));
    found
}

fn there(path: &Path) -> Option<fs::Metadata> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        stat => Some(stat.unwrap()),
    }
}

fn about(path: &Path) -> String {
    let stat = path.symlink_metadata().unwrap();
    let kind = stat.mode() & libc::S_IFMT;
    let content = match kind {
        libc::S_IFREG => format!("{:?}", crc(&fs::read(path).unwrap())),
        libc::S_IFLNK => format!("{:?}", fs::read_link(path).unwrap()),
        _ => String::new(),
    };
    let mut line = format!(
        "{:o} {}:{} {}.{:09} {:x} {content}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.rdev(),
    );
    if kind != libc::S_IFLNK {
        let mut names = vec![0; 4096];
        let n = listxattr(path, &mut names).unwrap();
        let mut names: Vec<_> = names[..n].split(|byte| *byte == 0).collect();
        names.sort();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let mut value = vec![0; 4096];
            let n = getxattr(path, name, &mut value).unwrap();
            line += &format!(" {}={:?}", name.escape_ascii(), &value[..n]);
        }
    }
    line
}

fn crc(bytes: &[u8]) -> (usize, u64) {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    (bytes.len(), sum)
}

/// A tree with a file of each kind.
pub fn sample(root: &Path) {
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::write(root.join("dir/deep/text"), b"hello\n".repeat(30_000)).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(b"end", (3 << 20) - 3).unwrap();
    let noise: Vec<u8> = (0..700_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(root.join("noise"), noise).unwrap();
    fs::hard_link(root.join("noise"), root.join("dir/again")).unwrap();
    symlink("dir/deep", root.join("link")).unwrap();
    lchown(root.join("link"), Some(7), Some(8)).unwrap();
    mknodat(
        CWD,
        root.join("node"),
        FileType::BlockDevice,
        Mode::from_raw_mode(0o640),
        makedev(8, 300),
    )
    .unwrap();
    mknodat(
        CWD,
        root.join("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o622),
        0,
    )
    .unwrap();
    for n in 0..200 {
        fs::write(root.join(format!("dir/{n}")), format!("file {n}\n")).unwrap();
    }
    let program = root.join("program");
    fs::write(&program, b"#!/bin/sh\n").unwrap();
    lchown(&program, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o6755)).unwrap();
    // struct vfs_cap_data, revision 2: cap_net_raw, effective.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    lsetxattr(
        root.join("empty"),
        c"security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .unwrap();
    lsetxattr(
        root.join("dir"),
        c"trusted.note",
        b"kept",
        XattrFlags::empty(),
    )
    .unwrap();
    fs::set_permissions(root.join("dir"), Permissions::from_mode(0o1711)).unwrap();
}

pub fn image(scratch: &Scratch, name: &str, options: &[&str]) -> Opened {
    let file = scratch.join(&format!("{name}.erofs"));
    run(Command::new("mkfs.erofs")
        .args(options)
        .arg(&file)
        .arg(scratch.join(name)));
    Opened::open(&file).unwrap()
}

fn superblock(image: &Opened) -> Superblock {
    Superblock::read(image, 0).unwrap().unwrap()
}

pub fn write(image: &Opened, to: &Path, onto: Onto) -> layerinit::error::Result<()> {
    let directory = OwnedFd::from(File::open(to).unwrap());
    extract(image, &superblock(image), directory, onto).map(drop)
}

#[test]
fn an_image_is_written_as_it_was_made() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("sample")).unwrap();
    sample(&scratch.join("sample"));
    let expected = tree(&scratch.join("sample"));
    for (number, options) in [
        &[][..],
        &["-zlz4hc"],
        &["-zlz4hc", "-C65536", "-Eztailpacking"],
        &["-zlz4", "-Eall-fragments,dedupe", "-C16384"],
        &["--chunksize=4096"],
    ]
    .into_iter()
    .enumerate()
    {
        let image = image(&scratch, "sample", options);
        let to = scratch.join(&format!("to{number}"));
        fs::create_dir(&to).unwrap();
        write(&image, &to, Onto::Layer).unwrap();
        assert_eq!(tree(&to), expected, "{options:?}");
        let needed = needed(&image, &superblock(&image), true).unwrap();
        assert_eq!(needed.files as usize + 1, expected.len() - 1, "{options:?}");
        assert!(needed.content.bytes(4096) >= 4 << 20, "{needed:?}");
    }
}

#[test]
fn layers_in_one_tree_equal_their_overlay() {
    let scratch = Scratch::new();
    let path = |path: &str| scratch.join(path);
    for directory in [
        "base/etc/old",
        "base/etc/keep",
        "base/gone",
        "base/opaque",
        "app/etc",
        "app/opaque",
    ] {
        fs::create_dir_all(path(directory)).unwrap();
    }
    for (file, text) in [
        ("base/etc/old/a", "1"),
        ("base/etc/keep/b", "2"),
        ("base/gone/c", "3"),
        ("base/opaque/d", "4"),
        ("base/file", "lower"),
        ("app/file", "upper"),
        ("app/etc/old", "a file now"),
        ("app/opaque/e", "5"),
    ] {
        fs::write(path(file), text).unwrap();
    }
    mknodat(
        CWD,
        path("app/gone"),
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    lsetxattr(
        path("app/opaque"),
        c"trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    fs::set_permissions(path("app/etc"), Permissions::from_mode(0o700)).unwrap();
    let (base, app) = (
        image(&scratch, "base", &[]),
        image(&scratch, "app", &["-zlz4hc"]),
    );
    let to = path("to");
    fs::create_dir(&to).unwrap();
    write(&base, &to, Onto::Root).unwrap();
    write(&app, &to, Onto::Layers).unwrap();
    let merged = tree(&to);
    let names: Vec<_> = merged.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "",
            "etc",
            "etc/keep",
            "etc/keep/b",
            "etc/old",
            "file",
            "opaque",
            "opaque/e"
        ]
    );
    assert_eq!(fs::read(to.join("file")).unwrap(), b"upper");
    assert_eq!(fs::read(to.join("etc/old")).unwrap(), b"a file now");
    assert_eq!(to.join("etc").metadata().unwrap().mode() & 0o7777, 0o700);
    assert!(
        !merged["opaque"].contains("overlay"),
        "{}",
        merged["opaque"]
    );
}

#[test]
fn a_damaged_cluster_names_the_file_and_the_offset() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("sample")).unwrap();
    fs::write(scratch.join("sample/text"), b"hello world, ".repeat(60_000)).unwrap();
    drop(image(&scratch, "sample", &["-zlz4hc"]));
    let file = scratch.join("sample.erofs");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes
        .windows(13)
        .position(|window| window == b"hello world, ")
        .unwrap();
    // A literal run that extends beyond the cluster.
    bytes[at - 1..at + 2000].fill(0xff);
    fs::write(&file, bytes).unwrap();
    let to = scratch.join("to");
    fs::create_dir(&to).unwrap();
    let error = write(&Opened::open(&file).unwrap(), &to, Onto::Layer)
        .unwrap_err()
        .to_string();
    assert!(error.contains("read /text: LZ4 cluster at 0x"), "{error}");
    assert!(to.as_os_str().as_bytes().starts_with(b"/"));
}
