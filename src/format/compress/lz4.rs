//! LZ4 legacy archives, as lib/decompress_unlz4.c of the kernel reads them.

use super::input::{Input, StreamFault};
use std::io::{BufRead, Read};

/// `ARCHIVE_MAGICNUMBER`
const MAGIC: u32 = 0x184c_2102;
/// `LZ4_DEFAULT_UNCOMPRESSED_CHUNK_SIZE`, in bytes
const PLAIN_MAX: usize = 8 << 20;
/// `LZ4_compressBound` of it, in bytes
const PACKED_MAX: usize = PLAIN_MAX + PLAIN_MAX / 255 + 16;
/// The first four bytes of a gzip member without optional fields. No other magic number of a supported
/// format is a possible chunk size.
const GZIP: [u8; 4] = [0x1f, 0x8b, 0x08, 0x00];

pub(super) fn kernel_refusal(_first: &[u8]) -> Option<&'static str> {
    None
}

/// Two chunks, one compressed and one plain.
pub(super) fn memory(_head: &[u8]) -> Option<u64> {
    Some(16 << 20)
}

pub(super) struct Stream {
    started: bool,
    packed: Vec<u8>,
    plain: Vec<u8>,
    /// The part of `plain` that has not been read yet.
    from: usize,
    to: usize,
}

impl Stream {
    pub(super) fn new() -> Stream {
        Stream {
            started: false,
            packed: Vec::new(),
            plain: Vec::new(),
            from: 0,
            to: 0,
        }
    }

    pub(super) fn read<R: BufRead>(
        &mut self,
        input: &mut Input<R>,
        out: &mut [u8],
    ) -> Result<usize, StreamFault> {
        if !self.started {
            if u32::from_le_bytes(input.exactly()?) != MAGIC {
                return Err("bad magic".into());
            }
            self.started = true;
        }
        while self.from >= self.to {
            if !self.chunk(input)? {
                return Ok(0);
            }
        }
        let mut rest = self.plain.get(self.from..self.to).unwrap_or_default();
        let count = rest.read(out).unwrap_or_default();
        self.from = self.from.saturating_add(count);
        Ok(count)
    }

    /// Decompresses the next chunk; false at the end of the archive.
    fn chunk<R: BufRead>(&mut self, input: &mut Input<R>) -> Result<bool, StreamFault> {
        let mut word = [0; 4];
        let size = loop {
            let have = input.up_to(&mut word)?;
            let value = u32::from_le_bytes(word);
            if have == 4 && value == MAGIC {
                continue; // `lz4 -l` archives in a row
            }
            if have < 4 || value == 0 || value as usize > PACKED_MAX {
                input.past.extend(word.iter().take(have));
                return Ok(false);
            }
            break value;
        };
        let size = size as usize;
        if self.packed.len() < size {
            self.packed = Vec::new(); // frees it before the larger one is allocated
            self.packed = vec![0; size];
        }
        if self.plain.is_empty() {
            self.plain = vec![0; PLAIN_MAX];
        }
        let packed = self.packed.get_mut(..size).unwrap_or_default();
        let have = input.up_to(packed)?;
        let whole = if have < size {
            Err("truncated")
        } else {
            lz4_flex::block::decompress_into(packed, &mut self.plain).map_err(|_| "corrupt chunk")
        };
        match whole {
            Ok(plain) => {
                (self.from, self.to) = (0, plain);
                Ok(true)
            }
            Err(_) if word == GZIP => {
                input.past.extend(word);
                input.past.extend(packed.iter().take(have));
                Ok(false)
            }
            Err(fault) => Err(fault.into()),
        }
    }
}
