//! Code that several targets share.

use std::io::{self, BufReader, Read};

use layerinit::format::compress::{Codec, Decoder};

/// The most plain bytes of a stream that a target reads.
pub const OUTPUT_MAX: u64 = 32 << 20;

/// The result of decoding one stream: length and hash of its plain bytes, and where it ended or failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    pub length: u64,
    pub sum: u64,
    pub consumed: u64,
    /// Whether it ended within [`OUTPUT_MAX`], or failed.
    pub ended: Option<bool>,
}

/// Decodes the stream at the start of `data`, which the decoder gets in pieces of `window` bytes.
pub fn decode(codec: Codec, data: &[u8], window: usize) -> Decoded {
    let input = BufReader::with_capacity(window, data);
    let mut decoder = Decoder::new(codec, input).expect("every codec is in this build");
    let mut buffer = vec![0; 64 << 10];
    let mut decoded = Decoded {
        length: 0,
        sum: 0,
        consumed: 0,
        ended: None,
    };
    while decoded.length < OUTPUT_MAX {
        match decoder.read(&mut buffer) {
            Ok(0) => {
                decoded.ended = Some(true);
                assert_eq!(decoder.read(&mut buffer).expect("it has ended"), 0);
                break;
            }
            Ok(n) => {
                decoded.length += n as u64;
                for byte in &buffer[..n] {
                    decoded.sum = decoded.sum.wrapping_mul(31).wrapping_add((*byte).into());
                }
            }
            Err(error) => {
                let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::Unsupported];
                assert!(kinds.contains(&error.kind()), "{error}");
                decoded.ended = Some(false);
                decoder.read(&mut buffer).expect_err("it has failed");
                break;
            }
        }
    }
    decoded.consumed = decoder.consumed();
    assert!(decoded.consumed <= data.len() as u64);
    decoded
}

/// Checks a decoder: no panic, no hang, no unbounded memory. The end that it finds depends neither on the
/// size of the pieces nor on the bytes after it.
pub fn extent(codec: Codec, data: &[u8]) {
    let whole = decode(codec, data, 8192);
    if whole.length > 1 << 20 {
        return;
    }
    let mut by_byte = decode(codec, data, 1);
    if whole.ended == Some(false) {
        // How far it got, and what it gave before, may differ.
        assert_eq!(by_byte.ended, Some(false), "{codec} in single bytes");
        return;
    }
    assert_eq!(by_byte, whole, "{codec} in single bytes");
    let end = usize::try_from(whole.consumed).expect("an end inside of the data");
    by_byte = decode(codec, &data[..end], 8192);
    assert_eq!(by_byte, whole, "{codec} without what stands behind it");
}
