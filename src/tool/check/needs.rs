//! What an image needs of the kernel, and whether a kernel's configuration has it.

use std::collections::BTreeSet;

use super::options::{CheckOptions, Loader};
use crate::format::compress::Codec;
use crate::format::erofs::{INCOMPAT_0PADDING, Superblock};
use crate::format::superblock;
use crate::initrd::Kind;
use crate::plan::backend::Backend;
use crate::plan::{Content, Module, MountSpec, Place, Plan, Root, Upper};
use crate::text::Words;
use crate::tool::image::boot::Boot;
use crate::tool::image::loader_modules::Modules;
use crate::tool::image::rootfs::Rootfs;
use crate::tool::image::unpack::{Report, Severity};
use crate::tool::kernel_config::Config;

/// Whether a layer lies in the initrd itself, rather than in a file that the kernel unpacked.
pub fn in_the_initrd(boot: &Boot, plan: &Plan) -> bool {
    let mut sources = plan
        .layers
        .iter()
        .map(|layer| boot.sources.get(layer.source));
    sources.any(|source| source.is_some_and(|source| source.place == Place::Initrd))
}

/// The compressed archives that the kernel has to unpack: the loader, and what is no layer behind it.
fn compressed<'a>(boot: &'a Boot) -> impl Iterator<Item = (u64, Codec)> + 'a {
    let layers = boot.image_layers();
    let segments = boot.image().into_iter().flat_map(|walk| &walk.segments);
    segments.filter_map(move |segment| match &segment.kind {
        Kind::Cpio(cpio) if cpio.by_kernel && !layers.contains(&segment.offset) => {
            Some((segment.offset, cpio.codec?))
        }
        _ => None,
    })
}

/// Kernel options (built in or as modules in the loader) and command-line words that the image needs.
pub fn of(boot: &Boot, plan: &Plan) -> BTreeSet<&'static str> {
    let mut needs = BTreeSet::from(["CONFIG_BLK_DEV_INITRD"]);
    needs.extend(compressed(boot).map(|(_, codec)| codec.kernel_option()));
    for layer in &plan.layers {
        if let Content::Cpio { .. } = &layer.content {
            needs.insert("CONFIG_TMPFS");
        }
        if let Content::Erofs {
            superblock,
            backends,
        } = &layer.content
            && let Some(backend) = Backend::most_portable(backends)
        {
            needs.extend(decompressors(superblock));
            needs.extend(backend.options());
            needs.extend(backend.modules().iter().map(|module| module.option()));
        }
    }
    if let Root::Overlay(upper) = &plan.root {
        needs.insert("CONFIG_OVERLAY_FS");
        if upper_in_memory(upper) {
            needs.insert("CONFIG_TMPFS");
        }
    }
    if in_the_initrd(boot, plan) {
        needs.insert("retain_initrd");
    }
    needs
}

/// Whether writes go to a tmpfs, or may have to.
fn upper_in_memory(upper: &Upper) -> bool {
    match upper {
        Upper::Tmpfs(_) => true,
        Upper::Device(store) => store.fallback.is_some(),
        Upper::None => false,
    }
}

/// The options for reading a compressed image. One of before the compr_cfgs feature does not say
/// whether it is compressed; with 0padding it could be, by lz4.
fn decompressors(superblock: &Superblock) -> Vec<&'static str> {
    let mut needs = Vec::new();
    for algorithm in superblock.algorithms() {
        needs.extend(match algorithm.as_str() {
            "lzma" => Some("CONFIG_EROFS_FS_ZIP_LZMA"),
            "deflate" => Some("CONFIG_EROFS_FS_ZIP_DEFLATE"),
            "zstd" => Some("CONFIG_EROFS_FS_ZIP_ZSTD"),
            _ => None,
        });
    }
    if superblock.feature_incompat & INCOMPAT_0PADDING != 0 {
        needs.push("CONFIG_EROFS_FS_ZIP");
    }
    needs
}

impl Rootfs {
    /// Whether a layer has compressed files. Images that Linux 5.2 could read have them, or not, without
    /// a word in the superblock.
    fn has_compressed(&self, layer: usize) -> bool {
        let mut inodes = self.nodes.iter().filter(|node| node.layer == layer);
        inodes.any(|node| {
            let inode = node.inode.as_ref();
            inode.is_some_and(|inode| inode.is_compressed())
        })
    }
}

/// The first kernel, by major and minor number, that knows the image's features. Source: mkfs.erofs(1),
/// and for what it does not say the kernel that added the bit to fs/erofs/erofs_fs.h.
fn first_kernel(superblock: &Superblock) -> Option<(u32, u32)> {
    /// By bit of feature_incompat.
    const SINCE: [(u32, u32); 9] = [
        (5, 4),
        (5, 13),
        (5, 15),
        (5, 16),
        (5, 17),
        (6, 1),
        (6, 4),
        (6, 15),
        (6, 17),
    ];
    let bits = (0..).zip(SINCE);
    bits.filter(|(bit, _)| superblock.feature_incompat >> bit & 1 != 0)
        .map(|(_, since)| since)
        .max()
}

/// Why a kernel mounts none of the types that are named for a device; `None`: it mounts one, or that is
/// not known.
fn no_filesystem(config: &Config, modules: &Modules, device: &MountSpec) -> Option<String> {
    let mut refusals = Vec::new();
    for fstype in &device.types {
        let (option, module) = superblock::VolumeKind::filesystem(fstype)?.driver()?;
        refusals.push(match config.value(option) {
            "y" => return None,
            "m" => format!(
                "CONFIG_{option}=m, and {}",
                modules.lacks(config.version, module)?
            ),
            value => format!("CONFIG_{option}={value}"),
        });
    }
    let what = format!("{} cannot be mounted: {}", device.spec, refusals.join("; "));
    Some(what).filter(|_| !refusals.is_empty())
}

/// For layers that no backend can mount with this configuration: the backend that most kernels support.
fn unsupported(config: &Config, boot: &Boot, plan: &Plan, modules: &Modules) -> BTreeSet<Backend> {
    let has = |module: &Module| match config.value(module.option().trim_start_matches("CONFIG_")) {
        "y" => true,
        "m" => modules.lacks(config.version, module.name()).is_none(),
        _ => false,
    };
    let built_in = |option: &&str| config.built_in(option.trim_start_matches("CONFIG_"));
    let works = |backend: &Backend, place: &Place| {
        backend.is_mainline()
            && !backend.is_extract()
            && backend.is_likely(place, boot.options.hints())
            && backend.options().iter().all(built_in)
            && backend.modules().iter().all(has)
    };
    let mut found = BTreeSet::new();
    for layer in &plan.layers {
        if let Content::Erofs { backends, .. } = &layer.content
            && !backends.iter().any(|backend| works(backend, &layer.place))
        {
            found.extend(Backend::most_portable(backends));
        }
    }
    found
}

/// Reports layers whose features are newer than the kernel.
fn features(version: (u32, u32), plan: &Plan, report: Report) {
    for layer in &plan.layers {
        if let Content::Erofs { superblock, .. } = &layer.content
            && let Some(since) = first_kernel(superblock).filter(|since| version < *since)
        {
            let what = format!(
                "it needs Linux {}.{} or newer ({}), and this is the configuration of {}.{}",
                since.0,
                since.1,
                superblock.features().join(" "),
                version.0,
                version.1
            );
            report(Severity::Error, layer.to_string(), what);
        }
    }
}

/// Reports a bootconfig that the kernel does not look for (setup_boot_config in init/main.c).
fn bootconfig(config: &Config, boot: &Boot, cmdline: Option<&str>, report: Report) {
    let mut segments = boot.image().into_iter().flat_map(|walk| &walk.segments);
    let intact = Kind::Bootconfig { intact: true };
    let Some(segment) = segments.find(|segment| segment.kind == intact) else {
        return;
    };
    let asked = |cmdline: &str| Words::new(cmdline).any(|(name, _)| name == "bootconfig");
    let (option, why) = match cmdline {
        _ if !config.built_in("BOOT_CONFIG") => ("BOOT_CONFIG", ""),
        Some(cmdline) if !config.built_in("BOOT_CONFIG_FORCE") && !asked(cmdline) => (
            "BOOT_CONFIG_FORCE",
            "and no bootconfig on the command line: ",
        ),
        _ => return,
    };
    let place = format!("CONFIG_{option}={}", config.value(option));
    let what = format!("{why}the bootconfig at {:#x} has no effect", segment.offset);
    report(Severity::Warning, place, what);
}

/// Reports what of an image's needs a kernel does not have, and what comes of that. `root` is what the
/// layers make.
pub fn compare(
    config: &Config,
    boot: &Boot,
    plan: &Plan,
    root: &Rootfs,
    modules: &Modules,
    options: &CheckOptions,
    report: Report,
) {
    let loader_built_in = options.loader == Loader::BuiltIn;
    bootconfig(config, boot, options.cmdline.as_deref(), report);
    if let Some(version) = config.version {
        features(version, plan, report);
    }
    let mut say = |severity, option: &str, what: &str| {
        let value = config.value(option);
        report(severity, format!("CONFIG_{option}={value}"), what.into());
    };
    let mut must = |option: &str, what: &str| {
        if !config.built_in(option) {
            say(Severity::Error, option, what);
        }
    };
    must("BLK_DEV_INITRD", "the kernel does not look at the initrd");
    must("PROC_FS", "/init reads the command line there");
    must(
        "SYSFS",
        "the layers in /sys/firmware/initrd, devices and modules are found there",
    );
    if config.is_off("FUTEX") {
        must(
            "FUTEX",
            "/init has threads, which need it to wait for each other",
        );
    }
    for (offset, codec) in compressed(boot) {
        let what =
            format!("the kernel cannot unpack the archive at {offset:#x}, nor anything behind it");
        must(codec.kernel_option().trim_start_matches("CONFIG_"), &what);
    }
    let mut images = 0usize;
    let mut archives = 0usize;
    for (index, layer) in plan.layers.iter().enumerate() {
        match &layer.content {
            Content::Cpio { .. } => archives = archives.saturating_add(1),
            Content::Erofs { superblock, .. } => {
                images = images.saturating_add(1);
                let mut options = decompressors(superblock);
                if options.is_empty() && root.has_compressed(index) {
                    options.push("CONFIG_EROFS_FS_ZIP");
                }
                for option in options {
                    let what = format!("{layer} is compressed so, and cannot be mounted or read");
                    must(option.trim_start_matches("CONFIG_"), &what);
                }
            }
        }
    }
    let upper = matches!(&plan.root, Root::Overlay(upper) if upper_in_memory(upper));
    if archives > 0 || upper {
        must("TMPFS", "archives and writes have nowhere to go");
    }

    // What may be a module, if the loader has it.
    let mut module = |option: &str, module: &str, what: &str| match config.value(option) {
        "y" => {}
        "m" => match modules.lacks(config.version, module) {
            None => {}
            Some(_) if loader_built_in => {
                let what =
                    format!("the loader that is built into the kernel must hold {module}.ko");
                say(Severity::Warning, option, &what);
            }
            Some(why) => say(Severity::Error, option, &format!("{why}: {what}")),
        },
        _ => say(Severity::Error, option, what),
    };
    if images > 0 {
        module("EROFS_FS", "erofs", Module::Erofs.purpose());
    }
    if matches!(plan.root, Root::Overlay(_)) {
        module("OVERLAY_FS", "overlay", Module::Overlay.purpose());
    }
    for backend in unsupported(config, boot, plan, modules) {
        let patched = Backend::ALL.iter().filter(|other| !other.is_mainline());
        let patched: Vec<_> = patched.map(|backend| backend.name()).collect();
        let what = format!(
            "without the {backend} backend, this kernel cannot mount the EROFS layers, unless it supports {}",
            patched.join(" or ")
        );
        // EROFS_FS is reported above. The options are no modules: "y" or "n".
        let needed = backend
            .modules()
            .iter()
            .filter(|module| **module != Module::Erofs);
        let needed = needed.map(|module| (module.option(), module.name()));
        for (option, name) in needed.chain(backend.options().iter().map(|option| (*option, ""))) {
            module(option.trim_start_matches("CONFIG_"), name, &what);
        }
    }

    for device in plan.devices() {
        if let Some(what) = no_filesystem(config, modules, device).filter(|_| !loader_built_in) {
            let place = format!("rootfstype={}", device.types.join(","));
            report(Severity::Error, place, what);
        }
    }
    let mut say = |severity, option: &str, what: &str| {
        let value = config.value(option);
        report(severity, format!("CONFIG_{option}={value}"), what.into());
    };
    let mut should = |option: &str, what: &str| {
        if !config.built_in(option) {
            say(Severity::Warning, option, what);
        }
    };
    should(
        "DEVTMPFS",
        "/init makes device nodes by hand, and the real init finds no others in /dev",
    );
    if images > 0 {
        should(
            "EROFS_FS_XATTR",
            "capabilities, labels, ACLs and opaque directories of EROFS layers are lost",
        );
    }
    if archives > 0 || upper {
        should(
            "TMPFS_XATTR",
            "attributes of files that are changed or unpacked are lost",
        );
    }
    if in_the_initrd(boot, plan) && !config.copies_initrd() {
        match config.version {
            Some(version) if version < (6, 8) => {
                let what = "this kernel is older than 6.8, and has no /sys/firmware/initrd: the layers behind \
                            the loader are lost (put them into /layers)";
                say(Severity::Error, "BLK_DEV_RAM", what);
            }
            _ if !boot.options.retain_initrd => {
                let what = "and no retain_initrd on the command line: the layers behind the loader are lost";
                say(Severity::Error, "BLK_DEV_RAM", what);
            }
            _ => {}
        }
    }
}
