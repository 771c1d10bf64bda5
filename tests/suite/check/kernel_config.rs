//! `--kernel-config`: options that the image needs.

use super::*;

const ZIP: &str = "CONFIG_EROFS_FS_ZIP=y\nCONFIG_RD_GZIP=y\n";

/// CONFIG, and the options for a compressed layer and a gzip archive.
fn sufficient() -> String {
    format!("{CONFIG}{ZIP}")
}

/// The same, with filesystems and loop devices as modules.
fn as_modules() -> String {
    sufficient()
        .replace("EROFS_FS=y", "EROFS_FS=m")
        .replace("OVERLAY_FS=y", "OVERLAY_FS=m")
        .replace("LOOP=y", "LOOP=m")
}

/// A gzip archive, a loader with erofs.ko.xz, and a layer.
struct Parts {
    directory: std::path::PathBuf,
    image: Vec<u8>,
    /// The offset of the layer.
    layer: usize,
}

impl Parts {
    /// Makes the layer with these options of mkfs.erofs.
    fn new(name: &str, options: &[&str]) -> Self {
        let directory = scratch(name);
        let tree = directory.join("tree");
        fs::create_dir_all(tree.join("sbin")).unwrap();
        fs::write(tree.join("sbin/init"), elf(X86_64)).unwrap();
        let x = fs::Permissions::from_mode(0o755);
        fs::set_permissions(tree.join("sbin/init"), x).unwrap();
        fs::write(tree.join("text"), "text ".repeat(10_000)).unwrap();
        fs::write(directory.join("plain"), cpio(&[dir("early")])).unwrap();
        let mut gzip = Command::new("gzip");
        let early = gzip.arg("-nc").arg(directory.join("plain")).output();
        let mut image = early.unwrap().stdout;
        pad(&mut image, 4);
        let early = image.len();
        image.extend(modules(
            "6.12.1+deb13-amd64",
            "kernel/fs/erofs/erofs.ko.xz:\n",
            &[("erofs.ko.xz", b"")],
        ));
        let layer = early + 4096;
        assert!(image.len() <= layer);
        image.resize(layer, 0);
        image.extend(erofs_of(&directory, &tree, options));
        Self {
            directory,
            image,
            layer,
        }
    }

    /// The findings about CONFIG_ options, with AT for the offset of the layer, and the status.
    fn check(&self, config: &str, words: &[&str]) -> (Vec<String>, i32) {
        fs::write(self.directory.join("config"), config).unwrap();
        let words = [&["--kernel-config", "config"], words].concat();
        let (lines, status) = check(&self.directory, &self.image, &words);
        let lines = lines
            .into_iter()
            .filter(|line| line.contains("CONFIG_") && !line.starts_with("image: "))
            .map(|line| line.replace(&format!("{:#x}", self.layer), "AT"));
        (lines.collect(), status)
    }
}

#[test]
fn options_that_the_image_needs_and_the_kernel_lacks_are_found() {
    let image = Parts::new("check-config", &["-zlz4hc"]);
    assert_eq!(image.check(&sufficient(), &[]), (vec![], 0));
    // A line for each missing option, with the consequence.
    assert_eq!(
        image.check(CONFIG, &[]),
        (
            vec![
                "error: CONFIG_RD_GZIP=n: the kernel cannot unpack the archive at 0x0, nor anything after it".into(),
                "error: CONFIG_EROFS_FS_ZIP=n: layer 0 (initrd+AT) needs it to decompress its files".into(),
            ],
            1
        )
    );
}

/// In an image without the feature 0padding (mkfs.erofs before 1.0), the superblock does not tell whether
/// files are compressed.
#[test]
fn compression_is_found_in_files_where_the_superblock_does_not_tell() {
    for (options, compressed) in [(&["-zlz4hc"][..], true), (&[], false)] {
        let mut image = Parts::new("check-config-before", options);
        let superblock = image.layer + 1024;
        image.image[superblock + 8] &= !1; // no checksum
        image.image[superblock + 80] &= !1;
        let (mut lines, _) = image.check(&format!("{CONFIG}CONFIG_RD_GZIP=y\n"), &[]);
        lines.retain(|line| line.starts_with("error: "));
        let expected = "error: CONFIG_EROFS_FS_ZIP=n: layer 0 (initrd+";
        assert!(
            lines.len() == usize::from(compressed)
                && lines.iter().all(|line| line.starts_with(expected)),
            "{options:?}: {lines:?}"
        );
    }
}

#[test]
fn modules_that_the_loader_lacks_are_found() {
    let image = Parts::new("check-config-modules", &["-zlz4hc"]);
    let (lines, status) = image.check(&as_modules(), &[]);
    assert_eq!(
        (&lines[..], status),
        (
            &[
                "warning: CONFIG_OVERLAY_FS=m: the loader has no overlay.ko in lib/modules/6.12.1+deb13-amd64/modules.dep \
                 (build --modules): the layers cannot be stacked; /init writes all layers into one tmpfs instead".to_string(),
                "warning: CONFIG_BLK_DEV_LOOP=m: the loader has no loop.ko in lib/modules/6.12.1+deb13-amd64/modules.dep \
                 (build --modules): without the loop backend, this kernel cannot mount the EROFS layers, unless it \
                 supports memback; /init extracts the layers into memory instead".to_string(),
            ][..],
            0
        )
    );
    let (lines, _) = image.check(&as_modules(), &["--loader-built-in"]);
    assert_eq!(
        lines[0],
        "warning: CONFIG_OVERLAY_FS=m: the loader that is built into the kernel must hold overlay.ko"
    );
}

#[test]
fn options_that_a_boot_can_do_without_are_warnings() {
    let image = Parts::new("check-config-poor", &["-zlz4hc"]);
    let good = sufficient();
    let kept = good
        .lines()
        .filter(|line| !line.contains("XATTR") && !line.contains("DEVTMPFS"));
    let poor: String = kept.flat_map(|line| [line, "\n"]).collect();
    let (lines, status) = image.check(&poor, &[]);
    assert_eq!((lines.len(), status), (3, 0), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("warning: ")));
}

#[test]
fn features_that_are_newer_than_the_kernel_are_found() {
    let mut image = Parts::new("check-config-newer", &["-zlz4hc"]);
    let superblock = image.layer + 1024;
    image.image[superblock + 8] &= !1; // no checksum
    image.image[superblock + 80] |= 0x80;
    fs::write(image.directory.join("config"), sufficient()).unwrap();
    let words = ["--kernel-config", "config"];
    let (lines, status) = check(&image.directory, &image.image, &words);
    assert_eq!(status, 1);
    assert!(
        lines[1].contains(": it needs Linux 6.15 or newer (")
            && lines[1].contains("48bit), and this is the configuration of 6.12"),
        "{lines:?}"
    );
}

#[test]
fn a_kernel_that_discards_the_layers_is_found() {
    let image = Parts::new("check-config-source", &["-zlz4hc"]);
    let old = sufficient().replace("6.12.1", "6.1.170");
    let (lines, status) = image.check(&old, &[]);
    assert_eq!(status, 1);
    assert!(
        lines[0].starts_with("error: CONFIG_BLK_DEV_RAM=n: this kernel is older than 6.8"),
        "{lines:?}"
    );
    let (lines, _) = image.check(&sufficient(), &["--cmdline", "quiet"]);
    assert_eq!(
        lines,
        [
            "error: CONFIG_BLK_DEV_RAM=n: without retain_initrd on the command line, the layers after the loader are lost"
        ]
    );
    let ram = sufficient() + "CONFIG_BLK_DEV_RAM=y\n";
    assert_eq!(image.check(&ram, &["--cmdline", "quiet"]), (vec![], 0));
}

#[test]
fn a_configuration_may_be_compressed_and_must_be_one() {
    let directory = scratch("check-config-file");
    fs::write(directory.join("config"), CONFIG).unwrap();
    let packed = Command::new("gzip")
        .args(["-nc", "config"])
        .current_dir(&directory)
        .output()
        .unwrap();
    fs::write(directory.join("config.gz"), packed.stdout).unwrap();
    let init = elf(X86_64);
    let layer = cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, &init)]);
    let image = join(&[&x86_loader(), &layer]);
    let plain = check(&directory, &image, &["--kernel-config", "config"]);
    assert_eq!(plain.1, 0, "{plain:?}");
    assert_eq!(
        check(&directory, &image, &["--kernel-config", "config.gz"]),
        plain
    );
    fs::write(directory.join("no-config"), "hello\n").unwrap();
    for (file, message) in [
        (
            "no-config",
            "layerinit: read no-config: no kernel configuration: it has no line CONFIG_NAME=VALUE\n",
        ),
        (
            "missing",
            "layerinit: open missing: ENOENT: No such file or directory\n",
        ),
    ] {
        let mut command = tool(&directory);
        let output = command
            .args(["check", "image", "--kernel-config", file])
            .output()
            .unwrap();
        assert_eq!(said(&output).1, message);
    }
}

#[test]
fn filesystems_that_the_kernel_cannot_mount_are_reported() {
    let directory = scratch("check-rootfstype");
    let said = |types: &str, config: &str, module: &str| {
        let dep = format!("{DEP}kernel/fs/erofs/{module}.ko:\n");
        let name = format!("{module}.ko");
        let loader = modules("6.12.1", &dep, &[(&name, b"module")]);
        fs::write(directory.join("config"), format!("{CONFIG}{config}")).unwrap();
        let cmdline = format!("root=LABEL=x {types}");
        let words = ["--kernel-config", "config", "--cmdline", &cmdline];
        let (mut lines, _) = check(&directory, &loader, &words);
        lines.retain(|line| line.starts_with("error: ") || line.starts_with("warning: "));
        lines
    };
    const LIST: &str = "lib/modules/6.12.1/modules.dep (build --modules)";
    assert_eq!(
        said("rootfstype=xfs", "", "ext4"),
        ["error: rootfstype=xfs: LABEL=x cannot be mounted: CONFIG_XFS_FS=n"]
    );
    assert_eq!(
        said("rootfstype=xfs,iso9660", "CONFIG_ISO9660_FS=m\n", "ext4"),
        [format!(
            "error: rootfstype=xfs,iso9660: LABEL=x cannot be mounted: CONFIG_XFS_FS=n; CONFIG_ISO9660_FS=m, and the \
             loader has no isofs.ko in {LIST}"
        )]
    );
    for (types, config, module) in [
        ("", "", "ext4"),
        ("rootfstype=xfs", "CONFIG_XFS_FS=y\n", "ext4"),
        ("rootfstype=xfs", "CONFIG_XFS_FS=m\n", "xfs"),
        ("rootfstype=xfs,ext4", "CONFIG_EXT4_FS=y\n", "x"),
        ("rootfstype=iso9660", "CONFIG_ISO9660_FS=m\n", "isofs"),
        ("rootfstype=unheard-of,xfs", "", "x"),
    ] {
        assert_eq!(said(types, config, module), [""; 0], "{types} {config}");
    }
}

#[test]
fn missing_character_sets_of_a_filesystem_are_reported() {
    let directory = scratch("check-charsets");
    let said = |fstype: &str, config: &str, module: &str| {
        let dep = format!("{DEP}kernel/fs/erofs/{module}.ko:\n");
        let loader = modules("6.12.1", &dep, &[(&format!("{module}.ko"), b"module")]);
        let text = format!(
            "{CONFIG}CONFIG_VFAT_FS=y\nCONFIG_ISO9660_FS=y\nCONFIG_EXFAT_FS=y\nCONFIG_FAT_DEFAULT_CODEPAGE=437\n\
             CONFIG_FAT_DEFAULT_IOCHARSET=\"iso8859-1\"\nCONFIG_EXFAT_DEFAULT_IOCHARSET=\"utf8\"\n\
             CONFIG_NLS_DEFAULT=\"utf8\"\n{config}"
        );
        fs::write(directory.join("config"), text).unwrap();
        let cmdline = format!("root=LABEL=x rootfstype={fstype}");
        let words = ["--kernel-config", "config", "--cmdline", &cmdline];
        let (mut lines, _) = check(&directory, &loader, &words);
        lines.retain(|line| line.contains("character set"));
        lines
    };
    let codepage =
        "error: rootfstype=vfat: vfat uses the character set cp437 (CONFIG_FAT_DEFAULT_CODEPAGE): ";
    let iocharset = "error: rootfstype=vfat: vfat uses the character set iso8859-1 (CONFIG_FAT_DEFAULT_IOCHARSET): ";
    assert_eq!(
        said("vfat", "", "ext4"),
        [
            format!("{codepage}CONFIG_NLS_CODEPAGE_437=n"),
            format!("{iocharset}CONFIG_NLS_ISO8859_1=n"),
        ]
    );
    let both = "CONFIG_NLS_CODEPAGE_437=y\nCONFIG_NLS_ISO8859_1=m\n";
    assert_eq!(
        said("vfat", both, "ext4"),
        [format!(
            "{iocharset}CONFIG_NLS_ISO8859_1=m, and the loader has no nls_iso8859_1.ko in \
             lib/modules/6.12.1/modules.dep (build --modules)"
        )]
    );
    assert_eq!(said("vfat", both, "nls_iso8859-1"), [""; 0]);
    assert_eq!(said("exfat", "", "ext4"), [""; 0]);
    assert_eq!(
        said("iso9660", "", "ext4"),
        [
            "warning: rootfstype=iso9660: iso9660 uses the character set utf8 (CONFIG_NLS_DEFAULT): \
             CONFIG_NLS_UTF8=n"
        ]
    );
}

#[test]
fn a_bootconfig_that_the_kernel_ignores_is_reported() {
    let directory = scratch("check-bootconfig");
    let init = elf(X86_64);
    let layer = cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, &init)]);
    let image = join(&[&loader(), &layer, &bootconfig(b"kernel.quiet\n")]);
    let said = |config: &str, cmdline: &[&str]| {
        fs::write(directory.join("config"), format!("{CONFIG}{config}")).unwrap();
        let words = [&["--kernel-config", "config"], cmdline].concat();
        let (mut lines, _) = check(&directory, &image, &words);
        lines.retain(|line| line.contains("bootconfig"));
        Vec::from_iter(lines.iter().map(|line| line.replace("0x330", "AT")))
    };
    let with = "CONFIG_BOOT_CONFIG=y\n";
    assert_eq!(
        said("", &[]),
        ["warning: CONFIG_BOOT_CONFIG=n: the bootconfig at AT has no effect"]
    );
    assert_eq!(said(with, &[]), [""; 0]);
    assert_eq!(
        said(with, &["--cmdline", "retain_initrd bootconfig"]),
        [""; 0]
    );
    assert_eq!(
        said(with, &["--cmdline", "retain_initrd -- bootconfig"]),
        [
            "warning: CONFIG_BOOT_CONFIG_FORCE=n: and no bootconfig on the command line: the bootconfig at AT has no \
             effect"
        ]
    );
    let forced = format!("{with}CONFIG_BOOT_CONFIG_FORCE=y\n");
    assert_eq!(said(&forced, &["--cmdline", "retain_initrd"]), [""; 0]);
}

#[test]
fn ubiquitous_options_are_missed_only_if_explicitly_not_set() {
    let directory = scratch("check-futex");
    let told = |config: String| {
        fs::write(directory.join("config"), config).unwrap();
        let lines = of_loader(&directory, &loader(), &["--kernel-config", "config"]);
        lines
            .iter()
            .any(|line| line.starts_with("error: CONFIG_FUTEX=n: "))
    };
    assert!(!told(CONFIG.into()));
    assert!(told(format!("{CONFIG}# CONFIG_FUTEX is not set\n")));
}

#[test]
fn limits_of_32_bit_kernels_are_reported() {
    let directory = scratch("check-narrow");
    let tree = cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, &elf(40))]);
    let loader = cpio(&[entry("init", 0o100_755, &init_for(40))]);
    let said = |config: &str, size: u64| {
        fs::write(directory.join("config"), format!("{CONFIG}{config}")).unwrap();
        fs::write(directory.join("image"), join(&[&loader, &tree])).unwrap();
        // Zeros after the last archive only make it longer.
        let image = fs::File::options()
            .write(true)
            .open(directory.join("image"));
        image.unwrap().set_len(size << 20).unwrap();
        let mut command = tool(&directory);
        let output = command
            .args(["check", "image", "--kernel-config", "config"])
            .output();
        let (out, _, _) = said(&output.unwrap());
        let lines = out
            .lines()
            .filter(|line| line.contains("lowmem") || line.contains("_TIME="));
        Vec::from_iter(lines.map(String::from))
    };
    // The kernel always maps 8 MiB.
    let arm = "CONFIG_ARM=y\nCONFIG_PAGE_OFFSET=0xef000000\n";
    assert_eq!(said(arm, 4), [""; 0]);
    assert_eq!(
        said(arm, 5),
        [
            "warning: CONFIG_ARM=y: the initrd of 5 MiB has to fit into the memory that this kernel maps \
             (lowmem, the first 8 MiB): the kernel faults when /init reads /sys/firmware/initrd beyond"
        ]
    );
    assert_eq!(
        said(arm, 9),
        [
            "error: CONFIG_ARM=y: the initrd of 9 MiB is larger than the memory that this kernel maps (lowmem, 8 MiB): the kernel faults when /init reads /sys/firmware/initrd beyond"
        ]
    );
    assert_eq!(said("CONFIG_ARM64=y\n", 9), [""; 0]);

    let off = "# CONFIG_COMPAT_32BIT_TIME is not set\n";
    let times = "warning: CONFIG_COMPAT_32BIT_TIME=n: programs that are linked with glibc and use 32-bit times \
                 fail (ENOSYS): use an /init for musl, and a real init built with 64-bit times";
    for (config, expected) in [
        (format!("{arm}{off}"), &[times][..]),
        (
            format!("CONFIG_X86=y\n# CONFIG_64BIT is not set\n{off}"),
            &[times],
        ),
        (format!("CONFIG_X86_64=y\nCONFIG_64BIT=y\n{off}"), &[]),
        (format!("{arm}CONFIG_COMPAT_32BIT_TIME=y\n"), &[]),
        (arm.into(), &[]),
    ] {
        assert_eq!(said(&config, 1), expected, "{config}");
    }
}

#[test]
fn the_backend_and_size_of_each_layer_are_reported() {
    let image = Parts::new("check-config-backends", &["-zlz4hc"]);
    let length = image.image.len() - image.layer;
    let keeps = |backend: &str| format!("mounted by {backend}, which keeps its {length} bytes");
    let extracted = |line: &str| {
        // An ELF file and 50000 bytes of text in whole pages, and three inodes.
        line == format!(
            "by extract, into {} bytes of memory",
            4096 + 13 * 4096 + 3 * 1280
        )
    };
    for (config, words, expected) in [
        (sufficient(), "retain_initrd", keeps("loop")),
        (
            sufficient() + "CONFIG_EROFS_FS_MEMBACK=y\n",
            "quiet",
            keeps("memback"),
        ),
        (
            sufficient().replace("LOOP=y", "LOOP=n"),
            "retain_initrd",
            String::new(),
        ),
        (
            sufficient().replace("OVERLAY_FS=y", "OVERLAY_FS=n"),
            "retain_initrd",
            String::new(),
        ),
        (as_modules(), "retain_initrd", String::new()),
        (
            sufficient(),
            "retain_initrd rd.layers.backend=extract",
            String::new(),
        ),
    ] {
        fs::write(image.directory.join("config"), &config).unwrap();
        let words = ["--kernel-config", "config", "--cmdline", words];
        let (lines, _) = check(&image.directory, &image.image, &words);
        let prefix = format!("layer 0 (initrd+{:#x}): ", image.layer);
        let lines: Vec<_> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(&prefix))
            .collect();
        let [line] = lines[..] else {
            panic!("{words:?}: {lines:?}");
        };
        match expected.is_empty() {
            true => assert!(extracted(line), "{words:?}: {line}"),
            false => assert_eq!(line, expected, "{words:?}"),
        }
    }
}
