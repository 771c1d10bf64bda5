//! The lz4 decoder: the bytes of a stream, and where it ends.
#![no_main]

use layerinit::format::compress::Codec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| layerinit_fuzz::extent(Codec::Lz4, data));
