//! From bytes to segments, on literal images: exact offsets, kinds and messages, and no panic on damaged
//! images.

use std::cell::Cell;
use std::io;

use crate::common::disk::{Image, run};
use crate::common::*;
use layerinit::bytes::ReadAt;
use layerinit::format::cpio::Header;
use layerinit::initrd::{Kind, Walk, walk};

/// The walk as text: lines `offset+length kind`, then the trouble.
fn shown(image: &[u8]) -> Vec<String> {
    lines(&walk(&image, b"/init"))
}

fn lines(walk: &Walk) -> Vec<String> {
    let mut end = 0;
    let mut lines: Vec<_> = walk
        .segments
        .iter()
        .map(|segment| {
            assert_eq!(segment.offset, end, "segments leave no gaps");
            end = segment.offset + segment.length;
            let kind = match &segment.kind {
                Kind::Stop => "stop".to_string(),
                Kind::Padding => "padding".to_string(),
                Kind::Bootconfig { intact } => format!("bootconfig intact={intact}"),
                Kind::Erofs(sb) => format!("erofs {}", sb.label()),
                Kind::Squashfs(sb) => format!("squashfs {}", sb.inodes),
                Kind::Cpio(cpio) => {
                    let mut text = format!("cpio {}", cpio.members);
                    if let Some(codec) = cpio.codec {
                        text = format!("cpio.{codec} {}", cpio.members);
                    }
                    for (flag, name) in [
                        (cpio.by_kernel, " kernel"),
                        (cpio.holds_init, " init"),
                        (cpio.has_root, " root"),
                        (cpio.only_early, " early"),
                        (cpio.only_layer_files, " layers"),
                        (cpio.only_extra, " extra"),
                    ] {
                        if flag {
                            text.push_str(name);
                        }
                    }
                    text
                }
            };
            format!("{:#x}+{:#x} {kind}", segment.offset, segment.length)
        })
        .collect();
    lines.extend(walk.trouble.as_ref().map(|trouble| trouble.to_string()));
    lines
}

fn loader() -> Vec<u8> {
    cpio(&[dir("dev"), program("init")])
}

fn microcode() -> Vec<u8> {
    cpio(&[
        dir("kernel"),
        dir("kernel/x86"),
        dir("kernel/x86/microcode"),
        file("kernel/x86/microcode/GenuineIntel.bin", b"microcode"),
    ])
}

#[test]
fn an_empty_initrd_and_one_of_zeros_hold_nothing() {
    assert_eq!(shown(b""), [""; 0]);
    assert_eq!(shown(&[0; 5000]), ["0x0+0x1388 padding"]);
}

#[test]
fn typical_images_are_split_into_their_segments() {
    let (loader, microcode) = (loader(), microcode());
    assert_eq!((loader.len(), microcode.len()), (0x168, 0x294));
    assert_eq!(
        shown(&join(&[&loader, &erofs(2, "base")])),
        ["0x0+0x168 cpio 2 kernel init", "0x168+0x2000 erofs base"]
    );
    assert_eq!(
        shown(&join(&[
            &microcode,
            &loader,
            &erofs(1, "a"),
            &erofs(1, "b"),
            &cpio(&[file("etc", b"x")])
        ])),
        [
            "0x0+0x294 cpio 4 kernel early",
            "0x294+0x168 cpio 2 kernel init",
            "0x3fc+0x1000 erofs a",
            "0x13fc+0x1000 erofs b",
            "0x23fc+0xf4 cpio 1",
        ]
    );
    assert_eq!(
        shown(&join(&[&erofs(1, "a"), &erofs(1, "b")])),
        ["0x0+0x1000 erofs a", "0x1000+0x1000 erofs b"]
    );
}

#[test]
fn padding_of_any_length_is_allowed_anywhere() {
    let loader = loader();
    let image = join(&[
        &[0; 8],
        &loader,
        &[0; 1000],
        &erofs(1, "a"),
        &[0; 4],
        &erofs(1, "b"),
        &[0; 513],
    ]);
    assert_eq!(
        shown(&image),
        [
            "0x0+0x8 padding",
            "0x8+0x168 cpio 2 kernel init",
            "0x170+0x3e8 padding",
            "0x558+0x1000 erofs a",
            "0x1558+0x4 padding",
            "0x155c+0x1000 erofs b",
            "0x255c+0x201 padding",
        ]
    );
}

#[test]
fn the_1024_bytes_before_a_superblock_may_hold_anything() {
    for first in [0, 1, 4, 510, 1000, 1023] {
        let mut boot_sector = erofs(1, "boot");
        boot_sector[first] = 0xEB;
        assert_eq!(
            shown(&join(&[&loader(), &boot_sector])),
            ["0x0+0x168 cpio 2 kernel init", "0x168+0x1000 erofs boot"],
            "byte {first}"
        );
    }
}

#[test]
fn an_image_may_start_at_any_byte() {
    // As from `cat loader.cpio.gz base.erofs`.
    for offset in [1, 2, 3, 5, 511] {
        let expected = [
            format!("0x0+{offset:#x} padding"),
            format!("{offset:#x}+0x1000 erofs a"),
        ];
        // The zeros in front could be its first bytes or padding; the superblock decides.
        assert_eq!(shown(&join(&[&vec![0; offset], &erofs(1, "a")])), expected);
    }
}

#[test]
fn an_image_inside_a_member_is_not_found() {
    let inner = erofs(2, "inner");
    let image = cpio(&[dir("layers"), file("layers/10-base.erofs", &inner)]);
    let length = image.len();
    assert_eq!(
        shown(&join(&[&image, &erofs(1, "outer")])),
        [
            format!("0x0+{length:#x} cpio 2 kernel layers"),
            format!("{length:#x}+0x1000 erofs outer")
        ]
    );
}

#[test]
fn archives_may_lack_their_trailer_and_have_zeros_between_members() {
    let mut image = cpio_without_trailer(&[dir("a")]);
    image.extend([0; 512]);
    image.extend(cpio_without_trailer(&[program("init")]));
    image.extend([0; 100]);
    assert_eq!(
        shown(&image),
        ["0x0+0x2e8 cpio 2 kernel init", "0x2e8+0x64 padding"]
    );
    // The last body of an initrd needs no padding.
    let mut image = cpio_without_trailer(&[file("a", b"12345")]);
    image.truncate(image.len() - 3);
    assert_eq!(shown(&image), ["0x0+0x75 cpio 1 kernel"]);
}

#[test]
fn the_running_init_is_found_under_any_name_and_spelling() {
    for name in ["init", "/init", "./init", ".//./init"] {
        assert!(
            shown(&cpio(&[program(name)])).concat().contains("init"),
            "{name}"
        );
    }
    let image = cpio(&[dir("sbin"), program("sbin/early"), dir("init")]);
    assert_eq!(
        lines(&walk(&&image[..], b"/sbin/early")),
        ["0x0+0x1e4 cpio 3 kernel init"]
    );
    // A directory of that name does not count.
    assert_eq!(shown(&image), ["0x0+0x1e4 cpio 3 kernel"]);
}

#[test]
fn a_root_member_is_noticed() {
    assert_eq!(
        shown(&cpio(&[dir("."), file("a", b"")])),
        ["0x0+0x15c cpio 2 kernel root"]
    );
}

#[test]
fn compressed_archives_are_measured_and_their_members_read() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let compress = |tool: &str, args: &[&str], data: &[u8]| {
        let mut child = Command::new(tool)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs {tool}: {error}"));
        child.stdin.take().unwrap().write_all(data).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    for (tool, args, name) in [
        ("gzip", &["-n"][..], "gzip"),
        ("xz", &["--check=crc32"], "xz"),
        ("zstd", &["-q"], "zstd"),
        ("lz4", &["-l", "-q"], "lz4"),
    ] {
        let packed = compress(tool, args, &loader());
        let length = packed.len();
        assert_eq!(
            shown(&join(&[&packed, &erofs(1, "a")])),
            [
                format!("0x0+{length:#x} cpio.{name} 2 kernel init"),
                format!("{length:#x}+0x1000 erofs a")
            ]
        );
        // Two streams, and an aligned plain archive.
        let mut image = join(&[&packed, &packed]);
        pad(&mut image, 4);
        let before = image.len();
        image.extend(loader());
        let lines = shown(&image);
        // The kernel's LZ4 decoder fails on data after a stream.
        let kernel = if name == "lz4" { "" } else { " kernel" };
        let expected = format!("{before:#x}+0x168 cpio 2{kernel} init");
        assert_eq!(lines.last(), Some(&expected), "{name}");
        // Compressed data other than cpio.
        let odd = compress(tool, args, b"hello, world");
        assert!(
            shown(&odd)[0].contains("something other than cpio"),
            "{:?}",
            shown(&odd)
        );
    }
}

#[test]
fn segments_after_the_stop_are_not_unpacked_by_the_kernel() {
    let compress = |tool: &str, args: &[&str]| {
        let path =
            std::env::temp_dir().join(format!("layerinit-segment-{}-{tool}", std::process::id()));
        std::fs::write(&path, loader()).unwrap();
        let output = std::process::Command::new(tool)
            .args(args)
            .arg(&path)
            .output();
        std::fs::remove_file(&path).unwrap();
        output
            .unwrap_or_else(|error| panic!("this test needs {tool}: {error}"))
            .stdout
    };
    let by_kernel = |image: &[u8]| -> Vec<bool> {
        let kernel = |line: &String| line.contains("cpio").then(|| line.contains("kernel"));
        shown(image).iter().filter_map(kernel).collect()
    };
    let gzip = compress("gzip", &["-nc"]);
    // Aligned, and unaligned.
    assert_eq!(by_kernel(&join(&[&loader(), &gzip])), [true, true]);
    assert_eq!(
        by_kernel(&join(&[&loader(), &[0; 2], &gzip])),
        [true, false]
    );
    let lz4 = compress("lz4", &["-lqc"]);
    assert_eq!(by_kernel(&join(&[&lz4, &[0; 4], &gzip])), [true, true]);
    assert_eq!(by_kernel(&join(&[&lz4, &gzip])), [true, false]);
}

#[test]
fn the_kernel_stops_at_a_wrong_sum() {
    let summed = |name: &'static str, body: &'static [u8], sum| {
        let mut entry = entry(name, 0o100755, body);
        (entry.header.crc, entry.header.chksum) = (true, sum);
        entry
    };
    // qemu/differential compares what the kernel unpacks up to there.
    let bad = || summed("bad", b"AB", 1);
    let rows: [(&[crate::common::Entry], &[&str]); 7] = [
        (
            &[summed("init", b"AB", 0x83)],
            &[
                "0x0+0xf4 cpio 1 kernel init",
                "0xf4+0x168 cpio 2 kernel init",
            ],
        ),
        (
            &[bad()],
            &["0x0+0xf4 cpio 1 kernel", "0xf4+0x168 cpio 2 init"],
        ),
        // Archives before the bad one, and after it.
        (
            &[program("init"), bad()],
            &["0x0+0x16c cpio 2 kernel init", "0x16c+0x168 cpio 2 init"],
        ),
        (
            &[bad(), program("init")],
            &["0x0+0x16c cpio 2 kernel", "0x16c+0x168 cpio 2 init"],
        ),
        // The checksum of a file that is dropped, because its directory is missing, is not verified.
        (
            &[summed("no/parent", b"AB", 1)],
            &["0x0+0xf8 cpio 1 kernel", "0xf8+0x168 cpio 2 kernel init"],
        ),
        (
            &[dir("no"), summed("no/parent", b"AB", 1)],
            &["0x0+0x16c cpio 2 kernel", "0x16c+0x168 cpio 2 init"],
        ),
        // Nor is that of other types than regular files.
        (
            &[{
                let mut link = entry("link", 0o120777, b"target");
                (link.header.crc, link.header.chksum) = (true, 1);
                link
            }],
            &["0x0+0xf8 cpio 1 kernel", "0xf8+0x168 cpio 2 kernel init"],
        ),
    ];
    for (entries, expected) in rows {
        assert_eq!(shown(&join(&[&cpio(entries), &loader()])), expected);
    }
    // After an image, the kernel does not unpack the archive, and the checksum is not verified.
    let image = join(&[&loader(), &erofs(1, "a"), &cpio(&[bad()])]);
    let found = walk(&&image[..], b"/init");
    let Kind::Cpio(last) = &found.segments.last().unwrap().kind else {
        panic!("{found:?}");
    };
    assert_eq!((last.by_kernel, last.bad_sum), (false, None));
}

#[test]
fn a_bootconfig_trailer_ends_the_initrd() {
    let loader = loader();
    let trailer = bootconfig(b"kernel.quiet\n");
    for grub_padding in 0..4 {
        let image = join(&[&loader, &trailer, &vec![0; grub_padding]]);
        let length = trailer.len() + grub_padding;
        assert_eq!(
            shown(&image),
            [
                "0x0+0x168 cpio 2 kernel init".to_string(),
                format!("0x168+{length:#x} bootconfig intact=true")
            ]
        );
    }
}

#[test]
fn an_invalid_bootconfig_is_trouble_at_the_end_of_the_initrd() {
    let loader = loader();
    let image = erofs(2, "");
    let trailer = bootconfig(b"kernel.quiet\n");
    // Wrong text, a wrong checksum, and wrong sizes: zero, more than any bootconfig, and one that includes
    // the image.
    for (at, with) in [(0, 1), (20, 1), (16, 16), (18, 1), (17, 0x20)] {
        let mut damaged = loader.clone();
        pad(&mut damaged, 4096);
        damaged.extend(join(&[&image, &trailer]));
        let end = damaged.len() - trailer.len();
        damaged[end + at] ^= with;
        assert_eq!(
            shown(&damaged)[2..],
            [
                format!("{:#x}+{:#x} erofs ", end - image.len(), image.len()),
                format!("{end:#x}+{:#x} bootconfig intact=false", trailer.len())
            ],
            "{at}"
        );
    }
}

#[test]
fn unknown_data_is_reported_with_offset_and_first_bytes_and_earlier_segments_stay() {
    let loader = loader();
    for (tail, expected) in [
        (
            &b"what\0"[..],
            "read at 0x168: neither cpio nor EROFS: 77 68 61 74 00 \"what\\x00\"",
        ),
        (
            b"0707",
            "read at 0x168: read cpio member at 0x0 of its archive: the archive ends inside a header",
        ),
        (
            &b"070707".repeat(30),
            "read at 0x168: read cpio member at 0x0 of its archive: this is the old cpio format, not newc (cpio -H newc)",
        ),
        (
            &b"\xe2\xe1\xf5\xe0".repeat(10),
            "read at 0x168: an EROFS superblock, but not the 1024 bytes that belong before it",
        ),
    ] {
        assert_eq!(
            shown(&join(&[&loader, tail])),
            ["0x0+0x168 cpio 2 kernel init", expected]
        );
    }
}

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// The first MiB of a filesystem of `size` bytes, made by a program.
fn made(size: u64, package: &str, program: &str, arguments: &[&str]) -> Vec<u8> {
    let image = Image::new(size);
    run(package, program, &[arguments, &[image.path()]].concat());
    let mut bytes = std::fs::read(image.path()).unwrap();
    bytes.truncate(1 << 20);
    bytes
}

/// The output file of a program.
fn written(package: &str, program: &str, before: &[&str], after: &[&str]) -> Vec<u8> {
    let image = Image::new(0);
    run(package, program, &[before, &[image.path()], after].concat());
    std::fs::read(image.path()).unwrap()
}

/// Expects this message for data directly after the loader, after padding, and at the next multiple of 4096.
fn is_named(tail: &[u8], expected: &str) {
    for zeros in [0, 4, 0x1000 - 0x168] {
        let image = join(&[&loader(), &vec![0; zeros], tail]);
        let walk = walk(&&image[..], b"/init");
        let error = walk.trouble.unwrap().to_string();
        let place = format!("read at {:#x}: {expected}", 0x168 + zeros);
        assert!(error.starts_with(&place), "{error}: not {place}");
        assert!(
            error.ends_with("; layers are EROFS images and cpio archives"),
            "{error}"
        );
        assert_eq!(walk.segments.len(), 1);
    }
}

#[test]
fn appended_filesystems_are_named_where_they_begin() {
    for (tail, expected) in [
        (
            made(
                4 << 20,
                "e2fsprogs",
                "mkfs.ext4",
                &["-qF", "-U", UUID, "-L", "root"],
            ),
            format!("ext4 LABEL=\"root\" UUID={UUID}"),
        ),
        (
            made(128 << 20, "btrfs-progs", "mkfs.btrfs", &["-q", "-U", UUID]),
            format!("btrfs UUID={UUID}"),
        ),
        (
            made(
                300 << 20,
                "xfsprogs",
                "mkfs.xfs",
                &["-q", "-m", &format!("uuid={UUID}")],
            ),
            format!("xfs UUID={UUID}"),
        ),
        (
            made(
                1 << 20,
                "dosfstools",
                "mkfs.vfat",
                &["-i", "12345678", "-n", "ESP"],
            ),
            "vfat LABEL=\"ESP\" UUID=1234-5678".into(),
        ),
    ] {
        is_named(&tail, &expected);
    }
}

#[test]
fn appended_archives_and_read_only_images_are_named_where_they_begin() {
    let source = std::env::temp_dir().join(format!("layerinit-appended-{}", std::process::id()));
    std::fs::create_dir_all(source.join("etc")).unwrap();
    let from = source.to_str().unwrap();
    for (tail, expected) in [
        (
            written(
                "genisoimage",
                "genisoimage",
                &["-quiet", "-V", "DISC", "-o"],
                &[from],
            ),
            "iso9660 LABEL=\"DISC\"",
        ),
        (
            written("tar", "tar", &["-cf"], &["-C", from, "."]),
            "a tar archive (mkfs.erofs --tar=f ",
        ),
    ] {
        is_named(&tail, expected);
    }
    std::fs::remove_dir_all(&source).unwrap();
}

#[test]
fn appended_disks_and_hash_trees_are_named_where_they_begin() {
    let gpt = {
        let image = Image::new(4 << 20);
        let script = format!(
            "printf 'label: gpt\\nstart=2048\\n' | sfdisk -q {}",
            image.path()
        );
        run("fdisk", "sh", &["-c", &script]);
        std::fs::read(image.path()).unwrap()
    };
    let mut verity = vec![0; 4096];
    verity[..12].copy_from_slice(b"verity\0\0\x01\0\0\0");
    verity[16..32].copy_from_slice(&[0xab; 16]);
    is_named(&gpt, "the image of a disk with partitions (GPT)");
    is_named(
        &verity,
        "DM_verity_hash UUID=abababab-abab-abab-abab-abababababab",
    );
}

#[test]
fn a_compressed_image_is_named() {
    let image = Image::new(0);
    std::fs::write(image.path(), erofs(2, "a")).unwrap();
    for (words, name) in [
        (&["gzip", "-nc"][..], "gzip"),
        (&["xz", "-c"], "xz"),
        (&["zstd", "-qc"], "zstd"),
        (&["lz4", "-lqc"], "lz4"),
    ] {
        let mut command = std::process::Command::new(words[0]);
        let output = command.args(&words[1..]).arg(image.path()).output();
        let packed = output.unwrap_or_else(|error| panic!("this test needs {name}: {error}"));
        assert_eq!(
            shown(&join(&[&loader(), &packed.stdout]))[1..],
            [format!(
                "read at 0x168: an EROFS image compressed with {name}: append it uncompressed"
            )]
        );
    }
}

#[test]
fn a_truncated_image_is_reported_with_the_missing_bytes() {
    let image = join(&[&loader(), &erofs(3, "a")[..8192]]);
    assert_eq!(
        shown(&image)[1],
        "read at 0x168: truncated EROFS image: its superblock says 12288 bytes, the initrd has 8192 from here"
    );
}

#[test]
fn an_archive_may_start_at_any_offset_and_is_padded_relative_to_its_start() {
    let other = || cpio(&[dir("etc"), file("etc/a", b"12345"), file("etc/bc", b"")]);
    assert_eq!(other().len(), 0x1e4);
    for past in 1..4 {
        // As systemd-boot 252 and the initrd= of the EFI stub join files of such lengths.
        let zeros = vec![0; past];
        let behind = 0x1168 + past;
        assert_eq!(
            shown(&join(&[
                &loader(),
                &erofs(1, "a"),
                &zeros,
                &other(),
                &other()
            ])),
            [
                "0x0+0x168 cpio 2 kernel init".to_string(),
                "0x168+0x1000 erofs a".into(),
                format!("0x1168+{past:#x} padding"),
                format!("{behind:#x}+0x1e4 cpio 3"),
                format!("{:#x}+0x1e4 cpio 3", behind + 0x1e4),
            ]
        );
        // In front of the first image, the kernel stops at such an archive.
        assert_eq!(
            shown(&join(&[
                &loader(),
                &zeros,
                &other(),
                &loader(),
                &erofs(1, "a")
            ])),
            [
                "0x0+0x168 cpio 2 kernel init".to_string(),
                format!("0x168+{past:#x} padding"),
                format!("{:#x}+0x1e4 cpio 3", 0x168 + past),
                format!("{:#x}+0x168 cpio 2 init", 0x34c + past),
                format!("{:#x}+0x1000 erofs a", 0x4b4 + past),
            ]
        );
    }
    // Without a trailer, and with truncated padding after the last body.
    let mut short = cpio_without_trailer(&[file("a", b"1")]);
    short.truncate(short.len() - 1);
    assert_eq!(
        shown(&join(&[&erofs(1, "a"), &short, &[0; 2], &other()]))[1..],
        [
            "0x1000+0x74 cpio 1",
            "0x1074+0x1 padding",
            "0x1075+0x1e4 cpio 3"
        ]
    );
}

#[test]
fn an_archive_of_grub_is_read_and_stops_the_kernel() {
    let grub = GRUB_2_06;
    let at = |image: &[u8]| -> Vec<_> {
        let walk = walk(&image, b"/init");
        assert!(walk.trouble.is_none(), "{:?}", walk.trouble);
        let cpio = walk
            .segments
            .iter()
            .filter_map(|segment| match &segment.kind {
                Kind::Cpio(cpio) => Some((cpio.by_kernel, cpio.holds_init, cpio.bad_name)),
                _ => None,
            });
        cpio.collect()
    };
    let (loader, base) = (loader(), erofs(1, "a"));
    let behind = join(&[&loader, &base, grub, &loader]);
    assert_eq!(
        at(&behind),
        [
            (true, true, None),
            (false, false, None),
            (false, true, None)
        ]
    );
    let front = join(&[&loader, grub, &loader, &base]);
    assert_eq!(
        at(&front),
        [
            (true, true, None),
            (true, false, Some(0)),
            (false, true, None)
        ]
    );
    // The kernel checks the name of the trailer, too, but has unpacked the members before it.
    let trailer = &grub[grub.len() - 120..];
    let mut own = cpio_without_trailer(&[program("init")]);
    own.extend(trailer);
    assert_eq!(
        at(&join(&[&own, &loader])),
        [(true, true, Some(0x78)), (false, true, None)]
    );
}

#[test]
fn unterminated_names_and_excessive_lengths_are_errors() {
    let mut no_nul = cpio(&[file("abcd", b"")]);
    no_nul[114..116].fill(b'd');
    assert_eq!(
        shown(&no_nul),
        ["read at 0x0: read cpio member at 0x0 of its archive: a name does not end with NUL"]
    );
    let huge = Header {
        mode: 0o100644,
        filesize: u32::MAX,
        namesize: u32::MAX,
        ..Header::default()
    };
    assert_eq!(
        shown(huge.encode().as_bytes()),
        ["read at 0x0: read cpio member at 0x0 of its archive: the archive ends inside a header"]
    );
}

/// An image with segments of every kind.
fn everything() -> Vec<u8> {
    let mut image = join(&[&microcode(), &loader(), &[0; 20]]);
    image.extend(&erofs(1, "a")[..4096]);
    image.extend(cpio(&[dir("etc"), file("etc/hostname", b"box\n")]));
    image.extend(bootconfig(b"a=b\n"));
    image
}

#[test]
fn every_truncation_gives_segments_or_an_error() {
    let whole = everything();
    for length in 0..whole.len() {
        let walk = walk(&&whole[..length], b"/init");
        let end = walk.segments.last().map_or(0, |s| s.offset + s.length);
        assert!(walk.trouble.is_some() || end == length as u64, "{length}");
    }
}

#[test]
fn every_flipped_bit_gives_segments_or_an_error() {
    let mut image = everything();
    for bit in 0..image.len() * 8 {
        image[bit / 8] ^= 1 << (bit % 8);
        let walk = walk(&&image[..], b"/init");
        let end = walk.segments.last().map_or(0, |s| s.offset + s.length);
        assert!(
            walk.trouble.is_some() || end == image.len() as u64,
            "bit {bit}"
        );
        image[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn the_number_of_segments_is_limited() {
    let image = cpio(&[]).repeat(10_000);
    let walk = walk(&&image[..], b"/init");
    assert_eq!(walk.segments.len(), 8192);
    assert!(
        walk.trouble
            .unwrap()
            .to_string()
            .contains("more than 8192 segments")
    );
}

/// A large initrd without its memory: counts reads, and makes up the bytes after the given ones.
struct Sparse<'a> {
    pieces: &'a [(u64, &'a [u8])],
    size: u64,
    reads: Cell<u64>,
}

impl ReadAt for Sparse<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        let n = (self.size - offset).min(buf.len() as u64).min(4096) as usize;
        buf[..n].fill(0xff);
        for (start, piece) in self.pieces {
            for (i, byte) in piece.iter().enumerate() {
                let at = start + i as u64;
                if (offset..offset + n as u64).contains(&at) {
                    buf[(at - offset) as usize] = *byte;
                }
            }
        }
        Ok(n)
    }
}

#[test]
fn large_bodies_are_skipped_without_being_read() {
    let big = Header {
        mode: 0o100644,
        nlink: 1,
        filesize: 1 << 30,
        namesize: 4,
        ..Header::default()
    };
    let mut first = big.encode().into_bytes();
    first.extend(b"big\0\0\0");
    let trailer = cpio(&[program("init")]);
    let body_end = 116 + (1 << 30);
    let mut image = erofs(1, "a");
    image[1060..1064].copy_from_slice(&(1u32 << 18).to_le_bytes());
    let start = body_end + trailer.len() as u64;
    let source = Sparse {
        pieces: &[(0, &first), (body_end, &trailer), (start, &image)],
        size: start + (1 << 30),
        reads: Cell::new(0),
    };
    let walk = walk(&source, b"/init");
    assert_eq!(
        lines(&walk),
        [
            "0x0+0x40000168 cpio 2 kernel init".to_string(),
            format!("{start:#x}+0x40000000 erofs a")
        ]
    );
    println!("2 GiB in {} reads", source.reads.get());
    assert!(source.reads.get() < 40, "{} reads", source.reads.get());
}

#[test]
fn squashfs_images_have_the_length_in_their_superblock() {
    let source = std::env::temp_dir().join(format!("layerinit-squashfs-{}", std::process::id()));
    std::fs::create_dir_all(source.join("etc")).unwrap();
    let options = ["-noappend", "-quiet", "-no-progress"];
    let from = source.to_str().unwrap();
    let image = written("squashfs-tools", "mksquashfs", &[from], &options);
    std::fs::remove_dir_all(&source).unwrap();
    let used = u64::from_le_bytes(image[40..48].try_into().unwrap());
    let (length, start) = (image.len() as u64, loader().len() as u64);
    let padding = length - used;
    assert_eq!(
        shown(&join(&[&loader(), &image, &image])),
        [
            format!("0x0+{start:#x} cpio 2 kernel init"),
            format!("{start:#x}+{used:#x} squashfs 2"),
            format!("{:#x}+{padding:#x} padding", start + used),
            format!("{:#x}+{used:#x} squashfs 2", start + length),
            format!("{:#x}+{padding:#x} padding", start + length + used),
        ]
    );
    let cut = shown(&join(&[&loader(), &image[..used as usize - 1]]));
    let expected = format!(
        "truncated SquashFS image: its superblock says {used} bytes, and {} follow from here",
        used - 1
    );
    assert!(cut.last().unwrap().contains(&expected), "{cut:?}");
}

/// A source that records the highest offset read.
struct Counted<'a>(&'a [u8], std::cell::Cell<u64>);

impl layerinit::bytes::ReadAt for Counted<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.1.set(self.1.get().max(offset + buf.len() as u64));
        self.0.read_at(buf, offset)
    }
}

#[test]
fn what_follows_the_images_of_a_file_or_a_device_is_not_read() {
    let images = join(&[&erofs(2, "a"), &erofs(1, "b")]);
    let mut bytes = images.clone();
    bytes.resize(8 << 20, 0);
    bytes.extend(b"what the partition held before");
    let counted = Counted(&bytes, Default::default());
    let walk = layerinit::initrd::walk_device(&counted);
    assert_eq!(
        lines(&walk),
        ["0x0+0x2000 erofs a", "0x2000+0x1000 erofs b"]
    );
    // The last bytes are read, because they may be a bootconfig.
    let read = Counted(&bytes[..7 << 20], Default::default());
    assert_eq!(layerinit::initrd::walk_device(&read).segments.len(), 2);

    let walk = layerinit::initrd::walk_layer_file(&counted);
    assert_eq!(lines(&walk), ["0x0+0x2000 erofs a"]);
}
