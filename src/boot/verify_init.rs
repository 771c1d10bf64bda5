//! Proves that the real init can be executed, before the point of no return: it exists in the new
//! root, is a program for this machine, and so is everything that the kernel will want with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use log::warn;
use rustix::fs::{
    CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::system::uname;

use super::setup::MOVED;
use crate::bytes::{Cursor, Opened, ReadAt};
use crate::error::{Cause, Context, Error, Result};
use crate::sys::note;
use crate::text::shown;

/// The kernel follows `#!` and interpreters this deep (exec_binprm in fs/exec.c).
pub const DEPTH: usize = 5;

/// As many symbolic links as the kernel follows (MAXSYMLINKS in include/linux/namei.h).
pub const LINKS: usize = 40;

/// Why a file is not started.
struct Refusal {
    error: Error,
    /// It is there, and a fault may be why it cannot be used: another program in its place would hide that.
    fault: bool,
}

impl From<Error> for Refusal {
    /// What is not there, or leads nowhere, is passed over, as the kernel does; any other errno may be a
    /// fault of the medium or of the filesystem.
    fn from(error: Error) -> Self {
        const NOT_THERE: [Errno; 4] =
            [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG];
        let fault = error
            .errno()
            .is_none_or(|errno| !NOT_THERE.contains(&errno));
        Self { error, fault }
    }
}

/// The first of `inits` that can be executed with `root` as root directory. One that is there and
/// cannot be read, or is damaged, is an error: the next one is another system.
pub fn init<'a>(root: &str, inits: &'a [String]) -> Result<&'a str> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, root, flags, Mode::empty()).during("open", root)?;
    let place = match root {
        "/" => "the initramfs",
        _ => "the new root",
    };
    let failed = |refusals| Error::with("find init in", place, Cause::Each(refusals));
    let machines = here(uname().machine().to_bytes());
    let mut refusals = Vec::new();
    for init in inits {
        match executable(&directory, init, machines, DEPTH) {
            Ok(()) => {
                for (other, refusal) in inits.iter().zip(&refusals) {
                    if is_there(&directory, other) {
                        warn!("{refusal}; starting {init} instead");
                    }
                }
                return Ok(init);
            }
            Err(Refusal { error, fault: true }) => return Err(failed(vec![error])),
            Err(Refusal { error, .. }) => refusals.push(error),
        }
    }
    Err(failed(refusals))
}

/// Whether anything has this name in the root, were it a link that leads nowhere.
fn is_there(root: &OwnedFd, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}

/// Checks one file, and what it needs in turn.
fn executable(
    root: &OwnedFd,
    path: &str,
    machines: Machines,
    depth: usize,
) -> std::result::Result<(), Refusal> {
    // An interpreter's name ends where its line does: with a carriage return, from some editors.
    let shown = shown(path.as_bytes());
    let refuse = |what: String, fault| {
        let error = Error::new("check", &shown, what);
        Err(Refusal { error, fault })
    };
    let no = |what: String| refuse(what, false);
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
    let program = Opened::open(Path::new(&name)).map_err(|error| Refusal {
        error: error.of(&shown),
        fault: true,
    })?;
    let needs = match interpreter(&program, machines) {
        Ok(needs) => needs,
        Err(Unfit::Damaged(what)) => return refuse(what, true),
        Err(Unfit::Other(what)) => return no(what),
    };
    let Some(needs) = needs else {
        return Ok(());
    };
    if depth == 0 {
        return no("too many interpreters of interpreters".into());
    }
    executable(root, &needs, machines, depth.saturating_sub(1)).map_err(
        |Refusal { error, fault }| {
            let error = Error::with("find", "its interpreter", Cause::Each(vec![error]));
            let error = Error::with("check", &shown, Cause::Each(vec![error]));
            Refusal { error, fault }
        },
    )
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
            // No link (readlinkat(2)).
            Err(Errno::NOENT | Errno::INVAL) => trail.push(next),
            Err(errno) => return Err(errno),
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

/// Why a file is not a program that the kernel starts: a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It cannot be read, or does not look like what was written: a fault of the medium may be why.
    Damaged(String),
    /// It is something else.
    Other(String),
}

impl Unfit {
    fn unread(error: io::Error) -> Self {
        Self::Damaged(match Errno::from_io_error(&error) {
            Some(errno) => format!("it cannot be read: {}", crate::error::name(errno)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "a truncated ELF program".into()
            }
            None => format!("it cannot be read: {error}"),
        })
    }
}

impl From<Unfit> for String {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Damaged(what) | Unfit::Other(what) => what,
        }
    }
}

/// The program that the kernel starts in place of this one: after `#!`, or an ELF file's PT_INTERP.
/// `None`: it needs none, or has the byte order that is not read here. An ELF file has to be for one of
/// the `machines`.
pub fn interpreter(
    program: &dyn ReadAt,
    machines: Machines,
) -> std::result::Result<Option<String>, Unfit> {
    // The kernel looks at 256 bytes (BINPRM_BUF_SIZE).
    let mut head = [0; 256];
    let n = program.read_at(&mut head, 0).map_err(Unfit::unread)?;
    let head = head.get(..n).unwrap_or_default();
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
        return match words.find(|word| !word.is_empty()) {
            Some(word) => Ok(Some(String::from_utf8_lossy(word).into_owned())),
            None => Err(Unfit::Other("nothing follows its #!".into())),
        };
    }
    if head.starts_with(b"\x7fELF") {
        return elf_interpreter(program, machines, head);
    }
    Err(Unfit::Damaged(match head.is_empty() {
        true => "it is empty".into(),
        false => format!(
            "neither an ELF program nor a #! script: it starts with \"{}\"",
            head.get(..8).unwrap_or(head).escape_ascii()
        ),
    }))
}

/// Machines whose programs one kernel runs.
#[derive(Clone, Copy, Debug)]
pub struct Machines {
    /// What a message calls them.
    pub name: &'static str,
    /// Their `e_machine` values (include/uapi/linux/elf-em.h): of a 64-bit architecture, and of the
    /// 32-bit one before it. Empty: any.
    pub numbers: &'static [u16],
    /// Whether programs of 64 bits run: one number can be that of both widths.
    pub wide: bool,
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
        Self {
            name,
            numbers,
            wide: true,
        }
    }

    /// Those of these numbers that are of 32 bits.
    pub const fn narrow(name: &'static str, numbers: &'static [u16]) -> Self {
        Self {
            name,
            numbers,
            wide: false,
        }
    }
}

/// Those that the running kernel may run; any where that is not known.
fn here(machine: &[u8]) -> Machines {
    match () {
        () if cfg!(target_endian = "big") => Machines::ANY,
        () if cfg!(target_arch = "x86_64") => Machines::X86_64,
        () if cfg!(target_arch = "aarch64") => Machines::AARCH64,
        () if cfg!(target_arch = "riscv64") => Machines::RISCV64,
        () if cfg!(target_pointer_width = "32") => under(machine),
        () => Machines::ANY,
    }
}

/// Those of a kernel that runs programs of 32 bits, from the machine of uname(2). A kernel of 64 bits tells
/// those programs its own, or armv8l (COMPAT_UTS_MACHINE of arm64).
fn under(machine: &[u8]) -> Machines {
    match machine {
        b"x86_64" => Machines::X86_64,
        b"aarch64" | b"armv8l" => Machines::AARCH64,
        b"riscv64" => Machines::RISCV64,
        [b'i', _, b'8', b'6'] => Machines::narrow("32-bit x86", &[3]),
        [b'a', b'r', b'm', ..] => Machines::narrow("32-bit arm", &[40]),
        b"riscv32" => Machines::narrow("riscv32", &[243]),
        _ => Machines::ANY,
    }
}

fn elf_interpreter(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
) -> std::result::Result<Option<String>, Unfit> {
    const PT_INTERP: u32 = 3;
    let found = elf_segments(program, machines, head, PT_INTERP)?;
    let Some(&(offset, size)) = found.first() else {
        return Ok(None);
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| (2..=4096).contains(size));
    let odd = || Unfit::Damaged("an ELF program whose interpreter has no sane length".into());
    let mut path = vec![0; size.ok_or_else(odd)?];
    program
        .read_exact_at(&mut path, offset)
        .map_err(Unfit::unread)?;
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    path.truncate(end);
    Ok(Some(String::from_utf8_lossy(&path).into_owned()))
}

/// Offset and size in the file of each segment of one type (`p_type`). None of a program that has the
/// byte order that is not read here.
fn elf_segments(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
    wanted: u32,
) -> std::result::Result<Vec<(u64, u64)>, Unfit> {
    let truncated = || Unfit::Damaged("a truncated ELF program".into());
    let wide = head.get(4) == Some(&2);
    if head.get(5) != Some(&1) {
        // Fields below are read as little endian; a big-endian machine goes without this proof.
        return match machines.numbers.is_empty() {
            true => Ok(Vec::new()),
            false => Err(Unfit::Other(
                "an ELF program of the other byte order".into(),
            )),
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
        return Err(Unfit::Other(format!(
            "an ELF program for another machine (e_machine {machine}, here {})",
            machines.name
        )));
    }
    if wide && !machines.wide {
        return Err(Unfit::Other(format!(
            "an ELF program of 64 bits, which this kernel does not run (here {})",
            machines.name
        )));
    }
    if !matches!(kind, 2 | 3) {
        let what = format!("an ELF file that is no program (e_type {kind})");
        return Err(Unfit::Other(what));
    }
    let entry = if wide { 56 } else { 32 };
    if phentsize != entry {
        return Err(Unfit::Damaged(format!(
            "an ELF program with odd program headers (e_phentsize {phentsize})"
        )));
    }
    let mut table = vec![0; usize::from(entry).saturating_mul(phnum.into())];
    program
        .read_exact_at(&mut table, phoff)
        .map_err(Unfit::unread)?;
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
        interpreter(&program, Machines::X86_64).map_err(Into::into)
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
    fn a_kernel_of_32_bits_runs_no_program_of_64() {
        let arm64 = elf(183, 3, b"/lib/ld-linux-aarch64.so.1\0");
        let check = |program: &[u8], machine: &str| {
            interpreter(&program, under(machine.as_bytes())).map_err(String::from)
        };
        for kernel in ["aarch64", "armv8l"] {
            assert!(check(&arm64, kernel).is_ok(), "{kernel}");
        }
        for kernel in ["armv7l", "armv6l"] {
            assert_eq!(
                check(&arm64, kernel).unwrap_err(),
                "an ELF program for another machine (e_machine 183, here 32-bit arm)"
            );
        }
        assert!(check(&elf(62, 2, b""), "x86_64").is_ok());
        assert_eq!(
            check(&elf(62, 2, b""), "i686").unwrap_err(),
            "an ELF program for another machine (e_machine 62, here 32-bit x86)"
        );
        // The two RISC-V have one number.
        assert_eq!(
            check(&elf(243, 2, b""), "riscv32").unwrap_err(),
            "an ELF program of 64 bits, which this kernel does not run (here riscv32)"
        );
        assert!(check(&elf(243, 2, b""), "riscv64").is_ok());
        // A program of 64 bits runs: whatever a personality says, the kernel is of 64.
        if cfg!(target_arch = "x86_64") {
            assert_eq!(here(b"i686").name, Machines::X86_64.name);
        }
    }

    /// Bytes of which those from `bad` on cannot be read.
    struct Medium {
        bytes: Vec<u8>,
        bad: u64,
    }

    impl ReadAt for Medium {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            match offset.checked_sub(self.bad) {
                Some(_) => Err(Errno::IO.into()),
                None => self.bytes.as_slice().read_at(buf, offset),
            }
        }
    }

    #[test]
    fn what_may_be_a_fault_is_told_from_what_is_another_kind_of_file() {
        let unread = "it cannot be read: EIO: I/O error";
        let far = {
            let mut far = elf(62, 2, b"");
            far[32..40].copy_from_slice(&4096u64.to_le_bytes());
            far.resize(8192, 0);
            far
        };
        for bad in [0, 4096] {
            let medium = Medium {
                bytes: far.clone(),
                bad,
            };
            assert_eq!(
                interpreter(&medium, Machines::X86_64),
                Err(Unfit::Damaged(unread.into()))
            );
        }
        for (program, damaged) in [
            (Vec::new(), true),
            (vec![0; 4096], true),
            (elf(62, 2, b"")[..100].to_vec(), true),
            (elf(183, 2, b""), false),
            (elf(62, 1, b""), false),
        ] {
            let unfit = interpreter(&program.as_slice(), Machines::X86_64).unwrap_err();
            assert_eq!(matches!(unfit, Unfit::Damaged(_)), damaged, "{unfit:?}");
        }
        for (errno, fault) in [
            (Errno::NOENT, false),
            (Errno::NOTDIR, false),
            (Errno::LOOP, false),
            (Errno::NAMETOOLONG, false),
            (Errno::IO, true),
            (Errno::UCLEAN, true),
            (Errno::BADMSG, true),
            (Errno::STALE, true),
            (Errno::NODATA, true),
            (Errno::NXIO, true),
            (Errno::NOMEM, true),
            (Errno::ACCESS, true),
            (Errno::PERM, true),
            (Errno::TIMEDOUT, true),
        ] {
            let error = Error::with("find", "/sbin/init", Cause::Os(errno));
            assert_eq!(Refusal::from(error).fault, fault, "{errno:?}");
        }
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
