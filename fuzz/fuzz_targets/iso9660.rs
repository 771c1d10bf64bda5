//! Files of an ISO 9660 filesystem by path, and the command line in GRUB's menu. The input is what follows the 16
//! unused sectors.
#![no_main]

use layerinit::tool::image::iso9660;
use libfuzzer_sys::fuzz_target;

const SYSTEM_AREA: usize = 16 * 2048;

fuzz_target!(|data: &[u8]| {
    let mut image = vec![0; SYSTEM_AREA];
    image.extend(data);
    let mut longer = image.clone();
    longer.push(0);
    for path in ["boot/initrd.img", "live/deep/A-long-Name.cpio", "", ".", "boot/../boot"] {
        // More bytes after the filesystem change nothing.
        if let Ok(extent) = iso9660::find(&image.as_slice(), path) {
            assert_eq!(iso9660::find(&longer.as_slice(), path), Ok(extent));
        }
    }
    if let Some(words) = iso9660::command_line(&String::from_utf8_lossy(data)) {
        assert!(!words.contains('\n'));
    }
});
