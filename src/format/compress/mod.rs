//! Compressed archives: where one ends, and its bytes.
//!
//! The kernel unpacks an initramfs with lib/decompress.c: two bytes of magic choose a
//! decompressor, which takes one stream and says how many bytes it used; whatever stands there is
//! looked at next (init/initramfs.c, `unpack_to_rootfs`). [`Codec::detect`] is the first half of
//! that, [`Decoder`] the second: it yields the plain bytes of one stream (a gzip member, a zstd
//! frame, an xz stream, an LZ4 legacy archive), and [`Decoder::consumed`] says where it ended.
//!
//! Several streams in a row, zero padding between them, and what the plain bytes mean are the
//! caller's business: continue at the old offset plus `consumed()`. One stream may hold several
//! cpio archives with zeros between them, and an LZ4 legacy archive takes in those that follow it
//! directly.
//!
//! Where this differs from the kernel, it accepts more, never less:
//!
//! | format | the kernel (6.12) | here |
//! |---|---|---|
//! | gzip | knows no optional field but the name, ignores CRC and length | all fields; header CRC, CRC and length are verified |
//! | zstd | no skippable frame at the start of a stream | a skippable frame is a stream without content |
//! | xz | checks none and CRC32, any dictionary up to 3 GiB | CRC64 is verified too, other checks are skipped unverified; dictionary up to [`WINDOW_MAX`] |
//! | LZ4 | fails when no chunk follows | the archive ends there, see [`Codec::Lz4`] |
//!
//! Memory does not depend on the size of an archive. Each decoder holds its window and the block
//! it is working on: 42 KiB for gzip, 16 MiB for LZ4; for zstd and xz as much of the declared
//! window as there is data for, half as much again while it grows. A window above [`WINDOW_MAX`]
//! is refused.

mod input;

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "xz")]
mod xz;
#[cfg(feature = "zstd")]
mod zstd;

use input::Input;

use std::fmt;
use std::io::{self, BufRead, Read};

/// The largest zstd window or xz dictionary that is accepted, in bytes: what the kernel's zstd
/// takes (lib/zstd/decompress/zstd_decompress.c, `ZSTD_MAXWINDOWSIZE_DEFAULT`). `xz -9` needs half.
pub const WINDOW_MAX: u64 = (1 << 27) + 1;

/// A compression format as lib/decompress.c of the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// `bzip2`: recognised, refused by name.
    Bzip2,
    /// One gzip member (RFC 1952).
    Gzip,
    /// The LZ4 legacy format of `lz4 -l`: a magic number, then chunks of up to 8 MiB, each with its
    /// compressed size before it.
    ///
    /// Nothing marks its end. It ends at a chunk size of zero (padding, not part of the archive),
    /// at the end of the input, and at four bytes that can't be a chunk size, such as the magic of
    /// what follows. gzip's magic can be one: it ends the archive if no chunk can be read there.
    Lz4,
    /// `lzma`, the format before xz: recognised, refused by name.
    Lzma,
    /// `lzop`: recognised, refused by name.
    Lzo,
    /// One xz stream: LZMA2 with at most one BCJ filter, as lib/xz of the kernel.
    Xz,
    /// One zstd frame, or one skippable frame (RFC 8878).
    Zstd,
}

/// `compressed_formats[]` of lib/decompress.c. The kernel compares two bytes and leaves the rest
/// to the decompressor; the further bytes are the ones that each decompressor insists on.
const MAGIC: [(&[u8], Codec); 8] = [
    (&[0x1f, 0x8b, 0x08], Codec::Gzip),
    (&[0x1f, 0x9e], Codec::Gzip),
    (b"BZh", Codec::Bzip2),
    (&[0x5d, 0x00], Codec::Lzma),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], Codec::Xz),
    (
        &[0x89, b'L', b'Z', b'O', 0x00, 0x0d, 0x0a, 0x1a, 0x0a],
        Codec::Lzo,
    ),
    (&[0x02, 0x21, 0x4c, 0x18], Codec::Lz4),
    (&[0x28, 0xb5, 0x2f, 0xfd], Codec::Zstd),
];

impl Codec {
    /// All formats, in the order of their names.
    pub const ALL: [Codec; 7] = [
        Codec::Bzip2,
        Codec::Gzip,
        Codec::Lz4,
        Codec::Lzma,
        Codec::Lzo,
        Codec::Xz,
        Codec::Zstd,
    ];

    /// Recognises a format by the first bytes of a stream. At least two are needed; of those given
    /// beyond, as many as the format fixes must agree, so that fewer bytes of something else (an
    /// EROFS image may start with anything) are taken for an archive. Whatever the kernel could
    /// unpack is recognised.
    pub fn detect(first: &[u8]) -> Option<Codec> {
        if first.len() < 2 {
            return None;
        }
        if let Some(&[0x50..=0x5f, 0x2a, 0x4d, 0x18]) = first.first_chunk() {
            return Some(Codec::Zstd); // a skippable frame, as pzstd writes them
        }
        let agrees = |magic: &[u8]| magic.iter().zip(first).all(|(a, b)| a == b);
        MAGIC
            .iter()
            .find(|(magic, _)| agrees(magic))
            .map(|&(_, codec)| codec)
    }

    /// Why the kernel's decoder does not take a stream that starts with these bytes, 8 of them if there
    /// are as many, where [`Decoder`] may. `None`: nothing there is against it.
    pub fn refused_by_kernel(self, first: &[u8]) -> Option<&'static str> {
        /// Bits of a gzip header's flags (RFC 1952).
        const FHCRC: u8 = 1 << 1;
        const FEXTRA: u8 = 1 << 2;
        const FCOMMENT: u8 = 1 << 4;
        match (self, first) {
            // lib/decompress_inflate.c passes over a file name, and takes all else for data.
            (Codec::Gzip, [_, _, _, flags, ..]) if flags & (FHCRC | FEXTRA | FCOMMENT) != 0 => {
                Some("its gzip header has more than a file name (gzip -n writes none)")
            }
            // lib/xz/xz_dec_stream.c: XZ_CHECK_NONE and XZ_CHECK_CRC32.
            (Codec::Xz, [_, _, _, _, _, _, _, check, ..]) if *check > 1 => {
                Some("its check is not CRC32 (xz --check=crc32)")
            }
            // lib/decompress.c knows the magic number of a frame with data.
            (Codec::Zstd, [magic, ..]) if *magic != 0x28 => {
                Some("it starts with a skippable frame (pzstd writes these, zstd does not)")
            }
            _ => None,
        }
    }

    /// The kernel's name of the format, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Bzip2 => "bzip2",
            Codec::Gzip => "gzip",
            Codec::Lz4 => "lz4",
            Codec::Lzma => "lzma",
            Codec::Lzo => "lzo",
            Codec::Xz => "xz",
            Codec::Zstd => "zstd",
        }
    }

    /// All that `input` holds, decompressed; of more than `max` bytes, the first.
    pub fn decompress(self, input: impl BufRead, max: u64) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Decoder::new(self, input)?
            .take(max)
            .read_to_end(&mut plain)?;
        Ok(plain)
    }

    /// Whether this build can decompress it: a cargo feature for each of gzip, lz4, xz and zstd;
    /// never bzip2, lzma and lzo.
    pub fn supported(self) -> bool {
        match self {
            Codec::Bzip2 | Codec::Lzma | Codec::Lzo => false,
            Codec::Gzip => cfg!(feature = "gzip"),
            Codec::Lz4 => cfg!(feature = "lz4"),
            Codec::Xz => cfg!(feature = "xz"),
            Codec::Zstd => cfg!(feature = "zstd"),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The plain bytes of one compressed stream, and where it ends.
///
/// `read` returns 0 once the whole stream has been decoded and its checksums hold. Nothing after
/// the end needs to be there, and nothing after it is taken from the input, but for what
/// [`Decoder::read_past`] returns. The input is buffered ([`BufRead`]) because only then can a
/// decoder look at bytes without taking them.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with the format, what is wrong and how many compressed bytes
/// were used until then, for a damaged, cut off or refused stream; the input's own errors as they
/// are. After an error every further read fails.
pub struct Decoder<R: BufRead> {
    codec: Codec,
    engine: Engine,
    input: Input<R>,
}

enum Engine {
    #[cfg(feature = "gzip")]
    Gzip(gzip::Stream),
    #[cfg(feature = "lz4")]
    Lz4(lz4::Stream),
    #[cfg(feature = "xz")]
    Xz(xz::Stream),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Stream),
    Ended,
    Failed,
}

impl Engine {
    fn new(codec: Codec) -> io::Result<Engine> {
        let why = match codec {
            #[cfg(feature = "gzip")]
            Codec::Gzip => return Ok(Engine::Gzip(gzip::Stream::new())),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => return Ok(Engine::Lz4(lz4::Stream::new())),
            #[cfg(feature = "xz")]
            Codec::Xz => return Ok(Engine::Xz(xz::Stream::new())),
            #[cfg(feature = "zstd")]
            Codec::Zstd => return Ok(Engine::Zstd(zstd::Stream::new())),
            Codec::Bzip2 | Codec::Lzma | Codec::Lzo => {
                "not supported; compress with gzip, lz4 -l, xz or zstd instead"
            }
            #[allow(unreachable_patterns)] // reached where a feature is off
            _ => "left out of this build (cargo feature)",
        };
        let text = format!("{codec}: {why}");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

impl<R: BufRead> Decoder<R> {
    /// A decoder for the stream that starts at the input's next byte. Nothing is read yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`], naming the format, where [`Codec::supported`] is false.
    pub fn new(codec: Codec, input: R) -> io::Result<Self> {
        let engine = Engine::new(codec)?;
        Ok(Decoder {
            codec,
            engine,
            input: Input::new(input),
        })
    }

    /// Compressed bytes that belong to this stream, of those read so far; its length once `read`
    /// has returned 0. After an error: how far the decoder got.
    pub fn consumed(&self) -> u64 {
        self.input.consumed()
    }

    /// Bytes after the end of the stream that were taken from the input all the same: none, but
    /// for LZ4, whose end shows only in what follows. Up to four bytes there (once in a very long
    /// while a chunk, see [`Codec::Lz4`]).
    pub fn read_past(&self) -> &[u8] {
        &self.input.past
    }

    /// Gives the input back. After `read` has returned 0 it stands at the end of the stream plus
    /// [`Decoder::read_past`].
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let result = match &mut self.engine {
            #[cfg(feature = "gzip")]
            Engine::Gzip(stream) => stream.read(&mut self.input, out),
            #[cfg(feature = "lz4")]
            Engine::Lz4(stream) => stream.read(&mut self.input, out),
            #[cfg(feature = "xz")]
            Engine::Xz(stream) => stream.read(&mut self.input, out),
            #[cfg(feature = "zstd")]
            Engine::Zstd(stream) => stream.read(&mut self.input, out),
            Engine::Ended => Ok(0),
            Engine::Failed => Err("failed before".into()),
        };
        // What an ended stream held, its window above all, is given back at once.
        match result {
            Ok(0) => self.engine = Engine::Ended,
            Err(_) => self.engine = Engine::Failed,
            Ok(_) => {}
        }
        result.map_err(|fault| self.input.explain(self.codec, fault))
    }
}
