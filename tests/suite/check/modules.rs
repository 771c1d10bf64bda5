//! Kernel modules of the loader.

use super::*;

const OURS: &str = "6.12.117+deb13-amd64";
const WITH: [&str; 2] = ["--kernel-config", "config"];

/// A directory with a configuration whose filesystems and loop devices are modules.
fn with_config(name: &str) -> std::path::PathBuf {
    let directory = scratch(name);
    let config = CONFIG
        .replace("EROFS_FS=y", "EROFS_FS=m")
        .replace("OVERLAY_FS=y", "OVERLAY_FS=m")
        .replace("LOOP=y", "LOOP=m");
    fs::write(directory.join("config"), config).unwrap();
    directory
}

#[test]
fn modules_for_another_kernel_than_the_configuration_are_found() {
    let directory = with_config("check-modules");
    let of = |release, dep: &str, files: &[_], words: &[&str]| {
        of_loader(&directory, &modules(release, dep, files), words)
    };
    for words in [&[][..], &WITH] {
        assert_eq!(of(OURS, DEP, &FILES, words), [""; 0]);
    }
    // Without modules in the loader, the kernel may have everything built in.
    assert_eq!(of_loader(&directory, &loader(), &[]), [""; 0]);
    assert_eq!(
        of_loader(&directory, &x86_loader(), &WITH)[0],
        "warning: CONFIG_EROFS_FS=m: the loader has no erofs.ko (build --modules): no EROFS layer can be mounted; /init \
         extracts the layers into memory instead"
    );
    // A configuration of another kernel.
    let old = "6.1.0-56-cloud-amd64";
    assert_eq!(of(old, DEP, &FILES, &[]), [""; 0]);
    let lines = of(old, DEP, &FILES, &WITH);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(
        lines[0],
        "warning: CONFIG_EROFS_FS=m: the loader has modules of other kernels only: 6.1.0-56-cloud-amd64: no EROFS \
         layer can be mounted; /init extracts the layers into memory instead"
    );
    assert_eq!(of("6.120.1", DEP, &FILES, &WITH).len(), 3);
}

#[test]
fn modules_without_an_index_are_found() {
    let directory = with_config("check-modules-index");
    let of = |release, dep: &str, files: &[_], words: &[&str]| {
        of_loader(&directory, &modules(release, dep, files), words)
    };
    let place = format!("lib/modules/{OURS}");
    assert_eq!(
        of(OURS, "", &FILES, &[]),
        [format!(
            "error: loader: {place} has no modules.dep (depmod): /init finds no module there"
        )]
    );
    assert_eq!(of(OURS, "", &[("xhci.ko", b"")], &[]), [""; 0]);
    assert_eq!(
        of(
            OURS,
            "",
            &[("xhci.ko", b"")],
            &["--cmdline", "retain_initrd root=/dev/sda1"]
        )
        .len(),
        1
    );
    let lines = of(OURS, "", &FILES, &WITH);
    assert_eq!(
        (lines.len(), &*lines[2]),
        (
            3,
            &*format!(
                "warning: CONFIG_BLK_DEV_LOOP=m: {place} has no modules.dep (depmod): without the loop \
                 backend, this kernel cannot mount the EROFS layers, unless it supports memback; /init extracts \
                 the layers into memory instead"
            )
        )
    );
}

#[test]
fn missing_modules_of_the_index_are_found() {
    let directory = with_config("check-modules-gone");
    let of = |release, dep: &str, files: &[_], words: &[&str]| {
        of_loader(&directory, &modules(release, dep, files), words)
    };
    let place = format!("lib/modules/{OURS}");
    // A missing file: a dependency, and the module itself.
    let without = |name: &str| Vec::from_iter(FILES.into_iter().filter(|file| file.0 != name));
    let text = format!(
        "{place} has no kernel/fs/erofs/libcrc32c.ko, which erofs depends on: no EROFS layer can be mounted; \
         /init extracts the layers into memory instead"
    );
    let gone = without("libcrc32c.ko");
    assert_eq!(
        of(OURS, DEP, &gone, &[]),
        [format!("warning: loader: {text}")]
    );
    assert_eq!(
        of(OURS, DEP, &gone, &WITH),
        [format!("warning: CONFIG_EROFS_FS=m: {text}")]
    );
    let lines = of(OURS, DEP, &without("loop.ko"), &[]);
    assert_eq!(
        lines,
        [format!(
            "warning: loader: {place} has no kernel/fs/erofs/loop.ko: the loop backend cannot be used"
        )]
    );
}

/// A module with a signature, as scripts/sign-file appends it.
fn signed() -> Vec<u8> {
    let mut signed = b"modulesignature".to_vec();
    signed.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    signed.extend(b"~Module signature appended~\n");
    signed
}

/// A loader with signed modules of 6.12.1 and this erofs.ko.
fn with_erofs(erofs: &[u8]) -> Vec<u8> {
    let signed = signed();
    let mut files = FILES.map(|(name, _)| (name, &signed[..]));
    files[0].1 = erofs;
    modules("6.12.1", DEP, &files)
}

fn packed(directory: &Path, module: &[u8]) -> Vec<u8> {
    fs::write(directory.join("module"), module).unwrap();
    let mut xz = Command::new("xz");
    let packed = xz
        .args(["-c", "--check=crc32"])
        .arg(directory.join("module"));
    packed.output().unwrap().stdout
}

/// Writes a configuration with erofs.ko as a module, and these lines.
fn config_with(directory: &Path, more: &str) {
    let config = CONFIG.replace("EROFS_FS=y", "EROFS_FS=m");
    fs::write(directory.join("config"), format!("{config}{more}")).unwrap();
}

/// The error for an erofs.ko without a signature.
fn unsigned(place: &str, why: &str) -> String {
    format!(
        "warning: {place}: lib/modules/6.12.1/kernel/fs/erofs/erofs.ko has no signature, and the kernel loads no module \
         without one ({why}): no EROFS layer can be mounted; /init extracts the layers into memory instead"
    )
}

#[test]
fn unsigned_modules_are_found_if_the_command_line_requires_signatures() {
    let directory = scratch("check-signatures");
    let [signed, packed] = [signed(), packed(&directory, &signed())];
    let said = |erofs: &[u8], cmdline: &str| {
        let cmdline = format!("retain_initrd {cmdline}");
        let words = ["--cmdline", &cmdline];
        of_loader(&directory, &with_erofs(erofs), &words)
    };
    for word in [
        "module.sig_enforce",
        "module.sig-enforce=1",
        "lockdown=integrity",
    ] {
        assert_eq!(said(b"module", word), [unsigned("loader", word)]);
        assert_eq!(said(&signed, word), [""; 0]);
        assert_eq!(said(&packed, word), [""; 0]);
    }
    for word in [
        "",
        "module.sig_enforce=0",
        "lockdown=none",
        "-- module.sig_enforce",
    ] {
        assert_eq!(said(b"module", word), [""; 0]);
    }
}

#[test]
fn unsigned_modules_are_found_if_the_configuration_requires_signatures() {
    let directory = scratch("check-signatures-config");
    let packed = packed(&directory, &signed());
    let said = |erofs: &[u8], cmdline: &str| {
        let cmdline = format!("retain_initrd {cmdline}");
        let words = ["--cmdline", &cmdline, "--kernel-config", "config"];
        of_loader(&directory, &with_erofs(erofs), &words)
    };
    // A kernel that does not know the word ignores it.
    config_with(&directory, "");
    assert_eq!(said(b"module", "module.sig_enforce"), [""; 0]);
    config_with(&directory, "CONFIG_MODULE_SIG=y\n");
    assert_eq!(said(b"module", ""), [""; 0]);
    assert_eq!(said(b"module", "lockdown=integrity"), [""; 0]);
    assert_eq!(
        said(b"module", "module.sig_enforce"),
        [unsigned("CONFIG_EROFS_FS=m", "module.sig_enforce")]
    );
    config_with(
        &directory,
        "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n",
    );
    assert_eq!(
        said(b"module", ""),
        [unsigned("CONFIG_EROFS_FS=m", "CONFIG_MODULE_SIG_FORCE=y")]
    );
    assert_eq!(said(&packed, ""), [""; 0]);
    // Only under Secure Boot, so the firmware of the machine decides.
    config_with(
        &directory,
        "CONFIG_MODULE_SIG=y\nCONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y\n",
    );
    assert_eq!(
        said(b"module", ""),
        [
            "warning: CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y: lib/modules/6.12.1/kernel/fs/erofs/erofs.ko has no \
             signature: under Secure Boot the kernel loads no module without one (build without \
             --strip-module-signatures)"
        ]
    );
    assert_eq!(said(&packed, ""), [""; 0]);
    config_with(&directory, "CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y\n");
    assert_eq!(said(b"module", ""), [""; 0]);
}

#[test]
fn unsigned_drivers_are_found() {
    let directory = scratch("check-signatures-driver");
    config_with(
        &directory,
        "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n",
    );
    let signed = signed();
    let mut driver = FILES.map(|(name, _)| (name, &*signed)).to_vec();
    driver.push(("virtio_blk.ko", b"module"));
    let loader = modules("6.12.1", DEP, &driver);
    let words = ["--cmdline", "retain_initrd", "--kernel-config", "config"];
    assert_eq!(
        of_loader(&directory, &loader, &words),
        [
            "warning: CONFIG_MODULE_SIG_FORCE=y: lib/modules/6.12.1/kernel/fs/erofs/virtio_blk.ko has no signature: \
             the kernel loads no module without one (build without --strip-module-signatures)"
        ]
    );
}

#[test]
fn modules_for_another_machine_than_init_are_reported() {
    let directory = scratch("check-module-machine");
    let mut s390 = elf(22 << 8);
    s390[5] = 2;
    let line = |file: &str, number: u16, here: &str| {
        vec![format!(
            "error: loader: lib/modules/6.12.1/kernel/fs/erofs/{file}: a module for another machine (e_machine \
             {number}, here {here})"
        )]
    };
    // The e_machine of /init, a module, the architecture of the configuration; the error.
    for (init, module, file, architecture, expected) in [
        (X86_64, elf(X86_64), "erofs.ko", "", vec![]),
        (
            X86_64,
            elf(AARCH64),
            "erofs.ko",
            "",
            line("erofs.ko", 183, "x86_64"),
        ),
        (
            AARCH64,
            elf(X86_64),
            "erofs.ko",
            "",
            line("erofs.ko", 62, "aarch64"),
        ),
        (
            AARCH64,
            packed(&directory, &elf(X86_64)),
            "erofs.ko.xz",
            "",
            line("erofs.ko.xz", 62, "aarch64"),
        ),
        // 32-bit programs run on 64-bit kernels.
        (3, elf(X86_64), "erofs.ko", "", vec![]),
        (40, elf(AARCH64), "erofs.ko", "", vec![]),
        (
            X86_64,
            elf(AARCH64),
            "erofs.ko",
            "x86",
            line("erofs.ko", 183, "x86_64"),
        ),
        (
            X86_64,
            s390.clone(),
            "erofs.ko",
            "",
            line("erofs.ko", 22, "x86_64"),
        ),
        (0, s390, "erofs.ko", "s390", vec![]),
        // Unknown machines give no error.
        (0, elf(AARCH64), "erofs.ko", "", vec![]),
        (X86_64, b"module".to_vec(), "erofs.ko", "", vec![]),
    ] {
        let dep = format!("kernel/fs/erofs/{file}:\n");
        let loader = modules_for(init, "6.12.1", &dep, &[(file, &module)]);
        let mut words = vec!["--cmdline", "root=/dev/sda1"];
        if !architecture.is_empty() {
            let config = format!("# Linux/{architecture} 6.12.1 Kernel Configuration\n{CONFIG}");
            fs::write(directory.join("config"), config).unwrap();
            words.extend(["--kernel-config", "config"]);
        }
        let (mut lines, _) = check(&directory, &loader, &words);
        lines.retain(|line| line.contains(" module for "));
        assert_eq!(lines, expected, "{init} {file} {architecture}");
    }
}
