//! What is wrong with an image, and where.

use std::{fmt, io};

use crate::error::Error;

/// Why an image, or one of its files, cannot be read. Offsets are in bytes: of metadata and data from
/// the start of the image (or of the metabox, for inodes in it), of content from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No valid image contains this: the field, structure or rule, and its offset.
    Corrupt(&'static str, u64),
    /// A format that no kernel knows, or that this reader does not support: the field and its value.
    Unsupported(&'static str, u64),
    /// The mode of an inode, with an unknown file type.
    Mode(u32),
    /// Something lies beyond the end of the image, or of the file that holds it.
    BeyondEnd(u64),
    /// Data lies on the device with this number in the image's device table.
    OtherDevice(u16),
    /// A cluster does not decompress: the algorithm, what is wrong, and where the cluster starts.
    Decompress(&'static str, &'static str, u64),
    /// The image cannot be read there.
    Io(String, u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(what, at) => write!(f, "{what} (at {at:#x})"),
            Self::Unsupported(what, value) => write!(f, "unknown {what} {value:#x}"),
            Self::Mode(mode) => write!(f, "mode {mode:o} is no type of file"),
            Self::BeyondEnd(at) => write!(f, "{at:#x} is beyond the end of the image"),
            Self::OtherDevice(0) => f.write_str("its data is on another device, which is not read"),
            Self::OtherDevice(n) => write!(f, "its data is on device {n}, which is not read"),
            Self::Decompress(algorithm, what, at) => {
                write!(f, "{algorithm} cluster at {at:#x}: {what}")
            }
            Self::Io(error, at) => write!(f, "{at:#x}: {error}"),
        }
    }
}

impl Fault {
    /// The fault of a failed read at `at`.
    pub(super) fn of_read(error: &io::Error, at: u64) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::BeyondEnd(at),
            _ => Self::Io(error.to_string(), at),
        }
    }

    /// The error of reading inode `nid`.
    pub fn of_inode(self, nid: u64) -> Error {
        let what = self.to_string();
        match nid & super::inode::NID_METABOX {
            0 => Error::new("read", format_args!("EROFS inode {nid}"), what),
            bit => Error::new(
                "read",
                format_args!("EROFS inode {} of the metabox", nid & !bit),
                what,
            ),
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        let kind = match fault {
            Fault::Unsupported(..) | Fault::OtherDevice(_) => io::ErrorKind::Unsupported,
            Fault::Io(..) => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, fault.to_string())
    }
}
