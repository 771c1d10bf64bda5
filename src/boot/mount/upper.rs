//! The filesystem that overlayfs writes to: a tmpfs, or a directory on a device.

use std::ffi::CStr;

use log::debug;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, XattrFlags, chmod, mkdirat, openat,
    removexattr, renameat, setxattr, statat,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};

use super::attributes::copy_attributes;
use super::context::{FsContext, Mount};
use super::device::MountedDevice;
use super::paths::{UPPER, create_directory, layer_directory};
use crate::boot::kmsg::warn_on_console;
use crate::error::{self, Context, Error, Result};
use crate::format::superblock::VolumeKind;
use crate::plan::PersistentUpper;

/// The mounted filesystem that overlayfs writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedUpper {
    /// The directory that holds overlayfs's `upper` and `work`.
    pub directory: String,
    /// The device; `None` for a tmpfs.
    pub device: Option<MountedDevice>,
    /// The warning that this is the fallback for the device of `rd.overlay=`, with the reason.
    pub fallback: Option<String>,
}

/// Mounts the tmpfs of `rd.overlay.fallback=`, after `persistent` failed for `why`. Without a fallback, returns
/// the error that ends the boot.
pub fn mount_fallback(
    persistent: &PersistentUpper,
    root_of: Option<usize>,
    why: Error,
) -> Result<MountedUpper> {
    let (options, warning) = persistent.fall_back(why)?;
    warn_on_console(&warning);
    let mounted = mount_tmpfs(&options, root_of)?;
    Ok(MountedUpper {
        fallback: Some(warning),
        ..mounted
    })
}

/// Mounts a tmpfs at [`UPPER`]. `root_of` is the number of the layer whose root directory `/` takes owner,
/// mode and attributes from.
pub fn mount_tmpfs(options: &[String], root_of: Option<usize>) -> Result<MountedUpper> {
    create_directory(UPPER)?;
    let mount = || {
        let context = FsContext::new("tmpfs")?;
        context.string("source", "upper")?;
        context.string("mode", "0755")?;
        for option in options {
            context.option(option)?;
        }
        context.mount(MountAttrFlags::empty())?.attach(UPPER)
    };
    mount().during("make", "the tmpfs for writes (rd.overlay=)")?;
    let directory = open_directory(CWD, UPPER, UPPER)?;
    create_upper(&directory, UPPER, root_of)?;
    Ok(MountedUpper {
        directory: UPPER.into(),
        device: None,
        fallback: None,
    })
}

/// Attaches the mount of a device at [`UPPER`], and makes sure that overlayfs can write to it.
pub fn attach_device(
    persistent: &PersistentUpper,
    device: MountedDevice,
    mount: Mount,
    root_of: Option<usize>,
) -> Result<MountedUpper> {
    create_directory(UPPER)?;
    mount.attach(UPPER)?;
    let directory = match persistent.directory.as_str() {
        "" => UPPER.into(),
        below => format!("{UPPER}/{below}"),
    };
    let prepare = || {
        let opened = create_path(&persistent.directory)?;
        create_upper(&opened, &directory, root_of)?;
        check_upper_support(&directory, &device.fstype)
    };
    prepare().inspect_err(|_| detach())?;
    Ok(MountedUpper {
        directory,
        device: Some(device),
        fallback: None,
    })
}

/// Unmounts a device that cannot be used, to make way for the fallback.
pub fn detach() {
    if let Err(errno) = unmount(UPPER, UnmountFlags::DETACH) {
        debug!("unmount {UPPER}: {}", error::name(errno));
    }
}

/// Opens a directory, but follows no symbolic link: on a device a link may lead anywhere.
fn open_directory(parent: impl AsFd, name: &str, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).during("open directory", path)
}

/// Creates the missing directories of `path` below [`UPPER`], accessible to root only, and opens the last one.
fn create_path(path: &str) -> Result<OwnedFd> {
    let mut at = UPPER.to_string();
    let mut directory = open_directory(CWD, UPPER, UPPER)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = format!("{at}/{name}");
        create_at(&directory, name, 0o700, &at)?;
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

/// Creates the directories `upper` and `work` of overlayfs in `path` unless they exist. A new `upper` takes
/// owner, mode and attributes from the root directory of layer `root_of`. It is renamed into place: one that a
/// power failure left unfinished is not used.
fn create_upper(directory: &OwnedFd, path: &str, root_of: Option<usize>) -> Result<()> {
    const NEW: &str = "upper.new";
    create_at(directory, "work", 0o755, &format!("{path}/work"))?;
    let upper = format!("{path}/upper");
    match statat(directory, "upper", AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        done => return done.during("stat", upper).map(|_| ()),
    }
    let new = format!("{path}/{NEW}");
    create_at(directory, NEW, 0o755, &new)?;
    match root_of {
        Some(number) => copy_attributes(&layer_directory(number), &new)?,
        None => chmod(&new, Mode::from_raw_mode(0o755)).during("set mode of", &new)?,
    }
    renameat(directory, NEW, directory, "upper").during("rename", new)
}

/// Refuses a filesystem that overlayfs would mount, but without support for what it needs to write: it would
/// only warn in the kernel log, and lose files (ovl_make_workdir in fs/overlayfs/super.c). `path` holds `upper`
/// and `work`.
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
