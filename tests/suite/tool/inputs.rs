//! The inputs of `list`, `check` and `plan`: several files, unified kernel images, U-Boot ramdisks, sparse
//! files and block devices. Needs root, for a loop device.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::common::{cpio, cpio_without_trailer, erofs, file, join, own_init, pad, program};
use crate::support::{erofs_with_init, said, scratch, tool};

/// Runs the tool with these words, and a time limit that reading terabytes exceeds.
fn run(directory: &Path, words: &[&str]) -> (String, String, i32) {
    let mut command = Command::new("timeout");
    command
        .arg("60")
        .arg(tool(directory).get_program())
        .args(words)
        .current_dir(directory);
    said(&command.output().unwrap())
}

/// Runs the tool, expects success, and returns its output.
fn good(directory: &Path, words: &[&str]) -> String {
    let (stdout, stderr, status) = run(directory, words);
    assert_eq!((stderr.as_str(), status), ("", 0), "{words:?}: {stdout}");
    stdout
}

/// A sparse file of 8 TiB that begins with `start` and ends with `end`.
fn giant(path: &Path, start: &[u8], end: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(8 << 40).unwrap();
    file.write_all_at(start, 0).unwrap();
    file.write_all_at(end, (8 << 40) - end.len() as u64)
        .unwrap();
}

#[test]
fn holes_are_skipped() {
    let directory = scratch("inputs-giant");
    let loader = cpio(&[own_init("init")]);
    giant(&directory.join("both"), &loader, &erofs(1, "app"));
    assert_eq!(
        good(&directory, &["list", "both"]),
        "\
offset          length what
0x00000000         392 cpio 1 members, 4096 bytes unpacked, holds init
0x00000188 8796093017720 padding
0x7fffffff000        4096 erofs 1 blocks of 4096, label \"app\", checksum none
                       uuid 00000000-0000-0000-0000-000000000000, 0 inodes
"
    );
    let (plan, _, _) = run(&directory, &["plan", "both"]);
    assert!(
        plan.starts_with("layer 0 (initrd+0x7fffffff000): 4096 bytes, erofs \"app\""),
        "{plan}"
    );
    let (checked, _, status) = run(&directory, &["check", "both"]);
    assert_eq!(status, 1);
    assert!(
        checked.contains("layer 0 (initrd+0x7fffffff000)"),
        "{checked}"
    );

    let without = cpio_without_trailer(&[program("init")]);
    giant(&directory.join("without"), &without, b"");
    assert_eq!(
        good(&directory, &["list", "without"]),
        "\
offset          length what
0x00000000         120 cpio 1 members, 4096 bytes unpacked, holds init
0x00000078 8796093022088 padding
"
    );
}

#[test]
fn a_file_of_terabytes_is_no_layer() {
    let directory = scratch("inputs-giant-layer");
    fs::write(directory.join("init"), "#!/init\n").unwrap();
    giant(&directory.join("hollow"), b"", b"");
    giant(&directory.join("layer"), &cpio(&[file("x", b"1")]), b"");
    for (layer, message) in [
        (
            "hollow",
            "layerinit: read hollow: it holds only zeros, no layer\n",
        ),
        (
            "layer",
            "layer 0, layer: 8796093022208 bytes\n\
             layerinit: write image: 8796093022216 bytes are more than any machine can load as an initrd\n",
        ),
    ] {
        let words = ["build", "-o", "image", "--init", "init", "--layer", layer];
        let (_, stderr, status) = run(&directory, &words);
        assert_eq!((stderr.as_str(), status), (message, 1));
        assert!(!directory.join("image").exists());
    }
}

#[test]
fn a_block_device_is_read_to_its_end() {
    let directory = scratch("inputs-device");
    let mut image = cpio(&[own_init("init")]);
    pad(&mut image, 4096);
    let image = join(&[&image, &erofs(2, "app"), &[0; 512]]);
    fs::write(directory.join("image"), &image).unwrap();
    let mut losetup = Command::new("losetup");
    let (device, stderr, status) = said(
        &losetup
            .args(["--find", "--show", "--read-only"])
            .arg(directory.join("image"))
            .output()
            .unwrap(),
    );
    assert_eq!((stderr.as_str(), status), ("", 0), "losetup");
    let device = device.trim();
    let (list, plan) = (
        run(&directory, &["list", device]),
        run(&directory, &["plan", device]),
    );
    let (json, _, _) = run(&directory, &["list", "--json", device]);
    let detached = Command::new("losetup").args(["--detach", device]).status();
    assert!(detached.unwrap().success());
    let of_file = |words: &[&str]| run(&directory, words);
    assert_eq!(list, of_file(&["list", "image"]));
    assert_eq!(plan, of_file(&["plan", "image"]));
    // The image has no root directory.
    assert_eq!((list.2, plan.2), (0, 1));
    let start = format!(
        "{{\"image\":\"{device}\",\"size\":{},\"trouble\":null",
        image.len()
    );
    assert!(json.starts_with(&start), "{json}");
}

// ---- several files

/// The pieces, each at a multiple of `align`.
fn padded(pieces: &[&[u8]], align: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    for piece in pieces {
        pad(&mut whole, align);
        whole.extend_from_slice(piece);
    }
    whole
}

#[test]
fn several_files_are_joined_as_by_a_boot_loader() {
    let directory = scratch("inputs-several");
    let mut loader = cpio(&[own_init("init")]);
    loader.extend([0; 3]);
    let pieces = [
        &loader[..],
        &erofs_with_init("base"),
        &erofs_with_init("app"),
    ];
    for (name, piece) in ["loader", "base", "app"].iter().zip(pieces) {
        fs::write(directory.join(name), piece).unwrap();
    }
    for (align, words) in [
        (4, &[][..]),
        (1, &["--pad", "1"]),
        (4, &["--pad", "4"]),
        (4096, &["--pad", "4096"]),
    ] {
        fs::write(directory.join("whole"), padded(&pieces, align)).unwrap();
        for command in ["plan", "list"] {
            let several = good(
                &directory,
                &[&[command, "loader", "base", "app"], words].concat(),
            );
            let whole = good(&directory, &[command, "whole"]);
            assert!(several.ends_with(&whole), "{several}");
        }
        let several = run(
            &directory,
            &[&["check", "loader", "base", "app"], words].concat(),
        );
        let (whole, _, status) = run(&directory, &["check", "whole"]);
        assert_eq!(
            several,
            (
                whole.replace("\nwhole: ", "\nloader + base + app: "),
                String::new(),
                status
            )
        );
    }
    let list = good(&directory, &["list", "loader", "base"]);
    assert_eq!(
        list,
        "\
offset          length from
0x00000000         395 loader
0x0000018c        4096 base

offset          length what
0x00000000         392 cpio 1 members, 4096 bytes unpacked, holds init
0x00000188           4 padding
0x0000018c        4096 erofs 1 blocks of 4096, label \"base\", checksum none
                       uuid 00000000-0000-0000-0000-000000000000, 0 inodes
"
    );
    let json = good(&directory, &["list", "--json", "loader", "base"]);
    let start = concat!(
        r#"{"image":"loader + base","size":4492,"pieces":[{"name":"loader","offset":0,"length":395},"#,
        r#"{"name":"base","offset":396,"length":4096}],"trouble":null,"#
    );
    assert!(json.starts_with(start), "{json}");
    // An offset is relative to the joined files, as in messages of /init.
    fs::write(directory.join("junk"), "junk").unwrap();
    let (_, stderr, status) = run(&directory, &["list", "loader", "junk"]);
    let message = "layerinit: read at 0x18c: neither cpio nor EROFS: 6a 75 6e 6b \"junk\"\n";
    assert_eq!((stderr.as_str(), status), (message, 1));
    let (_, stderr, status) = run(&directory, &["list", "loader", "missing"]);
    let message = "layerinit: open missing: ENOENT: No such file or directory\n";
    assert_eq!((stderr.as_str(), status), (message, 1));
}

// ---- unified kernel images

/// A PE file with these sections, each padded to 512 bytes, as ukify writes it.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = b"MZ".to_vec();
    file.resize(0x3c, 0);
    file.extend(0x40u32.to_le_bytes());
    file.extend(b"PE\0\0\x64\x86");
    file.extend((sections.len() as u16).to_le_bytes());
    file.extend([0; 16]);
    let mut offset = 1024;
    for (name, bytes) in sections {
        let mut field = [0; 8];
        field[..name.len()].copy_from_slice(name.as_bytes());
        file.extend(field);
        let raw = bytes.len().next_multiple_of(512);
        for number in [bytes.len(), 0x10000, raw, offset] {
            file.extend((number as u32).to_le_bytes());
        }
        file.extend([0; 16]);
        offset += raw;
    }
    file.resize(1024, 0);
    for (_, bytes) in sections {
        file.extend_from_slice(bytes);
        pad(&mut file, 512);
    }
    file
}

fn microcode() -> Vec<u8> {
    cpio(&[file("kernel/x86/microcode/GenuineIntel.bin", b"1")])
}

fn two_layers() -> Vec<u8> {
    join(&[
        &cpio(&[own_init("init")]),
        &erofs_with_init("base"),
        &erofs_with_init("app"),
    ])
}

/// A unified kernel image of the microcode and the two layers.
fn uki() -> Vec<u8> {
    pe(&[
        (".linux", b"a kernel"),
        (".initrd", &two_layers()),
        (".cmdline", b"retain_initrd rd.layers.skip=base\n\0"),
        (".ucode", &microcode()),
    ])
}

/// A directory with that as linux.efi, and the initrd that systemd-stub would pass.
fn with_uki(name: &str) -> std::path::PathBuf {
    let directory = scratch(name);
    fs::write(directory.join("linux.efi"), uki()).unwrap();
    let initrd = join(&[&microcode(), &two_layers()]);
    fs::write(directory.join("initrd"), initrd).unwrap();
    directory
}

/// The offset of these bytes in the unified kernel image.
fn place(bytes: &[u8]) -> usize {
    let uki = uki();
    let mut windows = uki.windows(bytes.len());
    windows.position(|window| window == bytes).unwrap()
}

#[test]
fn a_unified_kernel_image_has_initrd_and_command_line() {
    let directory = with_uki("inputs-uki");
    let skip = ["--cmdline", "retain_initrd rd.layers.skip=base"];
    let of_uki = good(&directory, &["plan", "linux.efi"]);
    assert_eq!(
        of_uki,
        good(&directory, &[&["plan", "initrd"][..], &skip].concat())
    );
    assert!(of_uki.starts_with("layer 1 (initrd+"), "{of_uki}");
    assert!(
        of_uki.contains("\"app\"") && !of_uki.contains("\"base\""),
        "{of_uki}"
    );
    let other = ["--cmdline", "rd.layers.skip=app"];
    assert_eq!(
        good(&directory, &[&["plan", "linux.efi"][..], &other].concat()),
        good(&directory, &[&["plan", "initrd"][..], &other].concat())
    );
    let (checked, _, status) = run(&directory, &["check", "linux.efi"]);
    let (expected, _, code) = run(&directory, &[&["check", "initrd"][..], &skip].concat());
    assert_eq!(
        (checked, status),
        (expected.replace("\ninitrd: ", "\nlinux.efi: "), code)
    );
}

#[test]
fn a_list_of_a_unified_kernel_image_begins_with_its_sections() {
    let directory = with_uki("inputs-uki-list");
    let (microcode, initrd) = (microcode(), two_layers());
    let list = good(&directory, &["list", "linux.efi"]);
    let (pieces, segments) = list.split_once("\n\n").unwrap();
    assert_eq!(format!("{segments}"), good(&directory, &["list", "initrd"]));
    let expected = format!(
        "offset          length from\n0x00000000 {:>11} linux.efi .ucode at {:#x}\n{:#010x} {:>11} linux.efi .initrd at {:#x}",
        microcode.len(),
        place(&microcode),
        microcode.len(),
        initrd.len(),
        place(&initrd)
    );
    assert_eq!(pieces, expected);
}

#[test]
fn addons_follow_the_unified_kernel_image_and_microcode_is_first() {
    let directory = with_uki("inputs-uki-addons");
    fs::write(
        directory.join("late.efi"),
        pe(&[
            (".initrd", &erofs_with_init("late")),
            (".cmdline", b"quiet"),
        ]),
    )
    .unwrap();
    fs::write(
        directory.join("words.efi"),
        pe(&[(".cmdline", b"rd.overlay.readonly")]),
    )
    .unwrap();
    let plan = good(&directory, &["plan", "linux.efi", "late.efi", "words.efi"]);
    let layers: Vec<_> = plan
        .lines()
        .filter(|line| line.starts_with("layer "))
        .collect();
    assert!(
        layers.len() == 2 && layers[0].contains("\"app\"") && layers[1].contains("\"late\""),
        "{plan}"
    );
    assert!(plan.contains("root: overlay, read-only"), "{plan}");
}

#[test]
fn a_pe_file_without_an_initrd_or_cut_short_is_named() {
    let directory = with_uki("inputs-uki-bad");
    let words = pe(&[(".cmdline", b"rd.overlay.readonly")]);
    fs::write(directory.join("words.efi"), words).unwrap();
    let (_, stderr, status) = run(&directory, &["list", "words.efi"]);
    let message = "layerinit: read words.efi: a PE file without a section .initrd: no unified kernel image, and no initrd\n";
    assert_eq!((stderr.as_str(), status), (message, 1));
    let cut = place(&microcode());
    fs::write(directory.join("cut.efi"), &uki()[..cut + 10]).unwrap();
    let (_, stderr, status) = run(&directory, &["list", "cut.efi"]);
    let message = format!(
        "layerinit: read cut.efi .ucode at {cut:#x}: truncated: its header says {} bytes, and 10 are left\n",
        microcode().len()
    );
    assert_eq!((stderr, status), (message, 1));
}

// ---- U-Boot's ramdisks

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        (0..8).fold(crc, |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes
        .iter()
        .fold(!0, |crc, byte| step(crc ^ u32::from(*byte)))
}

/// The data, with the header of `mkimage -A arm64 -T ramdisk -C none`.
pub fn uimage(data: &[u8]) -> Vec<u8> {
    let mut header = [0; 64];
    header[..4].copy_from_slice(b"\x27\x05\x19\x56");
    header[12..16].copy_from_slice(&(data.len() as u32).to_be_bytes());
    header[24..28].copy_from_slice(&crc32(data).to_be_bytes());
    header[28..32].copy_from_slice(&[5, 22, 3, 0]);
    let crc = crc32(&header);
    header[4..8].copy_from_slice(&crc.to_be_bytes());
    join(&[&header, data])
}

#[test]
fn the_header_of_a_u_boot_ramdisk_is_skipped() {
    let directory = scratch("inputs-uimage");
    let initrd = join(&[&cpio(&[own_init("init")]), &erofs_with_init("app")]);
    fs::write(directory.join("initrd"), &initrd).unwrap();
    let mut ramdisk = uimage(&initrd);
    ramdisk.extend([0xFF; 100]);
    fs::write(directory.join("ramdisk"), &ramdisk).unwrap();
    assert_eq!(
        good(&directory, &["plan", "ramdisk"]),
        good(&directory, &["plan", "initrd"])
    );
    let (good_check, _, status) = run(&directory, &["check", "ramdisk"]);
    let (expected, _, code) = run(&directory, &["check", "initrd"]);
    assert_eq!(
        (good_check, status),
        (expected.replace("\ninitrd: ", "\nramdisk: "), code)
    );
    let list = good(&directory, &["list", "ramdisk"]);
    let start = format!(
        "offset          length from\n0x00000000 {:>11} ramdisk after its U-Boot header\n\n",
        initrd.len()
    );
    assert!(list.starts_with(&start), "{list}");

    let last = 64 + initrd.len() - 1;
    ramdisk[last] ^= 1;
    fs::write(directory.join("ramdisk"), &ramdisk).unwrap();
    let (bad_check, _, status) = run(&directory, &["check", "ramdisk"]);
    let mut changed = initrd.clone();
    *changed.last_mut().unwrap() ^= 1;
    let error = format!(
        "error: image: ramdisk after its U-Boot header: the bytes have the CRC {:#010x}, the header says {:#010x}: \
         U-Boot refuses it\n",
        crc32(&changed),
        crc32(&initrd)
    );
    assert!(bad_check.contains(&error), "{bad_check}");
    assert_eq!(status, 1);

    fs::write(directory.join("ramdisk"), &ramdisk[..1000]).unwrap();
    let (_, stderr, status) = run(&directory, &["list", "ramdisk"]);
    let message = format!(
        "layerinit: read ramdisk after its U-Boot header: truncated: its header says {} bytes, and 936 are left\n",
        initrd.len()
    );
    assert_eq!((stderr, status), (message, 1));
    ramdisk[40] ^= 1;
    fs::write(directory.join("ramdisk"), &ramdisk).unwrap();
    let (_, stderr, status) = run(&directory, &["list", "ramdisk"]);
    assert!(
        stderr
            .starts_with("layerinit: read ramdisk: the header of this U-Boot image has the CRC 0x"),
        "{stderr}"
    );
    assert_eq!(status, 1);
}
