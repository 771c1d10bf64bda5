//! gzip members, as lib/decompress_inflate.c of the kernel reads them.

use super::input::{Input, StreamFault};
use crate::format::checksum::Crc;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};
use std::io::BufRead;

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// lib/decompress_inflate.c skips a file name, and takes any other optional field for data.
pub(super) fn kernel_refusal(first: &[u8]) -> Option<&'static str> {
    let flags = first.get(3)?;
    (flags & (FHCRC | FEXTRA | FCOMMENT) != 0)
        .then_some("its gzip header has more than a file name (gzip -n writes none)")
}

/// The state of the decoder; the window has 32 KiB.
pub(super) fn memory(_head: &[u8]) -> Option<u64> {
    Some(64 << 10)
}

pub(super) struct Stream {
    /// None until the header has been read.
    inflate: Option<Box<InflateState>>,
    crc: Crc,
    /// Plain bytes so far, modulo 2^32 as the trailer has it.
    size: u32,
    ended: bool,
}

impl Stream {
    pub(super) fn new() -> Stream {
        Stream {
            inflate: None,
            crc: Crc::crc32(),
            size: 0,
            ended: false,
        }
    }

    pub(super) fn read<R: BufRead>(
        &mut self,
        input: &mut Input<R>,
        out: &mut [u8],
    ) -> Result<usize, StreamFault> {
        let state = match &mut self.inflate {
            Some(state) => state,
            None => {
                header(input)?;
                self.inflate
                    .insert(InflateState::new_boxed(DataFormat::Raw))
            }
        };
        while !self.ended {
            let have = input.fill()?;
            let step = inflate(state, have, out, MZFlush::None);
            input.take(step.bytes_consumed);
            let plain = out.get(..step.bytes_written).unwrap_or_default();
            self.crc.update(plain);
            self.size = self.size.wrapping_add(plain.len() as u32);
            match step.status {
                Ok(MZStatus::StreamEnd) => {
                    let [c0, c1, c2, c3, s0, s1, s2, s3] = input.exactly()?;
                    if u64::from(u32::from_le_bytes([c0, c1, c2, c3])) != self.crc.sum() {
                        return Err("checksum mismatch".into());
                    }
                    if u32::from_le_bytes([s0, s1, s2, s3]) != self.size {
                        return Err("length mismatch".into());
                    }
                    self.ended = true;
                }
                Ok(_) | Err(MZError::Buf) if step.bytes_consumed > 0 || !plain.is_empty() => {}
                _ => return Err("corrupt deflate data".into()),
            }
            if !plain.is_empty() {
                return Ok(plain.len());
            }
        }
        Ok(0)
    }
}

/// RFC 1952, section 2.3
fn header<R: BufRead>(input: &mut Input<R>) -> Result<(), StreamFault> {
    let mut crc = Crc::crc32();
    let fixed: [u8; 10] = input.exactly()?;
    crc.update(&fixed);
    let [0x1f, 0x8b, method, flags, ..] = fixed else {
        return Err("bad magic".into());
    };
    if method != 8 || flags & RESERVED != 0 {
        return Err("a method or flag that is not in RFC 1952".into());
    }
    if flags & FEXTRA != 0 {
        let length: [u8; 2] = input.exactly()?;
        crc.update(&length);
        for _ in 0..u16::from_le_bytes(length) {
            crc.update(&input.exactly::<1>()?);
        }
    }
    for text in [FNAME, FCOMMENT] {
        let mut inside = flags & text != 0;
        while inside {
            let byte: [u8; 1] = input.exactly()?;
            crc.update(&byte);
            inside = byte != [0];
        }
    }
    if flags & FHCRC != 0 && u16::from_le_bytes(input.exactly()?) != crc.sum() as u16 {
        return Err("header checksum mismatch".into());
    }
    Ok(())
}
