//! EROFS images whose directories, attributes or blocks need care.

use super::*;

/// The number and the offset of the inode at `path` in an EROFS image.
fn inode_of(image: &[u8], path: &str) -> (u64, usize) {
    use layerinit::format::erofs::Image;
    use layerinit::tool::image::erofs_tree;
    let mut found = None;
    let open = Image::open(&image).unwrap();
    let superblock = open.superblock().clone();
    let walked = erofs_tree::walk(&open, |file, inode| {
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

#[test]
fn the_real_init_is_found_in_every_layout_of_an_image() {
    let directory = scratch("check-stored");
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("sbin")).unwrap();
    let loader = x86_loader();
    let name = |path: &str, machine| {
        let mut program = elf(machine);
        program.resize(30_000, 0);
        fs::write(tree.join(path), program).unwrap();
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    };
    const PLACE: &str = "no init in the new root: /sbin/init";
    for options in [
        "-zlz4hc --zD",
        "-zzstd -C65536 -Eall-fragments --zD",
        "-zlzma -C65536 -m65536 --zD",
        "-m4096:deflate --chunksize=4096",
    ] {
        for (machine, expected) in [
            (Some(X86_64), None),
            (
                Some(AARCH64),
                Some("an ELF program for another machine (e_machine 183, here x86_64)"),
            ),
            (None, Some("not there")),
        ] {
            let _ = fs::remove_file(tree.join("sbin/init"));
            // More names than fit into one block, so that they are compressed.
            (0..200).for_each(|n| name(&format!("sbin/program-number-{n}"), X86_64));
            if let Some(machine) = machine {
                name("sbin/init", machine);
            }
            let arguments: Vec<_> = options.split(' ').collect();
            let layer = erofs_by(&NEWEST_MKFS, &directory, &tree, &arguments);
            let mut image = loader.clone();
            pad(&mut image, 4096);
            image.extend(layer);
            let (lines, status) = check(&directory, &image, &[]);
            let told = lines.iter().find(|line| line.starts_with("error: "));
            let expected = expected.map(|what| format!("error: {PLACE}: {what}"));
            let is_expected = match (&expected, told) {
                (None, None) => true,
                (Some(expected), Some(told)) => told.starts_with(expected),
                _ => false,
            };
            assert!(is_expected, "{options}: {expected:?}, {lines:?}");
            assert_eq!(status, i32::from(expected.is_some()), "{lines:?}");
            assert!(
                !lines.iter().any(|line| line.contains("not looked at")),
                "{lines:?}"
            );

            let listed = tool(&directory).args(["list", "--files", "image"]).output();
            let (out, err, status) = said(&listed.unwrap());
            assert_eq!((err.as_str(), status), ("", 0));
            assert_eq!(out.contains(" sbin/init\n"), machine.is_some(), "{out}");

            let path = "/sbin/program-number-77";
            let output = tool(&directory).args(["cat", "image", path]).output();
            let output = output.unwrap();
            assert!(
                output.stdout == fs::read(tree.join(&path[1..])).unwrap(),
                "{output:?}"
            );
        }
    }
}

/// Two long name prefixes; the second is trusted.overlay. (struct erofs_xattr_long_prefix, after its length).
const PREFIXES: &[u8] = b"\x05\0\x01abcd\0\x09\0\x04overlay.";

/// Moves all attributes trusted.opaque under the second long name prefix of the table at `start`, as
/// mkfs.erofs stores trusted.overlay.opaque with --xattr-prefix=trusted.overlay.
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

/// An image of directories, among them `sbin`, with an attribute trusted.opaque.
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
fn opaque_directories_are_found_under_long_name_prefixes() {
    let directory = scratch("check-prefixes");
    let low = base_image(&directory, |_| ());
    // If all directories have the attribute, mkfs.erofs stores it as a shared one.
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

        // Beyond the end of the image, which the kernel refuses, too.
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
fn long_name_prefixes_may_be_in_the_packed_inode() {
    let directory = scratch("check-packed-prefixes");
    let low = base_image(&directory, |_| ());
    let mut high = marked(&directory, 1);
    prefixed(&mut high, 0);
    let (nid, at) = inode_of(&high, "table");
    high[1024 + 80] |= 0x20;
    high[1024 + 96..][..8].copy_from_slice(&nid.to_le_bytes());
    let (lines, _) = check(&directory, &with_images(&[&low, &high]), &[]);
    assert!(lines[0].starts_with(NO_INIT), "{lines:?}");

    // The image has a flag that says otherwise.
    let mut plain = high.clone();
    plain[1024 + 8] |= 0x10;
    // Its inline data, after the inode and its attributes.
    prefixed_at(&mut plain, at + 32);
    let (lines, _) = check(&directory, &with_images(&[&low, &plain]), &[]);
    assert!(lines[0].starts_with(NO_INIT), "{lines:?}");

    // Bytes in another layout than that of the inode.
    high[at] = high[at] & !0b1110 | 1 << 1;
    let (lines, status) = check(&directory, &with_images(&[&low, &high]), &[]);
    assert!(
        lines[0].starts_with(
            "error: layer 1 (initrd+0x2000): read EROFS image's prefixes of attributes: those at 0x0: "
        ),
        "{lines:?}"
    );
    assert_eq!(status, 1, "{lines:?}");
}

#[test]
fn blocks_larger_than_known_pages_of_the_kernel_are_an_error() {
    let directory = scratch("check-blocks");
    // As mkfs.erofs -b16384: blkszbits is 14, and the unit of s_blocks.
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
    // An architecture with several page sizes, and a configuration that does not tell which.
    assert_eq!(said(Some("CONFIG_ARM64=y\n")), [maybe]);
}
