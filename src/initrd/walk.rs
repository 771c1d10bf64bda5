//! The walk from segment to segment.

use std::io::{self, BufRead};

use super::bootconfig::{self, Trailer};
use super::contents::Contents;
use super::stop::STOP;
use super::{Kind, Segment, Walk, foreign, sums};
use crate::bytes::{Part, ReadAt, Reader, Skip, fill, skip_zeros};
use crate::error::{Cause, Context, Error, Result};
use crate::format::compress::{Codec, Decoder};
use crate::format::cpio::{self, Archive, Next};
use crate::format::erofs::{self, SUPER_OFFSET, Superblock};
use crate::format::squashfs::{self, SquashfsSuperblock};

/// More than any real image has: limits the memory that a hostile one takes.
const MAX_SEGMENTS: usize = 8192;

/// The state of a walk.
pub(super) struct Walker<'a> {
    image: &'a dyn ReadAt,
    rdinit: Vec<u8>,
    /// The offset of the next segment.
    position: u64,
    /// The end of the segments: the bootconfig trailer, or the end of the image.
    end: u64,
    /// An EROFS or SquashFS image in front ends the walk.
    up_to_image: bool,
    /// So many zero bytes end the walk.
    padding_max: u64,
    /// Unrecognised data is a bootconfig that the kernel ignores.
    damaged_trailer: bool,
    /// Whether the kernel's unpacker has got this far.
    by_kernel: bool,
    segments: Vec<Segment>,
}

impl<'a> Walker<'a> {
    /// A walk from the start of `image`, where the kernel starts `rdinit`.
    pub(super) fn new(image: &'a dyn ReadAt, rdinit: &[u8]) -> Self {
        Self {
            image,
            rdinit: cpio::normalized(rdinit),
            position: 0,
            end: image.size(),
            up_to_image: false,
            padding_max: u64::MAX,
            damaged_trailer: false,
            by_kernel: true,
            segments: Vec::new(),
        }
    }

    /// Ends the walk after an EROFS or SquashFS image at offset 0.
    pub(super) fn up_to_image(self) -> Self {
        Self {
            up_to_image: true,
            ..self
        }
    }

    /// Ends the walk where `max` zero bytes follow.
    pub(super) fn with_padding(self, max: u64) -> Self {
        Self {
            padding_max: max,
            ..self
        }
    }

    /// Walks to the end, or to the first fault.
    pub(super) fn walk(mut self) -> Walk {
        let trouble = self.run().err();
        Walk {
            segments: self.segments,
            trouble,
        }
    }

    fn run(&mut self) -> Result<()> {
        let trailer = bootconfig::find(self.image).during("read", "the end of the initrd")?;
        self.damaged_trailer = matches!(trailer, Some(Trailer::Damaged));
        if let Some(Trailer::Intact(trailer)) = &trailer {
            self.end = trailer.offset;
        }
        while self.position < self.end {
            if self.segments.len() >= MAX_SEGMENTS {
                return Err(
                    self.trouble(self.position, format!("more than {MAX_SEGMENTS} segments"))
                );
            }
            self.segment()?;
            if self.up_to_image
                && let [Segment { kind, .. }] = self.segments.as_slice()
                && matches!(kind, Kind::Erofs(_) | Kind::Squashfs(_))
            {
                return Ok(());
            }
        }
        if let Some(Trailer::Intact(trailer)) = trailer {
            self.segments.push(trailer);
        }
        Ok(())
    }

    /// Adds the next segment, and the padding before it.
    fn segment(&mut self) -> Result<()> {
        let padding_end = self.position.saturating_add(self.padding_max);
        let start = self.first_nonzero(padding_end)?;
        if start >= padding_end {
            self.end = self.position;
            return Ok(());
        }
        if start == self.end {
            self.push(start, Kind::Padding);
            return Ok(());
        }
        let mut first = [0; 8];
        let n = usize::try_from(self.end.saturating_sub(start))
            .unwrap_or(8)
            .min(8);
        let first = first.get_mut(..n).unwrap_or_default();
        self.image
            .read_exact_at(first, start)
            .during("read at", format_args!("{start:#x}"))?;

        if first.starts_with(b"0707") {
            return self.plain(start);
        }
        if self.stop(start, first)? {
            return Ok(());
        }
        // `start` is the superblock, if the 1024 bytes before it are zero, or the first of these. They can
        // hold anything: `erofs_around` tries the others.
        if self.erofs_at(start.checked_sub(SUPER_OFFSET))? || self.erofs_at(Some(start))? {
            return Ok(());
        }
        if self.squashfs(start, first)? {
            return Ok(());
        }
        if let Some(codec) = Codec::detect(first) {
            let refused = codec.kernel_refusal(first);
            return self.compressed(start, codec, refused);
        }
        if self.erofs_around(start)? {
            return Ok(());
        }
        if first.starts_with(&erofs::MAGIC) {
            let what = "an EROFS superblock, but not the 1024 bytes that belong before it";
            return Err(self.trouble(start, what));
        }
        if self.damaged_trailer && self.end.saturating_sub(start) <= bootconfig::LENGTH_MAX {
            self.push(start, Kind::Padding);
            self.push(self.end, Kind::Bootconfig { intact: false });
            return Ok(());
        }
        if let Some((offset, what)) =
            foreign::name(&Part::new(self.image, 0, self.end), self.position, start)
        {
            return Err(self.trouble(offset, what));
        }
        let what = format!("neither cpio nor EROFS: {}{}", shown(first), known(first));
        Err(self.trouble(start, what))
    }

    /// The offset of the next byte other than zero, or the end, or `limit`.
    fn first_nonzero(&self, limit: u64) -> Result<u64> {
        let end = self.end.min(limit);
        let mut reader = Reader::bounded(self.image, self.position, end);
        let skipped = skip_zeros(&mut reader);
        let at = reader.position();
        match skipped.during("read at", format_args!("{at:#x}"))? {
            (_, None) if at < end => Err(self.trouble(at, "the source ends early")),
            _ => Ok(at),
        }
    }

    /// Adds the stop at `start`, if there is one. `first` are the bytes there.
    fn stop(&mut self, start: u64, first: &[u8]) -> Result<bool> {
        let end = start.saturating_add(STOP.len() as u64);
        if !STOP.starts_with(first) || first.is_empty() || end > self.end {
            return Ok(false);
        }
        let mut bytes = [0; STOP.len()];
        self.image
            .read_exact_at(&mut bytes, start)
            .during("read at", format_args!("{start:#x}"))?;
        if bytes != *STOP {
            return Ok(false);
        }
        self.by_kernel = false;
        self.push(start, Kind::Padding);
        self.push(end, Kind::Stop);
        Ok(true)
    }

    /// Adds the EROFS image at `start`, if there is one and it does not overlap the last segment.
    fn erofs_at(&mut self, start: Option<u64>) -> Result<bool> {
        let Some(start) = start.filter(|start| *start >= self.position) else {
            return Ok(false);
        };
        let image = Part::new(self.image, 0, self.end);
        let superblock = Superblock::read(&image, start).during(
            "read",
            format_args!("EROFS superblock of initrd at {start:#x}"),
        )?;
        let Some(superblock) = superblock else {
            return Ok(false);
        };
        self.by_kernel = false;
        let (length, left) = (superblock.length(), self.end.saturating_sub(start));
        if length > left {
            let what = format!(
                "truncated EROFS image: its superblock says {length} bytes, the initrd has {left} from here"
            );
            return Err(self.trouble(start, what));
        }
        if length <= SUPER_OFFSET {
            return Err(self.trouble(start, "EROFS image of no blocks"));
        }
        self.push(start, Kind::Padding);
        self.push(start.saturating_add(length), Kind::Erofs(superblock));
        Ok(true)
    }

    /// Adds the SquashFS image at `start`, if there is one.
    fn squashfs(&mut self, start: u64, first: &[u8]) -> Result<bool> {
        if !first.starts_with(&squashfs::MAGIC) {
            return Ok(false);
        }
        let image = Part::new(self.image, 0, self.end);
        let superblock = SquashfsSuperblock::read(&image, start)
            .during("read", format_args!("SquashFS superblock at {start:#x}"))?;
        let Some(superblock) = superblock else {
            return Ok(false);
        };
        self.by_kernel = false;
        let (length, left) = (superblock.bytes_used, self.end.saturating_sub(start));
        if length > left {
            let what = format!(
                "truncated SquashFS image: its superblock says {length} bytes, and {left} follow from here"
            );
            return Err(self.trouble(start, what));
        }
        self.push(start, Kind::Padding);
        self.push(start.saturating_add(length), Kind::Squashfs(superblock));
        Ok(true)
    }

    /// Adds an EROFS image that has `start` in its first 1024 bytes. This does not search data: nothing else
    /// can be here.
    fn erofs_around(&mut self, start: u64) -> Result<bool> {
        let mut reader = Reader::bounded(self.image, start, self.end);
        let mut near = [0; 2 * SUPER_OFFSET as usize];
        let filled = fill(&mut reader, &mut near).during("read at", format_args!("{start:#x}"))?;
        let near = near.get(..filled).unwrap_or_default();
        for (distance, window) in near.windows(4).take(SUPER_OFFSET as usize).enumerate() {
            let superblock = start.saturating_add(distance as u64);
            if window == erofs::MAGIC && self.erofs_at(superblock.checked_sub(SUPER_OFFSET))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Why the kernel's unpacker stops at an archive at this offset, if it got here.
    fn unaligned(&mut self, start: u64) -> Option<&'static str> {
        if start.is_multiple_of(4) || !self.by_kernel {
            return None;
        }
        self.by_kernel = false;
        Some(
            "it does not start at a multiple of 4 (pad the file in front of it with truncate -s %4)",
        )
    }

    fn plain(&mut self, start: u64) -> Result<()> {
        let refused = self.unaligned(start);
        let mut contents = Contents::new(None, self.by_kernel, refused);
        let mut archive = Archive::new(Reader::bounded(self.image, start, self.end));
        let end = self.members(&mut archive, start, None, &mut contents)?;
        let end = start.saturating_add(end).min(self.end);
        self.push(start, Kind::Padding);
        self.archive(end, contents);
        Ok(())
    }

    fn compressed(
        &mut self,
        start: u64,
        codec: Codec,
        refused: Option<&'static str>,
    ) -> Result<()> {
        // The kernel's unpacker requires alignment after a plain archive, too ("broken padding", do_reset()
        // in init/initramfs.c).
        let plain =
            |segment: &Segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.codec.is_none());
        let unaligned = match self.segments.last().is_some_and(plain) {
            true => self.unaligned(start),
            false => None,
        };
        let refused = unaligned.or(refused.filter(|_| self.by_kernel));
        self.by_kernel &= refused.is_none();
        let mut contents = Contents::new(Some(codec), self.by_kernel, refused);
        let whole = Part::new(self.image, 0, self.end);
        let decoder = Decoder::new(codec, Reader::new(&whole, start))
            .during("read at", format_args!("{start:#x}"))?;
        let mut archive = Archive::new(io::BufReader::new(decoder));
        self.members(&mut archive, start, Some(codec), &mut contents)?;
        let at = archive.position();
        let mut rest = archive.into_input();
        let junk = rest.fill_buf().during(
            "read",
            format_args!("{codec} archive of initrd at {start:#x}"),
        )?;
        if junk.starts_with(&erofs::MAGIC) && at == SUPER_OFFSET {
            let what = format!("an EROFS image compressed with {codec}: append it uncompressed");
            return Err(self.trouble(start, what));
        }
        if !junk.is_empty() {
            let what = format!(
                "{codec} archive with something other than cpio at {at:#x} of its content: {}",
                shown(junk)
            );
            return Err(self.trouble(start, what));
        }
        let end = start.saturating_add(rest.into_inner().consumed());
        self.push(start, Kind::Padding);
        self.archive(end, contents);
        // The kernel's LZ4 decoder reads the next four bytes as a length, unless they are zero, and fails
        // after it has unpacked the archive (lib/decompress_unlz4.c).
        let mut next = [0; 4];
        if codec == Codec::Lz4 && self.image.read_exact_at(&mut next, end).is_ok() && next != [0; 4]
        {
            self.by_kernel = false;
        }
        Ok(())
    }

    /// Reads the members of the archive at `start`, and returns its length: without a trailer up to the last
    /// member, not up to the zeros after it. A compressed archive goes on after a trailer.
    fn members<I: Skip>(
        &self,
        archive: &mut Archive<I>,
        start: u64,
        codec: Option<Codec>,
        contents: &mut Contents,
    ) -> Result<u64> {
        let mut end = 0;
        loop {
            let next = archive.next_member();
            contents.stop_at_name(archive.unterminated());
            match next.map_err(|error| self.inside(start, error))? {
                Next::Member(member) => {
                    end = member.body.saturating_add(member.header.filesize.into());
                    end = end.saturating_add(member.header.body_padding());
                    contents.add(&member, &self.rdinit);
                    let lies = sums::ArchivePlace {
                        image: &Part::new(self.image, 0, self.end),
                        before: &self.segments,
                        start,
                        codec,
                    };
                    sums::look(&member, archive, &lies, contents)
                        .during("read at", format_args!("{start:#x}"))?;
                }
                Next::Trailer if codec.is_none() => return Ok(archive.position()),
                Next::Trailer => {}
                Next::End => return Ok(end),
            }
        }
    }

    /// Ends an archive at `end`.
    fn archive(&mut self, end: u64, contents: Contents) {
        let cpio = contents.done();
        self.by_kernel &= cpio.stopped_at().is_none();
        self.push(end, Kind::Cpio(cpio));
    }

    /// Ends a segment at `end`, unless it is empty.
    fn push(&mut self, end: u64, kind: Kind) {
        let length = end.saturating_sub(self.position);
        if length > 0 {
            self.segments.push(Segment {
                offset: self.position,
                length,
                kind,
            });
            self.position = end;
        }
    }

    fn trouble(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::new("read at", format_args!("{offset:#x}"), what)
    }

    fn inside(&self, start: u64, error: Error) -> Error {
        Error::with(
            "read at",
            format_args!("{start:#x}"),
            Cause::Because(Box::new(error)),
        )
    }
}

/// The first bytes as hexadecimal and text, for a message.
fn shown(bytes: &[u8]) -> String {
    let bytes = bytes.get(..8).unwrap_or(bytes);
    let mut text = String::new();
    for byte in bytes {
        text.push_str(&format!("{byte:02x} "));
    }
    text.push_str(&format!("\"{}\"", bytes.escape_ascii()));
    text
}

/// A hint about data that is often appended by mistake.
fn known(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x04, 0x22, 0x4d, 0x18, ..] => {
            " (an LZ4 frame: the kernel and this program take those of lz4 -l)"
        }
        _ => "",
    }
}
