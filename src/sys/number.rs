//! Ioctls that take a number and return one.

use std::ffi::{c_int, c_void};

use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

/// An ioctl whose argument is a number; the answer is one too.
///
/// Who issues it sees to it that the kernel takes the argument by value, or not at all.
pub(super) struct Number<const OPCODE: Opcode>(pub(super) c_int);

// SAFETY: no memory of ours is read or written, as said above.
unsafe impl<const OPCODE: Opcode> Ioctl for Number<OPCODE> {
    type Output = c_int;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> Result<c_int> {
        Ok(answer)
    }
}
