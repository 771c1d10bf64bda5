//! `layerinit boot`: starts QEMU with what an image needs, and ends with the status of the guest.

pub mod console;
pub mod machine;

pub mod kernel;
pub mod kvm;

pub mod command;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::build::temp_files::TempFiles;
use super::check::memory;
use super::check::requirements::has_layers_in_initrd;
use super::image::boot::Boot;
use super::image::input::Initrd;
use super::tmpfile;
use crate::bytes::{Opened, ReadAt, Reader};
use crate::error::{Context, Error, Result};
use command::{Disk, Guest, Port, command_line, shell_words};
use console::{Console, Outcome};
use kvm::Accelerator;
use machine::Emulated;

/// The memory, in bytes, for the system that runs after the boot.
const ROOM: u64 = 256 << 20;

/// The memory of a machine for an image without a plan, beside the image twice.
const UNPLANNED: u64 = 512 << 20;

/// What the command line says of the machine.
#[derive(Clone, Debug, Default)]
pub struct BootOptions {
    /// The kernel; `None`: see [`kernel::find`].
    pub kernel: Option<PathBuf>,
    /// Words for the kernel command line, after those that the image needs.
    pub append: String,
    /// The memory in MiB.
    pub memory: Option<u64>,
    /// The number of processors.
    pub processors: Option<usize>,
    /// Files that become disks.
    pub disks: Vec<PathBuf>,
    /// Ports of this machine that lead to ports of the guest.
    pub ports: Vec<Port>,
    /// The accelerator; `None`: KVM if it boots this kernel.
    pub accelerator: Option<Accelerator>,
    /// Whether only the command is printed.
    pub print: bool,
}

/// Boots an image. Returns the exit status of the guest: 0 if it powers off or restarts.
///
/// # Errors
/// There is no kernel, QEMU is not installed or fails, or `out` cannot be written.
pub fn boot(image: &Initrd, options: &BootOptions, out: &mut dyn Write) -> Result<u8> {
    let cmdline = match &image.cmdline {
        Some(cmdline) => format!("{cmdline} {}", options.append),
        None => options.append.clone(),
    };
    // The command line decides the layers, and so the memory, but not the other way round.
    let boot = Boot::new(image, &format!("retain_initrd {cmdline}"));
    let plan = boot.plan();
    let found = kernel::find(image, &boot, options.kernel.as_deref())?;
    let head = found.head(image, &boot)?;
    let emulated = Emulated::of_kernel(&head)
        .or_else(|| kernel::init_machine(image, &boot))
        .ok_or_else(|| {
            let what = format!(
                "neither the kernel nor /init is for a machine that is known here ({})",
                machine::names().join(", ")
            );
            Error::new("choose", "QEMU's machine", what)
        })?;

    let temp = TempFiles::new(None)?;
    let kernel = found.provide(image, &boot, &temp, options.print)?;
    let initrd = initrd_file(image, &temp, options.print)?;
    let required = match &plan {
        Ok(plan) => memory::of_machine(image, &boot, plan),
        Err(_) => image.size().saturating_mul(2).saturating_add(UNPLANNED),
    };
    let guest = Guest {
        emulated,
        kernel: kernel.path.clone(),
        initrd: initrd.path.clone(),
        image_words: image.cmdline.clone().unwrap_or_default(),
        append: options.append.clone(),
        retain_initrd: plan.as_ref().is_ok_and(has_layers_in_initrd),
        memory: options
            .memory
            .unwrap_or_else(|| command::memory_mib(required.saturating_add(ROOM))),
        processors: options.processors.unwrap_or_else(processors),
        disks: options
            .disks
            .iter()
            .map(|path| disk(path))
            .collect::<Result<_>>()?,
        ports: options.ports.clone(),
        accelerator: match options.accelerator {
            Some(chosen) => chosen,
            None => kvm::probe(emulated, &kernel.path, &temp),
        },
    };
    let words = command_line(&guest);
    if options.print {
        for line in [&kernel.prepare, &initrd.prepare].into_iter().flatten() {
            writeln!(out, "{line}").during("write", "standard output")?;
        }
        writeln!(out, "{}", shell_words(&words)).during("write", "standard output")?;
        return Ok(0);
    }
    eprintln!("{}", shell_words(&words));
    if io::stdin().is_terminal() {
        eprintln!("(Ctrl-A X ends QEMU, Ctrl-A H shows the other keys)");
    }
    let outcome = run(&words, emulated, &temp, out)?;
    if let Some(line) = &outcome.failure {
        eprintln!("layerinit: the guest failed: {line}");
    }
    Ok(outcome.status())
}

/// A file for QEMU, and the shell command that makes it, for --print.
pub struct Provided {
    /// The path for QEMU.
    path: PathBuf,
    /// The command; `None` if the file exists.
    prepare: Option<String>,
    /// Keeps the file open: its path leads through this process.
    _file: Option<File>,
}

impl Provided {
    /// A file that exists.
    fn existing(path: &Path) -> Self {
        Self {
            path: path.into(),
            prepare: None,
            _file: None,
        }
    }
}

/// The image as one file.
fn initrd_file(image: &Initrd, temp: &TempFiles, print: bool) -> Result<Provided> {
    if let Some(path) = image.plain_file() {
        return Ok(Provided::existing(path));
    }
    if print {
        let what = "it consists of several parts, and QEMU takes one file";
        return Err(Error::new("print a command for", &image.name, what)
            .hint("boot it without --print, or join the files with cat"));
    }
    copy_to_temp(image, "initrd", temp)
}

/// Copies bytes into a temporary file for QEMU.
fn copy_to_temp(bytes: &dyn ReadAt, name: &str, temp: &TempFiles) -> Result<Provided> {
    let (mut file, path) = temp.create(name)?;
    let mut reader = Reader::new(bytes, 0);
    io::copy(&mut reader, &mut file).during("write", format_args!("a copy of the {name}"))?;
    Ok(Provided {
        path: path.unwrap_or_else(|| tmpfile::shared_path(&file)),
        prepare: None,
        _file: Some(file),
    })
}

/// At most four: more make the boot under emulation slower.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |number| number.get().min(4))
}

/// The format of a disk, from its first bytes, and whether it may be written.
fn disk(path: &Path) -> Result<Disk> {
    const QCOW2: &[u8; 4] = b"QFI\xfb";
    let file = Opened::open(path)?;
    let mut magic = [0; 4];
    let is_qcow2 = file.read_exact_at(&mut magic, 0).is_ok() && magic == *QCOW2;
    Ok(Disk {
        path: path.into(),
        format: if is_qcow2 { "qcow2" } else { "raw" },
        read_only: File::options().write(true).open(path).is_err(),
    })
}

/// Runs QEMU on this terminal, and copies the guest's console to `out`.
fn run(
    words: &[String],
    emulated: &'static Emulated,
    temp: &TempFiles,
    out: &mut dyn Write,
) -> Result<Outcome> {
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| Error::new("run", "QEMU", "there is no command"))?;
    let mut command = Command::new(program);
    // The terminal is QEMU's: it makes it raw, and restores it at its end.
    command.args(arguments).stdout(Stdio::piped());
    let mut child = match temp.spawn(&mut command) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let error = Error::new("run", program, "it is not installed");
            return Err(error.hint(format!("on Debian: apt install {}", emulated.package)));
        }
        child => child.during("run", program)?,
    };
    let mut console = Console::default();
    if let Some(mut stdout) = child.stdout.take() {
        let mut buffer = [0; 4096];
        loop {
            let n = match stdout.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.during("read", "the guest's console")?,
            };
            let bytes = buffer.get(..n).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            out.write_all(bytes).during("write", "standard output")?;
            out.flush().during("write", "standard output")?;
            console.feed(bytes);
        }
    }
    let status = child.wait().during("wait for", program)?;
    temp.forget_child();
    match status.success() {
        true => Ok(console.outcome()),
        false => Err(Error::new("run", program, status.to_string())),
    }
}
