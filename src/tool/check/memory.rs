//! How much memory a boot takes at its peak, before the real init starts.
//!
//! Counted is what the image decides, in bytes:
//!
//! * the initrd itself, where the boot loader put it: until the kernel has unpacked it, and for the
//!   life of the system where it is kept (retain_initrd, or the memback patches);
//! * the files that the kernel unpacks out of it, in whole pages, until the switch to the new root;
//! * the archives that become layers, in whole pages, for the life of the system;
//! * for each file of both what its inode and its names take ([`Cpio::memory`](crate::initrd::Cpio::memory));
//! * what it takes to decompress the largest of the archives.
//!
//! Not counted is what can be had back: pages of EROFS files. Nor what the kernel takes for itself,
//! for which [`KERNEL`] stands.

use std::fmt;
use std::io::Read;

use super::firmware::Firmware;
use crate::bytes::{Part, ReadAt, Reader};
use crate::format::compress::Codec;
use crate::initrd::Kind;
use crate::plan::{Content, Plan};
use crate::tool::image::boot::Boot;

/// What a distribution's kernel takes for itself and /init: code, page structures, drivers. qemu/memory
/// measures what images boot with; with Debian's 6.12 that was 0 to 11 % below what is said here.
pub const KERNEL: u64 = 80 << 20;

/// Of most machines.
const PAGE: u64 = 4096;

/// What of that its page allocator never gets.
const RESERVED: u64 = 56 << 20;

/// What a boot takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The image.
    pub initrd: u64,
    /// Whether it stays when it has been unpacked.
    pub retained: bool,
    /// Files that the kernel unpacks.
    pub rootfs: u64,
    /// Whether the whole initrd is one of them, /initrd.image.
    pub copied: bool,
    /// Of that, what they have in them: whole pages.
    pub content: u64,
    /// How many they are.
    pub members: u64,
    /// Whether those are in a tmpfs, which takes half of the memory at most.
    pub capped: bool,
    /// Archives that `/init` unpacks.
    pub layers: u64,
    /// The largest window and buffers of the kernel's decompressors.
    pub by_kernel: u64,
    /// The same for those of `/init`.
    pub by_init: u64,
    /// Who loads the initrd, if that is known.
    pub firmware: Option<Firmware>,
}

impl Memory {
    /// Adds up what the plan for an image takes. A kernel that `copies` an initrd which is not all archives
    /// (CONFIG_BLK_DEV_RAM=y) makes a file of it, /initrd.image, before it frees it. Where the initrd is
    /// kept that file is not needed: as much is written as half of the memory takes, and given back.
    pub fn of(image: &dyn ReadAt, boot: &Boot, plan: &Plan, copies: bool) -> Self {
        let options = &boot.options;
        let mut memory = Self {
            initrd: image.size(),
            retained: options.retain_initrd,
            capped: options.rootfs_is_tmpfs(),
            ..Self::default()
        };
        for segment in boot.image().into_iter().flat_map(|walk| &walk.segments) {
            if let Kind::Cpio(cpio) = &segment.kind
                && cpio.by_kernel
            {
                memory.rootfs = memory.rootfs.saturating_add(cpio.memory(false));
                memory.content = memory.content.saturating_add(cpio.unpacked);
                memory.members = memory.members.saturating_add(cpio.members);
                let window = window(image, segment.offset, cpio.codec);
                memory.by_kernel = memory.by_kernel.max(window);
            }
        }
        let needed = copies && !(memory.retained && memory.capped);
        if needed && boot.image().is_some_and(|walk| !walk.is_unpacked_whole()) {
            let pages = image.size().div_ceil(PAGE).saturating_mul(PAGE);
            memory.copied = true;
            memory.rootfs = memory.rootfs.saturating_add(pages);
            memory.content = memory.content.saturating_add(pages);
            memory.members = memory.members.saturating_add(1);
        }
        let sources = &boot.sources;
        for layer in &plan.layers {
            let Content::Cpio { codec, .. } = layer.content else {
                continue;
            };
            let found = sources.get(layer.source);
            let mut segments = found.into_iter().flat_map(|found| &found.walk.segments);
            if let Some(segment) = segments.find(|segment| segment.offset == layer.offset)
                && let Kind::Cpio(cpio) = &segment.kind
            {
                memory.layers = memory.layers.saturating_add(cpio.memory(true));
            }
            // Of a file of /layers the bytes are not at hand.
            let window = match layer.place {
                crate::plan::Place::File(_) => codec.map_or(0, |codec| codec.memory(&[])),
                _ => window(image, layer.offset, codec),
            };
            memory.by_init = memory.by_init.max(window);
        }
        memory
    }

    /// The most that is in use at one time.
    pub fn peak(&self) -> u64 {
        let kernel = [self.initrd, self.rootfs, self.by_kernel];
        let kept = if self.retained { self.initrd } else { 0 };
        let init = [kept, self.rootfs, self.layers, self.by_init];
        let sum = |parts: &[u64]| parts.iter().copied().fold(0, u64::saturating_add);
        sum(&kernel).max(sum(&init))
    }

    /// The memory of a machine that this should boot on.
    pub fn machine(&self) -> u64 {
        let sum = |parts: &[u64]| parts.iter().copied().fold(0, u64::saturating_add);
        // The tmpfs takes half of what the page allocator has, and the initrd is not of that.
        // So it is with inodes and pages (shmem_default_max_inodes in mm/shmem.c).
        let files = self.members.saturating_mul(PAGE).max(self.content);
        let capped = match self.capped {
            true => sum(&[files, files, self.initrd, RESERVED]),
            false => 0,
        };
        let all = sum(&[self.peak(), KERNEL]).max(capped);
        // Page structures take 64 bytes for each page.
        all.saturating_add(all / 64)
    }
}

/// The memory that it takes to decompress an archive, from its first bytes.
fn window(image: &dyn ReadAt, offset: u64, codec: Option<Codec>) -> u64 {
    let Some(codec) = codec else {
        return 0;
    };
    let mut head = Vec::new();
    let part = Part::new(image, offset, 64);
    // Of an archive that cannot be read `memory` knows the maximum.
    let _ = Reader::new(&part, 0).take(64).read_to_end(&mut head);
    codec.memory(&head)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            f,
            "{} MiB at the peak: initrd {}{}, files of the rootfs {}{}, layers unpacked {}, decompression {}; \
             with a kernel of {} MiB it should boot on a machine with {} MiB",
            mib(self.peak()),
            mib(self.initrd),
            if self.retained { " (kept)" } else { "" },
            mib(self.rootfs),
            if self.copied {
                " (with /initrd.image)"
            } else {
                ""
            },
            mib(self.layers),
            mib(self.by_kernel.max(self.by_init)),
            mib(KERNEL),
            mib(self.machine()),
        )?;
        match self.firmware {
            None => f.write_str(" (what the kernel needs; UEFI may need more: --firmware)"),
            Some(firmware) => {
                let needed = firmware.machine(self.initrd);
                let (name, needed) = (firmware.name(), mib(needed.max(self.machine())));
                write!(
                    f,
                    " if it is there already, and with {needed} MiB if {name} loads it"
                )
            }
        }
    }
}
