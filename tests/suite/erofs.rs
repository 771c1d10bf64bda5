//! EROFS images: the reader, the kernel's mount and the source of the image show the same tree.
//!
//! Needs root, loop devices, a kernel with all of CONFIG_EROFS_FS, and three versions of mkfs.erofs: the
//! installed one, and two that qemu/lib.sh downloads.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::guest::{Scratch, run};
use crate::common::{NEWER_MKFS, NEWEST_MKFS};
use layerinit::bytes::{Opened, ReadAt};
use layerinit::format::erofs::{Data, Fault, Image, Inode};
use layerinit::tool::image::erofs_tree::walk;
use rustix::fs::{FileType, Mode, XattrFlags, lgetxattr, llistxattr, lsetxattr, makedev, mknodat};

// ---- the source ---------------------------------------------------------------------

/// A deterministic generator (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Words: compressible, but varied.
    fn text(&mut self, length: usize) -> Vec<u8> {
        let words: Vec<_> = (0..300)
            .map(|_| format!("{:x}", self.next() % 99_999))
            .collect();
        let mut text = Vec::new();
        while text.len() < length {
            text.extend_from_slice(words[self.next() as usize % words.len()].as_bytes());
            text.push(b' ');
        }
        text.truncate(length);
        text
    }
}

/// A tree with everything that an image can have.
fn source(top: &Path) {
    let random = &mut Random(0x9E37_79B9_7F4A_7C15);
    let at = |name: &str| top.join(name);
    let put = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).unwrap();
    for name in [
        "sizes",
        "big",
        "small",
        "many",
        "special",
        "hidden",
        "deep/er/est",
    ] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for size in [
        0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 16_385, 65_535, 65_536, 65_537,
    ] {
        let text = random.text(size);
        put(&format!("sizes/text{size}"), &text);
        put(&format!("sizes/random{size}"), &random.bytes(size));
    }
    let text = random.text(200_000);
    put("big/text", &text);
    put("big/random", &random.bytes(80_000));
    put("big/zeros", &vec![0; 1 << 20]);
    let mut mixed = Vec::new();
    for n in 0..12 {
        mixed.extend_from_slice(&text[n * 14_000..][..20_000 + n * 777]);
        mixed.extend_from_slice(&random.bytes(1_000 + n * 999));
    }
    put("big/mixed", &mixed);
    // The same bytes at other offsets, for dedupe.
    put("big/again", &[&mixed[12_345..], &text[..150_001]].concat());
    put("big/copy", &text);
    let mut sparse = File::create(at("big/sparse")).unwrap();
    sparse.write_all(b"start").unwrap();
    sparse.seek(SeekFrom::Start(1 << 20)).unwrap();
    sparse.write_all(&text[..100_000]).unwrap();
    sparse.set_len(3 << 20).unwrap();
    for n in 0..150 {
        let length = random.next() as usize % 6_000;
        let text = random.text(length);
        put(&format!("small/file{n}"), &text);
    }
    for n in 0..700 {
        let name = format!("many/a-name-that-is-somewhat-longer-than-most-{n:04}");
        symlink(format!("../small/file{}", n % 150), at(&name)).unwrap();
    }
    specials(top);
    attributes(top);
    times(top, random);
}

fn specials(top: &Path) {
    let at = |name: &str| top.join(name);
    let node = |name: &str, kind, mode, device| {
        mknodat(
            rustix::fs::CWD,
            at(name),
            kind,
            Mode::from_raw_mode(mode),
            device,
        )
        .unwrap();
    };
    node(
        "special/null",
        FileType::CharacterDevice,
        0o666,
        makedev(1, 3),
    );
    node(
        "special/disk",
        FileType::BlockDevice,
        0o660,
        makedev(259, 70_000),
    );
    node("special/pipe", FileType::Fifo, 0o600, 0);
    node("special/socket", FileType::Socket, 0o755, 0);
    node(
        "hidden/whiteout",
        FileType::CharacterDevice,
        0,
        makedev(0, 0),
    );
    symlink("x".repeat(3_000), at("special/long")).unwrap();
    symlink("../sizes", at("special/link")).unwrap();
    for name in ["special/second", "deep/er/est/third"] {
        fs::hard_link(at("sizes/text4097"), at(name)).unwrap();
    }
    fs::hard_link(at("special/null"), at("special/nul2")).unwrap();
    fs::write(at("special/setuid"), "#!").unwrap();
    lchown(at("special/setuid"), Some(70_000), Some(4_000_000_000)).unwrap();
    fs::set_permissions(at("special/setuid"), Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(at("deep"), Permissions::from_mode(0o1777)).unwrap();
    lchown(at("deep/er"), Some(12), Some(34)).unwrap();
}

fn attributes(top: &Path) {
    let set = |name: &str, key: &str, value: &[u8]| {
        lsetxattr(top.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("sizes/text513", "user.comment", b"a value");
    set("sizes/text513", "user.empty", b"");
    set("sizes/text513", "user.long", &[b'v'; 2_000]);
    set("sizes/text513", "trusted.overlay.metacopy", b"");
    set(
        "special/setuid",
        "security.capability",
        b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    );
    set("deep", "trusted.overlay.opaque", b"y");
    set("special/link", "trusted.of.a.link", b"link");
    // struct posix_acl_xattr_header and _entry: user::rwx, user:7:r--, group::r-x, mask::r-x, other::---
    let acl =
        b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\x07\0\0\0\x04\0\x05\0\xff\xff\xff\xff\
        \x10\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    set("deep/er", "system.posix_acl_access", acl);
    set("deep/er", "system.posix_acl_default", acl);
    // Shared by many files.
    for n in 0..100 {
        set(
            &format!("small/file{n}"),
            "security.selinux",
            b"system_u:object_r:etc_t:s0",
        );
        set(
            &format!("small/file{n}"),
            "user.mime.type.of.it",
            b"text/plain",
        );
    }
}

/// Times in nanoseconds, some before 1970. Directories last, because creating a file in a directory sets its
/// time.
fn times(top: &Path, random: &mut Random) {
    let mut all = Vec::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(path) = todo.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        all.push(path);
    }
    all.sort();
    for path in all.iter().rev() {
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_file() || kind.is_dir() {
            let since = Duration::new(
                random.next() % 2_000_000_000,
                random.next() as u32 % 1_000_000_000,
            );
            let time = SystemTime::UNIX_EPOCH + since;
            let times = FileTimes::new().set_modified(time).set_accessed(time);
            File::open(path).unwrap().set_times(times).unwrap();
        }
    }
}

// ---- trees as text ------------------------------------------------------------------

/// For each file, a line with its attributes, its content, and the earlier name to which it is a link.
type Lines = BTreeMap<Vec<u8>, Row>;

/// A line, and the time, which not every image stores for every file.
#[derive(Clone, Debug, PartialEq)]
struct Row(String, (i64, i64));

/// A checksum.
fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

struct Line<'a> {
    mode: u32,
    owner: (u32, u32),
    nlink: u64,
    size: u64,
    mtime: (i64, i64),
    device: (u32, u32),
    link: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    content: u64,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Line<'_> {
    /// The size of a directory depends on the filesystem.
    fn row(&self) -> Row {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let size = if self.mode & 0o170_000 == 0o040_000 {
            0
        } else {
            self.size
        };
        let mut text = format!(
            "{:o} {:?} {} {size} {:?} {:016x} {:?} {:?}",
            self.mode,
            self.owner,
            self.nlink,
            self.device,
            self.content,
            self.link.as_deref().map(shown),
            self.target.as_deref().map(shown),
        );
        let mut xattrs = self.xattrs.to_vec();
        xattrs.sort();
        for (name, value) in &xattrs {
            text += &format!(" {}={:016x}", shown(name), sum(value));
        }
        Row(text, self.mtime)
    }
}

/// The tree below a directory, read with system calls.
fn of_kernel(top: &Path) -> Lines {
    let mut lines = Lines::new();
    let mut names = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let path = top.join(&below);
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let mut children = Vec::new();
        if kind.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            children.extend(entries.map(|entry| below.join(entry.unwrap().file_name())));
            children.sort();
            todo.extend(children.into_iter().rev());
        }
        let name = below.as_os_str().as_bytes().to_vec();
        let mut link = None;
        if !kind.is_dir() && metadata.nlink() > 1 {
            let first = names.entry(metadata.ino()).or_insert_with(|| name.clone());
            link = (*first != name).then(|| first.clone());
        }
        let mut content = 0;
        if kind.is_file() {
            content = sum(&fs::read(&path).unwrap());
        }
        let device = metadata.rdev();
        let line = Line {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            nlink: metadata.nlink(),
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            device: (rustix::fs::major(device), rustix::fs::minor(device)),
            link,
            target: kind.is_symlink().then(|| {
                fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec()
            }),
            content,
            xattrs: &xattrs_of_kernel(&path),
        };
        lines.insert(name, line.row());
    }
    lines
}

fn xattrs_of_kernel(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65_536];
    let n = llistxattr(path, &mut names[..]).unwrap();
    let mut xattrs = Vec::new();
    for name in names[..n]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 65_536];
        let n = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        xattrs.push((name.to_vec(), value[..n].to_vec()));
    }
    xattrs
}

/// The tree of an image, read with the reader.
fn of_reader(bytes: &dyn ReadAt) -> Lines {
    let image = Image::open(bytes).unwrap();
    let mut lines = Lines::new();
    let mut random = Random(77);
    walk(&image, |file, inode| {
        let mut content = 0;
        if inode.mode & 0o170_000 == 0o100_000 {
            let whole = through_extents(&image, inode);
            assert_eq!(whole.len() as u64, inode.size);
            at_offsets(&image, inode, &whole, &mut random);
            content = sum(&whole);
        }
        let xattrs = image.xattrs(inode).unwrap().into_iter();
        let xattrs: Vec<_> = xattrs.map(|xattr| (xattr.name, xattr.value)).collect();
        let line = Line {
            mode: inode.mode,
            owner: (inode.uid, inode.gid),
            nlink: inode.nlink.into(),
            size: inode.size,
            mtime: (inode.mtime, inode.mtime_nsec.into()),
            device: inode.device.unwrap_or_default(),
            link: file.link.clone(),
            target: file.target.clone(),
            content,
            xattrs: &xattrs,
        };
        lines.insert(file.path.clone(), line.row());
        Ok(())
    })
    .unwrap();
    lines
}

/// The content of a file from its extents, with each cluster decoded alone.
fn through_extents(image: &Image, inode: &Inode) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut plain = Vec::new();
    for extent in image.extents(inode) {
        let extent = extent.unwrap();
        assert_eq!(extent.offset, whole.len() as u64, "extents leave no gaps");
        let length = extent.length as usize;
        match extent.data {
            Data::Hole => whole.extend_from_slice(&vec![0; length]),
            Data::Raw(offset) => {
                let mut bytes = vec![0; length];
                image.bytes().read_exact_at(&mut bytes, offset).unwrap();
                whole.extend(bytes);
            }
            Data::Bytes(bytes) => whole.extend(bytes),
            Data::Cluster(cluster, skip) => {
                cluster.decode(image.bytes(), &mut plain).unwrap();
                whole.extend_from_slice(&plain[skip as usize..][..length]);
            }
        }
    }
    whole
}

/// Expects the same bytes at random offsets.
fn at_offsets(image: &Image, inode: &Inode, whole: &[u8], random: &mut Random) {
    let content = image.content(inode);
    // Each read decodes whole clusters, and in a short file few offsets are in another block, so a few reads
    // suffice.
    let reads = if whole.len() > 8192 { 8 } else { 3 };
    for _ in 0..whole.len().min(reads) {
        let at = random.next() as usize % whole.len();
        let length = (random.next() as usize % 9_000).min(whole.len() - at);
        let mut bytes = vec![0; length];
        content.read_exact_at(&mut bytes, at as u64).unwrap();
        assert!(bytes == whole[at..][..length], "{length} bytes at {at}");
    }
    assert_eq!(content.read_at(&mut [0; 4], inode.size).unwrap(), 0);
}

// ---- the matrix ---------------------------------------------------------------------

/// The smallest page size of any kernel, in bytes. Every kernel can mount blocks of this size.
const PAGE_MIN: u64 = 4096;

/// A mounted image.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path) -> Self {
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", "erofs", "-o", "loop,ro"])
            .args([image, at]));
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.0));
    }
}

/// Makes an image of the source with each line of options, and compares the trees.
fn compare(name: &str, mkfs: &Path, matrix: &[&str]) {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests mount images: run them as root"
    );
    let scratch = Scratch::new();
    let [tree, mnt, image] = ["tree", "mnt", "image"].map(|name| scratch.join(name));
    fs::create_dir(&mnt).unwrap();
    fs::create_dir(&tree).unwrap();
    source(&tree);
    let expected = of_kernel(&tree);
    for options in matrix {
        let _ = fs::remove_file(&image);
        let mut command = Command::new(mkfs);
        command.arg("--quiet").args(options.split_whitespace());
        run(command.args([&image, &tree]));
        let bytes = Opened::open(&image).unwrap();
        let mut read = of_reader(&bytes);
        let block = Image::open(&bytes).unwrap().superblock().block_size();
        let what = format!("{name} {options}");
        // This kernel cannot mount larger blocks, and fsck.erofs --extract fails on a packed inode.
        if block <= PAGE_MIN {
            let _mounted = Mounted::new(&image, &mnt);
            same(&what, &read, &of_kernel(&mnt), true);
        }
        if !options.contains("uid") {
            // mkfs.erofs marks a directory with whiteouts (trusted.overlay.origin).
            let hidden = expected.get(&b"hidden"[..]).cloned().unwrap();
            read.insert(b"hidden".into(), hidden);
            same(&what, &read, &expected, false);
        }
    }
}

/// Expects that both have the same files.
fn same(what: &str, read: &Lines, theirs: &Lines, with_times: bool) {
    for (path, Row(line, time)) in theirs {
        let Some(Row(ours, our_time)) = read.get(path) else {
            panic!("{what}: {} is not there", String::from_utf8_lossy(path));
        };
        let path = String::from_utf8_lossy(path);
        assert_eq!(ours, line, "{what}: {path}");
        assert!(
            !with_times || our_time == time,
            "{what}: {path}: {our_time:?}, not {time:?}"
        );
    }
    assert_eq!(read.len(), theirs.len(), "{what}");
}

#[test]
fn images_of_the_installed_mkfs_erofs() {
    compare(
        "1.5",
        Path::new("mkfs.erofs"),
        &[
            "",
            "-Eforce-inode-compact --force-uid=5 --force-gid=6",
            "-Eforce-inode-extended",
            "-Enoinline_data",
            "-x-1 --force-uid=3",
            "--chunksize=4096",
            "--chunksize=65536 -Eforce-chunk-indexes",
            "-zlz4",
            "-zlz4hc",
            "-zlz4hc,12 -C65536",
            "-zlz4hc -Elegacy-compress",
            "-zlz4hc -C65536 -Elegacy-compress",
            "-zlz4hc -Eztailpacking",
            "-zlz4hc -C131072 -Eztailpacking",
            "-zlz4hc -C1048576",
            "-zlz4 --max-extent-bytes=65536",
        ],
    );
}

#[test]
fn images_of_debian_13_mkfs_erofs() {
    compare(
        "1.8",
        &NEWER_MKFS,
        &[
            "-b512",
            "-b1024 -zlz4hc",
            "-b2048 -zlz4hc -C16384 -Efragments",
            "-zlzma",
            "-zlzma,level=9,dictsize=4194304 -C1048576",
            "-zlzma,100 -C65536 -Eztailpacking",
            "-zlzma -C65536 -Efragments,dedupe",
            "-zdeflate",
            "-zdeflate,9 -C65536 -Eztailpacking",
            "-zlibdeflate -C65536",
            "-zdeflate -C65536 -Eall-fragments",
            "-zzstd",
            "-zzstd,19 -C65536",
            "-zzstd -C1048576 -Eztailpacking",
            "-zzstd -C65536 -Eall-fragments,dedupe",
            "-zlz4hc -Efragments",
            "-zlz4hc -C65536 -Eall-fragments",
            "-zlz4hc -Ededupe",
            "-zlz4hc -C65536 -Ededupe,ztailpacking",
            "-zlz4hc:lzma -C65536",
            "-zzstd --xattr-prefix=trusted.overlay. --xattr-prefix=user.mime.",
            "-Exattr-name-filter --xattr-prefix=security.selin",
            "-zlz4hc -C65536 -Eall-fragments --xattr-prefix=user.mime.type.",
        ],
    );
}

#[test]
fn images_of_the_newest_mkfs_erofs() {
    compare(
        "1.9",
        &NEWEST_MKFS,
        &[
            "-E48bit",
            "-E48bit -zlz4hc",
            "-E48bit -zzstd -C65536 -Efragments",
            "-E48bit -zlzma -C65536 -Ededupe,all-fragments",
            "-E48bit -zlz4hc -C65536 -Eztailpacking --MZ",
            "-E48bit --chunksize=8192",
            "-m4096 -zlz4hc",
            "-m65536 -zzstd -C65536",
            "-m16384:lzma -zlz4hc -C16384 -Efragments,ztailpacking",
            "-m4096:deflate --chunksize=4096 --xattr-prefix=user.mime.",
            "-m65536 -zzstd -C65536 --zD -Eall-fragments --xattr-prefix=trusted.",
            "-zlz4hc --zD",
            "-zlzma -C65536 --zD=1",
            "-zdeflate --MZ=id",
            "-zzstd -b512",
            "-zlz4hc --fsalignblks=16 --dsunit=8",
            "-zlz4hc -C65536 -Eplain-xattr-prefixes --xattr-prefix=security.",
        ],
    );
}

/// Debian builds erofs-utils for blocks of at most a page.
#[test]
#[ignore = "needs a mkfs.erofs configured with --with-max-block-size=65536, in $MKFS_EROFS"]
fn images_of_blocks_larger_than_a_page() {
    let mkfs = std::env::var_os("MKFS_EROFS").expect("a path in $MKFS_EROFS");
    compare(
        "64k",
        Path::new(&mkfs),
        &[
            "-b8192 -zzstd -C65536 -Efragments",
            "-b16384",
            "-b16384 -zlz4hc -C65536 -Efragments",
            "-b32768 -zdeflate -Ededupe",
            "-b65536 --chunksize=65536",
            "-b65536 -zlzma -C131072 -Eztailpacking",
            "-b65536 -zlz4hc -m65536 --zD",
            "-b65536 -zlz4 -E48bit",
        ],
    );
}

#[test]
fn data_on_another_device_is_refused_with_a_message() {
    let scratch = Scratch::new();
    let [tree, image, blob] = ["tree", "image", "blob"].map(|name| scratch.join(name));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x".repeat(10_000)).unwrap();
    let mut command = Command::new("mkfs.erofs");
    command.args(["--quiet", "--chunksize=4096"]);
    command.arg(format!("--blobdev={}", blob.display()));
    run(command.args([&image, &tree]));
    let bytes = Opened::open(&image).unwrap();
    let image = Image::open(&bytes).unwrap();
    let mut seen = 0;
    walk(&image, |_, inode| {
        if inode.size == 10_000 {
            seen += 1;
            let error = image.extents(inode).next().unwrap().unwrap_err();
            assert_eq!(error, Fault::OtherDevice(1));
            let error = error.of_inode(7).to_string();
            let expected = "read EROFS inode 7: its data is on device 1, which is not read";
            assert_eq!(error, expected);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn a_layer_is_extracted_as_the_kernel_mounts_it() {
    let scratch = Scratch::new();
    let [tree, mnt, image, out] = ["tree", "mnt", "image", "out"].map(|name| scratch.join(name));
    fs::create_dir(&mnt).unwrap();
    fs::create_dir(&tree).unwrap();
    source(&tree);
    let tool = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_layerinit"));
        let output = command
            .current_dir(&scratch.0)
            .args(words)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.code())
    };
    for options in [
        "-Eforce-inode-extended --chunksize=4096",
        "-zzstd -C65536 -Efragments,dedupe",
    ] {
        let mut command = Command::new(&*NEWER_MKFS);
        command.arg("--quiet").args(options.split_whitespace());
        run(command.args([&image, &tree]));
        let _ = fs::remove_dir_all(&out);
        assert_eq!(
            tool(&["extract", "image", "--layer=0", "-C", "out"]),
            (String::new(), Some(0))
        );
        let _mounted = Mounted::new(&image, &mnt);
        same(options, &of_kernel(&out), &of_kernel(&mnt), true);
        // Holes in the image stay holes.
        let sparse = fs::metadata(out.join("big/sparse")).unwrap();
        assert!(sparse.blocks() * 512 < sparse.len() / 2 || options.contains("zstd"));
    }
    // Existing files are not replaced.
    let (text, status) = tool(&["extract", "image", "--layer=0", "-C", "out"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("EEXIST"), "{text}");

    let words = ["/special/link", "-C", "some", "deep/er/"];
    assert_eq!(
        tool(&[&["extract", "image"], &words[..]].concat()),
        (String::new(), Some(0))
    );
    let found: Vec<_> = of_kernel(&scratch.join("some")).into_keys().collect();
    let expected = [
        "",
        "deep",
        "deep/er",
        "deep/er/est",
        "deep/er/est/third",
        "special",
        "special/link",
    ];
    assert_eq!(found, expected.map(|path| path.as_bytes().to_vec()));
    let words = ["extract", "image", "-C", "other", "deep", "gone"];
    let text = "layerinit: find gone: not there\n".to_string();
    assert_eq!(tool(&words), (text, Some(1)));
    let words = ["extract", "image", "--layer=1"];
    let text =
        "layerinit: find layer 1: there is none; the image has 1, and the first is layer 0\n";
    assert_eq!(tool(&words), (text.to_string(), Some(1)));

    // A link in the path is not followed.
    fs::create_dir(scratch.join("trap")).unwrap();
    symlink("/tmp", scratch.join("trap/deep")).unwrap();
    let (text, status) = tool(&["extract", "image", "-C", "trap", "deep"]);
    assert!(
        status == Some(1) && text.starts_with("layerinit: create deep"),
        "{text}"
    );
}

#[test]
fn compressed_similar_names_may_take_less_than_a_byte_each() {
    const NAMES: usize = 40_000;
    let scratch = Scratch::new();
    let [tree, image] = ["tree", "image"].map(|name| scratch.join(name));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    for n in 0..NAMES {
        fs::hard_link(
            tree.join("file"),
            tree.join(format!("a-regular-name-{n:08}")),
        )
        .unwrap();
    }
    let mut command = Command::new(&*NEWEST_MKFS);
    command.args(["--quiet", "-zlzma,9", "-C1048576", "--zD"]);
    run(command.args([&image, &tree]));
    let bytes = Opened::open(&image).unwrap();
    assert!(bytes.size() < NAMES as u64, "{} bytes", bytes.size());
    let mut names = 0;
    walk(&Image::open(&bytes).unwrap(), |_, _| {
        names += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(names, NAMES + 2);
}

/// Several threads may decode clusters.
#[test]
fn clusters_can_be_decoded_on_other_threads() {
    fn goes<T: Send + Sync>() {}
    goes::<layerinit::format::erofs::Cluster>();
    goes::<layerinit::format::erofs::Extent>();
}

#[test]
fn mutated_images_neither_panic_nor_hang() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/erofs");
    let random = &mut Random(0x2545_F491_4F6C_DD1D);
    let mut images = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let sound = fs::read(seed.unwrap().path()).unwrap();
        assert_eq!(through(&sound).map_err(|error| error.to_string()), Ok(()));
        images += 1;
        for _ in 0..150 {
            let mut hostile = sound.clone();
            for _ in 0..=random.next() % 3 {
                let at = 1024 + random.next() as usize % (hostile.len() - 1024);
                hostile[at] = match random.next() % 4 {
                    0 => 0xff,
                    1 => hostile[at] ^ 1 << (random.next() % 8),
                    _ => random.next() as u8,
                };
            }
            let _ = through(&hostile);
        }
    }
    assert!(images > 10, "{images}");
}

/// Reads a whole image, but at most 4 MiB of each file.
fn through(bytes: &[u8]) -> layerinit::error::Result<()> {
    let image = Image::open(&bytes)?;
    walk(&image, |_, inode| {
        image.xattrs(inode)?;
        let mut plain = Vec::new();
        for extent in image.extents(inode) {
            let extent = extent.map_err(|fault| fault.of_inode(inode.nid))?;
            if extent.offset > 4 << 20 {
                break;
            }
            if let Data::Cluster(cluster, _) = extent.data {
                let done = cluster.decode(&bytes, &mut plain);
                done.map_err(|fault| fault.of_inode(inode.nid))?;
            }
        }
        Ok(())
    })
}
