//! Temporary files with the plain bytes of layers.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};
use tar::Header;

use super::file_slice::FileSlice;
use super::sparse::{copy_with_holes, is_zero};
use crate::bytes::{ReadAt, Reader};
use crate::error::{Context, Error, Result};
use crate::format::compress::{Codec, Decoder};
use crate::tool::build::temp_files::TempFiles;
use crate::tool::progress::LongStep;

/// Holds the expanded sparse files of all layers.
pub struct SparseSpool<'a> {
    temp: &'a TempFiles,
    /// The number of files created so far, for their names.
    files: usize,
}

impl<'a> SparseSpool<'a> {
    /// An empty spool; its files are among `temp`.
    pub fn new(temp: &'a TempFiles) -> Self {
        Self { temp, files: 0 }
    }

    fn create(&mut self) -> Result<File> {
        self.files = self.files.saturating_add(1);
        let (file, path) = self.temp.create(&format!("spool{}", self.files))?;
        if let Some(path) = path {
            // It stays open.
            std::fs::remove_file(&path).during("remove", path.display())?;
        }
        Ok(file)
    }

    /// A file of `size` bytes with the pieces that `write` places in it.
    pub fn expand(
        &mut self,
        size: u64,
        write: impl FnOnce(&mut dyn FnMut(u64, &mut dyn Read) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<FileSlice> {
        let mut file = self
            .create()
            .map_err(|error| io::Error::other(error.to_string()))?;
        file.set_len(size)?;
        write(&mut |offset, piece| {
            file.seek(SeekFrom::Start(offset))?;
            copy_with_holes(piece, &mut file).map(drop)
        })?;
        file.set_len(size)?;
        Ok(FileSlice::new(file, size))
    }

    /// The plain bytes of a compressed archive, and their SHA-256. `object` is the archive in messages, `max` the most
    /// bytes to write.
    ///
    /// # Errors
    /// The archive is damaged, or unpacks to more than `max` bytes.
    pub fn decompress(
        &mut self,
        compressed: &FileSlice,
        codec: Codec,
        max: u64,
        object: &str,
    ) -> Result<(FileSlice, [u8; 32])> {
        let progress = LongStep::part(format_args!("decompress {object}"), compressed.size());
        let compressed = &progress.watch(compressed, 0);
        let mut file = self.create()?;
        let mut out = HashingWriter {
            file: &mut file,
            hasher: Sha256::new(),
            length: 0,
            max,
            sizes: Sizes::default(),
        };
        let mut position = 0;
        // An archive may be several streams: estargz and zstd:chunked compress each file separately.
        loop {
            let mut decoder = Decoder::new(codec, Reader::new(compressed, position))
                .during("decompress", object)?;
            io::copy(&mut decoder, &mut out).during("decompress", object)?;
            position = position.saturating_add(decoder.consumed());
            let mut next = [0; 512];
            let n = compressed
                .read_at(&mut next, position)
                .during("read", object)?;
            let next = next.get(..n).unwrap_or_default();
            if next.is_empty() {
                break;
            }
            if Codec::detect(next) != Some(codec) {
                if next.iter().all(|byte| *byte == 0) {
                    // Padding, which gzip(1) ignores.
                    break;
                }
                return Err(Error::new(
                    "decompress",
                    object,
                    "other bytes follow the compressed data",
                ));
            }
        }
        let (hash, length) = (out.hasher.finalize().into(), out.length);
        Ok((FileSlice::new(file, length), hash))
    }
}

struct HashingWriter<'a> {
    file: &'a mut File,
    hasher: Sha256,
    length: u64,
    max: u64,
    sizes: Sizes,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.length.saturating_add(bytes.len() as u64);
        self.sizes.watch(bytes, self.length);
        if length.max(self.sizes.total) > self.max {
            let what = format!(
                "it unpacks to more than {} GiB, too much for an initrd",
                self.max >> 30
            );
            return Err(io::Error::other(what));
        }
        self.hasher.update(bytes);
        // Zeros take no space.
        match is_zero(bytes) {
            false => self.file.write_all_at(bytes, self.length)?,
            true => self.file.set_len(length)?,
        }
        self.length = length;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds up the sizes in the headers of a tar archive while it is unpacked, so that a bomb is refused early.
#[derive(Default)]
struct Sizes {
    /// The offset of the next header byte. The watch ends at a block that is not a header.
    next: Option<u64>,
    /// The part of the header that has been seen.
    header: Vec<u8>,
    /// The bytes of all files so far.
    total: u64,
}

impl Sizes {
    /// Looks at bytes of the archive, from `offset` on.
    fn watch(&mut self, mut bytes: &[u8], mut offset: u64) {
        if offset == 0 {
            self.next = Some(0);
        }
        while let Some(next) = self.next
            && let Ok(skipped) = usize::try_from(next.saturating_sub(offset))
            && let Some(rest) = bytes.get(skipped..).filter(|rest| !rest.is_empty())
        {
            let wanted = HEADER.saturating_sub(self.header.len()).min(rest.len());
            let (part, rest) = rest.split_at(wanted);
            self.header.extend_from_slice(part);
            bytes = rest;
            offset = next.saturating_add(part.len() as u64);
            self.next = Some(offset);
            if self.header.len() < HEADER {
                return;
            }
            let size = file_size(&self.header);
            self.header.clear();
            self.total = self.total.saturating_add(size.unwrap_or(0));
            self.next =
                size.map(|size| offset.saturating_add(size.div_ceil(512).saturating_mul(512)));
        }
    }
}

/// Bytes of a header.
const HEADER: usize = 512;

/// The size of the file that a header of a tar archive describes.
fn file_size(header: &[u8]) -> Option<u64> {
    let mut parsed = Header::new_old();
    parsed
        .as_mut_bytes()
        .copy_from_slice(header.first_chunk::<HEADER>()?);
    let (stored, size) = (parsed.cksum().ok()?, parsed.entry_size().ok()?);
    parsed.set_cksum();
    (parsed.cksum().ok()? == stored).then_some(size)
}
