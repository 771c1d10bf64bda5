//! The memory into which the kernel maps the running program.

use std::ffi::c_void;

unsafe extern "C" {
    /// The first byte of the program (GNU ld, lld and mold define it).
    #[link_name = "__executable_start"]
    static START: u8;
    /// The end of its last segment (end(3)).
    #[link_name = "_end"]
    static END: u8;
}

/// Tells the kernel that the pages of the program will not be used again once they are unmapped. Without that, it
/// moves each page that is mapped to its list of active pages first, as execve(2) frees the program (madvise(2);
/// zap_pte_range in mm/memory.c).
///
/// An error is harmless: that takes a quarter of a millisecond longer.
pub fn expect_no_reuse() {
    let start = (&raw const START).addr();
    let page = rustix::param::page_size();
    let first = start & !page.wrapping_sub(1);
    let length = (&raw const END).addr().saturating_sub(first);
    // SAFETY: MADV_SEQUENTIAL is advice on reading ahead. It changes no memory.
    unsafe { libc::madvise(first as *mut c_void, length, libc::MADV_SEQUENTIAL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_mapped_for_use_once() {
        expect_no_reuse();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let here = (expect_no_reuse as *const ()).addr();
        let inside = |line: &&str| {
            let (start, rest) = line.split_once('-').unwrap_or_default();
            let end = rest.split(' ').next().unwrap_or_default();
            let number = |text: &str| usize::from_str_radix(text, 16);
            matches!((number(start), number(end)), (Ok(start), Ok(end)) if (start..end).contains(&here))
        };
        let lines = maps.lines().skip_while(|line| !inside(line));
        // Flags of proc_pid_smaps(5).
        let flags = lines
            .into_iter()
            .find_map(|line| line.strip_prefix("VmFlags:"));
        assert!(flags.unwrap().contains(" sr"), "{flags:?}");
    }
}
