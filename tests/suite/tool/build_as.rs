//! `layerinit build --as`: directories as archives. Needs root, for device nodes and owners.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use crate::support::*;
use layerinit::format::compress::{Codec, Decoder};
use layerinit::format::cpio::{Archive, Next};
use layerinit::initrd::{Kind, walk};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

const FORMS: [(&str, Option<Codec>); 5] = [
    ("cpio", None),
    ("cpio.gz", Some(Codec::Gzip)),
    ("cpio.lz4", Some(Codec::Lz4)),
    ("cpio.xz", Some(Codec::Xz)),
    ("cpio.zst", Some(Codec::Zstd)),
];

/// A directory with everything that an archive can hold. The files are created in this order, or backwards.
fn directory(path: &Path, backwards: bool) {
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::create_dir(path.join("a")).unwrap();
    let node = |name: &str, kind, mode: u32, device| {
        mknodat(
            CWD,
            path.join(name),
            kind,
            Mode::from_raw_mode(mode),
            device,
        )
        .unwrap();
    };
    let steps: [&dyn Fn(); 6] = [
        &|| fs::write(path.join("text"), "text\n".repeat(100_000)).unwrap(),
        &|| fs::write(path.join("empty"), "").unwrap(),
        &|| symlink("sub/../text", path.join("link")).unwrap(),
        &|| node("hidden", FileType::CharacterDevice, 0, 0),
        &|| node("pipe", FileType::Fifo, 0o640, 0),
        &|| node("disk", FileType::BlockDevice, 0o640, makedev(259, 70_000)),
    ];
    match backwards {
        false => steps.iter().for_each(|step| step()),
        true => steps.iter().rev().for_each(|step| step()),
    }
    fs::hard_link(path.join("text"), path.join("a/first")).unwrap();
    fs::hard_link(path.join("text"), path.join("sub/last")).unwrap();
    fs::set_permissions(path.join("empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    chown(path.join("sub"), Some(70_000), Some(6)).unwrap();
    chown(path.join("empty"), Some(1), Some(2)).unwrap();
    fs::set_permissions(path.join("empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(path.join("sub"), fs::Permissions::from_mode(0o2750)).unwrap();
}

/// Builds an image with `words` and an empty archive in place of the loader.
fn build(scratch: &Path, words: &[&str]) -> (String, String, i32) {
    let mut command = tool(scratch);
    command.args(["build", "-o", "image", "--spec", "/dev/null"]);
    said(&command.args(words).output().unwrap())
}

/// The bytes of the only layer of the image, and its codec.
fn layer(scratch: &Path) -> (Vec<u8>, Option<Codec>) {
    let image = fs::read(scratch.join("image")).unwrap();
    let found = walk(&&image[..], b"/init");
    assert!(found.trouble.is_none(), "{:?}", found.trouble);
    let mut layers = found
        .segments
        .iter()
        .filter_map(|segment| match &segment.kind {
            Kind::Cpio(cpio) if cpio.members > 0 => Some((segment, cpio.codec)),
            _ => None,
        });
    let (segment, codec) = layers.next().unwrap();
    assert!(layers.next().is_none(), "more than one layer");
    let bytes = &image[segment.offset as usize..][..segment.length as usize];
    (bytes.to_vec(), codec)
}

fn plain(bytes: &[u8], codec: Option<Codec>) -> Vec<u8> {
    let Some(codec) = codec else {
        return bytes.to_vec();
    };
    let mut plain = Vec::new();
    let mut decoder = Decoder::new(codec, bytes).unwrap();
    decoder.read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn every_form_holds_the_same_files_and_is_reproducible() {
    let scratch = scratch("as-forms");
    directory(&scratch.join("one"), false);
    directory(&scratch.join("two"), true);
    let mut reference = Vec::new();
    for (form, codec) in FORMS {
        let mut images = Vec::new();
        for layer in ["one", "two"] {
            let (out, err, status) = build(&scratch, &["--layer", layer, "--as", form]);
            assert_eq!((status, err.as_str()), (0, ""), "{form}");
            assert!(out.ends_with(", 1 layer\n"), "{out}");
            images.push(fs::read(scratch.join("image")).unwrap());
        }
        assert!(images[0] == images[1], "{form} differs");
        let (bytes, found) = layer(&scratch);
        assert_eq!(found, codec, "{form}");
        let plain = plain(&bytes, codec);
        let end = plain.iter().rposition(|byte| *byte != 0).unwrap();
        match form {
            "cpio" => reference = plain[..end].to_vec(),
            _ => assert!(plain[..end] == reference, "{form} holds something else"),
        }
    }
}

#[test]
fn an_archive_holds_the_files_unchanged() {
    let scratch = scratch("as-files");
    directory(&scratch.join("tree"), false);
    let words = ["--layer", "tree", "--as", "cpio", "--mtime", "7"];
    assert_eq!(build(&scratch, &words).2, 0);
    let (bytes, _) = layer(&scratch);
    let source = &bytes[..];
    let mut archive = Archive::new(layerinit::bytes::Reader::new(&source, 0));
    let mut lines = Vec::new();
    while let Next::Member(member) = archive.next_member().unwrap() {
        let header = member.header;
        assert_eq!(header.mtime, 7);
        lines.push(format!(
            "{:o} {}:{} {} {}:{} {}",
            header.mode,
            header.uid,
            header.gid,
            header.filesize,
            header.rmaj,
            header.rmin,
            String::from_utf8_lossy(&member.name)
        ));
    }
    // Hard links come last, when all their directories exist; the data comes with the last link.
    assert_eq!(
        lines,
        [
            "40755 0:0 0 0:0 .",
            "40755 0:0 0 0:0 a",
            "60640 0:0 0 259:70000 disk",
            "104711 1:2 0 0:0 empty",
            "20000 0:0 0 0:0 hidden",
            "120777 0:0 12 0:0 link",
            "10640 0:0 0 0:0 pipe",
            "42750 70000:6 0 0:0 sub",
            "100644 0:0 0 0:0 a/first",
            "100644 0:0 0 0:0 sub/last",
            "100644 0:0 500000 0:0 text",
        ]
    );
}

#[test]
fn compressed_archives_suit_the_kernel() {
    let scratch = scratch("as-kernel");
    directory(&scratch.join("tree"), false);
    let packed = |form: &str| {
        assert_eq!(build(&scratch, &["--layer", "tree", "--as", form]).2, 0);
        layer(&scratch).0
    };
    // lib/decompress_inflate.c: deflate, no optional field.
    assert_eq!(packed("cpio.gz")[..4], [0x1f, 0x8b, 8, 0]);
    // lib/decompress_unxz.c: CRC32 or no check, from the stream flags.
    assert_eq!(packed("cpio.xz")[..8], *b"\xfd7zXZ\0\0\x01");
    // lib/decompress_unzstd.c: ZSTD_MAXWINDOWSIZE_DEFAULT, 128 MiB. The window descriptor follows the frame
    // header descriptor, unless the frame is a single segment (RFC 8878, 3.1.1.1).
    let frame = packed("cpio.zst");
    if frame[4] & 0x20 == 0 {
        assert!(10 + (frame[5] >> 3) <= 27, "window {:#x}", frame[5]);
    }
    // lib/decompress_unlz4.c: a chunk length of zero ends the stream, and with it the segment.
    let legacy = packed("cpio.lz4");
    let image = fs::read(scratch.join("image")).unwrap();
    let start = image
        .windows(4)
        .position(|bytes| bytes == [2, 0x21, 0x4c, 0x18])
        .unwrap();
    assert_eq!(image[start + legacy.len()..][..4], [0; 4]);
    // In qemu/differential, a kernel unpacks all of them.
}

#[test]
fn opaque_directories_get_a_mark_and_other_attributes_a_warning() {
    let scratch = scratch("as-attributes");
    let tree = scratch.join("tree");
    directory(&tree, false);
    let set = |name: &str, attribute: &str, value: &[u8]| {
        lsetxattr(tree.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("sub", "trusted.overlay.opaque", b"y");
    set("a", "trusted.overlay.opaque", b"x");
    set("a", "trusted.overlay.origin", b"anything");
    let words = ["--layer", "tree", "--as", "cpio"];
    assert!(!build(&scratch, &words).0.contains("warning"));
    let names = tool(&scratch)
        .args(["list", "--files", "image"])
        .output()
        .unwrap();
    let (listing, _, _) = said(&names);
    assert_eq!(listing.matches(".wh..wh..opq").count(), 1, "{listing}");
    assert!(listing.contains(" sub/.wh..wh..opq\n"), "{listing}");

    set("text", "trusted.label", b"1");
    set("text", "trusted.other", b"2");
    set("empty", "trusted.label", b"1");
    assert!(build(&scratch, &words).0.starts_with(
        "warning: tree: the extended attributes of a/first (trusted.label, trusted.other) are not stored, \
         nor those of 1 more files: a cpio archive cannot hold any (--as erofs can)\n"
    ));
}

#[test]
fn as_applies_to_the_layer_before_it() {
    let scratch = scratch("as-order");
    for name in ["one", "two", "three"] {
        fs::create_dir(scratch.join(name)).unwrap();
        fs::write(scratch.join(name).join(name), name).unwrap();
    }
    let words = [
        "--layer", "one", "--as", "cpio.gz", "--layer", "two", "--layer", "three",
    ];
    let words = [&words[..], &["--as", "cpio", "--align", "4"]].concat();
    let (_, err, status) = build(&scratch, &words);
    assert_eq!((status, err.as_str()), (0, ""));
    let image = fs::read(scratch.join("image")).unwrap();
    let kinds: Vec<_> = walk(&&image[..], b"/init")
        .segments
        .iter()
        .filter_map(|segment| match &segment.kind {
            Kind::Cpio(cpio) => Some(format!("cpio {:?} {}", cpio.codec, cpio.members)),
            Kind::Erofs(_) => Some("erofs".into()),
            _ => None,
        })
        .collect();
    assert_eq!(
        kinds,
        ["cpio None 0", "cpio Some(Gzip) 2", "erofs", "cpio None 2"]
    );
}

#[test]
fn invalid_uses_are_refused_and_leave_no_file() {
    let scratch = scratch("as-refused");
    fs::create_dir(scratch.join("tree")).unwrap();
    fs::write(
        scratch.join("file"),
        crate::common::cpio(&[crate::common::dir("a")]),
    )
    .unwrap();
    fs::create_dir(scratch.join("ends")).unwrap();
    fs::write(scratch.join("ends/TRAILER!!!"), "").unwrap();
    let rows: [(&[&str], i32, &str); 6] = [
        (
            &["--as", "cpio", "--layer", "tree"],
            2,
            "error: --as applies to the --layer before it, and there is none",
        ),
        (
            &["--as", "cpio"],
            2,
            "error: the following required arguments were not provided",
        ),
        (
            &["--layer", "tree", "--as", "cpio", "--as", "erofs"],
            2,
            "error: --as twice for --layer tree",
        ),
        (
            &["--layer", "tree", "--as", "cpio.bz2"],
            2,
            "error: invalid value 'cpio.bz2' for '--as <FORMAT>'\n  [possible values: erofs, cpio, cpio.gz, cpio.lz4, cpio.xz, cpio.zst]",
        ),
        (
            &["--layer", "file", "--as", "cpio"],
            1,
            "layerinit: read file: not a directory: --as sets the format of a directory, a file stays unchanged",
        ),
        (
            &["--layer", "ends", "--as", "cpio"],
            1,
            "layerinit: read ends/TRAILER!!!: this name ends a cpio archive",
        ),
    ];
    for (words, expected, message) in rows {
        let (_, err, status) = build(&scratch, words);
        assert_eq!(status, expected, "{words:?}");
        assert!(err.starts_with(message), "{err}");
        assert!(!scratch.join("image").exists());
    }
    // If a program is missing, the message names its package.
    for (form, message) in [
        (
            "cpio.zst",
            "run zstd for tree: it is not installed; on Debian: apt install zstd",
        ),
        (
            "cpio.xz",
            "run xz for tree: it is not installed; on Debian: apt install xz-utils",
        ),
    ] {
        let mut command = tool(&scratch);
        command
            .env("PATH", "/nowhere")
            .args(["build", "-o", "image", "--spec", "/dev/null"]);
        let output = command
            .args(["--layer", "tree", "--as", form])
            .output()
            .unwrap();
        assert_eq!(
            said(&output),
            (String::new(), format!("layerinit: {message}\n"), 1)
        );
    }
}
