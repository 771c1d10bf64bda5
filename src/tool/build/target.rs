//! The architecture of an image.

use std::path::Path;

use super::depmod::{self, ModuleSelection};
use crate::bytes::Opened;
use crate::error::{Context, Error, Result};
use crate::format::elf::Ident;
use crate::tool::platform::{Platform, kernel_head};

/// The architecture of a kernel, from its file, else from its modules; `None` if neither shows it.
///
/// # Errors
/// A file cannot be read.
pub fn of_kernel(
    kernel: Option<&Path>,
    modules: Option<(&Path, &ModuleSelection)>,
) -> Result<Option<&'static Platform>> {
    if let Some(path) = kernel {
        let head = kernel_head(&Opened::open(path)?).during("read", path.display())?;
        if let Some(platform) = Platform::of_kernel(&head) {
            return Ok(Some(platform));
        }
    }
    let module = match modules {
        Some((root, modules)) => depmod::a_module(root, modules.kernel.as_deref())?,
        None => None,
    };
    let ident = module.and_then(|module| Ident::decode(&module));
    Ok(ident.and_then(|ident| Platform::of_program(ident.e_machine)))
}

/// Refuses an `/init` that is not for the architecture of `--target`.
///
/// # Errors
/// It is for another architecture, or cannot be read.
pub fn check_init(init: &Path, target: &Platform) -> Result<()> {
    let program = Opened::open(init).during("open", init.display())?;
    let of = Ident::read(&program).and_then(|ident| Platform::of_program(ident.e_machine));
    match of.filter(|of| of.name != target.name) {
        None => Ok(()),
        Some(of) => {
            let what = format!("a program for {}, and --target is {}", of.name, target.name);
            let error = Error::new("use as /init", init.display(), what);
            Err(error.hint("name another one with --init"))
        }
    }
}
