//! Kernels in the layers: usr/lib/modules/VERSION, where bootc and ostree keep them.

use super::rootfs::Rootfs;

/// Directories of modules.
const MODULES: [&[u8]; 2] = [b"usr/lib/modules", b"lib/modules"];

/// The path of this regular file for each kernel of the new root that has it, the highest version last.
pub fn files(root: &Rootfs, name: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for directory in MODULES {
        let Some((directory, _)) = root.find(directory) else {
            continue;
        };
        for version in root.directory(&directory) {
            let path = [directory.as_slice(), b"/", version, b"/", name.as_bytes()].concat();
            if let Some((path, node)) = root.find(&path)
                && node.has_type(libc::S_IFREG)
            {
                found.push((numbers(version), path));
            }
        }
    }
    found.sort();
    // /lib may be a link to /usr/lib.
    found.dedup();
    found.into_iter().map(|(_, path)| path).collect()
}

/// The numbers in a version, so that 6.12 is above 6.9.
fn numbers(version: &[u8]) -> Vec<u64> {
    let digits = version.split(|byte| !byte.is_ascii_digit());
    let parsed = digits.filter_map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers(b"6.12.118+deb13-amd64") > numbers(b"6.9.0"));
        assert!(numbers(b"6.12.10") > numbers(b"6.12.9-rc3"));
        assert!(numbers(b"7.0") > numbers(b"6.99.99"));
        assert_eq!(numbers(b"x"), [] as [u64; 0]);
    }
}
