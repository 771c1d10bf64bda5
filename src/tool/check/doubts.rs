//! Words of the command line that the plan takes, and the kernel may not.

use crate::plan::backend::Backend;
use crate::plan::{Content, PersistentUpper, Place, Plan, Root, Upper};
use crate::tool::image::boot::Boot;
use crate::tool::image::unpack::{Report, Severity};

/// Reports them.
pub fn of(boot: &Boot, plan: &Plan, report: Report) {
    if let Root::Overlay(upper) = &plan.root {
        for option in strange_options(upper) {
            let what = format!("tmpfs option \"{option}\": unknown here, the kernel may refuse it");
            report(Severity::Warning, "command line".into(), what);
        }
    }
    // Not decided by the plan: a kernel without tmpfs has a ramfs, and a newer one might do it.
    for layer in &plan.layers {
        if let (Content::Erofs { backends, .. }, Place::File(_)) = (&layer.content, &layer.place)
            && *backends == [Backend::File]
            && boot.options.rootfs_is_tmpfs()
        {
            let what = "rd.layers.backend= names \"file\" alone, and the kernel mounts no file that lies in a tmpfs \
                        (ENOTBLK): allow loop, or boot with rootfstype=ramfs";
            report(Severity::Error, layer.to_string(), what.into());
        }
    }
}

/// The options of the tmpfs for writes that are none: mm/shmem.c of Linux 7.2, `shmem_fs_parameters`, and
/// what every filesystem takes.
fn strange_options(upper: &Upper) -> Vec<&str> {
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
    let known = |option: &str| match option.split_once('=') {
        None => FLAGS.contains(&option),
        Some((name, value)) if SIZES.contains(&name) => is_size(value),
        Some((name, _)) => VALUES.contains(&name) || name.ends_with("_hardlimit"),
    };
    let options = match upper {
        Upper::Tmpfs(options) => options.as_slice(),
        Upper::Device(PersistentUpper { fallback, .. }) => fallback.as_deref().unwrap_or_default(),
        Upper::None => &[],
    };
    let options = options.iter().map(String::as_str);
    options.filter(|option| !known(option)).collect()
}

/// A number as the kernel reads one (memparse in lib/cmdline.c), or a share.
fn is_size(text: &str) -> bool {
    const ENDINGS: &str = "kKmMgGtTpPeE%";
    let number = text.strip_suffix(|c| ENDINGS.contains(c)).unwrap_or(text);
    match number.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).is_ok(),
        None => number.parse::<u64>().is_ok(),
    }
}
