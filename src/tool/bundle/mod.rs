//! Files that boot loaders start instead of a kernel and an initrd: a unified kernel image, a FIT image, an
//! ISO.
//!
//! Programs of the distribution write them: ukify, mkimage, grub-mkrescue.

pub mod fit;
pub mod iso;
pub mod uki;

use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::build::program::run;
use super::build::temp_files::TempFiles;
use super::check::requirements::has_layers_in_initrd;
use super::image::boot::{Boot, StandIns};
use super::image::input::Initrd;
use super::kernel_file::{self, KernelSource, Provided};
use super::platform::{self, Platform};
use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;
use crate::text::Words;
use fit::FitKey;
use uki::Signing;

/// The largest kernel, in bytes, that is decompressed for a FIT image.
const KERNEL_MAX: u64 = 1 << 30;

/// What to write.
#[derive(Clone, Debug, Default)]
pub struct BundleOptions {
    /// The unified kernel image, or the addon if [`is_addon`](Self::is_addon).
    pub uki: Option<PathBuf>,
    /// The FIT image.
    pub fit: Option<PathBuf>,
    /// The ISO.
    pub iso: Option<PathBuf>,
    /// The kernel; `None`: the one in the layers.
    pub kernel: Option<PathBuf>,
    /// The kernel command line; `None`: what the layers need.
    pub cmdline: Option<String>,
    /// The key and the certificate for Secure Boot.
    pub signing: Option<Signing>,
    /// systemd's stub; `None`: the installed one.
    pub stub: Option<PathBuf>,
    /// Device trees for the FIT image.
    pub device_trees: Vec<PathBuf>,
    /// The key for the FIT image.
    pub fit_key: Option<FitKey>,
}

impl BundleOptions {
    /// The first file to write; `None`: there is nothing to do.
    pub fn first(&self) -> Option<&Path> {
        let outputs = [&self.uki, &self.fit, &self.iso];
        outputs.into_iter().flatten().next().map(PathBuf::as_path)
    }

    /// Whether the file for [`uki`](Self::uki) is an addon, which has no kernel and no loader: by its name, as
    /// systemd-stub looks for `*.addon.efi`.
    pub fn is_addon(&self) -> bool {
        self.uki.as_deref().is_some_and(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".addon.efi")
        })
    }

    /// Refuses options that do not fit together.
    ///
    /// # Errors
    /// The options do not fit together; the text is the usage error.
    pub fn check(&self) -> std::result::Result<(), String> {
        if !self.is_addon() {
            return Ok(());
        }
        if self.kernel.is_some() {
            return Err("an addon (*.addon.efi) has no kernel: leave out --kernel".into());
        }
        if self.fit.is_some() || self.iso.is_some() {
            return Err("an addon (*.addon.efi) has no loader, and --fit and --iso need one: build them separately".into());
        }
        Ok(())
    }
}

/// The input of all kinds.
struct Parts<'a> {
    /// The image as a file.
    initrd: &'a Path,
    kernel: Provided,
    platform: &'static Platform,
    cmdline: String,
    /// The text of os-release in the layers.
    os_release: Option<String>,
    temp: &'a TempFiles,
}

/// Writes the files. `initrd` is the image, a plain file. Returns messages, one line each.
///
/// # Errors
/// There is no kernel, or a program is missing or fails. No file is left then.
pub fn write(initrd: &Path, options: &BundleOptions, temp: &TempFiles) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if let Some(output) = options.uki.as_deref().filter(|_| options.is_addon()) {
        finish(
            output,
            uki::write_addon(initrd, output, options, temp)?,
            "addon",
            temp,
            &mut lines,
        )?;
        return Ok(lines);
    }
    let image = Initrd::open(&[initrd.to_path_buf()], 4)?;
    let boot = Boot::new(
        &image,
        options.cmdline.as_deref().unwrap_or("retain_initrd"),
        &StandIns::default(),
    );
    let needs_retaining = boot.plan().as_ref().is_ok_and(has_layers_in_initrd);
    let found = match &options.kernel {
        Some(path) => KernelSource::File(path.clone()),
        None => kernel_file::in_layers(&image, &boot).ok_or_else(|| {
            let what = "there is none in the layers (usr/lib/modules/*/vmlinuz)";
            Error::new("find", "a kernel", what).hint("name one with --kernel")
        })?,
    };
    let head = found.head(&image, &boot)?;
    let platform = Platform::of_kernel(&head).or_else(|| kernel_file::init_machine(&image, &boot));
    let platform = platform.ok_or_else(|| {
        let names = platform::names().join(", ");
        let what =
            format!("neither the kernel nor /init is for a machine that is known here ({names})");
        Error::new("read", "the kernel", what)
    })?;
    let cmdline = match &options.cmdline {
        Some(given) => given.trim().to_string(),
        None if needs_retaining => "retain_initrd".into(),
        None => String::new(),
    };
    let parts = Parts {
        initrd,
        kernel: found.provide(&image, &boot, temp, false)?,
        platform,
        os_release: os_release(&image, &boot),
        temp,
        cmdline,
    };
    // U-Boot takes the command line from its environment.
    let has_cmdline = options.uki.is_some() || options.iso.is_some();
    let retained = Words::new(&parts.cmdline).any(|(name, _)| name == "retain_initrd");
    if has_cmdline && needs_retaining && !retained {
        lines.push(
            "warning: retain_initrd is not on the command line: most kernels free the layers before /init starts".into(),
        );
    }
    let name = platform.name;
    if let Some(output) = &options.uki {
        let what = format!("unified kernel image for {name}");
        finish(
            output,
            uki::write(&parts, output, options)?,
            &what,
            temp,
            &mut lines,
        )?;
    }
    if let Some(output) = &options.fit {
        let what = format!("FIT image for {name}");
        finish(
            output,
            fit::write(&parts, output, options)?,
            &what,
            temp,
            &mut lines,
        )?;
    }
    if let Some(output) = &options.iso {
        let what = format!("ISO for {name}");
        finish(output, iso::write(&parts, output)?, &what, temp, &mut lines)?;
    }
    Ok(lines)
}

/// Gives a written file its name, and adds its line.
fn finish(
    output: &Path,
    written: PathBuf,
    what: &str,
    temp: &TempFiles,
    lines: &mut Vec<String>,
) -> Result<()> {
    let file = File::open(&written).during("open", output.display())?;
    file.sync_all().during("write", output.display())?;
    let size = file.metadata().during("read", output.display())?.len();
    temp.rename(&written, output)?;
    lines.push(format!("{}: {size} bytes, {what}", output.display()));
    Ok(())
}

/// /usr/lib/os-release or /etc/os-release of the layers.
fn os_release(image: &Initrd, boot: &Boot) -> Option<String> {
    /// No such file has more bytes.
    const MAX: usize = 1 << 16;
    let paths: [&[u8]; 2] = [b"usr/lib/os-release", b"etc/os-release"];
    paths.into_iter().find_map(|path| {
        let text = kernel_file::with_content(image, boot, path, |content| {
            let mut bytes = vec![0; MAX];
            let n = content
                .read_at(&mut bytes, 0)
                .during("read", "os-release")?;
            bytes.truncate(n);
            Ok(bytes)
        });
        String::from_utf8(text.ok()?)
            .ok()
            .filter(|text| !text.is_empty())
    })
}

/// Runs a program that writes `output`. Drops its standard output, and shows its messages if it fails.
fn execute(command: &mut Command, package: &str, output: &Path, temp: &TempFiles) -> Result<()> {
    run(
        command.stdin(Stdio::null()).stdout(Stdio::null()),
        package,
        output,
        temp,
    )
}

/// The kernel, decompressed if it is a gzip file: the form for mkimage and U-Boot.
fn plain_kernel(parts: &Parts) -> Result<PathBuf> {
    let path = &parts.kernel.path;
    let context = || path.display().to_string();
    let mut file = BufReader::new(File::open(path).during("open", context())?);
    let head = std::io::BufRead::fill_buf(&mut file).during("read", context())?;
    let Some(codec) = Codec::detect(head).filter(|codec| codec.supported()) else {
        return Ok(path.clone());
    };
    let plain = codec
        .decompress(file, KERNEL_MAX)
        .during("decompress", context())?;
    let target = parts.temp.path("kernel.plain");
    let mut written = File::create(&target).during("create", target.display())?;
    written
        .write_all(&plain)
        .during("write", target.display())?;
    Ok(target)
}

/// Puts a file into a directory under a name: a link, or a copy where that is not possible.
fn place(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).during("copy", from.display()).map(drop)
}
