//! Compressed archives: their bytes, their ends, and hostile streams. The streams are made by the real tools
//! (gzip, zstd, xz, lz4), which must be installed.

use allocation_counter::measure;
use layerinit::format::compress::{Codec, Decoder, WINDOW_MAX};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

// ---- counting memory ------------------------------------------------------------------------

/// Returns the peak heap of `work` in its own thread, in bytes, and its result.
fn peak_of<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let mut result = None;
    let counted = measure(|| result = Some(work()));
    (counted.bytes_max, result.expect("work has run"))
}

// ---- making and reading streams -------------------------------------------------------------

/// The output of a tool for the input `plain`.
fn made_by(command: &str, plain: &[u8]) -> Vec<u8> {
    let mut words = command.split_whitespace();
    let tool = words.next().expect("a command");
    let mut child = Command::new(tool)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{tool}` is needed for this test: install it ({error})"));
    let mut stdin = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(plain).expect("the tool reads its input"));
        let output = child.wait_with_output().expect("the tool ends");
        assert!(
            output.status.success(),
            "`{command}` failed: {}",
            output.status
        );
        output.stdout
    })
}

/// A deterministic generator: xorshift64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// Data like that of a filesystem: text with near and far repetitions, noise, x86 calls and zeros.
fn sample(len: usize) -> Vec<u8> {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut plain = Vec::with_capacity(len + 4096);
    while plain.len() < len {
        match noise.next() % 5 {
            0 => plain.extend(noise.bytes(300)),
            1 => plain.resize(plain.len() + 700, 0),
            2 => {
                for _ in 0..80 {
                    plain.extend([0xe8, noise.next() as u8, 0, 0, 0, 0x90]);
                }
            }
            3 if plain.len() > 2000 => {
                let from = noise.next() as usize % (plain.len() - 1000);
                plain.extend_from_within(from..from + 1000);
            }
            _ => plain.extend(format!("lib/modules/{:x}.ko: dep\n", noise.next() % 999).bytes()),
        }
    }
    plain.truncate(len);
    plain
}

/// Returns the plain bytes and the length of the stream at the start of `input`.
fn decode(codec: Codec, input: impl BufRead) -> io::Result<(Vec<u8>, u64)> {
    let mut decoder = Decoder::new(codec, input)?;
    let mut plain = Vec::new();
    decoder.read_to_end(&mut plain)?;
    Ok((plain, decoder.consumed()))
}

/// Like `decode`, in reads of `step` bytes.
fn decode_in_steps(codec: Codec, input: &[u8], step: usize) -> io::Result<(Vec<u8>, u64)> {
    decode(codec, BufReader::with_capacity(step, input))
}

/// Data that can follow an archive.
fn followers() -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut boot_sector = noise.bytes(1024);
    boot_sector[..4].copy_from_slice(&[0xeb, 0x58, 0x90, 0xff]); // no LZ4 chunk is this long
    vec![
        ("nothing", vec![]),
        ("a zero byte", vec![0]),
        ("two zeros", vec![0; 2]),
        ("three zeros", vec![0; 3]),
        ("zeros", vec![0; 4096]),
        (
            "zeros and a cpio",
            [&[0; 3][..], b"070701", &[b'0'; 200]].concat(),
        ),
        ("a cpio", [&b"070701"[..], &[b'0'; 200]].concat()),
        ("an EROFS image with a boot sector", boot_sector),
        ("a gzip member", made_by("gzip -n", b"after")),
        ("a zstd frame", made_by("zstd -q", b"after")),
        ("an xz stream", made_by("xz --check=crc32", b"after")),
        ("all ones", vec![0xff; 100]),
    ]
}

/// Expects that the stream decodes to `plain`, and that its end is found for every follower and every size of
/// the input buffer.
fn ends_exactly(what: &str, codec: Codec, stream: &[u8], plain: &[u8]) {
    assert_eq!(Codec::detect(stream), Some(codec), "{what}");
    for (name, after) in followers() {
        let input = [stream, &after].concat();
        for step in [usize::MAX, 1, 7, 4096] {
            // Small steps are slow: long streams use them with two followers only, the longest streams never.
            let slow = step != usize::MAX && plain.len() > 100_000;
            if slow && (!["nothing", "zeros"].contains(&name) || plain.len() > 1 << 20) {
                continue;
            }
            let mut rest = input.as_slice();
            let mut buffered;
            let input: &mut dyn BufRead = match step {
                usize::MAX => &mut rest,
                _ => {
                    buffered = BufReader::with_capacity(step, rest);
                    &mut buffered
                }
            };
            let mut decoder = Decoder::new(codec, input).expect("the codec is compiled in");
            let mut got = Vec::new();
            let result = decoder.read_to_end(&mut got);
            let case = format!("{what}, then {name}, {step} at a time");
            result.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert!(got == plain, "{case}: other bytes");
            assert_eq!(decoder.consumed(), stream.len() as u64, "{case}: consumed");
            assert_eq!(
                decoder.read(&mut [0; 9]).expect("the end stays the end"),
                0,
                "{case}"
            );

            // The rest of the input begins directly after the stream.
            let mut left = decoder.read_past().to_vec();
            assert!(
                codec == Codec::Lz4 || left.is_empty(),
                "{case}: read past the end"
            );
            decoder
                .into_inner()
                .read_to_end(&mut left)
                .expect("reading from memory");
            assert!(left == after, "{case}: the rest");
        }
    }
}

fn message(result: io::Result<(Vec<u8>, u64)>) -> String {
    let error = result.expect_err("an error");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    error.to_string()
}

const HELLO: &[u8] = b"Hello, world!\n";

/// Small streams, each with its plain bytes.
#[rustfmt::skip]
const SMALL: [(Codec, &[u8], &[u8]); 9] = [
    (Codec::Gzip, &[
        0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0x03, // deflate, no name, no time, Unix
        0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0xd7, 0x51, 0x28, 0xcf, 0x2f, 0xca, 0x49, 0x51, 0xe4, 0x02, 0,
        0x18, 0xa7, 0x55, 0x7b, // CRC32
        0x0e, 0, 0, 0, // length
    ], HELLO),
    (Codec::Gzip, &[
        0x1f, 0x8b, 0x08, 0x1f, 1, 2, 3, 4, 0, 0x03, // every flag, some time
        4, 0, b'a', b'b', 0, b'c', // extra field
        b'n', b'a', b'm', b'e', 0,
        b'n', b'o', b't', b'e', 0,
        0x03, 0x03, // CRC16 of the header
        0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0xd7, 0x51, 0x28, 0xcf, 0x2f, 0xca, 0x49, 0x51, 0xe4, 0x02, 0,
        0x18, 0xa7, 0x55, 0x7b,
        0x0e, 0, 0, 0,
    ], HELLO),
    (Codec::Lz4, &[
        0x02, 0x21, 0x4c, 0x18, // magic
        0x0f, 0, 0, 0, // chunk size
        0xe0, // 14 literals
        b'H', b'e', b'l', b'l', b'o', b',', b' ', b'w', b'o', b'r', b'l', b'd', b'!', b'\n',
    ], HELLO),
    (Codec::Lz4, &[0x02, 0x21, 0x4c, 0x18], b""),
    (Codec::Zstd, &[
        0x28, 0xb5, 0x2f, 0xfd, // magic
        0x24, 0x0e, // single segment, checksum; length
        0x71, 0, 0, // last block, raw, 14 bytes
        b'H', b'e', b'l', b'l', b'o', b',', b' ', b'w', b'o', b'r', b'l', b'd', b'!', b'\n',
        0x57, 0xe5, 0x34, 0x85, // XXH64, its low half
    ], HELLO),
    (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0x43, 0, 0, b'z'], b"zzzzzzzz"), // RLE, no checksum
    (Codec::Zstd, &[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], b""), // skippable
    (Codec::Xz, &[
        0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0x01, 0x69, 0x22, 0xde, 0x36, // CRC32
        0x02, 0, 0x21, 0x01, 0x16, 0, 0, 0, 0x74, 0x2f, 0xe5, 0xa3, // LZMA2, 8 MiB dictionary
        0x01, 0, 0x0d, // uncompressed chunk of 14 bytes
        b'H', b'e', b'l', b'l', b'o', b',', b' ', b'w', b'o', b'r', b'l', b'd', b'!', b'\n',
        0, 0, 0, // end of the data, padding
        0x18, 0xa7, 0x55, 0x7b,
        0, 0x01, 0x22, 0x0e, 0x0c, 0xde, 0x8c, 0x60, // index: one block, 34 bytes, 14 plain
        0x90, 0x42, 0x99, 0x0d, 0x01, 0, 0, 0, 0, 0x01, b'Y', b'Z',
    ], HELLO),
    (Codec::Xz, &[
        0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0, 0xff, 0x12, 0xd9, 0x41, // no check
        0, 0, 0, 0, 0x1c, 0xdf, 0x44, 0x21, // index of no block
        0x06, 0x72, 0x9e, 0x7a, 0x01, 0, 0, 0, 0, 0, b'Y', b'Z',
    ], b""),
];

// ---- streams and their ends -----------------------------------------------------------------

#[test]
fn literal_streams_decode_and_end_exactly() {
    for (index, (codec, stream, plain)) in SMALL.iter().enumerate() {
        ends_exactly(&format!("small stream {index}"), *codec, stream, plain);
    }
}

fn tool_streams(codec: Codec, commands: &[&str]) {
    for len in [0, 1, 5000, 150_000] {
        let plain = sample(len);
        for command in commands {
            let what = format!("{len} bytes by `{command}`");
            ends_exactly(&what, codec, &made_by(command, &plain), &plain);
        }
    }
}

#[test]
fn gzip_streams_of_every_level_end_exactly() {
    tool_streams(
        Codec::Gzip,
        &["gzip -n", "gzip -1", "gzip -9", "gzip --rsyncable"],
    );
}

#[test]
fn zstd_streams_of_every_strategy_end_exactly() {
    let commands = [
        "zstd -q",
        "zstd -q -1",
        "zstd -q --fast=9",
        "zstd -q --no-check",
        "zstd -q -13",
        "zstd -q -19",
        "zstd -q --ultra -22",
        "zstd -q --long=27",
        "zstd -q -T2 -B65536",
    ];
    tool_streams(Codec::Zstd, &commands);
}

#[test]
fn xz_streams_of_every_check_and_filter_end_exactly() {
    let commands = [
        "xz --check=crc32",
        "xz --check=crc64",
        "xz --check=none",
        "xz --check=sha256",
        "xz -0e --check=crc32 --lzma2=dict=4KiB,lc=1,lp=3,pb=0",
        "xz --check=crc32 -T2 --block-size=65536",
        "xz --x86 --lzma2",
        "xz --arm --lzma2",
        "xz --armthumb --lzma2",
        "xz --arm64 --lzma2",
        "xz --powerpc --lzma2",
        "xz --sparc --lzma2",
        "xz --ia64 --lzma2",
    ];
    tool_streams(Codec::Xz, &commands);
}

#[test]
fn lz4_archives_end_exactly_although_nothing_marks_their_end() {
    tool_streams(Codec::Lz4, &["lz4 -q -l", "lz4 -q -l -9"]);
}

#[test]
fn lz4_archives_of_many_chunks_end_exactly() {
    let plain = sample(1 << 20).repeat(17);
    ends_exactly(
        "three chunks",
        Codec::Lz4,
        &made_by("lz4 -q -l", &plain),
        &plain,
    );
}

#[test]
fn lz4_archives_in_a_row_are_one_archive_as_in_the_kernel() {
    let both = [
        made_by("lz4 -q -l", b"first,"),
        made_by("lz4 -q -l", b"second"),
    ]
    .concat();
    ends_exactly("two archives", Codec::Lz4, &both, b"first,second");
}

#[test]
fn a_chunk_as_long_as_gzips_magic_number_is_still_a_chunk() {
    // One run of literals: token, length bytes, literals; 0x00088b1f bytes in all.
    let size = 0x0008_8b1f;
    let literals = (1..size)
        .rev()
        .find(|len| 1 + (len - 15) / 255 + 1 + len == size);
    let plain = sample(literals.expect("a length that fits"));
    let mut stream = vec![0x02, 0x21, 0x4c, 0x18, 0x1f, 0x8b, 0x08, 0x00, 0xf0];
    stream.resize(stream.len() + (plain.len() - 15) / 255, 0xff);
    stream.push(((plain.len() - 15) % 255) as u8);
    stream.extend(&plain);
    assert_eq!(stream.len(), 8 + size);
    ends_exactly("chunk of 0x00088b1f", Codec::Lz4, &stream, &plain);
}

#[test]
fn an_initrd_of_every_format_is_walked_stream_by_stream() {
    let mut initrd = Vec::new();
    let mut want = Vec::new();
    let commands = [
        "gzip",
        "zstd -q",
        "lz4 -q -l",
        "xz",
        "lz4 -q -l",
        "gzip -n",
        "zstd -q",
        "zstd -q",
        "gzip",
    ];
    for (index, command) in commands.iter().enumerate() {
        let plain = sample(1000 * (index + 1));
        initrd.extend(made_by(command, &plain));
        initrd.resize(initrd.len() + index % 3 * 2, 0);
        want.push(plain);
    }
    let mut got = Vec::new();
    let mut at = 0;
    while let Some(&first) = initrd.get(at) {
        if first == 0 {
            at += 1;
            continue;
        }
        let rest = &initrd[at..];
        let codec = Codec::detect(rest).unwrap_or_else(|| panic!("nothing known at {at}"));
        let (plain, consumed) = decode(codec, rest).expect("a whole stream");
        got.push(plain);
        at += consumed as usize;
    }
    assert!(got == want);
}

// ---- recognition ----------------------------------------------------------------------------

#[test]
fn formats_are_recognised_by_the_kernels_two_bytes_and_no_fewer() {
    let table: [(&[u8], &str); 8] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x1f, 0x9e], "gzip"),
        (&[0x42, 0x5a], "bzip2"),
        (&[0x5d, 0x00], "lzma"),
        (&[0xfd, 0x37], "xz"),
        (&[0x89, 0x4c], "lzo"),
        (&[0x02, 0x21], "lz4"),
        (&[0x28, 0xb5], "zstd"),
    ];
    for (magic, name) in table {
        assert_eq!(Codec::detect(magic).map(Codec::name), Some(name));
        assert_eq!(Codec::detect(&magic[..1]), None, "one byte of {name}");
    }
    assert_eq!(Codec::detect(&[]), None);
}

#[test]
fn a_magic_number_with_wrong_further_bytes_is_no_archive() {
    let others: [&[u8]; 8] = [
        &[0x1f, 0x8b, 0x07],
        &[0xfd, b'7', b'z', b'X', b'Z', 1],
        &[0x02, 0x21, 0x4c, 0x19],
        &[0x28, 0xb5, 0x2f, 0xfc],
        b"BZ0",
        b"070701",
        &[0x04, 0x22, 0x4d, 0x18], // LZ4 without -l, which the kernel does not support
        &[0x50, 0x2a],             // too little for a skippable frame
    ];
    for bytes in others {
        assert_eq!(Codec::detect(bytes), None, "{bytes:x?}");
    }
}

#[test]
fn refused_formats_are_refused_by_name() {
    for (codec, command) in [(Codec::Bzip2, "bzip2"), (Codec::Lzma, "lzma")] {
        assert_eq!(Codec::detect(&made_by(command, HELLO)), Some(codec));
    }
    for &codec in Codec::ALL {
        assert_eq!(codec.to_string(), codec.name());
        match Decoder::new(codec, io::empty()) {
            Ok(_) => assert!(codec.supported(), "{codec}"),
            Err(error) => {
                assert!(!codec.supported());
                assert_eq!(error.kind(), io::ErrorKind::Unsupported);
                assert!(error.to_string().starts_with(codec.name()), "{error}");
            }
        }
    }
    assert!(!Codec::Bzip2.supported() && !Codec::Lzma.supported() && !Codec::Lzo.supported());
}

// ---- damage ---------------------------------------------------------------------------------

/// Small streams to damage: the literal ones, and some that exercise more of the decoders.
fn victims() -> Vec<(Codec, Vec<u8>, Vec<u8>)> {
    let mut all: Vec<_> = SMALL
        .iter()
        .map(|(codec, stream, plain)| (*codec, stream.to_vec(), plain.to_vec()))
        .collect();
    let plain = sample(2000);
    for (codec, command) in [
        (Codec::Gzip, "gzip -9"),
        (Codec::Lz4, "lz4 -q -l -9"),
        (Codec::Zstd, "zstd -q -19"),
        (Codec::Zstd, "zstd -q -1 --no-check"),
        (
            Codec::Xz,
            "xz --check=crc64 --x86 --lzma2 --block-size=1000",
        ),
        (Codec::Xz, "xz --check=none"),
    ] {
        all.push((codec, made_by(command, &plain), plain.clone()));
    }
    all
}

#[test]
fn a_stream_cut_off_anywhere_is_an_error_that_says_so() {
    for (codec, stream, _) in victims() {
        for len in 0..stream.len() {
            let cut = &stream[..len];
            let result = decode_in_steps(codec, cut, 64);
            if codec == Codec::Lz4 && (4..8).contains(&len) {
                // Without a complete chunk size, the archive is empty, as in the kernel.
                assert_eq!(result.expect("an empty archive"), (vec![], 4));
                continue;
            }
            let text = message(result);
            assert!(text.starts_with(codec.name()), "{len} bytes: {text}");
            assert!(
                text.contains("truncated"),
                "{len} of {} bytes: {text}",
                stream.len()
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_harmless_where_there_is_a_checksum() {
    let mut refused = 0;
    let mut survived = 0;
    for (codec, stream, plain) in victims() {
        let checked = match codec {
            Codec::Gzip => true,
            Codec::Zstd => stream[4] & 4 != 0 && stream[0] == 0x28,
            Codec::Xz => stream[7] != 0,
            _ => false,
        };
        for bit in 0..stream.len() * 8 {
            let mut damaged = stream.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match decode(codec, damaged.as_slice()) {
                Err(_) => refused += 1,
                Ok((got, consumed)) => {
                    survived += 1;
                    assert!(consumed <= stream.len() as u64);
                    assert!(
                        !checked || got == plain,
                        "{codec}, bit {bit}: other bytes pass"
                    );
                }
            }
        }
    }
    println!("{refused} flipped bits refused, {survived} without harm or without a checksum");
}

#[test]
fn random_mutations_neither_panic_nor_hang() {
    let mut noise = Noise(0xdead_beef_cafe_f00d);
    let victims = victims();
    for round in 0..4000 {
        let (codec, stream, _) = &victims[round % victims.len()];
        let mut damaged = stream.clone();
        for _ in 0..=noise.next() % 4 {
            let at = noise.next() as usize % damaged.len();
            match noise.next() % 3 {
                0 => damaged[at] = noise.next() as u8,
                1 => damaged.truncate(at.max(1)),
                _ => damaged.extend(noise.bytes(at % 50)),
            }
        }
        // A damaged stream may expand to gigabytes, which need not be read.
        if let Ok(decoder) = Decoder::new(*codec, damaged.as_slice()) {
            let _ = io::copy(&mut decoder.take(16 << 20), &mut io::sink());
        }
    }
}

#[test]
fn errors_name_the_format_and_what_is_wrong() {
    let flipped = |index: usize, at: usize| {
        let (codec, stream, _) = SMALL[index];
        let mut stream = stream.to_vec();
        stream[at] ^= 0x20;
        message(decode(codec, stream.as_slice()))
    };
    assert_eq!(
        flipped(0, 26),
        "gzip: checksum mismatch, after 34 compressed bytes"
    );
    assert_eq!(
        flipped(0, 30),
        "gzip: length mismatch, after 34 compressed bytes"
    );
    assert_eq!(flipped(0, 0), "gzip: bad magic, after 10 compressed bytes");
    assert_eq!(
        flipped(1, 4),
        "gzip: header checksum mismatch, after 28 compressed bytes"
    );
    assert_eq!(flipped(2, 1), "lz4: bad magic, after 4 compressed bytes");
    assert_eq!(
        flipped(4, 10),
        "zstd: checksum mismatch, after 27 compressed bytes"
    );
    assert_eq!(
        flipped(7, 30),
        "xz: checksum mismatch, after 48 compressed bytes"
    );
    assert_eq!(
        flipped(7, 16),
        "xz: block header checksum mismatch, after 24 compressed bytes"
    );
    assert_eq!(
        flipped(7, 50),
        "xz: index does not match the blocks, after 52 compressed bytes"
    );
    assert_eq!(
        flipped(7, 60),
        "xz: footer checksum mismatch, after 68 compressed bytes"
    );
    let delta = made_by("xz --delta=dist=4 --lzma2", HELLO);
    let text = message(decode(Codec::Xz, delta.as_slice()));
    assert_eq!(
        text,
        "xz: filter 0x3 is not supported, after 24 compressed bytes"
    );
    let three = made_by("xz --x86 --arm --lzma2", HELLO);
    let text = message(decode(Codec::Xz, three.as_slice()));
    assert!(text.contains("more than two filters"), "{text}");
}

#[test]
fn after_an_error_every_read_fails() {
    let mut decoder =
        Decoder::new(Codec::Zstd, &b"(\xb5/\xfd\x08"[..]).expect("the codec is compiled in");
    for _ in 0..3 {
        assert!(decoder.read(&mut [0; 8]).is_err());
    }
}

/// A reader that returns bytes, and then an error.
struct Failing<'a>(&'a [u8], u32);

impl Read for Failing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1 % 2 == 1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match self.0.read(out)? {
            0 => Err(io::Error::from_raw_os_error(5)),
            count => Ok(count),
        }
    }
}

#[test]
fn an_input_error_is_returned_unchanged() {
    for (codec, stream, _) in victims() {
        for len in [0, 2, 6, stream.len() - 1] {
            let input = BufReader::with_capacity(16, Failing(&stream[..len.min(stream.len())], 0));
            let error = decode(codec, input).expect_err("the device fails");
            assert_eq!(
                error.raw_os_error(),
                Some(5),
                "{codec} after {len}: {error}"
            );
        }
    }
}

// ---- memory ---------------------------------------------------------------------------------

#[test]
fn streams_that_the_kernel_refuses_are_recognised_by_their_first_bytes() {
    let refused = |codec: Codec, stream: &[u8]| codec.kernel_refusal(&stream[..8]).is_some();
    for (codec, command, expected) in [
        (Codec::Gzip, "gzip", false),
        (Codec::Zstd, "zstd -q", false),
        (Codec::Lz4, "lz4 -q -l", false),
        (Codec::Xz, "xz", true),
        (Codec::Xz, "xz --check=sha256", true),
        (Codec::Xz, "xz --check=crc32", false),
        (Codec::Xz, "xz --check=none", false),
    ] {
        assert_eq!(
            refused(codec, &made_by(command, b"x")),
            expected,
            "{command}"
        );
    }
    // FTEXT and FNAME, then FHCRC, FEXTRA and FCOMMENT.
    for (flags, expected) in [(1, false), (8, false), (2, true), (4, true), (16, true)] {
        let header = [0x1f, 0x8b, 8, flags, 0, 0, 0, 0];
        assert_eq!(refused(Codec::Gzip, &header), expected, "{flags}");
    }
    assert!(refused(Codec::Zstd, &[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0]));
}

#[test]
fn memory_is_bounded_by_the_window_not_by_the_archive() {
    const MIB: u64 = 1 << 20;
    // Repetitions within the windows of zstd and xz, so that most of it is decoded as copies.
    let plain = sample(160 << 10).repeat(256);
    // The window, and the overhead of growing buffers.
    for (codec, command, window) in [
        (Codec::Gzip, "gzip -1", 0),
        (Codec::Lz4, "lz4 -q -l", 8 * MIB),
        (Codec::Zstd, "zstd -q", 2 * MIB),
        (Codec::Zstd, "zstd -q --long=23", 2 * 8 * MIB),
        (Codec::Xz, "xz -0 --check=crc32", MIB),
        (Codec::Xz, "xz -0 --lzma2=preset=0,dict=8MiB", 2 * 8 * MIB),
    ] {
        let stream = made_by(command, &plain);
        let (peak, same) = peak_of(|| {
            let mut decoder =
                Decoder::new(codec, stream.as_slice()).expect("the codec is compiled in");
            let mut want = plain.as_slice();
            let mut out = [0; 8192];
            loop {
                let count = decoder.read(&mut out).expect("a good stream");
                let Some(left) = want.strip_prefix(&out[..count]) else {
                    return false;
                };
                want = left;
                if count == 0 {
                    return want.is_empty() && decoder.consumed() == stream.len() as u64;
                }
            }
        });
        println!(
            "{command}: 40 MiB decoded with at most {} KiB of heap",
            peak >> 10
        );
        assert!(same, "{command}: other bytes");
        assert!(peak < 16 * MIB + window, "{command}: {peak} bytes of heap");
    }
}

#[test]
fn a_declared_window_is_allocated_only_as_data_arrives() {
    #[rustfmt::skip]
    let streams: [(Codec, &[u8]); 2] = [
        (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 0x42, 0, 0, b'z']), // 128 MiB
        (Codec::Xz, &[
            0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0x01, 0x69, 0x22, 0xde, 0x36,
            0x02, 0, 0x21, 0x01, 0x1d, 0, 0, 0, 0x75, 0xa8, 0xe4, 0x74, // 96 MiB
            0x01, 0, 0, b'z',
        ]),
    ];
    for (codec, stream) in streams {
        let (peak, text) = peak_of(|| message(decode(codec, stream)));
        assert!(text.contains("truncated"), "{text}");
        assert!(
            peak < 1 << 20,
            "{codec}: {peak} bytes of heap for a few of data"
        );
    }
}

#[test]
fn a_window_above_the_limit_is_an_error_with_its_size() {
    assert_eq!(WINDOW_MAX, 134_217_729);
    #[rustfmt::skip]
    let streams: [(Codec, &[u8], &str); 4] = [
        (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3, 1, 0, 0], "a window of 256 MiB"),
        (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 1, 0, 0], "a window of 3932160 MiB"),
        (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x40, 1, 0, 0], "a window of 1024 MiB"),
        (Codec::Xz, &[
            0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0x01, 0x69, 0x22, 0xde, 0x36,
            0x02, 0, 0x21, 0x01, 0x1f, 0, 0, 0, 0xfe, 0x60, 0xed, 0xde,
        ], "a dictionary of 192 MiB"),
    ];
    for (codec, stream, size) in streams {
        let text = message(decode(codec, stream));
        assert!(
            text.contains(&format!("needs {size}, more than 128")),
            "{text}"
        );
    }
}
