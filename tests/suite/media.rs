//! `rd.layers.from=`: layers in the initramfs and on disks, with `/init` as PID 1 on the kernel of this
//! machine. Needs root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::common::disk::{Image, Loop, fresh_uuid};
use crate::common::guest::*;
use crate::common::*;

/// A base and an application. The script is the init of the base.
fn layers(script: &str) -> [Vec<u8>; 2] {
    two_layers(&Scratch::new(), script)
}

/// A disk with the files of a directory.
fn disk(tree: &Path, options: &[&str]) -> Image {
    let image = Image::new(16 << 20);
    let mut command = Command::new("mkfs.ext4");
    let command = command.args(["-q", "-F"]).args(options).arg("-d").arg(tree);
    run(command.arg(image.path()));
    image
}

/// Boots with a command line, and returns the console of the real init.
fn boots(guest: &mut Guest, cmdline: String) -> Outcome {
    guest.cmdline = cmdline.leak();
    let outcome = guest.boot();
    outcome.reached();
    outcome
}

#[test]
fn a_directory_of_the_initramfs_holds_the_layers_below_the_others() {
    let [base, app] = layers("cat /etc/which; ls /run/initramfs/media");
    let mut guest = Guest::new(&[("images/10-base", &base), ("layers/20-app", &app)]);
    // ls fails, because nothing is mounted there.
    guest.cmdline = "rd.layers.from=/images";
    let outcome = guest.boot();
    assert!(outcome.console.starts_with("app\n"), "{}", outcome.log);
    outcome
        .says("layer 0 (/images/10-base): mounted by loop")
        .says("layer 1 (20-app): mounted by loop");
    guest.cmdline = "rd.layers.from=/images rd.layers.skip=20-app";
    assert!(guest.boot().console.starts_with("base\n"));
    guest.cmdline = "rd.layers.from=/images/10-base rd.layers.only=10-base,none";
    let outcome = guest.boot();
    assert!(outcome.console.starts_with("base\n"));
    outcome.says("rd.layers.only=none: there is no such layer");
}

#[test]
fn layers_on_a_disk_are_mounted_in_place_and_the_disk_is_unchanged() {
    let script = "cat /etc/which /etc/top; ls /run/initramfs/media/0/a; touch /run/initramfs/media/0/x; \
                  grep -o '\"media\":[^]]*]' /run/initramfs/layerinit.json";
    let [base, app] = layers(script);
    let scratch = Scratch::new();
    let tree = scratch.join("tree");
    fs::create_dir_all(tree.join("a")).unwrap();
    fs::write(tree.join("a/10-base.erofs"), &base).unwrap();
    symlink("/20-app.erofs", tree.join("a/20-app.erofs")).unwrap();
    fs::write(tree.join("20-app.erofs"), &app).unwrap();
    let top = cpio(&[dir("etc"), file("etc/top", b"top\n")]);
    fs::write(tree.join("a/30-top.cpio"), top).unwrap();
    fs::create_dir(tree.join("a/lost")).unwrap();
    let label = fresh_uuid()[..8].to_string();
    let image = disk(&tree, &["-L", &label]);
    let before = fs::read(image.path()).unwrap();
    let attached = Loop::attach(&image);
    let mut guest = Guest::new(&[]);
    for (word, backend) in [("", "file"), ("rd.layers.backend=loop", "loop")] {
        let outcome = boots(
            &mut guest,
            format!("rd.layers.from=LABEL={label}:/a {word} panic=-1"),
        );
        let node = &attached.0;
        assert_eq!(
            outcome.console,
            format!(
                "app\ntop\n10-base.erofs\n20-app.erofs\n30-top.cpio\nlost\n\
                 touch: /run/initramfs/media/0/x: Read-only file system\n\
                 \"media\":[{{\"from\":\"LABEL={label}:/a\",\"node\":\"{node}\",\"type\":\"ext4\",\
                 \"mount\":\"/run/initramfs/media/0\"}}]\n"
            )
        );
        outcome
            .says(&format!(
                "layer 0 (LABEL={label}:/a/10-base.erofs): mounted by {backend}"
            ))
            .says(&format!(
                "LABEL={label}:/a/lost: not a regular file; not used"
            ));
    }
    assert!(
        fs::read(image.path()).unwrap() == before,
        "the disk was written to"
    );
}

#[test]
fn an_extracted_layer_leaves_the_disk_unmounted() {
    let [base, _] = layers("cat /etc/which; grep -c ' /run/initramfs/media' /proc/mounts; true");
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("tree")).unwrap();
    fs::write(scratch.join("tree/base"), base).unwrap();
    let image = disk(&scratch.join("tree"), &[]);
    let attached = Loop::attach(&image);
    let mut guest = Guest::new(&[]);
    let from = format!("rd.layers.from={}:/base panic=-1", attached.0);
    assert_eq!(boots(&mut guest, from.clone()).console, "base\n1\n");
    let outcome = boots(&mut guest, format!("{from} rd.layers.backend=extract"));
    assert_eq!(outcome.console, "base\n0\n");
    outcome.says(&format!(
        "rd.layers.from={}:/base: unmounted, no layer is mounted from it",
        attached.0
    ));
}

/// A copy of the filesystem as after a power cut: copied while it is mounted and has been written to.
fn after_a_power_cut(image: &Image) -> Image {
    let (scratch, dirty) = (Scratch::new(), Image::new(0));
    fs::create_dir(scratch.join("mnt")).unwrap();
    let script = "mount -o loop \"$1\" \"$2\" && echo x >\"$2/new\" && sync && cp \"$1\" \"$3\" && umount \"$2\"";
    run(Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", image.path()])
        .arg(scratch.join("mnt"))
        .arg(dirty.path()));
    dirty
}

#[test]
fn a_journal_is_not_replayed() {
    let [base, _] = layers("cat /etc/which");
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("tree")).unwrap();
    fs::write(scratch.join("tree/base"), base).unwrap();
    let dirty = after_a_power_cut(&disk(&scratch.join("tree"), &[]));
    let before = fs::read(dirty.path()).unwrap();
    let attached = Loop::attach(&dirty);
    let mut guest = Guest::new(&[]);
    let outcome = boots(
        &mut guest,
        format!("rd.layers.from={}:/base panic=-1", attached.0),
    );
    assert_eq!(outcome.console, "base\n");
    outcome.says("mounted with noload, because its journal has to be replayed");
    assert!(
        fs::read(dirty.path()).unwrap() == before,
        "the disk was written to"
    );
}

#[test]
fn one_disk_holds_the_layers_and_takes_the_writes() {
    let script =
        "cat /etc/which; touch /run/initramfs/media/0/x; echo boot >>/boots; cat /boots; true";
    let [base, app] = layers(script);
    let scratch = Scratch::new();
    let tree = scratch.join("tree");
    fs::create_dir_all(tree.join("a")).unwrap();
    fs::write(tree.join("a/10-base.erofs"), &base).unwrap();
    fs::write(tree.join("a/20-app.erofs"), &app).unwrap();
    let (label, uuid) = (fresh_uuid()[..8].to_string(), fresh_uuid());
    let image = after_a_power_cut(&disk(&tree, &["-L", &label, "-U", &uuid]));
    let attached = Loop::attach(&image);
    let mut guest = Guest::new(&[]);
    let from = format!("rd.layers.from={}:/a panic=-1", attached.0);
    // Without rd.overlay= on it, the device is not written to.
    let before = fs::read(image.path()).unwrap();
    let cmdline = format!("{from} rd.overlay=LABEL={label} rd.overlay.readonly");
    boots(&mut guest, cmdline).says("mounted with noload");
    assert!(fs::read(image.path()).unwrap() == before);

    let read_only = "touch: /run/initramfs/media/0/x: Read-only file system\n";
    let gone = "touch: /run/initramfs/media/0/x: No such file or directory\n";
    for (boot, (overlay, more, touch)) in [
        (format!("LABEL={label}"), "", read_only),
        (
            format!("UUID={uuid}:/layerinit"),
            "rd.layers.backend=loop",
            read_only,
        ),
        (attached.0.clone(), "rd.layers.backend=extract", gone),
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = boots(&mut guest, format!("{from} rd.overlay={overlay} {more}"));
        let boots = "boot\n".repeat(boot + 1);
        assert_eq!(
            outcome.console,
            format!("app\n{touch}{boots}"),
            "{}",
            outcome.log
        );
        outcome.says(&format!(
            "rd.layers.from={0} is the device of rd.overlay=, too: its filesystem is mounted for writing",
            attached.0
        ));
        // The journal is replayed, because the filesystem is mounted for writing.
        assert!(!outcome.log.contains("noload"), "{}", outcome.log);
    }
    let cmdline =
        format!("{from} rd.overlay=UUID={uuid}:/kept rd.overlay.for=/etc rd.layers.backend=loop");
    boots(&mut guest, cmdline).says("writes to /etc go to /run/initramfs/kept/kept and are kept");
}

#[test]
fn a_read_only_disk_holds_layers_and_takes_no_writes() {
    let [base, _] = layers("cat /etc/which");
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("tree")).unwrap();
    fs::write(scratch.join("tree/base"), base).unwrap();
    let attached = Loop::read_only(&disk(&scratch.join("tree"), &[]));
    let mut guest = Guest::new(&[]);
    let cmdline = format!(
        "rd.layers.from={0}:/base rd.overlay={0} panic=-1",
        attached.0
    );
    failure(&mut guest, cmdline.clone().leak()).says(&format!(
        "boot failed: use rd.overlay={}:/layerinit: ",
        attached.0
    ));
    let outcome = boots(&mut guest, format!("{cmdline} rd.overlay.fallback=tmpfs"));
    assert_eq!(outcome.console, "base\n");
    outcome.says("CANNOT BE USED");
}

#[test]
fn a_device_without_a_filesystem_holds_images_one_after_the_other() {
    let [base, app] = layers("cat /etc/which");
    let image = Image::new(0);
    let mut bytes = base;
    bytes.resize(bytes.len().next_multiple_of(1 << 20), 0);
    bytes.extend(&app);
    bytes.resize(bytes.len().next_multiple_of(8 << 20), 0);
    fs::write(image.path(), bytes).unwrap();
    let attached = Loop::attach(&image);
    let mut guest = Guest::new(&[]);
    for colon in ["", ":"] {
        let from = format!("rd.layers.from={}{colon} panic=-1", attached.0);
        let outcome = boots(&mut guest, from);
        assert_eq!(outcome.console, "app\n");
        outcome
            .says(&format!("layer 0 ({}): mounted by loop", attached.0))
            .says("): mounted by loop");
    }
    // /init must not punch holes into the disk, whose node is in a devtmpfs.
    let before = fs::read(image.path()).unwrap();
    let from = format!(
        "rd.layers.from={} rd.layers.backend=extract panic=-1",
        attached.0
    );
    assert_eq!(boots(&mut guest, from).console, "app\n");
    assert!(
        fs::read(image.path()).unwrap() == before,
        "the disk was written to"
    );
}

#[test]
fn a_missing_layer_fails_the_boot_with_a_list_of_what_exists() {
    let [base, _] = layers("echo never");
    let scratch = Scratch::new();
    let tree = scratch.join("tree");
    fs::create_dir_all(tree.join("a")).unwrap();
    fs::write(tree.join("a/base.erofs"), &base).unwrap();
    fs::write(tree.join("a/other"), "x").unwrap();
    let image = disk(&tree, &[]);
    let attached = Loop::attach(&image);
    let node = attached.0.as_str();
    let mut guest = Guest::new(&[("images/base", &base), ("text", b"no image at all")]);
    fs::create_dir(guest.scratch.join("rootfs/empty")).unwrap();
    symlink("around", guest.scratch.join("rootfs/around")).unwrap();
    let uuid = fresh_uuid();
    for (from, expected) in [
        (
            "/images/none".into(),
            "open rd.layers.from=/images/none: ENOENT: No such file or directory; /images holds: base".to_string(),
        ),
        ("/around".into(), "open rd.layers.from=/around: ELOOP: ".into()),
        ("/images/../text".into(), "the path has . or .. in it".into()),
        ("/empty".into(), "use rd.layers.from=/empty: there is no file in it".into()),
        (
            "/text".into(),
            "use rd.layers.from=/text: read /text: ".into(),
        ),
        (
            format!("{node}:/a/nothing/base.erofs"),
            format!(
                "open rd.layers.from={node}:/a/nothing/base.erofs: ENOENT: No such file or directory; /a holds: \
                 base.erofs, other"
            ),
        ),
        (format!("{node}:/a/other"), format!("use rd.layers.from={node}:/a/other: read ")),
        (
            format!("{node}:"),
            format!("use rd.layers.from={node}: read {node}: "),
        ),
        (
            format!("UUID={uuid}:/a rd.timeout=1"),
            format!("find rd.layers.from=UUID={uuid}: no such device after 1 s; devices: "),
        ),
    ] {
        let cmdline = format!("rd.layers.from={from} panic=-1");
        let outcome = failure(&mut guest, cmdline.leak());
        outcome.says("boot failed: ").says(&expected);
    }
}

#[test]
fn more_files_than_overlayfs_has_layers_are_refused() {
    let mut guest = Guest::new(&[]);
    let images = guest.scratch.join("rootfs/images");
    fs::create_dir(&images).unwrap();
    for number in 0..501 {
        fs::write(images.join(format!("{number:03}")), erofs(1, "")).unwrap();
    }
    let outcome = failure(&mut guest, "rd.layers.from=/images panic=-1");
    outcome.says("plan /images/500: more than the 500 layers that overlayfs can stack");
}

#[test]
fn a_squashfs_image_is_a_layer() {
    let scratch = Scratch::new();
    let tree = scratch.join("tree");
    system(&tree, "cat /etc/which; grep -c squashfs /proc/mounts");
    fs::write(tree.join("etc/which"), "squashfs\n").unwrap();
    let image = scratch.join("image");
    run(Command::new("mksquashfs").args([&tree, &image]).args([
        "-noappend",
        "-quiet",
        "-no-progress",
    ]));
    let image = fs::read(image).unwrap();
    let mut guest = Guest::new(&[("images/base.squashfs", &image)]);
    let outcome = boots(&mut guest, "rd.layers.from=/images panic=-1".into());
    assert_eq!(outcome.console, "squashfs\n1\n");
    outcome.says("layer 0 (/images/base.squashfs): mounted by loop");
    let cmdline = "rd.layers.from=/images rd.layers.backend=extract panic=-1";
    failure(&mut guest, cmdline).says("a SquashFS image needs the backend loop");
}
