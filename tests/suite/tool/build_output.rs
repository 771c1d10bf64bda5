//! `layerinit build`: labels of layers, the output file, layers inside the loader. Needs root, for owners and
//! a mount namespace.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{copy_program, cpio, cpio_without_trailer, erofs, file, init_for};
use crate::support::{said, scratch, tool};
use layerinit::format::erofs::MAGIC;

/// A directory with an /init and the layers `base` and `app`.
fn workshop(name: &str) -> PathBuf {
    let directory = scratch(name);
    fs::write(directory.join("init"), init_for(62)).unwrap();
    for layer in ["base", "app"] {
        fs::create_dir_all(directory.join(layer).join("etc")).unwrap();
        fs::write(directory.join(layer).join("etc/motd"), layer).unwrap();
    }
    directory
}

/// Runs the tool, expects success, and returns its output.
fn good(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = said(&tool(directory).args(words).output().unwrap());
    assert_eq!((stderr.as_str(), status), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// The output of `plan`. These images have no real init, which is an error.
fn planned(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = said(&tool(directory).args(words).output().unwrap());
    assert_eq!((stderr.as_str(), status), ("", 1), "{words:?}: {stdout}");
    stdout
}

/// Builds `image` with these words.
fn build(directory: &Path, words: &[&str]) -> (String, String, i32) {
    let mut command = tool(directory);
    command.args(["build", "-o", "image", "--init", "init"]);
    said(&command.args(words).output().unwrap())
}

// ---- labels

/// The labels of the layers of `image`, whose checksums must be good.
fn labels(directory: &Path) -> Vec<String> {
    let list = good(directory, &["list", "image"]);
    let layers = list.lines().filter(|line| line.contains(" erofs "));
    let label = |line: &str| {
        assert!(line.ends_with("checksum good"), "{line}");
        let (_, rest) = line.split_once("label \"")?;
        Some(rest.split_once('"')?.0.to_string())
    };
    layers.map(|line| label(line).unwrap_or_default()).collect()
}

#[test]
fn a_layer_is_labelled_with_the_name_of_its_directory() {
    let directory = workshop("build-label");
    let (_, stderr, status) = build(&directory, &["--layer", "base", "--layer", "app/."]);
    assert_eq!((stderr.as_str(), status), ("", 0));
    assert_eq!(labels(&directory), ["base", "app"]);
    let cmdline = "retain_initrd rd.layers.skip=app";
    let plan = planned(&directory, &["plan", "image", "--cmdline", cmdline]);
    let layers: Vec<_> = plan
        .lines()
        .filter(|line| line.starts_with("layer "))
        .collect();
    assert_eq!(layers.len(), 1, "{plan}");
    assert!(layers[0].contains("erofs \"base\""), "{plan}");
    assert!(!plan.contains("no such layer"), "{plan}");
}

#[test]
fn a_label_can_be_chosen_for_each_layer() {
    let directory = workshop("build-label-chosen");
    let words = [
        "--layer", "base", "--label", "os", "--layer", "app", "--label", "",
    ];
    assert_eq!(build(&directory, &words).2, 0);
    assert_eq!(labels(&directory), ["os", ""]);
    // The UUID depends on the content, of which the label is a part.
    let uuids = good(&directory, &["list", "image"]);
    let words = ["--layer", "base", "--layer", "app", "--label", ""];
    assert_eq!(build(&directory, &words).2, 0);
    let others = good(&directory, &["list", "image"]);
    let uuid = |list: &str, layer| {
        list.lines()
            .filter(|line| line.contains("uuid"))
            .nth(layer)
            .unwrap()
            .to_string()
    };
    assert_ne!(uuid(&uuids, 0), uuid(&others, 0));
    assert_eq!(uuid(&uuids, 1), uuid(&others, 1));
}

#[test]
fn an_invalid_label_is_refused() {
    let directory = workshop("build-label-refused");
    fs::write(directory.join("x.cpio"), "").unwrap();
    for (words, status, expected) in [
        (
            &["--layer", "app", "--label", "sixteen-bytes-xx"][..],
            2,
            "error: invalid value 'sixteen-bytes-xx' for '--label <NAME>': longer than the 15 bytes of a volume label",
        ),
        (
            &["--label", "x", "--layer", "app"],
            2,
            "error: --label applies to the --layer before it, and there is none",
        ),
        (
            &["--layer", "app", "--label", "x", "--label", "y"],
            2,
            "error: --label twice for --layer app",
        ),
        (
            &["--layer", "app", "--as", "cpio", "--label", "x"],
            1,
            "layerinit: read app: a cpio archive has no volume label: --label is for EROFS images",
        ),
        (
            &["--layer", "x.cpio", "--label", "x"],
            1,
            "layerinit: read x.cpio: not a directory: --label is for EROFS images made from directories",
        ),
    ] {
        let (_, stderr, code) = build(&directory, words);
        assert_eq!(code, status, "{words:?}: {stderr}");
        assert_eq!(stderr.lines().next(), Some(expected), "{words:?}");
    }
}

// ---- the file

/// The mode, owner and group of `image`.
fn owned(directory: &Path) -> (u32, u32, u32) {
    let image = fs::metadata(directory.join("image")).unwrap();
    (image.mode() & 0o7777, image.uid(), image.gid())
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_rebuilt_image_keeps_mode_and_owner() {
    let directory = workshop("build-mode");
    let image = directory.join("image");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "umask 027; exec \"$0\" build -o image --init init"])
        .arg(env!("CARGO_BIN_EXE_layerinit"))
        .current_dir(&directory);
    assert!(shell.status().unwrap().success());
    assert_eq!(owned(&directory).0, 0o640);
    for (mode, uid, gid) in [(0o600, 0, 0), (0o444, 0, 0), (0o660, 1234, 5678)] {
        chown(&image, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(mode)).unwrap();
        let (_, stderr, status) = build(&directory, &["--layer", "app"]);
        assert_eq!((stderr.as_str(), status), ("", 0));
        assert_eq!(owned(&directory), (mode, uid, gid));
    }
    assert_eq!(names(&directory), ["app", "base", "image", "init"]);
}

#[test]
fn an_owner_that_cannot_be_kept_gets_a_warning() {
    let directory = workshop("build-owner");
    // Other users may not have access to the path of the tool.
    let other = Path::new("/tmp").join(format!("layerinit-owner-{}", std::process::id()));
    fs::create_dir(&other).unwrap();
    chown(&other, Some(1234), Some(1234)).unwrap();
    copy_program(env!("CARGO_BIN_EXE_layerinit"), other.join("layerinit"));
    fs::copy(directory.join("init"), other.join("init")).unwrap();
    fs::write(other.join("image"), "").unwrap();
    fs::set_permissions(other.join("image"), fs::Permissions::from_mode(0o664)).unwrap();
    let mut user = Command::new("setpriv");
    user.args([
        "--reuid=1234",
        "--regid=1234",
        "--clear-groups",
        "./layerinit",
    ])
    .args(["build", "-o", "image", "--init", "init"])
    .current_dir(&other);
    let (stdout, stderr, status) = said(&user.output().unwrap());
    let image = owned(&other);
    fs::remove_dir_all(&other).unwrap();
    assert_eq!((stderr.as_str(), status), ("", 0));
    let warning = "warning: image: the owner and group of the file that it replaces could not be kept: Operation not \
                   permitted (os error 1)";
    assert_eq!(stdout.lines().next(), Some(warning));
    // The mode without the write permission of the group, which is another one now.
    assert_eq!(image, (0o604, 1234, 1234));
}

#[test]
fn an_image_can_go_to_standard_output() {
    let directory = workshop("build-stdout");
    let layers = ["--layer", "base", "--layer", "app", "--as", "cpio"];
    let (stdout, _, _) = build(&directory, &layers);
    let mut piped = tool(&directory);
    piped
        .args(["build", "-o", "-", "--init", "init"])
        .args(layers);
    let output = piped.output().unwrap();
    let (_, stderr, status) = said(&output);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(stderr, stdout.replace("image:", "standard output:"));
    assert!(output.stdout == fs::read(directory.join("image")).unwrap());
    assert_eq!(names(&directory), ["app", "base", "image", "init"]);

    let words = format!("{} build -o - --init init", env!("CARGO_BIN_EXE_layerinit"));
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &words, "/dev/null"])
        .current_dir(&directory);
    let (stdout, _, status) = said(&terminal.stdin(Stdio::null()).output().unwrap());
    let refused = "layerinit: write standard output: it is a terminal; redirect it, or name a file with -o\r\n";
    assert_eq!((stdout.as_str(), status), (refused, 1));
}

#[test]
fn a_killed_build_leaves_nothing() {
    let directory = workshop("build-killed");
    fs::create_dir(directory.join("bin")).unwrap();
    let mkfs = directory.join("bin/mkfs.erofs");
    fs::write(&mkfs, "#!/bin/sh\necho $$; exec sleep 1000\n").unwrap();
    fs::set_permissions(&mkfs, fs::Permissions::from_mode(0o755)).unwrap();
    let before = names(&directory);
    let mut build = tool(&directory);
    let path = format!("{}:/usr/bin:/bin", directory.join("bin").display());
    build
        .args([
            "build", "-o", "image", "--init", "init", "--layer", "app", "--as", "cpio.gz",
            "--layer", "base",
        ])
        .env("PATH", path);
    let mut build = build.spawn().unwrap();
    // The only child of the tool, once it runs mkfs.erofs.
    let children = format!("/proc/{0}/task/{0}/children", build.id());
    let patience = Instant::now() + Duration::from_secs(60);
    let child = loop {
        assert!(Instant::now() < patience, "mkfs.erofs was not started");
        let child = fs::read_to_string(&children).unwrap();
        let command =
            fs::read_to_string(format!("/proc/{}/cmdline", child.trim())).unwrap_or_default();
        if command.starts_with("sleep\0") {
            break child.trim().to_string();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    build.kill().unwrap();
    build.wait().unwrap();
    let left = names(&directory);
    assert!(Command::new("kill").arg(&child).status().unwrap().success());
    assert_eq!(left, before);
}

#[test]
fn without_unnamed_files_a_build_uses_a_temporary_directory() {
    let directory = workshop("build-named");
    let layers = ["--layer", "base", "--layer", "app", "--as", "cpio.gz"];
    build(&directory, &layers);
    let image = fs::read(directory.join("image")).unwrap();
    fs::set_permissions(directory.join("image"), fs::Permissions::from_mode(0o600)).unwrap();
    // Without /proc, an unnamed file cannot be linked.
    let mut unshare = Command::new("unshare");
    unshare
        .args([
            "--mount",
            "sh",
            "-c",
            "umount -l /proc && exec \"$0\" \"$@\"",
        ])
        .arg(env!("CARGO_BIN_EXE_layerinit"))
        .args(["build", "-o", "image", "--init", "init"])
        .args(layers)
        .current_dir(&directory);
    let (_, stderr, status) = said(&unshare.output().unwrap());
    assert_eq!((stderr.as_str(), status), ("", 0));
    assert!(fs::read(directory.join("image")).unwrap() == image);
    assert_eq!(owned(&directory).0, 0o600);
    assert_eq!(names(&directory), ["app", "base", "image", "init"]);
}

// ---- layers inside the loader

const LAYERS: [&str; 8] = [
    "--layer",
    "base",
    "--layer",
    "late.cpio",
    "--layer",
    "app",
    "--as",
    "cpio.gz",
];
const PLAIN: [&str; 2] = ["--erofs-compression", "none"];

/// A workshop with an archive, and with a spec without /layers.
fn with_spec(name: &str) -> PathBuf {
    let directory = workshop(name);
    fs::write(directory.join("late.cpio"), cpio(&[file("x", b"1")])).unwrap();
    // Files of at most a page are not aligned.
    fs::write(directory.join("base/etc/data"), "data".repeat(5000)).unwrap();
    fs::write(directory.join("spec"), "file /init init 0755 0 0\n").unwrap();
    directory
}

#[test]
fn layers_inside_are_files_of_the_loader_in_their_order() {
    let directory = with_spec("build-inside");
    for (spec, directories) in [(&[][..], 5), (&["--spec", "spec"], 1)] {
        let (stdout, stderr, status) = build(
            &directory,
            &[spec, &LAYERS, &PLAIN, &["--layers-inside"]].concat(),
        );
        assert_eq!((stderr.as_str(), status), ("", 0));
        assert!(stdout.ends_with(", 3 layers inside it\n"), "{stdout}");
        let plan = planned(&directory, &["plan", "image"]);
        let names: Vec<_> = plan
            .lines()
            .filter(|line| line.starts_with("layer "))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "layer 0 (10-base.erofs)",
                "layer 1 (20-late.cpio)",
                "layer 2 (30-app.cpio.gz)"
            ]
        );
        let list = good(&directory, &["list", "--files", "image"]);
        // One archive, and the padding after it.
        assert_eq!(
            list.lines().filter(|line| line.starts_with("0x")).count(),
            2,
            "{list}"
        );
        assert_eq!(
            list.lines()
                .filter(|line| line.starts_with("    d"))
                .count(),
            directories,
            "{list}"
        );
    }
}

#[test]
fn a_layer_inside_has_the_bytes_of_one_that_is_appended() {
    let directory = with_spec("build-inside-appended");
    let position = |image: &[u8]| {
        let mut pages = image.chunks(4096);
        let page = pages.position(|page| {
            page.get(1024..)
                .is_some_and(|page| page.starts_with(&MAGIC))
        });
        page.unwrap() * 4096
    };
    for spec in [&[][..], &["--spec", "spec"]] {
        let words = [spec, &LAYERS, &PLAIN, &["--layers-inside"]].concat();
        assert_eq!(build(&directory, &words).2, 0);
        let inside = fs::read(directory.join("image")).unwrap();
        assert_eq!(
            build(&directory, &[spec, &LAYERS[..2], &PLAIN].concat()).2,
            0
        );
        let appended = fs::read(directory.join("image")).unwrap();
        let base = &appended[position(&appended)..];
        assert!(inside[position(&inside)..].starts_with(base));
    }
}

#[test]
fn ten_layers_inside_have_numbers_of_three_digits() {
    let directory = with_spec("build-inside-ten");
    let ten = ["--layer", "late.cpio"].repeat(10);
    assert_eq!(
        build(&directory, &[&ten[..], &["--layers-inside"]].concat()).2,
        0
    );
    let plan = planned(&directory, &["plan", "image"]);
    assert!(plan.starts_with("layer 0 (010-late.cpio)"), "{plan}");
    assert!(plan.contains("layer 9 (100-late.cpio)"), "{plan}");
}

#[test]
fn files_of_an_archive_are_aligned_to_powers_of_two_only() {
    let directory = with_spec("build-inside-align");
    let (_, stderr, status) = build(
        &directory,
        &[&LAYERS[..2], &["--layers-inside", "--align", "12"]].concat(),
    );
    let message = "layerinit: align layers in the loader: not a power of two, which files of an archive need\n";
    assert_eq!((stderr.as_str(), status), (message, 1));
}

#[test]
fn files_that_a_boot_loader_adds_have_their_directory() {
    let directory = workshop("build-newc");
    assert_eq!(build(&directory, &[]).2, 0);
    let mut image = fs::read(directory.join("image")).unwrap();
    // As iPXE does: a header for each file, and no trailer.
    let layer = erofs(1, "base");
    image.extend(cpio_without_trailer(&[file(
        "layers/10-base.erofs",
        &layer,
    )]));
    fs::write(directory.join("image"), &image).unwrap();
    let plan = planned(&directory, &["plan", "image"]);
    assert!(
        plan.starts_with("layer 0 (10-base.erofs): 4096 bytes, erofs \"base\""),
        "{plan}"
    );
    let (checked, _, _) = said(&tool(&directory).args(["check", "image"]).output().unwrap());
    assert!(
        !checked.contains("there is no directory layers"),
        "{checked}"
    );
}
