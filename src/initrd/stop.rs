//! The stop: a block at which the kernel's unpacker stops, between the loader and what a boot loader appends.
//!
//! Otherwise the kernel unpacks archives that follow the loader over it, before `/init` can check them. The
//! unpacker ends at a byte that starts neither an archive nor a compressed one (unpack_to_rootfs() in
//! init/initramfs.c), as it does at an EROFS image.

/// Its bytes. It starts at a multiple of 4.
pub const STOP: &[u8; 16] = b"layerinit: stop\n";
