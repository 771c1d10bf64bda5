//! The image that `list`, `check` and `plan` read: one file, or several that a boot loader concatenates.

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

/// The initrd as the kernel finds it in memory.
pub struct Initrd {
    bytes: Chain,
    pieces: Vec<Piece>,
    paths: Vec<PathBuf>,
    /// The names of the files, for messages.
    pub name: String,
    /// The command line in its unified kernel images.
    pub cmdline: Option<String>,
}

/// A part of the image that comes from one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file's name, and the place in it unless the piece is the whole file.
    pub name: String,
    /// Its offset in the image, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its offset in the file.
    pub at: u64,
    /// Whether it is the whole file.
    whole: bool,
    /// The CRC32 in its U-Boot header.
    crc: Option<u32>,
}

/// The bytes of a piece, and the piece, whose offset is not known yet.
type PieceBytes = (Part<Opened>, Piece);

impl Initrd {
    /// Concatenates files, each at a multiple of `pad` bytes. A PE file (a unified kernel image or an addon)
    /// contributes its sections `.ucode` and `.initrd`, all microcode first, as with systemd-stub; a U-Boot ramdisk
    /// the bytes behind its header.
    ///
    /// # Errors
    /// A file cannot be read, its header is truncated, or no file has an initrd.
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
                        to.push(section_piece(&file, path, name, section)?);
                    }
                }
            } else if let Some(ramdisk) = ramdisk {
                found.push(ramdisk_piece(file, path, ramdisk)?);
            } else {
                let name = display_name(path);
                found.push(piece(file, name, 0, u64::MAX));
            }
        }
        let name = paths
            .iter()
            .map(|path| display_name(path))
            .collect::<Vec<_>>();
        let mut image = Self {
            bytes: Chain::default(),
            pieces: Vec::new(),
            paths: paths.to_vec(),
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

    /// Its pieces; empty if it is one whole file.
    pub fn pieces(&self) -> &[Piece] {
        match self.pieces.as_slice() {
            [Piece { whole: true, .. }] => &[],
            pieces => pieces,
        }
    }

    /// Its pieces, also if that is one whole file.
    pub fn all_pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The file that it is in, if that is one file.
    pub fn only_file(&self) -> Result<Option<Opened>> {
        match self.paths.as_slice() {
            [path] => open(path).map(Some),
            _ => Ok(None),
        }
    }

    /// The path of the only file, if the image is this file as a whole.
    pub fn plain_file(&self) -> Option<&Path> {
        match (self.paths.as_slice(), self.pieces.as_slice()) {
            ([path], [Piece { whole: true, .. }]) => Some(path),
            _ => None,
        }
    }

    /// A message for each U-Boot ramdisk whose bytes do not have the CRC in its header.
    pub fn bad_u_boot_crcs(&self) -> Result<Vec<String>> {
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

/// Opens a file or a block device for reading. stat(2) has no size for the latter: it is the offset of its end.
fn open(path: &Path) -> Result<Opened> {
    let is_device = |metadata: fs::Metadata| metadata.file_type().is_block_device();
    if !fs::metadata(path).is_ok_and(is_device) {
        return Opened::open(path);
    }
    let file = File::open(path).during("open", path.display())?;
    let size = seek(&file, SeekFrom::End(0)).during("find the size of", path.display())?;
    Ok(Opened::new(file, size))
}

fn display_name(path: &Path) -> String {
    shown(path.as_os_str().as_encoded_bytes())
}

/// At most `length` bytes of a file from `offset`.
fn piece(file: Opened, name: String, offset: u64, length: u64) -> PieceBytes {
    let whole = offset == 0 && length >= file.size();
    let bytes = Part::new(file, offset, length);
    let piece = Piece {
        name,
        offset: 0,
        length: bytes.size(),
        at: offset,
        whole,
        crc: None,
    };
    (bytes, piece)
}

fn section_piece(file: &Opened, path: &Path, name: &str, section: &Section) -> Result<PieceBytes> {
    let (offset, length) = (section.offset, section.length);
    let duplicate = file.file.try_clone().during("open", path.display())?;
    let name = format!("{} {name} at {offset:#x}", display_name(path));
    let found = piece(Opened::new(duplicate, file.size()), name, offset, length);
    complete(found, length)
}

fn ramdisk_piece(file: Opened, path: &Path, ramdisk: Ramdisk) -> Result<PieceBytes> {
    let (offset, length) = (uimage::HEADER as u64, ramdisk.length.into());
    let name = format!("{} behind its U-Boot header", display_name(path));
    let (bytes, piece) = piece(file, name, offset, length);
    let crc = Some(ramdisk.crc);
    complete((bytes, Piece { crc, ..piece }), length)
}

/// Refuses a piece that the file ends before.
fn complete(found: PieceBytes, length: u64) -> Result<PieceBytes> {
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

/// The command line in a section as systemd-stub passes it on: control characters become spaces, and white
/// space at both ends goes.
fn command_line(file: &Opened, section: &Section) -> io::Result<String> {
    /// More bytes than any kernel's COMMAND_LINE_SIZE.
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
