//! The kernel for an image: a file that the user names, one in the image, or this machine's.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::build::temp_files::TempFiles;
use super::image::boot::Boot;
use super::image::input::Initrd;
use super::image::layer_kernels;
use super::image::loader_modules::LoaderModules;
use super::image::merged::{self, Stacking, layer_parts};
use super::platform::{Platform, kernel_head};
use super::progress::LongStep;
use super::shell;
use super::tmpfile;
use crate::bytes::{Opened, ReadAt, Reader};
use crate::error::{Context, Error, Result};
use crate::format::elf::Ident;
use crate::text::shown;

/// The kernel for a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelSource {
    /// A file.
    File(PathBuf),
    /// A file of the layers, by its path in the new root.
    InImage(Vec<u8>),
}

/// A file for another program, and the shell command that creates it, for --print.
pub struct Provided {
    /// The path.
    pub path: PathBuf,
    /// The command; `None` if the file exists.
    pub prepare: Option<String>,
    /// Keeps the file open, because its path leads through this process.
    _file: Option<File>,
}

impl Provided {
    /// A file that exists.
    pub fn existing(path: &Path) -> Self {
        Self {
            path: path.into(),
            prepare: None,
            _file: None,
        }
    }

    /// A temporary copy of these bytes.
    pub fn copy(bytes: &dyn ReadAt, name: &str, temp: &TempFiles) -> Result<Self> {
        let (mut file, path) = temp.create(name)?;
        let progress = LongStep::part(format_args!("copy the {name}"), bytes.size());
        let bytes = progress.watch(bytes, 0);
        io::copy(&mut Reader::new(&bytes, 0), &mut file)
            .during("write", format_args!("a copy of the {name}"))?;
        Ok(Self {
            path: path.unwrap_or_else(|| tmpfile::shared_path(&file)),
            prepare: None,
            _file: Some(file),
        })
    }
}

/// Finds the kernel: `given`; else one in the layers; else that of /boot for which the loader has modules; else, if the
/// loader has none, that of the running system.
///
/// # Errors
/// There is none.
pub fn find(image: &Initrd, boot: &Boot, given: Option<&Path>) -> Result<KernelSource> {
    if let Some(path) = given {
        return Ok(KernelSource::File(path.into()));
    }
    if let Some(found) = in_layers(image, boot) {
        return Ok(found);
    }
    let modules = LoaderModules::new(boot, image, None, "");
    let mut releases: Vec<_> = modules
        .releases(None)
        .map(|release| release.name.clone())
        .collect();
    let of_loader = !releases.is_empty();
    if !of_loader {
        releases.push(
            rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        );
    }
    let files = releases
        .iter()
        .map(|release| PathBuf::from(format!("/boot/vmlinuz-{release}")));
    let files: Vec<_> = files.collect();
    if let Some(path) = files.iter().find(|path| path.is_file()) {
        return Ok(KernelSource::File(path.clone()));
    }
    let looked: Vec<_> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let why = match of_loader {
        true => ", of the modules in the loader",
        false => ", of the running system",
    };
    let what = format!(
        "there is none in the layers (usr/lib/modules/*/vmlinuz), and no {}{why}",
        looked.join(" or ")
    );
    Err(Error::new("find", "a kernel", what).hint("name one with --kernel"))
}

/// The kernel of the highest version in the layers.
pub fn in_layers(image: &Initrd, boot: &Boot) -> Option<KernelSource> {
    let plan = boot.plan().ok()?;
    let sources = boot.open(image).ok()?;
    let parts = layer_parts(&plan, &sources);
    let (root, _, _) = merged::merge(&plan, &sources, &parts, Stacking::default());
    layer_kernels::files(&root, "vmlinuz")
        .pop()
        .map(KernelSource::InImage)
}

impl KernelSource {
    /// The first bytes of the kernel.
    pub fn head(&self, image: &Initrd, boot: &Boot) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => kernel_head(&Opened::open(path)?).during("read", path.display()),
            Self::InImage(path) => with_content(image, boot, path, |content| {
                kernel_head(content).during("read", shown(path))
            }),
        }
    }

    /// The kernel as a file. With `print`, for a kernel in the image, only the name of a file and the command
    /// that extracts it.
    pub fn provide(
        &self,
        image: &Initrd,
        boot: &Boot,
        temp: &TempFiles,
        print: bool,
    ) -> Result<Provided> {
        match self {
            Self::File(path) => Ok(Provided::existing(path)),
            Self::InImage(path) if print => {
                let path = shown(path);
                let version = path.rsplit('/').nth(1).unwrap_or_default();
                let words = ["layerinit", "cat", &image.name, &path].map(String::from);
                let file = format!("vmlinuz-{version}");
                let target = shell::join(std::slice::from_ref(&file));
                Ok(Provided {
                    path: file.into(),
                    prepare: Some(format!("{} >{target}", shell::join(&words))),
                    _file: None,
                })
            }
            Self::InImage(path) => with_content(image, boot, path, |content| {
                Provided::copy(content, "kernel", temp)
            }),
        }
    }
}

/// Calls `use_it` with the content of a file of the new root.
pub fn with_content<T>(
    image: &Initrd,
    boot: &Boot,
    path: &[u8],
    use_it: impl FnOnce(&dyn ReadAt) -> Result<T>,
) -> Result<T> {
    let plan = boot.plan()?;
    let sources = boot.open(image)?;
    let parts = layer_parts(&plan, &sources);
    let (root, layers, _) = merged::merge(&plan, &sources, &parts, Stacking::default());
    let (_, node) = root
        .find(path)
        .ok_or_else(|| Error::new("find", shown(path), "not there"))?;
    let content = layers.content(node).during("read", shown(path))?;
    use_it(&*content)
}

/// The machine of the program that the kernel starts.
pub fn init_machine(image: &Initrd, boot: &Boot) -> Option<&'static Platform> {
    let (_, node) = boot.rootfs.find(boot.options.rdinit.as_bytes())?;
    let program = boot.content(image, node).ok()?;
    Platform::of_program(Ident::read(&*program)?.e_machine)
}
