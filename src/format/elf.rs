//! Programs: ELF files and `#!` scripts, and what the kernel needs besides to execute one.
//!
//! Source: elf(5), load_elf_binary in fs/binfmt_elf.c, load_script in fs/binfmt_script.c.

use std::io;

use rustix::io::Errno;

use crate::bytes::{Cursor, ReadAt};
use crate::sys::note;

/// Why the kernel cannot execute a file. Each holds a clause for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramError {
    /// The file cannot be read, or is malformed: the medium may be faulty.
    Damaged(String),
    /// The file is something else than a program for this machine.
    Other(String),
}

impl ProgramError {
    fn unreadable(error: io::Error) -> Self {
        Self::Damaged(match Errno::from_io_error(&error) {
            Some(errno) => format!("it cannot be read: {}", crate::error::name(errno)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "a truncated ELF program".into()
            }
            None => format!("it cannot be read: {error}"),
        })
    }
}

impl From<ProgramError> for String {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::Damaged(what) | ProgramError::Other(what) => what,
        }
    }
}

/// The interpreter that the kernel executes with a program: the one after `#!`, or PT_INTERP of an ELF file.
/// `None` if it needs none, or is a big-endian ELF file, which is not read.
///
/// # Errors
///
/// The file is neither, is damaged, or is an ELF file for none of the `machines`.
pub fn interpreter(
    program: &dyn ReadAt,
    machines: Machines,
) -> Result<Option<String>, ProgramError> {
    // The kernel reads 256 bytes (BINPRM_BUF_SIZE).
    let mut head = [0; 256];
    let n = program
        .read_at(&mut head, 0)
        .map_err(ProgramError::unreadable)?;
    let head = head.get(..n).unwrap_or_default();
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
        return match words.find(|word| !word.is_empty()) {
            Some(word) => Ok(Some(String::from_utf8_lossy(word).into_owned())),
            None => Err(ProgramError::Other("nothing follows its #!".into())),
        };
    }
    if head.starts_with(b"\x7fELF") {
        return elf_interpreter(program, machines, head);
    }
    Err(ProgramError::Damaged(match head.is_empty() {
        true => "it is empty".into(),
        false => format!(
            "neither an ELF program nor a #! script: it starts with \"{}\"",
            head.get(..8).unwrap_or(head).escape_ascii()
        ),
    }))
}

/// The machines whose programs a kernel executes.
#[derive(Clone, Copy, Debug)]
pub struct Machines {
    /// Their name in messages.
    pub name: &'static str,
    /// Their `e_machine` values (include/uapi/linux/elf-em.h): the one of a 64-bit architecture, and that of
    /// its 32-bit programs. Empty: any.
    pub numbers: &'static [u16],
    /// Whether it executes programs of 64 bits: both widths may share one value.
    pub wide: bool,
}

impl Machines {
    /// Any machine.
    pub const ANY: Self = Self::new("any", &[]);
    /// Those of an x86_64 kernel.
    pub const X86_64: Self = Self::new("x86_64", &[62, 3]);
    /// Those of an arm64 kernel.
    pub const AARCH64: Self = Self::new("aarch64", &[183, 40]);
    /// Those of a riscv64 kernel.
    pub const RISCV64: Self = Self::new("riscv64", &[243]);

    /// Those with these `e_machine` values.
    pub const fn new(name: &'static str, numbers: &'static [u16]) -> Self {
        Self {
            name,
            numbers,
            wide: true,
        }
    }

    /// Those with these `e_machine` values, of 32 bits only.
    pub const fn narrow(name: &'static str, numbers: &'static [u16]) -> Self {
        Self {
            name,
            numbers,
            wide: false,
        }
    }
}

fn elf_interpreter(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
) -> Result<Option<String>, ProgramError> {
    const PT_INTERP: u32 = 3;
    let found = elf_segments(program, machines, head, PT_INTERP)?;
    let Some(&(offset, size)) = found.first() else {
        return Ok(None);
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| (2..=4096).contains(size));
    let odd =
        || ProgramError::Damaged("an ELF program whose interpreter has no sane length".into());
    let mut path = vec![0; size.ok_or_else(odd)?];
    program
        .read_exact_at(&mut path, offset)
        .map_err(ProgramError::unreadable)?;
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    path.truncate(end);
    Ok(Some(String::from_utf8_lossy(&path).into_owned()))
}

/// Offset and size in the file of each segment of type `wanted` (`p_type`). Empty for a big-endian program.
fn elf_segments(
    program: &dyn ReadAt,
    machines: Machines,
    head: &[u8],
    wanted: u32,
) -> Result<Vec<(u64, u64)>, ProgramError> {
    let truncated = || ProgramError::Damaged("a truncated ELF program".into());
    let wide = head.get(4) == Some(&2);
    if head.get(5) != Some(&1) {
        // Only little-endian fields are read. On a big-endian machine the check is left out.
        return match machines.numbers.is_empty() {
            true => Ok(Vec::new()),
            false => Err(ProgramError::Other(
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
        return Err(ProgramError::Other(format!(
            "an ELF program for another machine (e_machine {machine}, here {})",
            machines.name
        )));
    }
    if wide && !machines.wide {
        return Err(ProgramError::Other(format!(
            "an ELF program of 64 bits, which this kernel does not run (here {})",
            machines.name
        )));
    }
    if !matches!(kind, 2 | 3) {
        let what = format!("an ELF file that is no program (e_type {kind})");
        return Err(ProgramError::Other(what));
    }
    let entry = if wide { 56 } else { 32 };
    if phentsize != entry {
        return Err(ProgramError::Damaged(format!(
            "an ELF program with odd program headers (e_phentsize {phentsize})"
        )));
    }
    let mut table = vec![0; usize::from(entry).saturating_mul(phnum.into())];
    program
        .read_exact_at(&mut table, phoff)
        .map_err(ProgramError::unreadable)?;
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

/// The version of layerinit if this program is its `/init`, from the ELF note that [`crate::entry!`] adds.
/// `None` for any other program.
///
/// Source: elf(5), "Notes (Nhdr)".
pub fn layerinit_version(program: &dyn ReadAt) -> Option<String> {
    const PT_NOTE: u32 = 4;
    /// Bytes; no program has larger notes.
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
        version_of_note(&notes)
    })
}

/// The description of the note with layerinit's name and type, up to the first NUL.
fn version_of_note(notes: &[u8]) -> Option<String> {
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

    /// A 64-bit little-endian ELF file with one program header, followed by the interpreter.
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

    /// A medium that cannot be read from offset `bad` on.
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
    fn damage_is_told_from_another_kind_of_file() {
        let unreadable = "it cannot be read: EIO: I/O error";
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
                Err(ProgramError::Damaged(unreadable.into()))
            );
        }
        for (program, damaged) in [
            (Vec::new(), true),
            (vec![0; 4096], true),
            (elf(62, 2, b"")[..100].to_vec(), true),
            (elf(183, 2, b""), false),
            (elf(62, 1, b""), false),
        ] {
            let error = interpreter(&program.as_slice(), Machines::X86_64).unwrap_err();
            assert_eq!(
                matches!(error, ProgramError::Damaged(_)),
                damaged,
                "{error:?}"
            );
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
