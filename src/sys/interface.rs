//! Network interfaces. Source: netdevice(7), include/uapi/linux/if.h and sockios.h.

use std::ffi::c_short;

use rustix::io::Result;
use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::net::{AddressFamily, SocketType, socket};

const SIOCSIFFLAGS: Opcode = libc::SIOCSIFFLAGS as Opcode;

/// `struct ifreq` with flags. The kernel reads 40 bytes on 64-bit machines, and 32 on others.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// Brings the loopback interface up: it has its addresses then.
///
/// # Errors
/// EAFNOSUPPORT or ENOSYS of a kernel without networking; ENODEV without the interface.
pub fn loopback_up() -> Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: libc::IFF_UP as c_short,
        rest: [0; 22],
    };
    for (to, from) in request.name.iter_mut().zip(b"lo") {
        *to = *from;
    }
    // SAFETY: the ioctl reads one struct ifreq, of at most 40 bytes, and writes nothing.
    let set = unsafe { Setter::<SIOCSIFFLAGS, InterfaceRequest>::new(request) };
    // SAFETY: as above.
    unsafe { ioctl(socket, set) }
}
