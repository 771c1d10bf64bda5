//! What systemd is told when it is the real init: when userspace began, and what device is below `/`.
//!
//! systemd hands its state from one instance to the next in a file, whose descriptor the next one
//! finds after `--deserialize`. An initramfs without systemd can make such a file, too (booster
//! does): the line `initrd-timestamp=REALTIME MONOTONIC` in microseconds is enough for
//! `systemd-analyze` to tell the initramfs from the kernel. With `--switched-root` systemd sets the
//! system up as in any boot. Source: manager_deserialize in src/core/manager-serialize.c, and
//! early_skip_setup_check in src/core/main.c; both forms are older than systemd 190.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use log::debug;
use rustix::fs::{MemfdFlags, SeekFrom, major, memfd_create, minor, seek, stat};
use rustix::io::{Errno, write};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Context, Error, Result};

/// A moment on both clocks, in microseconds: since 1970, and since the kernel's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    realtime: u64,
    monotonic: u64,
}

/// What a clock shows, in microseconds.
pub fn microseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = time.tv_sec.unsigned_abs().saturating_mul(1_000_000);
    seconds.saturating_add(time.tv_nsec.unsigned_abs() / 1000)
}

impl Moment {
    /// Reads the clocks.
    pub fn now() -> Self {
        Self {
            realtime: microseconds(ClockId::Realtime),
            monotonic: microseconds(ClockId::Monotonic),
        }
    }

    /// The state file of an instance that knows nothing but this. An empty line ends what concerns
    /// the whole system; no units follow.
    fn state(self) -> String {
        format!("initrd-timestamp={} {}\n\n", self.realtime, self.monotonic)
    }
}

/// A link to the device below an overlay, as systemd-volatile-root makes it (src/volatile-root in
/// systemd). Without it systemd-gpt-auto-generator sees no disk below `/`, and finds neither swap nor
/// /home on it (blockdev_get_root in src/shared/blockdev-util.c).
const VOLATILE_ROOT: &str = "/run/systemd/volatile-root";

/// Tells that the device whose node is `node` is below the overlay that becomes `/`. What else may be
/// the real init has no use for it, and systemd starts without.
pub fn tell_root_device(node: &str) {
    if let Err(error) = link_root_device(node) {
        debug!("{error}; systemd will not know the disk below /");
    }
}

fn link_root_device(node: &str) -> Result<()> {
    let device = stat(node).during("stat", node)?.st_rdev;
    let target = format!("/dev/block/{}:{}", major(device), minor(device));
    let directory = Path::new(VOLATILE_ROOT).parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).during("create", directory.display())?;
    symlink(target, VOLATILE_ROOT).during("create", VOLATILE_ROOT)
}

/// Whether `program` is systemd's manager, links followed: /sbin/init says nothing, and
/// /usr/lib/systemd/systemd-shutdown is another program.
pub fn is_manager(program: &Path) -> bool {
    fs::canonicalize(program).is_ok_and(|path| path.ends_with("systemd/systemd"))
}

/// The arguments that come before the kernel's when `init`, a path in the present root, is systemd's
/// manager; none for any other program, and where it cannot be done. `started` is when the first
/// program of the initramfs began.
pub fn arguments(init: &str, started: Moment) -> Vec<CString> {
    if !is_manager(Path::new(init)) {
        return Vec::new();
    }
    match state_file(started) {
        // It stays open, for systemd.
        Ok(file) => words(file.into_raw_fd()),
        Err(error) => {
            debug!("{error}; systemd-analyze will count the initramfs as the kernel's");
            Vec::new()
        }
    }
}

/// In the order of systemd's own hand-over (do_reexecute in src/core/main.c).
fn words(descriptor: i32) -> Vec<CString> {
    let number = CString::new(descriptor.to_string()).unwrap_or_default();
    let [root, scope, state] = [c"--switched-root", c"--system", c"--deserialize"];
    vec![root.into(), scope.into(), state.into(), number]
}

/// A file in memory that survives execve(2) and is read from its start.
fn state_file(started: Moment) -> Result<OwnedFd> {
    const NAME: &str = "systemd-state";
    let file = match memfd_create(NAME, MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3; later kernels complain where nothing is said about execution.
        Err(Errno::INVAL) => memfd_create(NAME, MemfdFlags::empty()),
        done => done,
    };
    let file = file.during("create", "systemd's state file")?;
    if file.as_raw_fd() < 3 {
        return Err(Error::new(
            "create",
            "systemd's state file",
            "a standard stream is closed",
        ));
    }
    let state = started.state();
    let written = write(&file, state.as_bytes()).during("write", "systemd's state file")?;
    if written != state.len() {
        return Err(Error::new("write", "systemd's state file", "cut short"));
    }
    seek(&file, SeekFrom::Start(0)).during("rewind", "systemd's state file")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const STARTED: Moment = Moment {
        realtime: 1_700_000_000_123_456,
        monotonic: 987_654,
    };

    #[test]
    fn the_state_file_is_what_systemd_reads_and_is_read_from_its_start() {
        let mut file = fs::File::from(state_file(STARTED).unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "initrd-timestamp=1700000000123456 987654\n\n");
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert_eq!(flags, rustix::io::FdFlags::empty(), "lost at execve(2)");
    }

    #[test]
    fn the_words_are_those_of_systemds_own_hand_over() {
        let words = words(7);
        assert_eq!(
            words,
            [c"--switched-root", c"--system", c"--deserialize", c"7"].map(CString::from)
        );
    }

    #[test]
    fn only_systemds_manager_is_told() {
        let root = std::env::temp_dir().join(format!("layerinit-systemd-{}", std::process::id()));
        fs::create_dir_all(root.join("usr/lib/systemd")).unwrap();
        fs::create_dir_all(root.join("sbin")).unwrap();
        for (name, told) in [
            ("usr/lib/systemd/systemd", true),
            ("usr/lib/systemd/systemd-shutdown", false),
            ("usr/lib/init", false),
            ("sbin/systemd", false),
        ] {
            fs::write(root.join(name), "x").unwrap();
            assert_eq!(is_manager(&root.join(name)), told, "{name}");
            let link = root.join("sbin/init");
            symlink(root.join(name), &link).unwrap();
            assert_eq!(is_manager(&link), told, "link to {name}");
            let words = arguments(link.to_str().unwrap(), STARTED);
            assert_eq!(words.is_empty(), !told, "link to {name}");
            fs::remove_file(link).unwrap();
        }
        assert!(!is_manager(&root.join("sbin/nothing")));
        fs::remove_dir_all(&root).unwrap();
    }
}
