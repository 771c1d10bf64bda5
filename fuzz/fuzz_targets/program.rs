//! Programs: ELF files and `#!` scripts.
#![no_main]

use layerinit::format::elf::{Machines, interpreter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(needed)) = interpreter(&data, Machines::X86_64) {
        assert!(needed.len() <= data.len().saturating_mul(3));
    }
});
