//! `/init` as PID 1 of a new PID namespace, on the kernel of this machine. The console and the kernel log are
//! files; the real init is a busybox script in a layer.

use super::copy_program;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory for one test, which is removed on drop.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount filesystems: run them as root"
        );
        let name = format!(
            "layerinit-boot-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("this test needs {:?}: {error}", command.get_program()));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// A static busybox: $BUSYBOX, or that of the system.
pub fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::var_os("BUSYBOX").map(PathBuf::from))
        .rfind(|path| path.exists())
        .expect("this test needs a static busybox, in $BUSYBOX or from the package busybox-static")
}

/// A tree with busybox and an init that runs `script`.
pub fn system(directory: &Path, script: &str) {
    for name in ["bin", "sbin", "dev", "proc", "sys", "run", "etc"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    copy_program(busybox(), directory.join("bin/busybox"));
    for applet in [
        "sh", "cat", "ls", "readlink", "stat", "grep", "id", "touch", "sort", "find", "mkdir",
    ] {
        symlink("busybox", directory.join("bin").join(applet)).unwrap();
    }
    let init = directory.join("sbin/init");
    fs::write(&init, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The EROFS image of a directory.
pub fn mkfs(directory: &Path) -> Vec<u8> {
    let image = directory.with_extension("erofs");
    run(Command::new("mkfs.erofs")
        .arg("-T0")
        .arg(&image)
        .arg(directory));
    fs::read(image).unwrap()
}

/// One boot.
pub struct Guest {
    pub scratch: Scratch,
    /// Type of the rootfs.
    pub rootfs: &'static str,
    pub cmdline: &'static str,
    pub arguments: &'static str,
    /// The input of the console.
    pub typed: &'static str,
}

pub struct Outcome {
    pub console: String,
    pub log: String,
    pub status: ExitStatus,
}

/// The shell script that is PID 1 before it executes /init, with a busybox outside of the rootfs. Arguments:
/// the scratch directory, the type of the rootfs, a busybox, arguments of /init.
const START: &str = r#"
set -e
# What this test was started with open is not the kernel's doing.
for fd in $(ls /proc/self/fd); do
    if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
done
cd "$1"
mount --make-rprivate /
if [ "$2" = overlay ]; then
    mkdir -p upper work
    mount -t overlay rootfs -o lowerdir=rootfs,upperdir=upper,workdir=work mnt
else
    mount -t "$2" rootfs mnt
    cp -a rootfs/. mnt
fi
mkdir -p mnt/dev mnt/proc mnt/.old
mount -t tmpfs dev mnt/dev
for node in null:1:3 loop-control:10:237; do
    IFS=: read name major minor <<END
$node
END
    mknod mnt/dev/$name c $major $minor
done
touch mnt/dev/console mnt/dev/kmsg
mount --bind console mnt/dev/console
mount --bind kmsg mnt/dev/kmsg
mount -t proc proc mnt/proc
mount --bind cmdline mnt/proc/cmdline
if [ -e printk ]; then mount --bind printk mnt/proc/sys/kernel/printk; fi
if [ -e full ]; then mount --bind /dev/full mnt/dev/console; fi
tool=$3 arguments=$4
cp "$tool" mnt/busybox-outside
cd mnt
pivot_root . .old
exec /busybox-outside sh -c '/busybox-outside umount -l /.old; /busybox-outside rmdir /.old; /busybox-outside rm /busybox-outside; exec /init '"$arguments"
"#;

impl Guest {
    /// A rootfs with /init, an empty /dev, and `files`.
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let scratch = Scratch::new();
        let root = scratch.join("rootfs");
        fs::create_dir_all(root.join("bin")).unwrap();
        copy_program(env!("CARGO_BIN_EXE_init"), root.join("init"));
        for (name, content) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Self {
            scratch,
            rootfs: "tmpfs",
            cmdline: "",
            arguments: "",
            typed: "",
        }
    }

    pub fn boot(&self) -> Outcome {
        let path = |name: &str| self.scratch.join(name);
        for (name, content) in [
            ("console", self.typed),
            ("kmsg", ""),
            ("cmdline", self.cmdline),
        ] {
            fs::write(path(name), content).unwrap();
        }
        fs::create_dir_all(path("mnt")).unwrap();
        // The default signal actions, with which the kernel starts PID 1, except for one that the test
        // recognises.
        let mut command = Command::new("env");
        command
            .args([
                "--default-signal",
                "--ignore-signal=USR2",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "bash",
                "-c",
                START,
                "bash",
            ])
            .arg(&self.scratch.0)
            .arg(self.rootfs)
            .arg(busybox())
            .arg(self.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/")
            .env("TERM", "linux")
            .env("canary", "alive and well")
            .stdin(Stdio::null());
        let output = command
            .output()
            .expect("this test needs env of coreutils and unshare of util-linux");
        let read =
            |name: &str| String::from_utf8_lossy(&fs::read(path(name)).unwrap()).into_owned();
        Outcome {
            console: read("console") + &String::from_utf8_lossy(&output.stderr),
            log: (0..8).fold(read("kmsg"), |log, level| {
                log.replace(&format!("<{level}>layerinit: "), "\n")
            }),
            status: output.status,
        }
    }
}

impl Outcome {
    /// The console of a boot that reached the end of the real init.
    pub fn reached(&self) -> &str {
        assert!(
            self.status.success(),
            "{}\nconsole:\n{}\nlog:\n{}",
            self.status,
            self.console,
            self.log
        );
        &self.console
    }

    pub fn says(&self, text: &str) -> &Self {
        assert!(
            self.log.contains(text),
            "no {text:?} in\n{}\n{}",
            self.log,
            self.console
        );
        self
    }
}

/// A base and an application as layers. The script is the init of the base.
pub fn two_layers(scratch: &Scratch, script: &str) -> [Vec<u8>; 2] {
    let (base, app) = (scratch.join("base"), scratch.join("app"));
    system(&base, script);
    fs::write(base.join("etc/which"), "base\n").unwrap();
    fs::create_dir_all(app.join("etc")).unwrap();
    fs::write(app.join("etc/which"), "app\n").unwrap();
    [mkfs(&base), mkfs(&app)]
}

/// Boots, and expects a failure with a message.
pub fn failure(guest: &mut Guest, cmdline: &'static str) -> Outcome {
    guest.cmdline = cmdline;
    let outcome = guest.boot();
    // The kernel ends a PID namespace with SIGHUP on restart and SIGINT on power-off.
    assert!(
        matches!(outcome.status.signal(), Some(1 | 2)),
        "{}\n{}",
        outcome.status,
        outcome.log
    );
    outcome
}
