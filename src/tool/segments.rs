//! `layerinit extract --segments`: the parts of an image as they are. `cat` joins them to the same image.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::image::boot::walk;
use super::image::input::{ImagePart, Initrd};
use super::progress::LongStep;
use crate::bytes::{ReadAt, Reader};
use crate::error::{Context, Error, Result};
use crate::initrd::{Kind, Segment};

/// A part of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SegmentFile {
    offset: u64,
    length: u64,
    /// The suffix of its name.
    suffix: String,
}

/// Writes the parts into a directory, which is created if it is missing. False if some of the image is not
/// recognised; that is a separate part then.
///
/// # Errors
/// The image cannot be read, or a file cannot be created, for example because one of that name exists.
pub fn write(image: &Initrd, directory: &Path) -> Result<bool> {
    let walk = walk(image, b"/init");
    let segments = walk.segments.iter().map(|segment| SegmentFile {
        offset: segment.offset,
        length: segment.length,
        suffix: suffix(segment),
    });
    // For a single file all parts, including those around the initrd.
    let file = image.only_file()?;
    let (source, known): (&dyn ReadAt, Vec<_>) = match &file {
        Some(file) => (file, in_file(segments.collect(), image.all_pieces())),
        None => (image, segments.collect()),
    };
    let parts = parts(known, source.size());
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).during("create", directory.display());
        }
        _ => {}
    }
    // All numbers have as many digits, so that the shell sorts them.
    let width = parts.len().saturating_sub(1).to_string().len();
    for (number, part) in parts.iter().enumerate() {
        let path = directory.join(format!("{number:0width$}.{}", part.suffix));
        let progress = LongStep::layer(format_args!("extract {}", path.display()), part.length);
        let source = progress.watch(source, part.offset);
        let file = File::create_new(&path).during("create", path.display())?;
        let end = part.offset.saturating_add(part.length);
        let mut input = Reader::bounded(&source, part.offset, end);
        let mut output = BufWriter::with_capacity(1 << 20, file);
        let copied = io::copy(&mut input, &mut output).and_then(|n| output.flush().map(|()| n));
        let copied = copied.during("write", path.display())?;
        if copied != part.length {
            return Err(Error::new(
                "read",
                &image.name,
                "the image became shorter while it was read",
            ));
        }
        progress.finish();
    }
    match walk.trouble {
        Some(trouble) => Err(trouble),
        None => Ok(true),
    }
}

fn suffix(segment: &Segment) -> String {
    match &segment.kind {
        Kind::Cpio(cpio) => match cpio.codec {
            None => "cpio".into(),
            Some(codec) => codec.archive_suffix().into(),
        },
        Kind::Erofs(_) => "erofs".into(),
        Kind::Squashfs(_) => "squashfs".into(),
        Kind::Bootconfig { .. } => "bootconfig".into(),
        Kind::Stop => "stop".into(),
        Kind::Padding => PADDING.into(),
    }
}

const PADDING: &str = "padding";

/// The places of the parts of an initrd in the file that its pieces come from.
fn in_file(parts: Vec<SegmentFile>, pieces: &[ImagePart]) -> Vec<SegmentFile> {
    let mut found = Vec::new();
    for part in &parts {
        let end = part.offset.saturating_add(part.length);
        for piece in pieces {
            let start = part.offset.max(piece.offset);
            let end = end.min(piece.offset.saturating_add(piece.length));
            if start < end {
                found.push(SegmentFile {
                    offset: start.saturating_sub(piece.offset).saturating_add(piece.at),
                    length: end.saturating_sub(start),
                    suffix: part.suffix.clone(),
                });
            }
        }
    }
    found
}

/// All parts of a file, of which the given ones are known. Padding belongs to the part before it.
fn parts(mut known: Vec<SegmentFile>, size: u64) -> Vec<SegmentFile> {
    known.sort_by_key(|part| part.offset);
    let mut parts: Vec<SegmentFile> = Vec::new();
    let mut end = 0;
    let other = |offset: u64, end: u64| SegmentFile {
        offset,
        length: end.saturating_sub(offset),
        suffix: "other".into(),
    };
    for part in known {
        if part.offset > end {
            parts.push(other(end, part.offset));
        }
        end = part.offset.saturating_add(part.length);
        match parts.last_mut() {
            Some(last) if part.suffix == PADDING => {
                last.length = last.length.saturating_add(part.length);
            }
            _ => parts.push(part),
        }
    }
    if size > end {
        parts.push(other(end, size));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_part() {
        let part = |(offset, length, suffix): (u64, u64, &str)| SegmentFile {
            offset,
            length,
            suffix: suffix.into(),
        };
        for (known, size, expected) in [
            (&[][..], 0, &[][..]),
            (&[], 7, &[(0, 7, "other")]),
            (
                &[(0, 8, "cpio"), (8, 4, "padding"), (12, 4, "erofs")],
                16,
                &[(0, 12, "cpio"), (12, 4, "erofs")],
            ),
            (
                &[(0, 4, "padding"), (4, 4, "erofs")],
                8,
                &[(0, 4, "padding"), (4, 4, "erofs")],
            ),
            (
                // The sections of a PE file need not be in the order of the initrd.
                &[(90, 10, "cpio"), (64, 6, "erofs"), (70, 2, "padding")],
                110,
                &[
                    (0, 64, "other"),
                    (64, 8, "erofs"),
                    (72, 18, "other"),
                    (90, 10, "cpio"),
                    (100, 10, "other"),
                ],
            ),
        ] {
            let known = known.iter().copied().map(part).collect();
            let expected: Vec<_> = expected.iter().copied().map(part).collect();
            assert_eq!(parts(known, size), expected);
        }
    }
}
