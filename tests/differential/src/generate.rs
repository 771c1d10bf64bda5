//! Makes the archives that both sides unpack.

use layerinit::format::cpio::{HEADER_LEN, Header, PATH_MAX, TRAILER, padding};

use crate::common::{Entry, cpio, dir, entry, file, join, pad};

/// An archive with this program as /init, in a directory that is not listed. It sets known times for
/// everything that the archive inside the kernel has made.
pub fn loader(program: &[u8]) -> Vec<u8> {
    let at = |mut entry: Entry<'static>| {
        entry.header.mtime = 1;
        entry
    };
    let console = Header {
        mode: 0o020600,
        nlink: 1,
        mtime: 1,
        rmaj: 5,
        rmin: 1,
        ..Header::default()
    };
    let mut archive = cpio(&[
        at(dir(".")),
        at(dir("dev")),
        Entry {
            name: b"dev/console",
            header: console,
            body: b"",
        },
        at(entry("root", 0o040700, b"")),
        at(dir(".differential")),
        entry(".differential/init", 0o100755, program),
    ]);
    pad(&mut archive, 512);
    archive
}

/// The archive with all its names moved below a directory `case-NAME`, as far as possible.
pub fn prefix(name: &str, archive: &[u8]) -> Vec<u8> {
    let mut case = dir("");
    let name = format!("case-{name}");
    case.name = name.as_bytes();
    case.header.mtime = 1;
    let first = cpio(&[case]);
    // Without its trailer, which would reset the table of hard links.
    let mut out = first[..first.len() - 124].to_vec();
    let mut rest = archive;
    while !rest.is_empty() {
        if rest[0] == 0 {
            out.push(0);
            rest = &rest[1..];
            continue;
        }
        let header: &[u8; HEADER_LEN] = rest.first_chunk().expect("a header");
        let header = Header::decode(header).expect("a header");
        let name_end = HEADER_LEN + header.namesize as usize;
        let body =
            (HEADER_LEN as u64 + u64::from(header.namesize) + header.name_padding()) as usize;
        let end = body + header.filesize as usize;
        let next = (end as u64 + padding(end as u64)) as usize;
        let old = &rest[HEADER_LEN..name_end];
        let is_trailer = old.strip_suffix(&[0]) == Some(TRAILER) && header.file_type() != 0o120000;
        let mut new = old.to_vec();
        if !is_trailer && header.namesize > 0 {
            new = [name.as_bytes(), b"/", old].concat();
            // As long as the kernel accepts, if it was so before.
            if header.namesize <= PATH_MAX && new.len() > PATH_MAX as usize {
                new.drain(
                    name.len() + old.len() - (new.len() - PATH_MAX as usize)
                        ..name.len() + old.len(),
                );
            }
        }
        let header = Header {
            namesize: new.len() as u32,
            ..header
        };
        out.extend_from_slice(header.encode().as_bytes());
        out.extend_from_slice(&new);
        pad(&mut out, 4);
        out.extend_from_slice(&rest[body..end.min(rest.len())]);
        pad(&mut out, 4);
        rest = rest.get(next..).unwrap_or_default();
    }
    pad(&mut out, 4);
    out
}

/// Names that have their meaning only without a prefix.
pub fn roots() -> Vec<u8> {
    let mut root = entry("", 0o040711, b"");
    (root.header.uid, root.header.gid, root.header.mtime) = (5, 6, 77);
    let mut with_body = entry("TRAILER!!!", 0o040755, b"body");
    with_body.header.nlink = 2;
    join(&[
        &cpio(&[
            root,
            entry("TRAILER!!!", 0o120777, b"target"),
            with_body,
            file("/../../up", b"x"),
            entry("/", 0o120777, b"not a link"),
            entry("..", 0o020600, b""),
            file(".", b"not a file"),
        ]),
        &cpio(&[entry("/./", 0o040751, b"")]),
    ])
}

/// An archive at which both sides stop with an error: no member after `last` may be unpacked, of this archive
/// or a later one.
pub fn bad_sum() -> Vec<u8> {
    let mut wrong = file("case-bad-sum/last", b"AB");
    (wrong.header.crc, wrong.header.chksum) = (true, 1);
    join(&[
        &cpio(&[dir("case-bad-sum"), wrong, file("case-bad-sum/never", b"")]),
        &cpio(&[file("case-bad-sum/neither", b"")]),
    ])
}

/// The same, with a name that neither ends nor has a NUL in its padding, which GRUB does not write.
pub fn no_nul() -> Vec<u8> {
    let mut archive = cpio(&[dir("case-no-nul"), file("case-no-nul/kept", b"x")]);
    let header = Header {
        mode: 0o100644,
        nlink: 1,
        namesize: 7,
        ..Header::default()
    };
    archive.extend_from_slice(header.encode().as_bytes());
    archive.extend_from_slice(b"no-nul.x");
    join(&[&archive, &cpio(&[file("case-no-nul/never", b"")])])
}

/// xorshift64: deterministic numbers for a seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// An archive of members that collide, link and replace each other, below `case-random-SEED`.
///
/// It never opens a pipe or a device through a hard link whose first name has become one, because the kernel
/// would hang or write to the device. Therefore these have their own names (d), to which no replacement of a
/// hard-linked file (h) points.
pub fn random(seed: u64) -> Vec<u8> {
    let devices = ["d0", "d1", "d2"];
    let links = ["h0", "h1", "h2"];
    members(
        &format!("case-random-{seed}"),
        seed,
        &links,
        &devices,
        false,
    )
}

/// Three such archives that change one tree. Each has its own names for hard-linked files, because a lower
/// layer keeps the other names of a file that is written again. All times are the same, because the kernel
/// gives the time of a directory to the file that has its name at the end, and a layer to the file that has
/// it at the end of that layer.
pub fn stacked(seed: u64) -> Vec<u8> {
    let top = format!("case-stacked-{seed}");
    let seed = seed.wrapping_mul(1000);
    join(&[
        &members(&top, seed, &["h0", "h1", "h2"], &["d0", "d1", "d2"], true),
        &members(
            &top,
            seed + 1,
            &["k0", "k1", "k2"],
            &["e0", "e1", "e2"],
            true,
        ),
        &members(
            &top,
            seed + 2,
            &["m0", "m1", "m2"],
            &["n0", "n1", "n2"],
            true,
        ),
    ])
}

/// The names from which the members of an archive are made.
struct Case<'a> {
    top: &'a str,
    links: &'a [&'a str],
    devices: &'a [&'a str],
    inside: bool,
}

const NAMES: [&str; 5] = ["a", "b", "s", "f", "g"];

/// The target of the symbolic link `name`.
fn target(case: &Case, numbers: &mut Numbers, name: &str) -> Vec<u8> {
    let up = format!("../{}", case.links[0]);
    let target = match name {
        name if case.links.contains(&name) => {
            numbers.one(&[case.links, &["missing", &up]].concat())
        }
        _ => numbers.one(&[
            "a",
            "b",
            "../a",
            "../b",
            ".",
            "..",
            case.devices[0],
            case.links[0],
            "f",
            "missing",
        ]),
    };
    match numbers.below(4) {
        _ if case.inside && target.contains("..") => b".".to_vec(),
        0 => format!("/{}/{target}", case.top).into_bytes(),
        _ => target.as_bytes().to_vec(),
    }
}

/// The name, header and body of a member.
fn member<'a>(case: &Case<'a>, numbers: &mut Numbers) -> (&'a str, Header, Vec<u8>) {
    let mut header = Header {
        ino: numbers.below(3) as u32,
        uid: numbers.below(4) as u32 * 1000,
        gid: numbers.below(4) as u32 * 100,
        nlink: 1,
        mtime: numbers.below(1 << 31) as u32,
        min: numbers.below(2) as u32,
        ..Header::default()
    };
    let permissions = numbers.below(0o10000) as u32;
    let mut body: Vec<u8> = match numbers.below(3) {
        0 => Vec::new(),
        _ => (0..numbers.below(20)).map(|n| b'a' + n as u8).collect(),
    };
    let name;
    match numbers.below(20) {
        0..4 => {
            name = numbers.one(&NAMES);
            header.mode = 0o100000;
        }
        4..8 => {
            name = numbers.one(case.links);
            header.mode = 0o100000;
            header.nlink = 2 + numbers.below(2) as u32;
        }
        8..13 => {
            name = numbers.one(&[&NAMES[..], case.links, case.devices].concat());
            header.mode = 0o040000;
            header.nlink = 2;
            body.clear();
        }
        13..16 => {
            name = numbers.one(&[&NAMES[..], case.links, case.devices].concat());
            header.mode = 0o120000;
            body = target(case, numbers, name);
        }
        16..19 => {
            name = numbers.one(case.devices);
            header.mode = *[0o010000, 0o020000, 0o060000, 0o140000]
                .get(numbers.below(4) as usize)
                .unwrap_or(&0);
            header.nlink = 1 + numbers.below(2) as u32;
            header.rmaj = numbers.below(300) as u32;
            header.rmin = numbers.below(70_000) as u32;
            // Sometimes with a body, which makes the kernel skip it.
            body.truncate(if numbers.below(6) == 0 { 3 } else { 0 });
        }
        _ => {
            name = numbers.one(&NAMES);
            header.mode = [0, 0o030000, 0o110000, 0o170000][numbers.below(4) as usize];
            body.clear();
        }
    }
    header.mode |= permissions;
    if case.inside {
        header.mtime = 1;
    }
    // In such a directory, fs.protected_symlinks and similar settings decide what case.links can open.
    if header.mode & 0o022 != 0 {
        header.mode &= !0o1000;
    }
    if header.file_type() == 0o100000 && numbers.below(4) == 0 {
        header.crc = true;
        header.chksum = body.iter().map(|byte| u32::from(*byte)).sum();
    }
    (name, header, body)
}

fn members(top: &str, seed: u64, links: &[&str], devices: &[&str], inside: bool) -> Vec<u8> {
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        numbers.next();
    }
    let mut archive = Vec::new();
    let case = Case {
        top,
        links,
        devices,
        inside,
    };
    let mut add = |name: &str, header: Header, body: &[u8]| {
        let entry = Entry {
            name: name.as_bytes(),
            header,
            body,
        };
        let one = cpio(&[entry]);
        archive.extend_from_slice(&one[..one.len() - 124]);
    };
    let at = |mode| Header {
        mode,
        nlink: 1,
        mtime: 1,
        ..Header::default()
    };
    add(top, at(0o040755), b"");
    if numbers.below(2) == 0 {
        for name in ["a", "b", "a/b"] {
            add(&format!("{top}/{name}"), at(0o040755), b"");
        }
    }
    for _ in 0..60 + numbers.below(60) {
        let mut path = top.to_string();
        for _ in 0..numbers.below(3) {
            path += "/";
            path += numbers.one(&["a", "b", "s", "a", "b", ".", "..", "", "none"]);
        }
        // Outside of the case, but inside the tree of cases.
        if path.matches("..").count() > usize::from(!inside) {
            continue;
        }
        let (name, header, body) = member(&case, &mut numbers);
        let slash = if numbers.below(12) == 0 { "/" } else { "" };
        let lead = numbers.one(&["", "", "", "/", "./", "//"]);
        add(&format!("{lead}{path}/{name}{slash}"), header, &body);
    }
    let end = cpio(&[]);
    archive.extend_from_slice(&end);
    // Every second one is padded as by cpio.
    pad(&mut archive, if seed.is_multiple_of(2) { 512 } else { 4 });
    archive
}
