//! `layerinit boot`: starts QEMU with what an image needs, and ends with the status of the guest.

pub mod console;
pub mod kvm;

pub mod command;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::build::temp_files::TempFiles;
use super::check::memory;
use super::check::requirements::has_layers_in_initrd;
use super::image::boot::{Boot, StandIns};
use super::image::input::Initrd;
use super::image::loader_modules::LoaderModules;
use super::kernel_file::{self, Provided};
use super::platform::{self, Platform};
use super::progress::{self, ProgressLevel};
use super::shell;
use crate::bytes::{Opened, ReadAt};
use crate::error::{Context, Error, Result};
use command::{Disk, Guest, Port, command_line};
use console::{Console, Outcome};
use kvm::Accelerator;

/// The memory, in bytes, for the system that runs after the boot.
const ROOM: u64 = 256 << 20;

/// The memory of a machine for an image without a plan, beside the image twice.
const UNPLANNED: u64 = 512 << 20;

/// What the command line says about the machine.
#[derive(Clone, Debug, Default)]
pub struct BootOptions {
    /// The kernel; `None`: see [`kernel_file::find`].
    pub kernel: Option<PathBuf>,
    /// Words for the kernel command line, after those that the image needs.
    pub append: String,
    /// The memory in MiB.
    pub memory: Option<u64>,
    /// The number of processors.
    pub processors: Option<usize>,
    /// Files that become disks.
    pub disks: Vec<PathBuf>,
    /// Ports of this machine that are forwarded to the guest.
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
    // The command line selects the layers, and so the memory.
    let words = format!("retain_initrd {cmdline}");
    let boot = Boot::new(image, &words, &StandIns::default());
    let plan = boot.plan();
    let found = kernel_file::find(image, &boot, options.kernel.as_deref())?;
    let head = found.head(image, &boot)?;
    let emulated = Platform::of_kernel(&head)
        .or_else(|| kernel_file::init_machine(image, &boot))
        .ok_or_else(|| {
            let what = format!(
                "neither the kernel nor /init is for a machine that is known here ({})",
                platform::names().join(", ")
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
    let network_module = network_module(image, &boot);
    let accelerator = match options.accelerator {
        Some(chosen) => chosen,
        None => kvm::probe(emulated, &kernel.path, &temp),
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
        processors: options
            .processors
            .unwrap_or_else(|| processors(accelerator)),
        disks: options
            .disks
            .iter()
            .map(|path| disk(path))
            .collect::<Result<_>>()?,
        ports: options.ports.clone(),
        network_module: network_module == Some(true),
        accelerator,
    };
    if !options.ports.is_empty() && network_module.is_none() {
        let name = command::NETWORK_MODULE;
        eprintln!(
            "warning: the loader has no module {name}: unless the kernel has it built in, the guest has no network; \
             add it with `layerinit build --module {name}`"
        );
    }
    let words = command_line(&guest);
    if options.print {
        for line in [&kernel.prepare, &initrd.prepare].into_iter().flatten() {
            writeln!(out, "{line}").during("write", "standard output")?;
        }
        writeln!(out, "{}", shell::join(&words)).during("write", "standard output")?;
        return Ok(0);
    }
    if progress::level() != ProgressLevel::Quiet {
        eprintln!("{}", shell::join(&words));
        if io::stdin().is_terminal() {
            eprintln!("(Ctrl-A X ends QEMU, Ctrl-A H shows the other keys)");
        }
    }
    let outcome = run(&words, emulated, &temp, out)?;
    if let Some(line) = &outcome.failure {
        eprintln!("layerinit: the guest failed: {line}");
    }
    Ok(outcome.status())
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
    Provided::copy(image, "initrd", temp)
}

/// Whether the loader has the driver of the guest's network interface as a module; `false`: the kernel has it
/// built in; `None`: unknown.
fn network_module(image: &Initrd, boot: &Boot) -> Option<bool> {
    const NAME: &str = command::NETWORK_MODULE;
    let modules = LoaderModules::new(boot, image, None, "");
    let mut releases = modules.releases(None);
    let release = releases.find(|release| modules.problem(release, NAME).is_none())?;
    Some(!release.is_builtin(NAME))
}

/// The default number of processors. With emulation, a kernel that patches its code while another processor runs it
/// can oops (QEMU 7.2 on a loaded machine, in sched_clock_tick()), and more processors make the boot no faster.
fn processors(accelerator: Accelerator) -> usize {
    match accelerator {
        Accelerator::Kvm => thread::available_parallelism().map_or(1, |number| number.get().min(4)),
        Accelerator::Tcg => 1,
    }
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
    emulated: &'static Platform,
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
