//! zstd frames, as lib/decompress_unzstd.c of the kernel takes them.

use super::WINDOW_MAX;
use super::input::{Fault, Input};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{BufRead, Read};

pub(super) struct Stream {
    /// None until the header has been read.
    frame: Option<Box<FrameDecoder>>,
    checksum: bool,
    /// Plain bytes that the header promises, where it does.
    size: Option<u64>,
    plain: u64,
}

impl Stream {
    pub(super) fn new() -> Stream {
        Stream {
            frame: None,
            checksum: false,
            size: None,
            plain: 0,
        }
    }

    pub(super) fn read<R: BufRead>(
        &mut self,
        input: &mut Input<R>,
        out: &mut [u8],
    ) -> Result<usize, Fault> {
        if self.frame.is_none() && !self.header(input)? {
            return Ok(0);
        }
        let Some(frame) = &mut self.frame else {
            return Ok(0);
        };
        loop {
            let count = frame.read(out).map_err(|_| "corrupt block")?;
            if count > 0 {
                self.plain = self.plain.saturating_add(count as u64);
                return Ok(count);
            }
            if frame.is_finished() {
                break;
            }
            frame
                .decode_blocks(&mut *input, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|_| "corrupt block")?;
        }
        if self.size.is_some_and(|size| size != self.plain) {
            return Err("length mismatch".into());
        }
        if self.checksum && frame.get_checksum_from_data() != frame.get_calculated_checksum() {
            return Err("checksum mismatch".into());
        }
        Ok(0)
    }

    /// The frame header, RFC 8878 section 3.1.1.1; false after a skippable frame. ruzstd reads
    /// it again: it ignores the reserved bit, and can't tell a length of zero from none.
    fn header<R: BufRead>(&mut self, input: &mut Input<R>) -> Result<bool, Fault> {
        let magic: [u8; 4] = input.exactly()?;
        if let [0x50..=0x5f, 0x2a, 0x4d, 0x18] = magic {
            let size = u32::from_le_bytes(input.exactly()?);
            input.skip(size.into())?;
            return Ok(false);
        }
        if magic != [0x28, 0xb5, 0x2f, 0xfd] {
            return Err("bad magic".into());
        }
        let [descriptor] = input.exactly()?;
        if descriptor & 0x08 != 0 {
            return Err("reserved bit set".into());
        }
        let mut header = Vec::from(magic);
        header.push(descriptor);
        let mut field = |size: usize| {
            let mut bytes = [0; 8];
            input.fill_exactly(bytes.get_mut(..size).unwrap_or_default())?;
            header.extend(bytes.iter().take(size));
            Ok::<u64, Fault>(u64::from_le_bytes(bytes))
        };

        let single_segment = descriptor & 0x20 != 0;
        let window = if single_segment {
            None
        } else {
            Some(field(1)?)
        };
        let dictionary = field([0, 1, 2, 4][usize::from(descriptor & 3)])?;
        self.size = match descriptor >> 6 {
            0 if !single_segment => None,
            0 => Some(field(1)?),
            1 => Some(field(2)?.saturating_add(256)),
            2 => Some(field(4)?),
            _ => Some(field(8)?),
        };
        let window = match window {
            Some(bits) => (8 | (bits & 7)) << (7 + (bits >> 3)),
            None => self.size.unwrap_or_default(),
        };
        if window > WINDOW_MAX {
            let mib = window.div_ceil(1 << 20);
            return Err(format!("needs a window of {mib} MiB, more than 128").into());
        }
        if dictionary != 0 {
            return Err(format!("needs dictionary {dictionary}").into());
        }
        let mut frame = Box::new(FrameDecoder::new());
        frame.set_max_window_size(WINDOW_MAX);
        frame
            .init(header.as_slice())
            .map_err(|_| "malformed frame header")?;
        self.checksum = descriptor & 0x04 != 0;
        self.frame = Some(frame);
        Ok(true)
    }
}
