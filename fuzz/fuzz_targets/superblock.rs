//! An EROFS superblock, at the start and after other bytes.
#![no_main]

use layerinit::format::erofs::Superblock;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for offset in [0, 1, 512, 1024, u64::MAX - 1024, u64::MAX] {
        if let Ok(Some(superblock)) = Superblock::read(&data, offset) {
            assert!(superblock.block_size().is_power_of_two());
            let _ = superblock.length();
            let _ = superblock.label();
            let _ = superblock.uuid();
            let _ = superblock.features();
            let _ = superblock.unknown_incompat();
            let _ = superblock.algorithms();
            let _ = superblock.checksum.to_string();
        }
    }
});
