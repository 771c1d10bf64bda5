//! What is on a block device: filesystems with UUID and label, and partition tables. Pure.
//!
//! The values are those that util-linux's blkid prints, since they are what stands on command
//! lines. Formats: the headers of Linux 7.2 that each reader names.

use std::{fmt, io};

use super::erofs;
use crate::bytes::{Cursor, ReadAt, dashed};

mod container;
mod fat;
mod iso9660;
mod linux;
pub mod partition;

/// What a superblock belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext2: no journal.
    Ext2,
    /// ext3: a journal, and nothing that ext3 does not know.
    Ext3,
    /// ext4: at least one feature that ext3 does not know.
    Ext4,
    /// btrfs.
    Btrfs,
    /// XFS.
    Xfs,
    /// F2FS.
    F2fs,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    /// exFAT.
    Exfat,
    /// NTFS.
    Ntfs,
    /// squashfs, version 4.
    Squashfs,
    /// EROFS.
    Erofs,
    /// ISO 9660, with or without Joliet.
    Iso9660,
    /// Swap space.
    Swap,
    /// A suspended system, in swap space.
    Suspended,
    /// The external journal of an ext3 or ext4.
    Journal,
    /// An encrypted volume.
    Luks,
    /// A physical volume of LVM.
    Lvm,
    /// A part of a Linux software RAID.
    Raid,
    /// The hashes of dm-verity for the blocks of another device.
    Verity,
}

impl Kind {
    /// The name that blkid has for it; for filesystems, the kernel's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
            Self::F2fs => "f2fs",
            Self::Vfat => "vfat",
            Self::Exfat => "exfat",
            Self::Ntfs => "ntfs",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Iso9660 => "iso9660",
            Self::Swap => "swap",
            Self::Suspended => "swsuspend",
            Self::Journal => "jbd",
            Self::Luks => "crypto_LUKS",
            Self::Lvm => "LVM2_member",
            Self::Raid => "linux_raid_member",
            Self::Verity => "DM_verity_hash",
        }
    }

    /// Why it cannot be mounted as it is, for an error; `None` for a filesystem that can.
    pub fn never_mounted(self) -> Option<&'static str> {
        match self {
            Self::Ntfs => Some(
                "it is NTFS, which as a root has to be named (rootfstype=ntfs3), and which takes no \
                 overlay's writes",
            ),
            Self::Swap => Some("it is swap space"),
            Self::Suspended => Some("it holds a suspended system, in swap space"),
            Self::Journal => Some("it is the journal of another filesystem"),
            Self::Luks => Some("it is encrypted (LUKS), and nothing here can open it"),
            Self::Lvm => Some("it belongs to LVM, and nothing here can assemble that"),
            Self::Verity => Some("it holds the hashes of dm-verity for another device"),
            Self::Raid => Some("it belongs to a software RAID, and nothing here can assemble that"),
            _ => None,
        }
    }

    /// Why it cannot take the writes of an overlay, for an error; `None` where nothing is known
    /// against it. What it cannot be mounted for comes first: [`Self::never_mounted`].
    ///
    /// Source: ovl_make_workdir and ovl_mount_dir_check in fs/overlayfs/super.c. Of vfat and exfat the
    /// kernel's own refusal does not speak of their type.
    pub fn never_upper(self) -> Option<&'static str> {
        match self {
            Self::Vfat | Self::Exfat => Some(
                "it keeps no owners, modes, links or extended attributes, which an overlay has to write",
            ),
            Self::Squashfs | Self::Erofs | Self::Iso9660 => {
                Some("a filesystem of this type is never written to")
            }
            _ => None,
        }
    }

    /// Whether it is a part of something else, so that what else looks like a superblock on the
    /// same device is that something's.
    fn hides_all_else(self) -> bool {
        matches!(self, Self::Luks | Self::Lvm | Self::Raid | Self::Verity)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A superblock. Displayed as `ext4 LABEL="root" UUID=...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Whose it is.
    pub kind: Kind,
    /// As blkid prints it: 36 characters in lower case, `1234-ABCD` for vfat and exfat, a date for
    /// iso9660. `None` where there is none or it is all zeros.
    pub uuid: Option<String>,
    /// Without padding; never empty.
    pub label: Option<String>,
    /// Which part of how many it is, in a filesystem that spreads over several devices (btrfs).
    pub share: Option<Share>,
}

/// One device of several that make up a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The device's number in the filesystem.
    pub member: u64,
    /// How many devices there are.
    pub of: u64,
}

impl Volume {
    fn new(kind: Kind, uuid: Option<String>, label: Option<String>) -> Self {
        Self {
            kind,
            uuid,
            label,
            share: None,
        }
    }

    /// Whether this is the UUID that somebody asks for: case does not count.
    pub fn has_uuid(&self, uuid: &str) -> bool {
        self.uuid
            .as_ref()
            .is_some_and(|own| own.eq_ignore_ascii_case(uuid))
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(label) = &self.label {
            write!(f, " LABEL={label:?}")?;
        }
        if let Some(uuid) = &self.uuid {
            write!(f, " UUID={uuid}")?;
        }
        Ok(())
    }
}

/// Looks for one kind of superblock, or a family of them.
type Reader = fn(&dyn ReadAt) -> io::Result<Option<Volume>>;

/// Every superblock on `device`, in the order in which to believe them. An encrypted volume, or a
/// part of a RAID or of LVM, comes alone. Several are the remains of an earlier use, which blkid
/// refuses to tell apart (it prints nothing then).
///
/// Reads a few KiB. A device that ends early holds less; a read that fails is the error.
pub fn volumes(device: &dyn ReadAt) -> io::Result<Vec<Volume>> {
    const READERS: [Reader; 15] = [
        container::raid,
        container::lvm,
        container::luks,
        container::verity,
        container::swap,
        fat::vfat,
        fat::ntfs,
        linux::xfs,
        linux::ext,
        linux::squashfs,
        linux::btrfs,
        linux::f2fs,
        fat::exfat,
        erofs,
        // Last: such an image can be made to look like others at once, and blkid lets those win.
        iso9660::iso9660,
    ];
    let mut found = Vec::new();
    for reader in READERS {
        if let Some(volume) = reader(device)? {
            let alone = volume.kind.hides_all_else();
            found.push(volume);
            if alone {
                break;
            }
        }
    }
    Ok(found)
}

fn erofs(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    let superblock = erofs::Superblock::read(device, 0)?;
    Ok(superblock.map(|superblock| {
        Volume::new(
            Kind::Erofs,
            uuid(superblock.uuid),
            label(&superblock.volume_name),
        )
    }))
}

/// `N` bytes at `offset`; `None` where the device ends before.
fn block<const N: usize>(device: &dyn ReadAt, offset: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match device.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The field at `offset` of an on-disk structure, and what follows.
fn field(block: &[u8], offset: usize) -> Cursor<'_> {
    Cursor::new(block.get(offset..).unwrap_or_default())
}

/// A UUID in the order of its bytes; all zeros are none.
fn uuid(bytes: [u8; 16]) -> Option<String> {
    (bytes != [0; 16]).then(|| dashed(bytes))
}

/// A label that NUL or the field's end ends, and spaces pad.
fn label(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    trimmed(String::from_utf8_lossy(text).into_owned())
}

/// The same in UTF-16 units.
fn wide_label(units: impl Iterator<Item = u16>) -> Option<String> {
    let units = units.take_while(|unit| *unit != 0);
    trimmed(
        char::decode_utf16(units)
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
    )
}

fn trimmed(mut text: String) -> Option<String> {
    let end = text
        .trim_end_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
        .len();
    text.truncate(end);
    Some(text).filter(|text| !text.is_empty())
}

/// Pairs of bytes as little-endian units.
fn le_units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let (pairs, _) = bytes.as_chunks();
    pairs.iter().map(|pair| u16::from_le_bytes(*pair))
}
