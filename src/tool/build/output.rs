//! The image while it is written. It gets its name only when it is complete.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::temp_files::TempFiles;
use crate::boot::resolve::MAX_SYMLINKS;
use crate::error::{Context, Error, Result};
use crate::tool::progress::LongStep;

/// The name of standard output in messages.
pub const STDOUT: &str = "standard output";

/// Writes the image.
pub struct ImageWriter {
    writer: BufWriter<File>,
    temp: TempFiles,
    /// The path of the image, and of the temporary file if it has one; `None`: standard output.
    paths: Option<(PathBuf, Option<PathBuf>)>,
    progress: LongStep,
    /// Bytes written.
    length: u64,
}

impl ImageWriter {
    /// Starts the image `image`; `None`: to standard output. `expected` is its approximate length in bytes, for the
    /// progress bar.
    pub fn new(image: Option<&Path>, temp: TempFiles, expected: u64) -> Result<Self> {
        let name = image.map_or(STDOUT.into(), |image| image.display().to_string());
        let (file, paths) = match image {
            Some(image) => {
                let (file, path) = temp.create("image")?;
                (file, Some((image.into(), path)))
            }
            None => {
                let stdout = io::stdout().as_fd().try_clone_to_owned();
                (stdout.during("write", STDOUT)?.into(), None)
            }
        };
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 20, file),
            temp,
            paths,
            progress: LongStep::part(format_args!("write {name}"), expected),
            length: 0,
        })
    }

    /// The length so far, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends zeros up to the next multiple of `align`.
    pub fn align(&mut self, align: u64) -> Result<()> {
        let past = self.length.checked_rem(align).unwrap_or(0);
        let zeros = align.saturating_sub(past).checked_rem(align).unwrap_or(0);
        self.extend(self.length.saturating_add(zeros))
    }

    /// Appends zeros up to this length, if the image is shorter.
    pub fn extend(&mut self, length: u64) -> Result<()> {
        let zeros = length.saturating_sub(self.length);
        io::copy(&mut io::Read::take(io::repeat(0), zeros), self).during("write", self.name())?;
        Ok(())
    }

    /// Gives the image its name. It replaces a file of that name, and gets the mode and the owner of that file. Returns
    /// a warning if that is not possible.
    ///
    /// # Errors
    /// The image cannot be written out or renamed. No file is left then.
    pub fn finish(mut self) -> Result<Option<String>> {
        self.writer.flush().during("write", self.name())?;
        self.progress.finish();
        let Some((image, path)) = &self.paths else {
            return Ok(None);
        };
        let file = self.writer.get_ref();
        let old = fs::metadata(image);
        let warning = match old.map(|old| copy_owner_and_mode(file, &old)) {
            Ok(copied) => copied.during("set the mode of", image.display())?,
            // No file has the name yet.
            Err(_) => None,
        };
        // Otherwise a full or failing disk could leave an incomplete image under the name.
        file.sync_all().during("write", image.display())?;
        self.temp.publish(file, path.as_deref(), image)?;
        Ok(warning)
    }

    /// The name in messages.
    fn name(&self) -> String {
        match &self.paths {
            Some((image, _)) => image.display().to_string(),
            None => STDOUT.into(),
        }
    }
}

impl Write for ImageWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.writer.write(bytes)?;
        self.length = self.length.saturating_add(n as u64);
        self.progress.inc(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Gives the new file owner, group and mode of the file that it replaces. Returns a warning if that is not allowed.
fn copy_owner_and_mode(file: &File, old: &Metadata) -> io::Result<Option<String>> {
    let new = file.metadata()?;
    let mut mode = old.mode() & 0o7777;
    let mut warning = None;
    if (new.uid(), new.gid()) != (old.uid(), old.gid())
        && let Err(error) = fchown(file, Some(old.uid()), Some(old.gid()))
    {
        // Users may give their files to a group that they are in.
        let group = new.gid() == old.gid() || fchown(file, None, Some(old.gid())).is_ok();
        if !group {
            // These bits would apply to another group.
            mode &= !0o070;
        }
        let lost = if group { "owner" } else { "owner and group" };
        warning = Some(format!(
            "the {lost} of the file that it replaces could not be kept: {error}"
        ));
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(warning)
}

/// Follows symbolic links, at most [`MAX_SYMLINKS`] of them. The target need not exist.
///
/// # Errors
/// The path leads to a file that is not a regular file.
pub fn resolve_links(path: &Path) -> Result<PathBuf> {
    // Before links are followed: the link of a pipe leads nowhere (/dev/stdout).
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let what = "it exists, and is not a regular file";
        return Err(Error::new("write", path.display(), what));
    }
    let mut path = path.to_path_buf();
    for _ in 0..MAX_SYMLINKS {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Ok(path)
}
