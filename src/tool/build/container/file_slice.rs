//! A part of an open file: the bytes of a regular file of a layer, or of a blob.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::bytes::ReadAt;

/// Bytes of an open file.
#[derive(Clone, Debug)]
pub struct FileSlice {
    /// The file. Its position is not used.
    file: Arc<File>,
    offset: u64,
    length: u64,
}

impl FileSlice {
    /// All of a file of `length` bytes.
    pub fn new(file: File, length: u64) -> Self {
        Self {
            file: Arc::new(file),
            offset: 0,
            length,
        }
    }

    /// `length` bytes from `offset` on, or `None` beyond the end.
    pub fn part(&self, offset: u64, length: u64) -> Option<Self> {
        let end = offset.checked_add(length)?;
        (end <= self.length).then(|| Self {
            file: self.file.clone(),
            offset: self.offset.saturating_add(offset),
            length,
        })
    }

    /// Reads from the start.
    pub fn reader(&self) -> FileSliceReader<'_> {
        FileSliceReader {
            content: self,
            position: 0,
        }
    }
}

impl ReadAt for FileSlice {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(offset);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..n).unwrap_or_default();
        loop {
            match self.file.read_at(buf, self.offset.saturating_add(offset)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

/// Reads a [`FileSlice`] in order.
#[derive(Debug)]
pub struct FileSliceReader<'a> {
    content: &'a FileSlice,
    position: u64,
}

impl Read for FileSliceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read_at(buf, self.position)?;
        if n == 0 && !buf.is_empty() && self.position < self.content.length {
            let what = "it became shorter while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        self.position = self.position.saturating_add(n as u64);
        Ok(n)
    }
}

impl Seek for FileSliceReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.content.length.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
