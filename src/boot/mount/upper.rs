//! What takes the writes: a tmpfs, or a directory on a device.

use std::ffi::CStr;

use log::{debug, info};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, Uid, XattrFlags, chmod, chown,
    getxattr, listxattr, mkdirat, openat, removexattr, renameat, setxattr, stat, statat,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};

use super::context::Context;
use super::device::{self, Finder};
use super::{layer_directory, make_directory};
use crate::boot::kmsg::warn_on_console;
use crate::device::{Found, Wanted};
use crate::error as errors;
use crate::error::{Cause, Context as _, Error, Result};
use crate::format::superblock::Volume;
use crate::module::loader::Loader;
use crate::plan::{self, Store};
use crate::text::shown;

/// Where the filesystem that takes the writes is mounted; the new root finds it there too.
pub const UPPER: &str = "/run/initramfs/upper";

/// What takes the writes, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where overlayfs finds its two directories, `upper` and `work`.
    pub directory: String,
    /// Its device; `None`: a tmpfs.
    pub device: Option<device::Mounted>,
    /// Why it is not what `rd.overlay=` names: a warning.
    pub refused: Option<String>,
}

impl Mounted {
    /// A tmpfs in place of `store`, after this one could not be used for `why`; or the error that ends
    /// the boot.
    fn instead(store: &Store, root_of: Option<usize>, why: Error) -> Result<Self> {
        let (options, warning) = store.instead(why)?;
        warn_on_console(&warning);
        let mounted = tmpfs(&options, root_of)?;
        Ok(Self {
            refused: Some(warning),
            ..mounted
        })
    }
}

/// Mounts what takes the writes, has `stack` lay the overlay with it, and returns it.
///
/// `root_of` is the number of the layer whose root directory `/` is to look like; `root` the device
/// that is layer 0.
pub fn with(
    upper: &plan::Upper,
    root_of: Option<usize>,
    root: Option<&device::Mounted>,
    finder: &mut Finder,
    loader: &mut Loader,
    stack: impl Fn(Option<&Mounted>) -> Result<()>,
) -> Result<Option<Mounted>> {
    let upper = match upper {
        plan::Upper::None => None,
        plan::Upper::Tmpfs(options) => Some(tmpfs(options, root_of)?),
        plan::Upper::Device(store) => {
            let stacked = on_device(store, root_of, root, finder, loader).and_then(|upper| {
                let stacked = stack(Some(&upper));
                stacked.inspect_err(|_| release())?;
                Ok(upper)
            });
            match stacked {
                Ok(upper) => {
                    info!("writes go to {} and stay there", upper.directory);
                    return Ok(Some(upper));
                }
                Err(why) => Some(Mounted::instead(store, root_of, why)?),
            }
        }
    };
    stack(upper.as_ref())?;
    Ok(upper)
}

/// Takes the device out of the way again.
fn release() {
    if let Err(errno) = unmount(UPPER, UnmountFlags::DETACH) {
        debug!("unmount {UPPER}: {}", errors::name(errno));
    }
}

/// Mounts the tmpfs that takes the writes.
fn tmpfs(options: &[String], root_of: Option<usize>) -> Result<Mounted> {
    make_directory(UPPER)?;
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
    let directory = open_directory(CWD, UPPER, UPPER)?;
    prepare(&directory, UPPER, root_of)?;
    Ok(Mounted {
        directory: UPPER.into(),
        device: None,
        refused: None,
    })
}

/// Finds the device, mounts it, and makes sure that it can take the writes of an overlay.
fn on_device(
    store: &Store,
    root_of: Option<usize>,
    root: Option<&device::Mounted>,
    finder: &mut Finder,
    loader: &mut Loader,
) -> Result<Mounted> {
    let wanted = Wanted::of("rd.overlay", &store.device);
    let (mounted, mount) = finder.find(wanted, loader, |found, loader| {
        accepts_writes(wanted, found, root)?;
        device::mount(wanted, &store.device, found, loader)
    })?;
    make_directory(UPPER)?;
    mount.attach(UPPER)?;
    let directory = match store.directory.as_str() {
        "" => UPPER.into(),
        below => format!("{UPPER}/{below}"),
    };
    let made = make_path(&store.directory)
        .and_then(|fd| prepare(&fd, &directory, root_of).and_then(|()| suits(&directory)));
    if let Err(why) = made {
        release();
        return Err(why);
    }
    Ok(Mounted {
        directory,
        device: Some(mounted),
        refused: None,
    })
}

/// Whether a device can be what an overlay writes to, as far as can be seen before it is mounted.
fn accepts_writes(wanted: Wanted<'_>, found: &Found, root: Option<&device::Mounted>) -> Result<()> {
    let refuse = |why: &str| {
        let object = format_args!("{wanted} ({})", found.path.display());
        Err(Error::new("write to", object, why))
    };
    let is_root = |root: &device::Mounted| {
        let mut nodes = found.companions.iter().chain([&found.path]);
        nodes.any(|node| node.as_os_str() == root.node.as_str())
    };
    if root.is_some_and(is_root) {
        return refuse("it is the root device as well, and an overlay cannot lie in its own layer");
    }
    found.mountable()?;
    let unfit = |volume: &Volume| {
        Some(format!(
            "it is {}: {}",
            volume.kind,
            volume.kind.upper_refusal()?
        ))
    };
    match found.volume().and_then(unfit) {
        Some(why) => refuse(&why),
        None => Ok(()),
    }
}

/// Opens a directory, which is no symbolic link: on a device such a link may lead anywhere.
fn open_directory(parent: impl rustix::fd::AsFd, name: &str, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).during("open directory", path)
}

/// Makes the directories of `path` below [`UPPER`] that are missing, for root alone, and opens the
/// last.
fn make_path(path: &str) -> Result<OwnedFd> {
    let mut at = UPPER.to_string();
    let mut directory = open_directory(CWD, UPPER, UPPER)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = format!("{at}/{name}");
        make(&directory, name, 0o700, &at)?;
        directory = open_directory(&directory, name, &at)?;
    }
    Ok(directory)
}

/// Makes a directory where there is none.
fn make(parent: &OwnedFd, name: &str, mode: RawMode, path: &str) -> Result<()> {
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        done => done.during("create", path),
    }
}

/// Makes the overlay's two directories in `path`, where they are not there. A new upper directory is
/// what `/` looks like: mode, owner and attributes come from the lowest layer that says. Left half
/// done by a power cut, it is made again.
fn prepare(directory: &OwnedFd, path: &str, root_of: Option<usize>) -> Result<()> {
    const NEW: &str = "upper.new";
    make(directory, "work", 0o755, &format!("{path}/work"))?;
    let upper = format!("{path}/upper");
    match statat(directory, "upper", AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        done => return done.during("stat", upper).map(|_| ()),
    }
    let new = format!("{path}/{NEW}");
    make(directory, NEW, 0o755, &new)?;
    match root_of {
        Some(number) => copy_attributes(&layer_directory(number), &new)?,
        None => chmod(&new, Mode::from_raw_mode(0o755)).during("set mode of", &new)?,
    }
    renameat(directory, NEW, directory, "upper").during("rename", new)
}

/// Refuses a filesystem that lacks what overlayfs writes with; of the kernel it would only get a line
/// in the log, and lose files (ovl_make_workdir in fs/overlayfs/super.c). `path` is the directory of
/// `upper` and `work`.
pub fn suits(path: &str) -> Result<()> {
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
                    "its filesystem does not keep the types of files in directories (d_type), which \
                     overlayfs needs; ext4 has them with the feature filetype, xfs with ftype=1"
                }
                _ => "it is no directory",
            };
            return Err(Error::new("use", format_args!("{path}/{name}"), why));
        }
    }
    Ok(())
}

/// Makes the directory `to` look like `from`: owner, mode, extended attributes (security labels and
/// ACLs among them).
pub(super) fn copy_attributes(from: &str, to: &str) -> Result<()> {
    let root = stat(from).during("stat", from)?;
    let (uid, gid) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
    chown(to, Some(uid), Some(gid)).during("set owner of", to)?;
    chmod(to, Mode::from_raw_mode(root.st_mode & 0o7777)).during("set mode of", to)?;
    // An empty buffer asks for the length only, and most directories have no attributes: 64 KiB for
    // nothing would be 16 page faults.
    match listxattr(from, &mut [0; 0]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        _ => {}
    }
    // XATTR_LIST_MAX and XATTR_SIZE_MAX of include/uapi/linux/limits.h.
    let mut names = vec![0; 65536];
    let mut value = vec![0; 65536];
    let n = listxattr(from, &mut *names).during("list attributes of", from)?;
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
                shown(name.to_bytes()),
                errors::name(errno)
            ),
            Err(errno) => {
                let object = format_args!("attribute {} of {from}", name.to_string_lossy());
                return Err(Error::with("copy", object, Cause::Os(errno)));
            }
        }
    }
    Ok(())
}
