//! Parses the value of `root=` into a device specification. Pure.
//!
//! Parses the kernel's own forms as early_lookup_bdev does (block/early-lookup.c, Linux 7.2);
//! `UUID=`, `LABEL=` and names below /dev/disk are those of mount(8) and udev.

use std::fmt;

use crate::error::{Error, Result};

/// A major number has 12 bits and a minor number 20 (include/linux/kdev_t.h).
const MAJORS: u32 = 1 << 12;
const MINORS: u32 = 1 << 20;

/// A block device as `root=` names it. Displayed in the form of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `/dev/NAME`: the name below /dev, such as `sda1` or `cciss/c0d0p1`.
    Name(String),
    /// `MAJ:MIN` in decimal, or the hexadecimal form of the kernel (`b302`).
    Number {
        /// Major number, below 4096.
        major: u32,
        /// Minor number, below 1048576.
        minor: u32,
    },
    /// `UUID=`: the filesystem's UUID. Compared ignoring case.
    Uuid(String),
    /// `LABEL=`: the filesystem's label. Compared exactly.
    Label(String),
    /// `PARTUUID=`, with or without `/PARTNROFF=`. Compared ignoring case.
    PartUuid {
        /// The UUID in the partition table.
        uuid: String,
        /// Added to the partition number, to select another partition of the disk.
        offset: i32,
    },
    /// `PARTLABEL=`: the name in the partition table. Compared exactly.
    PartLabel(String),
}

impl Spec {
    /// Parses the value of `root=`.
    ///
    /// Removes double or single quotes around the text or around the part after the equals sign. In labels and
    /// names below /dev/disk, `\x20` is a space: udev escapes it so, and people copy names from there.
    ///
    /// # Errors
    ///
    /// The form is unknown, or known but not supported; the error says what to write instead.
    pub fn parse(text: &str) -> Result<Self> {
        let text = unquote(text.trim_ascii());
        if text.is_empty() {
            return Err(refuse(text, "the value is empty"));
        }
        if let Some(name) = text.strip_prefix("/dev/") {
            return device(text, name);
        }
        if let Some((tag, value)) = text.split_once('=') {
            return tagged(text, tag, unquote(value));
        }
        match text {
            // systemd-gpt-auto-generator(8), systemd-fstab-generator(8).
            "gpt-auto" | "gpt-auto-force" | "dissect" | "dissect-force" => Err(refuse(
                text,
                "partitions are not discovered by type; name the partition, for example with PARTUUID=",
            )),
            "tmpfs" => Err(refuse(
                text,
                "an empty root is not supported; without root= a tmpfs takes the writes above the layers",
            )),
            _ => number(text),
        }
    }

    /// Whether this is a ramdisk (`/dev/ram0`, major 1). Old kernels copied the initrd there, and boot loaders
    /// still pass `root=/dev/ram0` to use the initrd as root.
    pub fn is_ramdisk(&self) -> bool {
        match self {
            Self::Name(name) => name
                .strip_prefix("ram")
                .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())),
            Self::Number { major, .. } => *major == 1,
            _ => false,
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "/dev/{name}"),
            Self::Number { major, minor } => write!(f, "{major}:{minor}"),
            Self::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Self::Label(label) => write!(f, "LABEL={label}"),
            Self::PartUuid { uuid, offset: 0 } => write!(f, "PARTUUID={uuid}"),
            Self::PartUuid { uuid, offset } => write!(f, "PARTUUID={uuid}/PARTNROFF={offset}"),
            Self::PartLabel(label) => write!(f, "PARTLABEL={label}"),
        }
    }
}

/// Whether a text is an absolute path outside of /dev, which cannot name a device.
pub fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.starts_with("/dev/")
}

/// Splits `DEVICE[:PATH]`, as in `rd.overlay=` and `rd.layers.from=`.
///
/// The device ends at the first colon before a slash or at the end of the text. Without such a colon it ends
/// at the first one, except for the colon in MAJOR:MINOR. `\x3a` is a colon in a label, as udev writes it.
pub fn split_path(text: &str) -> (&str, Option<&str>) {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let numbers = text.split(':').take_while(|part| is_number(part)).count();
    let before_slash = text.find(":/").or(text.strip_suffix(':').map(str::len));
    let colon = before_slash.or_else(|| {
        let nth = usize::from(numbers >= 2);
        text.match_indices(':').nth(nth).map(|(at, _)| at)
    });
    match colon.and_then(|at| text.split_at_checked(at)) {
        Some((device, path)) => (device, path.get(1..)),
        None => (text, None),
    }
}

fn refuse(text: &str, why: &str) -> Error {
    Error::new("read", format_args!("root={text}"), why)
}

/// Removes one pair of quotes around the text.
fn unquote(text: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(text)
}

/// `/dev/NAME`.
fn device(text: &str, name: &str) -> Result<Spec> {
    if let Some(below) = name.strip_prefix("disk/") {
        let Some((by, value)) = below.split_once('/').filter(|(_, value)| !value.is_empty()) else {
            return Err(refuse(text, "no device name follows /dev/disk/"));
        };
        let value = decode(value);
        return match by {
            "by-uuid" => Ok(Spec::Uuid(value)),
            "by-label" => Ok(Spec::Label(value)),
            "by-partuuid" => Ok(Spec::PartUuid {
                uuid: value,
                offset: 0,
            }),
            "by-partlabel" => Ok(Spec::PartLabel(value)),
            _ => Err(refuse(
                text,
                "only udev creates this name, and /init runs no udev; below /dev/disk, by-uuid, by-label, \
                 by-partuuid and by-partlabel are supported",
            )),
        };
    }
    match name {
        "nfs" | "cifs" => return Err(refuse(text, "a network root is not supported")),
        "root" => return Err(refuse(text, "/dev/root is not the name of a device")),
        _ => {}
    }
    // mknod gets this path, so it must stay below /dev.
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(refuse(text, "not a path below /dev"));
    }
    Ok(Spec::Name(name.into()))
}

/// `TAG=VALUE`.
fn tagged(text: &str, tag: &str, value: &str) -> Result<Spec> {
    if value.is_empty() {
        return Err(refuse(text, "the value after the equals sign is empty"));
    }
    match tag {
        "UUID" => Ok(Spec::Uuid(value.into())),
        "LABEL" => Ok(Spec::Label(decode(value))),
        "PARTUUID" => part_uuid(text, value),
        "PARTLABEL" => Ok(Spec::PartLabel(decode(value))),
        _ => {
            let upper = tag.to_ascii_uppercase();
            Err(match upper.as_str() {
                "UUID" | "LABEL" | "PARTUUID" | "PARTLABEL" => {
                    refuse(text, &format!("did you mean {upper}=?"))
                }
                "ZFS" => refuse(text, ZFS),
                _ => refuse(text, EXPECTED),
            })
        }
    }
}

const EXPECTED: &str = "unknown form; expected /dev/NAME, UUID=, LABEL=, PARTUUID=, PARTLABEL=, \
                        MAJOR:MINOR or a hexadecimal device number";

const ZFS: &str = "a root on ZFS is not supported";

/// `PARTUUID=UUID/PARTNROFF=N`. Unlike the kernel, which compares only as many characters as are given, this
/// program compares the whole UUID: a prefix can match two disks.
fn part_uuid(text: &str, value: &str) -> Result<Spec> {
    let (uuid, offset) = match value.split_once('/') {
        None => (value, Some(0)),
        Some((uuid, rest)) => (
            unquote(uuid),
            rest.strip_prefix("PARTNROFF=")
                // The kernel's sscanf %d takes no plus sign.
                .filter(|number| !number.starts_with('+'))
                .and_then(|number| number.parse().ok()),
        ),
    };
    match offset {
        Some(offset) if !uuid.is_empty() => Ok(Spec::PartUuid {
            uuid: uuid.into(),
            offset,
        }),
        _ => Err(refuse(
            text,
            "expected PARTUUID=<identifier>[/PARTNROFF=<number>]",
        )),
    }
}

/// `MAJOR:MINOR`, or hexadecimal.
fn number(text: &str) -> Result<Spec> {
    if let Some((major, rest)) = text.split_once(':') {
        // A third number was once an offset; the kernel parses and ignores it.
        let (minor, offset) = rest.split_once(':').unwrap_or((rest, "0"));
        let offset = offset.strip_suffix(':').unwrap_or(offset);
        let (Some(major), Some(minor), Some(_)) = (decimal(major), decimal(minor), decimal(offset))
        else {
            return Err(match major {
                "nfs" | "nfs4" | "cifs" | "smb" | "http" | "https" | "iscsi" | "nbd" => {
                    refuse(text, "a network root is not supported")
                }
                "zfs" => refuse(text, ZFS),
                "mtd" | "ubi" | "ubi0" => refuse(text, "raw flash (mtd, ubi) is not supported"),
                _ => refuse(text, EXPECTED),
            });
        };
        if major >= MAJORS || minor >= MINORS {
            return Err(refuse(
                text,
                "the largest major number is 4095, the largest minor number 1048575",
            ));
        }
        return Ok(Spec::Number { major, minor });
    }
    let digits = text
        .strip_prefix("0x")
        .or(text.strip_prefix("0X"))
        .unwrap_or(text);
    let all_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u32::from_str_radix(digits, 16) {
        // new_decode_dev of include/linux/kdev_t.h: the minor's upper bits are above the major.
        Ok(devt) if all_hex => Ok(Spec::Number {
            major: (devt & 0xfff00) >> 8,
            minor: (devt & 0xff) | ((devt >> 12) & 0xfff00),
        }),
        _ if all_hex => Err(refuse(
            text,
            "a hexadecimal device number has at most 8 digits",
        )),
        _ if text.starts_with('/') => Err(refuse(text, "only paths below /dev are supported")),
        _ if text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
        {
            Err(refuse(
                text,
                &format!("{EXPECTED}. Did you mean /dev/{text}?"),
            ))
        }
        _ => Err(refuse(text, EXPECTED)),
    }
}

/// A decimal number. `str::parse` alone would accept a plus sign.
fn decimal(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Decodes udev's escapes (`\x20`, one per byte). Keeps everything else.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend(before.bytes());
        let byte = after
            .get(..2)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            // Labels end at a NUL, so an escaped one cannot match.
            Some(byte) if byte != 0 => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.extend(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend(rest.bytes());
    match String::from_utf8(bytes) {
        Ok(decoded) => decoded,
        Err(_) => text.into(),
    }
}
