//! What PID 1 needs before it can do anything: standard streams, and the kernel's filesystems.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use log::{debug, warn};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, StatFs, StatxAttributes, StatxFlags, chmod, fstat,
    makedev, mknodat, open, statx,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::mount::{MountFlags, mount};
use rustix::process::{getpriority_process, setpriority_process};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stdin};

use crate::error::{Context, Error, Result};
use crate::text::shown;

/// What the real init expects to find mounted: these go with it into the new root.
pub const MOVED: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Whether a filesystem of [`MOVED`] may be mounted where a symbolic link of its `name` leads in a root.
/// Only a directory of the same name is there for it (/run -> /var/run); any other, such as /etc, has a
/// use of its own and would be hidden. `place` is absolute, as seen from that root, and has no links.
pub fn belongs_at(name: &str, place: &Path) -> bool {
    let Ok(inside) = place.strip_prefix("/") else {
        return false;
    };
    // /proc/sys is part of another filesystem.
    let hidden = |other: &&str| inside != Path::new(other) && inside.starts_with(other);
    place.file_name() == Some(OsStr::new(name)) && !MOVED.iter().any(hidden)
}

const CONSOLE: &str = "/dev/console";

/// One filesystem of the kernel's, and where it belongs.
struct Mount {
    target: &'static str,
    fstype: &'static str,
    flags: MountFlags,
    data: &'static str,
}

const HARD: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const DEV: Mount = Mount {
    target: "/dev",
    fstype: "devtmpfs",
    flags: MountFlags::NOSUID,
    data: "mode=0755",
};

/// In this order: later ones may lie below earlier ones. The flags are systemd's.
const MOUNTS: [Mount; 5] = [
    Mount {
        target: "/proc",
        fstype: "proc",
        flags: HARD,
        data: "",
    },
    Mount {
        target: "/sys",
        fstype: "sysfs",
        flags: HARD,
        data: "",
    },
    Mount {
        target: "/dev/pts",
        fstype: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: "gid=5,mode=620",
    },
    Mount {
        target: "/dev/shm",
        fstype: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: "mode=1777",
    },
    Mount {
        target: "/run",
        fstype: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: "mode=0755",
    },
];

/// Device nodes of a kernel without devtmpfs: those that this program or a shell needs.
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

/// Mounts /dev and opens the standard streams. Nothing here is fatal: a machine without a console
/// boots all the same. Returns what went wrong, for the log that is opened after this.
pub fn console() -> Vec<Error> {
    let mut trouble = Vec::new();
    let mut note = |result: Result<()>| trouble.extend(result.err());
    note(match DEV.mount() {
        Err(error) if error.errno() == Some(Errno::NODEV) => nodes(),
        done => done.and_then(|notice| notice.map_or(Ok(()), Err)),
    });
    note(streams());
    trouble
}

/// Mounts proc, sys, dev/pts, dev/shm and run, each unless it is there.
pub fn filesystems() -> Result<()> {
    for entry in &MOUNTS {
        match entry.mount() {
            // A kernel without terminals (CONFIG_UNIX98_PTYS) or without proc is some machine's
            // choice; what then cannot work says so itself.
            Err(error) if error.errno() == Some(Errno::NODEV) => debug!("{error}"),
            done => done?.iter().for_each(|notice| warn!("{notice}")),
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

impl Mount {
    /// Mounts it, unless something is mounted there. Returns what had to be done for that, to be told.
    fn mount(&self) -> Result<Option<Error>> {
        let Self {
            target,
            fstype,
            flags,
            data,
        } = *self;
        if is_mount_point(Path::new(target)) {
            return Ok(None);
        }
        let notice = make_way(target)?;
        let data = std::ffi::CString::new(data).unwrap_or_default();
        let mounted = || mount(fstype, target, fstype, flags, Some(data.as_c_str()));
        let mounted = match mounted() {
            Err(Errno::NOENT) => {
                fs::create_dir(target).during("create", target)?;
                mounted()
            }
            done => done,
        };
        mounted.during("mount", format_args!("{fstype} on {target}"))?;
        Ok(notice)
    }
}

/// Puts a directory in place of what is no mount point in the rootfs: a file, or a link to a directory that has
/// another use. Returns what was done, to be told.
fn make_way(target: &str) -> Result<Option<Error>> {
    const STEP: &str = "prepare mount point";
    let path = Path::new(target);
    let name = target.rsplit('/').next().unwrap_or_default();
    let what = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(None),
        Ok(metadata) if metadata.is_symlink() => match fs::canonicalize(path) {
            Ok(place) if place.is_dir() && belongs_at(name, &place) => return Ok(None),
            Ok(place) => format!(
                "it is a symbolic link to {}",
                shown(place.as_os_str().as_encoded_bytes())
            ),
            Err(error) => format!("it is a symbolic link that leads nowhere ({error})"),
        },
        Ok(_) => "it is not a directory".into(),
        // What is missing is made, and what cannot be looked at is for the mount to say.
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

/// The nice value that this program was started with.
static NICE: OnceLock<i32> = OnceLock::new();

/// Lets this program, and the threads that load modules for it, go before the kernel's own threads: at
/// this time they test cryptographic algorithms, which takes them as long as the whole boot takes here.
pub fn hurry() {
    // Where it may not (a container, say), the boot is slower and no more.
    if let Ok(nice) = getpriority_process(None)
        && setpriority_process(None, -20).is_ok()
    {
        let _ = NICE.set(nice);
    }
}

/// Back to the nice value of before, for a program that is started by this one.
pub fn take_turns() {
    if let Some(nice) = NICE.get() {
        let _ = setpriority_process(None, *nice);
    }
}

/// Whether something is mounted there.
pub fn is_mount_point(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        // Linux 5.8 and newer say so.
        Ok(found)
            if found
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT) =>
        {
            found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        }
        Ok(_) | Err(Errno::NOSYS) => is_on_another_device(path),
        Err(_) => false,
    }
}

/// What tells a mount point before Linux 5.8: it lies on another device than its parent.
fn is_on_another_device(path: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev());
    match (device(path), path.parent().map(device)) {
        (Ok(here), Some(Ok(above))) => here != above,
        _ => false,
    }
}

/// A tmpfs with a few nodes, for kernels without devtmpfs.
fn nodes() -> Result<()> {
    mount(
        "dev",
        "/dev",
        "tmpfs",
        MountFlags::NOSUID,
        Some(c"mode=0755"),
    )
    .during("mount", "tmpfs on /dev")?;
    for (name, mode, major, minor) in NODES {
        node(&format!("/dev/{name}"), mode, makedev(major, minor))?;
    }
    Ok(())
}

fn node(path: &str, mode: u32, device: Dev) -> Result<()> {
    mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(mode),
        device,
    )
    .during("create", path)?;
    // The kernel's umask for PID 1 takes the right to write from others, who need it for /dev/null.
    chmod(path, Mode::from_raw_mode(mode)).during("change mode of", path)
}

/// Standard streams on /dev/console; where it does not open, output to the kernel log and input
/// from nowhere.
fn streams() -> Result<()> {
    let console = above_streams(CONSOLE, OFlags::RDWR);
    let (input, output) = match &console {
        Ok(console) => (console.try_clone(), console.try_clone()),
        Err(_) => {
            let null = above_streams("/dev/null", OFlags::RDWR)?;
            match above_streams("/dev/kmsg", OFlags::WRONLY) {
                Ok(kmsg) => (Ok(null), Ok(kmsg)),
                Err(_) => (null.try_clone(), Ok(null)),
            }
        }
    };
    let input = input.during("duplicate", "standard input")?;
    let output = output.during("duplicate", "standard output")?;
    become_streams(&input, &output)?;
    console.map(|_| ())
}

fn become_streams(input: &OwnedFd, output: &OwnedFd) -> Result<()> {
    dup2_stdin(input).during("open", "standard input")?;
    dup2_stdout(output).during("open", "standard output")?;
    dup2_stderr(output).during("open", "standard error")
}

/// How long a console may take after its driver was loaded: the device tells of it later (virtio).
pub const CONSOLE_WAIT: Duration = Duration::from_millis(500);

/// Opens the console if there was none at first: its driver may be a module, loaded since then
/// (`console=hvc0`). Tries for as long as `patience` says, and at least once.
pub fn take_up_console(patience: Duration) {
    let started = Instant::now();
    while !is_open() {
        // ENODEV where there still is none, EINVAL just before it is complete: the streams stay.
        let opened = above_streams(CONSOLE, OFlags::RDWR)
            .and_then(|console| become_streams(&console, &console));
        match opened {
            Ok(()) => debug!("{CONSOLE} is there now"),
            Err(error) if started.elapsed() >= patience => return debug!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Whether standard input is a console, or what stands in for one in tests; not the /dev/null in its place.
fn is_open() -> bool {
    !fstat(stdin()).is_ok_and(|file| file.st_rdev == makedev(1, 3))
}

/// Whether somebody can type on standard input.
pub fn has_console() -> bool {
    // Not /sys/class/tty/console/active, which leaves out a console that cannot be written to. Without
    // proc there is no telling.
    let consoles = fs::read_to_string("/proc/consoles").unwrap_or_default();
    is_open() && !is_null(&consoles)
}

/// Whether /dev/console is what `console=null` asks for (CONFIG_NULL_TTY), from the text of
/// /proc/consoles: it opens as any other, and a shell there would wait for ever. `C` marks the console
/// behind /dev/console (Documentation/filesystems/proc.rst).
fn is_null(consoles: &str) -> bool {
    consoles
        .lines()
        .any(|line| line.starts_with("ttynull") && line.contains("(EC"))
}

/// Opens a file at a descriptor above the standard ones: the kernel leaves those closed where it
/// has no console.
fn above_streams(path: &str, flags: OFlags) -> Result<OwnedFd> {
    let file = open(
        path,
        flags | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during("open", path)?;
    fcntl_dupfd_cloexec(file, 3).during("duplicate", path)
}

/// Whether this is a ramfs or a tmpfs, as the rootfs of an initramfs is.
pub fn is_in_memory(filesystem: &StatFs) -> bool {
    /// include/uapi/linux/magic.h.
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    // A number of 32 bits, which C libraries have as one of 32 or 64, signed or not.
    matches!(filesystem.f_type as u32, RAMFS_MAGIC | TMPFS_MAGIC)
}

/// Whether this is an overlay.
pub fn is_overlay(filesystem: &StatFs) -> bool {
    /// include/uapi/linux/magic.h.
    const OVERLAYFS_SUPER_MAGIC: u32 = 0x794c_7630;
    filesystem.f_type as u32 == OVERLAYFS_SUPER_MAGIC
}

/// Whether `/` is an overlay: the kernel has assembled the root before it started this program.
pub fn root_is_overlay() -> Result<bool> {
    let filesystem = rustix::fs::statfs("/").during("stat filesystem of", "/")?;
    Ok(is_overlay(&filesystem))
}

/// The kernel command line.
pub fn cmdline() -> Result<String> {
    let bytes = fs::read("/proc/cmdline").during("read", "/proc/cmdline")?;
    // The line's end is the file's, and not part of a last word whose quote is left open.
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// The release of the running kernel, as in /lib/modules.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_for_a_mount_point_leads_to_a_place_of_the_same_name_and_no_other() {
        for (name, place, expected) in [
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
                belongs_at(name, Path::new(place)),
                expected,
                "{name} {place}"
            );
        }
    }

    #[test]
    fn a_console_that_swallows_everything_is_none_to_type_on() {
        let null = "ttynull0             --- (EC     )  252:0\n";
        let other = "ttynull0             --- (E      )  252:0\n";
        let serial = "ttyS0                -W- (EC  p a)    4:64\n";
        let early = "earlyser0            -W- (E   p  )\n";
        for (consoles, expected) in [
            (null.to_string(), true),
            (format!("{null}{early}"), true),
            (format!("{serial}{other}"), false),
            (serial.into(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_null(&consoles), expected, "{consoles}");
        }
    }
}
