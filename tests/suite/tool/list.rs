//! `layerinit list`.

use super::*;

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
fn list_shows_the_segments_before_trouble() {
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
fn list_shows_the_files_of_an_erofs_image() {
    let directory = scratch("tool-list-erofs");
    let root = directory.join("root");
    fs::create_dir_all(root.join("many")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    // More than a block of names, and a link target longer than a block.
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
        // The size of a directory depends on the filesystem.
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

/// The mode of these letters.
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
