//! The directories of `rd.overlay.for=`: each is a separate overlay, whose upper directory is on a device.
//!
//! Its lower directories are the same directory of each layer, not of the root: an overlay over the root's
//! overlay would be slower, and file-backed EROFS below that exceeds the kernel's limit on stacked
//! filesystems (FILESYSTEM_MAX_STACK_DEPTH). So this module does what overlayfs does on the path to the
//! directory: a whiteout, an opaque directory or another file in a layer hides the layers below it.
//!
//! The upper directory of `/etc` is `upper/etc` on the device, where it would be without `rd.overlay.for=`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use log::info;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, getxattr, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::Mounter;
use super::attributes::copy_attributes;
use super::overlay::{self, Stack};
use super::paths::{EMPTY, KEPT, SYSROOT, create_directory};
use super::upper::{self, MountedUpper, create_path};
use crate::error::{Context, Error, Result};
use crate::plan::KeptDirectories;

/// The directories of `rd.overlay.for=`, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedKept {
    /// The device that keeps the writes, or its fallback.
    pub upper: MountedUpper,
    /// The directories in the new root.
    pub paths: Vec<String>,
}

impl Mounter<'_> {
    /// Mounts each directory over the new root at [`SYSROOT`].
    pub(super) fn mount_kept(&mut self, kept: &KeptDirectories) -> Result<()> {
        self.need_overlay()?;
        let root_of = self.root_directory_layer();
        let mounted = match self.mount_kept_on_device(kept, root_of) {
            Ok(upper) => {
                let paths = kept.paths.join(", ");
                info!("writes to {paths} go to {} and are kept", upper.directory);
                upper
            }
            Err(why) => {
                let upper = upper::mount_fallback(&kept.store, KEPT, root_of, why)?;
                self.mount_directories(kept, &upper.directory)?;
                upper
            }
        };
        self.mounted.kept = Some(MountedKept {
            upper: mounted,
            paths: kept.paths.clone(),
        });
        Ok(())
    }

    fn mount_kept_on_device(
        &mut self,
        kept: &KeptDirectories,
        root_of: Option<usize>,
    ) -> Result<MountedUpper> {
        let upper = self.mount_store(&kept.store, KEPT, root_of)?;
        self.mount_directories(kept, &upper.directory)
            .inspect_err(|_| upper::detach(KEPT))?;
        Ok(upper)
    }

    /// Mounts an overlay for each directory, with `upper` and `work` in `store`; all of them or none.
    fn mount_directories(&self, kept: &KeptDirectories, store: &str) -> Result<()> {
        let lower = self.lower();
        for (number, path) in kept.paths.iter().enumerate() {
            let mounted = mount_directory(&lower, path, store, number);
            if let Err(error) = mounted.during("keep", path) {
                for done in kept.paths.iter().take(number).rev() {
                    upper::detach(&format!("{SYSROOT}{done}"));
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Mounts the overlay for the directory `path`, the `number`th, with `upper` and `work` in `store`.
fn mount_directory(lower: &Stack, path: &str, store: &str, number: usize) -> Result<()> {
    create_in_root(path)?;
    let mut lower = directories(lower, path)?;
    if lower.names.is_empty() {
        create_directory(EMPTY)?;
        lower = Stack {
            directory: EMPTY.into(),
            names: vec![".".into()],
        };
    }
    create_upper(path, store)?;
    let work = format!("{store}/work/{number}");
    create_path(store, &format!("work/{number}"), 0o755)?;
    let (upper, target) = (format!("{store}/upper{path}"), format!("{SYSROOT}{path}"));
    overlay::mount_directory(&lower, upper, work, &target)
}

/// Creates the directory and those above it in the new root, unless they exist. Refuses links on the path:
/// they lead elsewhere in the new root.
fn create_in_root(path: &str) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, SYSROOT, flags, Mode::empty()).during("open", SYSROOT)?;
    for at in prefixes(path) {
        let inside = at.trim_start_matches('/');
        let open = || {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            openat2(&root, inside, flags, Mode::empty(), resolve)
        };
        let done = match open() {
            Err(Errno::NOENT) => mkdirat(&root, inside, Mode::from_raw_mode(0o755)),
            Err(Errno::LOOP) => {
                let why = "it is a symbolic link: name the directory that it leads to";
                return Err(Error::new("use", at, why));
            }
            Err(Errno::NOTDIR) => {
                return Err(Error::new("use", at, "it is not a directory"));
            }
            done => done.map(|_| ()),
        };
        if done == Err(Errno::ROFS) {
            let why = "no layer has it, and the root is read-only (rd.overlay.readonly): add the directory to a layer";
            return Err(Error::new("create", at, why));
        }
        done.during("create", at)?;
    }
    Ok(())
}

/// The directories on a path of [`KeptDirectories`], and the path itself: `/a`, `/a/b`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.match_indices('/').map(|(at, _)| at).skip(1);
    let ends = slashes.chain([path.len()]);
    ends.filter_map(|end| path.get(..end))
}

/// What a layer has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing: the layers below are visible.
    Nothing,
    /// A directory that the layers below are merged into.
    Merged,
    /// A directory that hides those below.
    Opaque,
    /// A whiteout, or another file: this and lower layers have nothing to merge.
    Hidden,
}

/// The directory `path` of each layer that has it, as overlayfs would merge them.
fn directories(layers: &Stack, path: &str) -> Result<Stack> {
    let mut names = Vec::new();
    for name in layers.names.iter().rev() {
        match look(&format!("{}/{name}", layers.directory), path)? {
            Seen::Nothing => {}
            Seen::Merged => names.push(format!("{name}{path}")),
            Seen::Opaque => {
                names.push(format!("{name}{path}"));
                break;
            }
            Seen::Hidden => break,
        }
    }
    names.reverse();
    Ok(Stack {
        directory: layers.directory.clone(),
        names,
    })
}

/// Looks for the directory `path` in a layer.
fn look(layer: &str, path: &str) -> Result<Seen> {
    let mut seen = Seen::Merged;
    for prefix in prefixes(path) {
        let at = format!("{layer}{prefix}");
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            // A whiteout hides the layers below as any other file does.
            Ok(_) => return Ok(Seen::Hidden),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(match seen {
                    Seen::Opaque => Seen::Hidden,
                    _ => Seen::Nothing,
                });
            }
            Err(error) => return Err(error).during("stat", &at),
        }
        if is_opaque(&at) {
            seen = Seen::Opaque;
        }
    }
    Ok(seen)
}

/// Whether a directory hides those of the layers below (ovl_is_opaquedir in fs/overlayfs/util.c).
fn is_opaque(path: &str) -> bool {
    let mut value = [0; 2];
    let found = getxattr(path, c"trusted.overlay.opaque", &mut value[..]);
    found.is_ok_and(|n| value.get(..n) == Some(b"y"))
}

/// Creates the directory `path` and those above it in `store`/upper, unless they exist. Each takes owner,
/// mode and attributes from the new root, and is complete when it is renamed into place.
fn create_upper(path: &str, store: &str) -> Result<()> {
    let new = format!("{store}/upper.new");
    for at in prefixes(path) {
        let target = format!("{store}/upper{at}");
        match fs::symlink_metadata(&target) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => {
                let why = "it is not a directory: it was deleted or replaced when the whole root was kept \
                           (without rd.overlay.for=)";
                return Err(Error::new("use", target, why));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).during("stat", target),
        }
        if Path::new(&new).exists() {
            fs::remove_dir(&new).during("remove", &new)?;
        }
        fs::create_dir(&new).during("create", &new)?;
        copy_attributes(&format!("{SYSROOT}{at}"), &new)?;
        fs::rename(&new, &target).during("rename", format_args!("{new} to {target}"))?;
    }
    Ok(())
}
