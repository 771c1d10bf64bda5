//! Files that a kernel with the memback patches maps in place.

use super::*;

/// The lines about files in place, for an image of two files whose layer is `offset` bytes after a page
/// boundary.
fn mapped(name: &str, mkfs: &[&str], offset: usize, config: Option<&str>) -> Vec<String> {
    let directory = scratch(&format!("check-in-place-{name}"));
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("sbin")).unwrap();
    fs::write(tree.join("a"), [b'a'; 5000]).unwrap();
    fs::write(tree.join("b"), [b'b'; 8192]).unwrap();
    let mut image = loader();
    pad(&mut image, 4096);
    image.resize(image.len() + offset, 0);
    image.extend(erofs_of(&directory, &tree, mkfs));
    let mut words = Vec::new();
    if let Some(config) = config {
        fs::write(directory.join("config"), config).unwrap();
        words = vec!["--kernel-config", "config"];
    }
    let (mut lines, _) = check(&directory, &image, &words);
    lines.retain(|line| line.contains("memback maps"));
    lines
}

#[test]
fn whole_pages_of_aligned_images_are_in_place() {
    for (name, mkfs, offset, expected) in [
        (
            "plain",
            &["-Enoinline_data"][..],
            0,
            "13192 of 13192 bytes, 2 of 2 files",
        ),
        (
            "tail",
            &[],
            0,
            "12288 of 13192 bytes, 1 of 2 files; not all of a",
        ),
        (
            "unaligned",
            &["-Enoinline_data"],
            512,
            "0 of 13192 bytes, 0 of 2 files; not all of a, b",
        ),
        (
            "chunks",
            &["--chunksize=4096"],
            0,
            "13192 of 13192 bytes, 2 of 2 files",
        ),
    ] {
        let lines = mapped(name, mkfs, offset, None);
        let start = 4096 + offset;
        assert_eq!(
            lines,
            [format!(
                "layer 0 ({}): memback maps {expected}",
                place(start)
            )]
        );
    }
    assert_eq!(mapped("lz4", &["-zlz4"], 0, None), [""; 0]);
}

/// The name of a layer without a label, which is its offset.
fn place(offset: usize) -> String {
    format!("initrd+{offset:#x}")
}

#[test]
fn a_kernel_without_memback_maps_nothing_in_place() {
    let mkfs = &["-Enoinline_data"];
    assert_eq!(
        mapped("without", mkfs, 0, Some("CONFIG_EROFS_FS=y\n")),
        [""; 0]
    );
    let with = "CONFIG_EROFS_FS_MEMBACK=y\nCONFIG_ARM64=y\nCONFIG_ARM64_PAGE_SHIFT=14\n";
    let lines = mapped("with", mkfs, 0, Some(with));
    assert!(
        lines[0].contains("memback maps 0 of 13192 bytes"),
        "{lines:?}"
    );
}
