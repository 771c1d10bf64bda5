//! The proof that the real init can be executed, as far as it reads the file: ELF or `#!`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(interpreter)) = layerinit::proof::interpreter(&data, &[3, 62]) {
        assert!(interpreter.len() <= data.len().saturating_mul(3));
    }
});
