//! A loader that verifies its layers, as PID 1 on the kernel of this machine; tests/suite/boot.rs describes
//! the guest. The rows `verify-*` of qemu/rows cover what needs a kernel of their own.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::common::disk::{Image, Loop, ext4_of};
use crate::common::guest::*;
use crate::common::*;
use layerinit::verify::digest::Digest;

const LIST: &str = "rootfs/etc/layerinit/layers.sha256";
const POLICY: &str = "rootfs/etc/layerinit/policy";

fn line(name: &str, bytes: &[u8]) -> String {
    format!("{}  {name}\n", Digest::of(bytes))
}

/// A guest with two layers, their list, and a shell.
fn guest(script: &str) -> (Guest, [Vec<u8>; 2]) {
    let scratch = Scratch::new();
    let layers = two_layers(&scratch, script);
    let list = line("base", &layers[0]) + &line("app", &layers[1]);
    let mut guest = Guest::new(&[
        ("layers/10-base.erofs", &layers[0]),
        ("layers/20-app.erofs", &layers[1]),
        ("etc/layerinit/layers.sha256", list.as_bytes()),
        ("etc/layerinit/policy", b"# nothing\n"),
    ]);
    copy_program(busybox(), guest.scratch.join("rootfs/bin/busybox"));
    symlink("busybox", guest.scratch.join("rootfs/bin/sh")).unwrap();
    // A shell would print this.
    guest.typed = "echo got-a-shell\n";
    (guest, layers)
}

/// Expects that the boot fails with one message, and without a shell.
fn refused(guest: &mut Guest, cmdline: &'static str, message: &str) {
    let outcome = failure(guest, cmdline);
    let said = &outcome.log;
    assert!(
        said.contains(&format!("boot failed: {message}")),
        "no {message:?} in\n{said}"
    );
    assert_eq!(said.matches("boot failed").count(), 1, "{said}");
    assert!(!said.contains("starting a shell"), "{said}");
    assert!(
        !outcome.console.contains("got-a-shell\ngot"),
        "{}",
        outcome.console
    );
}

#[test]
fn listed_layers_boot_and_the_report_counts_them() {
    let (mut guest, layers) = guest(
        "cat /etc/which; grep -o '\"verified\":{\"layers\":2,\"bytes\":[0-9]*,\"us\":[0-9]*}' \
         /run/initramfs/layerinit.json; grep -o '\"verify\":[0-9]*' /run/initramfs/layerinit.json",
    );
    let bytes = layers[0].len() + layers[1].len();
    let outcome = guest.boot();
    let reached = outcome.reached();
    assert!(
        reached.contains(&format!(
            "app\n\"verified\":{{\"layers\":2,\"bytes\":{bytes},\"us\":"
        )),
        "{reached}"
    );
    assert!(reached.contains("\n\"verify\":"), "{reached}");
    outcome.says(&format!("2 layers verified: {bytes} bytes hashed in "));
    // Words that cannot defeat verification.
    guest.cmdline = "quiet rd.debug panic=-1 rd.timeout=1 retain_initrd rd.overlay=tmpfs:size=50% rd.shell=0 \
                     rd.layers.backend=loop,extract";
    guest.boot().reached();
}

#[test]
fn without_a_list_nothing_is_verified() {
    let (mut guest, _) = guest("cat /etc/which; grep -c verif /run/initramfs/layerinit.json");
    fs::remove_file(guest.scratch.join(LIST)).unwrap();
    fs::remove_file(guest.scratch.join(POLICY)).unwrap();
    guest.typed = "";
    let outcome = guest.boot();
    assert_eq!(outcome.console, "app\n0\n", "{}", outcome.log);
    assert!(!outcome.log.contains("verif"), "{}", outcome.log);
}

#[test]
fn a_changed_layer_or_list_is_refused_without_a_shell() {
    let (mut guest, layers) = guest("cat /etc/which");
    let good = fs::read_to_string(guest.scratch.join(LIST)).unwrap();
    let app = guest.scratch.join("rootfs/layers/20-app.erofs");
    let mut bytes = layers[1].clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&app, &bytes).unwrap();
    let found = Digest::of(&bytes);
    let [base_line, app_line] = [line("base", &layers[0]), line("app", &layers[1])];
    let message = format!(
        "verify layer 1 (20-app.erofs): offset 0x0, sha256 {found}; the list has {}",
        app_line.trim_end()
    );
    refused(&mut guest, "panic=-1", &message);
    fs::write(&app, &layers[1]).unwrap();
    for (text, message) in [
        (
            app_line.clone() + &base_line,
            "verify layer 0 (10-base.erofs): ",
        ),
        (base_line.clone(), "verify layer 1 (20-app.erofs): "),
        (
            good.clone() + &app_line,
            "verify the layers: number 2 of the list",
        ),
        (String::new(), "verify layer 0 (10-base.erofs): "),
        (
            good.replacen("  ", " ", 1),
            "read /etc/layerinit/layers.sha256: read line 1: not `DIGEST  NAME`",
        ),
    ] {
        fs::write(guest.scratch.join(LIST), text).unwrap();
        refused(&mut guest, "panic=-1", message);
    }
    // Without a policy, no shell is allowed either.
    fs::write(guest.scratch.join(LIST), &app_line).unwrap();
    fs::remove_file(guest.scratch.join(POLICY)).unwrap();
    refused(&mut guest, "panic=-1", "verify layer");
    fs::write(guest.scratch.join(POLICY), "allow nothing\n").unwrap();
    refused(
        &mut guest,
        "panic=-1",
        "read /etc/layerinit/policy: read line 1: /init has no word nothing",
    );
    fs::write(guest.scratch.join(POLICY), "").unwrap();
    fs::write(guest.scratch.join(LIST), &good).unwrap();
    assert!(guest.boot().reached().contains("app\n"));
}

#[test]
fn each_word_that_could_defeat_verification_is_refused() {
    let (mut guest, _) = guest("cat /etc/which");
    for cmdline in [
        "init=/bin/sh panic=-1",
        "root=/dev/sda1 panic=-1",
        "rd.break panic=-1",
        "rd.break=plan panic=-1",
        "rd.shell panic=-1",
        "rd.shell=1 panic=-1",
        "rd.layers.only=0 panic=-1",
        "rd.layers.skip=1 panic=-1",
        "rd.layers.from=/layers panic=-1",
        "rd.layers.from=/dev/sda1:/a panic=-1",
        "rd.overlay.for=/etc panic=-1",
        "rd.overlay.reset panic=-1",
        "rd.overlay=/dev/sda1 panic=-1",
        "rd.driver.pre=loop panic=-1",
        "rd.driver.blacklist=loop panic=-1",
        "rootflags=subvol=x panic=-1",
    ] {
        let word = cmdline.split(' ').next().unwrap();
        let message = format!(
            "check {word}: the policy of the loader (/etc/layerinit/policy) does not allow this"
        );
        refused(&mut guest, cmdline, &message);
    }
    // The policy allows them.
    fs::write(
        guest.scratch.join(POLICY),
        "allow rd.layers.skip=1\nallow rd.break\nallow rd.shell\n",
    )
    .unwrap();
    guest.cmdline = "rd.layers.skip=1";
    assert!(guest.boot().reached().contains("base\n"));
    refused_with_shell(&mut guest, "rd.layers.skip=0 panic=-1");
}

/// Two disks: one with the lower layer of the guest at /a/base, and one that is the layer, without a
/// filesystem.
fn on_disks(guest: &Guest, layers: &[Vec<u8>; 2]) -> [Image; 2] {
    let root = guest.scratch.join("rootfs");
    let tree = guest.scratch.join("tree");
    fs::create_dir_all(tree.join("a")).unwrap();
    fs::create_dir(root.join("images")).unwrap();
    fs::copy(root.join("layers/10-base.erofs"), tree.join("a/base")).unwrap();
    fs::rename(root.join("layers/10-base.erofs"), root.join("images/base")).unwrap();
    let raw = Image::new(16 << 20);
    fs::write(raw.path(), &layers[0]).unwrap();
    // A loop device has whole sectors.
    fs::File::options()
        .write(true)
        .open(raw.path())
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    [ext4_of(&tree), raw]
}

#[test]
fn layers_on_a_disk_are_copied_into_memory_and_hashed_there() {
    let (mut guest, layers) =
        guest("cat /etc/which; grep -c ' /run/initramfs/media' /proc/mounts; true");
    guest.typed = "";
    fs::write(guest.scratch.join(POLICY), "allow rd.layers.from\n").unwrap();
    let images = on_disks(&guest, &layers);
    // A file of the initramfs is in memory already.
    guest.cmdline = "rd.layers.from=/images panic=-1";
    let outcome = guest.boot();
    outcome.reached();
    assert!(
        !outcome.log.contains("copied into memory"),
        "{}",
        outcome.log
    );

    let disks = images.each_ref().map(Loop::attach);
    for (disk, path) in disks.iter().zip([":/a", ":"]) {
        let node = &disk.0;
        for backend in ["", "rd.layers.backend=extract"] {
            guest.cmdline = format!("rd.layers.from={node}{path} {backend} panic=-1").leak();
            let outcome = guest.boot();
            // The disk is no longer in use.
            assert_eq!(outcome.console, "app\n0\n", "{}", outcome.log);
            outcome
                .says("bytes copied into memory, because the disk could change")
                .says("2 layers verified: ");
        }
    }
    // A link in /layers may lead to a file on a disk.
    let root = guest.scratch.join("rootfs");
    fs::remove_dir_all(root.join("images")).unwrap();
    let mut changed = layers[0].clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(guest.scratch.join("tree/a/base"), &changed).unwrap();
    let image = ext4_of(&guest.scratch.join("tree"));
    let disk = Loop::attach(&image);
    let node = &disk.0;
    let cmdline = format!("rd.layers.from={node}:/a panic=-1");
    let message = format!(
        "verify layer 0 ({node}:/a/base): offset 0x0, sha256 {}; the list has ",
        Digest::of(&changed)
    );
    refused(&mut guest, cmdline.leak(), &message);
}

#[test]
fn a_disk_that_changes_between_check_and_mount_changes_nothing() {
    let (mut guest, layers) = guest("cat /etc/which; echo marker-original");
    let images = on_disks(&guest, &layers);
    fs::remove_dir_all(guest.scratch.join("rootfs/images")).unwrap();
    let disk = Loop::attach(&images[1]);
    let node = &disk.0;
    let found = layers[0].windows(8).position(|bytes| bytes == b"original");
    let at = found.unwrap();
    // A shell between plan and mount changes the init of the layer on the disk.
    guest.typed = format!(
        "echo CHANGED1 | busybox dd of={node} bs=1 seek={at} count=8 conv=notrunc; busybox sync; \
         echo 3 >/proc/sys/vm/drop_caches; exit\n"
    )
    .leak();
    guest.cmdline = format!("rd.layers.from={node}: rd.break=plan rd.debug panic=-1").leak();
    let (list, policy) = (guest.scratch.join(LIST), guest.scratch.join(POLICY));
    let listed = fs::read(&list).unwrap();
    fs::remove_file(&list).unwrap();
    fs::remove_file(&policy).unwrap();
    // Without a list, the changed init runs.
    let outcome = guest.boot();
    assert!(
        outcome.reached().ends_with("app\nmarker-CHANGED1\n"),
        "{}",
        outcome.log
    );
    let changed = fs::read(images[1].path()).unwrap();
    assert_eq!(changed[at..at + 8], *b"CHANGED1", "{}", outcome.log);
    // With a list, the hashed copy in memory is used.
    let mut restored = changed;
    restored[at..at + 8].copy_from_slice(b"original");
    fs::write(images[1].path(), &restored).unwrap();
    fs::write(&list, listed).unwrap();
    fs::write(
        &policy,
        "allow rd.layers.from\nallow rd.break\nallow rd.shell\n",
    )
    .unwrap();
    let outcome = guest.boot();
    assert!(
        outcome.reached().ends_with("app\nmarker-original\n"),
        "{}",
        outcome.log
    );
    outcome.says("2 layers verified: ");
    let changed = fs::read(images[1].path()).unwrap();
    assert_eq!(changed[at..at + 8], *b"CHANGED1");
}

#[test]
fn a_signed_list_may_be_beside_the_layers_on_a_disk() {
    let (mut guest, layers) = guest("cat /etc/which");
    guest.typed = "";
    let root = guest.scratch.join("rootfs");
    let list = fs::read(guest.scratch.join(LIST)).unwrap();
    fs::remove_file(guest.scratch.join(LIST)).unwrap();
    fs::remove_dir_all(root.join("layers")).unwrap();
    fs::write(
        guest.scratch.join(POLICY),
        "allow rd.layers.from\nminimum-version 7\n",
    )
    .unwrap();
    let tree = guest.scratch.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("10-base.erofs"), &layers[0]).unwrap();
    fs::write(tree.join("20-app.erofs"), &layers[1]).unwrap();
    fs::write(tree.join("layers.sha256"), &list).unwrap();
    // Without keys in the loader, the two files are not layers either, and have no effect.
    let key = guest.scratch.join("key");
    let scratch = guest.scratch.0.clone();
    let minisign = |arguments: &[&str]| {
        let mut command = Command::new("minisign");
        run(command.current_dir(&scratch).args(arguments));
    };
    minisign(&["-G", "-W", "-p", "key.pub", "-s", "key"]);
    let sign = |version: &str| {
        minisign(&["-S", "-s", "key", "-t", version, "-m", "tree/layers.sha256"]);
    };
    let keys = root.join("etc/layerinit/keys");
    fs::create_dir(&keys).unwrap();
    fs::copy(key.with_extension("pub"), keys.join("a.pub")).unwrap();
    let boot = |guest: &mut Guest| {
        let image = ext4_of(&guest.scratch.join("tree"));
        let disk = Loop::attach(&image);
        guest.cmdline = format!("rd.layers.from={}:/ panic=-1", disk.0).leak();
        (guest.boot(), disk.0.clone())
    };
    sign("version:7");
    let (outcome, _) = boot(&mut guest);
    assert_eq!(outcome.reached(), "app\n");
    outcome.says("2 layers verified: ");
    for (message, change) in [
        (
            "verify the signature /etc/layerinit/layers.sha256.minisig: made with none of the keys",
            &(|| {
                let mut forged = list.clone();
                forged[0] ^= 1;
                fs::write(tree.join("layers.sha256"), forged).unwrap();
            }) as &dyn Fn(),
        ),
        (
            "the list has version 6, and the loader boots none before 7",
            &|| {
                fs::write(tree.join("layers.sha256"), &list).unwrap();
                sign("version:6");
            },
        ),
        ("verify layer 1 ", &|| {
            sign("version:8");
            let mut app = layers[1].clone();
            *app.last_mut().unwrap() ^= 1;
            fs::write(tree.join("20-app.erofs"), app).unwrap();
        }),
        ("layers.sha256.minisig: ENOENT", &|| {
            fs::remove_file(tree.join("layers.sha256.minisig")).unwrap();
        }),
        ("the loader has keys, and there is no ", &|| {
            fs::remove_file(tree.join("layers.sha256")).unwrap();
        }),
    ] {
        change();
        let (outcome, _) = boot(&mut guest);
        let said = &outcome.log;
        assert!(said.contains(message), "no {message:?} in\n{said}");
        assert_eq!(said.matches("boot failed").count(), 1, "{said}");
    }
}

/// Expects that the boot fails, with a policy that allows a shell.
fn refused_with_shell(guest: &mut Guest, cmdline: &'static str) {
    let outcome = failure(guest, cmdline);
    outcome
        .says("boot failed: check rd.layers.skip=0: ")
        .says("starting a shell");
}
