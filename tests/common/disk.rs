//! Loop devices as disks. Needs root, loop devices, and the tools that make filesystems.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fs, thread};

/// Runs a program of a Debian package, and returns its standard output.
pub fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}; this test needs the Debian package {package}")
        });
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// A file with an image, which is removed on drop.
pub struct Image(pub PathBuf);

impl Image {
    pub fn new(size: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("layerinit-device-{}-{number}", std::process::id()));
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        Self(path)
    }

    pub fn ext4(uuid: &str, label: &str) -> Self {
        let image = Self::new(4 << 20);
        let path = image.path();
        run(
            "e2fsprogs",
            "mkfs.ext4",
            &["-q", "-F", "-U", uuid, "-L", label, path],
        );
        image
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An ext4 with the files of a tree.
pub fn ext4_of(tree: &Path) -> Image {
    let image = Image::new(16 << 20);
    let arguments = ["-q", "-F", "-d", tree.to_str().unwrap(), image.path()];
    run("e2fsprogs", "mkfs.ext4", &arguments);
    image
}

/// A loop device on an image, which is detached on drop: its node, and the path of the image.
pub struct Loop(pub String, String);

impl Loop {
    pub fn attach(image: &Image) -> Self {
        let arguments = ["--find", "--show", image.path()];
        Self(run("mount", "losetup", &arguments), image.path().into())
    }

    /// Attaches a read-only loop device.
    pub fn read_only(image: &Image) -> Self {
        let arguments = ["--read-only", "--find", "--show", image.path()];
        Self(run("mount", "losetup", &arguments), image.path().into())
    }

    /// The name, such as `loop7`.
    pub fn name(&self) -> &str {
        self.0.strip_prefix("/dev/").unwrap()
    }

    /// Tells the kernel about the partitions in its table, for kernels that do not read partition tables
    /// themselves.
    pub fn partitions(self) -> Self {
        run("util-linux", "partx", &["--add", &self.0]);
        self
    }
}

/// Other tests open every device, so this one may be busy for a moment. Partitions must not remain for the
/// next user of the device.
impl Drop for Loop {
    fn drop(&mut self) {
        let directory = Path::new("/sys/class/block").join(self.name());
        let clear = || {
            let partition = |entry: fs::DirEntry| entry.path().join("partition").exists();
            let mut entries = fs::read_dir(&directory).unwrap();
            !entries.any(|entry| entry.is_ok_and(partition))
        };
        // Another test may be using it already.
        let backing = || fs::read_to_string(directory.join("loop/backing_file"));
        let ours = |file: String| file.trim_end().trim_end_matches(" (deleted)") == self.1;
        let free = || !backing().is_ok_and(ours);
        let program = |program: &str, option: &str| {
            let _ = Command::new(program).args([option, &self.0]).output();
        };
        for _ in 0..100 {
            // Once it is detached, its partitions are those of the next test.
            if free() {
                return;
            }
            match clear() {
                false => program("partx", "--delete"),
                true => program("losetup", "--detach"),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A UUID that is unique among all tests and devices.
pub fn fresh_uuid() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    text.trim().to_string()
}
