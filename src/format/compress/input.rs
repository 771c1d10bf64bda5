//! What the codecs read from.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use super::Codec;

/// What is wrong with a stream, in words; [`Input::explain`] adds the rest.
pub(super) type Fault = Cow<'static, str>;

/// The input of a decoder. It counts what is taken, and keeps the real reason when reading fails,
/// so that errors need not find their way through the codecs.
pub(super) struct Input<R> {
    inner: R,
    taken: u64,
    /// Bytes taken that turned out not to belong to the stream.
    pub(super) past: Vec<u8>,
    /// More was asked for than there is.
    ended: bool,
    error: Option<io::Error>,
}

#[allow(dead_code)] // no single codec needs all of it
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

    /// The bytes at hand, at least one unless the input has ended.
    pub(super) fn fill(&mut self) -> Result<&[u8], Fault> {
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
        // Again, because a borrow can't leave the loop; what is buffered comes without reading.
        self.inner.fill_buf().map_err(|_| "unreadable".into())
    }

    pub(super) fn take(&mut self, count: usize) {
        self.inner.consume(count);
        self.taken = self.taken.saturating_add(count as u64);
    }

    /// Takes bytes until `into` is full or the input ends; returns how many.
    pub(super) fn up_to(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
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

    pub(super) fn fill_exactly(&mut self, into: &mut [u8]) -> Result<(), Fault> {
        if self.up_to(into)? < into.len() {
            Err("cut off".into())
        } else {
            Ok(())
        }
    }

    pub(super) fn exactly<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill_exactly(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), Fault> {
        while count > 0 {
            let have = self.fill()?.len();
            if have == 0 {
                return Err("cut off".into());
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(have);
            self.take(step);
            count = count.saturating_sub(step as u64);
        }
        Ok(())
    }

    pub(super) fn explain(&mut self, codec: Codec, fault: Fault) -> io::Error {
        if let Some(error) = self.error.take() {
            return error;
        }
        let fault = if self.ended { "cut off".into() } else { fault };
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
