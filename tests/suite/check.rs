//! `layerinit check` beyond single files: layers over layers, kernels' configurations, memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::*;
use crate::support::*;

/// Everything that `check` says, and its status.
fn check(directory: &Path, image: &[u8], words: &[&str]) -> (Vec<String>, i32) {
    fs::write(directory.join("image"), image).unwrap();
    let mut command = tool(directory);
    let output = command.args(["check", "image"]).args(words).output();
    let (out, err, status) = said(&output.unwrap());
    assert_eq!(err, "");
    (out.lines().map(String::from).collect(), status)
}

fn init() -> Entry<'static> {
    own_init("init")
}

fn loader() -> Vec<u8> {
    cpio(&[init()])
}

fn x86_loader() -> Vec<u8> {
    cpio(&[entry("init", 0o100_755, &init_for(X86_64))])
}

/// A 64-bit program for this machine, by its e_machine.
fn elf(machine: u16) -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[16] = 2;
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf[54] = 56;
    elf
}

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// The lowest layer: has a program to start, and directories.
fn base() -> Vec<u8> {
    cpio(&[
        dir("sbin"),
        program("sbin/init"),
        dir("etc"),
        file("etc/name", b"base"),
        dir("usr"),
        dir("usr/lib"),
        file("usr/lib/x", b"x"),
        file("usr/lib/y", b"y"),
        entry("lib", 0o120_777, b"usr/lib"),
    ])
}

fn node(name: &str, major: u32) -> Entry<'_> {
    let mut node = entry(name, 0o020_000, b"");
    node.header.rmaj = major;
    node
}

/// Findings for these archives above the loader and the base.
fn findings(name: &str, archives: &[&[Entry]], words: &[&str]) -> Vec<String> {
    let mut image = join(&[&loader(), &base()]);
    archives
        .iter()
        .for_each(|entries| image.extend(cpio(entries)));
    let (lines, _) = check(&scratch(&format!("check-{name}")), &image, words);
    let told = |line: &String| !line.starts_with("memory: ") && !line.starts_with("image: ");
    lines.into_iter().filter(told).collect()
}

#[test]
fn parents_may_be_in_lower_layers_and_behind_links() {
    let archive = [
        file("etc/new", b""),
        file("lib/z", b""),
        file("sbin/../etc/w", b""),
    ];
    assert_eq!(
        findings("parents", &[&archive], &[]),
        ["warning: 0x00000730 sbin/../etc/w: its name has `..` in it"]
    );
    assert_eq!(
        findings(
            "no-parents",
            &[&[file("no/x", b""), file("etc/name/x", b"")]],
            &[]
        ),
        [
            "error: 0x00000644 no/x: there is no directory no in this layer or below: /init leaves the file out",
            "error: 0x000006b8 etc/name/x: there is no directory etc/name in this layer or below: /init leaves the file out",
        ]
    );
}

#[test]
fn whiteouts_of_other_kinds_are_pointed_out() {
    assert_eq!(
        findings("oci", &[&[file("etc/.wh.name", b"")]], &[]),
        [
            "warning: 0x00000644 etc/.wh.name: a whiteout of OCI images is a file like any other here: use a \
             character device 0:0"
        ]
    );
}

#[test]
fn the_real_init_is_looked_for_where_links_and_whiteouts_lead() {
    let none = |line: &String| line.starts_with("error: no init in the new root");
    for (name, entries, found) in [
        ("hidden", vec![node("sbin/init", 0)], false),
        ("hidden-all", vec![node("sbin", 0)], false),
        ("a-device", vec![node("sbin/init", 5)], false),
        ("opaque", vec![file("sbin/.wh..wh..opq", b"")], false),
        (
            "opaque-own",
            vec![program("sbin/init"), file("sbin/.wh..wh..opq", b"")],
            true,
        ),
        ("opaque-other", vec![file("etc/.wh..wh..opq", b"")], true),
        (
            "through-a-link",
            vec![
                node("sbin/init", 0),
                entry("sbin/init", 0o120_777, b"../lib/i"),
                program("lib/i"),
            ],
            true,
        ),
        (
            "under-a-mount",
            vec![
                node("sbin/init", 0),
                entry("sbin/init", 0o120_777, b"../run/i"),
                dir("run"),
                program("run/i"),
            ],
            false,
        ),
    ] {
        let lines = findings(&format!("init-{name}"), &[&entries], &[]);
        assert_eq!(!lines.iter().any(none), found, "{name}: {lines:?}");
    }
}

#[test]
fn conflicts_are_told_apart_from_overrides() {
    let upper = [
        dir("lib"),
        file("lib/z", b""),
        file("etc/name", b"upper"),
        file("usr/lib/x", b"x"),
        file("usr/lib/y", b"Y"),
        entry("usr/lib/y", 0o120_777, b"x"),
        node("nothing", 0),
        node("sbin/init", 0),
        program("sbin/init"),
    ];
    let full = [file("usr/lib", b"")];
    assert_eq!(
        findings("conflicts", &[&upper, &full], &["--conflicts"]),
        [
            "warning: 0x000008a4 usr/lib/y: a symlink in place of an earlier file",
            "error: 0x00000b08 usr/lib: a file in place of a directory that is not empty: /init leaves it out, \
             as the kernel would",
            "conflict: layer 1 (initrd+0x644): lib: a directory in place of a symlink of layer 0 (initrd+0x188)",
            "conflict: layer 1 (initrd+0x644): nothing: a whiteout, and no layer below has anything there",
            "override: layer 1 (initrd+0x644): etc/name: a file in place of a file of layer 0 (initrd+0x188)",
            "override: layer 1 (initrd+0x644): usr/lib/y: a file in place of a file of layer 0 (initrd+0x188)",
        ]
    );
    assert_eq!(
        findings("no-conflicts", &[&[file("etc/new", b"")]], &["--conflicts"]),
        [""; 0]
    );
}

/// mkfs.erofs makes an image of a directory.
fn erofs_of(directory: &Path, tree: &Path, arguments: &[&str]) -> Vec<u8> {
    erofs_by(Path::new("mkfs.erofs"), directory, tree, arguments)
}

fn erofs_by(mkfs: &Path, directory: &Path, tree: &Path, arguments: &[&str]) -> Vec<u8> {
    let image = directory.join("layer.erofs");
    let made = Command::new(mkfs)
        .args(["--quiet", "-T0"])
        .args(arguments)
        .arg(&image)
        .arg(tree)
        .output()
        .unwrap_or_else(|error| panic!("this test needs mkfs.erofs (erofs-utils): {error}"));
    assert!(made.status.success(), "{made:?}");
    let bytes = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    bytes
}

#[test]
fn images_over_images_are_compared_too() {
    let directory = scratch("check-images");
    let (low, high) = (directory.join("low"), directory.join("high"));
    for (tree, files) in [
        (
            &low,
            &[
                ("sbin/init", "\x7fELF"),
                ("same", "same"),
                ("other", "low"),
                ("dir/a/b", "1"),
                ("dir/c", ""),
                ("file", ""),
            ][..],
        ),
        (
            &high,
            &[
                ("same", "same"),
                ("other", "up!"),
                ("dir", "no directory"),
                ("file/x", ""),
            ],
        ),
    ] {
        for (name, content) in files {
            fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
            fs::write(tree.join(name), content).unwrap();
        }
    }
    let mut image = loader();
    for (tree, arguments) in [(&low, &[][..]), (&high, &[])] {
        pad(&mut image, 4096);
        image.extend(erofs_of(&directory, tree, arguments));
    }
    let (lines, _) = check(&directory, &image, &["--conflicts"]);
    let list: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("conflict: ") || line.starts_with("override: "))
        .map(|line| {
            line.replace("layer 1 (initrd+0x2000)", "1")
                .replace("layer 0 (initrd+0x1000)", "0")
        })
        .collect();
    assert_eq!(
        list,
        [
            "conflict: 1: dir: a file in place of a directory of 0, with the 3 files in it",
            "conflict: 1: file: a directory in place of a file of 0",
            "override: 1: other: a file in place of a file of 0",
        ]
    );
    let summary = lines.last().unwrap();
    assert!(
        summary.contains("; 2 conflicts, 1 override; 2 layers; "),
        "{summary}"
    );
}

#[test]
fn opaque_directories_of_images_hide_what_is_below() {
    use rustix::fs::{XattrFlags, setxattr};
    let directory = scratch("check-opaque");
    // One directory with the attribute, and many, whose attribute mkfs.erofs stores once for all.
    for count in [1, 9] {
        let (low, high) = (
            directory.join(format!("low{count}")),
            directory.join(format!("high{count}")),
        );
        fs::create_dir_all(low.join("sbin")).unwrap();
        fs::write(low.join("sbin/init"), "\x7fELF").unwrap();
        for name in ["sbin", "b", "c", "d", "e", "f", "g", "h", "i"]
            .iter()
            .take(count)
        {
            let path = high.join(name);
            fs::create_dir_all(&path).unwrap();
            setxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }
        let mut image = loader();
        for tree in [&low, &high] {
            pad(&mut image, 4096);
            image.extend(erofs_of(&directory, tree, &[]));
        }
        let (lines, status) = check(&directory, &image, &[]);
        assert_eq!(status, 1);
        assert!(
            lines[0].starts_with("error: no init in the new root: /sbin/init: not there"),
            "{lines:?}"
        );
    }
}

#[test]
fn what_the_kernel_cannot_decompress_is_found_and_what_is_a_layer_it_need_not() {
    let directory = scratch("check-compressed");
    let packed = |command: &str, bytes: &[u8]| {
        let words: Vec<_> = command.split(' ').collect();
        fs::write(directory.join("plain"), bytes).unwrap();
        let mut tool = Command::new(words[0]);
        let output = tool.args(&words[1..]).arg(directory.join("plain")).output();
        output.unwrap().stdout
    };
    let layer = cpio(&[dir("sbin"), file("sbin/init", b"#!/sbin/init\n")]);
    let said = |image: &[u8], words: &[&str]| check(&directory, image, words);
    // As it comes from xz, and as the kernel takes it.
    let (lines, status) = said(
        &packed("xz -c", &loader()),
        &["--cmdline", "root=/dev/vda1"],
    );
    assert_eq!(
        (lines[0].as_str(), status),
        (
            "error: /init: it is in the archive at 0x0, and the kernel cannot unpack that at 0x0: its check is \
             not CRC32 (xz --check=crc32)",
            1
        )
    );
    let good = packed("xz -c --check=crc32", &loader());
    let (lines, status) = said(&good, &["--cmdline", "root=/dev/vda1"]);
    assert_eq!(status, 0, "{lines:?}");
    assert!(
        lines[1].contains("needs CONFIG_BLK_DEV_INITRD CONFIG_RD_XZ"),
        "{lines:?}"
    );
    // A small archive has a small window, although zstd could have a large one.
    let (lines, _) = said(
        &packed("zstd -qc", &loader()),
        &["--cmdline", "root=/dev/vda1"],
    );
    assert!(lines[0].contains("decompression 1;"), "{lines:?}");
    // /init takes as a layer what the kernel cannot unpack, or need not.
    for command in ["xz -c", "xz -c --check=crc32"] {
        let mut image = loader();
        pad(&mut image, 4);
        image.extend(packed(command, &layer));
        let (lines, _) = said(&image, &[]);
        let summary = lines.last().unwrap();
        assert!(
            summary.contains("1 layer") && !summary.contains("CONFIG_RD"),
            "{lines:?}"
        );
    }
}

const CONFIG: &str = "\
#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 6.12.1 Kernel Configuration
#
CONFIG_BLK_DEV_INITRD=y
CONFIG_PROC_FS=y
CONFIG_SYSFS=y
CONFIG_TMPFS=y
CONFIG_TMPFS_XATTR=y
CONFIG_DEVTMPFS=y
CONFIG_OVERLAY_FS=y
CONFIG_EROFS_FS=y
CONFIG_EROFS_FS_XATTR=y
CONFIG_BLK_DEV_LOOP=y
CONFIG_BINFMT_ELF=y
CONFIG_BINFMT_SCRIPT=y
# CONFIG_BLK_DEV_RAM is not set
";

/// A loader with modules of one kernel: the text of their modules.dep, if there is one, and files by
/// their names in kernel/fs/erofs.
fn modules(release: &str, dep: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    modules_for(X86_64, release, dep, files)
}

/// The same with an `/init` for another machine.
fn modules_for(machine: u16, release: &str, dep: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let top = format!("lib/modules/{release}");
    let mut names = vec!["lib".into(), "lib/modules".into(), top.clone()];
    for name in ["kernel", "kernel/fs", "kernel/fs/erofs"] {
        names.push(format!("{top}/{name}"));
    }
    let index = format!("{top}/modules.dep");
    let paths = files
        .iter()
        .map(|(name, _)| format!("{top}/kernel/fs/erofs/{name}"));
    let paths = Vec::from_iter(paths);
    let program = init_for(machine);
    let mut entries = vec![entry("init", 0o100_755, &program)];
    entries.extend(names.iter().map(|name| dir(name)));
    if !dep.is_empty() {
        entries.push(file(&index, dep.as_bytes()));
    }
    let bodies = files.iter().map(|(_, body)| *body);
    entries.extend(
        paths
            .iter()
            .zip(bodies)
            .map(|(path, body)| file(path, body)),
    );
    cpio(&entries)
}

const DEP: &str = "\
kernel/fs/erofs/erofs.ko: kernel/fs/erofs/libcrc32c.ko
kernel/fs/erofs/libcrc32c.ko:
kernel/fs/erofs/loop.ko:
kernel/fs/erofs/overlay.ko:
kernel/drivers/gpu/large.ko: kernel/drivers/gpu/other.ko
";

const FILES: [(&str, &[u8]); 4] = [
    ("erofs.ko", b"module"),
    ("libcrc32c.ko", b"module"),
    ("loop.ko", b"module"),
    ("overlay.ko", b"module"),
];

/// Errors and warnings for a loader in front of an EROFS image, without those of the image.
fn of_loader(directory: &Path, loader: &[u8], words: &[&str]) -> Vec<String> {
    let mut image = loader.to_vec();
    pad(&mut image, 4096);
    let tree = directory.join("tree");
    if !tree.exists() {
        fs::create_dir_all(tree.join("sbin")).unwrap();
        fs::write(tree.join("sbin/init"), elf(X86_64)).unwrap();
        let x = fs::Permissions::from_mode(0o755);
        fs::set_permissions(tree.join("sbin/init"), x).unwrap();
        fs::write(
            directory.join("tree.erofs"),
            erofs_of(directory, &tree, &[]),
        )
        .unwrap();
    }
    image.extend(fs::read(directory.join("tree.erofs")).unwrap());
    let (mut lines, _) = check(directory, &image, words);
    lines.retain(|line| line.starts_with("error: ") || line.starts_with("warning: "));
    lines
}

#[test]
fn modules_that_init_could_not_load_are_told() {
    let directory = scratch("check-modules");
    let config = CONFIG
        .replace("EROFS_FS=y", "EROFS_FS=m")
        .replace("OVERLAY_FS=y", "OVERLAY_FS=m")
        .replace("LOOP=y", "LOOP=m");
    fs::write(directory.join("config"), config).unwrap();
    let with = ["--kernel-config", "config"];
    let of = |release, dep: &str, files: &[_], words: &[&str]| {
        of_loader(&directory, &modules(release, dep, files), words)
    };
    const OURS: &str = "6.12.117+deb13-amd64";
    let place = format!("lib/modules/{OURS}");
    for words in [&[][..], &with] {
        assert_eq!(of(OURS, DEP, &FILES, words), [""; 0]);
    }
    // Where there are none, the kernel may have all of it.
    assert_eq!(of_loader(&directory, &loader(), &[]), [""; 0]);
    assert_eq!(
        of_loader(&directory, &x86_loader(), &with)[0],
        "error: CONFIG_EROFS_FS=m: the loader has no erofs.ko (build --modules): no EROFS layer can be mounted"
    );
    // Another kernel's.
    let old = "6.1.0-56-cloud-amd64";
    assert_eq!(of(old, DEP, &FILES, &[]), [""; 0]);
    let lines = of(old, DEP, &FILES, &with);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(
        lines[0],
        "error: CONFIG_EROFS_FS=m: the loader has modules of other kernels only: 6.1.0-56-cloud-amd64: no EROFS \
         layer can be mounted"
    );
    assert_eq!(of("6.120.1", DEP, &FILES, &with).len(), 3);
    // No index.
    assert_eq!(
        of(OURS, "", &FILES, &[]),
        [format!(
            "error: loader: {place} has no modules.dep (depmod): /init finds no module there"
        )]
    );
    assert_eq!(of(OURS, "", &[("xhci.ko", b"")], &[]), [""; 0]);
    assert_eq!(
        of(
            OURS,
            "",
            &[("xhci.ko", b"")],
            &["--cmdline", "retain_initrd root=/dev/sda1"]
        )
        .len(),
        1
    );
    let lines = of(OURS, "", &FILES, &with);
    assert_eq!(
        (lines.len(), &*lines[2]),
        (
            3,
            &*format!(
                "error: CONFIG_BLK_DEV_LOOP=m: {place} has no modules.dep (depmod): without the loop \
                 backend, this kernel cannot mount the EROFS layers, unless it supports memback"
            )
        )
    );
    // A file that is gone: what a module needs, and the module itself.
    let without = |name: &str| Vec::from_iter(FILES.into_iter().filter(|file| file.0 != name));
    let text = format!(
        "{place} has no kernel/fs/erofs/libcrc32c.ko, which erofs depends on: no EROFS layer can be mounted"
    );
    let gone = without("libcrc32c.ko");
    assert_eq!(
        of(OURS, DEP, &gone, &[]),
        [format!("error: loader: {text}")]
    );
    assert_eq!(
        of(OURS, DEP, &gone, &with),
        [format!("error: CONFIG_EROFS_FS=m: {text}")]
    );
    let lines = of(OURS, DEP, &without("loop.ko"), &[]);
    assert_eq!(
        lines,
        [format!(
            "warning: loader: {place} has no kernel/fs/erofs/loop.ko: the loop backend cannot be used"
        )]
    );
}

#[test]
fn modules_without_signature_are_told_where_the_kernel_wants_them() {
    let directory = scratch("check-signatures");
    let mut signed = b"modulesignature".to_vec();
    signed.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    signed.extend(b"~Module signature appended~\n");
    fs::write(directory.join("erofs.ko"), &signed).unwrap();
    let mut xz = Command::new("xz");
    let packed = xz
        .args(["-c", "--check=crc32"])
        .arg(directory.join("erofs.ko"));
    let packed = packed.output().unwrap().stdout;
    let files = |erofs: &[u8]| {
        let mut files = FILES.map(|(name, _)| (name, signed.clone()));
        files[0].1 = erofs.to_vec();
        let files = files
            .each_ref()
            .map(|(name, body)| (*name, body.as_slice()));
        modules("6.12.1", DEP, &files)
    };
    let config = CONFIG.replace("EROFS_FS=y", "EROFS_FS=m");
    let write =
        |more: &str| fs::write(directory.join("config"), format!("{config}{more}")).unwrap();
    let line = |place: &str, why: &str| {
        format!(
            "error: {place}: lib/modules/6.12.1/kernel/fs/erofs/erofs.ko has no signature, and the kernel loads no \
             module without ({why}): no EROFS layer can be mounted"
        )
    };
    let said = |erofs: &[u8], cmdline: &str, with_config: bool| {
        let cmdline = format!("retain_initrd {cmdline}");
        let mut words = vec!["--cmdline", &cmdline];
        if with_config {
            words.extend(["--kernel-config", "config"]);
        }
        of_loader(&directory, &files(erofs), &words)
    };
    for word in [
        "module.sig_enforce",
        "module.sig-enforce=1",
        "lockdown=integrity",
    ] {
        assert_eq!(said(b"module", word, false), [line("loader", word)]);
        assert_eq!(said(&signed, word, false), [""; 0]);
        assert_eq!(said(&packed, word, false), [""; 0]);
    }
    for word in [
        "",
        "module.sig_enforce=0",
        "lockdown=none",
        "-- module.sig_enforce",
    ] {
        assert_eq!(said(b"module", word, false), [""; 0]);
    }
    // A kernel that does not know the word does nothing.
    write("");
    assert_eq!(said(b"module", "module.sig_enforce", true), [""; 0]);
    write("CONFIG_MODULE_SIG=y\n");
    assert_eq!(said(b"module", "", true), [""; 0]);
    assert_eq!(said(b"module", "lockdown=integrity", true), [""; 0]);
    assert_eq!(
        said(b"module", "module.sig_enforce", true),
        [line("CONFIG_EROFS_FS=m", "module.sig_enforce")]
    );
    write("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n");
    assert_eq!(
        said(b"module", "", true),
        [line("CONFIG_EROFS_FS=m", "CONFIG_MODULE_SIG_FORCE=y")]
    );
    assert_eq!(said(&packed, "", true), [""; 0]);
    // Under Secure Boot alone: the machine's firmware decides.
    write("CONFIG_MODULE_SIG=y\nCONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y\n");
    assert_eq!(
        said(b"module", "", true),
        [
            "warning: CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y: lib/modules/6.12.1/kernel/fs/erofs/erofs.ko has no \
             signature: under Secure Boot the kernel loads no module without (build without \
             --strip-module-signatures)"
        ]
    );
    assert_eq!(said(&packed, "", true), [""; 0]);
    write("CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y\n");
    assert_eq!(said(b"module", "", true), [""; 0]);
    // What no layer needs: a driver.
    write("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n");
    let mut driver = FILES.map(|(name, _)| (name, &*signed)).to_vec();
    driver.push(("virtio_blk.ko", b"module"));
    let loader = modules("6.12.1", DEP, &driver);
    let words = ["--cmdline", "retain_initrd", "--kernel-config", "config"];
    assert_eq!(
        of_loader(&directory, &loader, &words),
        [
            "warning: CONFIG_MODULE_SIG_FORCE=y: lib/modules/6.12.1/kernel/fs/erofs/virtio_blk.ko has no signature: \
             the kernel loads no module without (build without --strip-module-signatures)"
        ]
    );
}

#[test]
fn a_kernels_configuration_is_held_against_what_the_image_needs() {
    let directory = scratch("check-config");
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("sbin")).unwrap();
    fs::write(tree.join("sbin/init"), elf(X86_64)).unwrap();
    let x = fs::Permissions::from_mode(0o755);
    fs::set_permissions(tree.join("sbin/init"), x).unwrap();
    fs::write(tree.join("text"), "text ".repeat(10_000)).unwrap();
    let mut image = modules(
        "6.12.1+deb13-amd64",
        "kernel/fs/erofs/erofs.ko.xz:\n",
        &[("erofs.ko.xz", b"")],
    );
    pad(&mut image, 4096);
    image.extend(erofs_of(&directory, &tree, &["-zlz4hc"]));
    let mut compressed = Command::new("gzip");
    fs::write(directory.join("plain"), cpio(&[dir("early")])).unwrap();
    let early = compressed
        .args(["-nc"])
        .arg(directory.join("plain"))
        .output()
        .unwrap()
        .stdout;
    let moved = early.len().next_multiple_of(4);
    let image = join(&[&early, &vec![0; moved - early.len()], &image]);
    let config = |change: &dyn Fn(&str) -> String, words: &[&str]| {
        fs::write(directory.join("config"), change(CONFIG)).unwrap();
        let words = [&["--kernel-config", "config"], words].concat();
        let (lines, status) = check(&directory, &image, &words);
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|line| line.contains("CONFIG_") && !line.starts_with("image: "))
            .map(|line| line.replace(&format!("{:#x}", 4096 + moved), "AT"))
            .collect();
        (lines, status)
    };
    let zip = "CONFIG_EROFS_FS_ZIP=y\nCONFIG_RD_GZIP=y\n";
    let good = |text: &str| format!("{text}{zip}");
    assert_eq!(config(&good, &[]), (vec![], 0));
    // What is missing, one line each, with what comes of it.
    assert_eq!(
        config(&|text| text.into(), &[]),
        (
            vec![
                "error: CONFIG_RD_GZIP=n: the kernel cannot unpack the archive at 0x0, nor anything behind it".into(),
                "error: CONFIG_EROFS_FS_ZIP=n: layer 0 (initrd+AT) is compressed so, and cannot be mounted or read".into(),
            ],
            1
        )
    );
    // An image of the time before 0padding says nothing; its files do.
    let bits = 4096 + moved + 1024;
    let of_before = |image: &[u8]| {
        let mut old = image.to_vec();
        (old[bits + 8], old[bits + 80]) = (old[bits + 8] & !1, old[bits + 80] & !1);
        fs::write(
            directory.join("config"),
            format!("{CONFIG}CONFIG_RD_GZIP=y\n"),
        )
        .unwrap();
        let (lines, _) = check(&directory, &old, &["--kernel-config", "config"]);
        let errors = lines.into_iter().filter(|line| line.starts_with("error: "));
        Vec::from_iter(errors)
    };
    let said = of_before(&image);
    assert!(
        said.len() == 1 && said[0].starts_with("error: CONFIG_EROFS_FS_ZIP=n: layer 0 (initrd+"),
        "{said:?}"
    );
    let plain = erofs_of(&directory, &tree, &[]);
    let plain = join(&[&image[..4096 + moved], &plain]);
    assert_eq!(of_before(&plain), [""; 0]);
    // Modules: the loader has erofs.ko.xz, and nothing else.
    let as_modules = |text: &str| {
        good(text)
            .replace("EROFS_FS=y", "EROFS_FS=m")
            .replace("OVERLAY_FS=y", "OVERLAY_FS=m")
            .replace("LOOP=y", "LOOP=m")
    };
    let (lines, status) = config(&as_modules, &[]);
    assert_eq!(
        (&lines[..], status),
        (
            &[
                "error: CONFIG_OVERLAY_FS=m: the loader has no overlay.ko in lib/modules/6.12.1+deb13-amd64/modules.dep \
                 (build --modules): the layers cannot be stacked".to_string(),
                "error: CONFIG_BLK_DEV_LOOP=m: the loader has no loop.ko in lib/modules/6.12.1+deb13-amd64/modules.dep \
                 (build --modules): without the loop backend, this kernel cannot mount the EROFS layers, unless it \
                 supports memback".to_string(),
            ][..],
            1
        )
    );
    let (lines, _) = config(&as_modules, &["--loader-built-in"]);
    assert_eq!(
        lines[0],
        "warning: CONFIG_OVERLAY_FS=m: the loader that is built into the kernel must hold overlay.ko"
    );
    // What is only lost.
    let poor = |text: &str| {
        let lines = good(text);
        let kept = lines
            .lines()
            .filter(|line| !line.contains("XATTR") && !line.contains("DEVTMPFS"));
        kept.flat_map(|line| [line, "\n"]).collect()
    };
    let (lines, status) = config(&poor, &[]);
    assert_eq!((lines.len(), status), (3, 0), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("warning: ")));
    // Features that are newer than the kernel.
    let mut newer = image.clone();
    let superblock = 4096 + moved + 1024;
    let (compat, incompat) = (superblock + 8, superblock + 80);
    newer[compat] &= !1; // no checksum
    newer[incompat] |= 0x80;
    fs::write(directory.join("config"), good(CONFIG)).unwrap();
    let (lines, status) = check(&directory, &newer, &["--kernel-config", "config"]);
    assert_eq!(status, 1);
    assert!(
        lines[1].contains(": it needs Linux 6.15 or newer (")
            && lines[1].contains("48bit), and this is the configuration of 6.12"),
        "{lines:?}"
    );
    // Where the layers are, after all that.
    let old = |text: &str| good(text).replace("6.12.1", "6.1.170");
    let (lines, status) = config(&old, &[]);
    assert_eq!(status, 1);
    assert!(
        lines[0].starts_with("error: CONFIG_BLK_DEV_RAM=n: this kernel is older than 6.8"),
        "{lines:?}"
    );
    let (lines, _) = config(&good, &["--cmdline", "quiet"]);
    assert_eq!(
        lines,
        [
            "error: CONFIG_BLK_DEV_RAM=n: and no retain_initrd on the command line: the layers behind the loader are lost"
        ]
    );
    let ram = |text: &str| good(text) + "CONFIG_BLK_DEV_RAM=y\n";
    assert_eq!(config(&ram, &["--cmdline", "quiet"]), (vec![], 0));
}

#[test]
fn a_configuration_may_be_compressed_and_must_be_one() {
    let directory = scratch("check-config-file");
    fs::write(directory.join("config"), CONFIG).unwrap();
    let packed = Command::new("gzip")
        .args(["-nc", "config"])
        .current_dir(&directory)
        .output()
        .unwrap();
    fs::write(directory.join("config.gz"), packed.stdout).unwrap();
    let init = elf(X86_64);
    let layer = cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, &init)]);
    let image = join(&[&x86_loader(), &layer]);
    let plain = check(&directory, &image, &["--kernel-config", "config"]);
    assert_eq!(plain.1, 0, "{plain:?}");
    assert_eq!(
        check(&directory, &image, &["--kernel-config", "config.gz"]),
        plain
    );
    fs::write(directory.join("no-config"), "hello\n").unwrap();
    for (file, message) in [
        (
            "no-config",
            "layerinit: read no-config: no kernel configuration: it has no line CONFIG_NAME=VALUE\n",
        ),
        (
            "missing",
            "layerinit: open missing: ENOENT: No such file or directory\n",
        ),
    ] {
        let mut command = tool(&directory);
        let output = command
            .args(["check", "image", "--kernel-config", file])
            .output()
            .unwrap();
        assert_eq!(said(&output).1, message);
    }
}

#[test]
fn programs_for_another_machine_than_the_kernel_are_told() {
    let directory = scratch("check-machine");
    let [x86, i386, arm64, arm, none] = [X86_64, 3, AARCH64, 40, 0].map(init_for);
    let mut s390 = elf(22 << 8);
    s390[5] = 2;
    // What the loader starts, what the layer has, the configuration; what is wrong.
    let header = |name: &str| format!("# Linux/{name} 6.12.1 Kernel Configuration\n");
    let x86_32 = header("x86") + "CONFIG_X86=y\n";
    let x86_64 = header("x86") + "CONFIG_X86_64=y\nCONFIG_X86=y\n";
    let wrong = |place: &str, number: u16, here: &str| {
        Some(format!(
            "error: {place}: an ELF program for another machine (e_machine {number}, here {here})"
        ))
    };
    const REAL: &str = "no init in the new root: /sbin/init";
    for (loader, real, config, expected) in [
        (&x86, &x86, None, None),
        (&x86, &i386, None, None),
        (&x86, &arm64, None, wrong(REAL, 183, "x86_64")),
        (&arm64, &x86, None, wrong(REAL, 62, "aarch64")),
        (&arm64, &arm64, None, None),
        (&arm, &arm64, None, None),
        // Of what is not known nothing is said.
        (&none, &arm64, None, None),
        (&s390, &s390, None, None),
        (&x86, &x86, Some(header("x86")), None),
        (&x86, &x86, Some(x86_64.clone()), None),
        (&i386, &i386, Some(x86_64), None),
        (&i386, &i386, Some(x86_32.clone()), None),
        (
            &x86,
            &x86,
            Some(header("arm64")),
            wrong("/init", 62, "aarch64"),
        ),
        (
            &x86,
            &x86,
            Some("CONFIG_RISCV=y\n".into()),
            wrong("/init", 62, "riscv64"),
        ),
        (&x86, &x86, Some(x86_32), wrong("/init", 62, "i386")),
        (&x86, &x86, Some(header("s390")), wrong("/init", 62, "s390")),
        (
            &arm64,
            &arm64,
            Some(header("arm")),
            wrong("/init", 183, "arm"),
        ),
        (&s390, &s390, Some(header("s390")), None),
        (&x86, &x86, Some(header("um")), None),
        (
            &x86,
            &arm64,
            Some(header("x86")),
            wrong(REAL, 183, "x86_64"),
        ),
    ] {
        let image = join(&[
            &cpio(&[entry("init", 0o100_755, loader)]),
            &cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, real)]),
        ]);
        let mut words = Vec::new();
        if let Some(config) = &config {
            fs::write(directory.join("config"), format!("{config}{CONFIG}")).unwrap();
            words = vec!["--kernel-config", "config"];
        }
        let (lines, status) = check(&directory, &image, &words);
        let first = lines
            .iter()
            .find(|line| line.starts_with("error: ") && !line.contains("CONFIG_"));
        let first = first.map(|line| line.split(';').next().unwrap().to_string());
        assert_eq!(first, expected, "{config:?}: {lines:?}");
        assert_eq!(status == 0, expected.is_none(), "{lines:?}");
    }
    // The interpreter is looked at, too.
    let layer = cpio(&[
        dir("sbin"),
        entry("sbin/init", 0o100_755, b"#!/sbin/sh\n"),
        entry("sbin/sh", 0o100_755, &arm64),
    ]);
    let loader = cpio(&[entry("init", 0o100_755, &x86)]);
    let (lines, _) = check(&directory, &join(&[&loader, &layer]), &[]);
    assert!(
        lines[0].contains(
            "/sbin/init: it needs /sbin/sh: an ELF program for another machine (e_machine 183"
        ),
        "{lines:?}"
    );
}

#[test]
fn kinds_of_programs_that_the_kernel_does_not_start_are_told() {
    let directory = scratch("check-binfmt");
    let x86 = elf(X86_64);
    let script = b"#!/sbin/sh\n".to_vec();
    let line = |place: &str, start: &str, option: &str| {
        format!("error: {place}: it starts with \"{start}\", and the kernel has CONFIG_{option}=n")
    };
    const REAL: &str = "no init in the new root: /sbin/init";
    let said = |loader: &[u8], real: &[u8], without: &str| {
        let off = format!("# CONFIG_{without} is not set");
        let config = CONFIG.replace(&format!("CONFIG_{without}=y"), &off);
        fs::write(directory.join("config"), config).unwrap();
        let image = join(&[
            &cpio(&[
                entry("init", 0o100_755, loader),
                dir("sbin"),
                entry("sbin/sh", 0o100_755, &x86),
            ]),
            &cpio(&[
                dir("sbin"),
                entry("sbin/init", 0o100_755, real),
                entry("sbin/sh", 0o100_755, &x86),
            ]),
        ]);
        let (mut lines, _) = check(&directory, &image, &["--kernel-config", "config"]);
        lines.retain(|line| line.contains("starts with"));
        let short = |line: &String| line.split("; ").next().unwrap().to_string();
        Vec::from_iter(lines.iter().map(short))
    };
    assert_eq!(said(&x86, &script, "none"), [""; 0]);
    assert_eq!(said(&x86, &x86, "BINFMT_SCRIPT"), [""; 0]);
    assert_eq!(
        said(&x86, &x86, "BINFMT_ELF"),
        [
            line("/init", "\\x7fELF", "BINFMT_ELF"),
            line(REAL, "\\x7fELF", "BINFMT_ELF")
        ]
    );
    assert_eq!(
        said(&x86, &script, "BINFMT_SCRIPT"),
        [line(REAL, "#!", "BINFMT_SCRIPT")]
    );
    assert_eq!(
        said(&script, &x86, "BINFMT_SCRIPT"),
        [line("/init", "#!", "BINFMT_SCRIPT")]
    );
}

#[test]
fn filesystems_that_the_kernel_does_not_mount_are_told() {
    let directory = scratch("check-rootfstype");
    let said = |types: &str, config: &str, module: &str| {
        let dep = format!("{DEP}kernel/fs/erofs/{module}.ko:\n");
        let name = format!("{module}.ko");
        let loader = modules("6.12.1", &dep, &[(&name, b"module")]);
        fs::write(directory.join("config"), format!("{CONFIG}{config}")).unwrap();
        let cmdline = format!("root=LABEL=x {types}");
        let words = ["--kernel-config", "config", "--cmdline", &cmdline];
        let (mut lines, _) = check(&directory, &loader, &words);
        lines.retain(|line| line.starts_with("error: ") || line.starts_with("warning: "));
        lines
    };
    const LIST: &str = "lib/modules/6.12.1/modules.dep (build --modules)";
    assert_eq!(
        said("rootfstype=xfs", "", "ext4"),
        ["error: rootfstype=xfs: LABEL=x cannot be mounted: CONFIG_XFS_FS=n"]
    );
    assert_eq!(
        said("rootfstype=xfs,iso9660", "CONFIG_ISO9660_FS=m\n", "ext4"),
        [format!(
            "error: rootfstype=xfs,iso9660: LABEL=x cannot be mounted: CONFIG_XFS_FS=n; CONFIG_ISO9660_FS=m, and the \
             loader has no isofs.ko in {LIST}"
        )]
    );
    for (types, config, module) in [
        ("", "", "ext4"),
        ("rootfstype=xfs", "CONFIG_XFS_FS=y\n", "ext4"),
        ("rootfstype=xfs", "CONFIG_XFS_FS=m\n", "xfs"),
        ("rootfstype=xfs,ext4", "CONFIG_EXT4_FS=y\n", "x"),
        ("rootfstype=iso9660", "CONFIG_ISO9660_FS=m\n", "isofs"),
        ("rootfstype=unheard-of,xfs", "", "x"),
    ] {
        assert_eq!(said(types, config, module), [""; 0], "{types} {config}");
    }
}

#[test]
fn a_bootconfig_that_the_kernel_does_not_look_for_is_told() {
    let directory = scratch("check-bootconfig");
    let init = elf(X86_64);
    let layer = cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, &init)]);
    let image = join(&[&loader(), &layer, &bootconfig(b"kernel.quiet\n")]);
    let said = |config: &str, cmdline: &[&str]| {
        fs::write(directory.join("config"), format!("{CONFIG}{config}")).unwrap();
        let words = [&["--kernel-config", "config"], cmdline].concat();
        let (mut lines, _) = check(&directory, &image, &words);
        lines.retain(|line| line.contains("bootconfig"));
        Vec::from_iter(lines.iter().map(|line| line.replace("0x330", "AT")))
    };
    let with = "CONFIG_BOOT_CONFIG=y\n";
    assert_eq!(
        said("", &[]),
        ["warning: CONFIG_BOOT_CONFIG=n: the bootconfig at AT has no effect"]
    );
    assert_eq!(said(with, &[]), [""; 0]);
    assert_eq!(
        said(with, &["--cmdline", "retain_initrd bootconfig"]),
        [""; 0]
    );
    assert_eq!(
        said(with, &["--cmdline", "retain_initrd -- bootconfig"]),
        [
            "warning: CONFIG_BOOT_CONFIG_FORCE=n: and no bootconfig on the command line: the bootconfig at AT has no \
             effect"
        ]
    );
    let forced = format!("{with}CONFIG_BOOT_CONFIG_FORCE=y\n");
    assert_eq!(said(&forced, &["--cmdline", "retain_initrd"]), [""; 0]);
}

#[test]
fn memory_is_added_up() {
    let directory = scratch("check-memory");
    let mib = vec![b'x'; 1 << 20];
    let ten = mib.repeat(10);
    let loader = cpio(&[init(), file("ballast", &ten)]);
    let layer = cpio(&[
        dir("sbin"),
        program("sbin/init"),
        file("big", &mib.repeat(3)),
    ]);
    let image = join(&[&loader, &layer]);
    // What the kernel unpacks, the layer's archive among it; 13 MiB stay.
    let line = |words: &[&str]| {
        let (lines, _) = check(&directory, &image, words);
        lines
            .into_iter()
            .find(|line| line.starts_with("memory: "))
            .unwrap()
    };
    assert_eq!(
        line(&[]),
        "memory: 30 MiB at the peak: initrd 14 (kept), files of the rootfs 14, layers unpacked 4, decompression 0; \
         with a kernel of 80 MiB it should boot on a machine with 111 MiB (what the kernel needs; UEFI may need more: \
         --firmware)"
    );
    assert_eq!(
        line(&["--cmdline", "quiet"]),
        "memory: 27 MiB at the peak: initrd 14, files of the rootfs 14, layers unpacked 4, decompression 0; \
         with a kernel of 80 MiB it should boot on a machine with 108 MiB (what the kernel needs; UEFI may need more: \
         --firmware)"
    );
    // Who loads it may need more: 14 MiB several times over, or not.
    for (firmware, expected) in [
        ("grub", "and with 111 MiB if GRUB loads it"),
        ("sd-boot", "and with 111 MiB if systemd-boot loads it"),
        ("uki", "and with 111 MiB if systemd-stub (UKI) loads it"),
    ] {
        let told = line(&["--firmware", firmware]);
        let kernel = "it should boot on a machine with 111 MiB if it is there already, ";
        assert!(told.ends_with(&format!("{kernel}{expected}")), "{told}");
    }
    let mut large = image.clone();
    large.resize(64 << 20, 0);
    for (firmware, expected) in [("grub", 168), ("sd-boot", 232), ("uki", 309)] {
        let (lines, _) = check(&directory, &large, &["--firmware", firmware]);
        let told = lines
            .iter()
            .find(|line| line.starts_with("memory: "))
            .unwrap();
        let expected = format!(
            "it should boot on a machine with 163 MiB if it is there already, and with {expected} MiB if "
        );
        assert!(told.contains(&expected), "{told}");
    }
    fs::write(directory.join("image"), &image).unwrap();
    for (tool, arguments, expected) in [
        ("zstd", &["-q", "-19", "-c"][..], "decompression 8;"),
        ("zstd", &["-q", "--long=26", "-c"], "decompression 64;"),
        ("xz", &["-6", "-c"], "decompression 8;"),
        ("xz", &["-9", "-c"], "decompression 64;"),
        ("lz4", &["-l", "-q", "-c"], "decompression 16;"),
        ("gzip", &["-c"], "decompression 1;"),
    ] {
        fs::write(
            directory.join("plain"),
            cpio(&[file("big", &mib.repeat(2))]),
        )
        .unwrap();
        let mut command = Command::new(tool);
        // From a stream, whose length they cannot know.
        let plain = fs::File::open(directory.join("plain")).unwrap();
        let packed = command.args(arguments).stdin(plain).output().unwrap();
        let image = join(&[&loader, &erofs(1, ""), &packed.stdout]);
        let (lines, _) = check(&directory, &image, &[]);
        let line = lines
            .iter()
            .find(|line| line.starts_with("memory: "))
            .unwrap();
        assert!(line.contains(expected), "{tool} {arguments:?}: {line}");
    }
}

#[test]
fn the_copy_of_the_initrd_is_memory_where_the_kernel_makes_one_and_it_is_needed() {
    let directory = scratch("check-memory-copy");
    let loader = cpio(&[init(), file("ballast", &vec![b'x'; 10 << 20])]);
    let layers = join(&[&loader, &erofs(1, "")]);
    let archives = join(&[&loader, &cpio(&[dir("sbin"), program("sbin/init")])]);
    const COPY: &str = "files of the rootfs 21 (with /initrd.image),";
    const NONE: &str = "files of the rootfs 11,";
    for (image, blk_dev_ram, cmdline, expected) in [
        (&layers, "y", "quiet", COPY),
        (&layers, "y", "retain_initrd", NONE),
        (&layers, "y", "retain_initrd rootfstype=ramfs", COPY),
        (&layers, "m", "quiet", NONE),
        (&archives, "y", "quiet", NONE),
    ] {
        let config = format!("CONFIG_BLK_DEV_INITRD=y\nCONFIG_BLK_DEV_RAM={blk_dev_ram}\n");
        fs::write(directory.join("config"), config).unwrap();
        let words = ["--kernel-config", "config", "--cmdline", cmdline];
        let (lines, _) = check(&directory, image, &words);
        let line = lines.iter().find(|line| line.starts_with("memory: "));
        assert!(
            line.unwrap().contains(expected),
            "{blk_dev_ram} {cmdline}: {line:?}"
        );
    }
}

#[test]
fn words_that_the_kernel_refuses_are_told() {
    let directory = scratch("check-words");
    let image = |layer: &[u8]| {
        let mut files = vec![init(), dir("layers")];
        files.push(file("layers/base", layer));
        cpio(&files)
    };
    let with = |cmdline: &str| {
        let image = image(&cpio(&[dir("sbin"), program("sbin/init")]));
        check(&directory, &image, &["--cmdline", cmdline])
            .0
            .join("\n")
    };
    for option in ["siez=10%", "size=banana", "size=", "size=10x", "noexec"] {
        let lines = with(&format!("rd.overlay=tmpfs:mode=755,{option}"));
        let told = format!("warning: command line: tmpfs option \"{option}\": unknown here");
        assert!(lines.contains(&told), "{lines}");
    }
    for options in [
        "size=10%,nr_inodes=1k,huge=advise,noswap,inode64",
        "nr_blocks=0x100",
    ] {
        let lines = with(&format!("rd.overlay=tmpfs:{options}"));
        assert!(!lines.contains("tmpfs option"), "{lines}");
    }
    let erofs = image(&erofs(1, ""));
    for (cmdline, told) in [
        ("rd.layers.backend=file", true),
        ("rd.layers.backend=file rootfstype=ramfs", false),
        ("rd.layers.backend=file,loop", false),
        ("", false),
    ] {
        let (lines, _) = check(&directory, &erofs, &["--cmdline", cmdline]);
        let lines = lines.join("\n");
        assert_eq!(
            lines.contains("names \"file\" alone"),
            told,
            "{cmdline}: {lines}"
        );
    }
}

/// The lowest layer, as an image: has a program to start, and what is made besides. Without a checksum:
/// tests change its bytes.
fn base_image(directory: &Path, make: impl FnOnce(&Path)) -> Vec<u8> {
    let tree = directory.join("tree");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join("sbin")).unwrap();
    fs::write(tree.join("sbin/init"), "\x7fELF").unwrap();
    fs::set_permissions(tree.join("sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
    make(&tree);
    let mut image = erofs_of(directory, &tree, &["-Eforce-inode-compact"]);
    image[1032] &= !1;
    image
}

/// The loader with images above it.
fn with_images(images: &[&[u8]]) -> Vec<u8> {
    let mut whole = loader();
    for image in images {
        pad(&mut whole, 4096);
        whole.extend_from_slice(image);
    }
    whole
}

/// The number of the inode at `path` in an EROFS image, and where it lies.
fn inode_of(image: &[u8], path: &str) -> (u64, usize) {
    use layerinit::format::erofs::Image;
    use layerinit::tool::image::erofs_tree;
    let mut found = None;
    let open = Image::open(&image).unwrap();
    let superblock = open.superblock().clone();
    let walked = erofs_tree::walk(&open, |file, inode| {
        if file.path == path.as_bytes() {
            found = Some(inode.nid);
        }
        Ok(())
    });
    walked.unwrap();
    let nid = found.unwrap();
    let at = u64::from(superblock.meta_blkaddr) * superblock.block_size() + nid * 32;
    (nid, at as usize)
}

#[test]
fn the_real_init_is_looked_for_in_images_however_they_are_stored() {
    let directory = scratch("check-stored");
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("sbin")).unwrap();
    let loader = x86_loader();
    let newest = mkfs_erofs("newest_mkfs_erofs");
    let name = |path: &str, machine| {
        let mut program = elf(machine);
        program.resize(30_000, 0);
        fs::write(tree.join(path), program).unwrap();
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    };
    const PLACE: &str = "no init in the new root: /sbin/init";
    for options in [
        "-zlz4hc --zD",
        "-zzstd -C65536 -Eall-fragments --zD",
        "-zlzma -C65536 -m65536 --zD",
        "-m4096:deflate --chunksize=4096",
    ] {
        for (machine, expected) in [
            (Some(X86_64), None),
            (
                Some(AARCH64),
                Some("an ELF program for another machine (e_machine 183, here x86_64)"),
            ),
            (None, Some("not there")),
        ] {
            let _ = fs::remove_file(tree.join("sbin/init"));
            // More names than fit into one block: they are compressed.
            (0..200).for_each(|n| name(&format!("sbin/program-number-{n}"), X86_64));
            if let Some(machine) = machine {
                name("sbin/init", machine);
            }
            let arguments: Vec<_> = options.split(' ').collect();
            let layer = erofs_by(&newest, &directory, &tree, &arguments);
            let mut image = loader.clone();
            pad(&mut image, 4096);
            image.extend(layer);
            let (lines, status) = check(&directory, &image, &[]);
            let told = lines.iter().find(|line| line.starts_with("error: "));
            let expected = expected.map(|what| format!("error: {PLACE}: {what}"));
            let is_expected = match (&expected, told) {
                (None, None) => true,
                (Some(expected), Some(told)) => told.starts_with(expected),
                _ => false,
            };
            assert!(is_expected, "{options}: {expected:?}, {lines:?}");
            assert_eq!(status, i32::from(expected.is_some()), "{lines:?}");
            assert!(
                !lines.iter().any(|line| line.contains("not looked at")),
                "{lines:?}"
            );

            let listed = tool(&directory).args(["list", "--files", "image"]).output();
            let (out, err, status) = said(&listed.unwrap());
            assert_eq!((err.as_str(), status), ("", 0));
            assert_eq!(out.contains(" sbin/init\n"), machine.is_some(), "{out}");

            let path = "/sbin/program-number-77";
            let output = tool(&directory).args(["cat", "image", path]).output();
            let output = output.unwrap();
            assert!(
                output.stdout == fs::read(tree.join(&path[1..])).unwrap(),
                "{output:?}"
            );
        }
    }
}

/// The bytes of a prefix of attributes that is the image's own: trusted.overlay. (struct
/// erofs_xattr_long_prefix, behind its length), and before it another.
const PREFIXES: &[u8] = b"\x05\0\x01abcd\0\x09\0\x04overlay.";

/// Puts all attributes trusted.opaque under the second of the image's own prefixes, which start at
/// `start`: what mkfs.erofs makes of trusted.overlay.opaque, with --xattr-prefix=trusted.overlay.
fn prefixed(image: &mut [u8], start: usize) {
    let entries: Vec<_> = (0..image.len())
        .filter(|at| image[*at..].starts_with(b"\x06\x04\x01\0opaquey"))
        .collect();
    assert!(!entries.is_empty());
    entries.iter().for_each(|at| image[at + 1] = 0x81);
    image[1024 + 91] = 2;
    image[1024 + 92..][..4].copy_from_slice(&(start as u32 / 4).to_le_bytes());
    image[1024 + 80] |= 0x40;
}

/// An image of directories, `sbin` among them, with an attribute trusted.opaque.
fn marked(directory: &Path, count: usize) -> Vec<u8> {
    use rustix::fs::{XattrFlags, setxattr};
    base_image(directory, |tree| {
        fs::remove_file(tree.join("sbin/init")).unwrap();
        fs::write(tree.join("table"), PREFIXES).unwrap();
        for name in ["sbin", "b", "c", "d", "e"].iter().take(count) {
            let _ = fs::create_dir(tree.join(name));
            let flags = XattrFlags::empty();
            setxattr(tree.join(name), "trusted.opaque", b"y", flags).unwrap();
        }
    })
}

const NO_INIT: &str = "error: no init in the new root: /sbin/init: not there";

#[test]
fn opaque_directories_are_found_under_a_prefix_of_the_image_s_own() {
    let directory = scratch("check-prefixes");
    let low = base_image(&directory, |_| ());
    // Where all share the attribute mkfs.erofs stores it apart.
    for count in [1, 5] {
        let mut high = marked(&directory, count);
        let (lines, status) = check(&directory, &with_images(&[&low, &high]), &[]);
        assert_eq!(status, 0, "trusted.opaque is no mark: {lines:?}");

        let start = high.len();
        high.extend_from_slice(PREFIXES);
        pad(&mut high, 4096);
        high[1024 + 36] += 1;
        prefixed(&mut high, start);
        let (lines, status) = check(&directory, &with_images(&[&low, &high]), &[]);
        assert!(lines[0].starts_with(NO_INIT), "{lines:?}");
        assert_eq!(status, 1);

        // Beyond the end of the image: the kernel refuses it, too.
        prefixed_at(&mut high, 0x0fff_0000);
        let (lines, _) = check(&directory, &with_images(&[&low, &high]), &[]);
        assert!(
            lines[0].contains("read EROFS image's prefixes of attributes: those at 0xfff0000: "),
            "{lines:?}"
        );
    }
}

fn prefixed_at(image: &mut [u8], start: usize) {
    image[1024 + 92..][..4].copy_from_slice(&(start as u32 / 4).to_le_bytes());
}

#[test]
fn prefixes_of_an_image_s_own_may_lie_in_its_packed_inode() {
    let directory = scratch("check-packed-prefixes");
    let low = base_image(&directory, |_| ());
    let mut high = marked(&directory, 1);
    prefixed(&mut high, 0);
    let (nid, at) = inode_of(&high, "table");
    high[1024 + 80] |= 0x20;
    high[1024 + 96..][..8].copy_from_slice(&nid.to_le_bytes());
    let (lines, _) = check(&directory, &with_images(&[&low, &high]), &[]);
    assert!(lines[0].starts_with(NO_INIT), "{lines:?}");

    // Unless the image says that they do not.
    let mut plain = high.clone();
    plain[1024 + 8] |= 0x10;
    // Its inline data, behind the inode and its attributes.
    prefixed_at(&mut plain, at + 32);
    let (lines, _) = check(&directory, &with_images(&[&low, &plain]), &[]);
    assert!(lines[0].starts_with(NO_INIT), "{lines:?}");

    // Bytes that are not stored as the inode says.
    high[at] = high[at] & !0b1110 | 1 << 1;
    let (lines, status) = check(&directory, &with_images(&[&low, &high]), &[]);
    assert!(
        lines[0].starts_with(
            "error: layer 1 (initrd+0x2000): read EROFS image's prefixes of attributes: those at 0x0: "
        ),
        "{lines:?}"
    );
    assert_eq!(status, 1, "{lines:?}");
}

#[test]
fn what_overlayfs_looks_for_elsewhere_is_not_called_missing() {
    use rustix::fs::{XattrFlags, setxattr};
    let directory = scratch("check-redirects");
    let low = base_image(&directory, |_| ());
    let mark = |path: &Path, name: &str, value: &[u8]| {
        setxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    let words = ["--cmdline", "retain_initrd init=/new/init"];
    let told = |images: &[&[u8]]| {
        let (mut lines, status) = check(&directory, &with_images(images), &words);
        lines.retain(|line| !line.starts_with("memory: ") && !line.starts_with("image: "));
        (lines, status)
    };
    // An upper directory in which sbin was renamed, by way of directories that share the attribute.
    for names in [&["new"][..], &["a", "b", "c", "new"]] {
        let high = base_image(&directory, |tree| {
            fs::remove_dir_all(tree.join("sbin")).unwrap();
            for name in names {
                fs::create_dir(tree.join(name)).unwrap();
                mark(&tree.join(name), "trusted.overlay.redirect", b"sbin");
            }
        });
        let more = match names.len() {
            1 => String::new(),
            n => format!(" (and {} more like it)", n - 1),
        };
        let warning = format!(
            "warning: layer 1 (initrd+0x2000): its directory {} has trusted.overlay.redirect, which is not looked \
             at: where the kernel follows it, what a directory of another name holds in lower layers is in it, \
             too{more}",
            names[0]
        );
        assert_eq!(told(&[&low, &high]), (vec![warning], 0));
        // Nothing is below.
        let (lines, status) = told(&[&high]);
        assert!(
            lines[0].starts_with("error: no init in the new root: /new/init: not there"),
            "{lines:?}"
        );
        assert_eq!((lines.len(), status), (1, 1));
    }
    // Nothing of what is below shows.
    let high = base_image(&directory, |tree| {
        fs::create_dir(tree.join("new")).unwrap();
        mark(&tree.join("new"), "trusted.overlay.redirect", b"sbin");
        mark(&tree.join("new"), "trusted.overlay.opaque", b"y");
    });
    assert_eq!(told(&[&low, &high]).1, 1);

    let high = base_image(&directory, |tree| {
        fs::create_dir(tree.join("new")).unwrap();
        fs::write(tree.join("new/init"), "\0\0\0\0").unwrap();
        mark(&tree.join("new/init"), "trusted.overlay.metacopy", b"");
    });
    let warning = "warning: layer 1 (initrd+0x2000): its file new/init has trusted.overlay.metacopy, which is not \
                   looked at: its bytes are in a lower layer, and overlayfs \
                   refuses the file (EPERM) unless its metacopy is on";
    assert_eq!(told(&[&low, &high]), (vec![warning.to_string()], 0));
}

#[test]
fn what_nearly_every_kernel_has_is_missed_only_where_it_is_said_not_to_be_set() {
    let directory = scratch("check-futex");
    let told = |config: String| {
        fs::write(directory.join("config"), config).unwrap();
        let lines = of_loader(&directory, &loader(), &["--kernel-config", "config"]);
        lines
            .iter()
            .any(|line| line.starts_with("error: CONFIG_FUTEX=n: "))
    };
    assert!(!told(CONFIG.into()));
    assert!(told(format!("{CONFIG}# CONFIG_FUTEX is not set\n")));
}

#[test]
fn files_of_all_layers_or_of_one_are_written_out() {
    let directory = scratch("check-cat");
    let tree = directory.join("tree");
    let layer = |name: &str, text: &str| {
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc").join(name), text).unwrap();
        std::os::unix::fs::symlink(format!("/etc/{name}"), tree.join("link")).unwrap();
        erofs_of(&directory, &tree, &["-zlz4hc"])
    };
    let images = [
        layer("name", &"base\n".repeat(20_000)),
        layer("name", "app\n"),
        layer("other", ""),
    ];
    let images = images.each_ref().map(Vec::as_slice);
    fs::write(directory.join("image"), with_images(&images)).unwrap();
    let base = "base\n".repeat(20_000);
    for (words, expected) in [
        (&["/etc/name"][..], Ok("app\n")),
        (&["etc/name", "--layer=0"], Ok(&*base)),
        (&["/link", "--layer", "1"], Ok("app\n")),
        (&["/link"], Ok("")),
        (
            &["/etc/name", "--layer=2"],
            Err("find /etc/name: not there"),
        ),
        (&["/etc"], Err("read /etc: a directory, not a file")),
        (
            &["/etc/name", "--layer=3"],
            Err("find layer 3: there is none; the image has 3, and the first is layer 0"),
        ),
    ] {
        let mut command = tool(&directory);
        let output = command.args(["cat", "image"]).args(words).output();
        let (out, err, status) = said(&output.unwrap());
        match expected {
            Ok(text) => assert_eq!((&*out, &*err, status), (text, "", 0), "{words:?}"),
            Err(text) => {
                let text = format!("layerinit: {text}\n");
                assert_eq!((&*out, &*err, status), ("", &*text, 1), "{words:?}");
            }
        }
    }
}

#[test]
fn what_lies_where_the_kernels_filesystems_are_mounted_is_told() {
    let link = |name, target: &'static [u8]| entry(name, 0o120_777, target);
    for (name, layer, expected) in [
        ("dirs", vec![dir("proc"), dir("run")], ""),
        (
            "file",
            vec![file("run", b"")],
            "run: a file, not a directory",
        ),
        (
            "link",
            vec![link("proc", b"/etc")],
            "proc: a symlink to /etc, which has another use",
        ),
        (
            "link-to-file",
            vec![link("sys", b"etc/name")],
            "sys: a symlink to etc/name, which is a file",
        ),
        (
            "dangling",
            vec![link("dev", b"gone")],
            "dev: a symlink to gone, which leads nowhere",
        ),
        (
            "circle",
            vec![link("dev", b"dev")],
            "dev: a symlink to dev, which leads in a circle (ELOOP)",
        ),
        (
            "harmless",
            vec![
                dir("var"),
                dir("var/run"),
                file("var/run/x", b""),
                link("run", b"var/run"),
            ],
            "",
        ),
    ] {
        for (cmdline, done) in [
            ("retain_initrd", "/init puts a directory in its place"),
            ("retain_initrd rd.overlay.readonly", "the new root has no /"),
        ] {
            let words = ["--cmdline", cmdline];
            let lines = findings(&format!("mount-point-{name}"), &[&layer], &words);
            let expected = match (expected, done) {
                ("", _) => vec![],
                (what, "the new root has no /") => {
                    let (name, _) = what.split_once(':').unwrap();
                    vec![format!(
                        "warning: layer 1 (initrd+0x644): {what}: {done}{name}"
                    )]
                }
                (what, _) => vec![format!("warning: layer 1 (initrd+0x644): {what}: {done}")],
            };
            assert_eq!(lines, expected, "{name}");
        }
    }
}

#[test]
fn directories_that_everybody_may_write_to_are_told() {
    let open = |name, mode: u32| entry(name, 0o040_000 | mode, b"");
    let warning = |what: &str| format!("warning: layer 1 (initrd+0x644): {what}");
    const WHAT: &str = "everybody may create and delete files in this directory";
    assert_eq!(
        findings(
            "writable",
            &[&[
                open(".", 0o777),
                open("etc", 0o777),
                open("lost", 0o772),
                open("tmp", 0o1777),
                open("usr", 0o775)
            ]],
            &[]
        ),
        [
            warning(&format!("/: mode 0777: {WHAT}")),
            warning(&format!("etc: mode 0777: {WHAT}")),
            warning(&format!("lost: mode 0772: {WHAT}")),
        ]
    );
    let many = ["a", "b", "c", "d", "e"].map(|name| open(name, 0o777));
    let lines = findings("writable-many", &[&many], &[]);
    assert_eq!(
        lines[2..],
        [
            warning(&format!("c: mode 0777: {WHAT}")),
            "warning: new root: 2 more directories to which everybody may write".into(),
        ]
    );
    // What a layer above has made right is right.
    assert_eq!(
        findings(
            "writable-covered",
            &[&[open("etc", 0o777)], &[open("etc", 0o755)]],
            &[]
        ),
        [""; 0]
    );
}

#[test]
fn members_that_no_filesystem_takes_are_told() {
    let long = "x".repeat(256);
    let below = format!("{long}/y");
    let fits = "x".repeat(255);
    let members = [
        file(&long, b""),
        dir(&below),
        file(&fits, b""),
        file(".", b""),
        entry("/", 0o120_777, b"etc"),
        file("", b""),
        dir("."),
    ];
    let lines = findings("name-max", &[&members], &[]);
    let said: Vec<_> = lines
        .iter()
        .map(|line| &line[line.len().min(18)..])
        .collect();
    const INIT: &str = "/init leaves the file out, as the kernel would";
    assert_eq!(
        said,
        [
            format!("{long}: a name of 256 bytes, and no file's is longer than 255: {INIT}"),
            format!("{below}: a name of 256 bytes, and no file's is longer than 255: {INIT}"),
            format!(".: a file named as the root directory: {INIT}"),
            format!("/: a symlink named as the root directory: {INIT}"),
            format!(".: a file named as the root directory: {INIT}"),
        ]
    );
    // In the loader the kernel does it.
    let directory = scratch("check-name-max-loader");
    let (lines, status) = check(
        &directory,
        &cpio(&[init(), file(&long, b"")]),
        &["--cmdline", "root=/dev/vda1"],
    );
    assert_eq!(
        (lines[0].as_str(), status),
        (
            &*format!(
                "error: 0x0000010c {long}: a name of 256 bytes, and no file's is longer than 255: the kernel drops \
                 the file without a word"
            ),
            1
        )
    );
}

#[test]
fn a_program_that_takes_the_place_of_init_is_told_by_name() {
    let directory = scratch("check-foreign-init");
    let busybox = cpio(&[
        dir("bin"),
        program("bin/busybox"),
        entry("init", 0o120_777, b"bin/busybox"),
    ]);
    let script = cpio(&[
        // Nor does it matter that there is no shell.
        entry("init", 0o100_755, b"#!/bin/sh\n"),
    ]);
    let mut image = erofs(1, "");
    image[1032] &= !1;
    let first = |pieces: &[&[u8]], words: &[&str]| {
        let (lines, status) = check(&directory, &pieces.concat(), words);
        let mut errors = lines.into_iter().filter(|line| line.starts_with("error: "));
        (errors.next().unwrap_or_default(), status)
    };
    const WHERE: &str = "from the archive at 0x188, which replaces that of the archive at 0x0: no layer would be \
                         mounted (the loader has to be the last archive with that name in front of the first EROFS image)";
    assert_eq!(loader().len(), 0x188);
    for (other, what) in [
        (&busybox, "another program (bin/busybox)"),
        (&script, "a script (#!/bin/sh)"),
    ] {
        let expected =
            format!("error: loader: start /init: it is not layerinit's, but {what} {WHERE}");
        assert_eq!(first(&[&loader(), other, &image], &[]), (expected, 1));
        // The loader is the last of them.
        let (line, _) = first(&[other, &loader(), &image], &[]);
        assert!(!line.contains("layerinit's"), "{line}");
        // One that is built into the kernel is replaced, too.
        let (line, status) = first(&[other, &image], &["--loader-built-in"]);
        assert!(
            line.starts_with("error: loader: start /init: it is not layerinit's, but "),
            "{line}"
        );
        assert_eq!(status, 1);
    }
    // A script of another name may start ours, but not without its interpreter.
    let before = cpio(&[init(), entry("before", 0o100_755, b"#!/bin/sh\n")]);
    assert_eq!(
        first(
            &[&before, &image],
            &["--cmdline", "retain_initrd rdinit=/before"]
        )
        .0,
        "error: /before: it needs /bin/sh, which no archive that the kernel unpacks has (a static /init needs nothing)"
    );
}

#[test]
fn an_init_that_is_passed_over_for_the_next_is_told() {
    let link = |name, target: &'static [u8]| entry(name, 0o120_777, target);
    for (name, init, expected) in [
        ("none", vec![], None),
        (
            "dir",
            vec![dir("sbin/init")],
            Some("a directory, not a file"),
        ),
        (
            "pipe",
            vec![entry("sbin/init", 0o010_755, b"")],
            Some("a pipe, not a file"),
        ),
        (
            "device",
            vec![node("sbin/init", 5)],
            Some("a character device, not a file"),
        ),
        (
            "circle",
            vec![link("sbin/init", b"init")],
            Some("a symlink to init, which leads in a circle (ELOOP)"),
        ),
        (
            "dangling",
            vec![link("sbin/init", b"../lib/systemd/systemd")],
            Some("a symlink to ../lib/systemd/systemd, which leads nowhere"),
        ),
        (
            "itself",
            vec![entry("sbin/init", 0o100_755, b"#!/sbin/init\n")],
            Some(
                "it needs /sbin/init: it needs /sbin/init: it needs /sbin/init: it needs /sbin/init: it needs \
                 /sbin/init: too many interpreters of interpreters",
            ),
        ),
        (
            "empty",
            vec![entry("sbin/init", 0o100_755, b"")],
            Some("it is empty"),
        ),
    ] {
        let mut entries = vec![dir("sbin"), dir("bin"), program("bin/init")];
        entries.extend(init);
        let image = join(&[&loader(), &cpio(&entries)]);
        let (lines, status) = check(&scratch(&format!("check-passed-{name}")), &image, &[]);
        let expected =
            expected.map(|why| format!("warning: /sbin/init: {why}; /bin/init would start"));
        let told = lines
            .iter()
            .filter(|line| !line.starts_with("memory: ") && !line.starts_with("image: "));
        assert_eq!(Vec::from_iter(told), Vec::from_iter(&expected), "{name}");
        assert_eq!(status, 0);
    }
}

#[test]
fn blocks_larger_than_the_kernels_pages_are_an_error_where_these_are_known() {
    let directory = scratch("check-blocks");
    // mkfs.erofs -b16384: s_blocks in the unit of blkszbits, 14.
    let mut image = erofs(4, "");
    image[1032] &= !1;
    image[1036] = 14;
    image[1024 + 36] = 1;
    let mut whole = x86_loader();
    pad(&mut whole, 16384);
    whole.extend(image);
    let said = |config: Option<&str>| {
        let mut words = Vec::new();
        if let Some(config) = config {
            fs::write(directory.join("config"), config).unwrap();
            words = vec!["--kernel-config", "config"];
        }
        let (mut lines, _) = check(&directory, &whole, &words);
        lines.retain(|line| line.contains("EROFS blocks"));
        lines
    };
    let refused = |page: u32| {
        vec![format!(
            "error: 0x00004000: EROFS blocks of 16384 bytes, and this kernel's pages have {page}: it refuses the image"
        )]
    };
    let maybe = "warning: 0x00004000: EROFS blocks of 16384 bytes: the kernel refuses the image where pages are smaller";
    assert_eq!(said(None), [maybe]);
    for (config, page) in [
        ("CONFIG_X86_64=y\n", Some(4096)),
        (
            "# Linux/riscv 6.12.1 Kernel Configuration\nCONFIG_MMU=y\n",
            Some(4096),
        ),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_4K_PAGES=y\n", Some(4096)),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_PAGE_SHIFT=13\n", Some(8192)),
        ("CONFIG_PAGE_SIZE_8KB=y\n", Some(8192)),
        ("CONFIG_PAGE_SHIFT=12\n", Some(4096)),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_16K_PAGES=y\n", None),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_64K_PAGES=y\n", None),
        ("CONFIG_PPC64=y\nCONFIG_PPC_64K_PAGES=y\n", None),
        ("CONFIG_PAGE_SHIFT=14\n", None),
    ] {
        assert_eq!(
            said(Some(config)),
            page.map(refused).unwrap_or_default(),
            "{config}"
        );
    }
    // Of an architecture with several sizes, without a word about which.
    assert_eq!(said(Some("CONFIG_ARM64=y\n")), [maybe]);
}

#[test]
fn modules_for_another_machine_than_init_are_told() {
    let directory = scratch("check-module-machine");
    let mut s390 = elf(22 << 8);
    s390[5] = 2;
    let compressed = |module: &[u8]| {
        fs::write(directory.join("module"), module).unwrap();
        let mut xz = Command::new("xz");
        let packed = xz
            .args(["-c", "--check=crc32"])
            .arg(directory.join("module"));
        packed.output().unwrap().stdout
    };
    let line = |file: &str, number: u16, here: &str| {
        vec![format!(
            "error: loader: lib/modules/6.12.1/kernel/fs/erofs/{file}: a module for another machine (e_machine \
             {number}, here {here})"
        )]
    };
    // e_machine of /init, a module, the configuration's architecture; what is wrong.
    for (init, module, file, architecture, expected) in [
        (X86_64, elf(X86_64), "erofs.ko", "", vec![]),
        (
            X86_64,
            elf(AARCH64),
            "erofs.ko",
            "",
            line("erofs.ko", 183, "x86_64"),
        ),
        (
            AARCH64,
            elf(X86_64),
            "erofs.ko",
            "",
            line("erofs.ko", 62, "aarch64"),
        ),
        (
            AARCH64,
            compressed(&elf(X86_64)),
            "erofs.ko.xz",
            "",
            line("erofs.ko.xz", 62, "aarch64"),
        ),
        // Programs of 32 bits run on kernels of 64.
        (3, elf(X86_64), "erofs.ko", "", vec![]),
        (40, elf(AARCH64), "erofs.ko", "", vec![]),
        (
            X86_64,
            elf(AARCH64),
            "erofs.ko",
            "x86",
            line("erofs.ko", 183, "x86_64"),
        ),
        (
            X86_64,
            s390.clone(),
            "erofs.ko",
            "",
            line("erofs.ko", 22, "x86_64"),
        ),
        (0, s390, "erofs.ko", "s390", vec![]),
        // Of what is not known nothing is said.
        (0, elf(AARCH64), "erofs.ko", "", vec![]),
        (X86_64, b"module".to_vec(), "erofs.ko", "", vec![]),
    ] {
        let dep = format!("kernel/fs/erofs/{file}:\n");
        let loader = modules_for(init, "6.12.1", &dep, &[(file, &module)]);
        let mut words = vec!["--cmdline", "root=/dev/sda1"];
        if !architecture.is_empty() {
            let config = format!("# Linux/{architecture} 6.12.1 Kernel Configuration\n{CONFIG}");
            fs::write(directory.join("config"), config).unwrap();
            words.extend(["--kernel-config", "config"]);
        }
        let (mut lines, _) = check(&directory, &loader, &words);
        lines.retain(|line| line.contains(" module for "));
        assert_eq!(lines, expected, "{init} {file} {architecture}");
    }
}

#[test]
fn what_kernels_of_32_bits_cannot_do_is_told() {
    let directory = scratch("check-narrow");
    let tree = cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, &elf(40))]);
    let loader = cpio(&[entry("init", 0o100_755, &init_for(40))]);
    let said = |config: &str, size: u64| {
        fs::write(directory.join("config"), format!("{CONFIG}{config}")).unwrap();
        fs::write(directory.join("image"), join(&[&loader, &tree])).unwrap();
        // Zeros behind the last archive are nothing but length.
        let image = fs::File::options()
            .write(true)
            .open(directory.join("image"));
        image.unwrap().set_len(size << 20).unwrap();
        let mut command = tool(&directory);
        let output = command
            .args(["check", "image", "--kernel-config", "config"])
            .output();
        let (out, _, _) = said(&output.unwrap());
        let lines = out
            .lines()
            .filter(|line| line.contains("lowmem") || line.contains("_TIME="));
        Vec::from_iter(lines.map(String::from))
    };
    // 8 MiB are mapped all the time.
    let arm = "CONFIG_ARM=y\nCONFIG_PAGE_OFFSET=0xef000000\n";
    assert_eq!(said(arm, 4), [""; 0]);
    assert_eq!(
        said(arm, 5),
        [
            "warning: CONFIG_ARM=y: the initrd of 5 MiB has to lie as a whole in the memory that this kernel maps \
             (lowmem, the first 8 MiB): the kernel faults as /sys/firmware/initrd is read beyond"
        ]
    );
    assert_eq!(
        said(arm, 9),
        [
            "error: CONFIG_ARM=y: the initrd of 9 MiB is larger than the memory that this kernel maps (lowmem, 8 MiB): the kernel faults as /sys/firmware/initrd is read beyond"
        ]
    );
    assert_eq!(said("CONFIG_ARM64=y\n", 9), [""; 0]);

    let off = "# CONFIG_COMPAT_32BIT_TIME is not set\n";
    let times = "warning: CONFIG_COMPAT_32BIT_TIME=n: programs that are linked with glibc and know times of 32 bits \
                 only fail (ENOSYS): take an /init for musl, and a real init built with times of 64 bits";
    for (config, expected) in [
        (format!("{arm}{off}"), &[times][..]),
        (
            format!("CONFIG_X86=y\n# CONFIG_64BIT is not set\n{off}"),
            &[times],
        ),
        (format!("CONFIG_X86_64=y\nCONFIG_64BIT=y\n{off}"), &[]),
        (format!("{arm}CONFIG_COMPAT_32BIT_TIME=y\n"), &[]),
        (arm.into(), &[]),
    ] {
        assert_eq!(said(&config, 1), expected, "{config}");
    }
}
