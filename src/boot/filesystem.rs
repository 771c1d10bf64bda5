//! Mount points and filesystem types.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatFs, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use crate::error::{Context, Result};

/// The mounts that `/init` moves into the new root, because the real init expects them there.
pub const MOVED_MOUNTS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Whether the directory `target`, to which the symbolic link `/name` of a root leads, can be the mount
/// point of `name`, one of [`MOVED_MOUNTS`]. `target` is an absolute path in that root, free of links.
///
/// Only a directory of the same name can (/run -> /var/run): any other one, such as /etc, holds files
/// that the mount would hide.
pub fn is_mount_target(name: &str, target: &Path) -> bool {
    let Ok(inside) = target.strip_prefix("/") else {
        return false;
    };
    // /proc/sys is part of another filesystem.
    let hidden = |other: &&str| inside != Path::new(other) && inside.starts_with(other);
    target.file_name() == Some(OsStr::new(name)) && !MOVED_MOUNTS.iter().any(hidden)
}

/// Whether a filesystem is mounted at `path`. A symbolic link is not followed.
pub fn is_mount_point(path: &Path) -> bool {
    mount_point(path).mounted
}

/// What is at a path where a filesystem may be mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountPoint {
    /// A filesystem is mounted there.
    pub mounted: bool,
    /// It is a directory. `false` also if the kernel has no statx(2).
    pub directory: bool,
    /// Nothing is there.
    pub missing: bool,
}

/// Looks at a mount point. A symbolic link is not followed.
pub fn mount_point(path: &Path) -> MountPoint {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let on_another_device = |directory| MountPoint {
        mounted: is_on_another_device(path),
        directory,
        missing: false,
    };
    match statx(CWD, path, flags, StatxFlags::TYPE) {
        Ok(found) => {
            let directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
            let (attributes, known) = (found.stx_attributes, found.stx_attributes_mask);
            match known.contains(StatxAttributes::MOUNT_ROOT) {
                true => MountPoint {
                    mounted: attributes.contains(StatxAttributes::MOUNT_ROOT),
                    directory,
                    missing: false,
                },
                // Before Linux 5.8.
                false => on_another_device(directory),
            }
        }
        Err(Errno::NOSYS) => MountPoint {
            missing: fs::symlink_metadata(path).is_err(),
            ..on_another_device(false)
        },
        Err(errno) => MountPoint {
            missing: errno == Errno::NOENT,
            ..MountPoint::default()
        },
    }
}

/// [`is_mount_point`] before Linux 5.8: a mount point and its parent are on different devices.
fn is_on_another_device(path: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev());
    match (device(path), path.parent().map(device)) {
        (Ok(here), Some(Ok(above))) => here != above,
        _ => false,
    }
}

/// Whether a filesystem is a ramfs or a tmpfs, as the rootfs of an initramfs is.
pub fn is_in_memory(filesystem: &StatFs) -> bool {
    /// include/uapi/linux/magic.h.
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    // The value has 32 bits; its type in the C library has 32 or 64, and may be signed.
    matches!(filesystem.f_type as u32, RAMFS_MAGIC | TMPFS_MAGIC)
}

/// Whether a filesystem is an overlay.
pub fn is_overlay(filesystem: &StatFs) -> bool {
    /// include/uapi/linux/magic.h.
    const OVERLAYFS_SUPER_MAGIC: u32 = 0x794c_7630;
    filesystem.f_type as u32 == OVERLAYFS_SUPER_MAGIC
}

/// Whether `/` is an overlay: then the kernel assembled the root before it started `/init`.
pub fn root_is_overlay() -> Result<bool> {
    let filesystem = rustix::fs::statfs("/").during("stat filesystem of", "/")?;
    Ok(is_overlay(&filesystem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_mounted_on_or_missing_or_a_directory() {
        let found = |path: &str| {
            let place = mount_point(Path::new(path));
            (place.mounted, place.directory, place.missing)
        };
        assert_eq!(found("/proc"), (true, true, false));
        assert_eq!(found("/proc/self/fd"), (false, true, false));
        assert_eq!(found("/proc/version"), (false, false, false));
        assert_eq!(found("/proc/none"), (false, false, true));
    }

    #[test]
    fn only_a_directory_of_the_same_name_is_a_mount_target() {
        for (name, target, expected) in [
            ("run", "/var/run", true),
            ("dev", "/system/dev", true),
            ("proc", "/proc", true),
            ("proc", "/etc", false),
            ("proc", "/", false),
            ("sys", "/proc/sys", false),
            ("run", "/dev/run", false),
            ("run", "var/run", false),
            ("run", "/var/running", false),
        ] {
            assert_eq!(
                is_mount_target(name, Path::new(target)),
                expected,
                "{name} {target}"
            );
        }
    }
}
