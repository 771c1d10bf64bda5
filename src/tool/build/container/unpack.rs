//! A layer as a directory, for a mkfs.erofs that cannot read tar archives. Needs the privileges of root.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, linkat,
    lsetxattr, makedev, mknodat, symlinkat, utimensat,
};

use super::archive::{OPAQUE, WHITEOUT};
use super::member::{DeviceNode, TarAttributes};
use super::sparse::copy_with_holes;
use super::stack::{LayerFiles, LayerStack, PathEntry, StackedFile, StackedKind};
use crate::error::{Context, Result};
use crate::tool::progress::LongStep;

/// Writes a layer into an empty directory, to which nobody else writes. `latest` is the latest modification
/// time.
///
/// # Errors
/// A file cannot be created with all its attributes; the error names the first one.
pub fn write(
    stack: &LayerStack,
    layer: &LayerFiles,
    latest: u32,
    directory: &Path,
    progress: &LongStep,
) -> Result<()> {
    let mut first: HashMap<usize, PathBuf> = HashMap::new();
    let mut directories = Vec::new();
    // In the order of names, so a directory comes before its files; none of them is a link.
    for (name, place) in &layer.places {
        let path = directory.join(OsStr::from_bytes(name));
        let shown = || crate::text::shown(name);
        let PathEntry::Node(index) = place else {
            make_node(&path, WHITEOUT).during("create the whiteout", shown())?;
            let none = TarAttributes::default();
            finish(&path, &none, &[], true, latest).during("set the attributes of", shown())?;
            continue;
        };
        let Some(node) = stack.node(*index) else {
            continue;
        };
        if matches!(node.body, StackedKind::Directory) {
            if !name.is_empty() {
                let created = fs::DirBuilder::new().mode(0o700).create(&path);
                created.during("create", shown())?;
            }
            directories.push((path, name, node));
            continue;
        }
        if let Some(target) = first.get(index) {
            linkat(CWD, target, CWD, &path, AtFlags::empty()).during("link", shown())?;
            continue;
        }
        create(&path, node, progress).during("create", shown())?;
        let link = matches!(node.body, StackedKind::Symlink(_));
        finish(&path, &node.attributes, &[], link, latest)
            .during("set the attributes of", shown())?;
        first.insert(*index, path);
    }
    // Directories come last: creating a file in one changes its time, and its mode may forbid that.
    for (path, name, node) in directories.into_iter().rev() {
        let opaque: &[_] = match layer.opaque.contains(name) {
            true => &[OPAQUE],
            false => &[],
        };
        let done = finish(&path, &node.attributes, opaque, false, latest);
        done.during("set the attributes of", crate::text::shown(name))?;
    }
    Ok(())
}

fn create(path: &Path, node: &StackedFile, progress: &LongStep) -> io::Result<()> {
    match &node.body {
        StackedKind::Directory => Ok(()),
        StackedKind::File(content) => {
            let mut options = File::options();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            let length = copy_with_holes(&mut progress.count(content.reader()), &mut file)?;
            file.set_len(length)
        }
        StackedKind::Symlink(target) => Ok(symlinkat(OsStr::from_bytes(target), CWD, path)?),
        StackedKind::Device(device) => make_node(path, *device),
        StackedKind::Fifo => Ok(mknodat(
            CWD,
            path,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )?),
    }
}

fn make_node(path: &Path, device: DeviceNode) -> io::Result<()> {
    let kind = match device.character {
        true => FileType::CharacterDevice,
        false => FileType::BlockDevice,
    };
    let number = makedev(device.major, device.minor);
    Ok(mknodat(
        CWD,
        path,
        kind,
        Mode::from_raw_mode(0o600),
        number,
    )?)
}

/// Sets owner, mode, attributes and time, in this order: a new owner clears setuid and capabilities.
fn finish(
    path: &Path,
    attributes: &TarAttributes,
    more: &[(&[u8], &[u8])],
    is_link: bool,
    latest: u32,
) -> io::Result<()> {
    let owner = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    chownat(
        CWD,
        path,
        Some(owner.0),
        Some(owner.1),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    let is_symlink = is_link && path.is_symlink();
    if !is_symlink {
        fs::set_permissions(path, fs::Permissions::from_mode(attributes.mode))?;
    }
    let own = attributes
        .xattrs
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()));
    for (name, value) in own.chain(more.iter().copied()) {
        let set = CString::new(name)
            .map_err(io::Error::other)
            .and_then(|name| {
                Ok(lsetxattr(
                    path,
                    name.as_c_str(),
                    value,
                    XattrFlags::empty(),
                )?)
            });
        set.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{}: {error}", crate::text::shown(name)),
            )
        })?;
    }
    let time = Timespec {
        tv_sec: i64::try_from(attributes.mtime.min(latest.into())).unwrap_or(0),
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
