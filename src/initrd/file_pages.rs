//! The bytes of files in whole pages. Pure.

/// The bytes of files, each rounded up to whole pages, for each page size that kernels have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilePages([u64; PAGE_SIZES.len()]);

/// Page sizes in bytes. Larger ones count as the largest.
const PAGE_SIZES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

impl FilePages {
    /// Adds a file with so many bytes of data, or a part of one that starts with a page.
    pub fn add(&mut self, bytes: u64) {
        for (sum, page) in self.0.iter_mut().zip(PAGE_SIZES) {
            let pages = bytes.div_ceil(page);
            *sum = sum.saturating_add(pages.saturating_mul(page));
        }
    }

    /// The bytes for pages of so many bytes.
    pub fn bytes(&self, page_size: u64) -> u64 {
        let mut sums = self.0.iter().zip(PAGE_SIZES);
        let sum = sums.find(|(_, size)| page_size <= *size);
        sum.map_or_else(|| self.0.last().copied().unwrap_or(0), |(sum, _)| *sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_fills_its_last_page() {
        let mut files = FilePages::default();
        for bytes in [0, 1, 4096, 4097, 70_000] {
            files.add(bytes);
        }
        let kib = |page_kib: u64| files.bytes(page_kib << 10) >> 10;
        assert_eq!(kib(4), 4 + 4 + 8 + 72);
        assert_eq!([kib(8), kib(16)], [16 + 16 + 16 + 80; 2]);
        assert_eq!([kib(64), kib(256)], [64 * 3 + 128; 2]);
        files.add(u64::MAX);
        files.add(u64::MAX);
        assert_eq!(files.bytes(4096), u64::MAX);
    }
}
