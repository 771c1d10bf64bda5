//! `layerinit build`: the loader, the layers, and their offsets.

use super::*;

#[test]
fn the_last_page_of_the_last_image_is_complete() {
    let directory = workshop("tool-build-pages");
    // The image has nine blocks of 512 bytes.
    let mut small = erofs(2, "small")[..9 * 512].to_vec();
    small[1036] = 9;
    small[1060] = 9;
    fs::write(directory.join("small.erofs"), &small).unwrap();
    fs::write(directory.join("both"), join(&[&cpio(&[dir("x")]), &small])).unwrap();
    let at = cpio(&[dir("x")]).len();
    // Pages of 4 KiB and of up to 64 KiB; a layer after the image that is longer or shorter than these.
    let long = cpio(&[file("long", &[1; 70_000])]);
    fs::write(directory.join("long.cpio"), &long).unwrap();
    for (machine, layers, end) in [
        (62, &["small.erofs"][..], 4096 + 8192),
        (62, &["base.erofs", "small.erofs"], 4096 + 8192 + 8192),
        (62, &["both"], 4096 + at + 8192),
        (62, &["small.erofs", "late.cpio"], 4096 + 8192 + 240),
        (183, &["small.erofs"], 4096 + 65536),
        (183, &["base.erofs"], 4096 + 65536),
        (183, &["small.erofs", "late.cpio"], 4096 + 65536),
        (183, &["base.erofs", "long.cpio"], 4096 + 8192 + long.len()),
    ] {
        fs::write(directory.join("program"), elf(machine)).unwrap();
        let mut words = vec!["build", "--init", "program", "-o", "image"];
        layers
            .iter()
            .for_each(|layer| words.extend(["--layer", layer]));
        good(&directory, &words);
        let image = fs::read(directory.join("image")).unwrap();
        assert_eq!(image.len(), end, "{machine} {layers:?}");
    }
}

#[test]
fn an_image_with_data_on_another_device_is_refused() {
    let directory = workshop("tool-build-pieces");
    let mut image = erofs(2, "base");
    image[1110] = 1;
    fs::write(directory.join("pieces.erofs"), image).unwrap();
    let what = "the image needs 1 more device: only images of one piece can be mounted\n";
    assert_eq!(
        bad(
            &directory,
            &[
                "build",
                "--init",
                "init",
                "-o",
                "image",
                "--layer",
                "pieces.erofs"
            ]
        ),
        format!("layerinit: read pieces.erofs: {what}")
    );
    let pieces = [
        "--mkfs-erofs-arg=--blobdev=blob",
        "--mkfs-erofs-arg=--chunksize=4096",
    ];
    let words = ["build", "--init", "init", "-o", "image", "--layer", "root"];
    assert_eq!(
        bad(&directory, &[&words[..], &pieces].concat()),
        format!("layerinit: read root: {what}")
    );
}

#[test]
fn layers_are_appended_unchanged_and_aligned() {
    let directory = workshop("tool-build-align");
    let loader = ["build", "--init", "init", "-o", "image"];
    assert_eq!(
        good(&directory, &loader),
        "image: 1536 bytes, loader 1536 bytes, 0 layers\n"
    );
    let layers = ["--layer", "late.cpio", "--layer", "base.erofs"];
    let said = good(&directory, &[&loader[..], &layers].concat());
    assert_eq!(said, "image: 16384 bytes, loader 1536 bytes, 2 layers\n");
    let image = fs::read(directory.join("image")).unwrap();
    assert_eq!(image[4096..4096 + 240], cpio(&[file("x", b"1")]));
    assert_eq!(image[8192..], erofs(2, "base"));
    assert!(
        image[1536..4096]
            .iter()
            .chain(&image[4096 + 240..8192])
            .all(|byte| *byte == 0)
    );

    let said = good(
        &directory,
        &[&loader[..], &layers, &["--align", "4"]].concat(),
    );
    assert_eq!(said, "image: 9968 bytes, loader 1536 bytes, 2 layers\n");
    let image = fs::read(directory.join("image")).unwrap();
    assert_eq!(
        image[1536..],
        join(&[&cpio(&[file("x", b"1")]), &erofs(2, "base")])
    );
    let odd = bad(&directory, &[&loader[..], &["--align", "6"]].concat());
    assert_eq!(
        odd,
        "layerinit: align layers to 6: not a multiple of 4, at which the kernel expects archives\n"
    );
}

#[test]
fn the_standard_loader_is_the_spec_in_the_repository() {
    let directory = workshop("tool-build-standard");
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/initramfs-spec/loader");
    good(&directory, &["build", "--init", "init", "-o", "standard"]);
    good(
        &directory,
        &["build", "--init", "init", "-o", "by-spec", "--spec", spec],
    );
    let mut by_environment = tool(&directory);
    by_environment
        .args(["build", "-o", "by-environment"])
        .env("LAYERINIT_INIT", "init");
    assert!(by_environment.output().unwrap().status.success());
    let standard = fs::read(directory.join("standard")).unwrap();
    assert_eq!(fs::read(directory.join("by-spec")).unwrap(), standard);
    assert_eq!(
        fs::read(directory.join("by-environment")).unwrap(),
        standard
    );
    assert_eq!(
        good(&directory, &["list", "--files", "standard"]),
        "\
offset          length what
0x00000000        1212 cpio 9 members, 4096 bytes unpacked, holds init
    drwxr-xr-x   2     0     0          0 1970-01-01 00:00:00 dev
    crw-------   1     0     0       5, 1 1970-01-01 00:00:00 dev/console
    crw-------   1     0     0      1, 11 1970-01-01 00:00:00 dev/kmsg
    crw-rw-rw-   1     0     0       1, 3 1970-01-01 00:00:00 dev/null
    dr-xr-xr-x   2     0     0          0 1970-01-01 00:00:00 proc
    dr-xr-xr-x   2     0     0          0 1970-01-01 00:00:00 sys
    drwxr-xr-x   2     0     0          0 1970-01-01 00:00:00 run
    drwxr-xr-x   2     0     0          0 1970-01-01 00:00:00 layers
    -rwxr-xr-x   1     0     0         21 1970-01-01 00:00:00 init
0x000004bc         324 padding
"
    );
}

#[test]
fn without_an_option_the_init_beside_the_tool_is_used() {
    let directory = workshop("tool-build-beside");
    fs::create_dir(directory.join("bin")).unwrap();
    copy_program(
        env!("CARGO_BIN_EXE_layerinit"),
        directory.join("bin/layerinit"),
    );
    let run = |words: &[&str]| {
        let mut command = Command::new(directory.join("bin/layerinit"));
        command
            .current_dir(&directory)
            .env_remove("LAYERINIT_INIT")
            .env_remove("SOURCE_DATE_EPOCH");
        said(
            &command
                .args(["build", "-o", "image"])
                .args(words)
                .output()
                .unwrap(),
        )
    };
    let missing = "layerinit: find init: neither in the directory of this program nor in ../lib/layerinit; build it with `cargo build --release --bin init`, \
                   or use --init PATH\n";
    assert_eq!(run(&[]), (String::new(), missing.into(), 1));
    // A spec without it needs none.
    fs::write(directory.join("spec"), "dir /a 0755 0 0\n").unwrap();
    assert_eq!(run(&["--spec", "spec"]).2, 0);
    fs::copy(directory.join("init"), directory.join("bin/init")).unwrap();
    assert_eq!(
        run(&[]),
        (
            "image: 1536 bytes, loader 1536 bytes, 0 layers\n".into(),
            String::new(),
            0
        )
    );
}

/// As much of a program as the tool reads.
fn program_for(e_machine: u8) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    elf.extend([e_machine, 0]);
    elf
}

#[test]
fn the_init_of_the_architecture_is_used() {
    const AARCH64: u8 = 183;
    const RISCV: u8 = 243;
    let directory = workshop("tool-build-target");
    let modules = directory.join("arm64/lib/modules/6.12");
    for path in ["usr/bin", "usr/lib/layerinit/aarch64"] {
        fs::create_dir_all(directory.join(path)).unwrap();
    }
    fs::create_dir_all(&modules).unwrap();
    copy_program(
        env!("CARGO_BIN_EXE_layerinit"),
        directory.join("usr/bin/layerinit"),
    );
    let init = directory.join("usr/lib/layerinit/aarch64/init");
    fs::write(&init, program_for(AARCH64)).unwrap();
    fs::write(directory.join("riscv-init"), program_for(RISCV)).unwrap();
    for name in ["erofs", "overlay", "loop"] {
        fs::write(modules.join(format!("{name}.ko")), program_for(AARCH64)).unwrap();
    }
    let dep = "erofs.ko:\noverlay.ko:\nloop.ko:\n";
    fs::write(modules.join("modules.dep"), dep).unwrap();
    let mut kernel = vec![0; 64];
    kernel[0x38..0x3c].copy_from_slice(b"RSC\x05");
    fs::write(directory.join("vmlinux-6.12"), kernel).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(directory.join("usr/bin/layerinit"));
        command
            .current_dir(&directory)
            .env_remove("LAYERINIT_INIT")
            .env_remove("SOURCE_DATE_EPOCH");
        let (_, stderr, status) = said(
            &command
                .args(["build", "-o", "image"])
                .args(words)
                .output()
                .unwrap(),
        );
        (stderr, status)
    };
    let holds = |program: &[u8]| {
        let image = fs::read(directory.join("image")).unwrap();
        image.windows(program.len()).any(|window| window == program)
    };
    // The architecture by Debian's name, by that of uname, and from the modules.
    for words in [
        &["--target", "arm64"][..],
        &["--target", "aarch64"],
        &["--modules", "arm64"],
    ] {
        assert_eq!(run(words), (String::new(), 0), "{words:?}");
        assert!(holds(&program_for(AARCH64)), "{words:?}");
    }
    let missing = "layerinit: find init for riscv64: neither in ../lib/layerinit/riscv64 from the directory of this program \
                   nor in the target directory of cargo; build it with `qemu/cross riscv64` (docs/cross.md), or use --init PATH\n";
    for words in [
        &["--target", "riscv64"][..],
        &["--kernel", "vmlinux-6.12", "--fit", "fit"],
    ] {
        assert_eq!(run(words), (missing.into(), 1), "{words:?}");
    }
    assert_eq!(
        run(&["--target", "riscv64", "--init", "riscv-init"]),
        (String::new(), 0)
    );
    assert_eq!(
        run(&["--target", "arm64", "--init", "riscv-init"]),
        (
            "layerinit: use as /init riscv-init: a program for riscv64, and --target is aarch64; \
             name another one with --init\n"
                .into(),
            1
        )
    );
    let (unknown, status) = run(&["--target", "vax"]);
    assert!(
        unknown.contains("not one of x86_64, aarch64, arm, riscv64") && status == 2,
        "{unknown}"
    );
}

#[test]
fn a_link_to_an_image_stays_a_link() {
    let directory = workshop("tool-build-link");
    fs::create_dir(directory.join("elsewhere")).unwrap();
    symlink("other", directory.join("elsewhere/real")).unwrap();
    symlink("elsewhere/real", directory.join("image")).unwrap();
    // Also if the target does not exist yet.
    for _ in 0..2 {
        good(&directory, &["build", "--init", "init", "-o", "image"]);
        for link in ["image", "elsewhere/real"] {
            assert!(directory.join(link).is_symlink(), "{link}");
        }
        let other = fs::metadata(directory.join("elsewhere/other")).unwrap();
        assert_eq!(other.len(), 1536);
        assert_eq!(
            names(&directory.join("elsewhere")),
            BTreeSet::from(["other".to_string(), "real".to_string()])
        );
        fs::write(directory.join("elsewhere/other"), "old").unwrap();
    }
}

#[test]
fn an_uncompressed_image_can_be_mapped_in_place() {
    let directory = workshop("tool-build-plain");
    fs::write(directory.join("root/data"), [1; 5000]).unwrap();
    let words = ["build", "--init", "init", "-o", "image", "--layer", "root"];
    let stdout = good(
        &directory,
        &[&words[..], &["--erofs-compression", "none"]].concat(),
    );
    let line = stdout.lines().next().unwrap();
    // Two files in whole blocks, and at least one block of metadata.
    assert!(line.starts_with("root: not compressed: "), "{line}");
    let what = " bytes, 7282 of them after the ends of files; memback maps 5006 of 5006 bytes, 2 of 2 files";
    assert!(line.ends_with(what), "{line}");
    let checked = good(&directory, &["list", "image"]);
    assert!(checked.contains("0x00001000"), "{checked}");
    assert!(!good(&directory, &words).contains("memback"));
}

#[test]
fn the_build_prints_a_line_for_each_layer_or_nothing() {
    let directory = workshop("build-verbose");
    let words = [
        "build",
        "-o",
        "a.img",
        "--init",
        "init",
        "--layer",
        "base.erofs",
        "--layer",
        "late.cpio",
    ];
    let (stdout, stderr, status) = run(&directory, &[&words[..], &["-v"]].concat());
    assert_eq!(status, 0);
    assert!(stdout.ends_with(", 2 layers\n"), "{stdout}");
    assert_eq!(
        stderr,
        "layer 0, base.erofs: 8192 bytes\nlayer 1, late.cpio: 240 bytes\n"
    );
    assert_eq!(good(&directory, &[&words[..], &["-q"]].concat()), "");
    let (_, stderr, status) = run(&directory, &[&words[..], &["-q", "-v"]].concat());
    assert_eq!(status, 2, "{stderr}");
}
