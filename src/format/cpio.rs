//! The newc cpio format, read and written.
//!
//! Sources: Documentation/driver-api/early-userspace/buffer-format.rst, and init/initramfs.c: an archive may
//! lack its trailer, and any number of zero bytes may separate members.

use std::io::{self, Read};

use crate::bytes::{Cursor, Skip, skip_zeros};
use crate::error::{Error, Result};

/// The name of the member that ends an archive.
pub const TRAILER: &[u8] = b"TRAILER!!!";

/// The name of the file that makes its directory opaque: OCI images have it in place of overlayfs's
/// attribute, which newc cannot store (<https://github.com/opencontainers/image-spec/blob/main/layer.md>,
/// "Opaque Whiteout").
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// Length in bytes of an encoded [`Header`].
pub const HEADER_LEN: usize = 110;

/// The longest name, with its NUL, that the kernel's unpacker accepts. It skips members with longer names,
/// and symbolic links with longer targets.
pub const PATH_MAX: u32 = 4096;

/// A member's header: the kernel's field names, each field 8 hexadecimal digits in the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `070702` rather than `070701`: `check` is the sum of the body's bytes.
    pub crc: bool,
    /// Inode number; with the device number it identifies hard links.
    pub ino: u32,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Bytes of body: a file's content or a symbolic link's target.
    pub filesize: u32,
    /// Device that the file came from, major number.
    pub maj: u32,
    /// Device that the file came from, minor number.
    pub min: u32,
    /// A device node's major number.
    pub rmaj: u32,
    /// A device node's minor number.
    pub rmin: u32,
    /// Bytes of name, NUL included.
    pub namesize: u32,
    /// Sum of the body's bytes in `070702`, else 0.
    pub chksum: u32,
}

impl Header {
    /// Reads a header; the error says what is wrong with it.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> std::result::Result<Self, &'static str> {
        let mut cursor = Cursor::new(bytes);
        let crc = match cursor.take(6) {
            Some(b"070701") => false,
            Some(b"070702") => true,
            Some(b"070707") => return Err("this is the old cpio format, not newc (cpio -H newc)"),
            _ => return Err("no cpio magic (070701 or 070702)"),
        };
        let mut field = || {
            let digits = cursor.take(8).unwrap_or_default();
            digits.iter().try_fold(0u32, |value, digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'A'..=b'F' => digit - b'A' + 10,
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err("a header field is not hexadecimal"),
                };
                Ok(value << 4 | u32::from(digit))
            })
        };
        Ok(Self {
            crc,
            ino: field()?,
            mode: field()?,
            uid: field()?,
            gid: field()?,
            nlink: field()?,
            mtime: field()?,
            filesize: field()?,
            maj: field()?,
            min: field()?,
            rmaj: field()?,
            rmin: field()?,
            namesize: field()?,
            chksum: field()?,
        })
    }

    /// The header as it stands in an archive, digits in upper case as the kernel's
    /// gen_init_cpio writes them.
    pub fn encode(&self) -> String {
        let Self {
            crc,
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            filesize,
            maj,
            min,
            rmaj,
            rmin,
            namesize,
            chksum,
        } = self;
        let magic = if *crc { "070702" } else { "070701" };
        format!(
            "{magic}{ino:08X}{mode:08X}{uid:08X}{gid:08X}{nlink:08X}{mtime:08X}{filesize:08X}\
             {maj:08X}{min:08X}{rmaj:08X}{rmin:08X}{namesize:08X}{chksum:08X}"
        )
    }

    /// The file type, one of `S_IFREG`, `S_IFDIR`, ...
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether the kernel's unpacker creates this member (do_header() in init/initramfs.c). It skips names of
    /// length 0 and names and targets over [`PATH_MAX`]; only files and links may have a body.
    pub fn counts(&self) -> bool {
        match self.file_type() {
            _ if self.namesize == 0 || self.namesize > PATH_MAX => false,
            libc::S_IFREG => true,
            libc::S_IFLNK => self.filesize <= PATH_MAX,
            _ => self.filesize == 0,
        }
    }

    /// Zero bytes between the name and the body, which is 4-byte aligned.
    pub fn name_padding(&self) -> u64 {
        padding(HEADER_LEN as u64 + u64::from(self.namesize))
    }

    /// Zero bytes between the body and the next header, which is 4-byte aligned.
    pub fn body_padding(&self) -> u64 {
        padding(u64::from(self.filesize))
    }
}

/// Bytes from `length` to the next multiple of 4.
pub fn padding(length: u64) -> u64 {
    length.wrapping_neg() & 3
}

/// Adds bytes to a 32-bit sum that wraps, as in `070702` headers and in a bootconfig.
pub fn sum(sum: u32, bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(sum, |sum, byte| sum.wrapping_add((*byte).into()))
}

/// A member's header and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where its header starts, in bytes from the start of the archive.
    pub offset: u64,
    /// Where its body starts.
    pub body: u64,
    /// The header.
    pub header: Header,
    /// The name up to its NUL, if there is one; `.` for an empty one, as in the kernel. Empty if its length
    /// is 0 or more than [`PATH_MAX`]: it is not read then.
    pub name: Vec<u8>,
}

impl Member {
    /// The name without leading slashes and `./`, without empty and `.` components; `.` itself
    /// becomes empty. `..` stays for the unpacker.
    pub fn path(&self) -> Vec<u8> {
        normalized(&self.name)
    }

    /// Whether the kernel's unpacker creates this member: [`Header::counts`].
    pub fn counts(&self) -> bool {
        self.header.counts()
    }
}

/// A path without leading slash, empty and `.` components.
pub fn normalized(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        if !component.is_empty() && component != b"." {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
    }
    path
}

/// What [`Archive::next_member`] found.
#[derive(Debug)]
pub enum Next {
    /// A member; its body can be read from the archive before the next call.
    Member(Member),
    /// `TRAILER!!!`. Another archive may follow at once, or after zero bytes.
    Trailer,
    /// The input ends, or what follows is no header or does not start at a multiple of 4. The position of the
    /// input is the first byte that is not zero.
    End,
}

/// Reads members from the front of `input`, which must start at a header.
pub struct Archive<I> {
    input: I,
    /// Offset of the next byte, from where the archive started.
    position: u64,
    body_left: u64,
    padding: u64,
    unterminated: Option<u64>,
}

impl<I: Skip> Archive<I> {
    /// An archive whose first header is the next byte of `input`.
    pub fn new(input: I) -> Self {
        Self {
            input,
            position: 0,
            body_left: 0,
            padding: 0,
            unterminated: None,
        }
    }

    /// The offset of the next byte, from the start of the archive.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The offset of the first member or trailer whose name has no NUL: GRUB before 2.12 writes such names
    /// for `newc:` (grub-core/loader/linux.c). The kernel's unpacker stops there; here the name is the whole
    /// field.
    pub fn unterminated(&self) -> Option<u64> {
        self.unterminated
    }

    /// Skips the rest of the body, and reads the next header and name.
    ///
    /// # Errors
    /// The archive is damaged or truncated, or cannot be read.
    pub fn next_member(&mut self) -> Result<Next> {
        let start = self.position;
        self.finish_body()
            .map_err(|error| self.broken(start, "the archive ends inside a member", error))?;
        if !self
            .skip_zeros()
            .map_err(|error| self.broken(start, "", error))?
        {
            return Ok(Next::End);
        }
        let offset = self.position;
        // The kernel's unpacker stops here ("broken padding"). Another archive may start here.
        if !offset.is_multiple_of(4) {
            return Ok(Next::End);
        }
        self.member(offset)
            .map_err(|error| self.broken(offset, "the archive ends inside a header", error))?
    }

    fn member(&mut self, offset: u64) -> io::Result<Result<Next>> {
        let mut header = [0; HEADER_LEN];
        self.exact(&mut header)?;
        let header = match Header::decode(&header) {
            Ok(header) => header,
            Err(what) => return Ok(Err(malformed(offset, what))),
        };
        let mut name = Vec::new();
        if header.namesize == 0 || header.namesize > PATH_MAX {
            self.pass(u64::from(header.namesize))?;
            self.pass(header.name_padding())?;
        } else {
            name.resize(header.namesize as usize, 0);
            self.exact(&mut name)?;
            let nul = name.last() == Some(&0);
            if !nul && header.counts() {
                if name.contains(&0) || !self.is_name_padding_zero(&header)? {
                    return Ok(Err(malformed(offset, "a name does not end with NUL")));
                }
                self.unterminated = self.unterminated.or(Some(offset));
            } else {
                self.pass(header.name_padding())?;
            }
            // Padding in the name field (gen_init_cpio -a) is not part of the name.
            let end = name.iter().position(|byte| *byte == 0);
            name.truncate(end.unwrap_or(name.len()));
            if name.is_empty() {
                name.push(b'.');
            }
        }
        self.body_left = u64::from(header.filesize);
        self.padding = header.body_padding();
        // A link may have this name (do_symlink does not compare it).
        if name == TRAILER && header.counts() && header.file_type() != libc::S_IFLNK {
            self.finish_body()?;
            return Ok(Ok(Next::Trailer));
        }
        Ok(Ok(Next::Member(Member {
            offset,
            body: self.position,
            header,
            name,
        })))
    }

    /// Reads the padding after a name.
    fn is_name_padding_zero(&mut self, header: &Header) -> io::Result<bool> {
        let mut padding = [0; 3];
        let length = usize::try_from(header.name_padding()).unwrap_or_default();
        let padding = padding.get_mut(..length).unwrap_or_default();
        self.exact(padding)?;
        Ok(padding.iter().all(|byte| *byte == 0))
    }

    fn finish_body(&mut self) -> io::Result<()> {
        let body = std::mem::take(&mut self.body_left);
        self.pass(body)?;
        // The last body of a stream may lack some or all of its padding.
        let mut padding = std::mem::take(&mut self.padding);
        while padding > 0 {
            let have = self.input.fill_buf()?.len() as u64;
            if have == 0 {
                break;
            }
            let step = have.min(padding);
            self.pass(step)?;
            padding = padding.saturating_sub(step);
        }
        Ok(())
    }

    /// Moves to the first byte that is not zero; whether it can be a header.
    fn skip_zeros(&mut self) -> io::Result<bool> {
        let (zeros, first) = skip_zeros(&mut self.input)?;
        self.position = self.position.saturating_add(zeros);
        Ok(first == Some(b'0'))
    }

    fn exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(buf)?;
        self.position = self.position.saturating_add(buf.len() as u64);
        Ok(())
    }

    fn pass(&mut self, n: u64) -> io::Result<()> {
        self.input.skip(n)?;
        self.position = self.position.saturating_add(n);
        Ok(())
    }

    fn broken(&self, offset: u64, truncated: &'static str, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => malformed(offset, truncated),
            _ => malformed(offset, &error.to_string()),
        }
    }

    /// Gives the input back, standing after what was read.
    pub fn into_input(self) -> I {
        self.input
    }
}

/// The body of the member that [`Archive::next_member`] returned last.
impl<I: Skip> Read for Archive<I> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.body_left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let Some(buf) = buf.get_mut(..n).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        let n = self.input.read(buf)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position = self.position.saturating_add(n as u64);
        self.body_left = self.body_left.saturating_sub(n as u64);
        Ok(n)
    }
}

fn malformed(offset: u64, what: &str) -> Error {
    Error::new(
        "read",
        format_args!("cpio member at {offset:#x} of its archive"),
        what,
    )
}
