//! What the codecs read from.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use super::Codec;

/// What is wrong with a stream, for a message that [`Input::explain`] completes.
pub(super) type StreamFault = Cow<'static, str>;

/// The input of a decoder. Counts the consumed bytes, and keeps the error of a failed read, so the codecs
/// need not pass it on.
pub(super) struct Input<R> {
    inner: R,
    taken: u64,
    /// Consumed bytes that do not belong to the stream.
    pub(super) past: Vec<u8>,
    /// A read found the end of the input.
    ended: bool,
    error: Option<io::Error>,
}

#[allow(dead_code)] // no single codec uses all of it
impl<R: BufRead> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            taken: 0,
            past: Vec::new(),
            ended: false,
            error: None,
        }
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    pub(super) fn consumed(&self) -> u64 {
        self.taken.saturating_sub(self.past.len() as u64)
    }

    /// The buffered bytes, at least one unless the input has ended.
    pub(super) fn fill(&mut self) -> Result<&[u8], StreamFault> {
        self.ended = loop {
            match self.inner.fill_buf() {
                Ok(have) => break have.is_empty(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.error = Some(error);
                    return Err("unreadable".into());
                }
            }
        };
        if self.ended {
            return Ok(&[]);
        }
        // The borrow cannot leave the loop. This call returns the buffered bytes without reading.
        self.inner.fill_buf().map_err(|_| "unreadable".into())
    }

    pub(super) fn take(&mut self, count: usize) {
        self.inner.consume(count);
        self.taken = self.taken.saturating_add(count as u64);
    }

    /// Reads until `into` is full or the input ends; returns the number of bytes.
    pub(super) fn up_to(&mut self, into: &mut [u8]) -> Result<usize, StreamFault> {
        let mut have = 0;
        while let Some(rest @ [_, ..]) = into.get_mut(have..) {
            match self.read(rest) {
                Ok(0) => break,
                Ok(count) => have = have.saturating_add(count),
                Err(_) => return Err("unreadable".into()),
            }
        }
        Ok(have)
    }

    pub(super) fn fill_exactly(&mut self, into: &mut [u8]) -> Result<(), StreamFault> {
        if self.up_to(into)? < into.len() {
            Err("truncated".into())
        } else {
            Ok(())
        }
    }

    pub(super) fn exactly<const N: usize>(&mut self) -> Result<[u8; N], StreamFault> {
        let mut bytes = [0; N];
        self.fill_exactly(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), StreamFault> {
        while count > 0 {
            let have = self.fill()?.len();
            if have == 0 {
                return Err("truncated".into());
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(have);
            self.take(step);
            count = count.saturating_sub(step as u64);
        }
        Ok(())
    }

    pub(super) fn explain(&mut self, codec: Codec, fault: StreamFault) -> io::Error {
        if let Some(error) = self.error.take() {
            return error;
        }
        let fault = if self.ended {
            "truncated".into()
        } else {
            fault
        };
        let at = self.consumed();
        let text = format!("{codec}: {fault}, after {at} compressed bytes");
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl<R: BufRead> Read for Input<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = match self.fill() {
            Ok(mut have) => have.read(out)?,
            Err(_) => return Err(io::ErrorKind::Other.into()),
        };
        self.take(count);
        Ok(count)
    }
}
