//! The image that `list`, `check` and `plan` read: one file, or several that a boot loader concatenates.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use super::fit;
use super::iso9660;
use super::pe::{self, Section};
use super::uimage::{self, UimageRamdisk};
use crate::bytes::{Chain, Opened, Part, ReadAt, Reader, fill};
use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;
use crate::text::shown;
use crate::tool::progress::LongStep;

/// The initrd as the kernel finds it in memory.
pub struct Initrd {
    bytes: Chain,
    pieces: Vec<ImagePart>,
    paths: Vec<PathBuf>,
    /// The names of the files, for messages.
    pub name: String,
    /// The command line in its unified kernel images.
    pub cmdline: Option<String>,
}

/// A part of the image that comes from one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePart {
    /// The name of the file, and the place in it unless the piece is the whole file.
    pub name: String,
    /// Its offset in the image, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its offset in the file.
    pub at: u64,
    /// Whether it is the whole file.
    whole: bool,
    /// The CRC32 in its U-Boot header or FIT image.
    crc: Option<u32>,
}

/// The bytes of a piece, and the piece, whose offset is not known yet.
type ImagePartBytes = (Part<Opened>, ImagePart);

impl Initrd {
    /// Concatenates files, each at a multiple of `pad` bytes. A PE file (a unified kernel image or an addon)
    /// contributes its sections `.ucode` and `.initrd`, all microcode first, as with systemd-stub; a U-Boot ramdisk
    /// the bytes after its header; a FIT image its ramdisk; an ISO its /boot/initrd.img, or the file of `FILE:/PATH`.
    ///
    /// # Errors
    /// A file cannot be read, its header is truncated, or no file has an initrd.
    pub fn open(paths: &[PathBuf], pad: u64) -> Result<Self> {
        let (mut microcode, mut found) = (Vec::new(), Vec::new());
        let mut cmdlines = Vec::new();
        for path in paths {
            let (path, inner) = split_inner(path);
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
            } else if fit::is_fit(&head) {
                found.push(fit_piece(file, path)?);
            } else if inner.is_some() || iso9660::is_iso(&file) && !is_initrd(&head) {
                cmdlines.extend(iso_command_line(&file));
                found.push(iso_piece(file, path, inner)?);
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
            image.pieces.push(ImagePart { offset, ..piece });
        }
        Ok(image)
    }

    /// Its pieces; empty if it is one whole file.
    pub fn pieces(&self) -> &[ImagePart] {
        match self.pieces.as_slice() {
            [ImagePart { whole: true, .. }] => &[],
            pieces => pieces,
        }
    }

    /// Its pieces, even if there is only one, a whole file.
    pub fn all_pieces(&self) -> &[ImagePart] {
        &self.pieces
    }

    /// The only file that it is in, if there is one.
    pub fn only_file(&self) -> Result<Option<Opened>> {
        match self.paths.as_slice() {
            [path] => open(path).map(Some),
            _ => Ok(None),
        }
    }

    /// The path of the only file, if the image is this file as a whole.
    pub fn plain_file(&self) -> Option<&Path> {
        match (self.paths.as_slice(), self.pieces.as_slice()) {
            ([path], [ImagePart { whole: true, .. }]) => Some(path),
            _ => None,
        }
    }

    /// A message for each U-Boot ramdisk whose bytes do not have the CRC in its header.
    pub fn bad_u_boot_crcs(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for piece in &self.pieces {
            let Some(stored) = piece.crc else { continue };
            let bytes = Part::new(&self.bytes, piece.offset, piece.length);
            let progress = LongStep::part(
                format_args!("check the CRC of {}", piece.name),
                piece.length,
            );
            let bytes = progress.watch(&bytes, 0);
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

/// A file and the path in it, from `FILE:/PATH`, unless a file has the whole name.
fn split_inner(path: &Path) -> (&Path, Option<&str>) {
    let split = path.to_str().filter(|_| !path.exists()).and_then(|text| {
        let (file, _) = text.split_once(":/")?;
        let inner = text.get(file.len().saturating_add(1)..)?;
        Path::new(file)
            .is_file()
            .then_some((Path::new(file), inner))
    });
    split.map_or((path, None), |(file, inner)| (file, Some(inner)))
}

/// Whether a file starts like an archive: an archive may contain the mark of an ISO at the place where an ISO
/// has it.
fn is_initrd(head: &[u8]) -> bool {
    head.starts_with(b"07070") || Codec::detect(head).is_some()
}

/// Opens a file or a block device for reading. stat(2) has no size for the latter, which is the offset of its
/// end.
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
fn piece(file: Opened, name: String, offset: u64, length: u64) -> ImagePartBytes {
    let whole = offset == 0 && length >= file.size();
    let bytes = Part::new(file, offset, length);
    let piece = ImagePart {
        name,
        offset: 0,
        length: bytes.size(),
        at: offset,
        whole,
        crc: None,
    };
    (bytes, piece)
}

fn section_piece(
    file: &Opened,
    path: &Path,
    name: &str,
    section: &Section,
) -> Result<ImagePartBytes> {
    let (offset, length) = (section.offset, section.length);
    let duplicate = file.file.try_clone().during("open", path.display())?;
    let name = format!("{} {name} at {offset:#x}", display_name(path));
    let found = piece(Opened::new(duplicate, file.size()), name, offset, length);
    complete(found, length)
}

fn ramdisk_piece(file: Opened, path: &Path, ramdisk: UimageRamdisk) -> Result<ImagePartBytes> {
    let (offset, length) = (uimage::HEADER as u64, ramdisk.length.into());
    let name = format!("{} after its U-Boot header", display_name(path));
    let (bytes, piece) = piece(file, name, offset, length);
    let crc = Some(ramdisk.crc);
    complete((bytes, ImagePart { crc, ..piece }), length)
}

fn fit_piece(file: Opened, path: &Path) -> Result<ImagePartBytes> {
    let ramdisk = fit::ramdisk(&file);
    let ramdisk = ramdisk.map_err(|what| Error::new("read", path.display(), what))?;
    let (offset, length) = (ramdisk.offset, ramdisk.length);
    let name = format!("{} ramdisk at {offset:#x}", display_name(path));
    let (bytes, piece) = piece(file, name, offset, length);
    let crc = ramdisk.crc;
    complete((bytes, ImagePart { crc, ..piece }), length)
}

fn iso_piece(file: Opened, path: &Path, inner: Option<&str>) -> Result<ImagePartBytes> {
    let inner = inner.unwrap_or(iso9660::INITRD).trim_start_matches('/');
    let found = match iso9660::is_iso(&file) {
        true => iso9660::find(&file, inner),
        false => Err("no ISO 9660 filesystem".into()),
    };
    let extent = found.map_err(|what| {
        let error = Error::new("read", path.display(), what);
        error.hint("name the initrd of an ISO as in FILE.iso:/live/initrd.img")
    })?;
    let name = format!("{}:/{}", display_name(path), shown(inner.as_bytes()));
    complete(
        piece(file, name, extent.offset, extent.length),
        extent.length,
    )
}

/// The command line in GRUB's menu of an ISO, if it has one.
fn iso_command_line(file: &Opened) -> Option<String> {
    /// No menu has more bytes.
    const MAX: usize = 1 << 16;
    let extent = iso9660::find(file, iso9660::GRUB_CONFIG).ok()?;
    let length = usize::try_from(extent.length).unwrap_or(MAX).min(MAX);
    let bytes = read(file, extent.offset, length).ok()?;
    iso9660::command_line(&String::from_utf8_lossy(&bytes))
}

/// Refuses a piece that ends after its file.
fn complete(found: ImagePartBytes, length: u64) -> Result<ImagePartBytes> {
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
/// space at both ends is removed.
fn command_line(file: &Opened, section: &Section) -> io::Result<String> {
    /// No kernel has a larger COMMAND_LINE_SIZE.
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
