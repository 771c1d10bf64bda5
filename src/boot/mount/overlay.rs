//! The overlay: layers below, what takes the writes on top.
//!
//! Source: Documentation/filesystems/overlayfs.rst, fs/overlayfs/params.c.

use std::ffi::CString;

use log::debug;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, UnmountFlags, unmount};

use super::context::{Context, quote};
use super::upper::Mounted;
use crate::boot::kmsg::Records;
use crate::error::{Cause, Context as _, Error, Result};

/// What keeps its traces in an upper: off where the upper is used again, because the layers below it
/// may then be others (Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems").
const KEPT: [(&str, &str); 4] = [
    ("index", "off"),
    ("metacopy", "off"),
    ("redirect_dir", "off"),
    ("xino", "off"),
];

/// Directories to be stacked.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Where they are.
    pub directory: String,
    /// Their names there, lowest first.
    pub names: Vec<String>,
}

/// Stacks the layers at `target`; without `upper`, read-only.
pub fn stack(layers: &Stack, upper: Option<&Mounted>, target: &str) -> Result<()> {
    let options = upper.map_or(Vec::new(), |upper| {
        writable(&upper.directory, upper.device.is_some())
    });
    mount(layers, &options, target)
}

/// Stacks the layers at `target`. Changes go to `directory`/upper, for which there is a
/// `directory`/work, and are good as a layer by themselves.
pub fn collect(layers: &Stack, directory: &str, target: &str) -> Result<()> {
    mount(layers, &writable(directory, true), target)
}

/// The options for changes that go to `directory`, and whether its upper is used again.
fn writable(directory: &str, again: bool) -> Vec<(&'static str, String)> {
    let mut options = vec![
        ("upperdir", format!("{directory}/upper")),
        ("workdir", format!("{directory}/work")),
    ];
    if again {
        options.extend(KEPT.map(|(key, value)| (key, value.to_string())));
    }
    options
}

/// Mounts an overlay; without options, read-only. With them it is an error if it cannot be written to.
fn mount(layers: &Stack, options: &[(&str, String)], target: &str) -> Result<()> {
    if options.is_empty() {
        return attempt(layers, options, target);
    }
    let log = Records::from_now();
    attempt(layers, options, target)?;
    // Where overlayfs finds no room for its work directory it mounts all the same.
    let mounted = statvfs(target).during("stat filesystem of", target)?;
    if !mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    unmount(target, UnmountFlags::DETACH).during("unmount", target)?;
    let error = Error::with("write to", "the overlay", Cause::Os(Errno::ROFS));
    Err(quote(error, log))
}

fn attempt(layers: &Stack, options: &[(&str, String)], target: &str) -> Result<()> {
    let attributes = match options {
        [] => MountAttrFlags::MOUNT_ATTR_RDONLY,
        _ => MountAttrFlags::empty(),
    };
    // A kernel that takes an option without a value under a name that wants one is not looking at
    // options at all yet: overlayfs got the new mount API in Linux 6.5, and lowerdir+ in 6.8.
    let context = Context::new("overlay")?;
    if context.flag("lowerdir+").is_ok() {
        debug!("overlay: the kernel is older than lowerdir+");
        return classic(layers, options, target);
    }
    context.string("source", "overlay")?;
    // The top layer comes first.
    for name in layers.names.iter().rev() {
        match context.string("lowerdir+", &format!("{}/{name}", layers.directory)) {
            Err(error) if error.errno() == Some(Errno::INVAL) => {
                debug!("overlay: {error}");
                return classic(layers, options, target);
            }
            done => done?,
        }
    }
    for (key, value) in options {
        context.string(key, value)?;
    }
    context.mount(attributes)?.attach(target)
}

/// The same through mount(2), with all layers in one string of at most a page: names relative to
/// the directory of the layers, 500 of which take 1890 bytes.
fn classic(layers: &Stack, options: &[(&str, String)], target: &str) -> Result<()> {
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
    let log = Records::from_now();
    let mounted = rustix::mount::mount("overlay", target, "overlay", flags, Some(data.as_c_str()));
    rustix::process::chdir("/").during("enter", "/")?;
    let object = format_args!("overlay ({})", data.to_string_lossy());
    mounted
        .during("mount", object)
        .map_err(|error| quote(error, log))
}
