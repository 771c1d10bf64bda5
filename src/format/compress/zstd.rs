//! zstd frames, as lib/decompress_unzstd.c of the kernel reads them.

use super::WINDOW_MAX;
use super::input::{Input, StreamFault};
use crate::bytes::Cursor;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{BufRead, Read};

/// lib/decompress.c only knows the magic number of a frame with data.
pub(super) fn kernel_refusal(first: &[u8]) -> Option<&'static str> {
    let magic = first.first()?;
    (*magic != 0x28)
        .then_some("it starts with a skippable frame (pzstd writes these, zstd does not)")
}

/// The window of the frame whose first bytes these are (RFC 8878, section 3.1.1.1).
pub(super) fn memory(head: &[u8]) -> Option<u64> {
    let mut cursor = Cursor::new(head);
    cursor.take(4)?;
    let descriptor = cursor.u8()?;
    if descriptor & SINGLE_SEGMENT == 0 {
        return Some(window(cursor.u8()?));
    }
    // A frame of a single segment has its whole content as window.
    cursor.take(dictionary_length(descriptor))?;
    match descriptor >> 6 {
        0 => cursor.u8().map(u64::from),
        1 => Some(u64::from(cursor.le16()?).saturating_add(256)),
        2 => cursor.le32().map(u64::from),
        _ => cursor.le64(),
    }
}

/// Single_Segment_flag of the Frame_Header_Descriptor.
const SINGLE_SEGMENT: u8 = 0x20;

/// The size of the Dictionary_ID, in bytes.
fn dictionary_length(descriptor: u8) -> usize {
    [0, 1, 2, 4][usize::from(descriptor & 3)]
}

/// The window size, in bytes, of a Window_Descriptor.
fn window(descriptor: u8) -> u64 {
    let (exponent, mantissa) = (descriptor >> 3, u64::from(descriptor & 7));
    (8 | mantissa) << (exponent + 7)
}

pub(super) struct Stream {
    /// None until the header has been read.
    frame: Option<Box<FrameDecoder>>,
    checksum: bool,
    /// The size of the plain bytes, if the header has it.
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
    ) -> Result<usize, StreamFault> {
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

    /// Reads the frame header (RFC 8878, section 3.1.1.1); false after a skippable frame. ruzstd parses it,
    /// too, but ignores the reserved bit and does not distinguish a length of zero from none.
    fn header<R: BufRead>(&mut self, input: &mut Input<R>) -> Result<bool, StreamFault> {
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
            Ok::<u64, StreamFault>(u64::from_le_bytes(bytes))
        };

        let single_segment = descriptor & SINGLE_SEGMENT != 0;
        let window = if single_segment {
            None
        } else {
            Some(window(field(1)? as u8))
        };
        let dictionary = field(dictionary_length(descriptor))?;
        self.size = match descriptor >> 6 {
            0 if !single_segment => None,
            0 => Some(field(1)?),
            1 => Some(field(2)?.saturating_add(256)),
            2 => Some(field(4)?),
            _ => Some(field(8)?),
        };
        let window = window.or(self.size).unwrap_or_default();
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
