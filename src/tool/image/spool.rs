//! Archives as plain bytes that can be read at any offset: a compressed one is decompressed into an unnamed
//! temporary file.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read};

use crate::bytes::{Opened, ReadAt, Skip};
use crate::error::{Context, Result};
use crate::format::compress::Codec;
use crate::initrd;
use crate::tool::progress::LongStep;
use crate::tool::tmpfile;

/// An archive.
pub struct ArchiveSpool<'a> {
    source: &'a (dyn ReadAt + Sync),
    offset: u64,
    length: u64,
    codec: Option<Codec>,
    /// The decompressed archive, once it is needed.
    file: OnceCell<Opened>,
}

impl<'a> ArchiveSpool<'a> {
    /// The archive at `offset` of `source`, which takes `length` bytes there.
    pub fn new(
        source: &'a (dyn ReadAt + Sync),
        offset: u64,
        length: u64,
        codec: Option<Codec>,
    ) -> Self {
        Self {
            source,
            offset,
            length,
            codec,
            file: OnceCell::new(),
        }
    }

    /// Bytes that hold the plain archive, and its offset there.
    pub fn plain(&self) -> Result<(&(dyn ReadAt + Sync), u64)> {
        let Some(codec) = self.codec else {
            return Ok((self.source, self.offset));
        };
        if let Some(file) = self.file.get() {
            return Ok((file, 0));
        }
        let file = decompress(
            self.source,
            (self.offset, self.length),
            codec,
            (0, u64::MAX),
        )?;
        Ok((self.file.get_or_init(|| file), 0))
    }
}

/// Decompresses `part`, by offset and length, of the archive at the given offset and length.
///
/// # Errors
/// The archive is damaged, or the temporary file cannot be written.
pub fn decompress(
    source: &dyn ReadAt,
    archive: (u64, u64),
    codec: Codec,
    part: (u64, u64),
) -> Result<Opened> {
    let (offset, length) = archive;
    let context = || format!("archive at {offset:#x}");
    let progress = LongStep::part(format_args!("decompress the {}", context()), length);
    let source = progress.watch(source, offset);
    let archive =
        initrd::open_archive(&source, offset, length, Some(codec)).during("read", context())?;
    let mut input = archive.into_input();
    input.skip(part.0).during("read", context())?;
    let mut file = temporary()?;
    let copied = io::copy(&mut input.take(part.1), &mut file);
    let size = copied.during("decompress", context())?;
    Ok(Opened::new(file, size))
}

/// An unnamed temporary file.
fn temporary() -> Result<File> {
    let directory = std::env::temp_dir();
    if let Ok(file) = tmpfile::create(&directory) {
        return Ok(file);
    }
    let path = directory.join(format!("layerinit-{}", std::process::id()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.during("create", path.display())?;
    fs::remove_file(&path).during("remove", path.display())?;
    Ok(file)
}
