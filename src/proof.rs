//! Proves that the real init can be executed, before the point of no return: it exists in the new
//! root, is a program for this machine, and so is everything that the kernel will want with it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use log::warn;
use rustix::fs::{
    CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, openat, openat2, readlinkat,
};
use rustix::io::Errno;

use crate::bytes::{Cursor, Opened, ReadAt};
use crate::error::{Cause, Context, Error, Result};
use crate::setup::MOVED;
use crate::sys::note;
use crate::words::shown;

/// The kernel follows `#!` and interpreters this deep (exec_binprm in fs/exec.c).
pub const DEPTH: usize = 5;

/// As many symbolic links as the kernel follows (MAXSYMLINKS in include/linux/namei.h).
pub const LINKS: usize = 40;

/// The first of `inits` that can be executed with `root` as root directory.
pub fn init<'a>(root: &str, inits: &'a [String]) -> Result<&'a str> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, root, flags, Mode::empty()).during("open", root)?;
    let mut refusals = Vec::new();
    for init in inits {
        match executable(&directory, init, DEPTH) {
            Ok(()) => {
                for (other, refusal) in inits.iter().zip(&refusals) {
                    if is_there(&directory, other) {
                        warn!("{refusal}; starting {init} instead");
                    }
                }
                return Ok(init);
            }
            Err(error) => refusals.push(error),
        }
    }
    let place = match root {
        "/" => "the initramfs",
        _ => "the new root",
    };
    Err(Error::with("find init in", place, Cause::Each(refusals)))
}

/// Whether anything has this name in the root, were it a link that leads nowhere.
fn is_there(root: &OwnedFd, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}

/// Checks one file, and what it needs in turn.
fn executable(root: &OwnedFd, path: &str, depth: usize) -> Result<()> {
    // An interpreter's name ends where its line does: with a carriage return, from some editors.
    let shown = shown(path.as_bytes());
    let no = |what: String| Err(Error::new("check", &shown, what));
    let file = File::from(resolve(root.as_fd(), path).during("find", &shown)?);
    let metadata = file.metadata().during("stat", &shown)?;
    if !metadata.is_file() {
        return no("not a regular file".into());
    }
    if metadata.mode() & 0o111 == 0 {
        return no(format!(
            "not executable (mode {:04o})",
            metadata.mode() & 0o7777
        ));
    }
    let flags = fstatvfs(&file).during("stat filesystem of", &shown)?.f_flag;
    if flags.contains(StatVfsMountFlags::NOEXEC) {
        return no("its filesystem is mounted noexec".into());
    }
    // Only where the initramfs itself is the system can it be.
    let own = || std::fs::metadata("/proc/self/exe");
    let here = rustix::fs::fstat(root).is_ok_and(|root| root.st_dev == metadata.dev());
    if here && own().is_ok_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino())) {
        return no("this is the running /init itself".into());
    }
    // The O_PATH descriptor names the file; this opens it.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Some(mount) = hidden_by(root, &name) {
        return no(format!("it lies in /{mount}, which is mounted over it"));
    }
    let program = Opened::open(Path::new(&name))?;
    let needs = match interpreter(&program, HERE) {
        Ok(needs) => needs,
        Err(what) => return no(what),
    };
    let Some(needs) = needs else {
        return Ok(());
    };
    if depth == 0 {
        return no("too many interpreters of interpreters".into());
    }
    executable(root, &needs, depth.saturating_sub(1)).map_err(|error| {
        Error::with(
            "check",
            &shown,
            Cause::Each(vec![Error::with(
                "find",
                "its interpreter",
                Cause::Each(vec![error]),
            )]),
        )
    })
}

/// The filesystem that is going to be moved over a file of the new root, whose descriptor has this name.
fn hidden_by(root: &OwnedFd, file: &str) -> Option<&'static str> {
    let root = format!("/proc/self/fd/{}", root.as_raw_fd());
    let root = fs::read_link(root).ok()?;
    let file = fs::read_link(file).ok()?;
    let inside = file.strip_prefix(&root).ok()?;
    let mut moved = MOVED.into_iter();
    moved.find(|name| root != Path::new("/") && inside.starts_with(name))
}

/// Finds a path as if `root` were `/`. Returns an O_PATH descriptor.
fn resolve(root: std::os::fd::BorrowedFd<'_>, path: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        // Before Linux 5.6, or refused by a container's filter; or somewhere something was renamed or mounted
        // meanwhile, and the kernel is not sure of a `..` on the way (openat2(2)).
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => walk(root, path),
        done => done,
    }
}

/// The same by hand: one component at a time, links included.
fn walk(root: std::os::fd::BorrowedFd<'_>, path: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = || openat(root, ".", flags, Mode::empty());
    let mut todo: Vec<String> = components(path);
    // The directories from the root down to where we are; `..` goes back up, but not beyond.
    let mut trail = vec![top()?];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let here = trail.last().ok_or(Errno::NOENT)?;
        let next = openat(here, &*name, flags, Mode::empty())?;
        match readlinkat(&next, "", Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP);
                }
                let target = target.to_string_lossy();
                if target.starts_with('/') {
                    trail = vec![top()?];
                }
                todo.extend(components(&target));
            }
            // ENOENT or EINVAL: no link.
            Err(_) => trail.push(next),
        }
    }
    trail.pop().ok_or(Errno::NOENT)
}

/// Path components, the last first.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .rev()
        .map(Into::into)
        .collect()
}

/// The program that the kernel starts in place of this one: after `#!`, or an ELF file's PT_INTERP.
/// `None`: it needs none, or has the byte order that is not read here. An ELF file has to be for one of
/// the `machines`. The error is a sentence.
pub fn interpreter(
    program: &dyn ReadAt,
    machines: Machines,
) -> std::result::Result<Option<String>, String> {
    // The kernel looks at 256 bytes (BINPRM_BUF_SIZE).
    let mut head = [0; 256];
    let n = program
        .read_at(&mut head, 0)
        .map_err(|error| error.to_string())?;
    let head = head.get(..n).unwrap_or_default();
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
        return match words.find(|word| !word.is_empty()) {
            Some(word) => Ok(Some(String::from_utf8_lossy(word).into_owned())),
            None => Err("nothing follows its #!".into()),
        };
    }
    if head.starts_with(b"\x7fELF") {
        return elf_interpreter(program, machines, head);
    }
    match head.is_empty() {
        true => Err("it is empty".into()),
        false => Err(format!(
            "neither an ELF program nor a #! script: it starts with \"{}\"",
            head.get(..8).unwrap_or(head).escape_ascii()
        )),
    }
}

/// Machines whose programs one kernel runs.
#[derive(Clone, Copy, Debug)]
pub struct Machines {
    /// What a message calls them.
    pub name: &'static str,
    /// Their `e_machine` values (include/uapi/linux/elf-em.h): of a 64-bit architecture, and of the
    /// 32-bit one before it. Empty: any.
    pub numbers: &'static [u16],
}

impl Machines {
    /// Any.
    pub const ANY: Self = Self::new("any", &[]);
    /// What a kernel for x86_64 runs.
    pub const X86_64: Self = Self::new("x86_64", &[62, 3]);
    /// What a kernel for aarch64 runs.
    pub const AARCH64: Self = Self::new("aarch64", &[183, 40]);
    /// What a kernel for riscv64 runs.
    pub const RISCV64: Self = Self::new("riscv64", &[243]);

    /// Those of these numbers.
    pub const fn new(name: &'static str, numbers: &'static [u16]) -> Self {
        Self { name, numbers }
    }
}

/// Those that a kernel may run under which this program runs; any where that is not known.
const HERE: Machines = match () {
    () if cfg!(target_endian = "big") => Machines::ANY,
    () if cfg!(any(target_arch = "x86_64", target_arch = "x86")) => Machines::X86_64,
    () if cfg!(any(target_arch = "aarch64", target_arch = "arm")) => Machines::AARCH64,
    () if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) => Machines::RISCV64,
    () => Machines::ANY,
};

fn elf_interpreter(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
) -> std::result::Result<Option<String>, String> {
    const PT_INTERP: u32 = 3;
    let found = elf_segments(program, machines, head, PT_INTERP)?;
    let Some(&(offset, size)) = found.first() else {
        return Ok(None);
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| (2..=4096).contains(size));
    let mut path = vec![0; size.ok_or("an ELF program whose interpreter has no sane length")?];
    program
        .read_exact_at(&mut path, offset)
        .map_err(|_| TRUNCATED)?;
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    path.truncate(end);
    Ok(Some(String::from_utf8_lossy(&path).into_owned()))
}

const TRUNCATED: &str = "a truncated ELF program";

/// Offset and size in the file of each segment of one type (`p_type`). None of a program that has the
/// byte order that is not read here.
fn elf_segments(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
    wanted: u32,
) -> std::result::Result<Vec<(u64, u64)>, String> {
    let truncated = || TRUNCATED.to_string();
    let wide = head.get(4) == Some(&2);
    if head.get(5) != Some(&1) {
        // Fields below are read as little endian; a big-endian machine goes without this proof.
        return match machines.numbers.is_empty() {
            true => Ok(Vec::new()),
            false => Err("an ELF program of the other byte order".into()),
        };
    }
    let mut cursor = Cursor::new(head);
    let header = (|| {
        cursor.take(16)?;
        let kind = cursor.le16()?;
        let machine = cursor.le16()?;
        cursor.take(if wide { 12 } else { 8 })?;
        let phoff = if wide {
            cursor.le64()?
        } else {
            cursor.le32()?.into()
        };
        cursor.take(if wide { 14 } else { 10 })?;
        Some((kind, machine, phoff, cursor.le16()?, cursor.le16()?))
    })();
    let (kind, machine, phoff, phentsize, phnum) = header.ok_or_else(truncated)?;
    if !machines.numbers.is_empty() && !machines.numbers.contains(&machine) {
        return Err(format!(
            "an ELF program for another machine (e_machine {machine}, here {})",
            machines.name
        ));
    }
    if !matches!(kind, 2 | 3) {
        return Err(format!("an ELF file that is no program (e_type {kind})"));
    }
    let entry = if wide { 56 } else { 32 };
    if phentsize != entry {
        return Err(format!(
            "an ELF program with odd program headers (e_phentsize {phentsize})"
        ));
    }
    let mut table = vec![0; usize::from(entry).saturating_mul(phnum.into())];
    program
        .read_exact_at(&mut table, phoff)
        .map_err(|_| truncated())?;
    let mut found = Vec::new();
    for bytes in table.chunks_exact(entry.into()) {
        let mut cursor = Cursor::new(bytes);
        let segment = (|| {
            let kind = cursor.le32()?;
            if wide {
                cursor.take(4)?;
                let offset = cursor.le64()?;
                cursor.take(16)?;
                Some((kind, offset, cursor.le64()?))
            } else {
                let offset = cursor.le32()?.into();
                cursor.take(8)?;
                Some((kind, offset, cursor.le32()?.into()))
            }
        })();
        let (kind, offset, size) = segment.ok_or_else(truncated)?;
        if kind == wanted {
            found.push((offset, size));
        }
    }
    Ok(found)
}

/// The version of layerinit whose `/init` this program is: the ELF note that [`crate::entry!`] puts
/// into it. `None` of any other program.
///
/// Source: elf(5), "Notes (Nhdr)".
pub fn version(program: &dyn ReadAt) -> Option<String> {
    const PT_NOTE: u32 = 4;
    /// More than the notes of any program.
    const NOTES_MAX: u64 = 1 << 16;
    let mut head = [0; 64];
    let n = program.read_at(&mut head, 0).ok()?;
    let head = head.get(..n)?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let segments = elf_segments(program, Machines::ANY, head, PT_NOTE).ok()?;
    let mut segments = segments.into_iter().filter(|(_, size)| *size <= NOTES_MAX);
    segments.find_map(|(offset, size)| {
        let mut notes = vec![0; usize::try_from(size).ok()?];
        program.read_exact_at(&mut notes, offset).ok()?;
        own_note(&notes)
    })
}

/// The description of the note with our name and type, up to its NULs.
fn own_note(notes: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(notes);
    loop {
        let (name, description, kind) = (cursor.le32()?, cursor.le32()?, cursor.le32()?);
        // Each of the two is padded to a multiple of 4.
        let mut field = |length: u32| {
            let length = usize::try_from(length).ok()?;
            let padded = cursor.take(length.checked_next_multiple_of(4)?)?;
            padded.get(..length)
        };
        let (name, description) = (field(name)?, field(description)?);
        if name == note::NAME && kind == note::VERSION {
            let text = description.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(program: &[u8]) -> std::result::Result<Option<String>, String> {
        interpreter(&program, Machines::X86_64)
    }

    #[test]
    fn scripts_name_their_interpreter() {
        assert_eq!(needs(b"#!/bin/sh\n"), Ok(Some("/bin/sh".into())));
        assert_eq!(
            needs(b"#! \t/usr/bin/env python3 -u"),
            Ok(Some("/usr/bin/env".into()))
        );
        assert_eq!(needs(b"#!\n/bin/sh"), Err("nothing follows its #!".into()));
        assert_eq!(needs(b""), Err("it is empty".into()));
        assert_eq!(
            needs(b"echo hello\n"),
            Err("neither an ELF program nor a #! script: it starts with \"echo hel\"".into())
        );
    }

    /// A 64-bit little-endian ELF file with one program header, and the interpreter behind it.
    fn elf(machine: u16, kind: u16, interp: &[u8]) -> Vec<u8> {
        let mut elf = vec![0; 120];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[16..18].copy_from_slice(&kind.to_le_bytes());
        elf[18..20].copy_from_slice(&machine.to_le_bytes());
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = if interp.is_empty() { 1 } else { 3 };
        elf[72] = 120;
        elf[96] = interp.len() as u8;
        elf.extend_from_slice(interp);
        elf
    }

    #[test]
    fn programs_name_their_interpreter_or_none() {
        assert_eq!(
            needs(&elf(62, 3, b"/lib64/ld.so\0")),
            Ok(Some("/lib64/ld.so".into()))
        );
        assert_eq!(needs(&elf(62, 2, b"")), Ok(None));
        assert_eq!(
            needs(&elf(183, 2, b"")),
            Err("an ELF program for another machine (e_machine 183, here x86_64)".into())
        );
        let mut big_endian = elf(62, 3, b"/lib64/ld.so\0");
        big_endian[5] = 2;
        assert_eq!(
            needs(&big_endian),
            Err("an ELF program of the other byte order".into())
        );
        assert_eq!(interpreter(&big_endian.as_slice(), Machines::ANY), Ok(None));
        assert_eq!(
            interpreter(
                &elf(183, 3, b"/lib/ld-linux-aarch64.so.1\0").as_slice(),
                Machines::ANY
            ),
            Ok(Some("/lib/ld-linux-aarch64.so.1".into()))
        );
        assert_eq!(
            needs(&elf(62, 1, b"")),
            Err("an ELF file that is no program (e_type 1)".into())
        );
    }

    #[test]
    fn no_truncation_and_no_flipped_bit_panics() {
        let whole = elf(62, 3, b"/lib64/ld.so\0");
        for length in 0..whole.len() {
            let _ = needs(&whole[..length]);
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = needs(&flipped);
        }
    }

    #[test]
    fn both_ways_of_resolving_stay_in_the_root_and_agree() {
        let root = std::env::temp_dir().join(format!("layerinit-proof-{}", std::process::id()));
        std::fs::create_dir_all(root.join("usr/sbin")).unwrap();
        std::fs::write(root.join("usr/sbin/init"), "x").unwrap();
        for (target, link) in [
            ("/usr/sbin", "sbin"),
            ("../../../usr/sbin/init", "relative"),
            ("/sbin/init", "absolute"),
            ("around", "around"),
            ("nowhere", "dangling"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let directory = File::open(&root).unwrap();
        let inode = |found: std::result::Result<OwnedFd, Errno>| {
            found.map(|fd| File::from(fd).metadata().unwrap().ino())
        };
        for path in [
            "/sbin/init",
            "relative",
            "/absolute",
            "around",
            "dangling",
            "/..//./sbin/../sbin/init",
            "/none",
        ] {
            let by_kernel = openat2(
                &directory,
                path,
                OFlags::PATH,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            );
            assert_eq!(
                inode(walk(directory.as_fd(), path)),
                inode(by_kernel),
                "{path}"
            );
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
