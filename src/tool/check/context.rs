//! The input of the checks.

use super::options::CheckOptions;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::tool::finding::Findings;
use crate::tool::image::boot::Boot;
use crate::tool::image::input::Initrd;
use crate::tool::image::loader_modules::LoaderModules;
use crate::tool::image::machine::{self, Machine};
use crate::tool::image::merged::{self, Layers, Stacking};
use crate::tool::image::rootfs::Rootfs;
use crate::tool::kernel_config::KernelConfig;

/// An image, the boot to check, and what follows from them.
pub struct Check<'a> {
    /// The image.
    pub image: &'a Initrd,
    /// What is known about the boot.
    pub options: &'a CheckOptions,
    /// The kernel's configuration, if it is known.
    pub config: Option<&'a KernelConfig>,
    /// The rootfs and the sources of layers.
    pub boot: &'a Boot,
    /// The programs that the kernel runs.
    pub machine: &'a Machine,
    /// The kernel modules in the loader.
    pub modules: &'a LoaderModules<'a>,
    /// The plan of `/init`, or why it makes none.
    pub planned: std::result::Result<&'a Plan, &'a Error>,
    /// The files of all layers, stacked; an empty directory without a plan.
    pub root: &'a Rootfs,
    /// The bytes of the layers.
    pub layers: &'a Layers<'a>,
    /// Findings about the content of the layers.
    pub layer_findings: &'a Findings,
}

impl Check<'_> {
    /// The plan of `/init`, if it makes one.
    pub fn plan(&self) -> Option<&Plan> {
        self.planned.ok()
    }

    /// The size of the kernel's pages in bytes; that of most kernels if unknown.
    pub fn page_size(&self) -> u64 {
        let known = self.config.and_then(machine::page_size);
        known.unwrap_or(machine::PAGE_SIZE)
    }

    /// The plan and the kernel's configuration, if both exist.
    pub fn plan_and_config(&self) -> Option<(&Plan, &KernelConfig)> {
        self.plan().zip(self.config)
    }
}

/// Calls `run` with everything that is known about an image. Without a command line, it assumes
/// `retain_initrd`.
///
/// # Errors
/// The image or the kernel's configuration cannot be read.
pub fn with<T>(image: &Initrd, options: &CheckOptions, run: impl FnOnce(&Check) -> T) -> Result<T> {
    let cmdline = options.cmdline.as_deref();
    let config = options.kernel_config.as_deref();
    let config = config.map(KernelConfig::read).transpose()?;
    let boot = Boot::new(
        image,
        cmdline.unwrap_or("retain_initrd"),
        &options.stand_ins,
    );
    let plan = boot.plan();
    let planned = plan.as_ref();
    let sources = match planned {
        Ok(_) => boot.open(image)?,
        Err(_) => Vec::new(),
    };
    let parts = planned.map_or_else(|_| Vec::new(), |plan| merged::layer_parts(plan, &sources));
    let stacking = Stacking {
        changes: options.conflicts,
        as_is: false,
    };
    let (root, layers, layer_findings) = match planned {
        Ok(plan) => merged::merge(plan, &sources, &parts, stacking),
        Err(_) => (Rootfs::empty(), Layers::default(), Findings::default()),
    };
    let config = config.as_ref();
    Ok(run(&Check {
        image,
        options,
        config,
        boot: &boot,
        machine: &Machine::new(&boot, image, config),
        modules: &LoaderModules::new(&boot, image, config, cmdline.unwrap_or_default()),
        planned,
        root: &root,
        layers: &layers,
        layer_findings: &layer_findings,
    }))
}
