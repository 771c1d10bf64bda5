//! Stacks of layers: the trees that `layerinit extract` and `/init` extract, compared with overlayfs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::guest::{Scratch, run};
use crate::common::*;
pub use crate::extract::image;
use crate::extract::{tree, write};
use crate::squashfs::squashfs;
use crate::support::{said, tool};
use layerinit::boot::mount::extract::Onto;
use layerinit::boot::mount::unpack::{clear_opaque, unpack_over};
use layerinit::bytes::{Opened, ReadAt};
use layerinit::format::compress::Codec;
use layerinit::initrd::open_archive;
use layerinit::sys::process::run_chrooted;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

/// Runs the tool; returns standard output, standard error and the exit status.
pub fn told(scratch: &Scratch, words: &[&str]) -> (String, String, i32) {
    said(&tool(&scratch.0).args(words).output().unwrap())
}

pub fn mark(path: &Path, name: &str, value: &[u8]) {
    let name = format!("trusted.overlay.{name}");
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// An overlay of directories, the lowest first, which is unmounted on drop.
pub struct Overlay(pub PathBuf);

impl Overlay {
    pub fn new(scratch: &Scratch, layers: &[String]) -> Self {
        let target = scratch.join("overlay");
        fs::create_dir_all(&target).unwrap();
        let names: Vec<_> = layers.iter().rev().map(String::as_str).collect();
        // An overlay needs two layers.
        fs::create_dir_all(scratch.join("nothing")).unwrap();
        let option = format!(
            "lowerdir={}:nothing,metacopy=on,redirect_dir=on",
            names.join(":")
        );
        run(Command::new("mount")
            .current_dir(&scratch.0)
            .args(["-t", "overlay", "overlay", "-o", &option])
            .arg(&target));
        Self(target)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.0));
    }
}

/// An initrd of the loader and images of directories.
fn initrd(scratch: &Scratch, layers: &[String], options: &[&str]) {
    let mut whole = cpio(&[own_init("init")]);
    for name in layers {
        pad(&mut whole, 4096);
        drop(image(scratch, name, options));
        whole.extend(fs::read(scratch.join(&format!("{name}.erofs"))).unwrap());
    }
    fs::write(scratch.join("initrd"), whole).unwrap();
}

/// Compares an overlay of directories with the trees that the tool and `/init` extract from images of them.
/// Returns false if overlayfs refuses a file; then the others must refuse the stack.
fn same_as_overlayfs(scratch: &Scratch, layers: &[String], context: &str) -> bool {
    initrd(scratch, layers, &["-zlz4hc"]);
    for name in ["tool", "boot"] {
        let _ = fs::remove_dir_all(scratch.join(name));
    }
    let by_tool = told(scratch, &["extract", "initrd", "-C", "tool"]);
    fs::create_dir(scratch.join("boot")).unwrap();
    let mut by_boot = Ok(());
    for (number, name) in layers.iter().enumerate() {
        let onto = if number == 0 {
            Onto::Root
        } else {
            Onto::Layers
        };
        let bytes = Opened::open(&scratch.join(&format!("{name}.erofs"))).unwrap();
        by_boot = by_boot.and_then(|()| write(&bytes, &scratch.join("boot"), onto));
    }
    let overlay = Overlay::new(scratch, layers);
    let shown = std::panic::catch_unwind(|| tree(&overlay.0));
    let Ok(shown) = shown else {
        assert_eq!(by_tool.2, 1, "{context}: {by_tool:?}");
        assert!(by_boot.is_err(), "{context}");
        return false;
    };
    assert_eq!(by_tool, (String::new(), String::new(), 0), "{context}");
    by_boot.unwrap_or_else(|error| panic!("{context}: {error}"));
    equal(context, "tool", &tree(&scratch.join("tool")), &shown);
    equal(context, "boot", &tree(&scratch.join("boot")), &shown);
    true
}

#[track_caller]
pub fn equal(
    context: &str,
    who: &str,
    found: &BTreeMap<String, String>,
    shown: &BTreeMap<String, String>,
) {
    for name in found.keys().chain(shown.keys()) {
        let (ours, overlayfs) = (found.get(name), shown.get(name));
        assert_eq!(
            ours, overlayfs,
            "{context}: {who}: {name} (ours, overlayfs's)"
        );
    }
}

#[test]
fn a_stack_is_extracted_as_overlayfs_shows_it() {
    let scratch = Scratch::new();
    let path = |path: &str| scratch.join(path);
    for directory in [
        "0/a/sub",
        "0/old/deep",
        "0/etc",
        "0/op",
        "0/x/y",
        "1/a",
        "1/new/deep",
        "1/op",
    ] {
        fs::create_dir_all(path(directory)).unwrap();
    }
    for directory in ["1/etc", "1/again", "1/x", "2/a", "2/new/deep", "2/later"] {
        fs::create_dir_all(path(directory)).unwrap();
    }
    for file in [
        "0/a/f",
        "0/a/sub/x",
        "0/old/one",
        "0/old/deep/two",
        "0/etc/conf",
        "0/op/z",
        "0/x/y/f",
    ] {
        fs::write(path(file), file).unwrap();
    }
    fs::hard_link(path("0/old/one"), path("0/old/deep/three")).unwrap();
    symlink("../etc/conf", path("0/a/link")).unwrap();
    lsetxattr(path("0/etc/conf"), "user.note", b"low", XattrFlags::empty()).unwrap();
    // A directory that is renamed, and renamed again in the layer above, with changed content in between.
    whiteout(&path("1/old"));
    mark(&path("1/new"), "redirect", b"old");
    fs::write(path("1/new/deep/more"), "more").unwrap();
    mark(&path("2/later"), "redirect", b"/new/deep");
    // Visible at two paths.
    mark(&path("1/again"), "redirect", b"/a");
    mark(&path("1/op"), "opaque", b"y");
    fs::write(path("1/op/in"), "in").unwrap();
    mark(&path("1/a"), "opaque", b"x");
    fs::write(path("1/a/f"), "").unwrap();
    mark(&path("1/a/f"), "whiteout", b"");
    // A metadata-only file, twice.
    for (layer, mode) in [("1", 0o600), ("2", 0o4711)] {
        let conf = path(&format!("{layer}/etc/conf"));
        fs::create_dir_all(conf.parent().unwrap()).unwrap();
        fs::write(&conf, [0; 10]).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&conf, fs::Permissions::from_mode(mode)).unwrap();
        lsetxattr(&conf, "user.note", layer.as_bytes(), XattrFlags::empty()).unwrap();
        mark(&conf, "metacopy", b"");
    }
    // A renamed metadata-only file.
    fs::write(path("1/x/moved"), [0; 7]).unwrap();
    mark(&path("1/x/moved"), "metacopy", b"");
    mark(&path("1/x/moved"), "redirect", b"/x/y/f");
    fs::write(path("2/a/f"), "anew").unwrap();
    fs::hard_link(path("2/a/f"), path("2/a/g")).unwrap();
    // An overlay inside a layer.
    lsetxattr(
        path("2/a"),
        "trusted.overlay.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    let layers = ["0", "1", "2"].map(String::from);
    assert!(same_as_overlayfs(&scratch, &layers, "stack"));
    let find = |name: &str| fs::read_to_string(scratch.join("tool").join(name)).unwrap();
    assert_eq!(find("etc/conf"), "0/etc/conf");
    assert_eq!(find("x/moved"), "0/x/y/f");
    assert_eq!(find("later/two"), "0/old/deep/two");
    assert_eq!(find("again/sub/x"), "0/a/sub/x");

    // A single layer.
    let words = ["extract", "initrd", "--layer=1", "-C", "one"];
    assert_eq!(told(&scratch, &words), (String::new(), String::new(), 0));
    equal("--layer", "tool", &tree(&path("one")), &tree(&path("1")));
}

/// Layers with a few names, so that they often collide.
fn random_layer(scratch: &Scratch, name: &str, lowest: bool, random: &mut dyn FnMut(u64) -> u64) {
    let root = scratch.join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    let mut directories = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    for n in 0..3 + random(9) {
        let parent = directories[random(directories.len() as u64) as usize].clone();
        let path = parent.join(["a", "b", "c", "d"][random(4) as usize]);
        if path.symlink_metadata().is_ok()
            || path.components().count() > root.components().count() + 3
        {
            continue;
        }
        let kind = if lowest { random(6) } else { random(12) };
        match kind {
            0..=2 => fs::create_dir(&path).unwrap(),
            3 => fs::write(&path, format!("{n} of {name}")).unwrap(),
            4 => symlink("a/b", &path).unwrap(),
            5 => match files.last() {
                Some(file) => fs::hard_link(file, &path).unwrap(),
                None => fs::write(&path, "").unwrap(),
            },
            6..=7 => whiteout(&path),
            8 => {
                fs::create_dir(&path).unwrap();
                mark(&path, "opaque", b"y");
            }
            9..=10 => {
                fs::create_dir(&path).unwrap();
                let to = ["a", "b", "/a", "/b/a", "/c", "/a/b/c"][random(6) as usize];
                mark(&path, "redirect", to.as_bytes());
            }
            _ => {
                fs::write(&path, "").unwrap();
                mark(&parent, "opaque", b"x");
                mark(&path, "whiteout", b"");
            }
        }
        if path.is_dir() && !path.is_symlink() {
            directories.push(path);
        } else if (3..=4).contains(&kind) {
            files.push(path);
        }
    }
}

#[test]
fn random_stacks_are_extracted_as_overlayfs_shows_them() {
    let number = std::env::var("LAYERINIT_STACKS").map_or(40, |number| number.parse().unwrap());
    let scratch = Scratch::new();
    let (mut compared, mut files) = (0, 0);
    for seed in 0..number {
        let mut state = seed + 1;
        let mut random = |below: u64| {
            state = u64::wrapping_mul(state, 6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let layers: Vec<_> = (0..2 + random(3)).map(|n| n.to_string()).collect();
        for (n, name) in layers.iter().enumerate() {
            random_layer(&scratch, name, n == 0, &mut random);
        }
        if same_as_overlayfs(&scratch, &layers, &format!("seed {seed}")) {
            compared += 1;
            files += tree(&scratch.join("tool")).len();
        }
    }
    assert!(
        compared * 2 > number && files as u64 > 3 * compared,
        "{compared}, {files} files"
    );
}

#[test]
fn files_that_cannot_be_merged_are_refused_by_name() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("0/a")).unwrap();
    fs::create_dir_all(scratch.join("1/a")).unwrap();
    let layers = ["0", "1"].map(String::from);
    mark(&scratch.join("1/a"), "redirect", b"../b");
    assert!(!same_as_overlayfs(&scratch, &layers, "redirect"));
    let (_, error, _) = told(&scratch, &["extract", "initrd", "-C", "other"]);
    let expected = "merge a: its trusted.overlay.redirect is neither a name nor a path from the root: overlayfs \
                    refuses it\n";
    assert!(error.ends_with(expected), "{error}");
    assert!(!scratch.join("other").exists());

    fs::remove_dir(scratch.join("1/a")).unwrap();
    fs::write(scratch.join("1/a"), "\0").unwrap();
    mark(&scratch.join("1/a"), "metacopy", b"");
    initrd(&scratch, &layers, &[]);
    let (_, error, status) = told(&scratch, &["extract", "initrd", "-C", "third"]);
    let expected =
        "layerinit: extract a: read file: it has metadata only, and no lower layer has its bytes\n";
    assert_eq!((&*error, status), (expected, 1));
}

#[test]
fn archives_are_extracted_over_images() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("0/etc/d")).unwrap();
    fs::create_dir_all(scratch.join("0/usr/lib")).unwrap();
    fs::write(scratch.join("0/etc/conf"), "low").unwrap();
    fs::write(scratch.join("0/etc/gone"), "").unwrap();
    fs::write(scratch.join("0/etc/d/lost"), "").unwrap();
    symlink("usr/lib", scratch.join("0/lib")).unwrap();
    // The archive writes to one of its names.
    fs::write(scratch.join("0/usr/lib/shared"), "shared").unwrap();
    fs::hard_link(
        scratch.join("0/usr/lib/shared"),
        scratch.join("0/etc/shared"),
    )
    .unwrap();
    lsetxattr(
        scratch.join("0/etc"),
        "user.note",
        b"kept",
        XattrFlags::empty(),
    )
    .unwrap();
    let text = "text\n".repeat(50_000);
    let archive = cpio(&[
        file("etc/conf", b"high"),
        file("etc/shared", b"own"),
        crate::tree::at(50, dir("etc/d")),
        file("lib/new", text.as_bytes()),
        crate::tree::node("etc/gone", 0o020_000, 0, 0),
        file("etc/d/.wh..wh..opq", b""),
        crate::tree::one_of(2, 9, file("etc/one", b"")),
        crate::tree::one_of(2, 9, file("etc/two", b"both")),
        crate::tree::link("out", "/tmp"),
        file("out/trap", b"x"),
        file("../../etc/up", b"up"),
        crate::tree::node("null", 0o020_666, 1, 3),
    ]);
    fs::write(scratch.join("archive"), archive).unwrap();
    for command in ["cat", "gzip -9", "xz --check=crc32", "zstd -q", "lz4 -l"] {
        let _ = fs::remove_dir_all(scratch.join("out"));
        initrd(&scratch, &["0".into()], &[]);
        let script = format!("{command} <archive >packed && cat packed >>initrd");
        run(Command::new("sh")
            .current_dir(&scratch.0)
            .args(["-c", &script]));
        let done = told(&scratch, &["extract", "initrd", "-C", "out"]);
        assert_eq!(done, (String::new(), String::new(), 0), "{command}");
        let found = tree(&scratch.join("out"));
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        let expected = [
            "",
            "etc",
            "etc/conf",
            "etc/d",
            "etc/one",
            "etc/shared",
            "etc/two",
            "etc/up",
            "lib",
            "null",
            "out",
            "usr",
            "usr/lib",
            "usr/lib/new",
            "usr/lib/shared",
        ];
        assert_eq!(names, expected, "{command}");
        let read = |name: &str| fs::read_to_string(scratch.join("out").join(name)).unwrap();
        assert_eq!(
            (&*read("etc/conf"), &*read("etc/one"), &*read("etc/up")),
            ("high", "both", "up")
        );
        assert_eq!(read("usr/lib/new"), text, "{command}");
        assert_eq!(read("usr/lib/shared"), "shared", "{command}");
        assert!(found["etc"].contains("user.note"), "{}", found["etc"]);
        assert!(
            found["null"].starts_with("20666 0:0 ") && found["null"].contains(" 103 "),
            "{}",
            found["null"]
        );
        let words = ["cat", "initrd", "/lib/new"];
        assert_eq!(
            told(&scratch, &words),
            (text.clone(), String::new(), 0),
            "{command}"
        );
        let words = ["cat", "initrd", "lib/new", "--layer=1"];
        assert_eq!(
            told(&scratch, &words),
            (text.clone(), String::new(), 0),
            "{command}"
        );
        // /init does the same, in one tree.
        let single = scratch.join("single");
        let _ = fs::remove_dir_all(&single);
        fs::create_dir(&single).unwrap();
        let bytes = Opened::open(&scratch.join("0.erofs")).unwrap();
        write(&bytes, &single, Onto::Root).unwrap();
        let packed = Opened::open(&scratch.join("packed")).unwrap();
        let codec = Codec::detect(&fs::read(scratch.join("packed")).unwrap());
        let open = || open_archive(&packed, 0, packed.size(), codec).unwrap();
        let unpacked = run_chrooted(single.to_str().unwrap(), || {
            clear_opaque(open())?;
            unpack_over(open())
        });
        unpacked.unwrap().unwrap();
        equal(command, "boot", &tree(&single), &found);
        assert_eq!(
            told(&scratch, &["diff", "initrd", "initrd"]),
            (String::new(), String::new(), 0)
        );
    }
    // The single archive: with whiteouts and opaque marks, and with the directories that it lacks.
    let words = ["extract", "initrd", "--layer=1", "-C", "one"];
    assert_eq!(told(&scratch, &words), (String::new(), String::new(), 0));
    let one = tree(&scratch.join("one"));
    assert!(one["etc/gone"].starts_with("20000 "), "{}", one["etc/gone"]);
    assert!(
        one.contains_key("etc/d/.wh..wh..opq") && one.contains_key("lib/new"),
        "{:?}",
        one.keys()
    );
    assert!(!scratch.join("one/../trap").exists() && !Path::new("/tmp/trap").exists());
}

#[test]
fn nothing_is_written_through_existing_links() {
    let scratch = Scratch::new();
    for directory in ["0/etc/conf.d", "canary", "out"] {
        fs::create_dir_all(scratch.join(directory)).unwrap();
    }
    fs::write(scratch.join("0/etc/conf.d/x"), "x").unwrap();
    fs::write(scratch.join("0/file"), "x").unwrap();
    fs::write(scratch.join("canary/file"), "safe").unwrap();
    initrd(&scratch, &["0".into()], &[]);
    for (name, target) in [
        ("etc", "../canary"),
        ("file", "../canary/file"),
        ("file", "../canary/new"),
    ] {
        let _ = fs::remove_dir_all(scratch.join("out"));
        fs::create_dir(scratch.join("out")).unwrap();
        symlink(target, scratch.join("out").join(name)).unwrap();
        let (_, error, status) = told(&scratch, &["extract", "initrd", "-C", "out"]);
        assert_eq!(status, 1, "{name}: {error}");
        assert!(error.contains(name), "{error}");
        assert_eq!(
            fs::read_dir(scratch.join("canary")).unwrap().count(),
            1,
            "{name}"
        );
    }
    // A hard link to a file outside.
    let _ = fs::remove_dir_all(scratch.join("out"));
    fs::create_dir(scratch.join("out")).unwrap();
    fs::hard_link(scratch.join("canary/file"), scratch.join("out/file")).unwrap();
    let (_, error, status) = told(&scratch, &["extract", "initrd", "-C", "out"]);
    assert!(status == 1 && error.contains("EEXIST"), "{error}");
    assert_eq!(
        fs::read_to_string(scratch.join("canary/file")).unwrap(),
        "safe"
    );
}

#[test]
fn without_root_one_warning_names_what_is_missing() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("0/etc")).unwrap();
    fs::write(scratch.join("0/etc/a"), "a").unwrap();
    fs::write(scratch.join("0/etc/b"), "b").unwrap();
    for name in ["0/null", "0/zero"] {
        mknodat(
            CWD,
            scratch.join(name),
            FileType::CharacterDevice,
            Mode::empty(),
            0x103,
        )
        .unwrap();
    }
    for (name, uid) in [("0/etc/a", 7), ("0/etc/b", 8)] {
        std::os::unix::fs::lchown(scratch.join(name), Some(uid), Some(uid)).unwrap();
        lsetxattr(scratch.join(name), "user.note", b"x", XattrFlags::empty()).unwrap();
    }
    initrd(&scratch, &["0".into()], &[]);
    fs::create_dir(scratch.join("out")).unwrap();
    std::os::unix::fs::lchown(scratch.join("out"), Some(1234), Some(1234)).unwrap();
    // A copy that this user can execute.
    copy_program(env!("CARGO_BIN_EXE_layerinit"), scratch.join("layerinit"));
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=1234",
        "--regid=1234",
        "--clear-groups",
        "./layerinit",
    ]);
    let output = command
        .current_dir(&scratch.0)
        .args(["extract", "initrd", "-C", "out"])
        .output();
    let warning = "layerinit: warning: not root: extracted without owners, 2 devices and extended attributes\n";
    assert_eq!(said(&output.unwrap()), (String::new(), warning.into(), 0));
    let found = tree(&scratch.join("out"));
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["", "etc", "etc/a", "etc/b"]);
    assert!(found["etc/a"].starts_with("100644 1234:1234 ") && !found["etc/a"].contains("note"));
}

#[test]
fn joined_segments_equal_the_image() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("0")).unwrap();
    fs::create_dir_all(scratch.join("1")).unwrap();
    initrd(&scratch, &["0".into(), "1".into()], &[]);
    fs::write(scratch.join("archive"), cpio(&[file("x", b"x")])).unwrap();
    let script =
        "gzip -n <archive >>initrd && head -c 512 /dev/zero >>initrd && zstd -q <archive >>initrd";
    run(Command::new("sh")
        .current_dir(&scratch.0)
        .args(["-c", script]));
    let listed = |directory: &str| {
        let entries = fs::read_dir(scratch.join(directory)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let same = |directory: &str, image: &str| {
        let script = format!("cat {directory}/* | cmp - {image}");
        run(Command::new("sh")
            .current_dir(&scratch.0)
            .args(["-c", &script]));
    };
    let words = ["extract", "initrd", "--segments", "-C", "parts"];
    assert_eq!(told(&scratch, &words), (String::new(), String::new(), 0));
    assert_eq!(
        listed("parts"),
        ["0.cpio", "1.erofs", "2.erofs", "3.cpio.gz", "4.cpio.zst"]
    );
    same("parts", "initrd");
    run(Command::new("cmp")
        .current_dir(&scratch.0)
        .args(["parts/1.erofs", "0.erofs"]));
    // Unknown data is a part, too.
    let mut whole = fs::read(scratch.join("initrd")).unwrap();
    whole.extend(b"no cpio");
    fs::write(scratch.join("odd"), whole).unwrap();
    let (_, error, status) = told(
        &scratch,
        &["extract", "odd", "--segments", "-C", "odd-parts"],
    );
    assert!(
        status == 1 && error.contains("neither cpio nor EROFS"),
        "{error}"
    );
    same("odd-parts", "odd");
    // With a U-Boot header.
    let initrd = fs::read(scratch.join("initrd")).unwrap();
    let image = crate::tool::inputs::uimage(&initrd);
    fs::write(scratch.join("uimage"), image).unwrap();
    let words = ["extract", "uimage", "--segments", "-C", "uparts"];
    assert_eq!(told(&scratch, &words), (String::new(), String::new(), 0));
    assert_eq!(listed("uparts")[..2], ["0.other", "1.cpio"]);
    same("uparts", "uimage");
}

#[test]
fn diff_reports_what_changed() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    for layer in ["0", "1"] {
        fs::create_dir_all(scratch.join(layer).join("etc")).unwrap();
        for (name, text) in [
            ("same", "same"),
            ("content", layer),
            ("mode", ""),
            ("owner", ""),
            ("xattr", ""),
        ] {
            fs::write(scratch.join(layer).join("etc").join(name), text).unwrap();
        }
        symlink(layer, scratch.join(layer).join("link")).unwrap();
    }
    let new = |name: &str| scratch.join("1").join(name);
    fs::write(new("etc/added"), "").unwrap();
    fs::create_dir(scratch.join("0/removed")).unwrap();
    fs::write(scratch.join("0/removed/x"), "").unwrap();
    fs::write(scratch.join("0/kind"), "").unwrap();
    fs::create_dir(new("kind")).unwrap();
    fs::set_permissions(new("etc/mode"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::lchown(new("etc/owner"), Some(1), Some(2)).unwrap();
    lsetxattr(new("etc/xattr"), "user.note", b"\x01x", XattrFlags::empty()).unwrap();
    for name in ["0/node", "1/node"] {
        let device = if name == "0/node" { 0x103 } else { 0x105 };
        mknodat(
            CWD,
            scratch.join(name),
            FileType::CharacterDevice,
            Mode::empty(),
            device,
        )
        .unwrap();
    }
    fs::write(scratch.join("0/size"), "1").unwrap();
    fs::write(new("size"), "12").unwrap();
    let times = |layer: &str, time: &str| {
        let script = format!("find {layer} -exec touch -hd @{time} {{}} +");
        run(Command::new("sh")
            .current_dir(&scratch.0)
            .args(["-c", &script]));
    };
    times("0", "1");
    times("1", "1");
    initrd(&scratch, &["0".into()], &[]);
    fs::rename(scratch.join("initrd"), scratch.join("old")).unwrap();
    initrd(&scratch, &["1".into()], &["-zlz4"]);
    let expected = "\
added    /etc/added (file)
changed  /etc/content: content
changed  /etc/mode: mode 0644 -> 4755
changed  /etc/owner: owner 0:0 -> 1:2
changed  /etc/xattr: xattr user.note none -> \"\\x01x\"
changed  /kind: type file -> directory
changed  /link: target 0 -> 1
changed  /node: device 1:3 -> 1:5
removed  /removed (directory)
removed  /removed/x (file)
changed  /size: size 1 -> 2, content
";
    assert_eq!(
        told(&scratch, &["diff", "old", "initrd"]),
        (expected.into(), String::new(), 1)
    );
    let (json, _, status) = told(&scratch, &["diff", "--json", "old", "initrd"]);
    assert_eq!(status, 1);
    let start = "{\"old\":\"old\",\"new\":\"initrd\",\"added\":[{\"path\":\"/etc/added\",\"type\":\"file\"}],\
                 \"removed\":[{\"path\":\"/removed\",\"type\":\"directory\"},";
    assert!(json.starts_with(start), "{json}");
    let end = "{\"path\":\"/size\",\"changes\":[{\"what\":\"size\",\"old\":\"1\",\"new\":\"2\"},{\"what\":\"content\"}]}]}\n";
    assert!(json.ends_with(end), "{json}");
    // The storage does not matter; times do with --times.
    times("0", "2");
    initrd(
        &scratch,
        &["0".into()],
        &["-zlz4hc", "-Eforce-inode-extended"],
    );
    assert_eq!(
        told(&scratch, &["diff", "old", "initrd"]),
        (String::new(), String::new(), 0)
    );
    let (text, _, status) = told(&scratch, &["diff", "--times", "old", "initrd"]);
    let line = "changed  /etc/same: mtime 1970-01-01 00:00:01.000000000 -> 1970-01-01 00:00:02.000000000\n";
    assert!(status == 1 && text.contains(line), "{text}");
    fs::write(scratch.join("odd"), "no image").unwrap();
    let (text, error, status) = told(&scratch, &["diff", "old", "odd"]);
    assert_eq!((&*text, status), ("", 2), "{error}");
    let (_, _, status) = told(&scratch, &["diff", "old"]);
    assert_eq!(status, 2);
}

/// Runs `list`, `check`, `cat`, `extract` and `diff` on LAYERINIT_MUTATIONS (default 60) mutated images, from
/// LAYERINIT_SEED. None may panic, run for long, or write outside of the directory.
#[test]
fn mutated_images_write_nothing_outside_of_the_directory() {
    use layerinit::tool::check::options::CheckOptions;
    use layerinit::tool::diff::DiffOptions;
    use layerinit::tool::image::input::Initrd;
    use layerinit::tool::list::ListOptions;
    use layerinit::tool::{cat, check, diff, extract, list};
    use std::time::{Duration, Instant};

    let number = std::env::var("LAYERINIT_MUTATIONS").map_or(60, |number| number.parse().unwrap());
    let scratch = Scratch::new();
    let seeds = mutation_seeds(&scratch);
    fs::create_dir_all(scratch.join("place/canary")).unwrap();
    let path = scratch.join("mutated");
    let seed = std::env::var("LAYERINIT_SEED").map_or(0, |seed| seed.parse().unwrap());
    let mut state = 0x1234_5678_9abc_def1_u64.wrapping_add(seed);
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let (mut slowest, mut extracted) = (Duration::ZERO, 0);
    for n in 0..number {
        let (sound, interesting) = &seeds[n % seeds.len()];
        let mut bytes = sound.clone();
        for _ in 0..1 + random(3) {
            let at = match random(4) {
                0 => random(bytes.len()),
                _ => interesting[random(interesting.len())],
            };
            bytes[at] = match random(4) {
                0 => 0xff,
                1 => bytes[at] ^ 1 << random(8),
                _ => random(256) as u8,
            };
        }
        if random(10) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        fs::write(&path, bytes).unwrap();
        let start = Instant::now();
        let Ok(image) = Initrd::open(std::slice::from_ref(&path), 4) else {
            continue;
        };
        let mut out = Vec::new();
        let files = ListOptions {
            files: true,
            json: n % 2 == 0,
        };
        let _ = list::list(&image, files, &mut out);
        let options = CheckOptions {
            conflicts: true,
            ..CheckOptions::default()
        };
        let _ = check::check(&image, &options, &mut out);
        for name in ["a/f", "etc/conf", "x/moved"] {
            let _ = cat::cat(&image, name, None, &mut std::io::sink());
        }
        let wanted = |layer| extract::Wanted {
            directory: scratch.join("place/out"),
            paths: Vec::new(),
            layer,
            unprivileged: false,
        };
        extracted += u64::from(extract::extract(&image, &wanted(None)).is_ok());
        remove(&scratch, "place/out");
        let _ = extract::extract(&image, &wanted(Some(random(4))));
        remove(&scratch, "place/out");
        let sound = scratch.join(&format!("seed{}", n % seeds.len()));
        let _ = Initrd::open(&[sound], 4)
            .and_then(|sound| diff::diff(&sound, &image, DiffOptions::default(), &mut out));
        slowest = slowest.max(start.elapsed());
        let left: Vec<_> = fs::read_dir(scratch.join("place")).unwrap().collect();
        assert_eq!(left.len(), 1, "mutation {n}: {left:?}");
        assert_eq!(
            fs::read_dir(scratch.join("place/canary")).unwrap().count(),
            0,
            "mutation {n}"
        );
    }
    println!("{number} images, {extracted} extracted, the slowest took {slowest:?}");
    assert!(
        extracted * 10 > number as u64,
        "{extracted} of {number} can be extracted"
    );
}

fn remove(scratch: &Scratch, name: &str) {
    if scratch.join(name).exists() {
        fs::remove_dir_all(scratch.join(name)).unwrap();
    }
}

/// The images, which are also in the files `seedN`, and the offsets of their bytes that are not zero.
fn mutation_seeds(scratch: &Scratch) -> Vec<(Vec<u8>, Vec<usize>)> {
    for directory in [
        "0/a",
        "0/old/deep",
        "0/etc",
        "0/x/y",
        "1/etc",
        "1/new",
        "1/x",
    ] {
        fs::create_dir_all(scratch.join(directory)).unwrap();
    }
    let text = "text\n".repeat(3000);
    for file in [
        "0/a/f",
        "0/old/one",
        "0/old/deep/two",
        "0/etc/conf",
        "0/x/y/f",
        "1/x/moved",
    ] {
        fs::write(scratch.join(file), &text).unwrap();
    }
    fs::hard_link(scratch.join("0/old/one"), scratch.join("0/a/g")).unwrap();
    symlink("../canary", scratch.join("0/out")).unwrap();
    symlink("/etc/conf", scratch.join("0/a/link")).unwrap();
    whiteout(&scratch.join("1/old"));
    mark(&scratch.join("1/new"), "redirect", b"/old");
    mark(&scratch.join("1/x/moved"), "metacopy", b"");
    mark(&scratch.join("1/x/moved"), "redirect", b"/x/y/f");
    mark(&scratch.join("1/etc"), "opaque", b"y");
    fs::write(scratch.join("1/etc/conf"), "").unwrap();
    let archive = cpio(&[
        dir("etc"),
        file("etc/conf", b"high"),
        file("out/trap", b"x"),
        file("../etc/up", b"x"),
        crate::tree::node("a/f", 0o020_000, 0, 0),
        crate::tree::one_of(2, 9, file("a/one", b"")),
        crate::tree::one_of(2, 9, file("a/two", b"both")),
    ]);
    fs::write(scratch.join("archive"), archive).unwrap();
    let layers = ["0", "1"].map(String::from);
    let mut seeds = Vec::new();
    for (options, command) in [
        (&[][..], "cat"),
        (&["-zlz4hc"], "gzip"),
        (&["-zlz4hc", "-Eall-fragments,dedupe", "-C16384"], "zstd -q"),
        (&["--chunksize=4096"], "xz --check=crc32"),
    ] {
        initrd(scratch, &layers, options);
        let script = format!("{command} <archive >>initrd");
        run(Command::new("sh")
            .current_dir(&scratch.0)
            .args(["-c", &script]));
        let mut bytes = fs::read(scratch.join("initrd")).unwrap();
        // Without superblock checksums, which would reject most mutations at once.
        for at in (1024..bytes.len()).step_by(4) {
            if bytes[at..].starts_with(&layerinit::format::erofs::MAGIC) {
                bytes[at + 8] &= !1;
            }
        }
        seeds.push(bytes);
    }
    for options in [&["-noI", "-noX"][..], &["-comp", "zstd", "-b", "4096"]] {
        let mut bytes = cpio(&[own_init("init")]);
        for name in &layers {
            pad(&mut bytes, 4096);
            bytes.extend(squashfs(scratch, name, options));
        }
        bytes.extend(fs::read(scratch.join("archive")).unwrap());
        seeds.push(bytes);
    }
    let with_interesting = |(number, bytes): (usize, Vec<u8>)| {
        fs::write(scratch.join(&format!("seed{number}")), &bytes).unwrap();
        let interesting = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        (bytes, interesting)
    };
    seeds
        .into_iter()
        .enumerate()
        .map(with_interesting)
        .collect()
}
