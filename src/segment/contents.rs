//! What the members of an archive add up to.

use super::Cpio;
use crate::compress::Codec;
use crate::cpio::Member;

/// Adds up an archive's members.
pub(super) struct Contents {
    cpio: Cpio,
    /// Whether there was anything but directories.
    files: bool,
}

impl Contents {
    /// Nothing yet, of an archive compressed with `codec` that the kernel's unpacker got to or not.
    pub fn new(codec: Option<Codec>, by_kernel: bool) -> Self {
        Self {
            cpio: Cpio {
                codec,
                members: 0,
                unpacked: 0,
                by_kernel,
                holds_init: false,
                has_root: false,
                only_early: codec.is_none(),
                only_layer_files: true,
            },
            files: false,
        }
    }

    pub fn add(&mut self, member: &Member, rdinit: &[u8]) {
        const PAGE: u64 = 4096;
        let cpio = &mut self.cpio;
        cpio.members = cpio.members.saturating_add(1);
        if !member.counts() {
            return;
        }
        let path = member.path();
        let directory = member.header.file_type() == libc::S_IFDIR;
        if member.header.file_type() == libc::S_IFREG {
            let pages = u64::from(member.header.filesize).div_ceil(PAGE);
            cpio.unpacked = cpio.unpacked.saturating_add(pages.saturating_mul(PAGE));
        }
        self.files |= !directory;
        cpio.holds_init |= !directory && path == rdinit;
        cpio.has_root |= directory && path.is_empty();
        let above = |whole: &[u8]| directory && (path.is_empty() || under(whole, &path));
        cpio.only_early &= path == b"early_cpio"
            || [&b"kernel/x86/microcode"[..], b"kernel/firmware/acpi"]
                .iter()
                .any(|place| under(&path, place) || above(place));
        cpio.only_layer_files &= under(&path, b"layers") || above(b"layers");
    }

    pub fn done(self) -> Cpio {
        Cpio {
            only_early: self.cpio.only_early && self.files,
            only_layer_files: self.cpio.only_layer_files && self.files,
            ..self.cpio
        }
    }
}

/// Whether `path` is `place` or lies below it.
fn under(path: &[u8], place: &[u8]) -> bool {
    match path.strip_prefix(place) {
        Some(rest) => rest.first().is_none_or(|byte| *byte == b'/'),
        None => false,
    }
}
