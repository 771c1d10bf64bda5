//! The memory that a boot takes at its peak, before the real init starts.
//!
//! The image decides these, in bytes:
//!
//! * the initrd: until the kernel has unpacked it, or for the life of the system if it is kept (retain_initrd,
//!   or the memback patches);
//! * the files that the kernel unpacks, in whole pages, until the switch to the new root;
//! * the archives that become layers, and the files of images that `/init` extracts, in whole pages, for the life of
//!   the system; if the bytes of a layer are in a file of the rootfs, they are freed once the layer is written;
//! * the inode and the names of each of these files ([`FILE_MEMORY`](crate::initrd::FILE_MEMORY));
//! * the buffers for decompressing the largest archive.
//!
//! Pages of EROFS files are not counted, as the kernel can reclaim them. [`KERNEL`] is an estimate of what
//! the kernel itself takes.

use std::fmt;
use std::io::Read;

use super::backends::{Method, methods, methods_of};
use super::context::Check;
use super::uefi::UefiLoader;
use crate::boot::mount::memory::peak;
use crate::bytes::{Part, ReadAt, Reader};
use crate::format::compress::Codec;
use crate::initrd::Kind;
use crate::initrd::file_pages::FilePages;
use crate::plan::{Content, Plan};
use crate::tool::finding::Findings;
use crate::tool::image::boot::Boot;
use crate::tool::image::machine::PAGE_SIZE;

/// What a distribution's kernel takes for itself and /init: code, page structures, drivers. qemu/memory
/// measures what images boot with: with Debian's 6.12 that is 0 to 11 % below the estimate.
pub const KERNEL: u64 = 80 << 20;

/// The part of [`KERNEL`] that the page allocator never gets.
const RESERVED: u64 = 56 << 20;

/// Notes the memory that the boot takes.
pub fn memory(check: &Check, findings: &mut Findings) {
    if let Some(plan) = check.plan() {
        let copies = check.config.is_some_and(|config| config.copies_initrd());
        let methods = methods(check, plan);
        let memory = Memory {
            loader: check.options.firmware,
            ..Memory::new(
                check.image,
                check.boot,
                plan,
                copies,
                &methods,
                check.page_size(),
            )
        };
        findings.note(format!("memory: {memory}"));
    }
}

/// The memory of a machine, in bytes, on which an image boots with a kernel that does not copy the initrd.
pub fn of_machine(image: &(dyn ReadAt + Sync), boot: &Boot, plan: &Plan) -> u64 {
    let methods = methods_of(image, boot, plan);
    Memory::new(image, boot, plan, false, &methods, PAGE_SIZE).machine()
}

/// The memory that a boot takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    /// The size of the kernel's pages.
    page_size: u64,
    /// The image.
    initrd: u64,
    /// Whether the kernel keeps it.
    retained: bool,
    /// The files that the kernel unpacks.
    rootfs: u64,
    /// Whether these include the whole initrd as /initrd.image.
    copied: bool,
    /// The content of these files, in whole pages.
    content: u64,
    /// The number of these files.
    members: u64,
    /// Whether they are in a tmpfs, which takes at most half of the memory.
    tmpfs: bool,
    /// The archives that `/init` unpacks.
    layers: u64,
    /// The files of images that `/init` extracts.
    extracted: u64,
    /// The most that both take at one time, less what is freed in the meantime.
    written: u64,
    /// The largest buffers of the kernel's decompressors.
    kernel_decompressor: u64,
    /// The largest buffers of the decompressors of `/init`.
    init_decompressor: u64,
    /// The UEFI boot loader, if it is known.
    loader: Option<UefiLoader>,
}

impl Memory {
    /// Adds up what an image takes. A kernel that copies (`copies`) an initrd which is not all archives
    /// (CONFIG_BLK_DEV_RAM=y) writes it to /initrd.image before it frees it. If the initrd is kept, that file
    /// is not needed: the kernel writes as much of it as fits into half of the memory, and /init removes it.
    fn new(
        image: &dyn ReadAt,
        boot: &Boot,
        plan: &Plan,
        copies: bool,
        methods: &[Method],
        page_size: u64,
    ) -> Self {
        let options = &boot.options;
        let mut memory = Self {
            page_size,
            initrd: image.size(),
            retained: options.retain_initrd,
            tmpfs: options.rootfs_is_tmpfs(),
            ..Self::default()
        };
        for segment in boot.image().into_iter().flat_map(|walk| &walk.segments) {
            if let Kind::Cpio(cpio) = &segment.kind
                && cpio.by_kernel
            {
                let content = cpio.unpacked.bytes(page_size);
                let total = content.saturating_add(cpio.inodes(false));
                memory.add_files(total, content, cpio.members);
                let buffers = decompressor_memory(image, segment.offset, cpio.codec);
                memory.kernel_decompressor = memory.kernel_decompressor.max(buffers);
            }
        }
        let needed = copies && !(memory.retained && memory.tmpfs);
        if needed && boot.image().is_some_and(|walk| !walk.is_unpacked_whole()) {
            let mut copy = FilePages::default();
            copy.add(image.size());
            let copy = copy.bytes(page_size);
            memory.copied = true;
            memory.add_files(copy, copy, 1);
        }
        for layer in &plan.layers {
            if let Content::Cpio { codec, .. } = layer.content {
                let buffers = match layer.place.is_initrd() {
                    // Its bytes are not in the image in this form.
                    false => codec.map_or(0, |codec| codec.memory(&[])),
                    true => decompressor_memory(image, layer.offset, codec),
                };
                memory.init_decompressor = memory.init_decompressor.max(buffers);
            }
        }
        memory.add_written(plan, methods);
        memory
    }

    /// Adds what `/init` writes.
    fn add_written(&mut self, plan: &Plan, methods: &[Method]) {
        for method in methods {
            match method {
                Method::Unpacked(bytes) => self.layers = self.layers.saturating_add(*bytes),
                Method::Extracted(bytes) => self.extracted = self.extracted.saturating_add(*bytes),
                Method::Mounted(_) | Method::Failed => {}
            }
        }
        let steps = plan.layers.iter().zip(methods).map(|(layer, method)| {
            // A ramfs frees no part of a file.
            let in_image = layer.place.is_initrd();
            let in_rootfs = layer.place.is_in_initramfs() || in_image && self.copied && self.tmpfs;
            let freed = match method {
                Method::Unpacked(_) | Method::Extracted(_) if in_rootfs => layer.length,
                _ => 0,
            };
            (method.memory(), freed)
        });
        self.written = peak(steps);
    }

    fn add_files(&mut self, memory: u64, content: u64, members: u64) {
        self.rootfs = self.rootfs.saturating_add(memory);
        self.content = self.content.saturating_add(content);
        self.members = self.members.saturating_add(members);
    }

    /// The most that is in use at one time.
    fn peak(&self) -> u64 {
        let kernel = [self.initrd, self.rootfs, self.kernel_decompressor];
        let kept = if self.retained { self.initrd } else { 0 };
        let init = [kept, self.rootfs, self.written, self.init_decompressor];
        let sum = |parts: &[u64]| parts.iter().copied().fold(0, u64::saturating_add);
        sum(&kernel).max(sum(&init))
    }

    /// The memory of a machine that this boots on.
    fn machine(&self) -> u64 {
        let sum = |parts: &[u64]| parts.iter().copied().fold(0, u64::saturating_add);
        // The tmpfs takes half of the page allocator's memory, without the initrd, and as many inodes as that has
        // pages (shmem_default_max_inodes in mm/shmem.c).
        let files = self
            .members
            .saturating_mul(self.page_size)
            .max(self.content);
        let with_tmpfs = match self.tmpfs {
            true => sum(&[files, files, self.initrd, RESERVED]),
            false => 0,
        };
        let all = sum(&[self.peak(), KERNEL]).max(with_tmpfs);
        // struct page takes 64 bytes for each page.
        all.saturating_add(all / 64)
    }
}

/// The memory for decompressing an archive, from its first bytes.
fn decompressor_memory(image: &dyn ReadAt, offset: u64, codec: Option<Codec>) -> u64 {
    let Some(codec) = codec else {
        return 0;
    };
    let mut head = Vec::new();
    let part = Part::new(image, offset, 64);
    // Without these bytes, `Codec::memory` returns the maximum.
    let _ = Reader::new(&part, 0).take(64).read_to_end(&mut head);
    codec.memory(&head)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            f,
            "{} MiB at the peak: initrd {}{}, files of the rootfs {}{}, layers unpacked {}, {}decompression {}; \
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
            match self.extracted {
                0 => String::new(),
                bytes => format!("extracted {}, ", mib(bytes)),
            },
            mib(self.kernel_decompressor.max(self.init_decompressor)),
            mib(KERNEL),
            mib(self.machine()),
        )?;
        match self.loader {
            None => f.write_str(" (what the kernel needs; UEFI may need more: --firmware)"),
            Some(loader) => {
                let needed = loader.required_memory(self.initrd);
                let (name, needed) = (loader.name(), mib(needed.max(self.machine())));
                write!(
                    f,
                    " if it is there already, and with {needed} MiB if {name} loads it"
                )
            }
        }
    }
}
