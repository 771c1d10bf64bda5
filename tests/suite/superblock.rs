//! Recognition of what is on a device, on images of the real tools, compared with blkid.
//!
//! Needs util-linux, fdisk, e2fsprogs, btrfs-progs, xfsprogs, f2fs-tools, dosfstools, exfatprogs,
//! squashfs-tools, erofs-utils, genisoimage, cryptsetup-bin; root and a loop device for lvm2.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use layerinit::bytes::ReadAt;
use layerinit::format::superblock::partition::{Partition, Scheme, Table, table};
use layerinit::format::superblock::{
    FILESYSTEMS, Share, Volume, VolumeKind, helper_modules, volumes,
};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn start(package: &str, program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}; this test needs the Debian package {package}")
        })
}

/// Runs a program of a Debian package, and returns its standard output.
fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = start(package, program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

/// A file, which is removed on drop.
struct Image(PathBuf);

impl Image {
    fn new(size: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("layerinit-probe-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        Self(path)
    }

    fn holding(bytes: &[u8]) -> Self {
        let image = Self::new(0);
        fs::write(&image.0, bytes).unwrap();
        image
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn open(&self) -> Disk {
        let file = File::open(&self.0).unwrap();
        let size = file.metadata().unwrap().len();
        Disk(file, size)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Disk(File, u64);

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}

/// One value from blkid's low-level probing.
fn blkid(image: &Path, tag: &str) -> Option<String> {
    let path = image.to_str().unwrap();
    let output = start(
        "util-linux",
        "blkid",
        &["-p", "-o", "value", "-s", tag, path],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    // blkid appends one newline.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Some(text.to_string()).filter(|text| !text.is_empty())
}

/// Returns the only volume on the image, after a comparison with blkid.
fn compared(image: &Image) -> Volume {
    let found = volumes(&image.open()).unwrap();
    let [volume] = found.as_slice() else {
        panic!("found {found:?}");
    };
    let theirs = ["TYPE", "UUID", "LABEL"].map(|tag| blkid(&image.0, tag));
    let ours = [
        Some(volume.kind.name().to_string()),
        volume.uuid.clone(),
        volume.label.clone(),
    ];
    assert_eq!(ours, theirs, "the reader (left) and blkid (right) disagree");
    volume.clone()
}

fn expect(image: &Image, kind: VolumeKind, uuid: Option<&str>, label: Option<&str>) {
    let volume = compared(image);
    assert_eq!(
        (volume.kind, volume.uuid.as_deref(), volume.label.as_deref()),
        (kind, uuid, label)
    );
}

fn made(size: u64, package: &str, program: &str, arguments: &[&str]) -> Image {
    let image = Image::new(size);
    let mut all = arguments.to_vec();
    all.push(image.path());
    run(package, program, &all);
    image
}

const MIB: u64 = 1 << 20;

#[test]
fn ext2_ext3_and_ext4_are_distinguished() {
    let ext = |arguments: &[&str]| {
        let mut all = vec!["-q", "-F", "-U", UUID];
        all.extend(arguments);
        made(4 * MIB, "e2fsprogs", "mke2fs", &all)
    };
    for (arguments, kind, label) in [
        (&["-t", "ext2"][..], VolumeKind::Ext2, None),
        (
            &["-t", "ext3", "-L", "three"],
            VolumeKind::Ext3,
            Some("three"),
        ),
        (
            &["-t", "ext4", "-L", "my root"],
            VolumeKind::Ext4,
            Some("my root"),
        ),
        (
            &["-t", "ext4", "-L", "sixteen letters."],
            VolumeKind::Ext4,
            Some("sixteen letters."),
        ),
        (
            &["-t", "ext4", "-L", "Wörzel"],
            VolumeKind::Ext4,
            Some("Wörzel"),
        ),
        (&["-t", "ext4", "-L", " x  "], VolumeKind::Ext4, Some(" x")),
        (
            &["-t", "ext4", "-O", "^has_journal"],
            VolumeKind::Ext4,
            None,
        ),
        (
            &["-t", "ext4", "-O", "^extents,^64bit", "-b", "4096"],
            VolumeKind::Ext4,
            None,
        ),
        (&["-O", "journal_dev"], VolumeKind::Journal, None),
    ] {
        expect(&ext(arguments), kind, Some(UUID), label);
    }
}

#[test]
fn the_other_filesystems_of_linux() {
    let image = made(
        128 * MIB,
        "btrfs-progs",
        "mkfs.btrfs",
        &["-q", "-U", UUID, "-L", "a b"],
    );
    expect(&image, VolumeKind::Btrfs, Some(UUID), Some("a b"));
    assert_eq!(compared(&image).share, None);

    let uuid = format!("uuid={UUID}");
    let image = made(
        320 * MIB,
        "xfsprogs",
        "mkfs.xfs",
        &["-q", "-m", &uuid, "-L", "twelve chars"],
    );
    expect(&image, VolumeKind::Xfs, Some(UUID), Some("twelve chars"));
    let image = made(
        320 * MIB,
        "xfsprogs",
        "mkfs.xfs",
        &["-q", "-m", &uuid, "-b", "size=1024"],
    );
    expect(&image, VolumeKind::Xfs, Some(UUID), None);

    let image = made(
        64 * MIB,
        "f2fs-tools",
        "mkfs.f2fs",
        &["-q", "-f", "-U", UUID, "-l", "Flash ünd"],
    );
    expect(&image, VolumeKind::F2fs, Some(UUID), Some("Flash ünd"));
    let image = made(
        64 * MIB,
        "f2fs-tools",
        "mkfs.f2fs",
        &["-q", "-f", "-U", UUID],
    );
    expect(&image, VolumeKind::F2fs, Some(UUID), None);
}

#[test]
fn fat_in_its_three_sizes() {
    let fat = |size: u64, arguments: &[&str]| {
        let mut all = vec!["-i", "1234abcd"];
        all.extend(arguments);
        made(size, "dosfstools", "mkfs.vfat", &all)
    };
    const SERIAL: Option<&str> = Some("1234-ABCD");
    for (size, arguments, label) in [
        (2 * MIB, &["-F", "12", "-n", "TWELVE"][..], Some("TWELVE")),
        (2 * MIB, &["-F", "12"], None),
        (32 * MIB, &["-F", "16", "-n", "SIX TEEN"], Some("SIX TEEN")),
        (32 * MIB, &["-F", "16"], None),
        (
            64 * MIB,
            &["-F", "32", "-n", "THIRTYTWO"],
            Some("THIRTYTWO"),
        ),
        (64 * MIB, &["-F", "32"], None),
        (320 * MIB, &["-F", "32", "-S", "4096", "-n", "X"], Some("X")),
    ] {
        expect(&fat(size, arguments), VolumeKind::Vfat, SERIAL, label);
    }
    // A renamed filesystem: the label in the root directory counts, not the copy in the boot sector.
    let image = fat(64 * MIB, &["-F", "32", "-n", "BEFORE"]);
    run("dosfstools", "fatlabel", &[image.path(), "AFTER"]);
    expect(&image, VolumeKind::Vfat, SERIAL, Some("AFTER"));
    let file = File::options().write(true).open(&image.0).unwrap();
    file.write_all_at(b"BOOTSECTOR ", 71).unwrap();
    expect(&image, VolumeKind::Vfat, SERIAL, Some("AFTER"));
    run("dosfstools", "fatlabel", &["-r", image.path()]);
    expect(&image, VolumeKind::Vfat, SERIAL, None);
    // A serial number of zero means none.
    let image = made(2 * MIB, "dosfstools", "mkfs.vfat", &["-i", "00000000"]);
    assert_eq!(volumes(&image.open()).unwrap()[0].uuid, None);
}

#[test]
fn exfat_with_and_without_a_label() {
    let exfat = |arguments: &[&str]| made(16 * MIB, "exfatprogs", "mkfs.exfat", arguments);
    for label in ["Data", "Grün", "eleven char"] {
        let image = exfat(&["-L", label]);
        let volume = compared(&image);
        assert_eq!(volume.kind, VolumeKind::Exfat);
        assert_eq!(volume.label.as_deref(), Some(label));
        assert_eq!(volume.uuid.unwrap().len(), 9);
    }
    assert_eq!(compared(&exfat(&[])).label, None);
}

/// A directory with one file.
fn tree() -> PathBuf {
    let image = Image::new(0);
    let directory = image.0.with_extension("tree");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("file"), "content").unwrap();
    directory
}

#[test]
fn read_only_filesystems() {
    let tree = tree();
    let directory = tree.to_str().unwrap();
    let image = Image::new(0);
    run(
        "squashfs-tools",
        "mksquashfs",
        &[
            directory,
            image.path(),
            "-noappend",
            "-quiet",
            "-no-progress",
        ],
    );
    expect(&image, VolumeKind::Squashfs, None, None);

    let image = Image::new(0);
    run(
        "erofs-utils",
        "mkfs.erofs",
        &["-U", UUID, image.path(), directory],
    );
    expect(&image, VolumeKind::Erofs, Some(UUID), None);

    let iso = |arguments: &[&str]| {
        let image = Image::new(0);
        let mut all = vec!["-quiet", "-o", image.path()];
        all.extend(arguments);
        all.push(directory);
        run("genisoimage", "genisoimage", &all);
        image
    };
    for (arguments, label) in [
        (&["-V", "PLAIN"][..], "PLAIN"),
        (&["-V", "Debian 12 n", "-J"], "Debian 12 n"),
        (
            &["-V", "A label of more than sixteen", "-J", "-R"],
            "A label of more than sixteen",
        ),
    ] {
        let volume = compared(&iso(arguments));
        assert_eq!(volume.kind, VolumeKind::Iso9660);
        assert_eq!(volume.label.as_deref(), Some(label));
        assert_eq!(volume.uuid.unwrap().len(), "2026-11-21-09-36-00-00".len());
    }
    fs::remove_dir_all(tree).unwrap();
}

#[test]
fn volumes_that_are_no_filesystems_are_named() {
    let image = made(
        MIB,
        "util-linux",
        "mkswap",
        &["-q", "-U", UUID, "-L", "my swap"],
    );
    expect(&image, VolumeKind::Swap, Some(UUID), Some("my swap"));
    let image = made(
        MIB,
        "util-linux",
        "mkswap",
        &["-q", "-U", UUID, "-p", "65536"],
    );
    expect(&image, VolumeKind::Swap, Some(UUID), None);
    let file = File::options().write(true).open(&image.0).unwrap();
    file.write_all_at(b"S1SUSPEND\0", 65536 - 10).unwrap();
    expect(&image, VolumeKind::Suspended, Some(UUID), None);

    let key = Image::holding(b"secret");
    let luks = |arguments: &[&str]| {
        let image = Image::new(20 * MIB);
        let mut all = vec![
            "luksFormat",
            "-q",
            "--uuid",
            UUID,
            "--pbkdf-force-iterations",
            "1000",
        ];
        all.extend(["--pbkdf", "pbkdf2"]);
        all.extend(arguments);
        all.extend([image.path(), key.path()]);
        run("cryptsetup-bin", "cryptsetup", &all);
        image
    };
    expect(
        &luks(&["--type", "luks1"]),
        VolumeKind::Luks,
        Some(UUID),
        None,
    );
    let image = luks(&["--type", "luks2", "--label", "vault"]);
    expect(&image, VolumeKind::Luks, Some(UUID), Some("vault"));

    let (data, hashes) = (Image::new(MIB), Image::new(0));
    let words = ["format", "--uuid", UUID, data.path(), hashes.path()];
    run("cryptsetup-bin", "veritysetup", &words);
    expect(&hashes, VolumeKind::Verity, Some(UUID), None);

    for kind in [
        VolumeKind::Swap,
        VolumeKind::Suspended,
        VolumeKind::Journal,
        VolumeKind::Luks,
        VolumeKind::Lvm,
        VolumeKind::Raid,
        VolumeKind::Verity,
    ] {
        assert!(kind.refusal().is_some());
    }
    for kind in [VolumeKind::Ext4, VolumeKind::Vfat, VolumeKind::Iso9660] {
        assert_eq!(kind.refusal(), None);
    }
}

#[test]
fn a_physical_volume_of_lvm() {
    let image = Image::new(8 * MIB);
    let device = run("mount", "losetup", &["--find", "--show", image.path()]);
    let only = format!("devices {{ filter=[ \"a|{device}|\", \"r|.*|\" ] use_devicesfile=0 }}");
    let output = start(
        "lvm2",
        "lvm",
        &["pvcreate", "-q", "--config", &only, &device],
    );
    run("mount", "losetup", &["--detach", &device]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let volume = compared(&image);
    assert_eq!(volume.kind, VolumeKind::Lvm);
    assert_eq!(volume.uuid.unwrap().len(), 38);
}

/// A superblock of md, version 1, that claims to be at `at`.
fn md(at: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    bytes[4] = 1;
    bytes[16..32].copy_from_slice(&uuid_bytes());
    bytes[32..40].copy_from_slice(b"host:md0");
    bytes[144..152].copy_from_slice(&(at / 512).to_le_bytes());
    // calc_sb_1_csum of drivers/md/md.c, with no devices.
    let words = bytes[..256].chunks(4);
    let sum: u64 = words
        .map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())))
        .sum();
    let folded = (sum as u32).wrapping_add((sum >> 32) as u32);
    bytes[216..220].copy_from_slice(&folded.to_le_bytes());
    bytes
}

fn uuid_bytes() -> [u8; 16] {
    u128::from_str_radix(&UUID.replace('-', ""), 16)
        .unwrap()
        .to_be_bytes()
}

/// mdadm writes superblocks through the driver, which this machine may lack, so the test makes them, and
/// compares with blkid.
#[test]
fn parts_of_a_software_raid() {
    // blkid does not search for one on a device of floppy size.
    const SIZE: usize = 2 << 20;
    for at in [0, 4096, SIZE - 8192] {
        let mut image = vec![0; SIZE];
        image[at..at + 512].copy_from_slice(&md(at as u64));
        // The filesystem belongs to the RAID.
        let ext = 0x400 + 0x38;
        image[ext..ext + 2].copy_from_slice(&[0x53, 0xef]);
        if at == SIZE - 8192 {
            let found = volumes(&&image[..]).unwrap();
            assert_eq!(found.len(), 1);
        }
        image[ext..ext + 2].copy_from_slice(&[0, 0]);
        expect(
            &Image::holding(&image),
            VolumeKind::Raid,
            Some(UUID),
            Some("host:md0"),
        );
    }
    // At another offset than it claims, it is a copy.
    let mut image = vec![0; SIZE];
    image[..512].copy_from_slice(&md(4096));
    assert_eq!(volumes(&&image[..]).unwrap(), []);

    for swapped in [false, true] {
        let word = |value: u32| match swapped {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        };
        let mut image = vec![0; SIZE];
        let at = SIZE - 65536;
        let mut put = |index: usize, value: u32| {
            image[at + 4 * index..at + 4 * index + 4].copy_from_slice(&word(value));
        };
        for (index, value) in [
            (0, 0xa92b_4efc),
            (2, 90),
            (5, 0x0123_4567),
            (13, 0x89ab_cdef),
            (14, 0x0011_2233),
            (15, 0x4455_6677),
        ] {
            put(index, value);
        }
        let volume = compared(&Image::holding(&image));
        assert_eq!(volume.kind, VolumeKind::Raid);
    }
}

#[test]
fn a_device_of_several_is_recognised() {
    let image = made(128 * MIB, "btrfs-progs", "mkfs.btrfs", &["-q", "-U", UUID]);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&image.0)
        .unwrap();
    file.write_all_at(&3u64.to_le_bytes(), 65536 + 136).unwrap();
    let volume = volumes(&image.open()).unwrap().swap_remove(0);
    assert_eq!(volume.share, Some(Share { member: 1, of: 3 }));
}

#[test]
fn old_superblocks_are_listed_after_the_current_one() {
    let image = made(4 * MIB, "e2fsprogs", "mkfs.ext4", &["-q", "-F"]);
    let file = File::options().write(true).open(&image.0).unwrap();
    // An ext4 does not write its first 1024 bytes.
    file.write_all_at(b"hsqs", 0).unwrap();
    file.write_all_at(&[4, 0], 28).unwrap();
    let kinds: Vec<_> = volumes(&image.open())
        .unwrap()
        .iter()
        .map(|v| v.kind)
        .collect();
    assert_eq!(kinds, [VolumeKind::Ext4, VolumeKind::Squashfs]);
    assert_eq!(
        blkid(&image.0, "TYPE"),
        None,
        "blkid reports an ambiguous result as none"
    );
}

#[test]
fn ntfs_is_named() {
    // The relevant fields of mkntfs' boot sector.
    let mut sector = vec![0; 4096];
    sector[..11].copy_from_slice(b"\xeb\x52\x90NTFS    ");
    sector[11..14].copy_from_slice(&[0, 2, 8]);
    sector[72..80].copy_from_slice(&0x6c04_3c9b_043c_6a12_u64.to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    let found = volumes(&&sector[..]).unwrap();
    let [volume] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(volume.to_string(), "ntfs UUID=6C043C9B043C6A12");
    assert!(volume.kind.refusal().unwrap().contains("rootfstype=ntfs3"));
}

#[test]
fn empty_devices_have_no_superblock() {
    for size in [0, 1, 511, 512, 4096, 65536, 1 << 20] {
        for fill in [0, 0xff, 0x55] {
            let image = vec![fill; size];
            assert_eq!(volumes(&&image[..]).unwrap(), [], "{size} bytes of {fill}");
            assert_eq!(table(&&image[..], 512).unwrap(), None);
        }
    }
}

/// Small images of every kind.
fn zoo() -> Vec<(Image, Vec<(usize, usize)>)> {
    let tree = tree();
    let directory = tree.to_str().unwrap();
    let (squashfs, erofs, iso) = (Image::new(0), Image::new(0), Image::new(0));
    let arguments = [
        directory,
        squashfs.path(),
        "-noappend",
        "-quiet",
        "-no-progress",
    ];
    run("squashfs-tools", "mksquashfs", &arguments);
    run("erofs-utils", "mkfs.erofs", &[erofs.path(), directory]);
    let arguments = ["-quiet", "-J", "-o", iso.path(), directory];
    run("genisoimage", "genisoimage", &arguments);
    fs::remove_dir_all(tree).unwrap();
    let mut raid = vec![0; 1 << 16];
    raid[..512].copy_from_slice(&md(0));
    let mut lvm = vec![0; 4096];
    lvm[512..520].copy_from_slice(b"LABELONE");
    lvm[520] = 1;
    lvm[532] = 32;
    lvm[536..544].copy_from_slice(b"LVM2 001");
    lvm[544..576].copy_from_slice(&[b'x'; 32]);
    let mut luks = vec![0; 4096];
    luks[..8].copy_from_slice(b"LUKS\xba\xbe\0\x02");
    vec![
        (
            made(MIB, "e2fsprogs", "mkfs.ext4", &["-q", "-F"]),
            vec![(1024, 2048)],
        ),
        (
            made(2 * MIB, "dosfstools", "mkfs.vfat", &["-n", "X"]),
            vec![(0, 512), (2048, 2176), (6144, 7168)],
        ),
        (
            made(
                40 * MIB,
                "dosfstools",
                "mkfs.vfat",
                &["-F", "32", "-n", "X"],
            ),
            vec![(0, 516), (16384, 16512)],
        ),
        (
            made(4 * MIB, "exfatprogs", "mkfs.exfat", &["-L", "X"]),
            vec![(0, 512)],
        ),
        (
            made(MIB, "util-linux", "mkswap", &["-q"]),
            vec![(1024, 1100), (4086, 4096)],
        ),
        (squashfs, vec![(0, 96)]),
        (erofs, vec![(1024, 1152)]),
        (
            iso,
            vec![
                (0x8000, 0x8000 + 1024),
                (0x8800, 0x8800 + 128),
                (0x9000, 0x9080),
            ],
        ),
        (Image::holding(&raid), vec![(0, 256)]),
        (Image::holding(&lvm), vec![(512, 640)]),
        (Image::holding(&luks), vec![(0, 256)]),
    ]
}

/// Flips every bit that is read, and truncates the image at every length near it.
#[test]
fn damaged_images_do_not_panic() {
    for (image, parts) in zoo() {
        let mut bytes = fs::read(&image.0).unwrap();
        let before = volumes(&&bytes[..]).unwrap();
        assert_eq!(before.len(), 1, "{before:?}");
        for (start, end) in parts {
            for at in start..end {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    let _ = volumes(&&bytes[..]).unwrap();
                    bytes[at] ^= 1 << bit;
                }
            }
            for end in start.saturating_sub(1)..=end {
                let _ = volumes(&&bytes[..end]).unwrap();
            }
        }
        for end in (0..bytes.len().min(80_000)).step_by(509) {
            let _ = volumes(&&bytes[..end]).unwrap();
        }
        assert_eq!(volumes(&&bytes[..]).unwrap(), before);
    }
    // Large images: only the superblock.
    for (offset, program, package, size) in [
        (65536usize, "mkfs.btrfs", "btrfs-progs", 128 * MIB),
        (0, "mkfs.xfs", "xfsprogs", 320 * MIB),
        (1024, "mkfs.f2fs", "f2fs-tools", 64 * MIB),
    ] {
        let image = made(size, package, program, &["-q"]);
        let mut bytes = vec![0; offset + 2304];
        image.open().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(volumes(&&bytes[..]).unwrap().len(), 1, "{program}");
        for at in offset..offset + 1280 {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let _ = volumes(&&bytes[..]).unwrap();
                bytes[at] ^= 1 << bit;
            }
            let _ = volumes(&&bytes[..at]).unwrap();
        }
    }
}

/// A directory whose clusters form a cycle, or have the largest size.
#[test]
fn the_walk_through_a_fat_is_limited() {
    let image = made(40 * MIB, "dosfstools", "mkfs.vfat", &["-F", "32"]);
    let mut bytes = fs::read(&image.0).unwrap();
    let fat = usize::from(u16::from_le_bytes([bytes[14], bytes[15]])) * 512;
    let length = u32::from_le_bytes(bytes[36..40].try_into().unwrap()) as usize * 512;
    bytes[fat + 8..fat + 12].copy_from_slice(&2u32.to_le_bytes());
    // No entry is free or a label.
    let root = fat + 2 * length;
    for entry in bytes[root..root + 512].chunks_mut(32) {
        entry.fill(b'A');
        entry[11] = 0x20;
    }
    assert_eq!(volumes(&&bytes[..]).unwrap()[0].label, None);
}

// Partition tables.

/// Makes a partition table with sfdisk.
fn partitioned(script: &str, size: u64) -> Image {
    let image = Image::new(size);
    let script = Image::holding(script.as_bytes());
    let command = format!("sfdisk --quiet {} < {}", image.path(), script.path());
    run("fdisk", "sh", &["-c", &command]);
    image
}

/// The partitions from partx (libblkid): number, start, length, UUID and name; lengths in bytes.
fn partx(path: &str, sector: u64) -> Vec<Partition> {
    let columns = [
        "-o",
        "NR,START,SECTORS,UUID,NAME",
        "--pairs",
        "--bytes",
        path,
    ];
    let text = run("util-linux", "partx", &columns);
    text.lines()
        .map(|line| {
            // NR="1" START="2048" ...: no name in these tests has a quote.
            let fields: Vec<_> = line.split('"').skip(1).step_by(2).collect();
            let text = |at: usize| Some(unescaped(fields[at])).filter(|text| !text.is_empty());
            let number = |at: usize| fields[at].parse::<u64>().unwrap();
            Partition {
                number: number(0) as u32,
                start: number(1) * sector,
                length: number(2) * sector,
                uuid: text(3),
                label: text(4),
            }
        })
        .collect()
}

/// Decodes `\xc3\xbc`, as --pairs prints other letters.
fn unescaped(text: &str) -> String {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).unwrap()
}

fn gpt_image() -> Image {
    partitioned(
        &format!(
            "label: gpt\n\
             start=2048, size=2048, uuid={UUID}, name=\"root\"\n\
             4: start=6144, size=100, uuid=FFEEDDCC-BBAA-9988-7766-554433221100, name=\"Grün, ½\"\n\
             7: start=4096, size=1, name=\"abcdefghijklmnopqrstuvwxyz0123456789\"\n"
        ),
        8 * MIB,
    )
}

#[test]
fn a_gpt_is_read_as_blkid_reads_it() {
    let image = gpt_image();
    let found = table(&image.open(), 512).unwrap().unwrap();
    assert_eq!(found.scheme, Scheme::Gpt);
    assert_eq!(found.partitions, partx(image.path(), 512));
    let [one, four, seven] = found.partitions.as_slice() else {
        panic!("{found:?}");
    };
    let expected = Partition {
        number: 1,
        start: MIB,
        length: MIB,
        uuid: Some(UUID.into()),
        label: Some("root".into()),
    };
    assert_eq!(*one, expected);
    assert_eq!(four.number, 4);
    assert_eq!(
        four.uuid.as_deref(),
        Some("ffeeddcc-bbaa-9988-7766-554433221100")
    );
    assert_eq!(four.label.as_deref(), Some("Grün, ½"));
    assert_eq!(seven.label.as_ref().unwrap().len(), 36);
}

#[test]
fn the_backup_gpt_is_used_if_the_primary_is_damaged() {
    let bytes = fs::read(&gpt_image().0).unwrap();
    let good = table(&&bytes[..], 512).unwrap().unwrap();
    // The signature, the checksum, an offset; an entry, and an unused entry.
    for at in [512, 528, 584, 1024 + 40, 1024 + 16000] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        let found = table(&&damaged[..], 512).unwrap().unwrap();
        let expected = Table {
            scheme: Scheme::GptBackup,
            ..good.clone()
        };
        assert_eq!(found, expected, "offset {at}");
        let last = damaged.len() - 512;
        damaged[last + 20] ^= 1;
        assert_eq!(
            table(&&damaged[..], 512).unwrap().map(|table| table.scheme),
            None
        );
    }
    let mut cleared = bytes.clone();
    cleared[512..1024].fill(0);
    assert_eq!(
        table(&&cleared[..], 512).unwrap().unwrap().scheme,
        Scheme::GptBackup
    );
    // Without a protective MBR, the kernel ignores a GPT, too.
    let mut bare = bytes;
    bare[..512].fill(0);
    assert_eq!(table(&&bare[..], 512).unwrap(), None);
}

#[test]
fn a_gpt_of_a_disk_with_large_sectors() {
    let image = Image::new(16 * MIB);
    let device = run(
        "mount",
        "losetup",
        &["--find", "--show", "--sector-size", "4096", image.path()],
    );
    let script = Image::holding(
        format!("label: gpt\nsize=4MiB, uuid={UUID}, name=x\nsize=1MiB\n").as_bytes(),
    );
    let command = format!(
        "sfdisk --quiet --no-reread --no-tell-kernel {device} < {}",
        script.path()
    );
    let output = start("fdisk", "sh", &["-c", &command]);
    let theirs = start(
        "util-linux",
        "partx",
        &["-o", "NR,UUID", "--raw", "--noheadings", &device],
    );
    run("mount", "losetup", &["--detach", &device]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found = table(&image.open(), 4096).unwrap().unwrap();
    let ours: String = found
        .partitions
        .iter()
        .map(|p| format!("{} {}\n", p.number, p.uuid.as_deref().unwrap()))
        .collect();
    assert_eq!(ours, String::from_utf8(theirs.stdout).unwrap());
    let first = &found.partitions[0];
    assert_eq!((first.start % 4096, first.length), (0, 4 * MIB));
}

#[test]
fn an_mbr_is_read_as_blkid_reads_it() {
    let image = partitioned(
        "label: dos\nlabel-id: 0x00c0ffee\n\
         start=2048, size=2048, type=83, bootable\n\
         start=4096, size=100, type=82\n\
         start=6144, type=5\n\
         start=8192, size=1024, type=83\n\
         start=12288, size=512, type=c\n\
         start=16384, size=7, type=83\n",
        16 * MIB,
    );
    let found = table(&image.open(), 512).unwrap().unwrap();
    assert_eq!(found.scheme, Scheme::Mbr);
    let mut theirs = partx(image.path(), 512);
    // The extended partition as the kernel shows it.
    let extended = theirs
        .iter_mut()
        .find(|partition| partition.number == 3)
        .unwrap();
    extended.length = 1024;
    extended.uuid = None;
    assert_eq!(found.partitions, theirs);
    let uuids: Vec<_> = found
        .partitions
        .iter()
        .filter_map(|p| p.uuid.as_deref())
        .collect();
    assert_eq!(
        uuids,
        [
            "00c0ffee-01",
            "00c0ffee-02",
            "00c0ffee-05",
            "00c0ffee-06",
            "00c0ffee-07"
        ]
    );
}

#[test]
fn a_filesystem_on_the_whole_disk_is_no_partition_table() {
    let image = made(64 * MIB, "dosfstools", "mkfs.vfat", &["-F", "32"]);
    let found = table(&image.open(), 512).unwrap();
    assert!(found.is_none_or(|table| table.partitions.is_empty()));
    assert_eq!(volumes(&gpt_image().open()).unwrap(), []);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

/// A GPT with these values in its header, and matching checksums.
fn forged(number: u32, size: u32, lba: u64) -> Vec<u8> {
    let mut bytes = fs::read(&gpt_image().0).unwrap();
    let last = bytes.len() - 512;
    bytes[last..].fill(0);
    let header = &mut bytes[512..1024];
    header[72..80].copy_from_slice(&lba.to_le_bytes());
    header[80..84].copy_from_slice(&number.to_le_bytes());
    header[84..88].copy_from_slice(&size.to_le_bytes());
    let length = (number as usize).saturating_mul(size as usize);
    let start = (lba as usize).saturating_mul(512);
    let entries = bytes
        .get(start..start.saturating_add(length))
        .map_or(0, crc32);
    let header = &mut bytes[512..1024];
    header[88..92].copy_from_slice(&entries.to_le_bytes());
    header[16..20].fill(0);
    let sum = crc32(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn hostile_gpts_are_bounded() {
    let partitions = |number, size, lba| {
        let bytes = forged(number, size, lba);
        table(&&bytes[..], 512)
            .unwrap()
            .map(|table| table.partitions.len())
    };
    assert_eq!(partitions(128, 128, 2), Some(3));
    assert_eq!(partitions(4, 128, 2), Some(2));
    assert_eq!(partitions(0, 128, 2), Some(0));
    // With entries of twice the size, every other one is seen.
    assert_eq!(partitions(64, 256, 2), Some(2));
    for (number, size, lba) in [
        (u32::MAX, 128, 2),
        (u32::MAX, u32::MAX, 2),
        (128, 0, 2),
        (128, 1, 2),
        (128, 64, 2),
        (1, 8192, 2),
        (128, 129, 2),
        (128, 128, u64::MAX),
        (128, 128, 1 << 55),
        (40_000, 128, 2),
    ] {
        assert_eq!(
            partitions(number, size, lba),
            None,
            "{number} of {size} at {lba}"
        );
    }
}

#[test]
fn damaged_tables_do_not_panic() {
    let gpt = gpt_image();
    let mbr = partitioned(
        "label: dos\nstart=2048, type=5\nstart=4096, size=1024\nstart=8192, size=1024\n",
        8 * MIB,
    );
    for (image, parts) in [
        (gpt, vec![(446, 512), (512, 604), (1024, 1152)]),
        (
            mbr,
            vec![(440, 512), (MIB as usize + 446, MIB as usize + 512)],
        ),
    ] {
        let mut bytes = fs::read(&image.0).unwrap();
        for (start, end) in parts {
            for at in start..end {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    let _ = table(&&bytes[..], 512).unwrap();
                    bytes[at] ^= 1 << bit;
                }
            }
            for end in start..end {
                let _ = table(&&bytes[..end], 512).unwrap();
            }
        }
        for sector in [0, 1, 512, 4096, 65536, u64::MAX] {
            let _ = table(&&bytes[..], sector).unwrap();
        }
    }
}

/// A boot record with these entries: type, start, length.
fn ebr(entries: &[(u8, u32, u32)]) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    for (slot, (kind, start, length)) in entries.iter().enumerate() {
        let entry = &mut sector[446 + 16 * slot..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&length.to_le_bytes());
    }
    sector
}

#[test]
fn hostile_mbrs_are_bounded() {
    let disk = |first: &[(u8, u32, u32)], second: &[(u8, u32, u32)]| {
        let mut bytes = vec![0; 8 << 20];
        bytes[..512].copy_from_slice(&ebr(first));
        bytes[512..1024].copy_from_slice(&ebr(second));
        let found = table(&&bytes[..], 512).unwrap().unwrap();
        assert!(
            found
                .partitions
                .iter()
                .all(|p| (1..=255).contains(&p.number))
        );
        found.partitions.len()
    };
    let extended = (5, 1, 1000);
    // A cyclic chain, with a partition in it, and without.
    assert_eq!(disk(&[extended], &[(0x83, 1, 10), (5, 0, 1000)]), 1 + 251);
    assert_eq!(disk(&[extended], &[(0, 0, 0), (5, 0, 1000)]), 1);
    // Four extended partitions with the same chain.
    assert_eq!(
        disk(&[extended; 4], &[(0x83, 1, 10), (5, 0, 1000)]),
        4 + 251
    );
    // An extended partition that is the MBR itself.
    assert_eq!(disk(&[(5, 0, 1000)], &[]), 1);
    // Beyond the end of the disk, and beyond 32 bits.
    assert_eq!(disk(&[(0xf, u32::MAX, u32::MAX)], &[]), 1);
    assert_eq!(
        disk(
            &[extended],
            &[(0x83, u32::MAX, u32::MAX), (5, u32::MAX, u32::MAX)]
        ),
        2
    );
    // Garbage in the third and fourth entry, and a fourth entry that is unused.
    assert_eq!(
        disk(
            &[extended],
            &[(0x83, 1, 10), (0, 0, 0), (0x83, 5000, 10), (0x83, 20, 10)]
        ),
        3
    );
    // Overlaps are allowed.
    assert_eq!(disk(&[(0x83, 1, 10), (0x83, 1, 10)], &[]), 2);
}

/// A row of the table in docs/disks.md.
fn documented(kind: VolumeKind) -> String {
    let code = |name: &&str| format!("`{name}`");
    let (option, module) = kind.driver().unzip();
    let modules = module.iter().chain(kind.helper_modules());
    let writes = match kind.refusal().or(kind.upper_refusal()) {
        Some(_) => "no",
        None => "yes",
    };
    format!(
        "| {kind} | {} | {} | {writes} | {} |",
        option.unwrap_or_default(),
        modules.map(code).collect::<Vec<_>>().join(", "),
        kind.notes()
    )
    .replace("  |", " |")
}

#[test]
fn the_documented_filesystems_are_those_of_the_table() {
    let mut rows: Vec<_> = FILESYSTEMS.iter().map(|kind| documented(*kind)).collect();
    rows.sort();
    let table = format!(
        "| type | kernel option | modules | takes writes | notes |\n|---|---|---|---|---|\n{}\n\n",
        rows.join("\n")
    );
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/disks.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&table), "docs/disks.md has no table\n{table}");
}

#[test]
fn each_filesystem_is_found_by_its_name() {
    for kind in FILESYSTEMS {
        assert_eq!(VolumeKind::filesystem(kind.name()), Some(*kind));
        assert!(
            kind.driver().is_some() || !kind.notes().is_empty(),
            "{kind}"
        );
    }
    assert_eq!(VolumeKind::filesystem("swap"), None);
    assert_eq!(VolumeKind::filesystem("unheard-of"), None);
}

#[test]
fn vfat_needs_its_character_sets() {
    assert!(helper_modules("vfat").contains(&"nls_cp437"));
    assert_eq!(helper_modules("msdos"), helper_modules("vfat"));
    assert_eq!(helper_modules("ext4"), [""; 0]);
}
