//! Archives that the kernel unpacks, and archives as layers: compression, names.

use super::*;

#[test]
fn archives_that_the_kernel_cannot_decompress_are_found_unless_they_are_layers() {
    let directory = scratch("check-compressed");
    let packed = |command: &str, bytes: &[u8]| {
        let words: Vec<_> = command.split(' ').collect();
        fs::write(directory.join("plain"), bytes).unwrap();
        let mut tool = Command::new(words[0]);
        let output = tool.args(&words[1..]).arg(directory.join("plain")).output();
        output.unwrap().stdout
    };
    let layer = cpio(&[dir("sbin"), file("sbin/init", b"#!/sbin/init\n")]);
    let said = |image: &[u8], words: &[&str]| check(&directory, image, words);
    // With the default check of xz, and with one that the kernel supports.
    let (lines, status) = said(
        &packed("xz -c", &loader()),
        &["--cmdline", "root=/dev/vda1"],
    );
    assert_eq!(
        (lines[0].as_str(), status),
        (
            "error: /init: it is in the archive at 0x0, and the kernel cannot unpack that at 0x0: its check is \
             not CRC32 (xz --check=crc32)",
            1
        )
    );
    let good = packed("xz -c --check=crc32", &loader());
    let (lines, status) = said(&good, &["--cmdline", "root=/dev/vda1"]);
    assert_eq!(status, 0, "{lines:?}");
    assert!(
        lines[1].contains("needs CONFIG_BLK_DEV_INITRD CONFIG_RD_XZ"),
        "{lines:?}"
    );
    // A small archive has a small window, even if zstd may use a large one.
    let (lines, _) = said(
        &packed("zstd -qc", &loader()),
        &["--cmdline", "root=/dev/vda1"],
    );
    assert!(lines[0].contains("decompression 1;"), "{lines:?}");
    // As a layer, /init unpacks what the kernel cannot unpack.
    for command in ["xz -c", "xz -c --check=crc32"] {
        let mut image = loader();
        pad(&mut image, 4);
        image.extend(packed(command, &layer));
        let (lines, _) = said(&image, &[]);
        let summary = lines.last().unwrap();
        assert!(
            summary.contains("1 layer") && !summary.contains("CONFIG_RD"),
            "{lines:?}"
        );
    }
}

#[test]
fn members_that_no_filesystem_accepts_are_reported() {
    let long = "x".repeat(256);
    let below = format!("{long}/y");
    let fits = "x".repeat(255);
    let members = [
        file(&long, b""),
        dir(&below),
        file(&fits, b""),
        file(".", b""),
        entry("/", 0o120_777, b"etc"),
        file("", b""),
        dir("."),
    ];
    let lines = findings("name-max", &[&members], &[]);
    let said: Vec<_> = lines
        .iter()
        .map(|line| &line[line.len().min(18)..])
        .collect();
    const INIT: &str = "/init leaves the file out, as the kernel would";
    assert_eq!(
        said,
        [
            format!("{long}: a name of 256 bytes, where 255 is the limit: {INIT}"),
            format!("{below}: a name of 256 bytes, where 255 is the limit: {INIT}"),
            format!(".: a file named as the root directory: {INIT}"),
            format!("/: a symlink named as the root directory: {INIT}"),
            format!(".: a file named as the root directory: {INIT}"),
        ]
    );
    // In the loader, the kernel drops them.
    let directory = scratch("check-name-max-loader");
    let (lines, status) = check(
        &directory,
        &cpio(&[init(), file(&long, b"")]),
        &["--cmdline", "root=/dev/vda1"],
    );
    assert_eq!(
        (lines[0].as_str(), status),
        (
            &*format!(
                "error: 0x0000010c {long}: a name of 256 bytes, where 255 is the limit: the kernel drops the file without a message"
            ),
            1
        )
    );
}
