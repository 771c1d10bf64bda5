//! Programs as the kernel's exec reads them: ELF files and `#!` scripts.
//!
//! Sources: elf(5), include/uapi/linux/elf.h, fs/binfmt_elf.c and fs/binfmt_script.c.

use std::io;

use rustix::io::Errno;

use crate::bytes::{Cursor, ReadAt};
use crate::error::name as errno_name;
use crate::sys::note;

/// The magic number of an ELF file.
pub const ELFMAG: &[u8; 4] = b"\x7fELF";

const EI_DATA: usize = 5;
const ELFDATA2LSB: u8 = 1;

const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

/// Why the kernel cannot execute a file. Each holds a sentence for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotExecutable {
    /// The file cannot be read, is truncated or has impossible fields: the medium may be faulty.
    Damaged(String),
    /// The file is intact, but no program for this kernel.
    Other(String),
}

impl NotExecutable {
    fn unreadable(error: io::Error) -> Self {
        Self::Damaged(match Errno::from_io_error(&error) {
            Some(errno) => format!("it cannot be read: {}", errno_name(errno)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "a truncated ELF program".into()
            }
            None => format!("it cannot be read: {error}"),
        })
    }

    fn truncated() -> Self {
        Self::Damaged("a truncated ELF program".into())
    }
}

impl From<NotExecutable> for String {
    fn from(why: NotExecutable) -> Self {
        match why {
            NotExecutable::Damaged(what) | NotExecutable::Other(what) => what,
        }
    }
}

/// The machines whose programs one kernel executes.
#[derive(Clone, Copy, Debug)]
pub struct Machines {
    /// Their name in messages.
    pub name: &'static str,
    /// Their `e_machine` values (include/uapi/linux/elf-em.h): that of a 64-bit architecture, then that of
    /// its 32-bit predecessor. Empty: any.
    pub numbers: &'static [u16],
    /// Whether the kernel executes 64-bit programs. RISC-V has one `e_machine` for both widths.
    pub runs_64_bit: bool,
}

impl Machines {
    /// Any machine.
    pub const ANY: Self = Self::new("any", &[]);
    /// The machines of an x86_64 kernel.
    pub const X86_64: Self = Self::new("x86_64", &[62, 3]);
    /// The machines of an aarch64 kernel.
    pub const AARCH64: Self = Self::new("aarch64", &[183, 40]);
    /// The machines of a riscv64 kernel.
    pub const RISCV64: Self = Self::new("riscv64", &[243]);

    /// Machines with these `e_machine` values, of either width.
    pub const fn new(name: &'static str, numbers: &'static [u16]) -> Self {
        Self {
            name,
            numbers,
            runs_64_bit: true,
        }
    }

    /// Machines with these `e_machine` values, 32-bit programs only.
    pub const fn of_32_bit(name: &'static str, numbers: &'static [u16]) -> Self {
        Self {
            name,
            numbers,
            runs_64_bit: false,
        }
    }

    /// The machines of the running kernel, which reports `machine` (uname(2)); [`Self::ANY`] where they are
    /// not known.
    pub fn of_running_kernel(machine: &[u8]) -> Self {
        match () {
            () if cfg!(target_endian = "big") => Self::ANY,
            () if cfg!(target_arch = "x86_64") => Self::X86_64,
            () if cfg!(target_arch = "aarch64") => Self::AARCH64,
            () if cfg!(target_arch = "riscv64") => Self::RISCV64,
            () if cfg!(target_pointer_width = "32") => Self::seen_by_32_bit_program(machine),
            () => Self::ANY,
        }
    }

    /// The same for a 32-bit /init. A 64-bit kernel reports its own machine to such a program; arm64
    /// reports armv8l (COMPAT_UTS_MACHINE).
    fn seen_by_32_bit_program(machine: &[u8]) -> Self {
        match machine {
            b"x86_64" => Self::X86_64,
            b"aarch64" | b"armv8l" => Self::AARCH64,
            b"riscv64" => Self::RISCV64,
            [b'i', _, b'8', b'6'] => Self::of_32_bit("32-bit x86", &[3]),
            [b'a', b'r', b'm', ..] => Self::of_32_bit("32-bit arm", &[40]),
            b"riscv32" => Self::of_32_bit("riscv32", &[243]),
            _ => Self::ANY,
        }
    }

    fn includes(&self, machine: u16) -> bool {
        self.numbers.is_empty() || self.numbers.contains(&machine)
    }
}

/// The fields at the start of an ELF header, which programs of both widths and byte orders share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ident {
    /// ELFCLASS64.
    pub is_64_bit: bool,
    /// Anything but ELFDATA2LSB.
    pub big_endian: bool,
    /// The type of the file: 2 (ET_EXEC) and 3 (ET_DYN) are programs.
    pub e_type: u16,
    /// The machine (include/uapi/linux/elf-em.h).
    pub e_machine: u16,
}

impl Ident {
    /// Decodes the first 20 bytes of a file; `None` where they are not those of an ELF file.
    pub fn decode(head: &[u8]) -> Option<Self> {
        const ELFCLASS64: u8 = 2;
        let mut cursor = Cursor::new(head);
        let _magic = cursor.array().filter(|magic| magic == ELFMAG)?;
        let (class, data) = (cursor.u8()?, cursor.u8()?);
        cursor.take(10)?;
        let big_endian = data != ELFDATA2LSB;
        let mut number = || {
            let number = cursor.le16()?;
            Some(match big_endian {
                true => number.swap_bytes(),
                false => number,
            })
        };
        Some(Self {
            is_64_bit: class == ELFCLASS64,
            big_endian,
            e_type: number()?,
            e_machine: number()?,
        })
    }

    /// Reads and decodes the start of a file; `None` also where it cannot be read.
    pub fn read(file: &dyn ReadAt) -> Option<Self> {
        let mut head = [0; 20];
        file.read_exact_at(&mut head, 0).ok()?;
        Self::decode(&head)
    }
}

/// Whether a file starts as a big-endian ELF file.
pub fn is_big_endian(file: &dyn ReadAt) -> bool {
    const ELFDATA2MSB: u8 = 2;
    let mut head = [0; EI_DATA + 1];
    file.read_exact_at(&mut head, 0).is_ok()
        && head.starts_with(ELFMAG)
        && head.ends_with(&[ELFDATA2MSB])
}

/// The path of the program that the kernel starts to run this one: the first word after `#!`, or the
/// PT_INTERP segment of an ELF file. `None`: the kernel starts the program itself, or the file is big
/// endian, which is not read further.
///
/// # Errors
/// The file cannot be read, is no program, or is not for one of `machines`.
pub fn interpreter(
    program: &dyn ReadAt,
    machines: Machines,
) -> Result<Option<String>, NotExecutable> {
    // BINPRM_BUF_SIZE: the kernel reads this much.
    let mut head = [0; 256];
    let n = program
        .read_at(&mut head, 0)
        .map_err(NotExecutable::unreadable)?;
    let head = head.get(..n).unwrap_or_default();
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
        return match words.find(|word| !word.is_empty()) {
            Some(word) => Ok(Some(String::from_utf8_lossy(word).into_owned())),
            None => Err(NotExecutable::Other("nothing follows its #!".into())),
        };
    }
    if head.starts_with(ELFMAG) {
        return elf_interpreter(program, machines, head);
    }
    Err(NotExecutable::Damaged(match head.is_empty() {
        true => "it is empty".into(),
        false => format!(
            "neither an ELF program nor a #! script: it starts with \"{}\"",
            head.get(..8).unwrap_or(head).escape_ascii()
        ),
    }))
}

fn elf_interpreter(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
) -> Result<Option<String>, NotExecutable> {
    let found = segments(program, machines, head, PT_INTERP)?;
    let Some(&(offset, size)) = found.first() else {
        return Ok(None);
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| (2..=4096).contains(size))
        .ok_or_else(|| {
            NotExecutable::Damaged("an ELF program with an invalid interpreter length".into())
        })?;
    let mut path = vec![0; size];
    program
        .read_exact_at(&mut path, offset)
        .map_err(NotExecutable::unreadable)?;
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    path.truncate(end);
    Ok(Some(String::from_utf8_lossy(&path).into_owned()))
}

/// Offset and size in the file, in bytes, of each segment of type `p_type`. Empty for a big-endian program
/// of [`Machines::ANY`].
fn segments(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
    p_type: u32,
) -> Result<Vec<(u64, u64)>, NotExecutable> {
    if head.get(EI_DATA) != Some(&ELFDATA2LSB) {
        // The fields below are read as little endian. A big-endian machine goes without this check.
        return match machines.numbers.is_empty() {
            true => Ok(Vec::new()),
            false => Err(NotExecutable::Other(
                "an ELF program of the other byte order".into(),
            )),
        };
    }
    let ident = Ident::decode(head).ok_or_else(NotExecutable::truncated)?;
    check_machine(ident, machines)?;
    let (phoff, phentsize, phnum) =
        program_headers(head, ident.is_64_bit).ok_or_else(NotExecutable::truncated)?;
    let entry: u16 = if ident.is_64_bit { 56 } else { 32 };
    if phentsize != entry {
        return Err(NotExecutable::Damaged(format!(
            "an ELF program with invalid program headers (e_phentsize {phentsize})"
        )));
    }
    let mut table = vec![0; usize::from(entry).saturating_mul(phnum.into())];
    program
        .read_exact_at(&mut table, phoff)
        .map_err(NotExecutable::unreadable)?;
    let mut found = Vec::new();
    for header in table.chunks_exact(entry.into()) {
        let (kind, offset, size) =
            segment(header, ident.is_64_bit).ok_or_else(NotExecutable::truncated)?;
        if kind == p_type {
            found.push((offset, size));
        }
    }
    Ok(found)
}

fn check_machine(ident: Ident, machines: Machines) -> Result<(), NotExecutable> {
    let Ident {
        e_type, e_machine, ..
    } = ident;
    let name = machines.name;
    let what = if !machines.includes(e_machine) {
        format!("an ELF program for another machine (e_machine {e_machine}, here {name})")
    } else if ident.is_64_bit && !machines.runs_64_bit {
        format!("a 64-bit ELF program, which this kernel does not run (here {name})")
    } else if !matches!(e_type, 2 | 3) {
        format!("an ELF file that is no program (e_type {e_type})")
    } else {
        return Ok(());
    };
    Err(NotExecutable::Other(what))
}

/// `e_phoff`, `e_phentsize` and `e_phnum` of a little-endian ELF header.
fn program_headers(head: &[u8], is_64_bit: bool) -> Option<(u64, u16, u16)> {
    let mut cursor = Cursor::new(head);
    // e_ident, e_type, e_machine, e_version, e_entry; then e_shoff, e_flags, e_ehsize.
    cursor.take(if is_64_bit { 32 } else { 28 })?;
    let phoff = match is_64_bit {
        true => cursor.le64()?,
        false => cursor.le32()?.into(),
    };
    cursor.take(if is_64_bit { 14 } else { 10 })?;
    Some((phoff, cursor.le16()?, cursor.le16()?))
}

/// `p_type`, `p_offset` and `p_filesz` of a little-endian program header.
fn segment(header: &[u8], is_64_bit: bool) -> Option<(u32, u64, u64)> {
    let mut cursor = Cursor::new(header);
    let p_type = cursor.le32()?;
    if is_64_bit {
        let _flags = cursor.le32()?;
        let offset = cursor.le64()?;
        let _addresses = cursor.take(16)?;
        Some((p_type, offset, cursor.le64()?))
    } else {
        let offset = cursor.le32()?.into();
        let _addresses = cursor.take(8)?;
        Some((p_type, offset, cursor.le32()?.into()))
    }
}

/// The version of layerinit that built this `/init`, from the ELF note of [`crate::entry!`]. `None` for any
/// other program.
pub fn layerinit_version(program: &dyn ReadAt) -> Option<String> {
    /// More than the notes of any program.
    const NOTES_MAX: u64 = 1 << 16;
    let mut head = [0; 64];
    let n = program.read_at(&mut head, 0).ok()?;
    let segments = segments(program, Machines::ANY, head.get(..n)?, PT_NOTE).ok()?;
    let mut segments = segments.into_iter().filter(|(_, size)| *size <= NOTES_MAX);
    segments.find_map(|(offset, size)| {
        let mut notes = vec![0; usize::try_from(size).ok()?];
        program.read_exact_at(&mut notes, offset).ok()?;
        version_note(&notes)
    })
}

/// The description of the note with our name and type, up to the first NUL.
fn version_note(notes: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(notes);
    loop {
        let (name, description, kind) = (cursor.le32()?, cursor.le32()?, cursor.le32()?);
        // Both fields are padded to a multiple of 4.
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

    fn needs(program: &[u8]) -> Result<Option<String>, String> {
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

    /// A 64-bit little-endian ELF file with one program header, and the interpreter after it.
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
    fn ident_is_read_in_either_byte_order() {
        let head = b"\x7fELF\x01\x02\x01\0\0\0\0\0\0\0\0\0\x00\x02\x00\x16";
        let s390 = Ident {
            is_64_bit: false,
            big_endian: true,
            e_type: 2,
            e_machine: 22,
        };
        assert_eq!(Ident::decode(head), Some(s390));
        assert_eq!(Ident::decode(&head[..19]), None);
        assert!(is_big_endian(&&head[..6]) && !is_big_endian(&&head[..5]));
        assert!(!is_big_endian(&elf(62, 3, b"").as_slice()));
        let x86_64 = Ident {
            is_64_bit: true,
            big_endian: false,
            e_type: 3,
            e_machine: 62,
        };
        assert_eq!(Ident::decode(&elf(62, 3, b"")), Some(x86_64));
    }

    #[test]
    fn a_32_bit_kernel_runs_no_64_bit_program() {
        let arm64 = elf(183, 3, b"/lib/ld-linux-aarch64.so.1\0");
        let check = |program: &[u8], machine: &str| {
            interpreter(
                &program,
                Machines::seen_by_32_bit_program(machine.as_bytes()),
            )
            .map_err(String::from)
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
            "a 64-bit ELF program, which this kernel does not run (here riscv32)"
        );
        assert!(check(&elf(243, 2, b""), "riscv64").is_ok());
        // A 64-bit /init runs, so the kernel is a 64-bit one whatever its personality reports.
        if cfg!(target_arch = "x86_64") {
            assert_eq!(
                Machines::of_running_kernel(b"i686").name,
                Machines::X86_64.name
            );
        }
    }

    /// Bytes of which those from `bad` on cannot be read.
    struct HalfReadable {
        bytes: Vec<u8>,
        bad: u64,
    }

    impl ReadAt for HalfReadable {
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
    fn a_damaged_file_differs_from_another_kind_of_file() {
        let unread = "it cannot be read: EIO: I/O error";
        let far = {
            let mut far = elf(62, 2, b"");
            far[32..40].copy_from_slice(&4096u64.to_le_bytes());
            far.resize(8192, 0);
            far
        };
        for bad in [0, 4096] {
            let medium = HalfReadable {
                bytes: far.clone(),
                bad,
            };
            assert_eq!(
                interpreter(&medium, Machines::X86_64),
                Err(NotExecutable::Damaged(unread.into()))
            );
        }
        for (program, damaged) in [
            (Vec::new(), true),
            (vec![0; 4096], true),
            (elf(62, 2, b"")[..100].to_vec(), true),
            (elf(183, 2, b""), false),
            (elf(62, 1, b""), false),
        ] {
            let why = interpreter(&program.as_slice(), Machines::X86_64).unwrap_err();
            assert_eq!(matches!(why, NotExecutable::Damaged(_)), damaged, "{why:?}");
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
}
