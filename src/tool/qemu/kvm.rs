//! Whether KVM works: on some machines /dev/kvm exists but does not run a kernel (nested virtualization
//! without hardware support).

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};

use crate::tool::build::temp_files::TempFiles;
use crate::tool::platform::Platform;
use crate::tool::progress::Spinner;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's emulator.
    Tcg,
}

impl Accelerator {
    /// The values for the command line.
    pub const NAMES: [(&str, Self); 2] = [("kvm", Self::Kvm), ("tcg", Self::Tcg)];

    /// QEMU's name.
    pub fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(_, accelerator)| *accelerator == self);
        found.map_or("tcg", |(name, _)| *name)
    }
}

/// How long a kernel may take to print its first line. With working KVM, that is less than a second.
const TIMEOUT: Duration = Duration::from_secs(10);

/// No kernel writes more before its first line.
const OUTPUT_MAX: u64 = 1 << 16;

/// Starts the kernel with KVM, and waits for its first line. The result is [`Accelerator::Tcg`] without
/// /dev/kvm, for another architecture, and after any failure.
pub fn probe(emulated: &Platform, kernel: &Path, temp: &TempFiles) -> Accelerator {
    let allowed = access("/dev/kvm", Access::READ_OK | Access::WRITE_OK).is_ok();
    match emulated.name == std::env::consts::ARCH && allowed && boots(emulated, kernel, temp) {
        true => Accelerator::Kvm,
        false => Accelerator::Tcg,
    }
}

fn boots(emulated: &Platform, kernel: &Path, temp: &TempFiles) -> bool {
    let append = format!("console={} {}", emulated.console, emulated.early_console);
    let mut command = Command::new(emulated.program);
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            "-machine",
            emulated.machine,
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            "256",
        ])
        .args(["-serial", "stdio", "-append", &append, "-kernel"])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let _spinner = Spinner::new("try KVM");
    let Ok(mut child) = temp.spawn(&mut command) else {
        return false;
    };
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        read_lines(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        read_lines(stderr, sender.clone());
    }
    // The channel ends with the two threads.
    drop(sender);
    let deadline = Instant::now() + TIMEOUT;
    let mut works = false;
    while let Ok(line) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(verdict) = verdict(&line) {
            works = verdict;
            break;
        }
    }
    // It may have ended already.
    child.kill().unwrap_or(());
    if child.wait().is_ok() {
        temp.forget_child();
    }
    works
}

/// Whether KVM works, according to a line; `None`: it does not tell.
fn verdict(line: &str) -> Option<bool> {
    if line.contains("Linux version ") {
        Some(true)
    } else if line.contains("KVM internal error") || line.contains("failed to initialize kvm") {
        Some(false)
    } else {
        None
    }
}

/// Sends the lines of a stream from a separate thread.
fn read_lines(stream: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream.take(OUTPUT_MAX));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if lines.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_qemu_and_of_the_kernel_decide() {
        let version = "\x1b[2J[    0.000000] Linux version 6.12.118+deb13-cloud-amd64 (debian)\r\n";
        assert_eq!(verdict(version), Some(true));
        assert_eq!(verdict("KVM internal error. Suberror: 1\n"), Some(false));
        let init = "qemu-system-x86_64: -accel kvm: failed to initialize kvm: Permission denied\n";
        assert_eq!(verdict(init), Some(false));
        assert_eq!(verdict("Probing EDD (edd=off to disable)... ok\n"), None);
    }
}
