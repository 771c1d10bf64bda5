//! fs-verity's ioctl. Source: include/uapi/linux/fsverity.h, Documentation/filesystems/fsverity.rst.

use std::os::fd::AsFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// FS_VERITY_HASH_ALG_SHA256.
const SHA256: u16 = 1;

/// `struct fsverity_digest`, whose size in the number of the ioctl is that without the digest.
#[repr(C)]
struct DigestHeader {
    digest_algorithm: u16,
    digest_size: u16,
}

/// The same with room for a SHA-256.
#[repr(C)]
struct DigestRequest {
    header: DigestHeader,
    digest: [u8; 32],
}

const _: () = assert!(size_of::<DigestHeader>() == 4);
const _: () = assert!(size_of::<DigestRequest>() == 36);

const FS_IOC_MEASURE_VERITY: Opcode = opcode::read_write::<DigestHeader>(b'f', 134);

/// The SHA-256 by which fs-verity verifies a file. `None`: it does not, or by another algorithm.
pub fn measure(file: impl AsFd) -> Result<Option<[u8; 32]>> {
    let mut measured = DigestRequest {
        header: DigestHeader {
            digest_algorithm: 0,
            digest_size: 32,
        },
        digest: [0; 32],
    };
    // SAFETY: the kernel reads and writes the header, and writes up to `digest_size` bytes after it
    // (fsverity_ioctl_measure in fs/verity/measure.c), which this struct has. Any bytes are valid for its fields.
    let update = unsafe { Updater::<FS_IOC_MEASURE_VERITY, _>::new(&mut measured) };
    // SAFETY: as above; the struct holds no pointers.
    match unsafe { ioctl(file, update) } {
        Ok(())
            if measured.header.digest_algorithm == SHA256 && measured.header.digest_size == 32 =>
        {
            Ok(Some(measured.digest))
        }
        // The file has no digest, or a longer one; the filesystem or the kernel has no fs-verity.
        Ok(()) | Err(Errno::NODATA | Errno::OVERFLOW | Errno::OPNOTSUPP | Errno::NOTTY) => Ok(None),
        Err(errno) => Err(errno),
    }
}
