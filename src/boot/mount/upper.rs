//! The filesystem that overlayfs writes to: a tmpfs, or a directory on a device.

use std::ffi::CStr;
use std::fs;

use log::{debug, info, warn};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, RawMode, XattrFlags, chmod, mkdirat, openat, removexattr,
    setxattr,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};

use super::attributes::copy_attributes;
use super::context::{FsContext, Mount};
use super::device::MountedDevice;
use super::generation::UpperStore;
use super::paths::{create_directory, layer_directory};
use crate::boot::kmsg::warn_on_console;
use crate::error::{self, Context, Error, Result};
use crate::format::superblock::VolumeKind;
use crate::plan::PersistentUpper;
use crate::plan::identity::{StackRecord, UpperState, UpperVerdict, judge};

/// The mounted filesystem that overlayfs writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedUpper {
    /// The directory that holds overlayfs's `upper` and `work`.
    pub directory: String,
    /// Where the filesystem is mounted.
    pub mount: &'static str,
    /// The device; `None` for a tmpfs.
    pub device: Option<MountedDevice>,
    /// What happened to the upper directory on the device; `None` for a tmpfs.
    pub verdict: Option<UpperVerdict>,
    /// The warning that this is the fallback for the device of `rd.overlay=`, with the reason.
    pub fallback: Option<String>,
}

/// Mounts the tmpfs of `rd.overlay.fallback=` at `target`, after `persistent` failed for `why`. Without a
/// fallback, returns the error that ends the boot.
///
/// # Errors
/// There is no fallback, or it cannot be mounted.
pub fn mount_fallback(
    persistent: &PersistentUpper,
    target: &'static str,
    root_of: Option<usize>,
    why: Error,
) -> Result<MountedUpper> {
    let (options, warning) = persistent.fall_back(why)?;
    warn_on_console(&warning);
    let mounted = mount_tmpfs(&options, target, root_of)?;
    Ok(MountedUpper {
        fallback: Some(warning),
        ..mounted
    })
}

/// Mounts a tmpfs at `target`. `root_of` is the number of the layer whose root directory `/` takes owner, mode and
/// attributes from.
pub fn mount_tmpfs(
    options: &[String],
    target: &'static str,
    root_of: Option<usize>,
) -> Result<MountedUpper> {
    create_directory(target)?;
    let mount = || {
        let context = FsContext::new("tmpfs")?;
        context.string("source", "upper")?;
        context.string("mode", "0755")?;
        for option in options {
            context.option(option)?;
        }
        context.mount(MountAttrFlags::empty())?.attach(target)
    };
    mount().during("make", "the tmpfs for writes (rd.overlay=)")?;
    create_upper(&format!("{target}/upper"), root_of)?;
    create_directory(&format!("{target}/work"))?;
    Ok(MountedUpper {
        directory: target.into(),
        mount: target,
        device: None,
        verdict: None,
        fallback: None,
    })
}

/// Attaches the mount of a device at `target`, and makes sure that overlayfs can write to it. `layers` are those
/// that the upper will be written over.
///
/// # Errors
/// The filesystem or the upper directory cannot be used. The caller may fall back to a tmpfs.
pub fn attach_device(
    persistent: &PersistentUpper,
    (device, mount): (MountedDevice, Mount),
    target: &'static str,
    root_of: Option<usize>,
    layers: &StackRecord,
) -> Result<MountedUpper> {
    create_directory(target)?;
    mount.attach(target)?;
    let directory = match persistent.directory.as_str() {
        "" => target.into(),
        below => format!("{target}/{below}"),
    };
    let prepare = || {
        let opened = create_path(target, &persistent.directory, 0o700)?;
        let store = UpperStore {
            directory: &opened,
            path: &directory,
        };
        let verdict = prepare_upper(persistent, &store, root_of, layers)?;
        create_at(&opened, "work", 0o755, &format!("{directory}/work"))?;
        check_upper_support(&directory, &device.fstype)?;
        Ok(verdict)
    };
    let verdict = prepare().inspect_err(|_| detach(target))?;
    Ok(MountedUpper {
        directory,
        mount: target,
        device: Some(device),
        verdict: Some(verdict),
        fallback: None,
    })
}

/// Makes the upper directory and its record, or keeps them, depending on `rd.overlay.stale=` and
/// `rd.overlay.reset`.
fn prepare_upper(
    persistent: &PersistentUpper,
    store: &UpperStore<'_>,
    root_of: Option<usize>,
    layers: &StackRecord,
) -> Result<UpperVerdict> {
    store.recover()?;
    let record = store.record()?;
    let verdict = judge(
        store.has_upper(),
        record.as_deref(),
        layers,
        persistent.stale,
    )?;
    let changes = verdict.changes.join("; ");
    match verdict.state {
        UpperState::New | UpperState::Reset => {
            store.begin(&layers.encode(), &|path| create_upper(path, root_of))?;
        }
        _ if verdict.write_record => store.write_record(&layers.encode())?,
        _ => {}
    }
    match verdict.state {
        UpperState::New | UpperState::Same => {}
        UpperState::Unrecorded => info!("rd.overlay={persistent}: {changes}; recorded now"),
        UpperState::Kept => warn!(
            "rd.overlay={persistent} was written over other layers: {changes}; used anyway \
             (rd.overlay.stale=keep)"
        ),
        UpperState::Reset => warn!(
            "rd.overlay={persistent} is reset: {changes}; earlier writes are in {}/old/upper",
            store.path
        ),
    }
    let begun = matches!(verdict.state, UpperState::New | UpperState::Reset);
    if layers.reset.is_some() && !begun {
        warn!(
            "rd.overlay.reset: already done at an earlier boot with this word; to reset again, boot \
             without it first, or change its value"
        );
    }
    Ok(verdict)
}

/// Unmounts a device that cannot be used, so that the fallback can be mounted there.
pub fn detach(target: &str) {
    if let Err(errno) = unmount(target, UnmountFlags::DETACH) {
        debug!("unmount {target}: {}", error::name(errno));
    }
}

/// Opens a directory, but follows no symbolic link: on a device a link may lead anywhere.
fn open_directory(parent: impl AsFd, name: &str, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).during("open directory", path)
}

/// Creates the missing directories of `path` below `top`, and opens the last one. Follows no link.
pub fn create_path(top: &str, path: &str, mode: RawMode) -> Result<OwnedFd> {
    let mut at = top.to_string();
    let mut directory = open_directory(CWD, top, top)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = format!("{at}/{name}");
        create_at(&directory, name, mode, &at)?;
        directory = open_directory(&directory, name, &at)?;
    }
    Ok(directory)
}

/// Creates a directory unless it exists.
fn create_at(parent: &OwnedFd, name: &str, mode: RawMode, path: &str) -> Result<()> {
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        done => done.during("create", path),
    }
}

/// Creates an upper directory of overlayfs with owner, mode and attributes of the root directory of layer `root_of`.
fn create_upper(path: &str, root_of: Option<usize>) -> Result<()> {
    fs::create_dir(path).during("create", path)?;
    match root_of {
        Some(number) => copy_attributes(&layer_directory(number), path),
        None => chmod(path, Mode::from_raw_mode(0o755)).during("set mode of", path),
    }
}

/// Refuses a filesystem that lacks what overlayfs needs for writes: overlayfs would mount it with only a
/// warning in the kernel log, and lose files (ovl_make_workdir in fs/overlayfs/super.c). `path` holds `upper`
/// and `work`.
///
/// # Errors
/// It lacks extended attributes or file types in directories.
pub fn check_upper_support(path: &str, fstype: &str) -> Result<()> {
    const ATTRIBUTE: &CStr = c"trusted.layerinit";
    let work = format!("{path}/work");
    setxattr(&work, ATTRIBUTE, b"y", XattrFlags::empty())
        .and_then(|()| removexattr(&work, ATTRIBUTE))
        .during("set an extended attribute of", &work)?;
    let directory = open_directory(CWD, path, path)?;
    let entries = Dir::read_from(&directory).during("read directory", path)?;
    for entry in entries {
        let entry = entry.during("read directory", path)?;
        let name = entry.file_name();
        if [c"upper", c"work"].contains(&name) && entry.file_type() != FileType::Directory {
            let (name, kind) = (name.to_string_lossy(), entry.file_type());
            let why = match kind {
                FileType::Unknown => {
                    let feature =
                        VolumeKind::filesystem(fstype).and_then(VolumeKind::d_type_feature);
                    let hint =
                        feature.map(|feature| format!(" (make it with the feature {feature})"));
                    format!(
                        "its {fstype} does not store file types in directories (d_type), which overlayfs \
                         needs{}",
                        hint.unwrap_or_default()
                    )
                }
                _ => "it is not a directory".into(),
            };
            return Err(Error::new("use", format_args!("{path}/{name}"), why));
        }
    }
    Ok(())
}
