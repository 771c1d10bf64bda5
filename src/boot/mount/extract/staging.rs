//! What an image takes from other paths of the layers below (trusted.overlay.redirect,
//! trusted.overlay.metacopy), linked into a separate directory before the image changes those paths.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, openat, renameat, statat};

use super::attributes::c_string;
use super::marks::{MarkReader, Origins};
use crate::boot::mount::trees::{DIRECTORY, merge, remove};
use crate::bytes::Opened;
use crate::error::{Context as _, Error, Result};
use crate::format::erofs::Image;
use crate::text::shown;

/// The directory, in the directory of the new root.
const NAME: &CStr = c".layerinit-staging";

/// The directories and files of an image that have an entry there, each with its name there.
#[derive(Default)]
pub struct Staging(BTreeMap<Vec<u8>, usize>);

impl Staging {
    /// Links the files that the image refers to. `root` has the files of the layers below.
    pub fn of(image: &Image, root: &OwnedFd) -> Result<Self> {
        let mut staged = BTreeMap::new();
        let (mut reader, mut origins) = (MarkReader::new(image), Origins::default());
        image.walk(&mut |path, inode| {
            let marks = reader.of(inode)?;
            let origin = origins.of(path, &marks)?;
            let refers = match inode.is_directory() {
                true => marks.redirect.is_some(),
                false => marks.metacopy,
            };
            let Some(origin) = origin.filter(|_| refers) else {
                return Ok(());
            };
            let number = staged.len();
            let linked = stage(root, &origin, number, inode.is_directory());
            if linked.during("merge", format_args!("/{}", shown(path)))? {
                staged.insert(path.to_vec(), number);
            }
            Ok(())
        })?;
        Ok(Self(staged))
    }

    /// Moves a directory into its place, if it is staged.
    pub fn put(&self, root: &OwnedFd, path: &[u8], to: &OwnedFd, name: &CStr) -> Result<()> {
        let Some(number) = self.0.get(path) else {
            return Ok(());
        };
        let from = format!("{}/{number}", NAME.to_string_lossy());
        renameat(root, from, to, name).during("move", "directory")
    }

    /// Opens the bytes of a file that has metadata only.
    pub fn open(&self, root: &OwnedFd, path: &[u8]) -> Result<Opened> {
        let Some(number) = self.0.get(path) else {
            let what = "it has metadata only, and no lower layer has its bytes";
            return Err(Error::new("read", "file", what));
        };
        let from = format!("{}/{number}", NAME.to_string_lossy());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(root, from, flags, Mode::empty()).during("open", "file")?);
        let size = file.metadata().during("stat", "file")?.len();
        Ok(Opened::new(file, size))
    }

    /// Removes the directory.
    pub fn remove(&self, root: &OwnedFd) -> Result<()> {
        match self.0.is_empty() {
            true => Ok(()),
            false => remove(root, NAME, Some(FileType::Directory)).during("remove", "staging"),
        }
    }
}

/// Links a directory, or a regular file, to its number. False if the layers below have none there.
fn stage(root: &OwnedFd, origin: &[u8], number: usize, directory: bool) -> Result<bool> {
    let mut parent = root.try_clone().during("open", "the root")?;
    let mut names = origin.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        let name = c_string(name).during("name", shown(origin))?;
        if names.peek().is_some() {
            match openat(&parent, name.as_c_str(), DIRECTORY, Mode::empty()) {
                Ok(below) => parent = below,
                Err(_) => return Ok(false),
            }
            continue;
        }
        let Ok(stat) = statat(&parent, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(false);
        };
        let number = c_string(number.to_string().as_bytes()).during("name", "staging")?;
        let (name, number) = (name.as_c_str(), number.as_c_str());
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && kind != FileType::RegularFile
            || directory != (kind == FileType::Directory)
        {
            return Ok(false);
        }
        let staging = super::node::directory(root, NAME).during("create", "staging")?;
        if !directory {
            linkat(&parent, name, &staging, number, AtFlags::empty()).during("link", "file")?;
            return Ok(true);
        }
        let from = openat(&parent, name, DIRECTORY, Mode::empty()).during("open", "directory")?;
        mkdirat(&staging, number, Mode::RWXU).during("create", "directory")?;
        let to = openat(&staging, number, DIRECTORY, Mode::empty()).during("open", "directory")?;
        merge(&from, &to)?;
        return Ok(true);
    }
    Ok(false)
}
