//! The overlay: layers below, a tmpfs for the writes on top.
//!
//! Source: Documentation/filesystems/overlayfs.rst, fs/overlayfs/params.c.

use std::ffi::{CStr, CString};
use std::fs;

use log::debug;
use rustix::fs::{Gid, Mode, Uid, XattrFlags, chmod, chown, getxattr, listxattr, setxattr, stat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, mount};

use super::context::Context;
use super::{LAYERS, UPPER, layer_directory};
use crate::cmdline::Upper;
use crate::error::{self, Cause, Context as _, Error, Result};

/// Stacks the layers of these numbers, lowest first, at `target`.
pub fn stack(numbers: &[usize], upper: &Upper, root_of: Option<usize>, target: &str) -> Result<()> {
    let writable = match upper {
        Upper::None => false,
        Upper::Tmpfs(options) => {
            upper_tmpfs(options, root_of)?;
            true
        }
    };
    let attributes = match writable {
        true => MountAttrFlags::empty(),
        false => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    // A kernel that takes an option without a value under a name that wants one is not looking at
    // options at all yet: overlayfs got the new mount API in Linux 6.5, and lowerdir+ in 6.8.
    let probe = Context::new("overlay")?;
    if probe.flag("lowerdir+").is_ok() {
        debug!("overlay: the kernel is older than lowerdir+");
        return classic(numbers, writable, target);
    }
    let context = Context::new("overlay")?;
    context.string("source", "overlay")?;
    // The top layer comes first.
    for number in numbers.iter().rev() {
        match context.string("lowerdir+", &layer_directory(*number)) {
            Err(error) if error.errno() == Some(Errno::INVAL) => {
                debug!("overlay: {error}");
                return classic(numbers, writable, target);
            }
            done => done?,
        }
    }
    if writable {
        context.string("upperdir", &format!("{UPPER}/upper"))?;
        context.string("workdir", &format!("{UPPER}/work"))?;
    }
    context.mount(attributes)?.attach(target)
}

/// The same through mount(2), with all layers in one string of at most a page: names relative to
/// the directory of the layers, 500 of which take 1890 bytes.
fn classic(numbers: &[usize], writable: bool, target: &str) -> Result<()> {
    let names: Vec<_> = numbers.iter().rev().map(usize::to_string).collect();
    let mut data = format!("lowerdir={}", names.join(":"));
    let mut flags = MountFlags::RDONLY;
    if writable {
        data.push_str(&format!(",upperdir={UPPER}/upper,workdir={UPPER}/work"));
        flags = MountFlags::empty();
    }
    let data = CString::new(data).unwrap_or_default();
    rustix::process::chdir(LAYERS).during("enter", LAYERS)?;
    let mounted = mount("overlay", target, "overlay", flags, Some(data.as_c_str()));
    rustix::process::chdir("/").during("enter", "/")?;
    mounted.during(
        "mount",
        format_args!(
            "overlay ({}); the kernel log may say more",
            data.to_string_lossy()
        ),
    )
}

/// Mounts the tmpfs that takes the writes, and makes the overlay's two directories in it. The upper
/// directory is what `/` looks like: mode, owner and attributes come from the lowest layer that says.
fn upper_tmpfs(options: &[String], root_of: Option<usize>) -> Result<()> {
    fs::create_dir(UPPER).during("create", UPPER)?;
    let mounted = (|| {
        let context = Context::new("tmpfs")?;
        context.string("source", "upper")?;
        context.string("mode", "0755")?;
        options
            .iter()
            .try_for_each(|option| context.option(option))?;
        context.mount(MountAttrFlags::empty())?.attach(UPPER)
    })();
    mounted.map_err(|error| {
        Error::with(
            "make",
            "the tmpfs for writes (rd.overlay=)",
            Cause::Each(vec![error]),
        )
    })?;
    let upper = format!("{UPPER}/upper");
    let work = format!("{UPPER}/work");
    for directory in [&upper, &work] {
        fs::create_dir(directory).during("create", directory)?;
    }
    match root_of {
        Some(number) => copy_attributes(&layer_directory(number), &upper),
        None => chmod(&upper, Mode::from_raw_mode(0o755)).during("set mode of", upper),
    }
}

/// Makes the directory `to` look like `from`: owner, mode, extended attributes (security labels and
/// ACLs among them).
fn copy_attributes(from: &str, to: &str) -> Result<()> {
    let root = stat(from).during("stat", from)?;
    let (uid, gid) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
    chown(to, Some(uid), Some(gid)).during("set owner of", to)?;
    chmod(to, Mode::from_raw_mode(root.st_mode & 0o7777)).during("set mode of", to)?;
    // XATTR_LIST_MAX and XATTR_SIZE_MAX of include/uapi/linux/limits.h.
    let mut names = vec![0; 65536];
    let mut value = vec![0; 65536];
    let n = match listxattr(from, &mut *names) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno).during("list attributes of", from),
    };
    let names = names.get(..n).unwrap_or_default();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        // What an overlay keeps for itself must not be handed to another one.
        if name.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        let copied = getxattr(from, name, &mut *value).and_then(|n| {
            setxattr(
                to,
                name,
                value.get(..n).unwrap_or_default(),
                XattrFlags::empty(),
            )
        });
        match copied {
            Ok(()) => {}
            // A tmpfs without user attributes (before 6.6, or without TMPFS_XATTR).
            Err(errno @ Errno::OPNOTSUPP) => debug!(
                "{} of {from}: {}",
                name.to_string_lossy(),
                error::name(errno)
            ),
            Err(errno) => {
                let object = format_args!("attribute {} of {from}", name.to_string_lossy());
                return Err(Error::with("copy", object, Cause::Os(errno)));
            }
        }
    }
    Ok(())
}
