//! What a block device holds: filesystems with UUID and label, and partition tables. Pure.
//!
//! UUIDs and labels are those that util-linux's blkid prints, because people copy them to command lines.
//! Each reader names the header of Linux 7.2 that defines its format.
//!
//! To add a filesystem, write its reader and a row of [`VolumeKind`].

use std::{fmt, io};

use super::erofs;
use crate::bytes::ReadAt;
use field::{block, field, label, le_units, uuid, wide_label};

mod field;

mod container;
mod fat;
mod iso9660;
mod linux;
pub mod partition;

/// Looks for one kind of superblock, or for a family of them.
type ReadVolume = fn(&dyn ReadAt) -> io::Result<Option<Volume>>;

/// Declares [`VolumeKind`] from rows, and a function for each column, so that /init links only the columns that it
/// reads.
macro_rules! kinds {
    (
        containers { $($(#[$cdoc:meta])* $container:ident {
            name: $cname:literal $(, reader: $creader:path)?, refusal: $crefusal:literal
        })* }
        filesystems { $($(#[$doc:meta])* $kind:ident {
            name: $name:literal
            $(, reader: $reader:path)?
            $(, refusal: $refusal:literal)?
            $(, no_upper: $no_upper:expr)?
            $(, d_type: $d_type:literal)?
            $(, no_replay: $no_replay:literal)?
            $(, driver: ($option:literal, $module:literal))?
            $(, helpers: [$($helper:literal),+])?
            $(, notes: $notes:literal)?
        })* }
    ) => {
        /// What a superblock belongs to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum VolumeKind {
            $($(#[$cdoc])* $container,)*
            $($(#[$doc])* $kind,)*
        }

        /// The filesystems.
        pub const FILESYSTEMS: &[VolumeKind] = &[$(VolumeKind::$kind),*];

        /// Each reader, in the order in which superblocks are looked for and believed.
        const READERS: &[ReadVolume] = &[$($($creader,)?)* $($($reader,)?)*];

        impl VolumeKind {
            /// The name that blkid prints; of a filesystem that is mounted by its superblock also the
            /// kernel's.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$container => $cname,)*
                    $(Self::$kind => $name,)*
                }
            }

            /// Why /init does not mount it by its superblock, for an error; `None`: it does.
            pub fn refusal(self) -> Option<&'static str> {
                match self {
                    $(Self::$container => Some($crefusal),)*
                    $(Self::$kind => optional!($($refusal)?),)*
                }
            }

            /// Why it cannot hold the upper directory of an overlay, for an error; `None`: it can, as far as
            /// its type goes, or [`Self::refusal`] says why not.
            pub fn upper_refusal(self) -> Option<&'static str> {
                match self {
                    $(Self::$container => None,)*
                    $(Self::$kind => optional!($($no_upper)?),)*
                }
            }

            /// The feature with which it stores the types of files in directories, where it can lack that.
            pub fn d_type_feature(self) -> Option<&'static str> {
                match self {
                    $(Self::$container => None,)*
                    $(Self::$kind => optional!($($d_type)?),)*
                }
            }

            /// The mount option with which it does not replay its journal, which is possible only read-only; `None`:
            /// it has none.
            pub fn no_replay(self) -> Option<&'static str> {
                match self {
                    $(Self::$container => None,)*
                    $(Self::$kind => optional!($($no_replay)?),)*
                }
            }

            /// The kernel option (without `CONFIG_`) and the module of its driver. `None`: it has no driver,
            /// or more than one.
            pub fn driver(self) -> Option<(&'static str, &'static str)> {
                match self {
                    $(Self::$container => None,)*
                    $(Self::$kind => optional!($(($option, $module))?),)*
                }
            }

            /// The modules that its driver asks for while it mounts: [`helper_modules`].
            pub fn helper_modules(self) -> &'static [&'static str] {
                match self {
                    $(Self::$container => &[],)*
                    $(Self::$kind => &[$($($helper),+)?],)*
                }
            }

            /// What the documentation says about it; may be empty.
            pub fn notes(self) -> &'static str {
                match self {
                    $(Self::$container => "",)*
                    $(Self::$kind => optional!($($notes)?).unwrap_or_default(),)*
                }
            }
        }
    };
}

/// A column that a row may leave out.
macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

// One row for each kind. Containers come before what may lie in them. Where several kinds share a reader, one
// of their rows names it.
//
// no_upper: ovl_make_workdir and ovl_mount_dir_check in fs/overlayfs/super.c; the kernel's own refusal of
// vfat and exfat does not name their type. helpers: the character sets that the drivers use by default
// (fs/fat/Kconfig, fs/exfat/Kconfig, fs/isofs).
kinds! {
    containers {
        /// A member of a Linux software RAID.
        Raid {
            name: "linux_raid_member", reader: container::raid,
            refusal: "it is a member of a software RAID, which /init does not assemble"
        }
        /// A physical volume of LVM.
        Lvm {
            name: "LVM2_member", reader: container::lvm,
            refusal: "it is a physical volume of LVM, which /init does not activate"
        }
        /// An encrypted volume.
        Luks {
            name: "crypto_LUKS", reader: container::luks,
            refusal: "it is encrypted (LUKS), and /init does not unlock it"
        }
        /// The hash tree of dm-verity for another device.
        Verity {
            name: "DM_verity_hash", reader: container::verity,
            refusal: "it holds the hashes of dm-verity for another device"
        }
        /// Swap space.
        Swap { name: "swap", reader: container::swap, refusal: "it is swap space" }
        /// The image of a suspended system, in swap space.
        Suspended { name: "swsuspend", refusal: "it is swap space with the image of a suspended system" }
        /// The external journal of an ext3 or ext4.
        Journal { name: "jbd", refusal: "it is the external journal of another filesystem" }
    }
    filesystems {
        /// FAT12, FAT16 or FAT32.
        Vfat {
            name: "vfat", reader: fat::vfat, no_upper: NO_ATTRIBUTES, driver: ("VFAT_FS", "vfat"),
            helpers: ["nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8"]
        }
        /// NTFS.
        Ntfs {
            name: "ntfs", reader: fat::ntfs,
            refusal: "it is NTFS, which /init mounts only as the root and if named (rootfstype=ntfs3), and which \
                      cannot hold the upper directory of an overlay",
            notes: "only with `rootfstype=ntfs3`: NTFS3_FS, `ntfs3`"
        }
        /// XFS.
        Xfs {
            name: "xfs", reader: linux::xfs, d_type: "ftype=1", no_replay: "norecovery", driver: ("XFS_FS", "xfs")
        }
        /// ext2: no journal.
        Ext2 {
            name: "ext2", d_type: "filetype",
            notes: "EXT2_FS, or EXT4_FS with EXT4_USE_FOR_EXT2"
        }
        /// ext3: a journal, and no feature of ext4.
        Ext3 { name: "ext3", d_type: "filetype", no_replay: "noload", driver: ("EXT4_FS", "ext4") }
        /// ext4: at least one feature that ext3 does not know.
        Ext4 {
            name: "ext4", reader: linux::ext, d_type: "filetype", no_replay: "noload", driver: ("EXT4_FS", "ext4"),
            notes: "`quota_v2` too, if it has quotas"
        }
        /// squashfs, version 4.
        Squashfs {
            name: "squashfs", reader: linux::squashfs, no_upper: READ_ONLY, driver: ("SQUASHFS", "squashfs"),
            notes: "has neither UUID nor label: name the device"
        }
        /// btrfs.
        Btrfs {
            name: "btrfs", reader: linux::btrfs, no_replay: "rescue=nologreplay", driver: ("BTRFS_FS", "btrfs"),
            notes: "may span several devices"
        }
        /// F2FS.
        F2fs { name: "f2fs", reader: linux::f2fs, no_replay: "norecovery", driver: ("F2FS_FS", "f2fs") }
        /// exFAT.
        Exfat {
            name: "exfat", reader: fat::exfat, no_upper: NO_ATTRIBUTES, driver: ("EXFAT_FS", "exfat"),
            helpers: ["nls_utf8"]
        }
        /// EROFS.
        Erofs { name: "erofs", reader: erofs, no_upper: READ_ONLY, driver: ("EROFS_FS", "erofs") }
        // Last: an image can hold other superblocks at the same time, and blkid prefers those.
        /// ISO 9660, with or without Joliet.
        Iso9660 {
            name: "iso9660", reader: iso9660::iso9660, no_upper: READ_ONLY, driver: ("ISO9660_FS", "isofs"),
            helpers: ["nls_iso8859_1", "nls_utf8"]
        }
    }
}

const NO_ATTRIBUTES: &str =
    "it stores no owners, modes, links or extended attributes, which overlayfs needs";
const READ_ONLY: &str = "this type of filesystem is read-only";

impl VolumeKind {
    /// The filesystem of this name, as `rootfstype=` has it.
    pub fn filesystem(name: &str) -> Option<Self> {
        let mut all = FILESYSTEMS.iter();
        all.find(|kind| kind.name() == name).copied()
    }

    /// Whether it is a part of something else. Other superblocks on the same device then belong to that.
    fn hides_others(self) -> bool {
        matches!(self, Self::Luks | Self::Lvm | Self::Raid | Self::Verity)
    }
}

/// The modules that the driver of a filesystem asks the kernel to load while it mounts, for which the kernel
/// would start modprobe: character sets. Names as in modules.dep; those that are not there may be built in.
pub fn helper_modules(fstype: &str) -> &'static [&'static str] {
    // The same driver without long names.
    let fstype = if fstype == "msdos" { "vfat" } else { fstype };
    VolumeKind::filesystem(fstype).map_or(&[], VolumeKind::helper_modules)
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A superblock. Displayed as `ext4 LABEL="root" UUID=...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What the superblock belongs to.
    pub kind: VolumeKind,
    /// As blkid prints it: 36 characters in lower case, `1234-ABCD` for vfat and exfat, a date for
    /// iso9660. `None` where the format has none or it is all zeros.
    pub uuid: Option<String>,
    /// Without padding; never empty.
    pub label: Option<String>,
    /// The device's place in a filesystem on several devices (btrfs).
    pub share: Option<Share>,
}

/// One of the devices of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The device's number in the filesystem.
    pub member: u64,
    /// How many devices there are.
    pub of: u64,
}

impl Volume {
    fn new(kind: VolumeKind, uuid: Option<String>, label: Option<String>) -> Self {
        Self {
            kind,
            uuid,
            label,
            share: None,
        }
    }

    /// Compares UUIDs without regard to case.
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

/// Every superblock on `device`, the most credible first. An encrypted volume, or a part of a RAID or of LVM,
/// comes alone. Several superblocks are remains of earlier use; blkid prints nothing then.
///
/// Reads a few KiB. A superblock beyond the end of the device is not there.
///
/// # Errors
/// The device cannot be read.
pub fn volumes(device: &dyn ReadAt) -> io::Result<Vec<Volume>> {
    let mut found = Vec::new();
    for reader in READERS {
        if let Some(volume) = reader(device)? {
            let alone = volume.kind.hides_others();
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
            VolumeKind::Erofs,
            uuid(superblock.uuid),
            label(&superblock.volume_name),
        )
    }))
}
