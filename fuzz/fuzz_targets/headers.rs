//! Containers of an initrd: the section table of a PE file, the header of U-Boot.
#![no_main]

use layerinit::tool::image::{pe, uimage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut longer = data.to_vec();
    longer.push(0);
    // More bytes after the headers change nothing.
    if let Ok(Some(sections)) = pe::sections(data) {
        assert_eq!(pe::sections(&longer), Ok(Some(sections.clone())));
        for name in [".initrd", ".cmdline", ".ucode", ".profile", ""] {
            let found = pe::find(&sections, name);
            assert!(found.is_none_or(|section| sections.contains(section)));
        }
    }
    if let Ok(Some(ramdisk)) = uimage::ramdisk(data) {
        assert_eq!(uimage::ramdisk(&longer), Ok(Some(ramdisk)));
    }
});
