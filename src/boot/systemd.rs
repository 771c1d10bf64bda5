//! What `/init` passes to systemd as the real init: when the initramfs started, the device below `/`, and what
//! systemd-stub has put into /.extra.
//!
//! An instance of systemd passes its state to the next one in a file, whose descriptor follows
//! `--deserialize`. An initramfs without systemd can write such a file, as booster does: with the line
//! `initrd-timestamp=REALTIME MONOTONIC`, in microseconds, `systemd-analyze` can tell the time of the
//! initramfs from that of the kernel. With `--switched-root` systemd sets up the system as in any boot.
//! Source: manager_deserialize in src/core/manager-serialize.c, and early_skip_setup_check in
//! src/core/main.c; both forms are older than systemd 190.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

use log::{debug, warn};
use rustix::fs::{MemfdFlags, SeekFrom, major, memfd_create, minor, seek, stat};
use rustix::io::{Errno, write};
use rustix::time::ClockId;

use super::clock::microseconds;
use crate::error::{Context, Error, Result};

/// A time on both clocks, in microseconds: since 1970, and since the kernel started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    realtime: u64,
    monotonic: u64,
}

impl Timestamp {
    /// The present time.
    pub fn now() -> Self {
        Self {
            realtime: microseconds(ClockId::Realtime),
            monotonic: microseconds(ClockId::Monotonic),
        }
    }

    /// The state file of a manager with no other state. An empty line ends the manager's own part; no units
    /// follow.
    fn state(self) -> String {
        format!("initrd-timestamp={} {}\n\n", self.realtime, self.monotonic)
    }
}

/// The link to the device below an overlay that systemd-volatile-root creates (src/volatile-root in
/// systemd). Without it systemd-gpt-auto-generator does not know the disk below `/`, and finds neither swap
/// nor /home on it (blockdev_get_root in src/shared/blockdev-util.c).
const VOLATILE_ROOT: &str = "/run/systemd/volatile-root";

/// Links /run/systemd/volatile-root to the device with the node `node`, which is below the overlay that
/// becomes `/`. A failure is logged only: systemd starts without the link, and no other init reads it.
pub fn link_volatile_root(node: &str) {
    if let Err(error) = try_link_volatile_root(node) {
        debug!("{error}; systemd will not know the disk below /");
    }
}

fn try_link_volatile_root(node: &str) -> Result<()> {
    let device = stat(node).during("stat", node)?.st_rdev;
    let target = format!("/dev/block/{}:{}", major(device), minor(device));
    let directory = Path::new(VOLATILE_ROOT).parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).during("create", directory.display())?;
    symlink(target, VOLATILE_ROOT).during("create", VOLATILE_ROOT)
}

/// Where systemd-stub puts what lies beside a unified kernel image (systemd-stub(7)): in an archive, which is a part of
/// the rootfs or a layer.
const EXTRA: &str = ".extra";

/// Credentials that are encrypted, or not to be trusted otherwise (ENCRYPTED_SYSTEM_CREDENTIALS_DIRECTORY in
/// src/shared/creds-util.h).
const CREDENTIALS: &str = "/run/credentials/@encrypted";

/// CREDENTIAL_SIZE_MAX in src/shared/creds-util.h, in bytes; here also for the other files.
const FILE_MAX: u64 = 1 << 20;

/// Files that tmpfiles.d/20-systemd-stub.conf copies in systemd's own initramfs: their names in /.extra and in
/// /run/systemd, and their modes.
const STUB_FILES: [(&str, &str, u32); 5] = [
    ("profile", "stub/profile", 0o444),
    ("os-release", "stub/os-release", 0o444),
    ("boot-secret", "stub/boot-secret", 0o400),
    ("tpm2-pcr-signature.json", "tpm2-pcr-signature.json", 0o444),
    ("tpm2-pcr-public-key.pem", "tpm2-pcr-public-key.pem", 0o444),
];

/// Copies what systemd-stub has put into /.extra of the rootfs and of the new root to /run, as systemd does in its own
/// initramfs (import_credentials_boot in src/core/import-creds.c). Extension images are not copied: systemd merges
/// those of /.extra into the initramfs only. A failure is logged only.
pub fn keep_stub_files(new_root: &str) {
    let roots = [Path::new("/"), Path::new(new_root)];
    let count = if new_root == "/" { 1 } else { roots.len() };
    for root in roots.iter().take(count) {
        let extra = root.join(EXTRA);
        if !is_directory(&extra) {
            continue;
        }
        for (from, to, mode) in STUB_FILES {
            keep_file(&extra.join(from), &Path::new("/run/systemd").join(to), mode);
        }
        for directory in ["credentials", "global_credentials"] {
            keep_credentials(&extra.join(directory));
        }
    }
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|stat| stat.is_dir())
}

/// Copies the files NAME.cred of a directory as NAME.
fn keep_credentials(directory: &Path) {
    if !is_directory(directory) {
        return;
    }
    let mut names: Vec<_> = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
        Err(error) => return debug!("read {}: {error}", directory.display()),
    };
    names.sort();
    for name in names {
        let Some(credential) = name.to_str().and_then(|name| name.strip_suffix(".cred")) else {
            continue;
        };
        // The first of two with one name counts.
        keep_file(
            &directory.join(&name),
            &Path::new(CREDENTIALS).join(credential),
            0o400,
        );
    }
}

/// Copies a regular file to a new one.
fn keep_file(from: &Path, to: &Path, mode: u32) {
    let Ok(stat) = fs::symlink_metadata(from) else {
        return;
    };
    if !stat.is_file() || stat.len() > FILE_MAX {
        return warn!(
            "{}: not a file of at most 1 MiB; systemd does not get it",
            from.display()
        );
    }
    if let Err(error) = try_keep_file(from, to, mode) {
        warn!("{error}; systemd does not get {}", from.display());
    }
}

fn try_keep_file(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(directory) = to.parent() {
        let mode = if directory == Path::new(CREDENTIALS) {
            0o700
        } else {
            0o755
        };
        let created = DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(directory);
        created.during("create", directory.display())?;
    }
    let bytes = fs::read(from).during("read", from.display())?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(to);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        opened => opened.during("create", to.display())?,
    };
    file.write_all(&bytes).during("write", to.display())
}

/// The environment for systemd beside that of the kernel: where the credentials are, if there are any.
/// systemd then imports no others (from the command line, SMBIOS and QEMU), because it assumes that the
/// initramfs has done so. Empty if `init`, a path in the present root, is not systemd's manager.
pub fn environment(init: &str) -> Vec<CString> {
    let has_credentials = is_directory(Path::new(CREDENTIALS));
    match has_credentials && is_manager(Path::new(init)) {
        true => vec![c"ENCRYPTED_CREDENTIALS_DIRECTORY=/run/credentials/@encrypted".into()],
        false => Vec::new(),
    }
}

/// Whether `program` is systemd's manager. Links are followed, because /sbin/init often is one.
/// /usr/lib/systemd/systemd-shutdown is another program.
pub fn is_manager(program: &Path) -> bool {
    fs::canonicalize(program).is_ok_and(|path| path.ends_with("systemd/systemd"))
}

/// The arguments that pass the time `started`, when `/init` started, to systemd; the kernel's arguments
/// follow them. Empty if `init`, a path in the present root, is not systemd's manager, and on failure.
pub fn arguments(init: &str, started: Timestamp) -> Vec<CString> {
    if !is_manager(Path::new(init)) {
        return Vec::new();
    }
    match state_file(started) {
        // It stays open for systemd.
        Ok(file) => deserialize_arguments(file.into_raw_fd()),
        Err(error) => {
            debug!("{error}; systemd-analyze will add the time of the initramfs to the kernel's");
            Vec::new()
        }
    }
}

/// In the order of do_reexecute (src/core/main.c).
fn deserialize_arguments(descriptor: i32) -> Vec<CString> {
    let number = CString::new(descriptor.to_string()).unwrap_or_default();
    let [root, scope, state] = [c"--switched-root", c"--system", c"--deserialize"];
    vec![root.into(), scope.into(), state.into(), number]
}

/// A memfd with the state, which stays open across execve(2), at its start.
fn state_file(started: Timestamp) -> Result<OwnedFd> {
    const NAME: &str = "systemd-state";
    let file = match memfd_create(NAME, MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3. Later kernels warn where neither this flag nor MFD_EXEC is given.
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

    const STARTED: Timestamp = Timestamp {
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
    fn the_arguments_are_those_of_systemds_own_reexecution() {
        let words = deserialize_arguments(7);
        assert_eq!(
            words,
            [c"--switched-root", c"--system", c"--deserialize", c"7"].map(CString::from)
        );
    }

    #[test]
    fn only_systemds_manager_gets_arguments() {
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
