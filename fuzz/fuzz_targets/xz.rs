//! The end of a xz stream, and its bytes.
#![no_main]

use layerinit::format::compress::Codec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| layerinit_fuzz::extent(Codec::Xz, data));
