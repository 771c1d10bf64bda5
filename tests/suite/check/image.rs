//! Single images: one fault each; the summary; hostile bytes.

use super::*;

/// The output of `check` for an image, without the line about memory, and the status.
pub fn of_image(name: &str, image: &[u8], words: &[&str]) -> (String, i32) {
    let directory = scratch(&format!("tool-check-{name}"));
    fs::write(directory.join("image"), image).unwrap();
    let output = tool(&directory)
        .args(["check", "image"])
        .args(words)
        .output();
    let (stdout, stderr, status) = said(&output.unwrap());
    assert_eq!(stderr, "", "{name}");
    let lines = stdout.split_inclusive('\n');
    let lines = lines.filter(|line| !line.starts_with("memory: "));
    (lines.collect(), status)
}

pub const NEEDS: &str = "needs CONFIG_BLK_DEV_INITRD CONFIG_BLK_DEV_LOOP CONFIG_EROFS_FS CONFIG_OVERLAY_FS CONFIG_TMPFS";

/// An archive of these members and an /init that is not layerinit's.
pub fn system(mut entries: Vec<Entry>) -> Vec<u8> {
    entries.extend([dir("sbin"), program("sbin/init")]);
    cpio(&entries)
}

#[test]
fn a_good_image_gets_one_line() {
    let image = aligned(system(vec![init()]), &erofs_with_init(""));
    let good = format!("image: good; 1 layer; {NEEDS} retain_initrd\n");
    assert_eq!(of_image("good", &image, &[]), (good.clone(), 0));
    assert_eq!(
        of_image("good", &image, &["--cmdline", "quiet retain_initrd"]),
        (good, 0)
    );
    let image = cpio(&[
        init(),
        dir("layers"),
        file("layers/10.erofs", &erofs_with_init("")),
    ]);
    assert_eq!(
        of_image("file", &image, &[]),
        (format!("image: good; 1 layer; {NEEDS}\n"), 0)
    );
    let nothing = "image: good; 0 layers; needs CONFIG_BLK_DEV_INITRD\n";
    assert_eq!(
        of_image("nothing", &system(vec![init()]), &[]),
        (nothing.into(), 0)
    );
    let built_in = format!("image: good; 1 layer; {NEEDS} retain_initrd\n");
    assert_eq!(
        of_image("built-in", &erofs_with_init(""), &["--loader-built-in"]),
        (built_in, 0)
    );
}

/// A name, an image, and the lines that `check` prints above its summary.
type Case<'a> = (&'a str, Vec<u8>, Vec<&'a str>);

fn finds(cases: Vec<Case>) {
    for (name, image, expected) in cases {
        let (stdout, status) = of_image(&name.replace(' ', "-"), &image, &[]);
        let lines: Vec<_> = stdout.lines().collect();
        let (summary, findings) = lines.split_last().unwrap();
        assert_eq!(findings, expected, "{name}");
        let errors = expected
            .iter()
            .filter(|line| line.starts_with("error: "))
            .count();
        assert_eq!(status, i32::from(errors > 0), "{name}");
        assert!(summary.starts_with("image: "), "{name}: {summary}");
    }
}

#[test]
fn an_init_that_the_kernel_cannot_start_is_found() {
    let image = |entries| aligned(system(entries), b"");
    finds(vec![
        (
            "no init",
            image(vec![dir("x")]),
            vec![
                "error: /init: no archive that the kernel unpacks has it (a kernel with the loader built in needs none: --loader-built-in)",
            ],
        ),
        (
            "late init",
            join(&[&erofs_with_init(""), &system(vec![init()])]),
            vec![
                "error: /init: it is in the archive at 0x1000, where the kernel has stopped unpacking: the loader must come first",
            ],
        ),
        (
            "init is a directory",
            image(vec![dir("init")]),
            vec!["error: /init: a directory, not a file"],
        ),
        (
            "init has no x",
            image(vec![file("init", b"#!/x")]),
            vec!["error: /init: not executable (mode 0644)"],
        ),
        (
            "init is empty",
            image(vec![entry("init", 0o100_755, b"")]),
            vec!["error: /init: it is empty"],
        ),
        (
            "init is a text",
            image(vec![entry("init", 0o100_755, b"hello, world")]),
            vec![
                "error: /init: neither an ELF program nor a #! script: it starts with \"hello, w\"",
            ],
        ),
        (
            "init is a script",
            image(vec![entry("init", 0o100_755, b"#!/bin/sh\n")]),
            vec![
                "error: loader: start /init: it is not layerinit's, but a script (#!/bin/sh) from the archive at 0x0: no \
                 layer would be mounted (the loader must be the last archive with that file before the first EROFS image)",
            ],
        ),
        (
            "init is a link",
            image(vec![
                dir("bin"),
                own_init("bin/i"),
                entry("init", 0o120_777, b"bin/i"),
            ]),
            vec![],
        ),
        (
            "init is a link that loops",
            image(vec![entry("init", 0o120_777, b"init")]),
            vec![
                "error: /init: no archive that the kernel unpacks has it (a kernel with the loader built in needs none: --loader-built-in)",
            ],
        ),
    ]);
}

#[test]
fn members_that_the_kernel_drops_are_found() {
    let long_name = "n".repeat(4096);
    let long_target = [b't'; 4097];
    let image = |entries| aligned(system(entries), b"");
    finds(vec![
        (
            "no parent",
            image(vec![init(), file("etc/passwd", b"")]),
            vec![
                "error: 0x0000010c etc/passwd: there is no directory etc: the kernel drops the file without a message",
            ],
        ),
        (
            "parent of the kernel's own",
            image(vec![init(), entry("dev/null", 0o020_666, b"")]),
            vec![],
        ),
        (
            "parent through a link",
            image(vec![
                init(),
                dir("usr"),
                entry("lib", 0o120_777, b"/usr"),
                file("lib/x", b""),
            ]),
            vec![],
        ),
        (
            "long name",
            image(vec![init(), file(&long_name, b"")]),
            vec!["error: 0x0000010c (no name): a name of 4097 bytes: the kernel skips it"],
        ),
        (
            "long target",
            image(vec![init(), entry("l", 0o120_777, &long_target)]),
            vec!["error: 0x0000010c l: a target of more than 4096 bytes: the kernel skips it"],
        ),
        (
            "a directory with a body",
            image(vec![init(), entry("d", 0o040_755, b"x")]),
            vec!["error: 0x0000010c d: a directory with a body: the kernel skips it"],
        ),
        (
            "no type",
            image(vec![init(), entry("d", 0o755, b"")]),
            vec!["error: 0x0000010c d: mode 755 has no valid file type: the kernel skips it"],
        ),
    ]);
}

#[test]
fn members_that_replace_others_or_lead_out_are_found() {
    let mut link = entry("link", 0o120_777, b"");
    link.header.filesize = 0;
    let image = |entries| aligned(system(entries), b"");
    finds(vec![
        (
            "climbs",
            image(vec![init(), file("../../etc", b"")]),
            vec!["error: 0x0000010c ../../etc: its name leads out of the archive"],
        ),
        (
            "dots",
            image(vec![init(), dir("a"), file("a/../b", b"")]),
            vec!["warning: 0x0000017c a/../b: its name has `..` in it"],
        ),
        (
            "another type",
            image(vec![init(), dir("a"), file("a", b"")]),
            vec!["warning: 0x0000017c a: a file in place of an earlier directory"],
        ),
        (
            "a full directory",
            image(vec![
                init(),
                link,
                dir("a"),
                file("a/b", b""),
                file("a", b""),
            ]),
            vec![
                "error: 0x00000264 a: a file in place of a directory that is not empty: the kernel drops it",
            ],
        ),
    ]);
}

#[test]
fn archives_that_the_kernel_stops_at_are_found() {
    let mut bad_sum = file("sum", b"abc");
    (bad_sum.header.crc, bad_sum.header.chksum) = (true, 0x123);
    let image = |entries| aligned(system(entries), b"");
    finds(vec![
        (
            "bad sum",
            image(vec![init(), bad_sum]),
            vec![
                "error: 0x0000010c sum: the sum of its bytes is 0x126, but 0x123 in its header: the kernel stops here",
                "warning: image: there are no layers, and no init but the loader: it boots only with root=",
            ],
        ),
        (
            "an archive of GRUB in front of the images",
            aligned(join(&[&cpio(&[init()]), GRUB_2_06]), &erofs_with_init("")),
            vec![
                "warning: 0x00000188: the name of the member at 0x0 of this archive has no NUL at its end (GRUB before \
                 2.12 writes such names for newc:): the kernel stopped unpacking there",
                "warning: layer 0 (initrd+0x188): etc: mode 0777: everybody may create and delete files in this \
                 directory",
            ],
        ),
        (
            "an archive that the loader did not pad to",
            aligned(
                join(&[&cpio(&[init()]), &[0; 3], &cpio(&[dir("x")])]),
                &erofs_with_init(""),
            ),
            vec![
                "warning: 0x0000018b: an archive that the kernel did not unpack: it does not start at a multiple of 4 \
                 (pad the file in front of it with truncate -s %4)",
            ],
        ),
    ]);
}

#[test]
fn files_of_the_layers_directory_that_are_no_layers_are_found() {
    let image = |entries| aligned(system(entries), b"");
    finds(vec![(
        "layer files",
        image(vec![
            init(),
            dir("layers"),
            file("layers/a", b"text"),
            file("layers/b", b""),
            dir("layers/c"),
        ]),
        vec![
            "warning: layers/c: not a regular file; not used",
            "error: layers/a 0x0: read at 0x0: neither cpio nor EROFS: 74 65 78 74 \"text\"",
            "error: layers/b 0x0: neither an EROFS or SquashFS image nor a cpio archive",
        ],
    )]);
}

#[test]
fn a_new_root_without_an_init_is_found() {
    finds(vec![
        (
            "no init in the layers",
            aligned(
                cpio(&[init()]),
                &cpio(&[
                    dir("bin"),
                    file("bin/init", b""),
                    entry("bin/sh", 0o120_777, b"/bin/no"),
                ]),
            ),
            vec![
                "error: no init in the new root: /sbin/init: not there; /etc/init: not there; /bin/init: not executable \
                 (mode 0644); /bin/sh: a symlink to /bin/no, which does not exist",
            ],
        ),
        (
            "init of a lower layer is covered",
            aligned(
                cpio(&[init()]),
                &join(&[
                    &erofs_with_init(""),
                    &cpio(&[dir("sbin"), dir("sbin/init")]),
                ]),
            ),
            vec![
                "error: no init in the new root: /sbin/init: a directory, not a file; /etc/init: not there; /bin/init: \
                 not there; /bin/sh: not there",
            ],
        ),
        (
            "init through links from layer to layer",
            aligned(
                cpio(&[init()]),
                &join(&[
                    &erofs_with_init(""),
                    &cpio(&[dir("bin"), entry("bin/sh", 0o120_777, b"../sbin/./init")]),
                ]),
            ),
            vec![],
        ),
        (
            "inits that cannot be started",
            aligned(
                cpio(&[init()]),
                &cpio(&[
                    dir("sbin"),
                    entry("sbin/init", 0o100_755, b"#!/bin/nothing -x\n"),
                    dir("etc"),
                    entry("etc/init", 0o100_755, b""),
                    dir("bin"),
                    entry("bin/init", 0o100_755, b"#! /bin/init\n"),
                    entry("bin/sh", 0o100_755, b"hello"),
                ]),
            ),
            vec![
                "error: no init in the new root: /sbin/init: it needs /bin/nothing: not there; /etc/init: it is empty; \
                 /bin/init: it needs /bin/init: it needs /bin/init: it needs /bin/init: it needs /bin/init: it needs \
                 /bin/init: too many interpreters of interpreters; /bin/sh: neither an ELF program nor a #! script: it \
                 starts with \"hello\"",
            ],
        ),
        (
            "a system for another machine",
            aligned(
                cpio(&[entry("init", 0o100_755, &init_for(0xfff0))]),
                &cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, &elf(0xfff0))]),
            ),
            vec![],
        ),
    ]);
}

#[test]
fn erofs_images_that_the_kernel_refuses_are_found() {
    let mut unknown = erofs_with_init("");
    unknown[1104..1108].copy_from_slice(&0x8000_0000u32.to_le_bytes());
    let mut devices = erofs_with_init("");
    devices[1110] = 2;
    let mut checksum = erofs_with_init("");
    checksum[1032] = 1;
    finds(vec![
        (
            "an image without a root",
            aligned(cpio(&[init()]), &erofs(1, "")),
            vec!["error: layer 0 (initrd+0x1000): read EROFS inode 0: mode 0 is no type of file"],
        ),
        (
            "unknown features",
            aligned(system(vec![init()]), &unknown),
            vec![
                "error: 0x00001000: EROFS features 0x80000000 that no kernel up to 7.2 knows: it refuses the image",
            ],
        ),
        (
            "devices",
            aligned(system(vec![init()]), &devices),
            vec![
                "error: 0x00001000: EROFS image that needs 2 more devices: only images of one piece can be mounted",
            ],
        ),
        (
            "checksum",
            aligned(system(vec![init()]), &checksum),
            vec![
                "error: 0x00001000: EROFS superblock checksum bad (stored 0x00000000, computed 0x30c25aff): the kernel refuses the image",
            ],
        ),
        (
            "unaligned",
            join(&[&system(vec![init()]), &erofs_with_init("")]),
            vec![
                "warning: 0x00000278: EROFS image not aligned to its blocks of 4096 bytes: they cross page boundaries, and it cannot be mounted as a file",
            ],
        ),
        (
            "truncated image",
            aligned(system(vec![init()]), &erofs(2, "")[..5000]),
            vec![
                "error: image: read at 0x1000: truncated EROFS image: its superblock says 8192 bytes, the initrd has 5000 from here",
            ],
        ),
    ]);
}

#[test]
fn a_bad_bootconfig_and_junk_after_the_archives_are_found() {
    let mut broken_bootconfig = bootconfig(b"a = b\n");
    let sum = broken_bootconfig.len() - 16;
    broken_bootconfig[sum] ^= 1;
    finds(vec![
        (
            "bootconfig",
            join(&[&system(vec![init()]), &broken_bootconfig]),
            vec![
                "error: 0x00000278: the bootconfig's size or checksum is wrong: the kernel ignores it",
            ],
        ),
        (
            "junk",
            join(&[&system(vec![init()]), b"junk"]),
            vec!["error: image: read at 0x278: neither cpio nor EROFS: 6a 75 6e 6b \"junk\""],
        ),
    ]);
}

#[test]
fn check_counts_layers() {
    let image = |layers: usize| aligned(system(vec![init()]), &erofs_with_init("").repeat(layers));
    let (stdout, status) = of_image("500", &image(500), &[]);
    assert_eq!(
        (stdout, status),
        (
            format!("image: good; 500 layers; {NEEDS} retain_initrd\n"),
            0
        )
    );
    let (stdout, status) = of_image("501", &image(501), &[]);
    assert_eq!(
        (stdout.as_str(), status),
        (
            "error: plan: plan initrd: more than the 500 layers that overlayfs can stack\n\
             image: 1 error, 0 warnings\n",
            1
        )
    );
}

#[test]
fn truncated_and_damaged_images_do_not_panic() {
    let directory = scratch("tool-hostile");
    let mut image = aligned(
        cpio(&[
            init(),
            dir("layers"),
            file("layers/a", &erofs_with_init("")),
        ]),
        &erofs_with_init("x"),
    );
    image.extend_from_slice(&cpio_without_trailer(&[file("late", b"1")]));
    // All bytes except the content of the images, which is zeros.
    let interesting = |at: &usize| image[*at] != 0 || (*at).is_multiple_of(97);
    for at in (0..image.len()).filter(interesting).step_by(5) {
        let mut flipped = image.clone();
        flipped[at] ^= 0x55;
        for (name, bytes) in [("cut", &image[..at]), ("flipped", &flipped[..])] {
            fs::write(directory.join("image"), bytes).unwrap();
            for words in [&["check"][..], &["list", "--files"], &["plan"]] {
                let output = tool(&directory).args(words).arg("image").output();
                let (stdout, stderr, status) = said(&output.unwrap());
                assert!(
                    matches!(status, 0 | 1),
                    "{name} at {at:#x}, {words:?}: {stdout}{stderr}"
                );
                assert!(
                    !stderr.contains("panicked"),
                    "{name} at {at:#x}, {words:?}: {stderr}"
                );
            }
        }
    }
}
