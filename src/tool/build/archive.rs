//! Writes a newc archive, byte for byte as the kernel's usr/gen_init_cpio does.
//!
//! Source: usr/gen_init_cpio.c of Linux 7.2, which has these options. Files are copied in pieces, so an archive may be
//! larger than memory.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use super::spec::{Body, FileContent, SpecEntry};
use crate::error::{Context, Error, Result};
use crate::format::cpio::{HEADER_LEN, Header, PATH_MAX, TRAILER, padding, sum};
use crate::text::shown;

/// The first inode number.
const FIRST_INO: u32 = 721;

/// The length of an archive is a multiple of this, in bytes.
const RECORD: u64 = 512;

/// gen_init_cpio's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpioOptions {
    /// `-t`: the modification time of every member, in seconds since 1970.
    pub mtime: u32,
    /// `-c`: write 070702 headers, with sums that the kernel checks.
    pub checksums: bool,
    /// `-a`: the alignment, in bytes and a multiple of 4, of the data of files that are larger than it; 0 for none. NULs
    /// after the name fill the gap.
    pub data_align: u32,
}

/// The result of [`write()`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The length with the trailer and its padding, in bytes.
    pub length: u64,
    /// Files without the alignment of [`CpioOptions::data_align`], because their names would get too long.
    pub unaligned: Vec<String>,
}

/// Writes an archive with its trailer. `object` is its name in messages.
///
/// # Errors
/// A file cannot be read, changes while it is read, or is too large for an archive; or `out` cannot be
/// written.
pub fn write(
    entries: &[SpecEntry],
    options: CpioOptions,
    out: &mut dyn Write,
    object: &str,
) -> Result<Written> {
    let mut writer = CpioWriter {
        out,
        object,
        options,
        offset: 0,
        ino: FIRST_INO,
        unaligned: Vec::new(),
    };
    for entry in entries {
        writer.entry(entry)?;
    }
    writer.trailer()?;
    Ok(Written {
        length: writer.offset,
        unaligned: writer.unaligned,
    })
}

struct CpioWriter<'a> {
    out: &'a mut dyn Write,
    object: &'a str,
    options: CpioOptions,
    /// Bytes written so far.
    offset: u64,
    /// Inode number of the next entry.
    ino: u32,
    unaligned: Vec<String>,
}

impl CpioWriter<'_> {
    fn entry(&mut self, entry: &SpecEntry) -> Result<()> {
        let header = Header {
            crc: self.options.checksums,
            ino: self.ino,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            nlink: 1,
            mtime: entry.mtime.unwrap_or(self.options.mtime),
            maj: 3,
            min: 1,
            ..Header::default()
        };
        match &entry.body {
            // As in the original, not only for directories but also for pipes and sockets.
            Body::Empty => self.header(Header { nlink: 2, ..header }, &entry.name)?,
            Body::Device(rmaj, rmin) => {
                let (rmaj, rmin) = (*rmaj, *rmin);
                self.header(
                    Header {
                        rmaj,
                        rmin,
                        ..header
                    },
                    &entry.name,
                )?;
            }
            Body::Link(target) => {
                let target = [target.as_slice(), &[0]].concat();
                let filesize = u32::try_from(target.len()).unwrap_or(u32::MAX);
                self.header(Header { filesize, ..header }, &entry.name)?;
                self.push(&target)?;
                self.pad()?;
            }
            Body::File(content, links) => self.file(header, entry, content, links)?,
        }
        self.ino = self.ino.wrapping_add(1);
        Ok(())
    }

    /// Writes one file under all its names. The data follows the last name.
    fn file(
        &mut self,
        header: Header,
        entry: &SpecEntry,
        content: &FileContent,
        links: &[Vec<u8>],
    ) -> Result<()> {
        let mut source = FileReader::open(content, &entry.origin)?;
        let mut total = 0;
        if self.options.checksums {
            source.each(|piece| {
                total = sum(total, piece);
                Ok(())
            })?;
        }
        let nlink = u32::try_from(links.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let header = Header { nlink, ..header };
        let mut last = &entry.name;
        for link in links {
            self.header(header, last)?;
            last = link;
        }
        let whole = Header {
            filesize: source.size,
            chksum: total,
            ..header
        };
        self.header(whole, last)?;
        let mut copied = 0;
        source.each(|piece| {
            copied = sum(copied, piece);
            self.push(piece)
        })?;
        if self.options.checksums && copied != total {
            return Err(Error::new(
                "read",
                source.name,
                "it changed while it was read",
            ));
        }
        self.pad()
    }

    /// Writes a header, its name and the NULs after it.
    fn header(&mut self, mut header: Header, name: &[u8]) -> Result<()> {
        let namesize = name.len().saturating_add(1) as u64;
        let unaligned = self
            .offset
            .saturating_add(HEADER_LEN as u64)
            .saturating_add(namesize);
        let align = u64::from(self.options.data_align);
        let mut padded = namesize;
        if header.file_type() == libc::S_IFREG && align != 0 && u64::from(header.filesize) > align {
            // As in the original: correct for powers of two only.
            let past = unaligned & align.saturating_sub(1);
            padded =
                namesize.saturating_add(align.saturating_sub(past).checked_rem(align).unwrap_or(0));
            if padded > u64::from(PATH_MAX) {
                self.unaligned.push(shown(name));
                padded = namesize;
            }
        }
        header.namesize = u32::try_from(padded).unwrap_or(u32::MAX);
        self.push(header.encode().as_bytes())?;
        self.push(name)?;
        self.zeros(padded.saturating_sub(name.len() as u64))?;
        self.pad()
    }

    fn trailer(&mut self) -> Result<()> {
        let header = Header {
            crc: self.options.checksums,
            nlink: 1,
            ..Header::default()
        };
        self.header(header, TRAILER)?;
        self.zeros(self.offset.wrapping_neg() & (RECORD - 1))
    }

    fn pad(&mut self) -> Result<()> {
        self.zeros(padding(self.offset))
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).during("write", self.object)?;
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Writes `n` zeros, at most PATH_MAX.
    fn zeros(&mut self, n: u64) -> Result<()> {
        const ZEROS: [u8; PATH_MAX as usize] = [0; PATH_MAX as usize];
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        self.push(ZEROS.get(..n).unwrap_or(&ZEROS))
    }
}

/// The content of a regular file, which can be read several times.
struct FileReader<'a> {
    /// The name in messages.
    name: String,
    size: u32,
    bytes: EntryBytes<'a>,
}

enum EntryBytes<'a> {
    File(File),
    Memory(&'a [u8]),
}

impl<'a> FileReader<'a> {
    fn open(content: &'a FileContent, origin: &str) -> Result<Self> {
        let (name, size, bytes) = match content {
            FileContent::Bytes(bytes) => (
                origin.to_string(),
                bytes.len() as u64,
                EntryBytes::Memory(bytes),
            ),
            FileContent::Location(path) => {
                let mut name = path.display().to_string();
                if name != origin {
                    name = format!("{name} ({origin})");
                }
                let (file, size) = open(path).during("open", &name)?;
                (name, size, EntryBytes::File(file))
            }
        };
        match u32::try_from(size) {
            Ok(size) => Ok(Self { name, size, bytes }),
            Err(_) => {
                let what =
                    format!("{size} bytes are more than a cpio archive can hold (4294967295)");
                Err(Error::new("read", name, what))
            }
        }
    }

    /// Passes the content to `take`, in pieces.
    fn each(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let file = match &mut self.bytes {
            EntryBytes::Memory(bytes) => return take(bytes),
            EntryBytes::File(file) => file,
        };
        file.rewind().during("read", &self.name)?;
        let mut left = u64::from(self.size);
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let n = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let piece = buffer.get_mut(..n).unwrap_or_default();
            let n = match file.read(piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => done.during("read", &self.name)?,
            };
            if n == 0 {
                return Err(Error::new(
                    "read",
                    &self.name,
                    "it became shorter while it was read",
                ));
            }
            take(piece.get(..n).unwrap_or_default())?;
            left = left.saturating_sub(n as u64);
        }
        Ok(())
    }
}

/// Opens a file. Also returns its size in an archive.
fn open(path: &Path) -> io::Result<(File, u64)> {
    // Before open(2), which waits for the writer of a pipe. Devices have the size 0 and become empty files, as in the
    // original: /dev/null is a common one.
    let file_type = fs::metadata(path)?.file_type();
    if file_type.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if std::os::unix::fs::FileTypeExt::is_fifo(&file_type) {
        return Err(io::Error::other("a pipe has no size"));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    match file_type.is_file() {
        true => Ok((file, size)),
        false => Ok((file, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::build::spec;

    fn archive(text: &str, options: CpioOptions) -> Vec<u8> {
        let entries = spec::parse(text.as_bytes(), "spec", &|_| None).unwrap();
        let mut out = Vec::new();
        let written = write(&entries, options, &mut out, "it").unwrap();
        assert_eq!(written.length, out.len() as u64);
        out
    }

    // tests/suite/gen_init_cpio.rs compares with gen_init_cpio itself.
    #[test]
    fn a_small_archive_to_the_byte() {
        let header = |ino, mode, nlink, size, rdev, namesize| {
            format!(
                "070701{ino}{mode}0000000100000002{nlink}00000007{size}0000000300000001{rdev}{namesize}00000000"
            )
        };
        let mut expected = String::new();
        expected += &header(
            "000002D1",
            "000041ED",
            "00000002",
            "00000000",
            "0000000000000000",
            "00000004",
        );
        expected += "dev\0\0\0";
        expected += &header(
            "000002D2",
            "00002180",
            "00000001",
            "00000000",
            "0000000500000001",
            "0000000C",
        );
        expected += "dev/console\0\0\0";
        expected += &header(
            "000002D3",
            "0000A1FF",
            "00000001",
            "00000004",
            "0000000000000000",
            "00000002",
        );
        expected += "l\0abc\0";
        expected += "0707010000000000000000000000000000000000000001000000000000000000000000000000000000000000000000\
                     0000000B00000000TRAILER!!!\0\0\0\0";
        expected += &"\0".repeat(512 - expected.len() % 512);
        let spec = "dir /dev 0755 1 2\nnod /dev/console 0600 1 2 c 5 1\nslink /l abc 0777 1 2\n";
        let options = CpioOptions {
            mtime: 7,
            ..CpioOptions::default()
        };
        assert_eq!(String::from_utf8(archive(spec, options)).unwrap(), expected);
    }

    #[test]
    fn an_unreadable_file_is_named_with_its_line() {
        for (location, expected) in [
            (
                "/does/not/exist",
                "open /does/not/exist (spec line 2): ENOENT: No such file or directory",
            ),
            ("/proc", "open /proc (spec line 2): EISDIR: Is a directory"),
        ] {
            let text = format!("dir a 0755 0 0\nfile a/b {location} 0644 0 0\n");
            let entries = spec::parse(text.as_bytes(), "spec", &|_| None).unwrap();
            let error = write(&entries, CpioOptions::default(), &mut Vec::new(), "it").unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
