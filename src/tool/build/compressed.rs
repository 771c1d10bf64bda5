//! Compression of archives, in forms that the kernel and [`crate::format::compress`] can read.
//!
//! This module writes gzip and LZ4. For zstd and xz it runs their programs, which compress better than any
//! library in this build, with options that lib/decompress_unzstd.c and lib/decompress_unxz.c of the kernel
//! support: a window of 8 MiB, and only CRC32 checksums for xz.

use std::io::{self, Read, Write};
use std::process::Command;

use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
};

use crate::bytes::fill;
use crate::format::checksum::Crc;
use crate::format::compress::Codec;

/// The chunk size of `lz4 -l`, which is the kernel's limit (lib/decompress_unlz4.c), in bytes.
const LZ4_CHUNK: usize = 8 << 20;

/// Compresses `input` to `out` with gzip or LZ4.
///
/// # Errors
/// `Unsupported` for other codecs, see [`program`].
pub fn write(codec: Codec, input: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    match codec {
        Codec::Gzip => gzip(input, out),
        Codec::Lz4 => lz4(input, out),
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the tool does not write {other} itself"),
        )),
    }
}

/// The program that compresses standard input to standard output, and its Debian package; `None` for the codecs of
/// [`write()`].
pub fn program(codec: Codec) -> Option<(Command, &'static str)> {
    let (name, arguments, package): (_, &[&str], _) = match codec {
        Codec::Zstd => ("zstd", &["-q", "-c", "-19", "-T1"], "zstd"),
        Codec::Xz => (
            "xz",
            &["-q", "-c", "-6", "-T1", "--format=xz", "--check=crc32"],
            "xz-utils",
        ),
        _ => return None,
    };
    let mut command = Command::new(name);
    command.args(arguments);
    for variable in ["XZ_DEFAULTS", "XZ_OPT", "ZSTD_CLEVEL", "ZSTD_NBTHREADS"] {
        command.env_remove(variable);
    }
    Some((command, package))
}

/// RFC 1952: one member, without name and time.
fn gzip(input: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    /// XFL: best compression; OS: Unix.
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];
    out.write_all(&HEADER)?;
    // Level 9, raw, default strategy.
    let mut compressor = CompressorOxide::new(create_comp_flags_from_zip_params(9, 0, 0));
    let mut sum = Crc::crc32();
    let mut length = 0u32;
    let mut plain = vec![0; 1 << 16];
    let mut packed = vec![0; 1 << 16];
    loop {
        let n = fill(input, &mut plain)?;
        let mut rest = plain.get(..n).unwrap_or_default();
        sum.update(rest);
        length = length.wrapping_add(u32::try_from(n).unwrap_or(0));
        let flush = match n < plain.len() {
            true => TDEFLFlush::Finish,
            false => TDEFLFlush::None,
        };
        loop {
            let (status, read, written) = compress(&mut compressor, rest, &mut packed, flush);
            rest = rest.get(read..).unwrap_or_default();
            out.write_all(packed.get(..written).unwrap_or_default())?;
            match status {
                TDEFLStatus::Done => {
                    let sum = u32::try_from(sum.sum()).unwrap_or(0);
                    out.write_all(&sum.to_le_bytes())?;
                    return out.write_all(&length.to_le_bytes());
                }
                TDEFLStatus::Okay if rest.is_empty() && flush == TDEFLFlush::None => break,
                TDEFLStatus::Okay => {}
                other => return Err(io::Error::other(format!("deflate: {other:?}"))),
            }
        }
    }
}

/// The legacy format, and four zero bytes: without them the kernel reads the next bytes as another chunk.
fn lz4(input: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0x02, 0x21, 0x4c, 0x18])?;
    let mut plain = vec![0; LZ4_CHUNK];
    loop {
        let n = fill(input, &mut plain)?;
        if n > 0 {
            let packed = lz4_flex::block::compress(plain.get(..n).unwrap_or_default());
            let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(&packed)?;
        }
        if n < plain.len() {
            return out.write_all(&[0; 4]);
        }
    }
}
