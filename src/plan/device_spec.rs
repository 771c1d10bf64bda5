//! The text of `root=` to what it names. Pure.
//!
//! The kernel's own forms are read as early_lookup_bdev reads them (block/early-lookup.c, Linux 7.2);
//! `UUID=`, `LABEL=` and the names below /dev/disk are udev's and mount(8)'s.

use std::fmt;

use crate::error::{Error, Result};

/// A major number has 12 bits and a minor number 20 (include/linux/kdev_t.h).
const MAJORS: u32 = 1 << 12;
const MINORS: u32 = 1 << 20;

/// What `root=` names. Displayed in the form in which the command line takes it.
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
    /// `UUID=`: of the filesystem. Compares without regard to case.
    Uuid(String),
    /// `LABEL=`: of the filesystem. Compares exactly.
    Label(String),
    /// `PARTUUID=`, with or without `/PARTNROFF=`. Compares without regard to case.
    PartUuid {
        /// The partition's identifier.
        uuid: String,
        /// Added to the partition's number: another partition of the same disk.
        offset: i32,
    },
    /// `PARTLABEL=`: the name in the partition table. Compares exactly.
    PartLabel(String),
}

impl Spec {
    /// Reads the value of `root=`. What is not understood is an error that says what is expected.
    ///
    /// Double or single quotes around the text, or around what follows the equals sign, go. In
    /// labels and in names below /dev/disk, `\x20` is a space: udev escapes so, and command lines
    /// are copied from there.
    pub fn parse(text: &str) -> Result<Self> {
        let text = unquote(text.trim_ascii());
        if text.is_empty() {
            return Err(refuse(text, "names nothing"));
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
                "no partition is chosen by its type here; name it, as by PARTUUID=",
            )),
            "tmpfs" => Err(refuse(
                text,
                "no root starts empty here; without root= the layers lie under a tmpfs",
            )),
            _ => number(text),
        }
    }

    /// Whether this is the ramdisk into which old kernels copied the initrd (`/dev/ram0`, major 1).
    /// Boot loaders still say `root=/dev/ram0` for "the initrd is the root".
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

fn refuse(text: &str, why: &str) -> Error {
    Error::new("read", format_args!("root={text}"), why)
}

/// One pair of quotes around all of it, taken off.
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
            return Err(refuse(text, "names no device below /dev/disk"));
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
                "only udev knows this name, and there is no udev here; of /dev/disk, by-uuid, \
                 by-label, by-partuuid and by-partlabel are understood",
            )),
        };
    }
    match name {
        "nfs" | "cifs" => return Err(refuse(text, "a root on the network is not supported")),
        "root" => return Err(refuse(text, "/dev/root is no device's name")),
        _ => {}
    }
    // The path goes to mknod: it must stay below /dev.
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(refuse(text, "not a path of a device below /dev"));
    }
    Ok(Spec::Name(name.into()))
}

/// `TAG=VALUE`.
fn tagged(text: &str, tag: &str, value: &str) -> Result<Spec> {
    if value.is_empty() {
        return Err(refuse(text, "nothing follows the equals sign"));
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

const EXPECTED: &str = "not understood; expected /dev/NAME, UUID=, LABEL=, PARTUUID=, PARTLABEL=, \
                        MAJOR:MINOR or a hexadecimal device number";

const ZFS: &str = "a root on ZFS is not supported";

/// `PARTUUID=UUID/PARTNROFF=N`. The kernel compares only as many characters as were given; here all
/// of them count, since a part of an identifier can name two disks.
fn part_uuid(text: &str, value: &str) -> Result<Spec> {
    let (uuid, offset) = match value.split_once('/') {
        None => (value, Some(0)),
        Some((uuid, rest)) => (
            unquote(uuid),
            rest.strip_prefix("PARTNROFF=")
                // sscanf's %d has no plus sign.
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
        // A third number was an offset once; the kernel reads it and forgets it.
        let (minor, offset) = rest.split_once(':').unwrap_or((rest, "0"));
        let offset = offset.strip_suffix(':').unwrap_or(offset);
        let (Some(major), Some(minor), Some(_)) = (decimal(major), decimal(minor), decimal(offset))
        else {
            return Err(match major {
                "nfs" | "nfs4" | "cifs" | "smb" | "http" | "https" | "iscsi" | "nbd" => {
                    refuse(text, "a root on the network is not supported")
                }
                "zfs" => refuse(text, ZFS),
                "mtd" | "ubi" | "ubi0" => {
                    refuse(text, "a root on raw flash (mtd, ubi) is not supported")
                }
                _ => refuse(text, EXPECTED),
            });
        };
        if major >= MAJORS || minor >= MINORS {
            return Err(refuse(
                text,
                "major numbers end at 4095, minor numbers at 1048575",
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
        // new_decode_dev of include/linux/kdev_t.h: minor's upper bits stand above the major.
        Ok(devt) if all_hex => Ok(Spec::Number {
            major: (devt & 0xfff00) >> 8,
            minor: (devt & 0xff) | ((devt >> 12) & 0xfff00),
        }),
        _ if all_hex => Err(refuse(
            text,
            "a hexadecimal device number has at most 8 digits",
        )),
        _ if text.starts_with('/') => Err(refuse(text, "only devices below /dev are understood")),
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

/// Digits and nothing else: `str::parse` would take a plus sign.
fn decimal(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Undoes udev's escapes (`\x20`, one for each byte); what is no escape stays.
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
            // A NUL ends a label; nothing can follow it.
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
