//! Compressed archives: their formats, where a stream ends, and its plain bytes.
//!
//! The kernel unpacks an initramfs with lib/decompress.c: two bytes of magic select a decompressor, which
//! decodes one stream and reports how many bytes that took; unpack_to_rootfs() in init/initramfs.c then looks
//! at the bytes that follow. [`Codec::detect`] does the selection. [`Decoder`] yields the plain bytes of one
//! stream (a gzip member, a zstd frame, an xz stream, an LZ4 legacy archive), and [`Decoder::consumed`]
//! reports where it ended. The caller goes on from there.
//!
//! A stream may hold several cpio archives with zeros between them. An LZ4 legacy archive includes those that
//! follow it directly.
//!
//! The decoders accept all that the kernel accepts, and more:
//!
//! | format | the kernel (6.12) | here |
//! |---|---|---|
//! | gzip | no optional field but the name; ignores CRC and length | all fields; verifies header CRC, CRC and length |
//! | zstd | no skippable frame at the start of a stream | a skippable frame is a stream without content |
//! | xz | check none or CRC32; dictionary up to 3 GiB | verifies CRC64, too, and ignores other checks; dictionary up to [`WINDOW_MAX`] |
//! | LZ4 | fails where no chunk follows | the archive ends there, see [`Codec::Lz4`] |
//!
//! Memory does not depend on the size of the archive: [`Codec::memory`].
//!
//! To add a codec, write its decoder and a row of [`Codec`].

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

/// The largest zstd window or xz dictionary that a decoder accepts, in bytes: the limit of the kernel's zstd
/// (lib/zstd/decompress/zstd_decompress.c, `ZSTD_MAXWINDOWSIZE_DEFAULT`). `xz -9` needs half of it.
pub const WINDOW_MAX: u64 = (1 << 27) + 1;

/// Declares [`Codec`] and its decoders from rows. A decoder is a module with `Stream`, `kernel_refusal` and
/// `memory`, and the Cargo feature that links it.
macro_rules! codecs {
    ($($(#[$doc:meta])* $codec:ident {
        name: $name:literal, suffix: $suffix:literal, option: $option:literal,
        magic: [$($magic:expr),+]
        $(, decoder: $decoder:ident, feature: $feature:literal)?
    })*) => {
        /// A compression format that lib/decompress.c of the kernel knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Codec { $($(#[$doc])* $codec),* }

        /// `compressed_formats[]` of lib/decompress.c. The kernel compares two bytes; each decompressor then
        /// insists on the others.
        const MAGIC: &[(&[u8], Codec)] = &[$($(($magic, Codec::$codec)),+),*];

        impl Codec {
            /// All formats, in the order of their names.
            pub const ALL: &[Codec] = &[$(Codec::$codec),*];

            /// The kernel's name of the format, in lower case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$codec => $name),* }
            }

            /// The suffix of a file name, without a dot.
            pub fn suffix(self) -> &'static str {
                match self { $(Self::$codec => $suffix),* }
            }

            /// The suffix of the name of a cpio archive in this format, such as `cpio.gz`.
            pub fn archive_suffix(self) -> &'static str {
                match self { $(Self::$codec => concat!("cpio.", $suffix)),* }
            }

            /// The kernel option for an initramfs of this format, such as `CONFIG_RD_GZIP`.
            pub fn kernel_option(self) -> &'static str {
                match self { $(Self::$codec => concat!("CONFIG_", $option)),* }
            }

            /// Whether this build can decompress it.
            pub fn supported(self) -> bool {
                match self {
                    $($(Self::$codec => cfg!(feature = $feature),)?)*
                    #[allow(unreachable_patterns)] // where every format has a decoder
                    _ => false,
                }
            }

            /// Why the kernel refuses a stream that starts with these bytes, 8 of them if there are as many.
            /// `None`: nothing in them stops it, or this build cannot decompress the format.
            #[allow(unused_variables)] // without any decoder
            pub fn kernel_refusal(self, first: &[u8]) -> Option<&'static str> {
                match self {
                    $($(
                        #[cfg(feature = $feature)]
                        Self::$codec => $decoder::kernel_refusal(first),
                    )?)*
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }

            /// How much memory a decoder of this stream takes, in bytes, from its first 64 bytes; it may need
            /// half as much again while its window grows.
            #[allow(unused_variables)]
            pub fn memory(self, head: &[u8]) -> u64 {
                let declared = match self {
                    $($(
                        #[cfg(feature = $feature)]
                        Self::$codec => $decoder::memory(head),
                    )?)*
                    #[allow(unreachable_patterns)]
                    _ => None,
                };
                declared.unwrap_or(WINDOW_MAX).min(WINDOW_MAX)
            }
        }

        enum Engine {
            $($(
                #[cfg(feature = $feature)]
                $codec($decoder::Stream),
            )?)*
            Ended,
            Failed,
        }

        impl Engine {
            fn new(codec: Codec) -> io::Result<Engine> {
                let why = match codec {
                    $($(
                        #[cfg(feature = $feature)]
                        Codec::$codec => return Ok(Engine::$codec($decoder::Stream::new())),
                        #[cfg(not(feature = $feature))]
                        Codec::$codec => concat!("this build lacks the Cargo feature ", $feature),
                    )?)*
                    #[allow(unreachable_patterns)]
                    _ => "not supported; compress with gzip, lz4 -l, xz or zstd instead",
                };
                let text = format!("{codec}: {why}");
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }

            #[allow(unused_variables)]
            fn read<R: BufRead>(
                &mut self,
                input: &mut Input<R>,
                out: &mut [u8],
            ) -> Result<usize, input::StreamFault> {
                match self {
                    $($(
                        #[cfg(feature = $feature)]
                        Engine::$codec(stream) => stream.read(input, out),
                    )?)*
                    Engine::Ended => Ok(0),
                    Engine::Failed => Err("failed before".into()),
                }
            }
        }
    };
}

codecs! {
    /// `bzip2`: recognised, and refused by name.
    Bzip2 { name: "bzip2", suffix: "bz2", option: "RD_BZIP2", magic: [b"BZh"] }
    /// One gzip member (RFC 1952).
    Gzip {
        name: "gzip", suffix: "gz", option: "RD_GZIP", magic: [&[0x1f, 0x8b, 0x08], &[0x1f, 0x9e]],
        decoder: gzip, feature: "gzip"
    }
    /// The LZ4 legacy format of `lz4 -l`: a magic number, then chunks of up to 8 MiB, each after its
    /// compressed size.
    ///
    /// Nothing marks its end. It ends at a chunk size of zero (padding, not part of the archive), at the end
    /// of the input, and at four bytes that cannot be a chunk size, such as the magic number of what follows.
    /// The magic number of gzip can be one: it ends the archive if it is not followed by a valid chunk.
    Lz4 {
        name: "lz4", suffix: "lz4", option: "RD_LZ4", magic: [&[0x02, 0x21, 0x4c, 0x18]],
        decoder: lz4, feature: "lz4"
    }
    /// `lzma`, the predecessor of xz: recognised, and refused by name.
    Lzma { name: "lzma", suffix: "lzma", option: "RD_LZMA", magic: [&[0x5d, 0x00]] }
    /// `lzop`: recognised, and refused by name.
    Lzo {
        name: "lzo", suffix: "lzo", option: "RD_LZO",
        magic: [&[0x89, b'L', b'Z', b'O', 0x00, 0x0d, 0x0a, 0x1a, 0x0a]]
    }
    /// One xz stream: LZMA2 with at most one BCJ filter, as in lib/xz of the kernel.
    Xz {
        name: "xz", suffix: "xz", option: "RD_XZ", magic: [&[0xfd, b'7', b'z', b'X', b'Z', 0x00]],
        decoder: xz, feature: "xz"
    }
    /// One zstd frame, or one skippable frame (RFC 8878).
    Zstd {
        name: "zstd", suffix: "zst", option: "RD_ZSTD", magic: [&[0x28, 0xb5, 0x2f, 0xfd]],
        decoder: zstd, feature: "zstd"
    }
}

impl Codec {
    /// Recognises a format by the first bytes of a stream, at least two. All given bytes that the format
    /// fixes must match: with fewer bytes, the start of something else may pass for an archive, because an
    /// EROFS image can start with any bytes. Every format that the kernel can unpack is recognised.
    pub fn detect(first: &[u8]) -> Option<Codec> {
        if first.len() < 2 {
            return None;
        }
        if let Some(&[0x50..=0x5f, 0x2a, 0x4d, 0x18]) = first.first_chunk() {
            return Some(Codec::Zstd); // a skippable frame, as pzstd writes them
        }
        let matches = |magic: &[u8]| magic.iter().zip(first).all(|(a, b)| a == b);
        MAGIC
            .iter()
            .find(|(magic, _)| matches(magic))
            .map(|&(_, codec)| codec)
    }

    /// Decompresses the stream at the start of `input`, but not more than `max` plain bytes.
    ///
    /// # Errors
    /// The stream is damaged or truncated, or has more than `max` plain bytes.
    pub fn decompress(self, input: impl BufRead, max: u64) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Decoder::new(self, input)?
            .take(max)
            .read_to_end(&mut plain)?;
        Ok(plain)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The plain bytes of one compressed stream, and where it ends.
///
/// `read` returns 0 once the whole stream has been decoded and its checksums have been verified. The stream
/// may be the last thing in the input, and no byte after it is consumed, except for those of
/// [`Decoder::read_past`]: the input is a [`BufRead`], so a decoder can look ahead.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for a damaged, truncated or unsupported stream, with the format, the fault
/// and the number of compressed bytes before it; errors of the input unchanged. After an error every further
/// read fails.
pub struct Decoder<R: BufRead> {
    codec: Codec,
    engine: Engine,
    input: Input<R>,
}

impl<R: BufRead> Decoder<R> {
    /// A decoder for the stream that starts at the next byte of `input`. Reads nothing yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`], with the format, where [`Codec::supported`] is false.
    pub fn new(codec: Codec, input: R) -> io::Result<Self> {
        let engine = Engine::new(codec)?;
        Ok(Decoder {
            codec,
            engine,
            input: Input::new(input),
        })
    }

    /// The number of compressed bytes of this stream that have been decoded; its length once `read` has
    /// returned 0.
    pub fn consumed(&self) -> u64 {
        self.input.consumed()
    }

    /// The bytes after the end of the stream that were consumed all the same. Only LZ4 has any, because its
    /// end shows in what follows: up to four bytes, very rarely a chunk (see [`Codec::Lz4`]).
    pub fn read_past(&self) -> &[u8] {
        &self.input.past
    }

    /// Returns the input. After `read` has returned 0 its position is the end of the stream plus
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
        let result = self.engine.read(&mut self.input, out);
        // Frees the decoder at once, its window above all.
        match result {
            Ok(0) => self.engine = Engine::Ended,
            Err(_) => self.engine = Engine::Failed,
            Ok(_) => {}
        }
        result.map_err(|fault| self.input.explain(self.codec, fault))
    }
}
