//! Bodies of members.

use super::*;

#[test]
fn directories_nodes_and_pipes_with_a_body_are_skipped() {
    gives_but(
        5,
        &[
            entry("dir", 0o040755, b"body"),
            entry("char", 0o020600, b"body"),
            entry("block", 0o060600, b"070701"),
            entry("fifo", 0o010600, b"b"),
            entry("sock", 0o140600, b"body"),
            file("after", b"x"),
        ],
        &["file 0644 0:0 @0 after \"x\""],
    );
}

#[test]
fn bodies_of_every_length_around_the_buffer_arrive_whole() {
    let body: Vec<u8> = (0..400_001u32).map(|n| (n % 251) as u8).collect();
    for length in [
        0, 1, 3, 4095, 4096, 4097, 131_071, 131_072, 131_073, 400_001,
    ] {
        let tree = Tree::new("");
        let body = &body[..length];
        let sum = body.iter().map(|byte| u32::from(*byte)).sum();
        let archive = cpio(&[summed(sum, file("a", body)), file("b", b"after")]);
        tree.unpack(&archive).unwrap();
        assert!(fs::read(tree.root.join("a")).unwrap() == body, "{length}");
        assert_eq!(fs::read(tree.root.join("b")).unwrap(), b"after");
    }
}

#[test]
fn the_checksum_of_070702_is_verified_even_for_empty_bodies() {
    gives(
        &[
            summed(b'A' as u32 + b'B' as u32, file("a", b"AB")),
            summed(0, file("empty", b"")),
            summed(99, dir("no-file-no-sum")),
            summed(99, link("no-file", "x")),
        ],
        &[
            "file 0644 0:0 @0 a \"AB\"",
            "file 0644 0:0 @0 empty \"\"",
            "link 0777 0:0 @0 no-file -> x",
            "dir 0755 0:0 @0 no-file-no-sum",
        ],
    );
    fails(
        &cpio(&[summed(5, file("empty", b"")), file("b", b"")]),
        "unpack empty: the sum of its bytes is 0x0, its header says 0x5",
        &["file 0644 0:0 @0 empty \"\""],
    );
}

#[test]
fn the_checksum_of_a_dropped_member_is_not_verified() {
    gives_but(
        1,
        &[summed(1, file("no/parent", b"AB")), file("b", b"")],
        &["file 0644 0:0 @0 b \"\""],
    );
}

#[test]
fn a_truncated_body_is_an_error_and_keeps_what_was_written() {
    let mut archive = cpio_without_trailer(&[file("a", b"1"), file("b", b"0123456789")]);
    archive.truncate(archive.len() - 8);
    let tree = Tree::new("");
    let error = tree.unpack(&archive).unwrap_err();
    assert!(error.starts_with("read b: "), "{error}");
    // The file has the length from the header, as in the kernel.
    let b = fs::read(tree.root.join("b")).unwrap();
    assert_eq!((b.len(), &b[..4]), (10, &b"0123"[..]));
}
