//! Several sources in one.

use std::io;

use super::source::ReadAt;

/// Several sources in a row as one source, with zeros in the gaps: the initrd that a boot loader makes of
/// several files.
#[derive(Default)]
pub struct Chain {
    /// In order, each with its start offset.
    parts: Vec<(u64, Box<dyn ReadAt + Send + Sync>)>,
    size: u64,
}

impl Chain {
    /// Appends a source at the next multiple of `align` bytes, and returns that offset.
    pub fn push(&mut self, part: Box<dyn ReadAt + Send + Sync>, align: u64) -> u64 {
        let start = self.size.checked_next_multiple_of(align.max(1));
        let start = start.unwrap_or(u64::MAX);
        self.size = start.saturating_add(part.size());
        self.parts.push((start, part));
        start
    }

    /// The part at `offset` and the offset in it, or `None` in a gap; and where the gap ends.
    fn at(&self, offset: u64) -> (Option<(&(dyn ReadAt + Send + Sync), u64)>, u64) {
        let next = self.parts.partition_point(|(start, _)| *start <= offset);
        let part = next.checked_sub(1).and_then(|index| self.parts.get(index));
        let inside = part.and_then(|(start, part)| {
            let offset = offset.saturating_sub(*start);
            (offset < part.size()).then_some((&**part, offset))
        });
        let end = self.parts.get(next).map_or(self.size, |(start, _)| *start);
        (inside, end)
    }
}

impl ReadAt for Chain {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (part, end) = self.at(offset);
        if let Some((part, offset)) = part {
            return part.read_at(buf, offset);
        }
        let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let n = left.min(buf.len());
        buf.get_mut(..n).unwrap_or_default().fill(0);
        Ok(n)
    }

    fn next_data(&self, offset: u64) -> u64 {
        match self.at(offset) {
            (Some((part, inside)), _) => {
                let data = part.next_data(inside).saturating_sub(inside);
                offset.saturating_add(data)
            }
            (None, end) => end.max(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing but its last byte is data.
    struct Hole;

    impl ReadAt for Hole {
        fn size(&self) -> u64 {
            8 << 40
        }

        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            panic!("nothing is to be read");
        }

        fn next_data(&self, offset: u64) -> u64 {
            offset.max(self.size() - 1)
        }
    }

    #[test]
    fn a_chain_reads_like_one_file_with_zeros_between() {
        let mut chain = Chain::default();
        for (part, align, start) in [
            ("abcde", 4, 0),
            ("", 4, 8),
            ("fgh", 1, 8),
            ("", 16, 16),
            ("i", 4, 16),
            ("jk", 1, 17),
        ] {
            assert_eq!(chain.push(Box::new(part.as_bytes()), align), start);
        }
        let whole = b"abcde\0\0\0fgh\0\0\0\0\0ijk";
        assert_eq!(chain.size(), whole.len() as u64);
        for start in 0..whole.len() + 2 {
            for n in 0..whole.len() + 2 {
                let mut buf = vec![0xEE; n];
                let expected = whole.get(start..start + n);
                let read = chain.read_exact_at(&mut buf, start as u64);
                assert_eq!(read.is_ok(), expected.is_some() || n == 0, "{start}, {n}");
                if read.is_ok() {
                    assert_eq!(Some(&buf[..]), expected.or(Some(&[])), "{start}, {n}");
                }
            }
        }
        assert_eq!(Chain::default().read_at(&mut [0; 4], 0).unwrap(), 0);
    }

    #[test]
    fn a_chain_knows_the_holes_of_its_parts() {
        let mut chain = Chain::default();
        chain.push(Box::new(&b"abc"[..]), 1);
        let start = chain.push(Box::new(Hole), 4096);
        chain.push(Box::new(&b"d"[..]), 1 << 20);
        let end = start + Hole.size();
        for (offset, data) in [
            (1, 1),
            (3, start),
            (start + 1, end - 1),
            (end - 1, end - 1),
            (end + 1, (8 << 40) + (1 << 20)),
        ] {
            assert_eq!(chain.next_data(offset), data, "{offset:#x}");
        }
    }
}
