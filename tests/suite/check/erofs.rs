//! EROFS images whose directories, attributes or blocks need care.

use super::*;

/// The number of the inode at `path` in an EROFS image, and where it lies.
fn inode_of(image: &[u8], path: &str) -> (u64, usize) {
    use layerinit::format::erofs::Superblock;
    use layerinit::tool::image::erofs_tree::Tree;
    let superblock = Superblock::read(&image, 0).unwrap().unwrap();
    let mut found = None;
    let tree = Tree::new(&image, &superblock).unwrap();
    let walked = tree.walk(|file, inode| {
        if file.path == path.as_bytes() {
            found = Some(inode.nid);
        }
        Ok(())
    });
    walked.unwrap();
    let nid = found.unwrap();
    let at = u64::from(superblock.meta_blkaddr) * superblock.block_size() + nid * 32;
    (nid, at as usize)
}

/// Says of an inode that its bytes are stored in another way (EROFS_INODE_*).
fn store(image: &mut [u8], path: &str, layout: u8) {
    let (_, at) = inode_of(image, path);
    image[at] = image[at] & !0b1110 | layout << 1;
}

#[test]
fn directories_of_images_that_are_compressed_are_no_damage() {
    const COMPRESSED: u8 = 3;
    const CHUNKS: u8 = 4;
    let directory = scratch("check-compressed-directories");
    let sound = base_image(&directory, |tree| {
        for name in ["a/b", "c/d"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
    });
    for (stored, expected) in [
        (
            &[("", COMPRESSED)][..],
            &["its root directory is compressed, and what it holds is not looked at"][..],
        ),
        (
            // Deeper ones first, while they can be found.
            &[("sbin", COMPRESSED), ("a", COMPRESSED), ("c", CHUNKS)],
            &[
                "its directory a is compressed, and what it holds is not looked at (and 1 more like it)",
                "its directory c is in chunks, and what it holds is not looked at",
            ],
        ),
    ] {
        let mut image = sound.clone();
        for (path, layout) in stored {
            store(&mut image, path, *layout);
        }
        let (lines, status) = check(&directory, &with_images(&[&image]), &[]);
        let told: Vec<_> = lines
            .iter()
            .filter(|line| !line.starts_with("memory: ") && !line.starts_with("image: "))
            .map(|line| line.replace("warning: layer 0 (initrd+0x1000): ", ""))
            .collect();
        assert_eq!(
            (told.iter().map(String::as_str).collect::<Vec<_>>(), status),
            (expected.to_vec(), 0)
        );

        // What is there is listed, but it is not all.
        let listed = tool(&directory).args(["list", "--files", "image"]).output();
        let (out, err, status) = said(&listed.unwrap());
        assert_eq!((err.as_str(), status), ("", 1));
        let error = format!("    error: list EROFS image: {}", expected[0]);
        assert_eq!(out.lines().last(), Some(error.as_str()));
        assert_eq!(out.contains(" sbin\n"), expected.len() == 2, "{out}");
    }
}

/// The bytes of a prefix of attributes that is the image's own: trusted.overlay. (struct
/// erofs_xattr_long_prefix, behind its length), and before it another.
const PREFIXES: &[u8] = b"\x05\0\x01abcd\0\x09\0\x04overlay.";

/// Puts all attributes trusted.opaque under the second of the image's own prefixes, which start at
/// `start`: what mkfs.erofs makes of trusted.overlay.opaque, with --xattr-prefix=trusted.overlay.
fn prefixed(image: &mut [u8], start: usize) {
    let entries: Vec<_> = (0..image.len())
        .filter(|at| image[*at..].starts_with(b"\x06\x04\x01\0opaquey"))
        .collect();
    assert!(!entries.is_empty());
    entries.iter().for_each(|at| image[at + 1] = 0x81);
    image[1024 + 91] = 2;
    image[1024 + 92..][..4].copy_from_slice(&(start as u32 / 4).to_le_bytes());
    image[1024 + 80] |= 0x40;
}

/// An image of directories, `sbin` among them, with an attribute trusted.opaque.
fn marked(directory: &Path, count: usize) -> Vec<u8> {
    use rustix::fs::{XattrFlags, setxattr};
    base_image(directory, |tree| {
        fs::remove_file(tree.join("sbin/init")).unwrap();
        fs::write(tree.join("table"), PREFIXES).unwrap();
        for name in ["sbin", "b", "c", "d", "e"].iter().take(count) {
            let _ = fs::create_dir(tree.join(name));
            let flags = XattrFlags::empty();
            setxattr(tree.join(name), "trusted.opaque", b"y", flags).unwrap();
        }
    })
}

const NO_INIT: &str = "error: no init in the new root: /sbin/init: not there";

#[test]
fn opaque_directories_are_found_under_a_prefix_of_the_image_s_own() {
    let directory = scratch("check-prefixes");
    let low = base_image(&directory, |_| ());
    // Where all share the attribute mkfs.erofs stores it apart.
    for count in [1, 5] {
        let mut high = marked(&directory, count);
        let (lines, status) = check(&directory, &with_images(&[&low, &high]), &[]);
        assert_eq!(status, 0, "trusted.opaque is no mark: {lines:?}");

        let start = high.len();
        high.extend_from_slice(PREFIXES);
        pad(&mut high, 4096);
        high[1024 + 36] += 1;
        prefixed(&mut high, start);
        let (lines, status) = check(&directory, &with_images(&[&low, &high]), &[]);
        assert!(lines[0].starts_with(NO_INIT), "{lines:?}");
        assert_eq!(status, 1);

        // Beyond the end of the image: the kernel refuses it, too.
        prefixed_at(&mut high, 0x0fff_0000);
        let (lines, _) = check(&directory, &with_images(&[&low, &high]), &[]);
        assert!(
            lines[0].contains("read EROFS image's prefixes of attributes: those at 0xfff0000: "),
            "{lines:?}"
        );
    }
}

fn prefixed_at(image: &mut [u8], start: usize) {
    image[1024 + 92..][..4].copy_from_slice(&(start as u32 / 4).to_le_bytes());
}

#[test]
fn prefixes_of_an_image_s_own_may_lie_in_its_packed_inode() {
    let directory = scratch("check-packed-prefixes");
    let low = base_image(&directory, |_| ());
    let mut high = marked(&directory, 1);
    prefixed(&mut high, 0);
    let (nid, at) = inode_of(&high, "table");
    high[1024 + 80] |= 0x20;
    high[1024 + 96..][..8].copy_from_slice(&nid.to_le_bytes());
    let (lines, _) = check(&directory, &with_images(&[&low, &high]), &[]);
    assert!(lines[0].starts_with(NO_INIT), "{lines:?}");

    // Unless the image says that they do not.
    let mut plain = high.clone();
    plain[1024 + 8] |= 0x10;
    // Its inline data, behind the inode and its attributes.
    prefixed_at(&mut plain, at + 32);
    let (lines, _) = check(&directory, &with_images(&[&low, &plain]), &[]);
    assert!(lines[0].starts_with(NO_INIT), "{lines:?}");

    store(&mut high, "table", 1);
    let (lines, status) = check(&directory, &with_images(&[&low, &high]), &[]);
    assert_eq!(
        lines[0],
        "warning: layer 1 (initrd+0x2000): its file sbin has an attribute under a prefix of the image's own, \
         which is compressed and not looked at: it may be one for overlayfs, such as trusted.overlay.opaque"
    );
    assert_eq!(status, 0, "{lines:?}");
}

#[test]
fn blocks_larger_than_the_kernels_pages_are_an_error_where_these_are_known() {
    let directory = scratch("check-blocks");
    // mkfs.erofs -b16384: s_blocks in the unit of blkszbits, 14.
    let mut image = erofs(4, "");
    image[1032] &= !1;
    image[1036] = 14;
    image[1024 + 36] = 1;
    let mut whole = x86_loader();
    pad(&mut whole, 16384);
    whole.extend(image);
    let said = |config: Option<&str>| {
        let mut words = Vec::new();
        if let Some(config) = config {
            fs::write(directory.join("config"), config).unwrap();
            words = vec!["--kernel-config", "config"];
        }
        let (mut lines, _) = check(&directory, &whole, &words);
        lines.retain(|line| line.contains("EROFS blocks"));
        lines
    };
    let refused = |page: u32| {
        vec![format!(
            "error: 0x00004000: EROFS blocks of 16384 bytes, and this kernel's pages have {page}: it refuses the image"
        )]
    };
    let maybe = "warning: 0x00004000: EROFS blocks of 16384 bytes: the kernel refuses the image where pages are smaller";
    assert_eq!(said(None), [maybe]);
    for (config, page) in [
        ("CONFIG_X86_64=y\n", Some(4096)),
        (
            "# Linux/riscv 6.12.1 Kernel Configuration\nCONFIG_MMU=y\n",
            Some(4096),
        ),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_4K_PAGES=y\n", Some(4096)),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_PAGE_SHIFT=13\n", Some(8192)),
        ("CONFIG_PAGE_SIZE_8KB=y\n", Some(8192)),
        ("CONFIG_PAGE_SHIFT=12\n", Some(4096)),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_16K_PAGES=y\n", None),
        ("CONFIG_ARM64=y\nCONFIG_ARM64_64K_PAGES=y\n", None),
        ("CONFIG_PPC64=y\nCONFIG_PPC_64K_PAGES=y\n", None),
        ("CONFIG_PAGE_SHIFT=14\n", None),
    ] {
        assert_eq!(
            said(Some(config)),
            page.map(refused).unwrap_or_default(),
            "{config}"
        );
    }
    // Of an architecture with several sizes, without a word about which.
    assert_eq!(said(Some("CONFIG_ARM64=y\n")), [maybe]);
}
