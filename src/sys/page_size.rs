//! The size of the kernel's pages.

/// The size of the kernel's pages in bytes (sysconf(3)).
pub fn page_size() -> u64 {
    // SAFETY: sysconf(3) takes an integer, and returns -1 for a name that it does not know.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_at_least_4_kib() {
        assert!(page_size() >= 4096 && page_size().is_power_of_two());
    }
}
