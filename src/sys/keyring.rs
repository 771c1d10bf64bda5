//! Keys of the kernel. Sources: add_key(2), keyctl_unlink(3), thread-keyring(7).

use std::ffi::c_long;
use std::io;
use std::marker::PhantomData;

use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// The longest payload of a key of the type `user`, in bytes (user_preparse() in security/keys/user_defined.c).
pub const PAYLOAD_MAX: u64 = 32767;

/// A key of the type `user` in the keyring of this thread. The kernel finds it by its description in system calls of this
/// thread. Dropping it unlinks it, and so deletes it.
#[derive(Debug)]
pub struct ThreadKey {
    serial: c_long,
    /// Another thread has another keyring.
    _not_send: PhantomData<*const ()>,
}

impl ThreadKey {
    /// Adds the key. A key with the same description is replaced.
    ///
    /// # Errors
    /// ENOSYS: the kernel lacks CONFIG_KEYS. EINVAL: the payload is empty or longer than [`PAYLOAD_MAX`].
    pub fn add(description: &str, payload: &[u8]) -> Result<Self> {
        let serial = description.into_with_c_str(|description| {
            // SAFETY: the kernel reads type and description up to their NUL, and `payload.len()` bytes of the
            // payload (add_key() in security/keys/keyctl.c). It writes no memory of this process.
            Ok(unsafe {
                libc::syscall(
                    libc::SYS_add_key,
                    c"user".as_ptr(),
                    description.as_ptr(),
                    payload.as_ptr(),
                    payload.len(),
                    c_long::from(libc::KEY_SPEC_THREAD_KEYRING),
                )
            })
        })?;
        match serial {
            -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
            serial => Ok(Self {
                serial,
                _not_send: PhantomData,
            }),
        }
    }
}

impl Drop for ThreadKey {
    fn drop(&mut self) {
        // SAFETY: KEYCTL_UNLINK takes two serial numbers and uses no memory (keyctl_unlink(3)). The result does not
        // matter: the keyring ends with the thread, or when it executes another program.
        unsafe {
            libc::syscall(
                libc::SYS_keyctl,
                libc::KEYCTL_UNLINK as c_long,
                self.serial,
                c_long::from(libc::KEY_SPEC_THREAD_KEYRING),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_exists_until_it_is_dropped() {
        // What dm-verity does in the kernel: request_key(2) without a callout.
        let is_there = || {
            let callout = std::ptr::null::<u8>();
            let (kind, description) = (c"user".as_ptr(), c"layerinit:test".as_ptr());
            // SAFETY: the kernel reads the two strings up to their NUL (request_key(2)), and writes nothing.
            let found =
                unsafe { libc::syscall(libc::SYS_request_key, kind, description, callout, 0) };
            found != -1
        };
        let key = match ThreadKey::add("layerinit:test", b"abc") {
            // A container may forbid it; the rows verity-signed* need it.
            Err(errno @ (Errno::NOSYS | Errno::PERM)) => {
                println!("skipped: add_key: {errno}");
                return;
            }
            key => key.unwrap(),
        };
        assert!(is_there());
        drop(key);
        assert!(!is_there());
        let long = vec![0; PAYLOAD_MAX as usize + 1];
        for payload in [&b""[..], &long] {
            let refused = ThreadKey::add("layerinit:test", payload).unwrap_err();
            assert_eq!(refused, Errno::INVAL);
        }
    }
}
