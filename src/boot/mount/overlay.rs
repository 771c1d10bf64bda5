//! Mounts overlayfs over the layers.
//!
//! Source: Documentation/filesystems/overlayfs.rst, fs/overlayfs/params.c.

use std::ffi::CString;

use log::debug;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, unmount};

use super::context::{FsContext, quote_kernel_log};
use super::upper::MountedUpper;
use crate::boot::kmsg::KernelRecords;
use crate::error::{Cause, Context, Error, Result};

/// Features that store references to the lower layers in the upper directory. They are off where the upper
/// directory is used again, because the layers below it may differ then
/// (Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems").
const REUSABLE_UPPER: [(&str, &str); 4] = [
    ("index", "off"),
    ("metacopy", "off"),
    ("redirect_dir", "off"),
    ("xino", "off"),
];

/// The lower directories of an overlay.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The directory that holds them.
    pub directory: String,
    /// Their names in it, or paths relative to it, lowest first.
    pub names: Vec<String>,
}

/// Mounts an overlay of the layers at `target`; without `upper`, read-only.
///
/// # Errors
/// The kernel has no overlayfs, refuses a layer, or cannot write to the upper directory (EROFS).
pub fn mount(layers: &Stack, upper: Option<&MountedUpper>, target: &str) -> Result<()> {
    let options = upper.map_or(Vec::new(), |upper| {
        let reusable = upper.device.is_some();
        upper_options(&upper.directory, reusable)
    });
    mount_with(layers, &options, target)
}

/// Mounts an overlay of the layers at `target`, which writes to the directory `upper` of a device; `work` is on the
/// same device.
pub fn mount_directory(layers: &Stack, upper: String, work: String, target: &str) -> Result<()> {
    let mut options = vec![("upperdir", upper), ("workdir", work)];
    options.extend(reusable_upper());
    mount_with(layers, &options, target)
}

/// Mounts an overlay of the layers at `target`, to unpack a further layer there: `directory`/upper becomes
/// that layer. `directory`/work must exist, too.
pub fn mount_for_new_layer(layers: &Stack, directory: &str, target: &str) -> Result<()> {
    mount_with(layers, &upper_options(directory, true), target)
}

/// The mount options for an upper directory in `directory`.
fn upper_options(directory: &str, reusable: bool) -> Vec<(&'static str, String)> {
    let mut options = vec![
        ("upperdir", format!("{directory}/upper")),
        ("workdir", format!("{directory}/work")),
    ];
    if reusable {
        options.extend(reusable_upper());
    }
    options
}

fn reusable_upper() -> [(&'static str, String); 4] {
    REUSABLE_UPPER.map(|(key, value)| (key, value.to_string()))
}

/// Mounts an overlay; without options, read-only. With options, an overlay that is not writable is an error.
fn mount_with(layers: &Stack, options: &[(&str, String)], target: &str) -> Result<()> {
    if options.is_empty() {
        return try_mount(layers, options, target);
    }
    let log = KernelRecords::from_now();
    try_mount(layers, options, target)?;
    // overlayfs mounts read-only where it cannot create its work directory.
    let mounted = statvfs(target).during("stat filesystem of", target)?;
    if !mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    unmount(target, UnmountFlags::DETACH).during("unmount", target)?;
    let error = Error::with("write to", "the overlay", Cause::Os(Errno::ROFS));
    Err(quote_kernel_log(error, log))
}

fn try_mount(layers: &Stack, options: &[(&str, String)], target: &str) -> Result<()> {
    let attributes = match options {
        [] => MountAttrFlags::MOUNT_ATTR_RDONLY,
        _ => MountAttrFlags::empty(),
    };
    // overlayfs parses parameters since Linux 6.5, and has lowerdir+ since 6.8. An older kernel accepts
    // any parameter here, even one that lacks its value.
    let context = FsContext::new("overlay")?;
    if context.flag("lowerdir+").is_ok() {
        debug!("overlay: the kernel does not support lowerdir+");
        return mount_legacy(layers, options, target);
    }
    context.string("source", "overlay")?;
    // overlayfs expects the topmost layer first.
    for name in layers.names.iter().rev() {
        match context.string("lowerdir+", &format!("{}/{name}", layers.directory)) {
            Err(error) if error.errno() == Some(Errno::INVAL) => {
                debug!("overlay: {error}");
                return mount_legacy(layers, options, target);
            }
            done => done?,
        }
    }
    for (key, value) in options {
        context.string(key, value)?;
    }
    context.mount(attributes)?.attach(target)
}

/// Mounts the overlay with mount(2), with all options in one string of at most a page: the layers are named
/// relative to their directory, so that 500 of them take 1890 bytes.
fn mount_legacy(layers: &Stack, options: &[(&str, String)], target: &str) -> Result<()> {
    let names: Vec<_> = layers.names.iter().rev().map(String::as_str).collect();
    let mut data = format!("lowerdir={}", names.join(":"));
    let flags = match options {
        [] => MountFlags::RDONLY,
        _ => MountFlags::empty(),
    };
    for (key, value) in options {
        data.push_str(&format!(",{key}={value}"));
    }
    let data = CString::new(data).unwrap_or_default();
    let directory = &layers.directory;
    rustix::process::chdir(directory).during("enter", directory)?;
    let log = KernelRecords::from_now();
    let mounted = rustix::mount::mount("overlay", target, "overlay", flags, Some(data.as_c_str()));
    rustix::process::chdir("/").during("enter", "/")?;
    let object = format_args!("overlay ({})", data.to_string_lossy());
    mounted
        .during("mount", object)
        .map_err(|error| quote_kernel_log(error, log))
}
