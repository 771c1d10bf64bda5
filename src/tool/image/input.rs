//! The image that `list`, `check` and `plan` look at: one file, or several as a boot loader puts them together.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use super::pe::{self, Section};
use super::uimage::{self, Ramdisk};
use crate::bytes::{Chain, Opened, Part, ReadAt, Reader, fill};
use crate::error::{Context, Error, Result};
use crate::text::shown;

/// Everything that the kernel is going to find in memory as its initrd.
pub struct Initrd {
    bytes: Chain,
    pieces: Vec<Piece>,
    /// The files, for messages.
    pub name: String,
    /// The command line that its unified kernel images have.
    pub cmdline: Option<String>,
}

/// A piece of the image, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file, and where in it, if the file is not a piece as a whole.
    pub name: String,
    /// Where it starts in the image, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Whether it is the whole of a file.
    whole: bool,
    /// The CRC32 that its U-Boot header says.
    crc: Option<u32>,
}

/// A piece without a place so far.
type Found = (Part<Opened>, Piece);

impl Initrd {
    /// Puts files together, each at a multiple of `pad` bytes. Of a PE file, a unified kernel image or an addon to
    /// one, the sections `.ucode` and `.initrd` are taken, all microcode first, as systemd-stub does; of a ramdisk
    /// of U-Boot what is behind its header.
    pub fn open(paths: &[PathBuf], pad: u64) -> Result<Self> {
        let (mut microcode, mut found) = (Vec::new(), Vec::new());
        let mut cmdlines = Vec::new();
        for path in paths {
            let file = open(path)?;
            let head = read(&file, 0, pe::HEAD).during("read", path.display())?;
            let refused = |what: String| Error::new("read", path.display(), what);
            let sections = pe::sections(&head).map_err(|what| refused(what.into()))?;
            let ramdisk = uimage::ramdisk(&head).map_err(refused)?;
            if let Some(sections) = sections {
                let section = |name: &str| pe::find(&sections, name);
                if let Some(cmdline) = section(".cmdline") {
                    cmdlines.push(command_line(&file, cmdline).during("read", path.display())?);
                }
                for (name, to) in [(".ucode", &mut microcode), (".initrd", &mut found)] {
                    if let Some(section) = section(name) {
                        to.push(in_section(&file, path, name, section)?);
                    }
                }
            } else if let Some(ramdisk) = ramdisk {
                found.push(behind_header(file, path, ramdisk)?);
            } else {
                let name = called(path);
                found.push(piece(file, name, 0, u64::MAX));
            }
        }
        let name = paths.iter().map(|path| called(path)).collect::<Vec<_>>();
        let mut image = Self {
            bytes: Chain::default(),
            pieces: Vec::new(),
            name: name.join(" + "),
            cmdline: (!cmdlines.is_empty()).then(|| cmdlines.join(" ")),
        };
        if microcode.is_empty() && found.is_empty() {
            let what =
                "a PE file without a section .initrd: no unified kernel image, and no initrd";
            return Err(Error::new("read", &image.name, what));
        }
        for (bytes, piece) in microcode.into_iter().chain(found) {
            let offset = image.bytes.push(Box::new(bytes), pad);
            image.pieces.push(Piece { offset, ..piece });
        }
        Ok(image)
    }

    /// Where its pieces are from, if it is more than a file as it is.
    pub fn pieces(&self) -> &[Piece] {
        match self.pieces.as_slice() {
            [Piece { whole: true, .. }] => &[],
            pieces => pieces,
        }
    }

    /// What U-Boot refuses of it: a line for each ramdisk whose bytes do not have the CRC that its header says.
    pub fn refused_by_u_boot(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for piece in &self.pieces {
            let Some(stored) = piece.crc else { continue };
            let bytes = Part::new(&self.bytes, piece.offset, piece.length);
            let computed = uimage::crc(&mut Reader::new(&bytes, 0)).during("read", &piece.name)?;
            if computed != stored {
                lines.push(format!(
                    "{}: the bytes have the CRC {computed:#010x}, the header says {stored:#010x}: U-Boot refuses it",
                    piece.name
                ));
            }
        }
        Ok(lines)
    }
}

impl ReadAt for Initrd {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.bytes.read_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> u64 {
        self.bytes.next_data(offset)
    }
}

/// Opens a file for reading, or a block device, whose size is where it ends.
fn open(path: &Path) -> Result<Opened> {
    let is_device = |metadata: fs::Metadata| metadata.file_type().is_block_device();
    if !fs::metadata(path).is_ok_and(is_device) {
        return Opened::open(path);
    }
    let file = File::open(path).during("open", path.display())?;
    let size = seek(&file, SeekFrom::End(0)).during("find the size of", path.display())?;
    Ok(Opened::new(file, size))
}

fn called(path: &Path) -> String {
    shown(path.as_os_str().as_encoded_bytes())
}

/// `length` bytes of a file from `offset`, or as many as it has.
fn piece(file: Opened, name: String, offset: u64, length: u64) -> Found {
    let whole = offset == 0 && length >= file.size();
    let bytes = Part::new(file, offset, length);
    let piece = Piece {
        name,
        offset: 0,
        length: bytes.size(),
        whole,
        crc: None,
    };
    (bytes, piece)
}

fn in_section(file: &Opened, path: &Path, name: &str, section: &Section) -> Result<Found> {
    let (offset, length) = (section.offset, section.length);
    let again = file.file.try_clone().during("open", path.display())?;
    let name = format!("{} {name} at {offset:#x}", called(path));
    let found = piece(Opened::new(again, file.size()), name, offset, length);
    not_cut(found, length)
}

fn behind_header(file: Opened, path: &Path, ramdisk: Ramdisk) -> Result<Found> {
    let (offset, length) = (uimage::HEADER as u64, ramdisk.length.into());
    let name = format!("{} behind its U-Boot header", called(path));
    let (bytes, piece) = piece(file, name, offset, length);
    let crc = Some(ramdisk.crc);
    not_cut((bytes, Piece { crc, ..piece }), length)
}

/// Refuses a piece that the file ends in.
fn not_cut(found: Found, length: u64) -> Result<Found> {
    let (_, piece) = &found;
    if piece.length < length {
        let has = piece.length;
        let what = format!("truncated: its header says {length} bytes, and {has} are left");
        return Err(Error::new("read", &piece.name, what));
    }
    Ok(found)
}

/// At most `length` bytes of a file.
fn read(file: &Opened, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let n = fill(&mut Reader::new(file, offset), &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// The command line in a section, as systemd-stub hands it over: without control characters, and without white
/// space at either end.
fn command_line(file: &Opened, section: &Section) -> io::Result<String> {
    /// More bytes than any kernel takes.
    const MAX: u64 = 1 << 16;
    let end = section.offset.saturating_add(section.length.min(MAX));
    let mut bytes = Vec::new();
    Reader::bounded(file, section.offset, end).read_to_end(&mut bytes)?;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    Ok(text
        .replace(|c: char| c.is_control(), " ")
        .trim()
        .to_string())
}
