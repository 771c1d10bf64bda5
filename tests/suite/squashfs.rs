//! SquashFS images of mksquashfs(1), read by the tool. Needs root and squashfs-tools.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::common::guest::{Scratch, run};
use crate::common::*;
use crate::extract::{sample, tree};
use crate::merged::{Overlay, equal, image, mark, told, whiteout};

/// Makes the image of a directory, and truncates the times of its files to seconds, which is what an image
/// stores.
pub fn squashfs(scratch: &Scratch, name: &str, options: &[&str]) -> Vec<u8> {
    let (from, to) = (
        scratch.join(name),
        scratch.join(&format!("{name}.squashfs")),
    );
    let _ = fs::remove_file(&to);
    whole_seconds(&from);
    run(Command::new("mksquashfs")
        .args([&from, &to])
        .args(["-quiet", "-no-progress"])
        .args(options));
    fs::read(to).unwrap()
}

fn whole_seconds(tree: &Path) {
    run(Command::new("find")
        .arg(tree)
        .args(["-exec", "touch", "-hd", "@1700000000", "{}", "+"]));
}

/// Writes an initrd of the loader and these layers.
fn initrd(scratch: &Scratch, layers: &[Vec<u8>]) {
    let mut whole = cpio(&[own_init("init")]);
    for layer in layers {
        pad(&mut whole, 4096);
        whole.extend(layer);
    }
    fs::write(scratch.join("initrd"), whole).unwrap();
}

fn nothing_said(scratch: &Scratch, words: &[&str]) {
    let quiet = (String::new(), String::new(), 0);
    assert_eq!(told(scratch, words), quiet, "{words:?}");
}

#[test]
fn files_of_every_kind_are_read_from_every_kind_of_image() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("0")).unwrap();
    sample(&scratch.join("0"));
    for n in 0..700 {
        // More than one header in a directory, and more than one block of metadata.
        fs::write(
            scratch.join(&format!("0/dir/deep/{n}-{}", "x".repeat(200))),
            "",
        )
        .unwrap();
    }
    whole_seconds(&scratch.join("0"));
    let expected = tree(&scratch.join("0"));
    for options in [
        &["-comp", "gzip"][..],
        &["-comp", "lz4", "-Xhc"],
        &["-comp", "xz", "-Xbcj", "x86"],
        &["-comp", "zstd", "-b", "1M", "-always-use-fragments"],
        &["-b", "4096", "-no-fragments"],
        &["-noI", "-noD", "-noF", "-noX", "-no-duplicates"],
    ] {
        initrd(&scratch, &[squashfs(&scratch, "0", options)]);
        nothing_said(&scratch, &["extract", "initrd", "-C", "out"]);
        equal(
            &format!("{options:?}"),
            "tool",
            &tree(&scratch.join("out")),
            &expected,
        );
        let sparse = fs::metadata(scratch.join("out/sparse")).unwrap();
        assert!(
            sparse.blocks() * 512 <= 1 << 20,
            "{} blocks",
            sparse.blocks()
        );
        fs::remove_dir_all(scratch.join("out")).unwrap();
        let (listed, error, status) = told(&scratch, &["list", "--files", "initrd"]);
        assert_eq!((error.as_str(), status), ("", 0));
        // The file of the loader, and a line for each file.
        let files = listed.lines().filter(|line| line.starts_with("    "));
        assert_eq!(files.count(), expected.len() + 1, "{options:?}");
        for line in [
            "-rwsr-sr-x   1  1000  1001         10 2023-11-14 22:13:20 program",
            "brw-r-----   1     0     0     8, 300 2023-11-14 22:13:20 node",
            "lrwxrwxrwx   1     7     8          8 2023-11-14 22:13:20 link -> dir/deep",
            " noise link to dir/again",
        ] {
            assert!(listed.contains(line), "{line} in\n{listed}");
        }
        let (text, error, status) = told(&scratch, &["cat", "initrd", "dir/deep/text"]);
        assert_eq!(
            (text, error, status),
            ("hello\n".repeat(30_000), String::new(), 0)
        );
    }
}

#[test]
fn squashfs_layers_stack_as_in_overlayfs() {
    let scratch = Scratch::new();
    for (file, text) in [
        ("0/a/one", "one"),
        ("0/a/two", "two"),
        ("0/gone/file", "x"),
        ("0/opaque/below", "x"),
        ("0/old/moved", "moved"),
        ("0/same", "lower"),
        ("1/a/two", "second"),
        ("1/opaque/above", "y"),
        ("1/new/more", "more"),
        ("2/a/three", "three"),
        ("2/same", "upper"),
    ] {
        let path = scratch.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::hard_link(scratch.join("0/a/one"), scratch.join("0/a/other")).unwrap();
    whiteout(&scratch.join("1/gone"));
    mark(&scratch.join("1/opaque"), "opaque", b"y");
    mark(&scratch.join("1/new"), "redirect", b"/old");
    for name in ["0", "1", "2"] {
        whole_seconds(&scratch.join(name));
    }
    let shown = {
        let layers = ["0", "1", "2"].map(String::from);
        let overlay = Overlay::new(&scratch, &layers);
        tree(&overlay.0)
    };
    let squashfs = |name: &str| squashfs(&scratch, name, &["-comp", "zstd"]);
    let erofs = |name: &str| {
        drop(image(&scratch, name, &["-zlz4hc"]));
        fs::read(scratch.join(&format!("{name}.erofs"))).unwrap()
    };
    let stacks = [
        [squashfs("0"), squashfs("1"), squashfs("2")],
        [erofs("0"), squashfs("1"), erofs("2")],
        [squashfs("0"), erofs("1"), squashfs("2")],
    ];
    for (number, layers) in stacks.iter().enumerate() {
        initrd(&scratch, layers);
        nothing_said(&scratch, &["extract", "initrd", "-C", "out"]);
        equal(
            &format!("stack {number}"),
            "tool",
            &tree(&scratch.join("out")),
            &shown,
        );
        fs::remove_dir_all(scratch.join("out")).unwrap();
        fs::rename(
            scratch.join("initrd"),
            scratch.join(&format!("initrd{number}")),
        )
        .unwrap();
    }
    nothing_said(&scratch, &["diff", "--times", "initrd0", "initrd1"]);
    nothing_said(&scratch, &["diff", "--times", "initrd0", "initrd2"]);
    // The single layer, with its whiteouts and opaque marks.
    nothing_said(
        &scratch,
        &["extract", "--layer", "1", "initrd0", "-C", "out"],
    );
    equal(
        "layer 1",
        "tool",
        &tree(&scratch.join("out")),
        &tree(&scratch.join("1")),
    );
}

#[test]
fn an_archive_over_squashfs_keeps_attributes_except_capabilities() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("0")).unwrap();
    sample(&scratch.join("0"));
    let archive = cpio(&[
        dir("dir"),
        file("empty", b"written"),
        file("dir/0", b"other"),
    ]);
    initrd(&scratch, &[squashfs(&scratch, "0", &[]), archive]);
    nothing_said(&scratch, &["extract", "initrd", "-C", "out"]);
    let found = tree(&scratch.join("out"));
    assert!(found["dir"].contains("trusted.note"), "{}", found["dir"]);
    assert!(!found["empty"].contains("security"), "{}", found["empty"]);
    assert_eq!(fs::read(scratch.join("out/dir/0")).unwrap(), b"other");
}

#[test]
fn the_real_init_is_found_in_squashfs() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("0/sbin")).unwrap();
    fs::copy("/bin/true", scratch.join("0/sbin/init")).unwrap();
    initrd(&scratch, &[squashfs(&scratch, "0", &[])]);
    let cmdline = ["--cmdline", "retain_initrd"];
    let (text, _, _) = told(&scratch, &[&["check", "initrd"], &cmdline[..]].concat());
    // No layer has the interpreter.
    assert!(
        text.contains("no init in the new root: /sbin/init: "),
        "{text}"
    );
    assert!(
        !text.contains("not read") && !text.contains("not checked"),
        "{text}"
    );
    // A directory in place of the device.
    fs::rename(
        scratch.join("0.squashfs"),
        scratch.join("0/sbin/live.squashfs"),
    )
    .unwrap();
    fs::write(scratch.join("loader"), cpio(&[own_init("init")])).unwrap();
    let from = [
        "--cmdline",
        "rd.layers.from=LABEL=live:/sbin/live.squashfs",
        "--from",
        "0",
    ];
    let (text, _, _) = told(&scratch, &[&["check", "loader"], &from[..]].concat());
    assert!(
        text.contains("no init in the new root: /sbin/init: "),
        "{text}"
    );
}

#[test]
fn unsupported_compressions_are_named() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("0")).unwrap();
    fs::write(scratch.join("0/file"), "text\n".repeat(1000)).unwrap();
    let mut image = squashfs(&scratch, "0", &["-comp", "lzo"]);
    let why = "read SquashFS image: compressed with lzo, which this program does not decompress";
    initrd(&scratch, std::slice::from_ref(&image));
    for words in [
        &["extract", "initrd", "-C", "out"][..],
        &["list", "--files", "initrd"],
    ] {
        let (text, error, status) = told(&scratch, words);
        assert_eq!(status, 1, "{words:?}");
        assert!(format!("{text}{error}").contains(why), "{text}{error}");
    }
    // An unknown compression.
    image[20] = 77;
    initrd(&scratch, &[image]);
    let (_, error, _) = told(&scratch, &["cat", "initrd", "file"]);
    assert!(error.contains("compressed with number 77"), "{error}");
}
