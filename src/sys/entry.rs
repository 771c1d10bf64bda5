//! The entry point of `/init`.
//!
//! Before `main`, Rust's runtime opens /dev/null for each closed standard stream, and aborts if it cannot. In
//! an initramfs without /dev that would panic the kernel, so the C library calls `/init` directly.

use std::ffi::{CStr, CString, c_char, c_int};

/// Defines the C `main`, which calls `$main`, a `fn(Vec<CString>) -> i32`, with the arguments; and the note
/// that identifies `/init` ([`Note`](crate::sys::note::Note)).
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // SAFETY: a note section holds nothing but notes, and this is one.
        #[unsafe(link_section = ".note.layerinit")]
        #[used]
        static NOTE: $crate::sys::note::Note = $crate::sys::note::Note::OWN;

        /// Called by the C library's start-up code.
        // SAFETY: no other `main` is linked, because the binary that uses this macro has #![no_main].
        #[unsafe(no_mangle)]
        extern "C" fn main(
            argc: ::std::ffi::c_int,
            argv: *const *const ::std::ffi::c_char,
        ) -> ::std::ffi::c_int {
            // SAFETY: these are the arguments of the C `main`, untouched.
            let arguments = unsafe { $crate::sys::entry::arguments(argc, argv) };
            $main(arguments)
        }
    };
}

/// Copies the arguments of a C `main`.
///
/// # Safety
///
/// `argc` and `argv` must be what the C library passed to `main` (C11 5.1.2.2.1): `argc` pointers
/// to strings that end with NUL.
pub unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Vec<CString> {
    let mut arguments = Vec::new();
    for i in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: i < argc, so the pointer lies in the array.
        let argument = unsafe { argv.add(i) };
        // SAFETY: as above.
        let argument = unsafe { argument.read() };
        if argument.is_null() {
            break;
        }
        // SAFETY: the kernel put this string on the initial stack, and NUL ends it.
        arguments.push(unsafe { CStr::from_ptr(argument) }.to_owned());
    }
    arguments
}
