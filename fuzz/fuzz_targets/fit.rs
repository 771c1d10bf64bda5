//! The ramdisk of a FIT image.
#![no_main]

use layerinit::tool::image::fit;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut longer = data.to_vec();
    longer.push(0);
    // More bytes after the image change nothing.
    if let Ok(ramdisk) = fit::ramdisk(&data) {
        assert!(fit::is_fit(data));
        assert_eq!(fit::ramdisk(&longer.as_slice()), Ok(ramdisk));
    }
});
