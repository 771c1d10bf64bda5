//! A loader that verifies its layers, as PID 1 on this machine's own kernel: tests/suite/boot.rs describes the guest.
//! The rows `verify-*` of qemu/rows boot what needs a kernel.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::common::disk::{Image, Loop};
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
    // Whoever gets a shell writes this.
    guest.typed = "echo got-a-shell\n";
    (guest, layers)
}

/// A boot that is refused: one message, and no shell.
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
fn the_listed_layers_boot_and_the_report_says_so() {
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
    outcome.says(&format!("2 layers verified: {bytes} bytes in "));
    // Words that cannot defeat it.
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
    // The policy can allow them.
    fs::write(
        guest.scratch.join(POLICY),
        "allow rd.layers.skip=1\nallow rd.break\nallow rd.shell\n",
    )
    .unwrap();
    guest.cmdline = "rd.layers.skip=1";
    assert!(guest.boot().reached().contains("base\n"));
    refused_with_shell(&mut guest, "rd.layers.skip=0 panic=-1");
}

#[test]
fn layers_on_a_disk_are_refused_though_the_list_has_them() {
    let (mut guest, layers) = guest("cat /etc/which");
    fs::write(guest.scratch.join(POLICY), "allow rd.layers.from\n").unwrap();
    let root = guest.scratch.join("rootfs");
    let tree = guest.scratch.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::create_dir(root.join("images")).unwrap();
    fs::copy(root.join("layers/10-base.erofs"), tree.join("base")).unwrap();
    fs::rename(root.join("layers/10-base.erofs"), root.join("images/base")).unwrap();
    // A file of the initramfs is in memory.
    guest.cmdline = "rd.layers.from=/images panic=-1";
    guest.boot().reached();

    let image = Image::new(16 << 20);
    let mut command = Command::new("mkfs.ext4");
    let command = command.args(["-q", "-F", "-d"]).arg(&tree);
    run(command.arg(image.path()));
    let disk = Loop::attach(&image);
    let node = &disk.0;
    let what = "it is on a disk, and could change after it is verified";
    let cmdline = format!("rd.layers.from={node}:/base panic=-1");
    let message = format!("verify {node}:/base: {what}");
    refused(&mut guest, cmdline.leak(), &message);

    let image = Image::new(16 << 20);
    fs::write(image.path(), &layers[0]).unwrap();
    let raw = Loop::attach(&image);
    let node = &raw.0;
    let cmdline = format!("rd.layers.from={node}: panic=-1");
    refused(
        &mut guest,
        cmdline.leak(),
        &format!("verify {node}: {what}"),
    );
}

/// A boot that is refused, where the policy allows a shell.
fn refused_with_shell(guest: &mut Guest, cmdline: &'static str) {
    let outcome = failure(guest, cmdline);
    outcome
        .says("boot failed: check rd.layers.skip=0: ")
        .says("starting a shell");
}
