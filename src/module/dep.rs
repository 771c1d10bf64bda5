//! Resolves a module and its dependencies to files in load order. Pure.
//!
//! Source: modules.dep(5), and modules.builtin of Documentation/kbuild/kbuild.rst. A line of modules.dep
//! lists all dependencies of a module, direct and indirect; loading from the end of the line to its front
//! satisfies them.

use std::io;

use crate::error::{Error, Result};
use crate::format::compress::Codec;

/// Limit for a decompressed module, in bytes: a damaged file could claim more memory than there is.
pub const MODULE_MAX: u64 = 256 << 20;

/// The index that depmod and kbuild write for one kernel.
#[derive(Clone, Debug, Default)]
pub struct Index<'a> {
    dep: &'a str,
    builtin: &'a str,
}

impl<'a> Index<'a> {
    /// Creates an index from the texts of `modules.dep` and `modules.builtin` (empty if there is no such file).
    pub fn new(dep: &'a str, builtin: &'a str) -> Self {
        Self { dep, builtin }
    }

    /// Whether `module` is built into the kernel.
    pub fn is_builtin(&self, module: &str) -> bool {
        self.builtin.lines().any(|path| same(name(path), module))
    }

    /// The files to load for `module`: its dependencies, then itself. Paths are relative to the directory of
    /// modules.dep, or absolute if the index has absolute paths.
    ///
    /// # Errors
    ///
    /// modules.dep does not list the module.
    pub fn files(&self, module: &str) -> Result<Vec<&'a str>> {
        for line in self.dep.lines() {
            let Some((path, dependencies)) = line.split_once(':') else {
                continue;
            };
            if same(name(path), module) {
                let mut files: Vec<_> = dependencies.split_ascii_whitespace().rev().collect();
                files.push(path.trim());
                return Ok(files);
            }
        }
        Err(Error::new(
            "find module",
            module,
            "modules.dep does not list it",
        ))
    }
}

/// The name of the module in a file: the file name up to the first dot.
pub fn name(path: &str) -> &str {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default()
}

/// Decompresses a module if it is compressed.
///
/// # Errors
/// The file is damaged, or compressed in a way that this build lacks.
pub fn decompressed(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    match Codec::detect(&bytes) {
        Some(codec) => codec.decompress(&*bytes, MODULE_MAX),
        None => Ok(bytes),
    }
}

/// Cuts off the signature of a module if it has one.
///
/// A signed file is the module, the signer's data, the signature, `struct module_signature`
/// (include/linux/module_signature.h), and a marker line.
pub fn without_signature(image: &[u8]) -> &[u8] {
    const MARKER: &[u8] = b"~Module signature appended~\n";
    // algo, hash, id_type, signer_len, key_id_len, three bytes of padding, sig_len (big endian).
    let Some((rest, &[_, _, _, signer_len, key_id_len, _, _, _, a, b, c, d])) = image
        .strip_suffix(MARKER)
        .and_then(<[u8]>::split_last_chunk)
    else {
        return image;
    };
    let length = [
        u32::from_be_bytes([a, b, c, d]),
        signer_len.into(),
        key_id_len.into(),
    ];
    let length = length.iter().try_fold(0usize, |sum, part| {
        sum.checked_add(usize::try_from(*part).ok()?)
    });
    // Lengths beyond the file: not a signature.
    length
        .and_then(|length| rest.len().checked_sub(length))
        .and_then(|end| rest.get(..end))
        .unwrap_or(image)
}

/// Replaces `-` by `_`, which are equal in names of modules and aliases.
pub fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether two names are equal, without allocation.
fn same(a: &str, b: &str) -> bool {
    let underscored = |byte: u8| if byte == b'-' { b'_' } else { byte };
    a.bytes().map(underscored).eq(b.bytes().map(underscored))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/block/loop.ko.xz:\n\
        kernel/lib/libcrc32c.ko.xz:\n\
        kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz\n\
        kernel/fs/f2fs/f2fs.ko.zst: kernel/b.ko.zst kernel/a.ko.zst\n\
        kernel/drivers/virtio/virtio_blk.ko:\n\
        a line that is none\n";

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let signed = |sig_len: u32, tail: &[u8]| {
            let mut image = b"module".to_vec();
            image.extend(b"signature");
            image.extend([0, 0, 2, 0, 0, 0, 0, 0]);
            image.extend(sig_len.to_be_bytes());
            image.extend(tail);
            image
        };
        const MARKER: &[u8] = b"~Module signature appended~\n";
        assert_eq!(without_signature(&signed(9, MARKER)), b"module");
        for other in [signed(16, MARKER), signed(u32::MAX, MARKER), signed(9, b"")] {
            assert_eq!(without_signature(&other), other);
        }
        assert_eq!(without_signature(MARKER), MARKER);
    }

    #[test]
    fn dependencies_come_first_from_the_end_of_the_line() {
        let index = Index::new(DEP, "");
        assert_eq!(
            index.files("loop").unwrap(),
            ["kernel/drivers/block/loop.ko.xz"]
        );
        assert_eq!(
            index.files("erofs").unwrap(),
            ["kernel/lib/libcrc32c.ko.xz", "kernel/fs/erofs/erofs.ko.xz"]
        );
        assert_eq!(
            index.files("f2fs").unwrap(),
            [
                "kernel/a.ko.zst",
                "kernel/b.ko.zst",
                "kernel/fs/f2fs/f2fs.ko.zst"
            ]
        );
    }

    #[test]
    fn names_compare_with_dash_and_underscore_equal() {
        let index = Index::new(
            DEP,
            "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c-generic.ko\n",
        );
        assert!(index.files("virtio-blk").is_ok());
        assert!(index.is_builtin("ext4") && index.is_builtin("crc32c_generic"));
        assert!(!index.is_builtin("erofs"));
    }

    #[test]
    fn an_unknown_module_is_an_error() {
        let error = Index::new(DEP, "").files("ext4").unwrap_err();
        assert_eq!(
            error.to_string(),
            "find module ext4: modules.dep does not list it"
        );
    }
}
