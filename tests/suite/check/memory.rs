//! The line `memory:`.

use super::*;

#[test]
fn memory_is_added_up() {
    let directory = scratch("check-memory");
    let mib = vec![b'x'; 1 << 20];
    let ten = mib.repeat(10);
    let loader = cpio(&[init(), file("ballast", &ten)]);
    let layer = cpio(&[
        dir("sbin"),
        program("sbin/init"),
        file("big", &mib.repeat(3)),
    ]);
    let image = join(&[&loader, &layer]);
    // What the kernel unpacks, the layer's archive among it; 13 MiB stay.
    let line = |words: &[&str]| {
        let (lines, _) = check(&directory, &image, words);
        lines
            .into_iter()
            .find(|line| line.starts_with("memory: "))
            .unwrap()
    };
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
    // Who loads it may need more: 14 MiB several times over, or not.
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
        let (lines, _) = check(&directory, &large, &["--firmware", firmware]);
        let told = lines
            .iter()
            .find(|line| line.starts_with("memory: "))
            .unwrap();
        let expected = format!(
            "it should boot on a machine with 163 MiB if it is there already, and with {expected} MiB if "
        );
        assert!(told.contains(&expected), "{told}");
    }
    fs::write(directory.join("image"), &image).unwrap();
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
            cpio(&[file("big", &mib.repeat(2))]),
        )
        .unwrap();
        let mut command = Command::new(tool);
        // From a stream, whose length they cannot know.
        let plain = fs::File::open(directory.join("plain")).unwrap();
        let packed = command.args(arguments).stdin(plain).output().unwrap();
        let image = join(&[&loader, &erofs(1, ""), &packed.stdout]);
        let (lines, _) = check(&directory, &image, &[]);
        let line = lines
            .iter()
            .find(|line| line.starts_with("memory: "))
            .unwrap();
        assert!(line.contains(expected), "{tool} {arguments:?}: {line}");
    }
}

#[test]
fn the_copy_of_the_initrd_is_memory_where_the_kernel_makes_one_and_it_is_needed() {
    let directory = scratch("check-memory-copy");
    let loader = cpio(&[init(), file("ballast", &vec![b'x'; 10 << 20])]);
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
        let (lines, _) = check(&directory, image, &words);
        let line = lines.iter().find(|line| line.starts_with("memory: "));
        assert!(
            line.unwrap().contains(expected),
            "{blk_dev_ram} {cmdline}: {line:?}"
        );
    }
}
