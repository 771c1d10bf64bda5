//! Ioctls that take an integer and return one.

use std::ffi::{c_int, c_void};

use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

/// An ioctl whose argument and result are integers.
///
/// The caller has to make sure that the kernel takes the argument of `OPCODE` by value, or ignores it.
pub(super) struct IntIoctl<const OPCODE: Opcode>(pub(super) c_int);

// SAFETY: the kernel reads and writes no memory through the argument, which the caller guarantees.
unsafe impl<const OPCODE: Opcode> Ioctl for IntIoctl<OPCODE> {
    type Output = c_int;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    unsafe fn output_from_ptr(result: IoctlOutput, _: *mut c_void) -> Result<c_int> {
        Ok(result)
    }
}
