//! Random access to bytes: in memory, in a file, and in a part of either.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// Random access to bytes that need not be in memory.
pub trait ReadAt {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Reads up to `buf.len()` bytes at `offset`; 0 only at the end. A short read is not an error: sysfs
    /// returns a page at a time.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The offset of the first byte at or after `offset` that may be nonzero; the size if there is none. A
    /// sparse file skips its holes (lseek(2), SEEK_DATA).
    fn next_data(&self, offset: u64) -> u64 {
        offset
    }

    /// Reads exactly `buf.len()` bytes at `offset`, or `UnexpectedEof`.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.read_at(buf, offset)?;
            let rest = buf.get_mut(n..).unwrap_or_default();
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset = offset.saturating_add(n as u64);
            buf = rest;
        }
        Ok(())
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buf, offset)
    }
}

/// An open file, or block device, and its length.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: File,
    size: u64,
}

impl Opened {
    /// Opens a regular file for reading, or a file of sysfs whose size is known.
    ///
    /// # Errors
    /// It does not exist, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        // Without O_NONBLOCK open(2) waits for the other end of a FIFO, which is refused below.
        let mut options = File::options();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).during("open", path.display())?;
        let metadata = file.metadata().during("stat", path.display())?;
        if !metadata.is_file() {
            return Err(Error::new("open", path.display(), "not a regular file"));
        }
        Ok(Self::new(file, metadata.len()))
    }

    /// A file of `size` bytes.
    pub fn new(file: File, size: u64) -> Self {
        Self { file, size }
    }
}

impl ReadAt for Opened {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn next_data(&self, offset: u64) -> u64 {
        // This moves the file position, which `read_at` does not use.
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data.clamp(offset, self.size.max(offset)),
            Err(Errno::NXIO) => self.size.max(offset),
            // No support for holes, such as a block device.
            Err(_) => offset,
        }
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> u64 {
        (**self).next_data(offset)
    }
}

/// A part of a source, itself a source.
pub struct Part<T> {
    whole: T,
    offset: u64,
    length: u64,
}

impl<T: ReadAt> Part<T> {
    /// `length` bytes of `whole` from `offset`, or up to the end of `whole`.
    pub fn new(whole: T, offset: u64, length: u64) -> Self {
        let length = length.min(whole.size().saturating_sub(offset));
        Self {
            whole,
            offset,
            length,
        }
    }
}

impl<T: ReadAt> ReadAt for Part<T> {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(offset);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        match buf.get_mut(..n) {
            Some(buf) if n > 0 => self.whole.read_at(buf, self.offset.saturating_add(offset)),
            _ => Ok(0),
        }
    }

    fn next_data(&self, offset: u64) -> u64 {
        let data = self.whole.next_data(self.offset.saturating_add(offset));
        data.saturating_sub(self.offset)
            .clamp(offset, self.length.max(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_where_the_whole_ends() {
        let part = Part::new(&b"0123456789"[..], 8, 100);
        assert_eq!(part.size(), 2);
        let mut buf = [0; 4];
        assert_eq!(part.read_at(&mut buf, 1).unwrap(), 1);
        assert_eq!(&buf[..1], b"9");
        assert_eq!(part.read_at(&mut buf, 2).unwrap(), 0);
        assert!(part.read_exact_at(&mut buf, 0).is_err());
    }
}
