//! Options of a kernel's configuration that an image needs.

use std::collections::BTreeSet;

use super::backends::supports;
use super::context::Check;
use super::options::LoaderLocation;
use super::requirements::{
    compressed_archives, decompression, has_layers_in_initrd, is_mounted, needs_tmpfs,
};
use crate::format::erofs::Superblock;
use crate::initrd::Kind;
use crate::plan::backend::Backend;
use crate::plan::{Content, Module, Place, Plan};
use crate::text::Words;
use crate::tool::finding::{Findings, Severity};
use crate::tool::image::rootfs::Rootfs;
use crate::tool::kernel_config::KernelConfig;

/// Adds findings about options. Names have no CONFIG_.
struct OptionFindings<'a> {
    config: &'a KernelConfig,
    findings: &'a mut Findings,
}

impl OptionFindings<'_> {
    fn report(&mut self, severity: Severity, option: &str, what: &str) {
        let value = self.config.value(option);
        let place = format_args!("CONFIG_{option}={value}");
        self.findings.report(severity, place, what);
    }

    /// An option that must be built in.
    fn require(&mut self, option: &str, what: &str) {
        if !self.config.built_in(option) {
            self.report(Severity::Error, option, what);
        }
    }

    /// An option that should be built in.
    fn recommend(&mut self, option: &str, what: &str) {
        if !self.config.built_in(option) {
            self.report(Severity::Warning, option, what);
        }
    }
}

/// Reports a bootconfig that the kernel does not look for (setup_boot_config in init/main.c).
pub fn bootconfig(check: &Check, findings: &mut Findings) {
    let Some((_, config)) = check.plan_and_config() else {
        return;
    };
    let walk = check.boot.image().into_iter();
    let mut segments = walk.flat_map(|walk| &walk.segments);
    let intact = Kind::Bootconfig { intact: true };
    let Some(segment) = segments.find(|segment| segment.kind == intact) else {
        return;
    };
    let asked = |cmdline: &str| Words::new(cmdline).any(|(name, _)| name == "bootconfig");
    let (option, why) = match check.options.cmdline.as_deref() {
        _ if !config.built_in("BOOT_CONFIG") => ("BOOT_CONFIG", ""),
        Some(cmdline) if !config.built_in("BOOT_CONFIG_FORCE") && !asked(cmdline) => (
            "BOOT_CONFIG_FORCE",
            "and no bootconfig on the command line: ",
        ),
        _ => return,
    };
    let what = format!("{why}the bootconfig at {:#x} has no effect", segment.offset);
    OptionFindings { config, findings }.report(Severity::Warning, option, &what);
}

/// Reports layers with EROFS features that are newer than the kernel.
pub fn erofs_features(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    let Some(version) = config.version.filter(|_| is_mounted(plan)) else {
        return;
    };
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
            findings.error(layer, what);
        }
    }
}

/// The first kernel, by major and minor number, that has the image's features. Source: mkfs.erofs(1),
/// otherwise the kernel that added the bit to fs/erofs/erofs_fs.h.
fn first_kernel(superblock: &Superblock) -> Option<(u32, u32)> {
    /// Indexed by the bit of feature_incompat.
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

/// Reports options without which the boot fails, and that cannot be modules.
pub fn required(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    let mut options = OptionFindings { config, findings };
    options.require("BLK_DEV_INITRD", "the kernel does not look at the initrd");
    options.require("PROC_FS", "/init reads the command line there");
    options.require(
        "SYSFS",
        "the layers in /sys/firmware/initrd, devices and modules are found there",
    );
    if config.is_disabled("FUTEX") {
        let what = "the threads of /init need it to wait for each other";
        options.require("FUTEX", what);
    }
    for (offset, codec) in compressed_archives(check.boot) {
        let what =
            format!("the kernel cannot unpack the archive at {offset:#x}, nor anything after it");
        options.require(codec.kernel_option().trim_start_matches("CONFIG_"), &what);
    }
    for (index, layer) in plan.layers.iter().enumerate() {
        let image = layer.content.image();
        if !image.is_some_and(|(filesystem, _)| plan.modules.contains(&filesystem)) {
            continue;
        }
        let mut needed = decompression(&layer.content);
        if needed.is_empty() && has_compressed_files(check.root, index) {
            needed.push("CONFIG_EROFS_FS_ZIP");
        }
        for option in needed {
            let what = format!("{layer} needs it to decompress its files");
            options.require(option.trim_start_matches("CONFIG_"), &what);
        }
    }
    if needs_tmpfs(plan) {
        options.require("TMPFS", "/init needs a tmpfs for archives and writes");
    }
}

/// Whether a layer has compressed files. The superblock of an image for Linux 5.2 or older does not say.
fn has_compressed_files(root: &Rootfs, layer: usize) -> bool {
    let mut nodes = root.nodes.iter().filter(|node| node.layer == layer);
    nodes.any(|node| {
        let inode = node.inode.as_ref();
        inode.is_some_and(|inode| inode.is_compressed())
    })
}

/// Reports options without which the boot fails. They may be modules if the loader has the modules.
pub fn modular(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    let mut options = OptionFindings { config, findings };
    let mut require = |option: &str, module: &str, (severity, what): (Severity, &str)| match config
        .value(option)
    {
        "y" => {}
        "m" => match check.modules.why_missing(config.version, module) {
            None => {}
            Some(_) if check.options.loader == LoaderLocation::BuiltIn => {
                let what =
                    format!("the loader that is built into the kernel must hold {module}.ko");
                options.report(Severity::Warning, option, &what);
            }
            Some(why) => options.report(severity, option, &format!("{why}: {what}")),
        },
        _ => options.report(severity, option, what),
    };
    for (option, module) in [
        ("EROFS_FS", Module::Erofs),
        ("SQUASHFS", Module::Squashfs),
        ("OVERLAY_FS", Module::Overlay),
    ] {
        if plan.modules.contains(&module) {
            let (severity, what) = without(plan, module);
            require(option, module.name(), (severity, &what));
        }
    }
    for backend in unsupported(check, plan, config) {
        let patched = Backend::ALL.iter().filter(|other| !other.is_mainline());
        let patched: Vec<_> = patched.map(|backend| backend.name()).collect();
        let (severity, instead) = instead_of_mount(plan);
        let what = format!(
            "without the {backend} backend, this kernel cannot mount the EROFS layers, unless it supports {}{instead}",
            patched.join(" or ")
        );
        // EROFS_FS is reported above. The options are no modules: "y" or "n".
        let modules = backend.modules().iter();
        let needed = modules.map(|module| (module.option(), module.name()));
        for (option, name) in needed.chain(backend.options().iter().map(|option| (*option, ""))) {
            require(
                option.trim_start_matches("CONFIG_"),
                name,
                (severity, &what),
            );
        }
    }
}

/// What a kernel without a module means for the boot, and how bad that is.
pub fn without(plan: &Plan, module: Module) -> (Severity, String) {
    let (severity, instead) = match module {
        Module::Erofs => instead_of_mount(plan),
        Module::Squashfs => (Severity::Error, ""),
        // Another backend may work: memback, file.
        Module::Loop => (Severity::Warning, ""),
        Module::Overlay if plan.may_extract_all() => (
            Severity::Warning,
            "; /init writes all layers into one tmpfs instead",
        ),
        Module::Overlay => (Severity::Error, ""),
    };
    (severity, format!("{}{instead}", module.purpose()))
}

/// What `/init` does with EROFS layers that the kernel cannot mount.
fn instead_of_mount(plan: &Plan) -> (Severity, &'static str) {
    match plan.may_extract_layers() {
        true => (
            Severity::Warning,
            "; /init extracts the layers into memory instead",
        ),
        false => (Severity::Error, ""),
    }
}

/// For layers that no backend can mount with this configuration: the backend that most kernels support.
fn unsupported(check: &Check, plan: &Plan, config: &KernelConfig) -> BTreeSet<Backend> {
    let works = |backend: &Backend, place: &Place| {
        !backend.is_extract() && supports(check, config, *backend, place)
    };
    let mut found = BTreeSet::new();
    for layer in &plan.layers {
        if let Some((_, backends)) = layer.content.image()
            && !backends.iter().any(|backend| works(backend, &layer.place))
        {
            found.extend(Backend::most_portable(backends));
        }
    }
    found
}

/// Reports options without which the system runs but lacks something.
pub fn recommended(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    let mut options = OptionFindings { config, findings };
    options.recommend(
        "DEVTMPFS",
        "/init creates the nodes that it needs, and the real init finds no others in /dev",
    );
    if is_mounted(plan) {
        options.recommend(
            "EROFS_FS_XATTR",
            "capabilities, labels, ACLs and opaque directories of EROFS layers are lost",
        );
    }
    if needs_tmpfs(plan) {
        options.recommend(
            "TMPFS_XATTR",
            "attributes of files that are changed or unpacked are lost",
        );
    }
}

/// Reports layers in an initrd that `/init` cannot read.
pub fn initrd_access(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    if !has_layers_in_initrd(plan) || config.copies_initrd() {
        return;
    }
    let what = match config.version {
        Some(version) if version < (6, 8) => {
            "this kernel is older than 6.8, and has no /sys/firmware/initrd: the layers after \
             the loader are lost (put them into /layers)"
        }
        _ if !check.boot.options.retain_initrd => {
            "without retain_initrd on the command line, the layers after the loader are lost"
        }
        _ => return,
    };
    OptionFindings { config, findings }.report(Severity::Error, "BLK_DEV_RAM", what);
}
