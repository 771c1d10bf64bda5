//! The line `memory:`.

use super::*;

const MIB: usize = 1 << 20;

/// The line `memory:` for an image.
fn memory(directory: &Path, image: &[u8], words: &[&str]) -> String {
    let (lines, _) = check(directory, image, words);
    let mut lines = lines.into_iter();
    lines.find(|line| line.starts_with("memory: ")).unwrap()
}

/// A loader with a file of 10 MiB.
fn large_loader() -> Vec<u8> {
    cpio(&[init(), file("ballast", &vec![b'x'; 10 * MIB])])
}

/// The large loader, and a layer with a file of 3 MiB.
fn large_image() -> Vec<u8> {
    let big = vec![b'x'; 3 * MIB];
    let layer = cpio(&[dir("sbin"), program("sbin/init"), file("big", &big)]);
    join(&[&large_loader(), &layer])
}

#[test]
fn memory_is_added_up() {
    let directory = scratch("check-memory");
    let image = large_image();
    // The kernel unpacks the archive of the layer, too; 13 MiB of files stay.
    let line = |words: &[&str]| memory(&directory, &image, words);
    assert_eq!(
        line(&[]),
        "memory: 30 MiB at the peak: initrd 14 (kept), files of the rootfs 14, layers unpacked 4, decompression 0; \
         with a kernel of 80 MiB it should boot on a machine with 111 MiB (what the kernel needs; UEFI may need more: \
         --firmware)"
    );
    assert_eq!(
        line(&["--cmdline", "quiet"]),
        "memory: 27 MiB at the peak: initrd 14, files of the rootfs 14, layers unpacked 4, decompression 0; \
         with a kernel of 80 MiB it should boot on a machine with 108 MiB (what the kernel needs; UEFI may need more: \
         --firmware)"
    );
}

#[test]
fn memory_of_boot_loaders_is_added() {
    let directory = scratch("check-memory-firmware");
    let image = large_image();
    let line = |words: &[&str]| memory(&directory, &image, words);
    // A boot loader may hold the 14 MiB several times.
    for (firmware, expected) in [
        ("grub", "and with 111 MiB if GRUB loads it"),
        ("sd-boot", "and with 111 MiB if systemd-boot loads it"),
        ("uki", "and with 111 MiB if systemd-stub (UKI) loads it"),
    ] {
        let told = line(&["--firmware", firmware]);
        let kernel = "it should boot on a machine with 111 MiB if it is there already, ";
        assert!(told.ends_with(&format!("{kernel}{expected}")), "{told}");
    }
    let mut large = image.clone();
    large.resize(64 << 20, 0);
    for (firmware, expected) in [("grub", 168), ("sd-boot", 232), ("uki", 309)] {
        let told = memory(&directory, &large, &["--firmware", firmware]);
        let expected = format!(
            "it should boot on a machine with 163 MiB if it is there already, and with {expected} MiB if "
        );
        assert!(told.contains(&expected), "{told}");
    }
}

#[test]
fn memory_of_decompression_is_added() {
    let directory = scratch("check-memory-decompression");
    let loader = large_loader();
    for (tool, arguments, expected) in [
        ("zstd", &["-q", "-19", "-c"][..], "decompression 8;"),
        ("zstd", &["-q", "--long=26", "-c"], "decompression 64;"),
        ("xz", &["-6", "-c"], "decompression 8;"),
        ("xz", &["-9", "-c"], "decompression 64;"),
        ("lz4", &["-l", "-q", "-c"], "decompression 16;"),
        ("gzip", &["-c"], "decompression 1;"),
    ] {
        fs::write(
            directory.join("plain"),
            cpio(&[file("big", &vec![b'x'; 2 * MIB])]),
        )
        .unwrap();
        let mut command = Command::new(tool);
        // From a stream, whose length is unknown.
        let plain = fs::File::open(directory.join("plain")).unwrap();
        let packed = command.args(arguments).stdin(plain).output().unwrap();
        let image = join(&[&loader, &erofs(1, ""), &packed.stdout]);
        let line = memory(&directory, &image, &[]);
        assert!(line.contains(expected), "{tool} {arguments:?}: {line}");
    }
}

#[test]
fn the_kernels_copy_of_the_initrd_counts_as_memory() {
    let directory = scratch("check-memory-copy");
    let loader = large_loader();
    let layers = join(&[&loader, &erofs(1, "")]);
    let archives = join(&[&loader, &cpio(&[dir("sbin"), program("sbin/init")])]);
    const COPY: &str = "files of the rootfs 21 (with /initrd.image),";
    const NONE: &str = "files of the rootfs 11,";
    for (image, blk_dev_ram, cmdline, expected) in [
        (&layers, "y", "quiet", COPY),
        (&layers, "y", "retain_initrd", NONE),
        (&layers, "y", "retain_initrd rootfstype=ramfs", COPY),
        (&layers, "m", "quiet", NONE),
        (&archives, "y", "quiet", NONE),
    ] {
        let config = format!("CONFIG_BLK_DEV_INITRD=y\nCONFIG_BLK_DEV_RAM={blk_dev_ram}\n");
        fs::write(directory.join("config"), config).unwrap();
        let words = ["--kernel-config", "config", "--cmdline", cmdline];
        let line = memory(&directory, image, &words);
        assert!(line.contains(expected), "{blk_dev_ram} {cmdline}: {line}");
    }
}

#[test]
fn memory_of_extraction_counts_without_what_is_freed_meanwhile() {
    let directory = scratch("check-memory-extract");
    for name in ["one", "two"] {
        fs::create_dir_all(directory.join(name).join("sbin")).unwrap();
        fs::write(directory.join(name).join("sbin/init"), vec![b'x'; 8 * MIB]).unwrap();
    }
    let layers = ["one", "two"].map(|name| erofs_of(&directory, &directory.join(name), &[]));
    let mut image = large_loader();
    pad(&mut image, 4096);
    image.extend(layers.concat());
    let config = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_BLK_DEV_RAM=y\n";
    fs::write(directory.join("config"), config).unwrap();
    for (cmdline, expected) in [
        // 27 MiB of initrd, 11 of the loader, 17 of files.
        (
            "retain_initrd",
            "memory: 53 MiB at the peak: initrd 27 (kept), files of the rootfs 11, layers unpacked 0, extracted 17,",
        ),
        // /init frees the first layer of 8 MiB before it writes the second one: 11, 27 and 17 minus 8, which
        // is less than the kernel needs earlier.
        (
            "quiet",
            "memory: 63 MiB at the peak: initrd 27, files of the rootfs 37 (with /initrd.image), layers unpacked 0, extracted 17,",
        ),
    ] {
        let cmdline = format!("{cmdline} rd.layers.backend=extract");
        let words = ["--kernel-config", "config", "--cmdline", &cmdline];
        let line = memory(&directory, &image, &words);
        assert!(line.starts_with(expected), "{cmdline}: {line}");
    }
}

#[test]
fn files_take_whole_pages_of_the_kernel() {
    let directory = scratch("check-memory-pages");
    let names: Vec<_> = (0..1024).map(|number| format!("small/{number}")).collect();
    let mut entries = vec![dir("sbin"), program("sbin/init"), dir("small")];
    entries.extend(names.iter().map(|name| file(name, b"x")));
    let image = join(&[&cpio(&[init()]), &erofs(1, ""), &cpio(&entries)]);
    // 1025 files with content, and 2 KiB for each inode.
    for (option, layers, machine) in [
        ("ARM64_4K_PAGES", 7, 88),
        ("ARM64_16K_PAGES", 19, 100),
        ("ARM64_64K_PAGES", 67, 149),
    ] {
        let config = format!("CONFIG_BLK_DEV_INITRD=y\nCONFIG_ARM64=y\nCONFIG_{option}=y\n");
        fs::write(directory.join("config"), config).unwrap();
        let line = memory(&directory, &image, &["--kernel-config", "config"]);
        let expected = format!("layers unpacked {layers}, ");
        assert!(line.contains(&expected), "{option}: {line}");
        let expected = format!("on a machine with {machine} MiB ");
        assert!(line.contains(&expected), "{option}: {line}");
    }
}
