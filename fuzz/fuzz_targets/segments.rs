//! The walk over an initrd with all codecs: segments without gaps, and archives that can be opened again and
//! have as many members as the walk counted.
#![no_main]

use layerinit::format::cpio::Next;
use layerinit::initrd::{Kind, open_archive, walk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let found = walk(&data, b"/init");
    let mut end = 0;
    for segment in &found.segments {
        assert!(
            segment.offset == end || matches!(segment.kind, Kind::Bootconfig { .. }),
            "a gap before {segment}"
        );
        assert!(segment.length > 0, "{segment}");
        end = segment.offset.checked_add(segment.length).expect("an end");
        assert!(end <= data.len() as u64, "{segment}");
        let Kind::Cpio(cpio) = &segment.kind else {
            continue;
        };
        let archive = open_archive(&data, segment.offset, segment.length, cpio.codec);
        let mut archive = archive.expect("it was open before");
        let mut members = 0;
        loop {
            match archive.next_member().expect("it was read before") {
                Next::Member(_) => members += 1,
                Next::Trailer => {}
                Next::End => break,
            }
        }
        assert_eq!(members, cpio.members, "{segment}");
    }
    match &found.trouble {
        Some(error) => assert!(!error.to_string().is_empty()),
        None => assert_eq!(end, data.len() as u64),
    }
});
