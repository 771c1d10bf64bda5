//! The cpio decoder: members in order, bodies within bounds, headers that encode to the same bytes.
#![no_main]

use std::io::{BufReader, Read};

use layerinit::bytes::{Reader, Skip};
use layerinit::format::cpio::{Archive, HEADER_LEN, Next, PATH_MAX};
use libfuzzer_sys::fuzz_target;

/// The members of an archive. Reads bodies, or skips them.
fn members(
    input: impl Skip,
    data: &[u8],
    skip: impl Fn(u64) -> bool,
) -> (Vec<(u64, Vec<u8>)>, bool) {
    let mut archive = Archive::new(input);
    let mut found = Vec::new();
    let mut behind = 0;
    loop {
        match archive.next_member() {
            Ok(Next::Member(member)) => {
                assert!(member.offset >= behind && member.body > member.offset);
                assert_eq!(member.body, archive.position());
                assert!(member.name.len() < PATH_MAX as usize);
                assert!(!member.name.contains(&0));
                assert!(!member.path().starts_with(b"/"));
                let start = usize::try_from(member.offset).expect("an offset in the data");
                let header = &data[start..][..HEADER_LEN];
                assert!(
                    member
                        .header
                        .encode()
                        .as_bytes()
                        .eq_ignore_ascii_case(header)
                );
                behind = member.body + u64::from(member.header.filesize);
                found.push((member.offset, member.name));
                if !skip(member.offset) {
                    let mut body = Vec::new();
                    match archive.read_to_end(&mut body) {
                        Ok(n) => assert_eq!(n as u64, u64::from(member.header.filesize)),
                        Err(_) => return (found, false),
                    }
                    assert_eq!(archive.position(), behind);
                }
            }
            Ok(Next::Trailer) => {}
            Ok(Next::End) => return (found, true),
            Err(_) => return (found, false),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let read = members(Reader::new(&data, 0), data, |_| false);
    let skipped = members(Reader::new(&data, 0), data, |_| true);
    assert_eq!(read, skipped, "read or skipped");
    let streamed = members(BufReader::with_capacity(7, data), data, |offset| {
        offset % 8 == 0
    });
    assert_eq!(read, streamed, "seekable or not");
});
