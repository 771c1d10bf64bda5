//! A persistent upper, with a loop device as its disk. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::disk::{Image, Loop, ext4_of, fresh_uuid};
use crate::common::guest::*;
use layerinit::boot::mount::upper;

/// Leaks a command line that a test has made, with a word for a failed boot to end.
pub fn words(text: String) -> &'static str {
    format!("{text} panic=-1").leak()
}

/// A guest with one layer whose init runs `script`.
pub fn guest(scratch: &Scratch, script: &str) -> Guest {
    let base = scratch.join("base");
    system(&base, script);
    Guest::new(&[("layers/base.erofs", &mkfs(&base))])
}

/// An ext4 with these options of mkfs.ext4.
pub fn ext4(options: &[&str]) -> Image {
    let image = Image::new(16 << 20);
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .args(options)
        .arg(image.path()));
    image
}

const NO_FALLBACK: &str = "; boot without it: rd.overlay.fallback=tmpfs (what is written is lost then), or rd.overlay.readonly";

#[test]
fn writes_survive_the_next_boot() {
    let scratch = Scratch::new();
    let script = "cat /kept 2>/dev/null || echo nothing kept; echo kept >/kept; stat -c '%a %u' /; \
                  ls /run/initramfs/upper/over/lay; grep -o ' / overlay .*' /proc/mounts; \
                  grep -o '\"upper\":{[^}]*}' /run/initramfs/layerinit.json";
    let uuid = fresh_uuid();
    let image = ext4(&["-U", &uuid]);
    let disk = Loop::attach(&image);
    let mut guest = guest(&scratch, script);
    guest.cmdline = words(format!("rd.overlay=UUID={uuid}:over/lay"));
    let first = guest.boot();
    let console = first.reached();
    let node = &disk.0;
    for expected in [
        "nothing kept\n755 0\nstack\nupper\nwork\n",
        ",upperdir=/run/initramfs/upper/over/lay/upper,workdir=/run/initramfs/upper/over/lay/work",
        &format!(
            "\"upper\":{{\"overlay\":\"UUID={uuid}:/over/lay\",\"type\":\"ext4\",\"node\":\"{node}\",\
             \"mount\":\"/run/initramfs/upper\",\"directory\":\"/run/initramfs/upper/over/lay\",\
             \"state\":\"new\",\"changes\":[],\"refused\":null}}"
        ),
    ] {
        assert!(console.contains(expected), "no {expected} in\n{console}");
    }
    // No attributes that would tie the upper to these layers.
    for feature in ["index=on", "metacopy=on", "redirect_dir=on"] {
        assert!(!console.contains(feature), "{console}");
    }
    first
        .says(&format!("rd.overlay=UUID={uuid} ({node}): mounted as ext4"))
        .says("writes go to /run/initramfs/upper/over/lay and are kept");

    let second = guest.boot();
    assert!(
        second.reached().starts_with("kept\n755 0\n"),
        "{}",
        second.console
    );
}

#[test]
fn other_layers_can_be_put_below_an_upper() {
    let scratch = Scratch::new();
    let image = ext4(&[]);
    let disk = Loop::attach(&image);
    let cmdline = words(format!("rd.overlay={}", disk.0));
    let mut old = guest(
        &scratch,
        "echo old; echo changed >/etc/both; rm /etc/gone; touch /etc/new",
    );
    for name in ["both", "gone"] {
        fs::write(scratch.join("base/etc").join(name), "old\n").unwrap();
    }
    let image_of_base = mkfs(&scratch.join("base"));
    fs::write(old.scratch.join("rootfs/layers/base.erofs"), image_of_base).unwrap();
    old.cmdline = cmdline;
    assert_eq!(old.boot().reached(), "old\n");

    let scratch = Scratch::new();
    let mut new = guest(&scratch, "cat /etc/both; ls /etc");
    for name in ["both", "gone", "more"] {
        fs::write(scratch.join("base/etc").join(name), "new\n").unwrap();
    }
    let image_of_base = mkfs(&scratch.join("base"));
    fs::write(new.scratch.join("rootfs/layers/base.erofs"), image_of_base).unwrap();
    new.cmdline = cmdline;
    assert_eq!(new.boot().reached(), "changed\nboth\nmore\nnew\n");
}

#[test]
fn a_new_upper_gets_the_attributes_of_the_lowest_layer_once() {
    let scratch = Scratch::new();
    let image = ext4(&[]);
    let disk = Loop::attach(&image);
    let mut guest = guest(&scratch, "stat -c %a /; busybox chmod 711 /");
    fs::set_permissions(scratch.join("base"), fs::Permissions::from_mode(0o751)).unwrap();
    let image_of_base = mkfs(&scratch.join("base"));
    fs::write(
        guest.scratch.join("rootfs/layers/base.erofs"),
        image_of_base,
    )
    .unwrap();
    guest.cmdline = words(format!("rd.overlay={}:/", disk.0));
    assert_eq!(guest.boot().reached(), "751\n");
    assert_eq!(guest.boot().reached(), "711\n");
}

#[test]
fn an_overlay_over_the_root_device_does_not_change_it() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(
        &base,
        "cat /kept 2>/dev/null || echo nothing kept; echo kept >/kept; ls /run/initramfs/layers/0",
    );
    let root = ext4_of(&base);
    let before = fs::read(&root.0).unwrap();
    let data = ext4(&[]);
    let (root_disk, data_disk) = (Loop::attach(&root), Loop::attach(&data));
    let mut guest = Guest::new(&[]);
    guest.cmdline = words(format!(
        "root={} rw rd.overlay={}",
        root_disk.0, data_disk.0
    ));
    assert!(guest.boot().reached().starts_with("nothing kept\nbin\n"));
    assert!(guest.boot().reached().starts_with("kept\nbin\n"));
    assert!(
        fs::read(&root.0).unwrap() == before,
        "something was written to the root device"
    );

    // One device for both is refused, under any of its names.
    guest.cmdline = words(format!(
        "root={} rd.overlay={}:over",
        root_disk.0, root_disk.0
    ));
    failure_of(&guest).says(&format!(
        "boot failed: use rd.overlay={0}:/over: write to rd.overlay={0} ({0}): it is the root device too, and \
         overlayfs cannot write to one of its layers; an image in a file on it can be the layer instead \
         (rd.layers.from=){NO_FALLBACK}",
        root_disk.0
    ));
}

/// Boots with the unchanged command line, and expects a failure.
pub fn failure_of(guest: &Guest) -> Outcome {
    let outcome = guest.boot();
    assert!(!outcome.status.success(), "{}", outcome.console);
    outcome
}

/// Expects that `/init` refuses the disk with this reason, with and without a fallback.
fn refused(disk: &Loop, path: &str, why: &str) {
    let scratch = Scratch::new();
    let mut guest = guest(&scratch, "grep -o ' /run/initramfs/upper .*' /proc/mounts");
    let node = &disk.0;
    guest.cmdline = words(format!("rd.overlay={node}{path}"));
    let outcome = failure_of(&guest);
    assert!(outcome.log.contains(why), "no {why:?} in\n{}", outcome.log);
    outcome.says(NO_FALLBACK);

    guest.cmdline = words(format!(
        "rd.overlay={node}{path} rd.overlay.fallback=tmpfs:size=3m"
    ));
    let outcome = guest.boot();
    // The error is on the console even if the kernel log does not write errors there.
    fs::write(guest.scratch.join("printk"), "1 4 1 7\n").unwrap();
    let console = guest.boot().console;
    assert!(
        console.contains("layerinit: rd.overlay=") && console.contains(" IS LOST "),
        "{console}"
    );
    // Only the tmpfs is mounted.
    let mounts: Vec<_> = outcome.reached().lines().collect();
    assert!(
        matches!(mounts[..], [one] if one.contains(" tmpfs ") && one.contains("size=3072k")),
        "{mounts:?}"
    );
    outcome.says("CANNOT BE USED: ").says(why).says(
        "Writes go to a tmpfs (rd.overlay.fallback=): WHAT IS WRITTEN FROM NOW ON IS LOST when the machine stops",
    );
}

#[test]
fn a_filesystem_that_cannot_be_an_upper_is_refused_with_the_reason() {
    let image = Image::new(16 << 20);
    run(Command::new("mkfs.vfat").arg(image.path()));
    refused(
        &Loop::attach(&image),
        "",
        "it is vfat: it stores no owners, modes",
    );

    let image = Image::new(16 << 20);
    run(Command::new("mkfs.exfat").arg(image.path()));
    refused(
        &Loop::attach(&image),
        "",
        "it is exfat: it stores no owners, modes",
    );

    let image = Image::new(16 << 20);
    run(Command::new("mkswap").arg(image.path()));
    refused(&Loop::attach(&image), "", ": it is swap space");

    let image = Image::new(16 << 20);
    let mut boot_sector = vec![0; 16 << 20];
    boot_sector[..11].copy_from_slice(b"\xeb\x52\x90NTFS    ");
    fs::write(&image.0, boot_sector).unwrap();
    refused(&Loop::attach(&image), "", ": it is NTFS, ");

    let image = Image::new(16 << 20);
    refused(&Loop::attach(&image), "", ": it holds no known filesystem");

    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(&base, "true");
    let image = Image::new(0);
    fs::write(&image.0, mkfs(&base)).unwrap();
    refused(
        &Loop::attach(&image),
        "",
        "it is erofs: this type of filesystem is read-only",
    );
}

#[test]
fn features_that_overlayfs_needs_are_tested() {
    // ext4 always has extended attributes; f2fs may lack them, and ramfs does.
    let scratch = Scratch::new();
    let path = scratch.join("ramfs");
    fs::create_dir(&path).unwrap();
    run(Command::new("mount")
        .args(["-t", "ramfs", "ramfs"])
        .arg(&path));
    fs::create_dir(path.join("work")).unwrap();
    let error = upper::check_upper_support(path.to_str().unwrap(), "ramfs")
        .unwrap_err()
        .to_string();
    run(Command::new("umount").arg(&path));
    assert!(
        error.starts_with("set an extended attribute of ")
            && error.contains("/ramfs/work: EOPNOTSUPP"),
        "{error}"
    );
    refused(
        &Loop::attach(&ext4(&["-O", "^filetype"])),
        "",
        "its ext4 does not store file types in directories (d_type), which overlayfs needs (make it with the \
         feature filetype)",
    );
    // The kernel refuses an upper of a volatile overlay that was not unmounted.
    let image = ext4(&[]);
    mounted(&image, |root| {
        fs::create_dir_all(root.join("layerinit/work/work/incompat/volatile")).unwrap();
        fs::create_dir(root.join("layerinit/upper")).unwrap();
    });
    refused(&Loop::attach(&image), "", "mount overlay: EINVAL");
    // A symbolic link as directory.
    let image = ext4(&[]);
    mounted(&image, |root| {
        std::os::unix::fs::symlink("/etc", root.join("over")).unwrap();
    });
    refused(
        &Loop::attach(&image),
        ":over/lay",
        "open directory /run/initramfs/upper/over: ENOTDIR",
    );
}

/// Calls `change` with the mounted filesystem of an image, in a private mount namespace.
pub fn mounted(image: &Image, change: impl FnOnce(&std::path::Path)) {
    let scratch = Scratch::new();
    let target = scratch.join("mnt");
    fs::create_dir(&target).unwrap();
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(&image.0)
        .arg(&target));
    change(&target);
    run(Command::new("umount").arg(&target));
}

#[test]
fn a_read_only_or_missing_disk_is_refused() {
    let image = ext4(&[]);
    refused(
        &Loop::read_only(&image),
        "",
        "mount ext4: EACCES: Permission denied",
    );

    let scratch = Scratch::new();
    let mut guest = guest(&scratch, "true");
    guest.cmdline = "rd.overlay=LABEL=not-there rootwait=0 panic=-1";
    failure_of(&guest).says(
        "boot failed: use rd.overlay=LABEL=not-there:/layerinit: find rd.overlay=LABEL=not-there: no such device \
         after 0 s; devices: ",
    );
}

#[test]
fn remains_of_an_interrupted_boot_are_replaced() {
    let image = ext4(&[]);
    mounted(&image, |root| {
        let base = root.join("layerinit");
        fs::create_dir_all(base.join("next.tmp/upper")).unwrap();
        fs::create_dir_all(base.join("work/work/#12")).unwrap();
        fs::write(base.join("work/work/#13"), "half a copy").unwrap();
    });
    let disk = Loop::attach(&image);
    let scratch = Scratch::new();
    let mut guest = guest(
        &scratch,
        "ls /run/initramfs/upper/layerinit /run/initramfs/upper/layerinit/work/work",
    );
    guest.cmdline = words(format!("rd.overlay={}", disk.0));
    assert_eq!(
        guest.boot().reached(),
        "/run/initramfs/upper/layerinit:\nstack\nupper\nwork\n\n/run/initramfs/upper/layerinit/work/work:\n"
    );
}
