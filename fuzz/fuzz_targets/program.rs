//! The proof that the real init can be executed, as far as it reads the file: ELF or `#!`.
#![no_main]

use layerinit::format::elf::{Machines, interpreter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(needed)) = interpreter(&data, Machines::X86_64) {
        assert!(needed.len() <= data.len().saturating_mul(3));
    }
});
