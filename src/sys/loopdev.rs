//! The loop driver's ioctls. Source: include/uapi/linux/loop.h, drivers/block/loop.c.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Result;
use rustix::ioctl::{NoArg, Opcode, Setter, ioctl};

use super::int_ioctl::IntIoctl;

const LOOP_SET_FD: Opcode = 0x4C00;
const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_SET_STATUS64: Opcode = 0x4C04;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    lo_file_name: [u8; 64],
    lo_crypt_name: [u8; 64],
    lo_encrypt_key: [u8; 32],
    lo_init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

/// The part of a file that a loop device shows, read-only.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First byte; need not be aligned.
    pub offset: u64,
    /// Bytes, a multiple of 512. If they reach beyond the end of the file, the device ends there.
    pub length: u64,
    /// Whether the driver reads the file with direct I/O, which keeps no second copy in the page cache. The driver
    /// reads through the page cache where the file or the offset does not allow it. From Linux 5.8 on.
    pub direct: bool,
}

impl Range {
    fn info(self) -> LoopInfo64 {
        let direct = match self.direct {
            true => LO_FLAGS_DIRECT_IO,
            false => 0,
        };
        LoopInfo64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: self.offset,
            lo_sizelimit: self.length,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | direct,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        }
    }
}

/// The number of a free loop device, which the kernel creates if necessary. Another process can take it
/// before it is configured, which then fails with EBUSY.
///
/// # Errors
/// The errno of LOOP_CTL_GET_FREE.
pub fn get_free(control: impl AsFd) -> Result<c_int> {
    // SAFETY: LOOP_CTL_GET_FREE ignores its argument.
    unsafe { ioctl(control, IntIoctl::<LOOP_CTL_GET_FREE>(0)) }
}

/// Binds a free loop device to a range of `file`, read-only and with autoclear. EINVAL or ENOTTY before Linux
/// 5.8.
pub fn configure(device: impl AsFd, file: impl AsFd, range: Range) -> Result<()> {
    let config = LoopConfig {
        fd: file.as_fd().as_raw_fd() as u32,
        block_size: 512,
        info: range.info(),
        reserved: [0; 8],
    };
    // SAFETY: the ioctl reads one struct loop_config.
    let set = unsafe { Setter::<LOOP_CONFIGURE, _>::new(config) };
    // SAFETY: as above; `config` holds no pointers.
    unsafe { ioctl(device, set) }
}

/// [`configure`] in two steps, for Linux before 5.8. If the second one fails, the device is released.
pub fn set_fd_and_status(device: impl AsFd, file: impl AsFd, range: Range) -> Result<()> {
    let device = device.as_fd();
    // SAFETY: LOOP_SET_FD takes a file descriptor by value.
    unsafe { ioctl(device, IntIoctl::<LOOP_SET_FD>(file.as_fd().as_raw_fd())) }?;
    // SAFETY: the ioctl reads one struct loop_info64.
    let set = unsafe { Setter::<LOOP_SET_STATUS64, _>::new(range.info()) };
    // SAFETY: as above; the struct holds no pointers.
    unsafe { ioctl(device, set) }.inspect_err(|_| {
        // SAFETY: LOOP_CLR_FD takes no argument.
        let clear = unsafe { NoArg::<LOOP_CLR_FD>::new() };
        // SAFETY: as above. A device that cannot be released stays bound, which wastes it and does no other
        // harm.
        let _ = unsafe { ioctl(device, clear) };
    })
}
