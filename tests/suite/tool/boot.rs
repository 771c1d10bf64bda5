//! `layerinit boot`, with a script in place of QEMU that records its arguments.

use super::*;

/// A directory with an image, a kernel, and this script in place of QEMU.
fn guest(name: &str, qemu: &str) -> std::path::PathBuf {
    let directory = workshop(name);
    fs::write(directory.join("init"), init_for(62)).unwrap();
    good(
        &directory,
        &["build", "-o", "a.img", "--init", "init", "--layer", "root"],
    );
    let mut kernel = vec![0; 1024];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(directory.join("vmlinuz"), kernel).unwrap();
    fs::create_dir(directory.join("bin")).unwrap();
    script(&directory.join("bin/qemu-system-x86_64"), qemu);
    directory
}

/// Runs `layerinit boot` with these words.
fn boot(directory: &Path, words: &[&str]) -> (String, String, i32) {
    let path = format!(
        "{}:/usr/bin:/bin",
        directory.canonicalize().unwrap().join("bin").display()
    );
    let mut command = tool(directory);
    command.env("PATH", path).arg("boot").args(words);
    said(&command.output().unwrap())
}

const COMMAND: &str = "qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -machine q35 -accel tcg \
    -cpu max,la57=off -m 384 -smp 1 -display none -serial mon:stdio -device virtio-rng-pci -kernel vmlinuz \
    -initrd a.img -append 'console=ttyS0 panic=-1 no_timer_check retain_initrd'\n";

#[test]
fn the_tool_exits_with_the_status_of_the_guest() {
    let directory = guest("boot-status", "cat console; exit $(cat status)");
    let words = [
        "a.img", "--kernel", "vmlinuz", "--accel", "tcg", "--smp", "1",
    ];
    let panic = "[ 1.0] Kernel panic - not syncing: no init\r\n";
    for (console, qemu, status, message) in [
        ("login: ", 0, 0, ""),
        (
            "x\r\nlayerinit-run: exit status 42\r\nPower down\r\n",
            0,
            42,
            "",
        ),
        (
            panic,
            0,
            1,
            "layerinit: the guest failed: Kernel panic - not syncing: no init\n",
        ),
        (
            "layerinit: boot failed: mount layer 0: EIO\r\n",
            0,
            1,
            "layerinit: the guest failed: layerinit: boot failed: mount layer 0: EIO\n",
        ),
        (
            "",
            3,
            1,
            "layerinit: run qemu-system-x86_64: exit status: 3\n",
        ),
    ] {
        fs::write(directory.join("console"), console).unwrap();
        fs::write(directory.join("status"), format!("{qemu}\n")).unwrap();
        let (stdout, stderr, code) = boot(&directory, &words);
        assert_eq!((stdout.as_str(), code), (console, status), "{console:?}");
        assert_eq!(stderr, format!("{COMMAND}{message}"), "{console:?}");
    }
}

#[test]
fn the_command_is_printed_and_not_run() {
    let directory = guest("boot-print", "touch ran");
    let words = [
        "a.img", "--kernel", "vmlinuz", "--accel", "tcg", "--smp", "1", "--print",
    ];
    let (stdout, stderr, status) = boot(&directory, &words);
    assert_eq!((stdout.as_str(), stderr.as_str(), status), (COMMAND, "", 0));
    assert!(!directory.join("ran").exists());
}

#[test]
fn a_missing_qemu_is_named_with_its_package() {
    let directory = guest("boot-missing", "");
    fs::remove_file(directory.join("bin/qemu-system-x86_64")).unwrap();
    let mut command = tool(&directory);
    command.env("PATH", directory.canonicalize().unwrap().join("bin"));
    command.args(["boot", "a.img", "--kernel", "vmlinuz"]);
    let (stdout, stderr, status) = said(&command.output().unwrap());
    assert_eq!((stdout.as_str(), status), ("", 1));
    let message = "layerinit: run qemu-system-x86_64: it is not installed; on Debian: apt install qemu-system-x86\n";
    assert!(stderr.ends_with(message), "{stderr}");
}

#[test]
fn the_newest_kernel_of_the_layers_is_used() {
    let directory = guest(
        "boot-kernel",
        "while [ \"$1\" != -kernel ]; do shift; done; cmp \"$2\" newest && echo \"$1\"",
    );
    for version in ["6.9.1", "6.12.3", "6.12.3-empty"] {
        let place = directory.join("root/usr/lib/modules").join(version);
        fs::create_dir_all(&place).unwrap();
        let kernel = join(&[
            &fs::read(directory.join("vmlinuz")).unwrap(),
            version.as_bytes(),
        ]);
        match version {
            "6.12.3-empty" => continue,
            "6.12.3" => fs::write(directory.join("newest"), &kernel).unwrap(),
            _ => {}
        }
        fs::write(place.join("vmlinuz"), kernel).unwrap();
    }
    good(
        &directory,
        &["build", "-o", "b.img", "--init", "init", "--layer", "root"],
    );
    let (stdout, _, status) = boot(&directory, &["b.img", "--accel", "tcg", "--print"]);
    assert_eq!(status, 0);
    let mut lines = stdout.lines();
    let cat = "layerinit cat b.img usr/lib/modules/6.12.3/vmlinuz >vmlinuz-6.12.3";
    assert_eq!(lines.next(), Some(cat));
    assert!(lines.next().unwrap().contains(" -kernel vmlinuz-6.12.3 "));
    let (stdout, stderr, status) = boot(&directory, &["b.img", "--accel", "tcg"]);
    assert_eq!((stdout.as_str(), status), ("-kernel\n", 0), "{stderr}");
}

#[test]
fn several_files_are_joined_for_qemu() {
    let directory = guest(
        "boot-join",
        "while [ \"$1\" != -initrd ]; do shift; done; cp \"$2\" seen",
    );
    let words = [
        "a.img",
        "late.cpio",
        "--kernel",
        "vmlinuz",
        "--accel",
        "tcg",
        "--pad",
        "4096",
    ];
    let (_, stderr, status) = boot(&directory, &words);
    assert_eq!(status, 0, "{stderr}");
    let mut expected = fs::read(directory.join("a.img")).unwrap();
    pad(&mut expected, 4096);
    expected.extend(fs::read(directory.join("late.cpio")).unwrap());
    assert!(fs::read(directory.join("seen")).unwrap() == expected);
    let (stdout, stderr, status) = boot(&directory, &[&words[..], &["--print"]].concat());
    assert_eq!((stdout.as_str(), status), ("", 1));
    assert_eq!(
        stderr,
        "layerinit: print a command for a.img + late.cpio: it consists of several parts, and QEMU takes one file; \
         boot it without --print, or join the files with cat\n"
    );
}

#[test]
fn a_kernel_for_the_modules_in_the_loader_must_be_there() {
    let directory = guest("boot-no-kernel", "");
    let modules = directory.join("lib/modules/6.12-nowhere");
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("modules.dep"), "").unwrap();
    fs::write(
        modules.join("modules.builtin"),
        "kernel/erofs.ko\nkernel/overlay.ko\nkernel/loop.ko\n",
    )
    .unwrap();
    let words = [
        "build",
        "-o",
        "c.img",
        "--init",
        "init",
        "--modules",
        ".",
        "--layer",
        "root",
    ];
    good(&directory, &words);
    let (_, stderr, status) = boot(&directory, &["c.img"]);
    assert_eq!(status, 1);
    assert_eq!(
        stderr,
        "layerinit: find a kernel: there is none in the layers (usr/lib/modules/*/vmlinuz), and no \
         /boot/vmlinuz-6.12-nowhere, of the modules in the loader; name one with --kernel\n"
    );
}
