//! The plan: why there is none, and which parts the kernel may refuse.

use super::context::Check;
use super::requirements::has_layers_in_initrd;
use crate::plan::backend::Backend;
use crate::plan::{self, Content, Plan, Root, Upper};
use crate::tool::finding::{Findings, Severity};

/// Reports why `/init` makes no plan.
pub fn plan(check: &Check, findings: &mut Findings) {
    if let Err(error) = check.planned
        && !is_unread(check)
    {
        findings.error("plan", error.to_string());
    }
}

/// Whether there is no plan because a source cannot be read to its end, which [`super::segments`] reports.
fn is_unread(check: &Check) -> bool {
    let sources = &check.boot.sources;
    let options = &check.boot.options;
    let layers = || sources.iter().flat_map(plan::layer_segments).next();
    sources.iter().any(|source| source.walk.trouble.is_some())
        && (options.strict || options.root.is_none() && layers().is_none())
}

/// Reports words of the command line that have no effect on the plan.
pub fn command_line(check: &Check, findings: &mut Findings) {
    // The plan's other warnings are about segments, which other checks cover.
    if let Some(plan) = check.plan() {
        for warning in plan.cmdline_warnings.iter().chain(&plan.lost) {
            findings.warning("command line", warning);
        }
    }
}

/// Reports layers that no backend can mount.
pub fn unreachable_layers(check: &Check, findings: &mut Findings) {
    for layer in check.plan().into_iter().flat_map(|plan| &plan.layers) {
        if let Some(why) = layer.unreachable() {
            // A kernel with BLK_DEV_RAM=y has the initrd in a file, which the file backend may reach.
            let severity = match check.boot.options.backends.contains(&Backend::File) {
                true => Severity::Warning,
                false => Severity::Error,
            };
            findings.report(severity, layer, why);
        }
    }
}

/// Reports layers in an initrd that the kernel frees, if its configuration is unknown.
pub fn freed_initrd(check: &Check, findings: &mut Findings) {
    if check.options.cmdline.is_some()
        && check.config.is_none()
        && check.plan().is_some_and(has_layers_in_initrd)
        && !check.boot.options.retain_initrd
    {
        let what = "without retain_initrd the layers after the loader are lost, unless the kernel has \
                    CONFIG_BLK_DEV_RAM=y";
        findings.warning("command line", what);
    }
}

/// Reports mount options that tmpfs does not have.
pub fn tmpfs_options(check: &Check, findings: &mut Findings) {
    let options = match check.plan().map(|plan| &plan.root) {
        Some(Root::Overlay(Upper::Tmpfs(options)) | Root::Extracted { options, .. }) => options,
        _ => &Vec::new(),
    };
    let store = check.plan().and_then(Plan::store);
    let fallback = store.and_then(|store| store.fallback.as_ref());
    // With rd.overlay.for= they are the same.
    let fallback = fallback.filter(|fallback| *fallback != options);
    let options = options.iter().chain(fallback.into_iter().flatten());
    for option in options.filter(|option| !is_tmpfs_option(option)) {
        let what = format!("tmpfs option \"{option}\": unknown here, the kernel may refuse it");
        findings.warning("command line", what);
    }
}

/// Reports images that `/init` reads in full at each boot, because they have no UUID that changes with the
/// content.
pub fn images_without_uuid(check: &Check, findings: &mut Findings) {
    for layer in check
        .plan()
        .filter(|plan| plan.store().is_some())
        .into_iter()
        .flat_map(|plan| &plan.layers)
    {
        if let Content::Erofs { superblock, .. } = &layer.content
            && superblock.uuid == [0; 16]
        {
            let what = "it has no UUID: with rd.overlay=DEVICE, /init reads all of it at each boot to see whether it has \
                        changed (layerinit build makes a UUID, mkfs.erofs -U sets one)";
            findings.warning(layer, what);
        }
    }
}

/// Reports layers that only the file backend may mount, and that are in a tmpfs. The plan has them: without
/// CONFIG_TMPFS the rootfs is a ramfs, and a later kernel may mount a file of a tmpfs.
pub fn files_in_tmpfs(check: &Check, findings: &mut Findings) {
    for layer in check.plan().into_iter().flat_map(|plan| &plan.layers) {
        if let Content::Erofs { backends, .. } = &layer.content
            && layer.place.is_in_initramfs()
            && *backends == [Backend::File]
            && check.boot.options.rootfs_is_tmpfs()
        {
            let what = "rd.layers.backend= names \"file\" alone, and the kernel mounts no file in a tmpfs \
                        (ENOTBLK): allow loop, or boot with rootfstype=ramfs";
            findings.error(layer, what);
        }
    }
}

/// Whether tmpfs has a mount option. Source: `shmem_fs_parameters` in mm/shmem.c of Linux 7.2, and the options of
/// every filesystem.
fn is_tmpfs_option(option: &str) -> bool {
    const FLAGS: [&str; 16] = [
        "async",
        "casefold",
        "dirsync",
        "grpquota",
        "inode32",
        "inode64",
        "lazytime",
        "nolazytime",
        "noswap",
        "quota",
        "ro",
        "rw",
        "seclabel",
        "strict_encoding",
        "sync",
        "usrquota",
    ];
    const VALUES: [&str; 11] = [
        "casefold",
        "context",
        "defcontext",
        "fscontext",
        "gid",
        "huge",
        "mode",
        "mpol",
        "rootcontext",
        "smackfsroot",
        "uid",
    ];
    const SIZES: [&str; 3] = ["nr_blocks", "nr_inodes", "size"];
    match option.split_once('=') {
        None => FLAGS.contains(&option),
        Some((name, value)) if SIZES.contains(&name) => is_size(value),
        Some((name, _)) => VALUES.contains(&name) || name.ends_with("_hardlimit"),
    }
}

/// Whether this is a size: a number as for memparse (lib/cmdline.c), or a percentage.
fn is_size(text: &str) -> bool {
    const SUFFIXES: &str = "kKmMgGtTpPeE%";
    let number = text.strip_suffix(|c| SUFFIXES.contains(c)).unwrap_or(text);
    match number.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).is_ok(),
        None => number.parse::<u64>().is_ok(),
    }
}
