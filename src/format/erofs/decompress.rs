//! The decoders of clusters.
//!
//! Source: fs/erofs/decompressor.c, decompressor_lzma.c, decompressor_deflate.c and
//! decompressor_zstd.c of Linux 7.2. Each fills its output exactly, or says why it cannot; a cluster
//! that is not `partial` must end where its output does.

#![cfg_attr(
    not(all(feature = "gzip", feature = "lz4", feature = "xz", feature = "zstd")),
    allow(unused, reason = "what only the missing decoders use")
)]

use super::{Algorithm, Cluster};
#[cfg(feature = "lz4")]
use crate::bytes::Cursor;
use crate::bytes::leading_zeros;

/// What is wrong with a cluster.
type Wrong = &'static str;

const LENGTH: Wrong = "it decompresses to another length";

/// Fills `plain` from the stored bytes of a cluster.
pub(super) fn decompress(cluster: &Cluster, packed: &[u8], plain: &mut [u8]) -> Result<(), Wrong> {
    match cluster.algorithm {
        Algorithm::Shifted => {
            let bytes = packed.get(..plain.len()).ok_or(LENGTH)?;
            plain.copy_from_slice(bytes);
            return Ok(());
        }
        Algorithm::Interlaced => return rotated(cluster.interlaced, packed, plain).ok_or(LENGTH),
        _ => {}
    }
    let margin = match cluster.zero_padding {
        true => Some(leading_zeros(packed)).filter(|zeros| *zeros < packed.len()),
        false => Some(0),
    };
    let packed = margin.and_then(|margin| packed.get(margin..));
    #[allow(unused_variables)] // without any codec
    let packed = packed.ok_or("it has nothing but zeros")?;
    match cluster.algorithm {
        #[cfg(feature = "lz4")]
        Algorithm::Lz4 if cluster.partial || !cluster.zero_padding => lz4_prefix(packed, plain),
        #[cfg(feature = "lz4")]
        Algorithm::Lz4 => match lz4_flex::block::decompress_into(packed, plain) {
            Ok(n) if n == plain.len() => Ok(()),
            Ok(_) | Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) => Err(LENGTH),
            Err(_) => Err("corrupt data"),
        },
        #[cfg(feature = "xz")]
        Algorithm::Lzma => lzma(packed, plain, cluster.partial),
        #[cfg(feature = "gzip")]
        Algorithm::Deflate => deflate(packed, plain, cluster.partial),
        #[cfg(feature = "zstd")]
        Algorithm::Zstd => zstd(packed, plain, cluster.partial),
        #[allow(unreachable_patterns)]
        _ => Err("this build has no decoder for it"),
    }
}

/// Uncompressed bytes, each at its own offset in a block. Those that do not fit before the end of the block are at
/// its start (z_erofs_transform_plain).
fn rotated((offset, block): (u32, u32), packed: &[u8], plain: &mut [u8]) -> Option<()> {
    let offset = usize::try_from(offset).ok()?;
    let block = usize::try_from(block).ok()?;
    if packed.len() > block {
        return None;
    }
    let right = block.checked_sub(offset)?.min(plain.len());
    let (first, second) = plain.split_at_mut_checked(right)?;
    first.copy_from_slice(packed.get(offset..offset.checked_add(right)?)?);
    second.copy_from_slice(packed.get(..second.len())?);
    Some(())
}

/// Decodes the first bytes of an LZ4 block that is longer, or that other data follows: lz4_flex decodes whole blocks
/// only.
#[cfg(feature = "lz4")]
fn lz4_prefix(packed: &[u8], plain: &mut [u8]) -> Result<(), Wrong> {
    const CORRUPT: Wrong = "corrupt data";
    fn length(cursor: &mut Cursor, nibble: u8) -> Option<usize> {
        let mut length = usize::from(nibble);
        if nibble == 15 {
            loop {
                let byte = cursor.u8()?;
                length = length.checked_add(byte.into())?;
                if byte != 255 {
                    break;
                }
            }
        }
        Some(length)
    }
    let mut cursor = Cursor::new(packed);
    let mut at = 0usize;
    while at < plain.len() {
        let token = cursor.u8().ok_or(LENGTH)?;
        let literals = length(&mut cursor, token >> 4).ok_or(CORRUPT)?;
        let rest = plain.get_mut(at..).unwrap_or_default();
        let n = literals.min(rest.len());
        let (to, rest) = rest.split_at_mut(n);
        to.copy_from_slice(cursor.take(n).ok_or(CORRUPT)?);
        at = at.saturating_add(n);
        if rest.is_empty() {
            break;
        }
        let offset = usize::from(cursor.le16().ok_or(LENGTH)?);
        let matched = length(&mut cursor, token & 15).ok_or(CORRUPT)?;
        let mut left = matched.saturating_add(4).min(rest.len());
        let start = at.checked_sub(offset).filter(|_| offset != 0);
        let start = start.ok_or(CORRUPT)?;
        // Source and destination may overlap: each round doubles the bytes that are there.
        while left > 0 {
            let n = left.min(at.saturating_sub(start));
            plain.copy_within(start..start.saturating_add(n), at);
            at = at.saturating_add(n);
            left = left.saturating_sub(n);
        }
    }
    Ok(())
}

/// MicroLZMA (lzma/container.h of xz): the first byte of the range coder, which is 0 otherwise, is the complement of
/// the properties. No dictionary larger than the decoded data is needed.
#[cfg(feature = "xz")]
fn lzma(packed: &[u8], plain: &mut [u8], partial: bool) -> Result<(), Wrong> {
    use lzma_rust2::{Action, LzmaStream};
    let (properties, packed) = packed.split_first().ok_or(LENGTH)?;
    let length = plain.len() as u64;
    // Of a partial cluster, neither the length is known nor where the last match ends.
    let declared = if partial { u64::MAX - 1 } else { length };
    let dictionary = u32::try_from(length).map_err(|_| LENGTH)?;
    let mut stream = LzmaStream::new_with_props(declared, !properties, dictionary, None)
        .map_err(|_| "unknown properties")?;
    let mut out = plain;
    for (mut bytes, action) in [
        (&[0][..], Action::Run),
        (packed, if partial { Action::Run } else { Action::Finish }),
        (&[], Action::Finish),
    ] {
        loop {
            let step = stream
                .process(bytes, out, action)
                .map_err(|_| "corrupt data")?;
            bytes = bytes.get(step.bytes_consumed..).unwrap_or_default();
            let rest = out.get_mut(step.bytes_produced..);
            out = rest.unwrap_or_default();
            if step.bytes_consumed == 0 && step.bytes_produced == 0 {
                break;
            }
        }
        if out.is_empty() {
            return Ok(());
        }
    }
    Err(LENGTH)
}

#[cfg(feature = "gzip")]
fn deflate(packed: &[u8], plain: &mut [u8], partial: bool) -> Result<(), Wrong> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
    let length = plain.len();
    let mut decoder = Box::<DecompressorOxide>::default();
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, written) = decompress(&mut decoder, packed, plain, 0, flags);
    match status {
        TINFLStatus::Done if written == length => Ok(()),
        TINFLStatus::HasMoreOutput if partial && written == length => Ok(()),
        TINFLStatus::Done | TINFLStatus::HasMoreOutput => Err(LENGTH),
        _ => Err("corrupt data"),
    }
}

#[cfg(feature = "zstd")]
fn zstd(mut packed: &[u8], plain: &mut [u8], partial: bool) -> Result<(), Wrong> {
    use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
    use std::io::Read;
    const CORRUPT: Wrong = "corrupt data";
    let mut frame = Box::new(FrameDecoder::new());
    // A frame in one segment has a window as long as its content.
    frame.set_max_window_size(super::PCLUSTER_MAX_DSIZE.into());
    frame
        .init(&mut packed)
        .map_err(|_| "malformed frame header")?;
    let mut rest = &mut *plain;
    loop {
        let n = frame.read(rest).map_err(|_| CORRUPT)?;
        rest = rest.get_mut(n..).unwrap_or_default();
        if frame.is_finished() || partial && rest.is_empty() {
            break;
        }
        if n == 0 || rest.is_empty() {
            frame
                .decode_blocks(&mut packed, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|_| CORRUPT)?;
            if rest.is_empty() && frame.can_collect() > 0 {
                return Err(LENGTH);
            }
        }
    }
    let n = frame.read(rest).map_err(|_| CORRUPT)?;
    if n < rest.len() || !partial && frame.can_collect() > 0 {
        return Err(LENGTH);
    }
    let stored = frame.get_checksum_from_data();
    if !partial && stored.is_some() && stored != frame.get_calculated_checksum() {
        return Err("checksum mismatch");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Packed;
    use super::*;

    fn cluster(algorithm: Algorithm, partial: bool) -> Cluster {
        Cluster {
            packed: Packed::Bytes(Vec::new()),
            at: 0,
            length: 0,
            algorithm,
            partial,
            zero_padding: true,
            interlaced: (5, 8),
        }
    }

    fn decoded(
        algorithm: Algorithm,
        partial: bool,
        packed: &[u8],
        length: usize,
    ) -> Result<String, Wrong> {
        let mut plain = vec![0; length];
        decompress(&cluster(algorithm, partial), packed, &mut plain)
            .map(|()| String::from_utf8(plain).unwrap())
    }

    #[test]
    fn uncompressed_bytes_lie_from_the_start_or_where_they_would_in_their_block() {
        assert_eq!(
            decoded(Algorithm::Shifted, false, b"abcdef", 4).unwrap(),
            "abcd"
        );
        assert_eq!(decoded(Algorithm::Shifted, false, b"abc", 4), Err(LENGTH));
        assert_eq!(
            decoded(Algorithm::Interlaced, false, b"defghabc", 8).unwrap(),
            "abcdefgh"
        );
        assert_eq!(
            decoded(Algorithm::Interlaced, false, b"defghabc", 2).unwrap(),
            "ab"
        );
        assert_eq!(
            decoded(Algorithm::Interlaced, false, b"defghabcx", 2),
            Err(LENGTH)
        );
    }

    #[cfg(feature = "lz4")]
    #[test]
    fn an_lz4_block_decodes_whole_and_in_part() {
        // Four letters, eight more of them, a last letter.
        let block = b"\0\0\x44abcd\x04\0\x10e";
        let (whole, part) = (false, true);
        assert_eq!(
            decoded(Algorithm::Lz4, whole, block, 13).unwrap(),
            "abcdabcdabcde"
        );
        for length in 0..=13 {
            let expected = "abcdabcdabcde"[..length].to_string();
            assert_eq!(decoded(Algorithm::Lz4, part, block, length), Ok(expected));
        }
        assert_eq!(decoded(Algorithm::Lz4, whole, block, 12), Err(LENGTH));
        assert_eq!(decoded(Algorithm::Lz4, whole, block, 14), Err(LENGTH));
        assert_eq!(decoded(Algorithm::Lz4, part, block, 14), Err(LENGTH));
        // Before the first byte.
        assert_eq!(
            decoded(Algorithm::Lz4, part, b"\x44abcd\x05\0", 8),
            Err("corrupt data")
        );
        assert_eq!(
            decoded(Algorithm::Lz4, part, b"\0\0", 8),
            Err("it has nothing but zeros")
        );
    }

    #[cfg(feature = "gzip")]
    #[test]
    fn a_deflate_stream_decodes_whole_and_in_part() {
        let stream = b"\xf3\x48\xcd\xc9\xc9\xd7\x51\x28\xcf\x2f\xca\x49\x51\xe4\x02\0";
        let plain = "Hello, world!\n";
        let decode = |partial, packed, length| decoded(Algorithm::Deflate, partial, packed, length);
        assert_eq!(decode(false, stream, 14).unwrap(), plain);
        for length in 1..=14 {
            assert_eq!(decode(true, stream, length).unwrap(), plain[..length]);
        }
        for (partial, length) in [(false, 13), (false, 15), (true, 15)] {
            assert_eq!(decode(partial, stream, length), Err(LENGTH));
        }
        for partial in [false, true] {
            assert_eq!(decode(partial, &stream[..9], 14), Err("corrupt data"));
            assert_eq!(decode(partial, b"\xff\xff", 14), Err("corrupt data"));
        }
    }
}
