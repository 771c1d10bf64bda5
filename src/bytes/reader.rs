//! Reading in order, with skips.

use std::io::{self, BufRead, Read};

use super::source::ReadAt;

/// The number of zero bytes at the start. Compares 16 at a time, because padding can be long.
pub fn leading_zeros(bytes: &[u8]) -> usize {
    let (chunks, _) = bytes.as_chunks();
    let zero = |chunk: &&[u8; 16]| u128::from_ne_bytes(**chunk) == 0;
    let whole = chunks.iter().take_while(zero).count().saturating_mul(16);
    let rest = bytes.get(whole..).unwrap_or_default();
    let more = rest.iter().take_while(|byte| **byte == 0).count();
    whole.saturating_add(more)
}

/// Fills the buffer until the input ends; returns the number of bytes.
pub fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(n) => filled = filled.saturating_add(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Buffered reading that can skip bytes without reading them, where the source allows it.
pub trait Skip: BufRead {
    /// Skips `n` bytes; `UnexpectedEof` beyond the end.
    fn skip(&mut self, mut n: u64) -> io::Result<()> {
        while n > 0 {
            let have = self.fill_buf()?.len();
            if have == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = usize::try_from(n).unwrap_or(usize::MAX).min(have);
            self.consume(step);
            n = n.saturating_sub(step as u64);
        }
        Ok(())
    }

    /// The number of bytes ahead that are known to be zero without reading them. A system call: worthwhile
    /// after many zeros.
    fn hole(&self) -> u64 {
        0
    }
}

/// After this many zero bytes, [`skip_zeros`] tries [`Skip::hole`].
const MANY_ZEROS: u64 = 1 << 20;

impl<R: Read> Skip for io::BufReader<R> {}

impl<T: Skip + ?Sized> Skip for Box<T> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        (**self).skip(n)
    }

    fn hole(&self) -> u64 {
        (**self).hole()
    }
}

/// Skips zero bytes; returns their number, and the byte that follows, if there is one.
///
/// # Errors
/// The input cannot be read.
pub fn skip_zeros(input: &mut impl Skip) -> io::Result<(u64, Option<u8>)> {
    let (mut passed, mut looked_at) = (0u64, 0u64);
    loop {
        let ahead = input.fill_buf()?;
        let (zeros, end) = (leading_zeros(ahead), ahead.is_empty());
        let first = ahead.get(zeros).copied();
        input.consume(zeros);
        passed = passed.saturating_add(zeros as u64);
        if end || first.is_some() {
            return Ok((passed, first));
        }
        looked_at = looked_at.saturating_add(zeros as u64);
        if looked_at >= MANY_ZEROS {
            looked_at = 0;
            let hole = input.hole();
            input.skip(hole)?;
            passed = passed.saturating_add(hole);
        }
    }
}

/// The number of bytes that a [`Reader`] reads ahead: the most that one read of a sysfs file returns.
const WINDOW: usize = 4096;

/// Reads a [`ReadAt`] in order through a buffer of one page. Skipping does not read.
pub struct Reader<'a> {
    source: &'a dyn ReadAt,
    /// Offset of the next byte in `source`.
    position: u64,
    end: u64,
    window: Box<[u8; WINDOW]>,
    /// Bytes of `source` in the window: from `position - taken`, `filled` of them.
    taken: usize,
    filled: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `source` from `position` to its end.
    pub fn new(source: &'a dyn ReadAt, position: u64) -> Self {
        Self::bounded(source, position, u64::MAX)
    }

    /// A reader of `source` from `position`, to `end` or the end of `source`.
    pub fn bounded(source: &'a dyn ReadAt, position: u64, end: u64) -> Self {
        Self {
            source,
            position,
            end: end.min(source.size()),
            window: Box::new([0; WINDOW]),
            taken: 0,
            filled: 0,
        }
    }

    /// Offset of the next byte in the source.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn ahead(&self) -> &[u8] {
        self.window.get(self.taken..self.filled).unwrap_or_default()
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ahead().is_empty() {
            let left = self.end.saturating_sub(self.position);
            let n = usize::try_from(left).unwrap_or(WINDOW).min(WINDOW);
            self.taken = 0;
            self.filled = 0;
            if let Some(window) = self.window.get_mut(..n) {
                self.filled = self.source.read_at(window, self.position)?;
            }
        }
        Ok(self.ahead())
    }

    fn consume(&mut self, n: usize) {
        let n = n.min(self.ahead().len());
        self.taken = self.taken.saturating_add(n);
        self.position = self.position.saturating_add(n as u64);
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ahead().is_empty() && buf.len() >= WINDOW {
            // A large read bypasses the buffer.
            let left =
                usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
            let n = left.min(buf.len());
            let read = match buf.get_mut(..n) {
                Some(buf) => self.source.read_at(buf, self.position)?,
                None => 0,
            };
            self.position = self.position.saturating_add(read as u64);
            return Ok(read);
        }
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl Skip for Reader<'_> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        if n > self.end.saturating_sub(self.position) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position = self.position.saturating_add(n);
        self.taken = usize::try_from(n)
            .ok()
            .and_then(|n| self.taken.checked_add(n))
            .filter(|taken| *taken <= self.filled)
            .unwrap_or(self.filled);
        Ok(())
    }

    fn hole(&self) -> u64 {
        let data = self.source.next_data(self.position).min(self.end);
        data.saturating_sub(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Part;

    #[test]
    fn zeros_are_counted_up_to_the_first_other_byte() {
        for length in 0..70 {
            let mut bytes = vec![0; length];
            assert_eq!(leading_zeros(&bytes), length);
            bytes.extend([1, 0, 0]);
            assert_eq!(leading_zeros(&bytes), length);
        }
    }

    /// All zeros except the first and the last byte. Reading the others would take forever.
    struct Hollow;

    impl ReadAt for Hollow {
        fn size(&self) -> u64 {
            8 << 40
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            assert!(
                buf.is_empty() || offset < 2 << 20 || offset >= self.size() - 4096,
                "{offset:#x} is read"
            );
            let left = usize::try_from(self.size() - offset).unwrap_or(usize::MAX);
            let n = left.min(buf.len());
            buf[..n].fill(0);
            if offset == 0 {
                buf[0] = 1;
            }
            if n == left {
                buf[n - 1] = 2;
            }
            Ok(n)
        }

        fn next_data(&self, offset: u64) -> u64 {
            offset.max(self.size() - 4096)
        }
    }

    #[test]
    fn a_hole_is_skipped_and_not_read() {
        let size = Hollow.size();
        let mut whole = Reader::new(&Hollow, 1);
        assert_eq!(skip_zeros(&mut whole).unwrap(), (size - 2, Some(2)));
        assert_eq!(whole.position(), size - 1);
        let mut bounded = Reader::bounded(&Hollow, 1, 4 << 40);
        assert_eq!(skip_zeros(&mut bounded).unwrap(), ((4 << 40) - 1, None));
        let part = Part::new(&Hollow, 1, 4 << 40);
        assert_eq!(part.next_data(7), 4 << 40);
        assert_eq!(
            skip_zeros(&mut Reader::new(&part, 0)).unwrap(),
            (4 << 40, None)
        );
        let part = Part::new(&Hollow, 1, u64::MAX);
        assert_eq!(part.next_data(7), size - 4097);
    }

    /// Like sysfs: never more than `.1` bytes a read.
    struct Stingy<'a>(&'a [u8], usize);

    impl ReadAt for Stingy<'_> {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let n = buf.len().min(self.1);
            self.0.read_at(&mut buf[..n], offset)
        }
    }

    #[test]
    fn reading_and_skipping_see_the_same_bytes_whatever_a_read_returns() {
        let data: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        for stingy in [1, 7, 4096, 1 << 20] {
            let source = Stingy(&data, stingy);
            let mut reader = Reader::new(&source, 5);
            let mut one = [0; 1];
            let mut at = 5;
            for skip in [0, 1, 2, 4090, 4097, 9000] {
                reader.skip(skip).unwrap();
                at += skip;
                reader.read_exact(&mut one).unwrap();
                assert_eq!(one[0], data[at as usize], "offset {at}, {stingy} a read");
                at += 1;
                assert_eq!(reader.position(), at);
            }
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, data[at as usize..]);
            assert!(reader.skip(1).is_err());
        }
    }

    #[test]
    fn a_bounded_reader_stops_at_its_bound() {
        let source = &b"0123456789"[..];
        let mut reader = Reader::bounded(&source, 2, 5);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "234");
    }
}
