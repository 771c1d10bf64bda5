//! Programs: their machine, their format, and what they replace.

use super::*;

const REAL: &str = "no init in the new root: /sbin/init";

/// The first error about a program, up to the first `;`, for a loader whose /init is `loader`, a layer whose
/// /sbin/init is `real`, and CONFIG with this configuration.
fn first_error(
    directory: &Path,
    loader: &[u8],
    real: &[u8],
    config: Option<&str>,
) -> Option<String> {
    let image = join(&[
        &cpio(&[entry("init", 0o100_755, loader)]),
        &cpio(&[dir("sbin"), entry("sbin/init", 0o100_755, real)]),
    ]);
    let mut words = Vec::new();
    if let Some(config) = config {
        fs::write(directory.join("config"), format!("{config}{CONFIG}")).unwrap();
        words = vec!["--kernel-config", "config"];
    }
    let (lines, status) = check(directory, &image, &words);
    let first = lines
        .iter()
        .find(|line| line.starts_with("error: ") && !line.contains("CONFIG_"));
    assert_eq!(status == 0, first.is_none(), "{lines:?}");
    first.map(|line| line.split(';').next().unwrap().to_string())
}

fn wrong(place: &str, number: u16, here: &str) -> Option<String> {
    Some(format!(
        "error: {place}: an ELF program for another machine (e_machine {number}, here {here})"
    ))
}

/// A 64-bit program for s390, which is big-endian.
fn s390() -> Vec<u8> {
    let mut s390 = elf(22 << 8);
    s390[5] = 2;
    s390
}

#[test]
fn programs_for_another_machine_than_the_loader_are_found() {
    let directory = scratch("check-machine");
    let [x86, i386, arm64, arm, none] = [X86_64, 3, AARCH64, 40, 0].map(init_for);
    let s390 = s390();
    for (loader, real, expected) in [
        (&x86, &x86, None),
        (&x86, &i386, None),
        (&x86, &arm64, wrong(REAL, 183, "x86_64")),
        (&arm64, &x86, wrong(REAL, 62, "aarch64")),
        (&arm64, &arm64, None),
        (&arm, &arm64, None),
        // An unknown machine.
        (&none, &arm64, None),
        (&s390, &s390, None),
    ] {
        let machines = (&loader[18..20], &real[18..20]);
        assert_eq!(
            first_error(&directory, loader, real, None),
            expected,
            "{machines:?}"
        );
    }
    // The interpreter counts, too.
    let layer = cpio(&[
        dir("sbin"),
        entry("sbin/init", 0o100_755, b"#!/sbin/sh\n"),
        entry("sbin/sh", 0o100_755, &arm64),
    ]);
    let loader = cpio(&[entry("init", 0o100_755, &x86)]);
    let (lines, _) = check(&directory, &join(&[&loader, &layer]), &[]);
    assert!(
        lines[0].contains(
            "/sbin/init: it needs /sbin/sh: an ELF program for another machine (e_machine 183"
        ),
        "{lines:?}"
    );
}

#[test]
fn programs_for_another_machine_than_the_kernel_are_found() {
    let directory = scratch("check-machine-config");
    let [x86, i386, arm64] = [X86_64, 3, AARCH64].map(init_for);
    let s390 = s390();
    let header = |name: &str| format!("# Linux/{name} 6.12.1 Kernel Configuration\n");
    let x86_32 = header("x86") + "CONFIG_X86=y\n";
    let x86_64 = header("x86") + "CONFIG_X86_64=y\nCONFIG_X86=y\n";
    for (loader, real, config, expected) in [
        (&x86, &x86, header("x86"), None),
        (&x86, &x86, x86_64.clone(), None),
        (&i386, &i386, x86_64, None),
        (&i386, &i386, x86_32.clone(), None),
        (&x86, &x86, header("arm64"), wrong("/init", 62, "aarch64")),
        (
            &x86,
            &x86,
            "CONFIG_RISCV=y\n".into(),
            wrong("/init", 62, "riscv64"),
        ),
        (&x86, &x86, x86_32, wrong("/init", 62, "i386")),
        (&x86, &x86, header("s390"), wrong("/init", 62, "s390")),
        (&arm64, &arm64, header("arm"), wrong("/init", 183, "arm")),
        (&s390, &s390, header("s390"), None),
        (&x86, &x86, header("um"), None),
        (&x86, &arm64, header("x86"), wrong(REAL, 183, "x86_64")),
    ] {
        assert_eq!(
            first_error(&directory, loader, real, Some(&config)),
            expected,
            "{config}"
        );
    }
}

#[test]
fn programs_that_the_kernel_does_not_start_are_reported() {
    let directory = scratch("check-binfmt");
    let x86 = elf(X86_64);
    let script = b"#!/sbin/sh\n".to_vec();
    let line = |place: &str, start: &str, option: &str| {
        format!("error: {place}: it starts with \"{start}\", and the kernel has CONFIG_{option}=n")
    };
    let said = |loader: &[u8], real: &[u8], without: &str| {
        let off = format!("# CONFIG_{without} is not set");
        let config = CONFIG.replace(&format!("CONFIG_{without}=y"), &off);
        fs::write(directory.join("config"), config).unwrap();
        let image = join(&[
            &cpio(&[
                entry("init", 0o100_755, loader),
                dir("sbin"),
                entry("sbin/sh", 0o100_755, &x86),
            ]),
            &cpio(&[
                dir("sbin"),
                entry("sbin/init", 0o100_755, real),
                entry("sbin/sh", 0o100_755, &x86),
            ]),
        ]);
        let (mut lines, _) = check(&directory, &image, &["--kernel-config", "config"]);
        lines.retain(|line| line.contains("starts with"));
        let short = |line: &String| line.split("; ").next().unwrap().to_string();
        Vec::from_iter(lines.iter().map(short))
    };
    assert_eq!(said(&x86, &script, "none"), [""; 0]);
    assert_eq!(said(&x86, &x86, "BINFMT_SCRIPT"), [""; 0]);
    assert_eq!(
        said(&x86, &x86, "BINFMT_ELF"),
        [
            line("/init", "\\x7fELF", "BINFMT_ELF"),
            line(REAL, "\\x7fELF", "BINFMT_ELF")
        ]
    );
    assert_eq!(
        said(&x86, &script, "BINFMT_SCRIPT"),
        [line(REAL, "#!", "BINFMT_SCRIPT")]
    );
    assert_eq!(
        said(&script, &x86, "BINFMT_SCRIPT"),
        [line("/init", "#!", "BINFMT_SCRIPT")]
    );
}

#[test]
fn a_program_that_replaces_init_is_named() {
    let directory = scratch("check-foreign-init");
    let busybox = cpio(&[
        dir("bin"),
        program("bin/busybox"),
        entry("init", 0o120_777, b"bin/busybox"),
    ]);
    let script = cpio(&[
        // A missing shell does not matter.
        entry("init", 0o100_755, b"#!/bin/sh\n"),
    ]);
    let mut image = erofs(1, "");
    image[1032] &= !1;
    let first = |pieces: &[&[u8]], words: &[&str]| {
        let (lines, status) = check(&directory, &pieces.concat(), words);
        let mut errors = lines.into_iter().filter(|line| line.starts_with("error: "));
        (errors.next().unwrap_or_default(), status)
    };
    const WHERE: &str = "from the archive at 0x188, which replaces that of the archive at 0x0: no layer would be \
                         mounted (the loader must be the last archive with that file before the first EROFS image)";
    assert_eq!(loader().len(), 0x188);
    for (other, what) in [
        (&busybox, "another program (bin/busybox)"),
        (&script, "a script (#!/bin/sh)"),
    ] {
        let expected =
            format!("error: loader: start /init: it is not layerinit's, but {what} {WHERE}");
        assert_eq!(first(&[&loader(), other, &image], &[]), (expected, 1));
        // The last one is the loader.
        let (line, _) = first(&[other, &loader(), &image], &[]);
        assert!(!line.contains("layerinit's"), "{line}");
        // An /init that is built into the kernel is replaced, too.
        let (line, status) = first(&[other, &image], &["--loader-built-in"]);
        assert!(
            line.starts_with("error: loader: start /init: it is not layerinit's, but "),
            "{line}"
        );
        assert_eq!(status, 1);
    }
    // A script with another name may start /init, but needs its interpreter.
    let before = cpio(&[init(), entry("before", 0o100_755, b"#!/bin/sh\n")]);
    assert_eq!(
        first(
            &[&before, &image],
            &["--cmdline", "retain_initrd rdinit=/before"]
        )
        .0,
        "error: /before: it needs /bin/sh, which no archive that the kernel unpacks has (a static /init needs nothing)"
    );
}
