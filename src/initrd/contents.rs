//! The summary of an archive, member by member.

use std::io;

use super::Cpio;
use super::file_pages::FilePages;
use super::member::wrong_sum;
use crate::bytes::Skip;
use crate::format::compress::Codec;
use crate::format::cpio::{Archive, Member};

/// Summarises the members of an archive.
pub(super) struct Contents {
    cpio: Cpio,
    /// Whether there is anything but directories.
    files: bool,
    /// Members with a wrong sum so far that may not have stopped the kernel.
    doubts: u32,
}

impl Contents {
    /// An empty summary of an archive compressed with `codec`. `by_kernel` and `refused` are those of
    /// [`Cpio`].
    pub fn new(codec: Option<Codec>, by_kernel: bool, refused: Option<&'static str>) -> Self {
        Self {
            cpio: Cpio {
                codec,
                members: 0,
                unpacked: FilePages::default(),
                by_kernel,
                refused,
                bad_sum: None,
                bad_name: None,
                holds_init: false,
                has_root: false,
                only_early: codec.is_none(),
                only_layer_files: true,
                only_extra: true,
            },
            files: false,
            doubts: 0,
        }
    }

    pub fn add(&mut self, member: &Member, rdinit: &[u8]) {
        let cpio = &mut self.cpio;
        cpio.members = cpio.members.saturating_add(1);
        if !member.counts() {
            return;
        }
        let path = member.path();
        let directory = member.header.file_type() == libc::S_IFDIR;
        if member.header.file_type() == libc::S_IFREG {
            cpio.unpacked.add(member.header.filesize.into());
        }
        self.files |= !directory;
        cpio.holds_init |= !directory && path == rdinit && cpio.stopped_at().is_none();
        cpio.has_root |= directory && path.is_empty();
        let above = |whole: &[u8]| directory && (path.is_empty() || under(whole, &path));
        cpio.only_early &= path == b"early_cpio"
            || [&b"kernel/x86/microcode"[..], b"kernel/firmware/acpi"]
                .iter()
                .any(|place| under(&path, place) || above(place));
        cpio.only_layer_files &= under(&path, b"layers") || above(b"layers");
        cpio.only_extra &= under(&path, b".extra") || above(b".extra");
    }

    /// Whether the kernel would compute another sum of this member's body, which is next in the archive,
    /// than the header has.
    pub fn is_wrong<I: Skip>(&self, member: &Member, archive: &mut Archive<I>) -> io::Result<bool> {
        if !self.cpio.by_kernel || !member.counts() || self.cpio.stopped_at().is_some() {
            return Ok(false);
        }
        match wrong_sum(member, archive) {
            // The caller gets the error when it reads the next member.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            sum => Ok(sum?.is_some()),
        }
    }

    /// Counts a member with a wrong sum that the kernel may have skipped; true after too many.
    pub fn too_many_doubts(&mut self) -> bool {
        const DOUBTS_MAX: u32 = 8;
        self.doubts = self.doubts.saturating_add(1);
        self.doubts > DOUBTS_MAX
    }

    /// Records that the kernel stops at this member.
    pub fn stop(&mut self, member: &Member) {
        self.cpio.bad_sum = Some(member.offset);
    }

    /// Records that the kernel stops at the first name without NUL, if it unpacks the archive and has not
    /// stopped before.
    pub fn stop_at_name(&mut self, unterminated: Option<u64>) {
        if self.cpio.by_kernel && self.cpio.stopped_at().is_none() {
            self.cpio.bad_name = unterminated;
        }
    }

    pub fn done(self) -> Cpio {
        Cpio {
            only_early: self.cpio.only_early && self.files,
            only_layer_files: self.cpio.only_layer_files && self.files,
            only_extra: self.cpio.only_extra && self.files,
            ..self.cpio
        }
    }
}

/// Whether `path` is `place` or below it.
pub(super) fn under(path: &[u8], place: &[u8]) -> bool {
    match path.strip_prefix(place) {
        Some(rest) => rest.first().is_none_or(|byte| *byte == b'/'),
        None => false,
    }
}
