//! xz streams, as lib/decompress_unxz.c and lib/xz/xz_dec_stream.c of the kernel read them.
//!
//! This reads the container; lzma-rust2 decodes the LZMA2 data and the BCJ filters in it. The crate's own
//! reader of the container keeps a list of all blocks and links SHA-256.

use super::WINDOW_MAX;
use super::input::{Input, StreamFault};
use crate::format::checksum::Crc;
use lzma_rust2::{Action, FilterConfig, FilterType, Lzma2Stream, Status};
use std::io::{self, BufRead};

const LZMA2: u8 = 0x21;

/// The kernel has XZ_CHECK_NONE and XZ_CHECK_CRC32 (lib/xz/xz_dec_stream.c).
pub(super) fn kernel_refusal(first: &[u8]) -> Option<&'static str> {
    let check = first.get(7)?;
    (*check > 1).then_some("its check is not CRC32 (xz --check=crc32)")
}

/// The dictionary of the first block: its header follows the stream's 12 bytes, and LZMA2 with one byte of
/// properties is its last filter.
pub(super) fn memory(head: &[u8]) -> Option<u64> {
    let filters = head.get(14..)?;
    let at = filters.windows(2).position(|pair| pair == [LZMA2, 1])?;
    dictionary(*filters.get(at.checked_add(2)?)?)
}

/// The dictionary size of LZMA2 properties, in bytes.
fn dictionary(bits: u8) -> Option<u64> {
    match bits {
        0..40 => Some((2 | u64::from(bits & 1)) << (bits / 2 + 11)),
        _ => None,
    }
}

pub(super) struct Stream {
    /// The number of the check; None until the stream header has been read.
    check: Option<u8>,
    block: Option<Block>,
    blocks: BlockRecords,
    ended: bool,
}

/// A block whose data is being decoded. All sizes in bytes.
struct Block {
    lzma: Box<Lzma2Stream>,
    crc: Option<Crc>,
    header_size: u64,
    /// The sizes in the header, if it has them.
    packed_size: Option<u64>,
    plain_size: Option<u64>,
    plain: u64,
    /// `Input::consumed` where the block's data starts
    start: u64,
}

/// Number and sizes of the blocks, which the index must repeat. A CRC replaces the list of sizes, as in the
/// kernel (`struct xz_dec_hash`), so memory does not depend on the number of blocks.
struct BlockRecords {
    count: u64,
    sizes: Crc,
}

impl BlockRecords {
    fn new() -> BlockRecords {
        BlockRecords {
            count: 0,
            sizes: Crc::crc32(),
        }
    }

    fn add(&mut self, unpadded: u64, plain: u64) {
        self.count = self.count.saturating_add(1);
        self.sizes.update(&unpadded.to_le_bytes());
        self.sizes.update(&plain.to_le_bytes());
    }
}

/// `check_sizes[]`
fn check_size(check: u8) -> u64 {
    match check {
        0 => 0,
        1..=3 => 4,
        4..=6 => 8,
        7..=9 => 16,
        10..=12 => 32,
        _ => 64,
    }
}

impl Stream {
    pub(super) fn new() -> Stream {
        Stream {
            check: None,
            block: None,
            blocks: BlockRecords::new(),
            ended: false,
        }
    }

    pub(super) fn read<R: BufRead>(
        &mut self,
        input: &mut Input<R>,
        out: &mut [u8],
    ) -> Result<usize, StreamFault> {
        let check = match self.check {
            Some(check) => check,
            None => *self.check.insert(stream_header(input)?),
        };
        while !self.ended {
            let Some(block) = &mut self.block else {
                match input.exactly()? {
                    [0] => {
                        index_and_footer(input, check, &self.blocks)?;
                        self.ended = true;
                    }
                    [size] => self.block = Some(Block::header(input, size, check)?),
                }
                continue;
            };
            let have = input.fill()?;
            let action = if have.is_empty() {
                Action::Finish
            } else {
                Action::Run
            };
            let step =
                block
                    .lzma
                    .process(have, out, action)
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::OutOfMemory => "no memory for the dictionary",
                        _ => "corrupt LZMA2 data",
                    })?;
            input.take(step.bytes_consumed);
            let plain = out.get(..step.bytes_produced).unwrap_or_default();
            block.plain = block.plain.saturating_add(plain.len() as u64);
            if let Some(crc) = &mut block.crc {
                crc.update(plain);
            }
            if step.status == Status::StreamEnd {
                let unpadded = block.finish(input, check)?;
                self.blocks.add(unpadded, block.plain);
                self.block = None;
            } else if step.bytes_consumed == 0 && plain.is_empty() {
                return Err("corrupt LZMA2 data".into());
            }
            if !plain.is_empty() {
                return Ok(plain.len());
            }
        }
        Ok(0)
    }
}

impl Block {
    /// `dec_block_header`; `size` is its first byte, which has been read.
    fn header<R: BufRead>(input: &mut Input<R>, size: u8, check: u8) -> Result<Block, StreamFault> {
        let header_size = (usize::from(size) + 1) * 4;
        let mut header = vec![size; header_size - 4];
        input.fill_exactly(header.get_mut(1..).unwrap_or_default())?;
        let mut crc = Crc::crc32();
        crc.update(&header);
        if u64::from(u32::from_le_bytes(input.exactly()?)) != crc.sum() {
            return Err("block header checksum mismatch".into());
        }
        let mut rest = header.iter().copied().skip(1);
        let mut next = || {
            rest.next()
                .ok_or(StreamFault::from("block header too short"))
        };

        let flags = next()?;
        if flags & 0x3e != 0 {
            return Err("more than two filters, or an unknown block flag".into());
        }
        let packed_size = if flags & 0x40 != 0 {
            Some(integer(&mut next)?)
        } else {
            None
        };
        let plain_size = if flags & 0x80 != 0 {
            Some(integer(&mut next)?)
        } else {
            None
        };
        let mut filters = Vec::new();
        if flags & 1 != 0 {
            let (id, properties) = (next()?, next()?);
            match FilterType::try_from(u64::from(id)) {
                // BCJ, without the start offset, which the kernel does not support either
                Ok(filter_type) if (4..=0xb).contains(&id) && properties == 0 => {
                    filters.push(FilterConfig {
                        filter_type,
                        property: 0,
                    });
                }
                _ => return Err(format!("filter {id:#x} is not supported").into()),
            }
        }
        let (filter, properties) = (next()?, next()?);
        if (filter, properties) != (LZMA2, 1) {
            return Err("the last filter is not LZMA2".into());
        }
        let dictionary = dictionary(next()?).ok_or("unknown dictionary size")?;
        if dictionary > WINDOW_MAX {
            let mib = dictionary >> 20;
            return Err(format!("needs a dictionary of {mib} MiB, more than 128").into());
        }
        if rest.any(|byte| byte != 0) {
            return Err("block header padding is not zero".into());
        }

        let mut lzma = Box::new(Lzma2Stream::new(dictionary as u32));
        lzma.set_filters(&filters)
            .map_err(|_| "filter is not supported")?;
        let crc = match check {
            1 => Some(Crc::crc32()),
            4 => Some(Crc::crc64()),
            _ => None,
        };
        let (header_size, start) = (header_size as u64, input.consumed());
        Ok(Block {
            lzma,
            crc,
            header_size,
            packed_size,
            plain_size,
            plain: 0,
            start,
        })
    }

    /// Reads padding and check after the data of a block; returns the block's unpadded size.
    fn finish<R: BufRead>(&self, input: &mut Input<R>, check: u8) -> Result<u64, StreamFault> {
        let packed = input.consumed().saturating_sub(self.start);
        if self.packed_size.is_some_and(|size| size != packed)
            || self.plain_size.is_some_and(|size| size != self.plain)
        {
            return Err("block size mismatch".into());
        }
        padding(input, packed)?;
        match check {
            1 => compare(
                self.crc.as_ref(),
                u32::from_le_bytes(input.exactly()?).into(),
            )?,
            4 => compare(self.crc.as_ref(), u64::from_le_bytes(input.exactly()?))?,
            _ => input.skip(check_size(check))?,
        }
        Ok(self
            .header_size
            .saturating_add(packed)
            .saturating_add(check_size(check)))
    }
}

fn compare(crc: Option<&Crc>, stored: u64) -> Result<(), StreamFault> {
    if crc.is_some_and(|crc| crc.sum() != stored) {
        return Err("checksum mismatch".into());
    }
    Ok(())
}

/// Zero bytes up to a multiple of four.
fn padding<R: BufRead>(input: &mut Input<R>, size: u64) -> Result<(), StreamFault> {
    for _ in 0..size.wrapping_neg() % 4 {
        if input.exactly()? != [0] {
            return Err("padding is not zero".into());
        }
    }
    Ok(())
}

/// `dec_vli`: seven bits per byte, at most nine bytes, in the shortest form.
fn integer(mut next: impl FnMut() -> Result<u8, StreamFault>) -> Result<u64, StreamFault> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = next()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                break;
            }
            return Ok(value);
        }
    }
    Err("malformed integer".into())
}

fn stream_header<R: BufRead>(input: &mut Input<R>) -> Result<u8, StreamFault> {
    let [0xfd, b'7', b'z', b'X', b'Z', 0, f0, f1, c0, c1, c2, c3] = input.exactly()? else {
        return Err("bad magic".into());
    };
    let mut crc = Crc::crc32();
    crc.update(&[f0, f1]);
    if u64::from(u32::from_le_bytes([c0, c1, c2, c3])) != crc.sum() {
        return Err("header checksum mismatch".into());
    }
    if f0 != 0 || f1 > 0x0f {
        return Err("unknown stream flags".into());
    }
    Ok(f1)
}

/// `dec_index` and `dec_stream_footer`; the first byte of the index has been read.
fn index_and_footer<R: BufRead>(
    input: &mut Input<R>,
    check: u8,
    blocks: &BlockRecords,
) -> Result<(), StreamFault> {
    let start = input.consumed().saturating_sub(1);
    let mut crc = Crc::crc32();
    crc.update(&[0]);
    let mut next = || {
        let byte: [u8; 1] = input.exactly()?;
        crc.update(&byte);
        Ok(byte[0])
    };
    let mut listed = BlockRecords::new();
    if integer(&mut next)? != blocks.count {
        return Err("index does not match the blocks".into());
    }
    while listed.count < blocks.count {
        listed.add(integer(&mut next)?, integer(&mut next)?);
    }
    if listed.sizes.sum() != blocks.sizes.sum() {
        return Err("index does not match the blocks".into());
    }
    let size = input.consumed().saturating_sub(start);
    padding(input, size)?;
    let padded = input.consumed().saturating_sub(start);
    crc.update(
        [0; 3]
            .get(..padded.saturating_sub(size) as usize)
            .unwrap_or_default(),
    );
    if u64::from(u32::from_le_bytes(input.exactly()?)) != crc.sum() {
        return Err("index checksum mismatch".into());
    }

    let [c0, c1, c2, c3, b0, b1, b2, b3, 0, flags, b'Y', b'Z'] = input.exactly()? else {
        return Err("malformed footer".into());
    };
    let mut crc = Crc::crc32();
    crc.update(&[b0, b1, b2, b3, 0, flags]);
    if u64::from(u32::from_le_bytes([c0, c1, c2, c3])) != crc.sum() {
        return Err("footer checksum mismatch".into());
    }
    // Backward Size is in words of four bytes, minus one. `padded` lacks the CRC, which is one word.
    if u64::from(u32::from_le_bytes([b0, b1, b2, b3])) != padded / 4 || flags != check {
        return Err("footer does not match the stream".into());
    }
    Ok(())
}
