//! The host tool from outside: arguments in, exact output, exit status and files out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{
    GRUB_2_06, bootconfig, copy_program, cpio, cpio_without_trailer, dir, entry, erofs, file,
    init_for, join, own_init, pad, program,
};
use crate::support::{said, scratch, tool};
use layerinit::bytes::Opened;

/// Runs the tool with these words.
fn run(directory: &Path, words: &[&str]) -> (String, String, i32) {
    said(&tool(directory).args(words).output().unwrap())
}

/// Runs it and wants success; what it wrote.
fn good(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = run(directory, words);
    assert_eq!((stderr.as_str(), status), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// Runs it and wants failure without output; its message.
fn bad(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = run(directory, words);
    assert_eq!((stdout.as_str(), status), ("", 1), "{words:?}: {stderr}");
    stderr
}

/// The names in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Writes an executable script.
fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

// ---- usage

#[test]
fn help_says_what_to_do_and_wrong_usage_is_status_2() {
    let directory = scratch("tool-help");
    let help = good(&directory, &["--help"]);
    for command in ["build", "list", "check", "plan"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let help = good(&directory, &[command, "--help"]);
        assert!(
            help.contains(&format!("Usage: layerinit {command} ")),
            "{help}"
        );
        assert!(
            help.contains(&format!("Examples:\n  layerinit {command} ")),
            "{help}"
        );
    }
    assert!(good(&directory, &["--version"]).starts_with("layerinit "));
    for words in [
        &[][..],
        &["bake"],
        &["build"],
        &["build", "-o", "x", "--kernel", "6.12"],
        &["build", "-o", "x", "--module", "ext4"],
        &["build", "-o", "x", "--mtime", "-1"],
        &["build", "-o", "x", "--cpio-align", "6"],
        &["list"],
        &["check", "--pad", "8", "a", "b"],
    ] {
        let (stdout, stderr, status) = run(&directory, words);
        assert_eq!((stdout.as_str(), status), ("", 2), "{words:?}");
        assert!(stderr.contains("--help"), "{words:?}: {stderr}");
    }
    assert_eq!(names(&directory), BTreeSet::new());
}

#[test]
fn what_is_no_image_is_named() {
    let directory = scratch("tool-no-image");
    for command in ["list", "check", "plan"] {
        let missing = bad(&directory, &[command, "missing"]);
        assert_eq!(
            missing,
            "layerinit: open missing: ENOENT: No such file or directory\n"
        );
        assert_eq!(
            bad(&directory, &[command, "."]),
            "layerinit: open .: not a regular file\n"
        );
        // And not waited for until somebody writes into it.
        let made = Command::new("mkfifo").arg(directory.join(command)).status();
        assert!(made.unwrap().success());
        assert_eq!(
            bad(&directory, &[command, command]),
            format!("layerinit: open {command}: not a regular file\n")
        );
    }
}

// ---- list

#[test]
fn list_shows_every_segment() {
    let directory = scratch("tool-list");
    let mut image = cpio(&[dir("dev"), program("init")]);
    pad(&mut image, 4096);
    image = join(&[
        &image,
        &erofs(2, "base"),
        &[0; 512],
        &bootconfig(b"a = b\n"),
    ]);
    fs::write(directory.join("image"), image).unwrap();
    assert_eq!(
        good(&directory, &["list", "image"]),
        "\
offset          length what
0x00000000         360 cpio 2 members, 4096 bytes unpacked, holds init
0x00000168        3736 padding
0x00001000        8192 erofs 2 blocks of 4096, label \"base\", checksum none
                       uuid 00000000-0000-0000-0000-000000000000, 0 inodes
0x00003000         512 padding
0x00003200          28 bootconfig
"
    );
    assert_eq!(
        good(&directory, &["list", "--json", "image"]),
        concat!(
            r#"{"image":"image","size":12828,"trouble":null,"segments":["#,
            r#"{"offset":0,"length":360,"kind":"cpio","codec":null,"members":2,"unpacked":4096,"#,
            r#""by_kernel":true,"holds_init":true,"early":false},"#,
            r#"{"offset":360,"length":3736,"kind":"padding"},"#,
            r#"{"offset":4096,"length":8192,"kind":"erofs","block_size":4096,"blocks":2,"inodes":0,"#,
            r#""uuid":"00000000-0000-0000-0000-000000000000","label":"base","checksum":"none","#,
            r#""extra_devices":0,"features":[],"algorithms":[]},"#,
            r#"{"offset":12288,"length":512,"kind":"padding"},"#,
            r#"{"offset":12800,"length":28,"kind":"bootconfig","intact":true}]}"#,
            "\n"
        )
    );
}

#[test]
fn list_shows_what_comes_before_trouble() {
    let directory = scratch("tool-list-trouble");
    let image = join(&[&cpio(&[program("init")]), b"what is this"]);
    fs::write(directory.join("image"), image).unwrap();
    let (stdout, stderr, status) = run(&directory, &["list", "image"]);
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), status),
        (
            "offset          length what\n\
             0x00000000         244 cpio 1 members, 4096 bytes unpacked, holds init\n",
            "layerinit: read at 0xf4: neither cpio nor EROFS: 77 68 61 74 20 69 73 20 \"what is \"\n",
            1
        )
    );
    let (stdout, stderr, status) = run(&directory, &["list", "--json", "image"]);
    assert!(
        stdout.contains(r#""trouble":"read at 0xf4: neither cpio nor EROFS"#),
        "{stdout}"
    );
    assert_eq!((stderr.as_str(), status), ("", 1));
}

#[test]
fn list_shows_members_as_ls_does() {
    let directory = scratch("tool-list-files");
    let mut device = entry("dev/console", 0o020_600, b"");
    (device.header.rmaj, device.header.rmin) = (5, 1);
    (device.header.uid, device.header.gid) = (1, 65534);
    let mut first = file("a", b"");
    (first.header.nlink, first.header.ino) = (2, 7);
    let mut second = file("b\x1b\n", b"hello");
    (second.header.nlink, second.header.ino, second.header.mtime) = (2, 7, 951_782_400);
    let image = cpio(&[
        dir("."),
        device,
        entry("bin", 0o120_777, b"usr/bin\0"),
        first,
        second,
        entry("sticky", 0o041_777, b""),
        entry("suid", 0o104_755, b""),
    ]);
    fs::write(directory.join("image"), image).unwrap();
    assert_eq!(
        good(&directory, &["list", "--files", "image"]),
        "\
offset          length what
0x00000000         956 cpio 7 members, 4096 bytes unpacked
    drwxr-xr-x   1     0     0          0 1970-01-01 00:00:00 .
    crw-------   1     1 65534       5, 1 1970-01-01 00:00:00 dev/console
    lrwxrwxrwx   1     0     0          8 1970-01-01 00:00:00 bin -> usr/bin
    -rw-r--r--   2     0     0          0 1970-01-01 00:00:00 a
    -rw-r--r--   2     0     0          5 2000-02-29 00:00:00 b\\x1b\\n link to a
    drwxrwxrwt   1     0     0          0 1970-01-01 00:00:00 sticky
    -rwsr-xr-x   1     0     0          0 1970-01-01 00:00:00 suid
"
    );
    let json = good(&directory, &["list", "--files", "--json", "image"]);
    for expected in [
        r#"{"path":"dev/console","type":"character device","mode":"0600","links":1,"uid":1,"gid":65534,"size":0,"mtime":0,"major":5,"minor":1}"#,
        r#"{"path":"b\\x1b\\n","type":"file","mode":"0644","links":2,"uid":0,"gid":0,"size":5,"mtime":951782400,"link_to":"a"}"#,
        r#""target":"usr/bin""#,
    ] {
        assert!(json.contains(expected), "{json}");
    }
}

#[test]
fn files_of_an_erofs_image_are_listed_as_they_were_put_in() {
    let directory = scratch("tool-list-erofs");
    let root = directory.join("root");
    fs::create_dir_all(root.join("many")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    // More than a block of names, and more than a block of link.
    for n in 0..400 {
        fs::write(root.join(format!("many/file-{n}")), vec![b'x'; n]).unwrap();
    }
    symlink("many/file-1", root.join("link")).unwrap();
    symlink("t/".repeat(2000), root.join("long-link")).unwrap();
    fs::hard_link(root.join("many/file-7"), root.join("seven")).unwrap();
    fs::write(root.join("modes"), "").unwrap();
    fs::set_permissions(root.join("modes"), fs::Permissions::from_mode(0o4711)).unwrap();
    good(
        &directory,
        &[
            "build", "-o", "image", "--init", "/bin/sh", "--layer", "root", "--mtime", "86400",
        ],
    );

    let mut expected = BTreeSet::new();
    let mut todo = vec![(root.clone(), ".".to_string())];
    while let Some((path, name)) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (uid, gid, links) = (metadata.uid(), metadata.gid(), metadata.nlink());
        let link = match name.as_str() {
            "seven" => " link to many/file-7".to_string(),
            _ if metadata.is_symlink() => {
                format!(" -> {}", fs::read_link(&path).unwrap().display())
            }
            _ => String::new(),
        };
        // How many bytes a directory takes is up to the filesystem.
        let size = if metadata.is_dir() {
            "*".into()
        } else {
            metadata.len().to_string()
        };
        expected.insert(format!(
            "{:o} {links} {uid} {gid} {size} {name}{link}",
            metadata.mode()
        ));
        if metadata.is_dir() {
            for below in names(&path) {
                let name = if name == "." {
                    below.clone()
                } else {
                    format!("{name}/{below}")
                };
                todo.push((path.join(below), name));
            }
        }
    }
    let listing = good(&directory, &["list", "--files", "image"]);
    let lines = listing.lines().skip_while(|line| !line.contains("erofs"));
    let actual: BTreeSet<_> = lines
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| !line.trim_start().starts_with("uuid"))
        .map(|line| {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let [mode, links, uid, gid, size, date, time, name @ ..] = &words[..] else {
                panic!("{line}")
            };
            assert_eq!((*date, *time), ("1970-01-02", "00:00:00"), "{line}");
            let size = if mode.starts_with('d') { "*" } else { size };
            format!(
                "{:o} {links} {uid} {gid} {size} {}",
                number(mode),
                name.join(" ")
            )
        })
        .collect();
    assert_eq!(actual, expected);
}

/// The mode that reads like this.
fn number(letters: &str) -> u32 {
    let kinds = [('-', 0o100_000), ('d', 0o040_000), ('l', 0o120_000)];
    let mut mode = kinds
        .iter()
        .find(|(letter, _)| letters.starts_with(*letter))
        .unwrap()
        .1;
    for (bit, letter) in letters.chars().rev().take(9).enumerate() {
        mode |= u32::from(matches!(letter, 'r' | 'w' | 'x' | 's')) << bit;
        mode |= u32::from(letter == 's' && bit == 6) * 0o4000;
    }
    mode
}

// ---- check and plan

/// What `check` says of an image, but for the memory that it takes: its lines, and the status.
fn check(name: &str, image: &[u8], words: &[&str]) -> (String, i32) {
    let directory = scratch(&format!("tool-check-{name}"));
    fs::write(directory.join("image"), image).unwrap();
    let (stdout, stderr, status) = run(&directory, &[&["check", "image"], words].concat());
    assert_eq!(stderr, "", "{name}");
    let lines = stdout.split_inclusive('\n');
    let lines = lines.filter(|line| !line.starts_with("memory: "));
    (lines.collect(), status)
}

const NEEDS: &str = "needs CONFIG_BLK_DEV_INITRD CONFIG_BLK_DEV_LOOP CONFIG_EROFS_FS CONFIG_OVERLAY_FS CONFIG_TMPFS";

/// An /init that a kernel could start, as far as anybody looks.
fn init() -> crate::common::Entry<'static> {
    own_init("init")
}

/// The smallest static program, for this machine (e_machine of x86_64 is 62).
fn elf(machine: u16) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2;
    header[18..20].copy_from_slice(&machine.to_le_bytes());
    header[54] = 56;
    header
}

/// An EROFS image of one block, with /sbin/init in it.
fn layer(label: &str) -> Vec<u8> {
    const FIRST: u64 = 1152 / 32;
    let inode = |mode: u16, data: &[u8]| {
        let words = [2 << 1, 0, mode, 1].map(u16::to_le_bytes).concat();
        let rest = [data.len() as u32, 0, 0, 0, 0, 0]
            .map(u32::to_le_bytes)
            .concat();
        join(&[&words, &rest, data])
    };
    let names = |names: &[(&str, u64)]| {
        let mut nameoff = names.len() as u16 * 12;
        let mut dirents = Vec::new();
        for (name, inode) in names {
            let nid = (FIRST + 4 * inode).to_le_bytes();
            dirents = join(&[&dirents, &nid, &nameoff.to_le_bytes(), &[0, 0]]);
            nameoff += name.len() as u16;
        }
        let text: String = names.iter().map(|(name, _)| *name).collect();
        join(&[&dirents, text.as_bytes()])
    };
    let mut image = erofs(1, label);
    image[1038] = FIRST as u8;
    let tree = [
        inode(0o040_755, &names(&[(".", 0), ("..", 0), ("sbin", 1)])),
        inode(0o040_755, &names(&[(".", 1), ("..", 0), ("init", 2)])),
        inode(0o100_755, &elf(62)),
    ];
    for (n, inode) in tree.iter().enumerate() {
        let at = 1152 + n * 4 * 32;
        image[at..at + inode.len()].copy_from_slice(inode);
    }
    image
}

/// The archive of these members and an init that is not the loader.
fn system(mut entries: Vec<crate::common::Entry>) -> Vec<u8> {
    entries.extend([dir("sbin"), program("sbin/init")]);
    cpio(&entries)
}

fn aligned(mut image: Vec<u8>, layer: &[u8]) -> Vec<u8> {
    pad(&mut image, 4096);
    join(&[&image, layer])
}

#[test]
fn check_has_one_line_for_a_good_image() {
    let image = aligned(system(vec![init()]), &layer(""));
    let good = format!("image: good; 1 layer; {NEEDS} retain_initrd\n");
    assert_eq!(check("good", &image, &[]), (good.clone(), 0));
    assert_eq!(
        check("good", &image, &["--cmdline", "quiet retain_initrd"]),
        (good, 0)
    );
    let image = cpio(&[init(), dir("layers"), file("layers/10.erofs", &layer(""))]);
    assert_eq!(
        check("file", &image, &[]),
        (format!("image: good; 1 layer; {NEEDS}\n"), 0)
    );
    let nothing = "image: good; 0 layers; needs CONFIG_BLK_DEV_INITRD\n";
    assert_eq!(
        check("nothing", &system(vec![init()]), &[]),
        (nothing.into(), 0)
    );
    let built_in = format!("image: good; 1 layer; {NEEDS} retain_initrd\n");
    assert_eq!(
        check("built-in", &layer(""), &["--loader-built-in"]),
        (built_in, 0)
    );
}

#[test]
fn check_finds_what_goes_wrong() {
    let bad_sum = {
        let mut member = file("sum", b"abc");
        (member.header.crc, member.header.chksum) = (true, 0x123);
        member
    };
    let link = {
        let mut member = entry("link", 0o120_777, b"");
        member.header.filesize = 0;
        member
    };
    let long_name = "n".repeat(4096);
    let long_target = [b't'; 4097];
    let mut unknown = layer("");
    unknown[1104..1108].copy_from_slice(&0x8000_0000u32.to_le_bytes());
    let mut devices = layer("");
    devices[1110] = 2;
    let mut checksum = layer("");
    checksum[1032] = 1;
    let mut broken_bootconfig = bootconfig(b"a = b\n");
    let sum = broken_bootconfig.len() - 16;
    broken_bootconfig[sum] ^= 1;
    let image = |entries| aligned(system(entries), b"");

    for (name, image, expected) in [
        (
            "no init",
            image(vec![dir("x")]),
            vec![
                "error: /init: no archive that the kernel unpacks has it (a kernel with the loader built in needs none: --loader-built-in)",
            ],
        ),
        (
            "late init",
            join(&[&layer(""), &system(vec![init()])]),
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
                 layer would be mounted (the loader has to be the last archive with that name in front of the first EROFS \
                 image)",
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
        (
            "no parent",
            image(vec![init(), file("etc/passwd", b"")]),
            vec![
                "error: 0x0000010c etc/passwd: there is no directory etc: the kernel drops the file without a word",
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
            vec!["error: 0x0000010c (no name): a name of 4097 bytes: the kernel passes it over"],
        ),
        (
            "long target",
            image(vec![init(), entry("l", 0o120_777, &long_target)]),
            vec![
                "error: 0x0000010c l: a target of more than 4096 bytes: the kernel passes it over",
            ],
        ),
        (
            "a directory with a body",
            image(vec![init(), entry("d", 0o040_755, b"x")]),
            vec!["error: 0x0000010c d: a directory with a body: the kernel passes it over"],
        ),
        (
            "no type",
            image(vec![init(), entry("d", 0o755, b"")]),
            vec!["error: 0x0000010c d: mode 755 is no type of file: the kernel passes it over"],
        ),
        (
            "bad sum",
            image(vec![init(), bad_sum]),
            vec![
                "error: 0x0000010c sum: its bytes add up to 0x126, its header says 0x123: the kernel stops here",
                "warning: image: there are no layers, and no init but the loader: it boots with root= only",
            ],
        ),
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
        (
            "an archive of GRUB in front of the images",
            aligned(join(&[&cpio(&[init()]), GRUB_2_06]), &layer("")),
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
                &layer(""),
            ),
            vec![
                "warning: 0x0000018b: an archive that the kernel did not unpack: it does not start at a multiple of 4 \
                 (pad the file in front of it with truncate -s %4)",
            ],
        ),
        (
            "layer files",
            image(vec![
                init(),
                dir("layers"),
                file("layers/a", b"text"),
                file("layers/b", b""),
                dir("layers/c"),
            ]),
            vec![
                "warning: layers/c: not a file; not used",
                "error: layers/a 0x0: read at 0x0: neither cpio nor EROFS: 74 65 78 74 \"text\"",
                "error: layers/b 0x0: neither an EROFS image nor a cpio archive",
            ],
        ),
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
                 (mode 0644); /bin/sh: a symlink to /bin/no, which leads nowhere",
            ],
        ),
        (
            "init of a lower layer is covered",
            aligned(
                cpio(&[init()]),
                &join(&[&layer(""), &cpio(&[dir("sbin"), dir("sbin/init")])]),
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
                    &layer(""),
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
            join(&[&system(vec![init()]), &layer("")]),
            vec![
                "warning: 0x00000278: EROFS image not aligned to its blocks of 4096 bytes: they reach over page boundaries, and it cannot be mounted as a file",
            ],
        ),
        (
            "bootconfig",
            join(&[&system(vec![init()]), &broken_bootconfig]),
            vec![
                "error: 0x00000278: the bootconfig's size or checksum is wrong: the kernel ignores it",
            ],
        ),
        (
            "truncated image",
            aligned(system(vec![init()]), &erofs(2, "")[..5000]),
            vec![
                "error: image: read at 0x1000: truncated EROFS image: its superblock says 8192 bytes, the initrd has 5000 from here",
            ],
        ),
        (
            "junk",
            join(&[&system(vec![init()]), b"junk"]),
            vec!["error: image: read at 0x278: neither cpio nor EROFS: 6a 75 6e 6b \"junk\""],
        ),
    ] {
        let (stdout, status) = check(&name.replace(' ', "-"), &image, &[]);
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
fn check_reads_the_command_line() {
    let image = aligned(system(vec![init()]), &layer(""));
    let (stdout, status) = check(
        "cmdline",
        &image,
        &["--cmdline", "rd.layers.skip=app rd.shell=maybe"],
    );
    assert_eq!(
        (stdout, status),
        (
            format!(
                "warning: command line: rd.shell=maybe: neither yes nor no; ignored\n\
                 warning: command line: rd.layers.skip=app: there is no such layer\n\
                 warning: command line: without retain_initrd the layers behind the loader are lost, unless the \
                 kernel has CONFIG_BLK_DEV_RAM=y\n\
                 image: 0 errors, 3 warnings; 1 layer; {NEEDS} retain_initrd\n"
            ),
            0
        )
    );
    for (words, line) in [
        ("root=UUIID=1", "warning: command line: read root=UUIID=1: "),
        (
            "rd.layers.backend=file",
            "warning: layer 0 (initrd+0x1000): rd.layers.backend= names none that can reach /sys/firmware/initrd\n",
        ),
        (
            "rd.driver.blacklist=erofs",
            "warning: command line: rd.driver.blacklist=erofs: no EROFS layer can be mounted, unless the kernel has it \
             built in\n",
        ),
    ] {
        let words = format!("retain_initrd {words}");
        let (stdout, _) = check("words", &image, &["--cmdline", &words]);
        assert!(stdout.starts_with(line), "{stdout}");
    }
    let alone = cpio(&[init()]);
    let (stdout, status) = check("alone", &alone, &[]);
    let warning = "warning: image: there are no layers, and no init but the loader: it boots with root= only\n";
    assert!(stdout.starts_with(warning), "{stdout}");
    assert_eq!(status, 0);
    let (stdout, status) = check("alone", &alone, &["--cmdline", "init=/bin/x"]);
    let error = "error: command line: there are no layers, and the initramfs has no other init: /bin/x: not there\n";
    assert!(stdout.starts_with(error), "{stdout}");
    assert_eq!(status, 1);
    let (stdout, status) = check(
        "rdinit",
        &image,
        &["--cmdline", "rdinit=/sbin/early retain_initrd"],
    );
    assert!(
        stdout.starts_with("error: /sbin/early: no archive that the kernel unpacks has it"),
        "{stdout}"
    );
    assert_eq!(status, 1);
}

#[test]
fn check_counts_layers() {
    let image = |layers: usize| aligned(system(vec![init()]), &layer("").repeat(layers));
    let (stdout, status) = check("500", &image(500), &[]);
    assert_eq!(
        (stdout, status),
        (
            format!("image: good; 500 layers; {NEEDS} retain_initrd\n"),
            0
        )
    );
    let (stdout, status) = check("501", &image(501), &[]);
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
fn every_truncation_and_flipped_byte_is_survived() {
    let directory = scratch("tool-hostile");
    let mut image = aligned(
        cpio(&[init(), dir("layers"), file("layers/a", &layer(""))]),
        &layer("x"),
    );
    image.extend_from_slice(&cpio_without_trailer(&[file("late", b"1")]));
    // Everything but the insides of the images, which are zeros.
    let interesting = |at: &usize| image[*at] != 0 || (*at).is_multiple_of(97);
    for at in (0..image.len()).filter(interesting).step_by(5) {
        let mut flipped = image.clone();
        flipped[at] ^= 0x55;
        for (name, bytes) in [("cut", &image[..at]), ("flipped", &flipped[..])] {
            fs::write(directory.join("image"), bytes).unwrap();
            for words in [&["check"][..], &["list", "--files"], &["plan"]] {
                let (stdout, stderr, status) = run(&directory, &[words, &["image"]].concat());
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

#[test]
fn the_loader_is_what_holds_the_program_that_rdinit_comes_to() {
    let directory = scratch("tool-rdinit");
    let first = "layer 0 (initrd+0x1000): 4096 bytes, erofs by memback, loop, extract\n";
    let script = entry("before", 0o100_755, b"#!/bin/sh\nexec /init\n");
    let link = entry("before", 0o120_777, b"init");
    for before in [script, link] {
        let loader = cpio(&[own_init("init"), dir("bin"), program("bin/sh")]);
        let image = aligned(join(&[&cpio(&[before]), &loader]), &layer(""));
        fs::write(directory.join("image"), image).unwrap();
        let plan = good(
            &directory,
            &["plan", "image", "--cmdline", "rdinit=/before"],
        );
        assert!(plan.starts_with(first), "{plan}");
    }
}

#[test]
fn a_plan_that_nobody_would_carry_out_is_an_error() {
    let directory = scratch("tool-foreign-init");
    let loader = cpio(&[own_init("init")]);
    let script = cpio(&[entry("init", 0o100_755, b"#!/bin/sh\nexec /sbin/init\n")]);
    let busybox = cpio(&[
        entry("init", 0o120_777, b"bin/busybox"),
        dir("bin"),
        program("bin/busybox"),
    ]);
    let gzip = |archive: &[u8]| {
        fs::write(directory.join("archive"), archive).unwrap();
        let mut command = Command::new("gzip");
        let output = command.arg("-nc").arg(directory.join("archive")).output();
        let mut packed = output.unwrap().stdout;
        pad(&mut packed, 4);
        packed
    };
    let other = cpio(&[dir("etc")]);
    let base = layer("base");
    let why = ": no layer would be mounted (the loader has to be the last archive with that name in front of the \
               first EROFS image)\n";
    let is_a_script = "layerinit: start /init: it is not layerinit's, but a script (#!/bin/sh)";
    let is_busybox =
        "layerinit: start /init: it is not layerinit's, but another program (bin/busybox)";
    let at = loader.len();
    let packed = gzip(&loader);
    for (pieces, expected) in [
        (vec![&loader[..], &other, &base], None),
        (vec![&script, &loader, &base], None),
        (vec![&busybox, &packed, &base], None),
        // The kernel has a loader built in, or another program that is to be in its place.
        (vec![&base], None),
        // Not unpacked by the kernel: a layer.
        (vec![&loader, &base, &script], None),
        (
            vec![&loader, &script, &base],
            Some(format!(
                "{is_a_script} from the archive at {at:#x}, which replaces that of the archive at 0x0{why}"
            )),
        ),
        (
            vec![&packed, &gzip(&busybox), &base],
            Some(format!(
                "{is_busybox} from the archive at {:#x}, which replaces that of the archive at 0x0{why}",
                packed.len()
            )),
        ),
        (
            vec![&script, &base],
            Some(format!("{is_a_script} from the archive at 0x0{why}")),
        ),
    ] {
        fs::write(directory.join("image"), pieces.concat()).unwrap();
        match expected {
            None => assert!(good(&directory, &["plan", "image"]).contains("layer 0 (initrd")),
            Some(expected) => assert_eq!(bad(&directory, &["plan", "image"]), expected),
        }
    }
}

#[test]
fn the_init_of_this_build_is_known_with_its_version() {
    let init = Opened::open(Path::new(env!("CARGO_BIN_EXE_init"))).unwrap();
    let version = layerinit::format::elf::layerinit_version(&init);
    assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    // Nor is the tool, which knows the note, an /init.
    let tool = Opened::open(Path::new(env!("CARGO_BIN_EXE_layerinit"))).unwrap();
    assert_eq!(layerinit::format::elf::layerinit_version(&tool), None);
}

#[test]
fn plan_is_that_of_init() {
    let directory = scratch("tool-plan");
    let loader = cpio(&[
        own_init("init"),
        dir("layers"),
        file("layers/10-base.erofs", &layer("base")),
    ]);
    let image = join(&[
        &aligned(loader, &layer("app")),
        &cpio(&[dir("."), file("x", b"1")]),
    ]);
    fs::write(directory.join("image"), image).unwrap();
    assert_eq!(
        good(&directory, &["plan", "image"]),
        "\
layer 0 (10-base.erofs): 4096 bytes, erofs \"base\" by file, loop, extract
layer 1 (initrd+0x2000): 4096 bytes, erofs \"app\" by memback, loop, extract
layer 2 (initrd+0x3000): 352 bytes, cpio into a tmpfs of 4096 bytes
root: overlay, writes to a tmpfs
modules: erofs, overlay, loop
init: /sbin/init, /etc/init, /bin/init, /bin/sh
"
    );
    let cmdline = "init=/sbin/init rd.layers.only=base rd.overlay.readonly rd.layers.backend=loop";
    assert_eq!(
        good(&directory, &["plan", "image", "--cmdline", cmdline]),
        "\
layer 0 (10-base.erofs): 4096 bytes, erofs \"base\" by loop
root: the layer itself, read-only
modules: erofs, loop
init: /sbin/init
"
    );
    // What check calls an error is one here.
    let cmdline = "init=/sbin/demo rd.layers.only=base rd.overlay.readonly";
    assert_eq!(
        run(&directory, &["plan", "image", "--cmdline", cmdline]),
        (
            "\
layer 0 (10-base.erofs): 4096 bytes, erofs \"base\" by file, loop, extract
root: the layer itself, read-only
modules: erofs, loop
init: /sbin/demo
error: no init in the new root: /sbin/demo: not there
"
            .into(),
            String::new(),
            1
        )
    );
    let nothing = bad(
        &directory,
        &["plan", "image", "--cmdline", "rd.layers.only=none"],
    );
    assert_eq!(
        nothing,
        "layerinit: plan rd.layers.only= and rd.layers.skip=: none of the 3 layers is left to boot from\n"
    );
}

// ---- build

/// A directory with everything that a build may use.
fn workshop(name: &str) -> std::path::PathBuf {
    let directory = scratch(name);
    script(&directory.join("init"), "the loader");
    fs::create_dir_all(directory.join("root/etc")).unwrap();
    fs::write(directory.join("root/etc/motd"), "hello\n").unwrap();
    fs::write(directory.join("base.erofs"), erofs(2, "base")).unwrap();
    fs::write(directory.join("late.cpio"), cpio(&[file("x", b"1")])).unwrap();
    directory
}

#[test]
fn all_of_the_last_page_of_the_last_image_is_there() {
    let directory = workshop("tool-build-pages");
    // Nine blocks of 512 bytes.
    let mut small = erofs(2, "small")[..9 * 512].to_vec();
    small[1036] = 9;
    small[1060] = 9;
    fs::write(directory.join("small.erofs"), &small).unwrap();
    fs::write(directory.join("both"), join(&[&cpio(&[dir("x")]), &small])).unwrap();
    let at = cpio(&[dir("x")]).len();
    // Pages of 4 KiB, and of up to 64 KiB; and a layer behind the image that is longer than that, and not.
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
fn an_image_with_data_on_another_device_is_no_layer() {
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
fn layers_are_appended_aligned_and_as_they_are() {
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
fn the_standard_loader_is_the_spec_that_is_in_the_repository() {
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
fn the_same_input_gives_the_same_bytes() {
    let directory = workshop("tool-build-reproducible");
    // Written in another order, at another time, under another name.
    for (root, backwards) in [("one", false), ("two", true)] {
        fs::create_dir_all(directory.join(root)).unwrap();
        let mut numbers: Vec<_> = (0..300).collect();
        if backwards {
            numbers.reverse();
        }
        for n in numbers {
            let path = directory.join(format!("{root}/file-{n}"));
            fs::write(&path, format!("{n}\n").repeat(n)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
    }
    let age = Command::new("touch")
        .args(["-d", "2001-02-03", "two/file-7", "two", "init"])
        .current_dir(&directory)
        .status();
    assert!(age.unwrap().success());
    let words = ["build", "--init", "init", "--layer", "root", "--layer"];
    let label = ["--label", "numbers"];
    let one = [&words[..], &["one"], &label].concat();
    good(&directory, &[&one[..], &["-o", "a"]].concat());
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "umask 077; exec \"$@\"",
        "-",
        env!("CARGO_BIN_EXE_layerinit"),
    ]);
    shell
        .args(words)
        .args(["two", "-o", "b"])
        .args(label)
        .current_dir(&directory);
    shell
        .env_remove("SOURCE_DATE_EPOCH")
        .env("TZ", "Asia/Tokyo")
        .env("LC_ALL", "tr_TR.UTF-8");
    assert!(shell.output().unwrap().status.success());
    let image = fs::read(directory.join("a")).unwrap();
    assert!(
        image == fs::read(directory.join("b")).unwrap(),
        "a and b differ"
    );

    // The layers of one image have different UUIDs, made of their content, and checksums that hold.
    let list = good(&directory, &["list", "a"]);
    let uuids: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("uuid "))
        .collect();
    assert_eq!(uuids.len(), 2, "{list}");
    assert_eq!(list.matches("checksum good").count(), 2, "{list}");
    let mut dated = tool(&directory);
    dated
        .args(&one)
        .args(["-o", "c"])
        .env("SOURCE_DATE_EPOCH", "1000000000");
    assert!(dated.output().unwrap().status.success());
    good(
        &directory,
        &[&one[..], &["-o", "d", "--mtime", "1000000000"]].concat(),
    );
    let dated = fs::read(directory.join("c")).unwrap();
    assert!(dated == fs::read(directory.join("d")).unwrap() && dated != image);
}

#[test]
fn files_keep_their_times_if_that_is_asked_for() {
    let directory = workshop("tool-build-times");
    let touch = |time: &str, names: &[&str]| {
        let mut command = Command::new("touch");
        let status = command
            .args(["-h", "-d", time])
            .args(names)
            .current_dir(&directory);
        assert!(status.status().unwrap().success());
    };
    symlink("old", directory.join("root/link")).unwrap();
    fs::write(directory.join("root/old"), "old").unwrap();
    fs::write(directory.join("root/new"), "new").unwrap();
    touch("2001-02-03 04:05:06 UTC", &["root/old", "root/link"]);
    touch("2020-01-01 00:00:00 UTC", &["root/new"]);
    touch("2010-01-01 00:00:00 UTC", &["root"]);
    let times = |words: &[&str]| {
        good(
            &directory,
            &[&["build", "-o", "image", "--init", "init"], words].concat(),
        );
        let list = good(&directory, &["list", "--files", "image"]);
        let year = |name: &str| {
            let is = |line: &&str| {
                line.split(" -> ")
                    .next()
                    .unwrap()
                    .ends_with(&format!(" {name}"))
            };
            let line = list.lines().rfind(is).unwrap();
            let date = line
                .split_whitespace()
                .find(|word| word.len() == 10 && word.starts_with(['1', '2']));
            date.unwrap()[..4].parse::<u32>().unwrap()
        };
        [".", "link", "new", "old"].map(year)
    };
    for form in [
        &["--layer", "root"][..],
        &["--layer", "root", "--as", "cpio"],
    ] {
        let with = |words: &[&str]| times(&[form, words].concat());
        assert_eq!(with(&[]), [1970; 4]);
        assert_eq!(with(&["--keep-times"]), [2010, 2001, 2020, 2001]);
        // 2015.
        assert_eq!(
            with(&["--keep-times", "--mtime", "1420070400"]),
            [2010, 2001, 2015, 2001]
        );
        let before = fs::read(directory.join("image")).unwrap();
        touch("2022-01-01 00:00:00 UTC", &["root/new"]);
        with(&["--keep-times", "--mtime", "1420070400"]);
        assert!(before == fs::read(directory.join("image")).unwrap());
        touch("2020-01-01 00:00:00 UTC", &["root/new"]);
    }
    // An image does not depend on when it was made.
    times(&["--layer", "root", "--keep-times"]);
    let before = fs::read(directory.join("image")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    times(&["--layer", "root", "--keep-times"]);
    assert!(before == fs::read(directory.join("image")).unwrap());
}

#[test]
fn a_build_that_fails_leaves_no_file_and_an_old_image_as_it_was() {
    let directory = workshop("tool-build-fails");
    fs::write(
        directory.join("spec"),
        "dir /a 0755 0 0\nfile /b missing 0644 0 0\n",
    )
    .unwrap();
    fs::write(directory.join("bad-spec"), "dir /a 0755 0 0\n\nlink /b\n").unwrap();
    fs::write(directory.join("text"), "this is no layer").unwrap();
    fs::write(directory.join("zeros"), [0; 4096]).unwrap();
    fs::write(directory.join("cut.erofs"), &erofs(2, "")[..5000]).unwrap();
    fs::write(
        directory.join("trailing"),
        join(&[&cpio(&[file("x", b"")]), &bootconfig(b"a")]),
    )
    .unwrap();
    fs::write(directory.join("empty"), "").unwrap();
    fs::write(directory.join("old"), "an old image").unwrap();
    let before = names(&directory);
    let layer = |path| vec!["--init", "init", "--layer", "base.erofs", "--layer", path];
    for (words, expected) in [
        (
            vec!["--spec", "missing"],
            "open missing: ENOENT: No such file or directory",
        ),
        (
            vec!["--spec", "spec"],
            "open missing (spec line 2): ENOENT: No such file or directory",
        ),
        (
            vec!["--spec", "bad-spec"],
            "read bad-spec line 3: \"link\" is none of file, dir, nod, slink, pipe, sock",
        ),
        (
            vec!["--init", "missing"],
            "open missing (standard loader line 39): ENOENT: No such file or directory",
        ),
        (
            layer("missing"),
            "open missing: ENOENT: No such file or directory",
        ),
        (
            layer("text"),
            "read text: not a layer, which is a directory, an EROFS image or a cpio archive (read at 0x0: \
                         neither cpio nor EROFS: 74 68 69 73 20 69 73 20 \"this is \")",
        ),
        (layer("zeros"), "read zeros: nothing but zeros is no layer"),
        (layer("empty"), "read empty: an empty file is no layer"),
        (
            layer("cut.erofs"),
            "read cut.erofs: not a layer, which is a directory, an EROFS image or a cpio archive (read \
                              at 0x0: truncated EROFS image: its superblock says 8192 bytes, the initrd has 5000 from here)",
        ),
        (
            layer("trailing"),
            "read trailing: it ends with a bootconfig, which only works at the end of the whole image",
        ),
        (
            layer("."),
            "read .: the image is written into this directory, and would become a part of itself",
        ),
        (
            vec!["--init", "init", "--modules", "root"],
            "find modules in root: no lib/modules/VERSION/modules.dep here",
        ),
    ] {
        for output in ["new", "old"] {
            let words = [&["build", "-o", output][..], &words].concat();
            assert_eq!(
                bad(&directory, &words),
                format!("layerinit: {expected}\n"),
                "{words:?}"
            );
            assert_eq!(names(&directory), before, "{words:?}");
        }
    }
    assert_eq!(fs::read(directory.join("old")).unwrap(), b"an old image");
    assert_eq!(
        bad(&directory, &["build", "--init", "init", "-o", "root"]),
        "layerinit: write root: it exists, and is not a regular file\n"
    );
    assert_eq!(
        bad(
            &directory,
            &["build", "--init", "init", "-o", "nowhere/image"]
        ),
        "layerinit: write into nowhere: ENOENT: No such file or directory\n"
    );
    assert_eq!(names(&directory), before);
}

#[test]
fn without_init_the_one_beside_the_tool_is_taken() {
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
    let missing = "layerinit: find init: not beside this program; build it with `cargo build --release --bin init`, \
                   or say --init PATH\n";
    assert_eq!(run(&[]), (String::new(), missing.into(), 1));
    // A spec that does not ask for it does not need it.
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

#[test]
fn a_link_to_an_image_stays_a_link() {
    let directory = workshop("tool-build-link");
    fs::create_dir(directory.join("elsewhere")).unwrap();
    symlink("other", directory.join("elsewhere/real")).unwrap();
    symlink("elsewhere/real", directory.join("image")).unwrap();
    // Also where nothing is there yet.
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
fn mkfs_erofs_is_given_the_options_and_its_messages_are_shown_when_it_fails() {
    let directory = workshop("tool-build-mkfs");
    fs::create_dir(directory.join("bin")).unwrap();
    let words = ["build", "-o", "image", "--init", "init", "--layer", "root"];
    let with_path = |more: &[&str]| {
        let mut command = tool(&directory);
        said(
            &command
                .args(words)
                .args(more)
                .env("PATH", directory.join("bin"))
                .output()
                .unwrap(),
        )
    };
    let (_, stderr, status) = with_path(&[]);
    let missing = "layerinit: run mkfs.erofs for root: it is not installed (Debian: apt install erofs-utils)\n";
    assert_eq!((stderr.as_str(), status), (missing, 1));

    script(
        &directory.join("bin/mkfs.erofs"),
        "echo progress; echo no room >&2; exit 3",
    );
    let (stdout, stderr, status) = with_path(&[]);
    let failed = "layerinit: run mkfs.erofs for root: exit status: 3\n    no room\n";
    assert_eq!((stdout.as_str(), stderr.as_str(), status), ("", failed, 1));

    script(&directory.join("bin/mkfs.erofs"), "echo \"$*\" >&2; exit 1");
    let (_, stderr, _) = with_path(&[
        "--mtime",
        "5",
        "--mkfs-erofs-arg=--all-root",
        "--mkfs-erofs-arg=-C65536",
    ]);
    let root = fs::canonicalize(directory.join("root")).unwrap();
    let nil = "-U00000000-0000-0000-0000-000000000000";
    let given = stderr.lines().last().unwrap().trim();
    assert!(
        given.starts_with(&format!("-zlz4hc -T5 {nil} --all-root -C65536 ")),
        "{given}"
    );
    assert!(
        given.ends_with(&format!(" /proc/self/fd/0 {}", root.display())),
        "{given}"
    );
    let (_, stderr, _) = with_path(&["--erofs-compression", "none"]);
    assert!(
        stderr.lines().last().unwrap().trim().starts_with("-T0 -U"),
        "{stderr}"
    );
    assert!(!directory.join("image").exists());
}

#[test]
fn an_interrupted_build_leaves_no_file_and_no_process() {
    let directory = workshop("tool-build-interrupted");
    fs::create_dir(directory.join("bin")).unwrap();
    let slow = "echo $$ >\"${0%/*}/../pid.new\"; mv \"${0%/*}/../pid.new\" \"${0%/*}/../pid\"; exec sleep 1000";
    script(&directory.join("bin/mkfs.erofs"), slow);
    let path = format!("{}:/usr/bin:/bin", directory.join("bin").display());
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
        let before = names(&directory);
        let mut build = tool(&directory);
        build
            .args(["build", "-o", "image", "--init", "init", "--layer", "root"])
            .env("PATH", &path);
        let mut build = build.spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while !directory.join("pid").exists() {
            assert!(Instant::now() < patience, "mkfs.erofs was not started");
            std::thread::sleep(Duration::from_millis(5));
        }
        let kill = format!("kill -{signal} {}", build.id());
        let kill = Command::new("sh").args(["-c", &kill]).status();
        assert!(kill.unwrap().success());
        assert_eq!(build.wait().unwrap().code(), Some(status), "SIG{signal}");
        let pid = fs::read_to_string(directory.join("pid")).unwrap();
        fs::remove_file(directory.join("pid")).unwrap();
        assert_eq!(names(&directory), before, "SIG{signal}");
        // Killed, but up to init to bury.
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(
            state.is_empty() || state.contains(") Z "),
            "SIG{signal}: {state}"
        );
    }
}

#[test]
fn modules_are_decompressed_and_lose_signatures_only_when_told() {
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
fn a_build_says_that_its_modules_are_for_another_machine() {
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

#[test]
fn modules_come_with_what_they_depend_on_and_nothing_more() {
    let directory = workshop("tool-build-modules");
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
    let dep = "kernel/net/never.ko:\n\
               kernel/fs/ext4/ext4.ko.zst: kernel/fs/jbd2.ko kernel/fs/mbcache.ko\n\
               kernel/fs/erofs/erofs.ko.xz: kernel/lib/crc.ko.xz\n\
               kernel/lib/crc.ko.xz:\n\
               kernel/fs/overlayfs/overlay.ko:\n\
               kernel/fs/jbd2.ko:\n\
               kernel/fs/mbcache.ko:\n";
    fs::write(modules.join("modules.dep"), dep).unwrap();
    fs::write(
        modules.join("modules.builtin"),
        "kernel/fs/proc.ko\nkernel/drivers/block/loop.ko\n",
    )
    .unwrap();
    fs::write(directory.join("spec"), "dir /lib 0711 0 0\n").unwrap();
    let words = ["build", "-o", "image", "--spec", "spec", "--modules"];
    let listed = |more: &[&str]| {
        good(&directory, &[&words[..], more].concat());
        let listing = good(&directory, &["list", "--files", "image"]);
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
    };
    let few = [
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
    // However the directory is named.
    for root in [
        "tree",
        "tree/usr/lib/modules",
        "tree/usr/lib/modules/6.12-test",
    ] {
        assert_eq!(listed(&[root, "--kernel", "6.12-test"]), few, "{root}");
    }
    assert_eq!(listed(&["tree"]), few);
    let image = fs::read(directory.join("image")).unwrap();
    let text = String::from_utf8_lossy(&image);
    assert!(text.contains("kernel/fs/erofs/erofs.ko.xz: kernel/lib/crc.ko.xz\nkernel/lib/crc.ko.xz:\nkernel/fs/overlayfs/overlay.ko:\n"));
    assert!(text.contains("\0kernel/drivers/block/loop.ko\n"));

    let more = listed(&["tree", "--module", "ext4", "--module", "proc"]);
    let extra: Vec<_> = more
        .iter()
        .filter(|line| !few.contains(&line.as_str()))
        .collect();
    assert_eq!(
        extra,
        [
            "drwxr-xr-x .../kernel/fs/ext4",
            "-rw-r--r-- .../kernel/fs/ext4/ext4.ko.zst",
            "-rw-r--r-- .../kernel/fs/jbd2.ko",
            "-rw-r--r-- .../kernel/fs/mbcache.ko",
        ]
    );

    // What a dependency asks for softly, by an alias.
    let (softdep, alias) = (
        modules.join("modules.softdep"),
        modules.join("modules.alias"),
    );
    fs::write(&softdep, "softdep crc pre: sum\nsoftdep never pre: x\n").unwrap();
    fs::write(&alias, "alias x never\nalias sum jbd2\n").unwrap();
    let more = listed(&["tree"]);
    let extra: Vec<_> = more
        .iter()
        .filter(|line| !few.contains(&line.as_str()))
        .collect();
    assert_eq!(
        extra,
        [
            "-rw-r--r-- .../kernel/fs/jbd2.ko",
            "-rw-r--r-- .../modules.alias",
            "-rw-r--r-- .../modules.softdep",
        ]
    );
    let image = fs::read(directory.join("image")).unwrap();
    let text = String::from_utf8_lossy(&image);
    assert!(text.contains("\0softdep crc pre: sum\n\0") && text.contains("\0alias sum jbd2\n\0"));
    fs::remove_file(softdep).unwrap();
    fs::remove_file(alias).unwrap();

    let bad = |more: &[&str]| bad(&directory, &[&words[..], more].concat());
    let missing = bad(&["tree", "--module", "btrfs"]);
    assert!(missing.starts_with("layerinit: find module btrfs: neither a module of kernel 6.12-test nor built into it (tree/"), "{missing}");
    assert_eq!(
        bad(&["tree", "--kernel", "6.1"]),
        "layerinit: find modules in tree: no lib/modules/6.1 here\n"
    );
    assert_eq!(
        bad(&["tree", "--kernel", "../x"]),
        "layerinit: find modules of \"../x\": not a kernel's release\n"
    );
    fs::create_dir_all(directory.join("tree/usr/lib/modules/6.13/kernel")).unwrap();
    assert_eq!(
        bad(&["tree", "--kernel", "6.13"]),
        "layerinit: find modules in tree/usr/lib/modules/6.13: no modules.dep; run `depmod -b tree 6.13`\n"
    );
    fs::write(directory.join("tree/usr/lib/modules/6.13/modules.dep"), "").unwrap();
    assert_eq!(
        bad(&["tree"]),
        "layerinit: find modules in tree: say --kernel, one of: 6.12-test, 6.13\n"
    );
    fs::write(
        modules.join("modules.dep"),
        dep.replace("kernel/lib/crc", "../../crc"),
    )
    .unwrap();
    let outside = bad(&["tree", "--kernel", "6.12-test"]);
    assert!(
        outside.ends_with("modules.dep: ../../crc.ko.xz is not a path below this directory\n"),
        "{outside}"
    );
    fs::write(
        directory.join("spec"),
        "slink /lib usr/lib 0777 0 0\ndir /usr 0755 0 0\ndir /usr/lib 0755 0 0\n",
    )
    .unwrap();
    fs::write(modules.join("modules.dep"), dep).unwrap();
    let merged = listed(&["tree", "--kernel", "6.12-test"]);
    assert!(
        merged.contains(&"drwxr-xr-x usr/lib/modules".to_string()),
        "{merged:?}"
    );
}

/// A device of a fake sysfs: its path below sys/devices, its MODALIAS, its driver's module.
type FakeDevice = (&'static str, &'static str, &'static str);

/// A machine with a disk on each bus that docs/disks.md names, and things that are no disks.
const MACHINE: [FakeDevice; 21] = [
    ("pci0000:00", "", ""),
    // A bridge whose driver is built in; a module that wants it all the same is taken.
    (
        "pci0000:00/0000:00:01.0",
        "pci:v00001B36d0000000Cbc06sc04i00",
        "",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0",
        "pci:v00001AF4d00001042bc01sc00i00",
        "virtio_pci",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0/virtio0",
        "virtio:d00000002v00001AF4",
        "virtio_blk",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0/virtio0/block/vda",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0/virtio0/block/vda/vda1",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:1f.2",
        "pci:v00008086d00002922bc01sc06i01",
        "ahci",
    ),
    (
        "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
        "scsi:t-0x00",
        "sd_mod",
    ),
    (
        "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:02.0",
        "pci:v00001B36d00000010bc01sc08i02",
        "nvme",
    ),
    ("pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1", "", ""),
    (
        "platform/mmio.0",
        "of:NvirtioT(null)Cvirtio,mmio",
        "virtio_mmio",
    ),
    (
        "platform/mmio.0/virtio3",
        "virtio:d00000008v554D4551",
        "virtio_scsi",
    ),
    (
        "platform/mmio.0/virtio3/host2/target2:0:0/2:0:0:0/block/sdb",
        "",
        "",
    ),
    (
        "platform/sdhci/mmc_host/mmc0/mmc0:0001",
        "mmc:block",
        "mmc_block",
    ),
    (
        "platform/sdhci/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
        "",
        "",
    ),
    // A driver that this kernel calls otherwise: the MODALIAS decides.
    (
        "pci0000:00/0000:00:14.0",
        "pci:v00008086d00001E31bc0Csc03i30",
        "xhci_of_old",
    ),
    (
        "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0",
        "usb:v0781p5567icisc06ip50in00",
        "usb_storage",
    ),
    (
        "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdc",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:1b.0",
        "pci:v00008086d0000293Ebc04sc03i00",
        "snd_hda_intel",
    ),
    ("virtual/block/loop0", "", ""),
];

fn fake_machine(root: &Path) {
    let devices = root.join("sys/devices");
    let class = root.join("sys/class/block");
    fs::create_dir_all(&class).unwrap();
    for (path, modalias, module) in MACHINE {
        let device = devices.join(path);
        fs::create_dir_all(&device).unwrap();
        if !modalias.is_empty() {
            fs::write(device.join("modalias"), format!("{modalias}\n")).unwrap();
        }
        if !module.is_empty() {
            let driver = root.join("sys/drivers").join(module);
            fs::create_dir_all(&driver).unwrap();
            fs::create_dir_all(root.join("sys/module").join(module)).unwrap();
            let _ = symlink(format!("../../module/{module}"), driver.join("module"));
            symlink(&driver, device.join("driver")).unwrap();
        }
        let name = path.rsplit('/').next().unwrap();
        if path.contains("/block/") || name == "nvme0n1" {
            symlink(&device, class.join(name)).unwrap();
        }
    }
    fs::create_dir_all(root.join("proc")).unwrap();
    let mounts =
        "rootfs / rootfs rw 0 0\n/dev/vda1 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n";
    fs::write(root.join("proc/mounts"), mounts).unwrap();
}

#[test]
fn host_takes_the_drivers_of_this_machines_disks_and_its_roots_filesystem() {
    let directory = workshop("tool-build-host");
    let modules = directory.join("tree/lib/modules/6.12-test");
    let all = "erofs overlay loop virtio virtio_pci virtio_blk virtio-mmio virtio_scsi sd_mod shpchp nvme ahci \
               mmc_block xhci_pci usb-storage snd-hda-intel ext4 jbd2 crc32c_generic btrfs";
    let mut dep = String::new();
    for name in all.split_ascii_whitespace() {
        fs::create_dir_all(modules.join("kernel")).unwrap();
        fs::write(modules.join(format!("kernel/{name}.ko")), name).unwrap();
        let needs = match name {
            "virtio_pci" | "virtio_blk" | "virtio-mmio" | "virtio_scsi" => "kernel/virtio.ko",
            "ext4" => "kernel/jbd2.ko",
            _ => "",
        };
        dep += &format!("kernel/{name}.ko: {needs}\n");
    }
    let aliases = "alias pci:v*d*sv*bc06sc04i* never\n\
                   alias pci:v*d*bc06sc04i* shpchp\n\
                   alias pci:v*d*bc0Csc03i30* xhci_pci\n\
                   alias pci:v*d*bc01sc06i01* btrfs\n\
                   alias fs-ext4 ext4\n\
                   alias crypto-crc32c crc32c_generic\n\
                   alias virtio:d00000002v* virtio_blk\n";
    fs::write(modules.join("modules.dep"), dep).unwrap();
    fs::write(modules.join("modules.alias"), aliases).unwrap();
    fs::write(
        modules.join("modules.softdep"),
        "softdep ext4 pre: crypto-crc32c\n",
    )
    .unwrap();
    fake_machine(&directory.join("machine"));

    let words = [
        "build",
        "-o",
        "image",
        "--init",
        "init",
        "--modules",
        "tree",
    ];
    let said = good(&directory, &[&words[..], &["--host=machine"]].concat());
    let names = said.lines().next().unwrap();
    let names = names
        .strip_prefix("modules for this machine's disks: ")
        .unwrap();
    let names: BTreeSet<_> = names.split(' ').collect();
    let expected = "virtio_pci virtio_blk virtio_mmio virtio_scsi sd_mod shpchp nvme ahci mmc_block xhci_pci \
                    usb_storage ext4 crc32c_generic";
    assert_eq!(names, expected.split_ascii_whitespace().collect());

    let files = || {
        let listing = good(&directory, &["list", "--files", "image"]);
        let files = listing.lines().filter_map(|line| {
            let name = line
                .split_once("6.12-test/kernel/")?
                .1
                .strip_suffix(".ko")?;
            Some(name.replace('-', "_"))
        });
        files.collect::<BTreeSet<_>>()
    };
    let mut there: BTreeSet<_> = names.iter().map(ToString::to_string).collect();
    there.extend(["erofs", "overlay", "loop", "virtio", "jbd2"].map(String::from));
    assert_eq!(files(), there);

    // By name: with what it asks for softly, and a list.
    good(
        &directory,
        &[&words[..], &["--module", "virtio_blk,ext4"]].concat(),
    );
    let by_name = "erofs overlay loop virtio virtio_blk ext4 jbd2 crc32c_generic";
    assert_eq!(
        files(),
        by_name.split_ascii_whitespace().map(String::from).collect()
    );

    // A machine without disks.
    let bare = directory.join("bare");
    fs::create_dir_all(bare.join("sys/class/block")).unwrap();
    fs::create_dir_all(bare.join("sys/devices")).unwrap();
    fs::create_dir_all(bare.join("proc")).unwrap();
    fs::write(bare.join("proc/mounts"), "tmpfs / tmpfs rw 0 0\n").unwrap();
    let said = good(&directory, &[&words[..], &["--host=bare"]].concat());
    assert!(
        said.starts_with("modules for this machine's disks: none (there are no disks, or"),
        "{said}"
    );
    let error = bad(&directory, &[&words[..], &["--host=nowhere"]].concat());
    assert!(
        error.starts_with("layerinit: find nowhere/sys/devices: ENOENT"),
        "{error}"
    );
}

#[test]
fn a_build_goes_on_through_a_signal_that_it_was_told_to_ignore() {
    let directory = workshop("tool-build-nohup");
    fs::create_dir(directory.join("bin")).unwrap();
    script(
        &directory.join("bin/mkfs.erofs"),
        "kill -HUP $PPID; exec /usr/bin/mkfs.erofs \"$@\"",
    );
    let path = format!("{}/bin:/usr/bin:/bin", directory.display());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' HUP; exec \"$@\"", "-"])
        .arg(env!("CARGO_BIN_EXE_layerinit"))
        .args(["build", "-o", "image", "--init", "init", "--layer", "root"]);
    let output = shell.current_dir(&directory).env("PATH", path).output();
    assert_eq!(said(&output.unwrap()).2, 0);
    assert!(directory.join("image").exists());
}

#[test]
fn fakeroot_is_refused_where_it_has_no_effect() {
    let directory = workshop("tool-build-fakeroot");
    let build = |form: &str| {
        let words = [
            "build", "-o", "image", "--init", "init", "--layer", "root", "--as", form,
        ];
        let mut command = tool(&directory);
        said(
            &command
                .args(words)
                .env("FAKEROOTKEY", "1")
                .output()
                .unwrap(),
        )
    };
    assert_eq!(build("erofs").2, 0);
    let (_, stderr, status) = build("cpio.gz");
    assert!(
        stderr.starts_with("layerinit: read root: fakeroot does not reach"),
        "{stderr}"
    );
    assert_eq!(status, 1);
}

#[test]
fn a_name_in_a_message_cannot_do_anything_to_a_terminal() {
    let directory = workshop("tool-message");
    let output = tool(&directory)
        .args(["list", "a\x1b[31m\nb"])
        .output()
        .unwrap();
    assert_eq!(
        said(&output).1,
        "layerinit: open a\\u{1b}[31m\\nb: ENOENT: No such file or directory\n"
    );
}
