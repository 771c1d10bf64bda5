//! What `list`, `check` and `plan` read: sparse files and block devices. Needs root, for a loop device.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::common::{cpio, cpio_without_trailer, erofs, file, join, own_init, pad, program};
use crate::support::{said, scratch, tool};

/// Runs the tool with these words. To read terabytes is to fail.
fn run(directory: &Path, words: &[&str]) -> (String, String, i32) {
    let mut command = Command::new("timeout");
    command
        .arg("60")
        .arg(tool(directory).get_program())
        .args(words)
        .current_dir(directory);
    said(&command.output().unwrap())
}

/// Runs it and wants success; what it wrote.
fn good(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = run(directory, words);
    assert_eq!((stderr.as_str(), status), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// A file of 8 TiB that has `start` at its start and `end` at its end.
fn giant(path: &Path, start: &[u8], end: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(8 << 40).unwrap();
    file.write_all_at(start, 0).unwrap();
    file.write_all_at(end, (8 << 40) - end.len() as u64)
        .unwrap();
}

#[test]
fn holes_are_skipped() {
    let directory = scratch("inputs-giant");
    let loader = cpio(&[own_init("init")]);
    giant(&directory.join("both"), &loader, &erofs(1, "app"));
    assert_eq!(
        good(&directory, &["list", "both"]),
        "\
offset          length what
0x00000000         392 cpio 1 members, 4096 bytes unpacked, holds init
0x00000188 8796093017720 padding
0x7fffffff000        4096 erofs 1 blocks of 4096, label \"app\", checksum none
                       uuid 00000000-0000-0000-0000-000000000000, 0 inodes
"
    );
    let (plan, _, _) = run(&directory, &["plan", "both"]);
    assert!(
        plan.starts_with("layer 0 (initrd+0x7fffffff000): 4096 bytes, erofs \"app\""),
        "{plan}"
    );
    let (checked, _, status) = run(&directory, &["check", "both"]);
    assert_eq!(status, 1);
    assert!(
        checked.contains("layer 0 (initrd+0x7fffffff000)"),
        "{checked}"
    );

    let without = cpio_without_trailer(&[program("init")]);
    giant(&directory.join("without"), &without, b"");
    assert_eq!(
        good(&directory, &["list", "without"]),
        "\
offset          length what
0x00000000         120 cpio 1 members, 4096 bytes unpacked, holds init
0x00000078 8796093022088 padding
"
    );
}

#[test]
fn a_giant_is_no_layer() {
    let directory = scratch("inputs-giant-layer");
    fs::write(directory.join("init"), "#!/init\n").unwrap();
    giant(&directory.join("hollow"), b"", b"");
    giant(&directory.join("layer"), &cpio(&[file("x", b"1")]), b"");
    for (layer, message) in [
        (
            "hollow",
            "layerinit: read hollow: nothing but zeros is no layer\n",
        ),
        (
            "layer",
            "layerinit: write image: 8796093022216 bytes are more than any machine can load as an initrd\n",
        ),
    ] {
        let words = ["build", "-o", "image", "--init", "init", "--layer", layer];
        let (_, stderr, status) = run(&directory, &words);
        assert_eq!((stderr.as_str(), status), (message, 1));
        assert!(!directory.join("image").exists());
    }
}

#[test]
fn a_block_device_is_read_to_its_end() {
    let directory = scratch("inputs-device");
    let mut image = cpio(&[own_init("init")]);
    pad(&mut image, 4096);
    let image = join(&[&image, &erofs(2, "app"), &[0; 512]]);
    fs::write(directory.join("image"), &image).unwrap();
    let mut losetup = Command::new("losetup");
    let (device, stderr, status) = said(
        &losetup
            .args(["--find", "--show", "--read-only"])
            .arg(directory.join("image"))
            .output()
            .unwrap(),
    );
    assert_eq!((stderr.as_str(), status), ("", 0), "losetup");
    let device = device.trim();
    let (list, plan) = (
        run(&directory, &["list", device]),
        run(&directory, &["plan", device]),
    );
    let (json, _, _) = run(&directory, &["list", "--json", device]);
    let detached = Command::new("losetup").args(["--detach", device]).status();
    assert!(detached.unwrap().success());
    let of_file = |words: &[&str]| run(&directory, words);
    assert_eq!(list, of_file(&["list", "image"]));
    assert_eq!(plan, of_file(&["plan", "image"]));
    // The image has no root directory.
    assert_eq!((list.2, plan.2), (0, 1));
    let start = format!(
        "{{\"image\":\"{device}\",\"size\":{},\"trouble\":null",
        image.len()
    );
    assert!(json.starts_with(&start), "{json}");
}
