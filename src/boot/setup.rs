//! The kernel's filesystems, and what the kernel tells `/init`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use log::{debug, warn};
use rustix::fs::{CWD, Dev, FileType, Mode, chmod, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::filesystem::{is_in_memory, is_mount_target, is_overlay, mount_point};
use crate::error::{Context, Error, Result};
use crate::text::shown;

/// A mount of one of the kernel's filesystems.
struct ApiMount {
    target: &'static str,
    fstype: &'static str,
    flags: MountFlags,
    data: &'static str,
}

const NOSUID_NODEV_NOEXEC: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const DEV: ApiMount = ApiMount {
    target: "/dev",
    fstype: "devtmpfs",
    flags: MountFlags::NOSUID,
    data: "mode=0755",
};

/// The other mounts, parents before children. The flags are those of systemd (src/shared/mount-setup.c).
const MOUNTS: [ApiMount; 5] = [
    ApiMount {
        target: "/proc",
        fstype: "proc",
        flags: NOSUID_NODEV_NOEXEC,
        data: "",
    },
    ApiMount {
        target: "/sys",
        fstype: "sysfs",
        flags: NOSUID_NODEV_NOEXEC,
        data: "",
    },
    ApiMount {
        target: "/dev/pts",
        fstype: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: "gid=5,mode=620",
    },
    ApiMount {
        target: "/dev/shm",
        fstype: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: "mode=1777",
    },
    ApiMount {
        target: "/run",
        fstype: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: "mode=0755",
    },
];

/// The device nodes that `/init` or a shell needs, where the kernel has no devtmpfs: name, mode, major
/// and minor number (Documentation/admin-guide/devices.txt).
const NODES: [(&str, u32, u32, u32); 8] = [
    ("console", 0o600, 5, 1),
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("kmsg", 0o644, 1, 11),
    ("tty", 0o666, 5, 0),
    ("loop-control", 0o600, 10, 237),
];

/// Mounts a devtmpfs on /dev, or a tmpfs with the most important nodes where the kernel has no devtmpfs.
/// Returns what went wrong, or a warning where the mount point had to be replaced: neither ends the boot.
pub fn mount_dev() -> Option<Error> {
    match DEV.mount() {
        Err(error) if error.errno() == Some(Errno::NODEV) => create_nodes().err(),
        Err(error) => Some(error),
        Ok(warning) => warning,
    }
}

/// Mounts proc, sys, dev/pts, dev/shm and run, where they are not mounted yet.
pub fn mount_filesystems() -> Result<()> {
    for entry in &MOUNTS {
        match entry.mount() {
            // A kernel may lack terminals (CONFIG_UNIX98_PTYS) or even proc. A step that needs them
            // reports that itself.
            Err(error) if error.errno() == Some(Errno::NODEV) => debug!("{error}"),
            done => done?.iter().for_each(|warning| warn!("{warning}")),
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        if let Err(error) = symlink(target, link)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            debug!("link {link}: {error}");
        }
    }
    Ok(())
}

impl ApiMount {
    /// Mounts the filesystem, unless something is mounted on its target. Returns a warning where the
    /// mount point had to be replaced.
    fn mount(&self) -> Result<Option<Error>> {
        let Self {
            target,
            fstype,
            flags,
            data,
        } = *self;
        let place = mount_point(Path::new(target));
        if place.mounted {
            return Ok(None);
        }
        let warning = match place.directory || place.missing {
            true => None,
            false => replace_by_directory(target)?,
        };
        if place.missing {
            fs::create_dir(target).during("create", target)?;
        }
        let data = std::ffi::CString::new(data).unwrap_or_default();
        let mounted = mount(fstype, target, fstype, flags, Some(data.as_c_str()));
        mounted.during("mount", format_args!("{fstype} on {target}"))?;
        Ok(warning)
    }
}

/// Replaces `target` of the rootfs with a directory if it cannot be a mount point: it is a file, or a link to
/// a directory with another use. Returns a warning if it did.
fn replace_by_directory(target: &str) -> Result<Option<Error>> {
    const STEP: &str = "prepare mount point";
    let path = Path::new(target);
    let name = target.rsplit('/').next().unwrap_or_default();
    let what = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(None),
        Ok(metadata) if metadata.is_symlink() => match fs::canonicalize(path) {
            Ok(place) if place.is_dir() && is_mount_target(name, &place) => return Ok(None),
            Ok(place) => format!(
                "it is a symbolic link to {}",
                shown(place.as_os_str().as_encoded_bytes())
            ),
            Err(error) => format!("it is a dangling symbolic link ({error})"),
        },
        Ok(_) => "it is not a directory".into(),
        // `mount` reports what cannot be read.
        Err(_) => return Ok(None),
    };
    let root = rustix::fs::statfs("/").during("stat filesystem of", "/")?;
    if !is_in_memory(&root) && !is_overlay(&root) {
        return Err(Error::new(STEP, target, what));
    }
    fs::remove_file(path).during("remove", target)?;
    fs::create_dir(path).during("create", target)?;
    let done = format!("{what}; replaced by a directory");
    Ok(Some(Error::new(STEP, target, done)))
}

/// Mounts a tmpfs with a few device nodes on /dev, for a kernel without devtmpfs.
fn create_nodes() -> Result<()> {
    mount(
        "dev",
        "/dev",
        "tmpfs",
        MountFlags::NOSUID,
        Some(c"mode=0755"),
    )
    .during("mount", "tmpfs on /dev")?;
    for (name, mode, major, minor) in NODES {
        create_node(&format!("/dev/{name}"), mode, makedev(major, minor))?;
    }
    Ok(())
}

fn create_node(path: &str, mode: u32, device: Dev) -> Result<()> {
    mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(mode),
        device,
    )
    .during("create", path)?;
    // The kernel gives PID 1 the umask 022, but everybody must be able to write to /dev/null.
    chmod(path, Mode::from_raw_mode(mode)).during("change mode of", path)
}

/// The kernel command line.
pub fn read_cmdline() -> Result<String> {
    let bytes = fs::read("/proc/cmdline").during("read", "/proc/cmdline")?;
    // The line feed is the file's, not part of a last word with an open quote.
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// The release of the running kernel, as in /lib/modules (uname(2)).
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
