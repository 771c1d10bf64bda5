//! Which backend each layer gets, and the bytes that this costs.

use super::context::Check;
use crate::boot::mount::extract;
use crate::bytes::ReadAt;
use crate::format::erofs::Image;
use crate::plan::backend::Backend;
use crate::plan::{Content, Layer, Module, Place, Plan, Root};
use crate::tool::finding::Findings;
use crate::tool::image::boot::Boot;
use crate::tool::image::machine::PAGE_SIZE;
use crate::tool::image::merged::{self, LayerPart};
use crate::tool::kernel_config::KernelConfig;

/// How a layer becomes a part of the new root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Mounted in place by this backend; `None`: the kernel is unknown.
    Mounted(Option<Backend>),
    /// An archive that is unpacked into this many bytes of memory.
    Unpacked(u64),
    /// An image whose files are written into this many bytes of memory.
    Extracted(u64),
    /// No backend mounts it.
    Failed,
}

impl Method {
    /// The bytes of memory that its files take.
    pub fn memory(self) -> u64 {
        match self {
            Self::Mounted(_) | Self::Failed => 0,
            Self::Unpacked(bytes) | Self::Extracted(bytes) => bytes,
        }
    }
}

/// How each layer of a plan is mounted, in order.
pub fn methods(check: &Check, plan: &Plan) -> Vec<Method> {
    let all = matches!(plan.root, Root::Extracted { .. }) || lacks_overlay(check, plan);
    let page_size = check.page_size();
    let method = |(index, layer): (usize, &Layer)| match &layer.content {
        Content::Cpio {
            unpacked, inodes, ..
        } => Method::Unpacked(unpacked.bytes(page_size).saturating_add(*inodes)),
        Content::Squashfs { backends, .. } => {
            let works = |config: &KernelConfig| {
                has_module(check, config, Module::Squashfs)
                    && backends
                        .iter()
                        .any(|backend| supports(check, config, *backend, &layer.place))
            };
            match !all && check.config.is_none_or(works) {
                true => Method::Mounted(Some(Backend::Loop)),
                false => Method::Failed,
            }
        }
        Content::Erofs {
            backends,
            superblock,
        } => {
            let backend = match check.config {
                Some(config) => {
                    let mut works = backends.iter().copied();
                    let works = works.find(|backend| {
                        let mounts = has_module(check, config, Module::Erofs)
                            && superblock.block_size() <= page_size;
                        let filesystem = backend.is_extract() || mounts;
                        filesystem && supports(check, config, *backend, &layer.place)
                    });
                    match works {
                        Some(backend) => Some(backend),
                        None => return Method::Failed,
                    }
                }
                // A kernel of unknown configuration is assumed to mount whatever it may.
                None => backends
                    .iter()
                    .copied()
                    .find(|backend| backends.iter().all(|other| other == backend)),
            };
            match all || backend.is_some_and(Backend::is_extract) {
                true => Method::Extracted(
                    check
                        .layers
                        .image(index)
                        .map_or(0, |image| extracted(image, page_size)),
                ),
                false => Method::Mounted(backend),
            }
        }
    };
    plan.layers.iter().enumerate().map(method).collect()
}

/// The same for an unknown kernel, from the image alone.
pub fn methods_of(image: &(dyn ReadAt + Sync), boot: &Boot, plan: &Plan) -> Vec<Method> {
    let sources = boot.open(image).unwrap_or_default();
    let parts = merged::layer_parts(plan, &sources);
    let method = |(layer, part): (&Layer, &LayerPart)| match &layer.content {
        Content::Cpio {
            unpacked, inodes, ..
        } => Method::Unpacked(unpacked.bytes(PAGE_SIZE).saturating_add(*inodes)),
        Content::Squashfs { .. } => Method::Mounted(Some(Backend::Loop)),
        Content::Erofs {
            superblock,
            backends,
        } => match backends.iter().all(|backend| backend.is_extract()) {
            true => {
                let image = Image::new(part, superblock).ok();
                Method::Extracted(image.map_or(0, |image| extracted(&image, PAGE_SIZE)))
            }
            false => Method::Mounted(None),
        },
    };
    plan.layers.iter().zip(&parts).map(method).collect()
}

/// Whether a kernel with this configuration supports a backend, with the modules of the loader.
pub fn supports(check: &Check, config: &KernelConfig, backend: Backend, place: &Place) -> bool {
    let has = |module: &Module| has_module(check, config, *module);
    let built_in = |option: &&str| config.built_in(option.trim_start_matches("CONFIG_"));
    let patched = ["y", "m"].contains(&config.value("EROFS_FS_MEMBACK"));
    (backend.is_mainline() || patched)
        && backend.is_likely(place, check.boot.options.hints())
        && backend.options().iter().all(built_in)
        && backend.modules().iter().all(has)
}

fn has_module(check: &Check, config: &KernelConfig, module: Module) -> bool {
    match config.value(module.option().trim_start_matches("CONFIG_")) {
        "y" => true,
        "m" => {
            let missing = check.modules.why_missing(config.version, module.name());
            missing.is_none()
        }
        _ => false,
    }
}

/// Whether all layers are written into one tmpfs because the kernel has no overlayfs.
fn lacks_overlay(check: &Check, plan: &Plan) -> bool {
    let overlay = |config| has_module(check, config, Module::Overlay);
    check.config.is_some_and(|config| !overlay(config)) && plan.may_extract_all()
}

/// The bytes of memory that the files of a layer take, in pages of `page_size` bytes. Another check reports an
/// image that cannot be read.
fn extracted(image: &Image, page_size: u64) -> u64 {
    extract::needed_of(image, false).map_or(0, |needed| needed.memory(page_size))
}

/// Notes the backend of each layer, if the kernel's configuration is known.
pub fn backends(check: &Check, findings: &mut Findings) {
    let Some((plan, _)) = check.plan_and_config() else {
        return;
    };
    for (layer, method) in plan.layers.iter().zip(methods(check, plan)) {
        let what = match method {
            Method::Mounted(Some(backend)) => {
                format!(
                    "mounted by {backend}, which keeps its {} bytes",
                    layer.length
                )
            }
            Method::Unpacked(bytes) => format!("unpacked into {bytes} bytes of memory"),
            Method::Extracted(bytes) => format!("by extract, into {bytes} bytes of memory"),
            Method::Mounted(None) | Method::Failed => continue,
        };
        findings.note(format!("{layer}: {what}"));
    }
}
