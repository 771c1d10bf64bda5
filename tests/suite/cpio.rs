//! The newc format: literal archives, which are decoded, compared, and encoded back to the same bytes.

use std::io::{BufReader, Read};

use crate::common::*;
use layerinit::bytes::{Reader, Skip};
use layerinit::format::cpio::{Archive, HEADER_LEN, Header, Next, normalized, padding};

/// Returns a line for each member of the archive, and one for its end.
fn read(input: impl Skip, bodies: bool) -> Vec<String> {
    let mut archive = Archive::new(input);
    let mut lines = Vec::new();
    loop {
        match archive.next_member() {
            Ok(Next::Member(member)) => {
                let mut line = format!(
                    "{:#x} {} {:o}",
                    member.offset,
                    member.name.escape_ascii(),
                    member.header.mode
                );
                if bodies {
                    let mut body = Vec::new();
                    match archive.read_to_end(&mut body) {
                        Ok(_) => line += &format!(" \"{}\"", body.escape_ascii()),
                        Err(error) => line += &format!(" {}", error.kind()),
                    }
                }
                lines.push(line);
            }
            Ok(Next::Trailer) => lines.push(format!("trailer to {:#x}", archive.position())),
            Ok(Next::End) => {
                lines.push(format!("end at {:#x}", archive.position()));
                return lines;
            }
            Err(error) => {
                lines.push(error.to_string());
                return lines;
            }
        }
    }
}

/// Reads the archive from memory and through a small buffer, with and without bodies, and expects the same
/// members.
#[track_caller]
fn gives(archive: &[u8], expected: &[&str]) {
    assert_eq!(read(Reader::new(&archive, 0), true), expected);
    assert_eq!(read(BufReader::with_capacity(3, archive), true), expected);
    let names = |lines: Vec<String>| -> Vec<String> {
        let cut = |line: String| match line.split_once(" \"") {
            Some((front, _)) => front.to_string(),
            None => line,
        };
        lines.into_iter().map(cut).collect()
    };
    assert_eq!(
        names(read(Reader::new(&archive, 0), false)),
        names(expected.iter().map(|line| line.to_string()).collect())
    );
}

/// A file and the trailer, as GNU cpio 2.13 writes them.
const LITERAL: &[u8] = b"\
070701\
0000C0DE000081A4000003E80000006400000001\
6553F100000000050000000800000001\
000000000000000000000009\
00000000\
etc/name\0\0guest\0\0\0\
070701\
0000000000000000000000000000000000000001\
00000000000000000000000000000000\
00000000000000000000000B\
00000000\
TRAILER!!!\0\0\0\0";

#[test]
fn a_literal_archive_is_decoded_field_by_field() {
    let mut archive = Archive::new(Reader::new(&LITERAL, 0));
    let Ok(Next::Member(member)) = archive.next_member() else {
        panic!("no member");
    };
    assert_eq!(member.name, b"etc/name");
    assert_eq!((member.offset, member.body), (0, 0x78));
    assert_eq!(
        member.header,
        Header {
            crc: false,
            ino: 0xc0de,
            mode: 0o100644,
            uid: 1000,
            gid: 100,
            nlink: 1,
            mtime: 1_700_000_000,
            filesize: 5,
            maj: 8,
            min: 1,
            rmaj: 0,
            rmin: 0,
            namesize: 9,
            chksum: 0,
        }
    );
    gives(
        LITERAL,
        &[
            "0x0 etc/name 100644 \"guest\"",
            "trailer to 0xfc",
            "end at 0xfc",
        ],
    );
}

#[test]
fn what_is_decoded_is_encoded_to_the_same_bytes() {
    let header: &[u8; HEADER_LEN] = LITERAL.first_chunk().unwrap();
    assert_eq!(Header::decode(header).unwrap().encode().as_bytes(), header);

    let made = cpio(&[Entry {
        name: b"etc/name",
        header: Header::decode(header).unwrap(),
        body: b"guest",
    }]);
    // The trailer of these tests has a link count of 0, that of cpio 1.
    assert_eq!(made[..0x80], LITERAL[..0x80]);
}

#[test]
fn fields_have_32_bits_and_digits_of_either_case() {
    let all = Header {
        crc: true,
        ino: u32::MAX,
        mode: u32::MAX - 1,
        uid: 0x89ab_cdef,
        gid: 1,
        nlink: 2,
        mtime: 3,
        filesize: 4,
        maj: 5,
        min: 6,
        rmaj: 7,
        rmin: 8,
        namesize: 9,
        chksum: 0xfedc_ba98,
    };
    let upper = all.encode();
    for text in [upper.to_lowercase(), upper] {
        let bytes: &[u8; HEADER_LEN] = text.as_bytes().try_into().unwrap();
        assert_eq!(Header::decode(bytes), Ok(all));
    }
}

#[test]
fn other_formats_and_damaged_headers_are_distinguished() {
    let good: [u8; HEADER_LEN] = Header::default().encode().as_bytes().try_into().unwrap();
    let with = |at: usize, text: &[u8]| {
        let mut bytes = good;
        bytes[at..at + text.len()].copy_from_slice(text);
        Header::decode(&bytes).unwrap_err()
    };
    assert_eq!(
        with(0, b"070707"),
        "this is the old cpio format, not newc (cpio -H newc)"
    );
    assert_eq!(with(0, b"070703"), "no cpio magic (070701 or 070702)");
    for at in (6..HEADER_LEN).step_by(8) {
        for bad in [b"g", b" ", b"+", b"-", b"x", b"\0"] {
            assert_eq!(with(at, bad), "a header field is not hexadecimal");
            assert_eq!(with(at + 7, bad), "a header field is not hexadecimal");
        }
    }
}

#[test]
fn names_and_bodies_of_every_length_are_padded_to_four() {
    for name in 1..20 {
        for body in 0..9 {
            let name = "n".repeat(name);
            let archive = cpio(&[file(&name, &b"12345678"[..body]), file("z", b"after")]);
            assert!(archive.len().is_multiple_of(4));
            let lines = read(Reader::new(&&archive[..], 0), true);
            let body = &"12345678"[..body];
            assert_eq!(lines[0], format!("0x0 {name} 100644 \"{body}\""));
            assert!(lines[1].ends_with(" z 100644 \"after\""), "{}", lines[1]);
        }
    }
    assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    assert_eq!(padding(u64::MAX), 1);
}

#[test]
fn zeros_are_allowed_between_members_and_archives() {
    let one = cpio_without_trailer(&[file("a", b"1")]);
    let two = cpio(&[file("b", b"2")]);
    gives(
        &join(&[&one, &[0; 8], &two, &[0; 1000], &one, &[0; 5]]),
        &[
            "0x0 a 100644 \"1\"",
            "0x7c b 100644 \"2\"",
            "trailer to 0x16c",
            "0x554 a 100644 \"1\"",
            "end at 0x5cd",
        ],
    );
}

#[test]
fn an_archive_ends_where_something_else_begins() {
    let one = cpio_without_trailer(&[file("a", b"1")]);
    let end = ["0x0 a 100644 \"1\"", "end at 0x78"];
    gives(&join(&[&one, &[0; 4], b"\x1f\x8b\x08"]), &end);
    gives(&join(&[&one, &[0; 4]]), &end);
    gives(&[], &["end at 0x0"]);
    gives(&[0; 9], &["end at 0x9"]);
}

#[test]
fn an_unaligned_header_starts_another_archive() {
    let one = cpio_without_trailer(&[file("a", b"1")]);
    gives(
        &join(&[&one, &[0; 2], &one]),
        &["0x0 a 100644 \"1\"", "end at 0x76"],
    );
}

#[test]
fn names_of_grub_have_no_nul() {
    let expected = [
        "0x0 etc 40777 \"\"",
        "0x74 etc/motd 100777 \"hello\\n\"",
        "trailer to 0x16c",
        "end at 0x16c",
    ];
    assert_eq!(GRUB_2_06.len(), 0x16c);
    gives(GRUB_2_06, &expected);
    let mut archive = Archive::new(Reader::new(&GRUB_2_06, 0));
    assert_eq!(archive.unterminated(), None);
    assert!(matches!(archive.next_member(), Ok(Next::Member(_))));
    assert_eq!(archive.unterminated(), Some(0));
    // Not names of GRUB: one that continues in its padding, and one with a NUL inside.
    for (at, byte) in [(113, b'x'), (111, 0)] {
        let mut odd = GRUB_2_06.to_vec();
        odd[at] = byte;
        gives(
            &odd,
            &["read cpio member at 0x0 of its archive: a name does not end with NUL"],
        );
    }
}

#[test]
fn the_padding_behind_the_last_body_may_be_missing_cut_short_or_anything() {
    let mut archive = cpio_without_trailer(&[file("a", b"1")]);
    archive.truncate(archive.len() - 3);
    for (padding, end) in [
        (&b""[..], 0x71),
        (b"\0", 0x72),
        (b"0", 0x72),
        (b"xx", 0x73),
        (b"xxx", 0x74),
    ] {
        gives(
            &join(&[&archive, padding]),
            &["0x0 a 100644 \"1\"", &format!("end at {end:#x}")],
        );
    }
}

#[test]
fn every_truncation_is_an_error_that_says_where() {
    let archive = cpio_without_trailer(&[file("a", b"1"), file("bcd", b"12345")]);
    let second = cpio_without_trailer(&[file("a", b"1")]).len();
    for length in second + 1..archive.len() - 3 {
        let lines = read(Reader::new(&&archive[..length], 0), false);
        let last = lines.last().unwrap();
        assert!(
            last.contains("the archive ends inside a header")
                || last.contains("the archive ends inside a member"),
            "{length:#x}: {last}"
        );
    }
}

#[test]
fn a_body_that_is_cut_short_fails_where_it_is_read() {
    let mut archive = cpio_without_trailer(&[file("a", b"0123456789")]);
    archive.truncate(archive.len() - 6);
    let archive = &archive[..];
    let mut archive = Archive::new(Reader::new(&archive, 0));
    assert!(matches!(archive.next_member(), Ok(Next::Member(_))));
    let error = archive.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn the_rest_of_a_half_read_body_is_skipped() {
    let archive = cpio(&[file("a", b"0123456789"), file("b", b"x")]);
    for taken in 0..=10 {
        let mut archive = Archive::new(BufReader::new(&archive[..]));
        assert!(matches!(archive.next_member(), Ok(Next::Member(_))));
        archive.read_exact(&mut vec![0; taken]).unwrap();
        match archive.next_member() {
            Ok(Next::Member(member)) => assert_eq!(member.name, b"b"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_trailer_is_recognised_by_name_except_for_links_and_skipped_members() {
    gives(
        &join(&[
            &cpio_without_trailer(&[
                entry("TRAILER!!!", 0o120777, b"target"),
                entry("TRAILER!!!", 0o040755, b"body"),
                file("TRAILER!!!x", b""),
                file("./TRAILER!!!", b""),
            ]),
            &cpio_without_trailer(&[file("TRAILER!!!", b"body"), dir("TRAILER!!!")]),
        ]),
        &[
            "0x0 TRAILER!!! 120777 \"target\"",
            "0x84 TRAILER!!! 40755 \"body\"",
            "0x104 TRAILER!!!x 100644 \"\"",
            "0x180 ./TRAILER!!! 100644 \"\"",
            "trailer to 0x27c",
            "trailer to 0x2f8",
            "end at 0x2f8",
        ],
    );
}

#[test]
fn paths_are_names_without_dots_and_needless_slashes() {
    for (name, path) in [
        ("a", "a"),
        ("/a//b/", "a/b"),
        ("./a/./b/.", "a/b"),
        (".", ""),
        ("/", ""),
        ("", ""),
        ("../a/../b", "../a/../b"),
        ("...", "..."),
    ] {
        assert_eq!(normalized(name.as_bytes()), path.as_bytes(), "{name:?}");
    }
}

#[test]
fn bodies_are_skipped_without_being_read() {
    /// A header, a name, and a body whose reads panic.
    struct Sparse(Vec<u8>);
    impl layerinit::bytes::ReadAt for Sparse {
        fn size(&self) -> u64 {
            self.0.len() as u64 + (1 << 30)
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
            let front = self.0[..].read_at(buf, offset)?;
            assert!(
                offset < 4096 || offset + 4096 >= self.size(),
                "read {offset:#x}, inside of the body"
            );
            match front {
                0 => {
                    let left = self.size().saturating_sub(offset);
                    let n = buf.len().min(left as usize);
                    buf[..n].fill(0);
                    Ok(n)
                }
                n => Ok(n),
            }
        }
    }
    let mut front = cpio_without_trailer(&[file("large", b"")]);
    front[54..62].copy_from_slice(b"40000000");
    let source = Sparse(front);
    let lines = read(Reader::new(&source, 0), false);
    assert_eq!(lines, ["0x0 large 100644", "end at 0x40000074"]);
}
