//! The cost of finding the segments of a large initrd: tests of how many bytes are read, and printed times.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::*;
use layerinit::bytes::{Opened, ReadAt};
use layerinit::initrd::{Kind, walk};

/// A source that counts the bytes read from it.
struct Counted<'a> {
    source: &'a dyn ReadAt,
    reads: Cell<u64>,
    bytes: Cell<u64>,
}

impl<'a> Counted<'a> {
    fn new(source: &'a dyn ReadAt) -> Self {
        Self {
            source,
            reads: Cell::new(0),
            bytes: Cell::new(0),
        }
    }
}

impl ReadAt for Counted<'_> {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.source.read_at(buf, offset)?;
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + n as u64);
        Ok(n)
    }
}

/// The shortest of three runs.
fn fastest(work: impl Fn()) -> Duration {
    let times = (0..3).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    times.min().unwrap()
}

/// An archive with one file of `size` bytes, in two parts: up to the body, and from the end of the body.
fn one_file(size: u32) -> (Vec<u8>, Vec<u8>) {
    let header = layerinit::format::cpio::Header {
        mode: 0o100755,
        nlink: 1,
        filesize: size,
        namesize: 5,
        ..Default::default()
    };
    let mut head = header.encode().into_bytes();
    head.extend(b"init\0");
    pad(&mut head, 4);
    (head, cpio(&[]))
}

/// A file of 1 GiB: an archive with a file of 512 MiB, an image of 256 MiB, and an archive with one file. It
/// is sparse: only their heads and tails take space.
fn a_gibibyte(path: &Path) -> Opened {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    let mut at = 0;
    let mut put = |bytes: &[u8], then: u64| {
        file.write_all_at(bytes, at).unwrap();
        at = (at + bytes.len() as u64 + then).next_multiple_of(4096);
    };
    let archive = |size: u32, put: &mut dyn FnMut(&[u8], u64)| {
        let (head, tail) = one_file(size - size % 4096 - head_room());
        put(&head, u64::from(size - size % 4096 - head_room()));
        put(&tail, 0);
    };
    archive(512 << 20, &mut put);
    let image = erofs(1, "large");
    let mut large = image.clone();
    large[1060..1064].copy_from_slice(&(256u32 << 8).to_le_bytes());
    put(&large, (256 << 20) - 4096);
    archive((256 << 20) - 8192, &mut put);
    file.set_len(1 << 30).unwrap();
    Opened::new(file, 1 << 30)
}

/// The length of the head of an archive, so that its body can end at a page boundary.
fn head_room() -> u32 {
    one_file(0).0.len() as u32
}

/// Prints a figure.
#[expect(
    clippy::explicit_write,
    reason = "the harness keeps what eprintln! prints of a test that passes"
)]
fn print(figures: &str) {
    writeln!(io::stderr(), "{figures}").unwrap();
}

#[test]
fn a_large_initrd_is_not_read_to_find_its_segments() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("discovery");
    let image = a_gibibyte(&path);
    std::fs::remove_file(&path).unwrap();
    let counted = Counted::new(&image);
    let found = walk(&counted, b"/init");
    assert!(found.trouble.is_none(), "{:?}", found.trouble);
    let kinds = |kind: fn(&Kind) -> bool| found.segments.iter().filter(|s| kind(&s.kind)).count();
    assert_eq!(kinds(|kind| matches!(kind, Kind::Cpio(_))), 2);
    assert_eq!(kinds(|kind| matches!(kind, Kind::Erofs(_))), 1);
    let (reads, bytes) = (counted.reads.get(), counted.bytes.get());
    assert!(bytes < 64 << 10, "{bytes} bytes read: bodies among them");
    let time = fastest(|| drop(walk(&image, b"/init")));
    print(&format!(
        "1 GiB in 3 segments: {time:?}, {bytes} bytes in {reads} reads"
    ));
}

#[test]
fn the_members_of_a_large_archive_are_counted() {
    const MEMBERS: u32 = 100_000;
    let names: Vec<_> = (0..MEMBERS)
        .map(|n| format!("usr/share/many/{n}"))
        .collect();
    let entries: Vec<_> = names.iter().map(|name| file(name, b"body")).collect();
    let archive = cpio(&entries);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("discovery.many");
    std::fs::write(&path, &archive).unwrap();
    let file = Opened::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let time = fastest(|| {
        let found = walk(&file, b"/init");
        let Kind::Cpio(cpio) = &found.segments[0].kind else {
            panic!("{:?}", found.segments);
        };
        assert_eq!(cpio.members, u64::from(MEMBERS));
    });
    print(&format!(
        "{MEMBERS} members: {time:?}, {:?} for each",
        time / MEMBERS
    ));
}
