//! `layerinit build --modules`.

use super::*;

#[test]
fn modules_are_decompressed_and_keep_their_signatures_by_default() {
    let directory = workshop("tool-build-module-files");
    let modules = directory.join("lib/modules/6.12-test");
    let signature = b"sig\0\0\x02\0\0\0\0\0\0\0\0\x03~Module signature appended~\n";
    let signed = |name: &str| [name.as_bytes(), signature].concat();
    fs::create_dir_all(&modules).unwrap();
    for name in ["erofs", "overlay", "loop"] {
        fs::write(modules.join(name).with_extension("ko"), signed(name)).unwrap();
    }
    for (command, file) in [("xz", "erofs.ko"), ("zstd", "overlay.ko")] {
        let mut pack = Command::new(command);
        let done = pack.arg("-q").arg(modules.join(file)).status().unwrap();
        assert!(done.success(), "{command}");
    }
    fs::write(
        modules.join("modules.dep"),
        "overlay.ko.zst: erofs.ko.xz\nerofs.ko.xz:\nloop.ko:\n",
    )
    .unwrap();
    let build = |more: &[&str]| {
        let words = [
            "build",
            "-o",
            "image",
            "--spec",
            "/dev/null",
            "--modules",
            ".",
        ];
        good(&directory, &[&words[..], more].concat());
        fs::read(directory.join("image")).unwrap()
    };
    let holds = |image: &[u8], part: &[u8]| image.windows(part.len()).any(|window| window == part);
    let plain = build(&[]);
    assert!(holds(
        &plain,
        b"overlay.ko: erofs.ko\nerofs.ko:\nloop.ko:\n"
    ));
    let stripped = build(&["--strip-module-signatures"]);
    for name in ["erofs", "overlay", "loop"] {
        assert!(holds(&plain, &signed(name)), "{name}");
        assert!(!holds(&stripped, &signed(name)), "{name}");
        assert!(holds(&plain, format!("/{name}.ko\0").as_bytes()), "{name}");
    }
    assert!(!holds(&stripped, b"signature appended"));
    let kept = build(&["--keep-compressed-modules"]);
    assert!(holds(
        &kept,
        b"overlay.ko.zst: erofs.ko.xz\nerofs.ko.xz:\nloop.ko:\n"
    ));
    assert!(holds(
        &kept,
        &fs::read(modules.join("erofs.ko.xz")).unwrap()
    ));
}

#[test]
fn modules_for_another_machine_get_a_warning() {
    let directory = workshop("tool-build-machine");
    let modules = directory.join("lib/modules/6.12-test");
    fs::create_dir_all(&modules).unwrap();
    fs::write(directory.join("x86"), init_for(62)).unwrap();
    let words = ["build", "-o", "image", "--init", "x86", "--modules", "."];
    let built = |machine: u16| {
        for name in ["erofs", "overlay", "loop"] {
            fs::write(modules.join(name).with_extension("ko"), elf(machine)).unwrap();
        }
        fs::write(
            modules.join("modules.dep"),
            "erofs.ko:\noverlay.ko:\nloop.ko:\n",
        )
        .unwrap();
        let text = good(&directory, &words);
        text.lines()
            .filter(|line| line.starts_with("warning: "))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(built(62), "");
    assert_eq!(
        built(183),
        "warning: lib/modules/6.12-test/erofs.ko: a module for another machine (e_machine 183, here x86_64)"
    );
}

const DEP: &str = "\
kernel/net/never.ko:
kernel/fs/ext4/ext4.ko.zst: kernel/fs/jbd2.ko kernel/fs/mbcache.ko
kernel/fs/erofs/erofs.ko.xz: kernel/lib/crc.ko.xz
kernel/lib/crc.ko.xz:
kernel/fs/overlayfs/overlay.ko:
kernel/fs/jbd2.ko:
kernel/fs/mbcache.ko:
";

/// The files of a build without `--module`, as `listed` prints them.
const FEW: [&str; 13] = [
    "drwx--x--x lib",
    "drwxr-xr-x lib/modules",
    "drwxr-xr-x ...",
    "drwxr-xr-x .../kernel",
    "drwxr-xr-x .../kernel/fs",
    "drwxr-xr-x .../kernel/fs/erofs",
    "-rw-r--r-- .../kernel/fs/erofs/erofs.ko.xz",
    "drwxr-xr-x .../kernel/fs/overlayfs",
    "-rw-r--r-- .../kernel/fs/overlayfs/overlay.ko",
    "drwxr-xr-x .../kernel/lib",
    "-rw-r--r-- .../kernel/lib/crc.ko.xz",
    "-rw-r--r-- .../modules.builtin",
    "-rw-r--r-- .../modules.dep",
];

/// A directory with the modules of one kernel below `tree`.
fn with_modules(name: &str) -> std::path::PathBuf {
    let directory = workshop(name);
    let modules = directory.join("tree/usr/lib/modules/6.12-test");
    for file in [
        "fs/erofs/erofs.ko.xz",
        "lib/crc.ko.xz",
        "fs/overlayfs/overlay.ko",
        "fs/ext4/ext4.ko.zst",
        "fs/jbd2.ko",
        "fs/mbcache.ko",
        "net/never.ko",
    ] {
        let path = modules.join("kernel").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    fs::write(modules.join("modules.dep"), DEP).unwrap();
    fs::write(
        modules.join("modules.builtin"),
        "kernel/fs/proc.ko\nkernel/drivers/block/loop.ko\n",
    )
    .unwrap();
    fs::write(directory.join("spec"), "dir /lib 0711 0 0\n").unwrap();
    directory
}

const WORDS: [&str; 6] = ["build", "-o", "image", "--spec", "spec", "--modules"];

/// Mode and path of every file in the image of a build with these words, with the directory of modules
/// shortened.
fn listed(directory: &Path, more: &[&str]) -> Vec<String> {
    good(directory, &[&WORDS[..], more].concat());
    let listing = good(directory, &["list", "--files", "image"]);
    let lines = listing.lines().filter(|line| line.starts_with("    "));
    let shortened = lines.map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        format!(
            "{} {}",
            words[0],
            words[words.len() - 1].replace("lib/modules/6.12-test", "...")
        )
    });
    shortened.collect::<Vec<_>>()
}

/// The files in addition to `FEW`.
fn extra(directory: &Path, more: &[&str]) -> Vec<String> {
    let mut lines = listed(directory, more);
    lines.retain(|line| !FEW.contains(&line.as_str()));
    lines
}

#[test]
fn modules_come_with_their_dependencies_and_no_others() {
    let directory = with_modules("tool-build-modules");
    // For every spelling of the directory.
    for root in [
        "tree",
        "tree/usr/lib/modules",
        "tree/usr/lib/modules/6.12-test",
    ] {
        assert_eq!(
            listed(&directory, &[root, "--kernel", "6.12-test"]),
            FEW,
            "{root}"
        );
    }
    assert_eq!(listed(&directory, &["tree"]), FEW);
    let image = fs::read(directory.join("image")).unwrap();
    let text = String::from_utf8_lossy(&image);
    assert!(text.contains("kernel/fs/erofs/erofs.ko.xz: kernel/lib/crc.ko.xz\nkernel/lib/crc.ko.xz:\nkernel/fs/overlayfs/overlay.ko:\n"));
    assert!(text.contains("\0kernel/drivers/block/loop.ko\n"));
}

#[test]
fn modules_can_be_named() {
    let directory = with_modules("tool-build-modules-named");
    assert_eq!(
        extra(
            &directory,
            &["tree", "--module", "ext4", "--module", "proc"]
        ),
        [
            "drwxr-xr-x .../kernel/fs/ext4",
            "-rw-r--r-- .../kernel/fs/ext4/ext4.ko.zst",
            "-rw-r--r-- .../kernel/fs/jbd2.ko",
            "-rw-r--r-- .../kernel/fs/mbcache.ko",
        ]
    );
}

#[test]
fn soft_dependencies_of_modules_are_included() {
    let directory = with_modules("tool-build-modules-softdep");
    let modules = directory.join("tree/usr/lib/modules/6.12-test");
    // A soft dependency of a dependency, by an alias.
    let (softdep, alias) = (
        modules.join("modules.softdep"),
        modules.join("modules.alias"),
    );
    fs::write(&softdep, "softdep crc pre: sum\nsoftdep never pre: x\n").unwrap();
    fs::write(&alias, "alias x never\nalias sum jbd2\n").unwrap();
    assert_eq!(
        extra(&directory, &["tree"]),
        [
            "-rw-r--r-- .../kernel/fs/jbd2.ko",
            "-rw-r--r-- .../modules.alias",
            "-rw-r--r-- .../modules.softdep",
        ]
    );
    let image = fs::read(directory.join("image")).unwrap();
    let text = String::from_utf8_lossy(&image);
    assert!(text.contains("\0softdep crc pre: sum\n\0") && text.contains("\0alias sum jbd2\n\0"));
}

#[test]
fn missing_modules_are_named() {
    let directory = with_modules("tool-build-modules-missing");
    let modules = directory.join("tree/usr/lib/modules/6.12-test");
    let bad = |more: &[&str]| bad(&directory, &[&WORDS[..], more].concat());
    let missing = bad(&["tree", "--module", "btrfs"]);
    assert!(missing.starts_with("layerinit: find module btrfs: neither a module of kernel 6.12-test nor built into it (tree/"), "{missing}");
    assert_eq!(
        bad(&["tree", "--kernel", "6.1"]),
        "layerinit: find modules in tree: no lib/modules/6.1 here\n"
    );
    assert_eq!(
        bad(&["tree", "--kernel", "../x"]),
        "layerinit: find modules of \"../x\": not the release of a kernel\n"
    );
    fs::create_dir_all(directory.join("tree/usr/lib/modules/6.13/kernel")).unwrap();
    assert_eq!(
        bad(&["tree", "--kernel", "6.13"]),
        "layerinit: find modules in tree/usr/lib/modules/6.13: no modules.dep; run `depmod -b tree 6.13`\n"
    );
    fs::write(directory.join("tree/usr/lib/modules/6.13/modules.dep"), "").unwrap();
    assert_eq!(
        bad(&["tree"]),
        "layerinit: find modules in tree: several kernels; use --kernel with one of: 6.12-test, 6.13\n"
    );
    fs::write(
        modules.join("modules.dep"),
        DEP.replace("kernel/lib/crc", "../../crc"),
    )
    .unwrap();
    let outside = bad(&["tree", "--kernel", "6.12-test"]);
    assert!(
        outside.ends_with("modules.dep: ../../crc.ko.xz is not a path below this directory\n"),
        "{outside}"
    );
}

#[test]
fn modules_are_below_usr_if_lib_is_a_link() {
    let directory = with_modules("tool-build-modules-usr");
    fs::write(
        directory.join("spec"),
        "slink /lib usr/lib 0777 0 0\ndir /usr 0755 0 0\ndir /usr/lib 0755 0 0\n",
    )
    .unwrap();
    let merged = listed(&directory, &["tree", "--kernel", "6.12-test"]);
    assert!(
        merged.contains(&"drwxr-xr-x usr/lib/modules".to_string()),
        "{merged:?}"
    );
}

/// As in bootc images: those of the kernel with the highest version, unless --kernel names one.
#[test]
fn the_modules_of_a_kernel_in_the_layers() {
    let directory = workshop("tool-build-layer-modules");
    for release in ["6.9-a", "6.12-b"] {
        let modules = directory.join("root/usr/lib/modules").join(release);
        fs::create_dir_all(modules.join("kernel/fs")).unwrap();
        fs::write(modules.join("vmlinuz"), "kernel").unwrap();
        fs::write(
            modules.join("kernel/fs/erofs.ko"),
            format!("module of {release}"),
        )
        .unwrap();
        fs::write(modules.join("modules.dep"), "kernel/fs/erofs.ko:\n").unwrap();
        fs::write(
            modules.join("modules.builtin"),
            "kernel/overlay.ko\nkernel/loop.ko\n",
        )
        .unwrap();
    }
    let words = ["build", "-o", "image", "--spec", "/dev/null", "--modules"];
    let built = |more: &[&str]| {
        let said = good(&directory, &[&words[..], more].concat());
        let line = said.lines().next().unwrap().to_string();
        (line, fs::read(directory.join("image")).unwrap())
    };
    let holds = |image: &[u8], part: &str| {
        image
            .windows(part.len())
            .any(|window| window == part.as_bytes())
    };
    for (more, release, other) in [
        (&["--layer", "root"][..], "6.12-b", "6.9-a"),
        (&["--layer", "root", "--as", "cpio.gz"], "6.12-b", "6.9-a"),
        (&["--layer", "root", "--kernel", "6.9-a"], "6.9-a", "6.12-b"),
    ] {
        let (line, image) = built(more);
        assert_eq!(
            line,
            format!("modules of kernel {release}, from the layers")
        );
        assert!(
            holds(&image, &format!("/modules/{release}/kernel/fs/erofs.ko\0")),
            "{more:?}"
        );
        assert!(!holds(&image, &format!("/modules/{other}/")), "{more:?}");
    }
    fs::remove_file(directory.join("image")).unwrap();
    let before = names(&directory);
    for (more, message) in [
        (
            &["--layer", "root", "--kernel", "5.0"][..],
            "no usr/lib/modules/5.0/modules.dep, but of 6.9-a, 6.12-b",
        ),
        (&[], "no usr/lib/modules/VERSION/modules.dep"),
    ] {
        let message = format!("layerinit: find modules in the layers: {message}\n");
        assert_eq!(bad(&directory, &[&words[..], more].concat()), message);
    }
    fs::remove_file(directory.join("root/usr/lib/modules/6.12-b/modules.dep")).unwrap();
    let message = "layerinit: find modules in the layers: no usr/lib/modules/6.12-b/modules.dep\n";
    assert_eq!(
        bad(&directory, &[&words[..], &["--layer", "root"]].concat()),
        message
    );
    assert_eq!(names(&directory), before);
}
