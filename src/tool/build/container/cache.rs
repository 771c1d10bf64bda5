//! EROFS images of earlier builds, in `${XDG_CACHE_HOME:-~/.cache}/layerinit/layers`.
//!
//! The name of a file is the key, which covers all input of the image, and the SHA-256 of its content, which
//! is verified: a damaged file is removed. The modification time is that of the last use.

use std::env;
use std::fs::{self, File};
use std::io::{self, Seek};
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, linkat};
use sha2::{Digest as _, Sha256};

use super::digest::Hasher;
use crate::tool::progress::LongStep;
use crate::tool::tmpfile;

/// The suffix of the files.
const SUFFIX: &str = ".erofs";

/// A directory of images.
#[derive(Debug)]
pub struct LayerCache {
    directory: PathBuf,
    /// The most bytes that the images may take.
    max: u64,
}

impl LayerCache {
    /// The cache of this user; `None` if no environment variable names its directory.
    pub fn new(max: u64) -> Option<Self> {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Self {
            directory: base.join("layerinit/layers"),
            max,
        })
    }

    /// The image with this key, and its length in bytes.
    pub fn get(&self, key: &str) -> Option<(File, u64)> {
        let prefix = format!("{key}.");
        let entries = fs::read_dir(&self.directory)
            .ok()?
            .map_while(io::Result::ok);
        for entry in entries {
            let name = entry.file_name();
            let Some(expected) = name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(SUFFIX))
            else {
                continue;
            };
            let Ok(mut file) = File::options().read(true).write(true).open(entry.path()) else {
                continue;
            };
            match hash(&mut file) {
                Ok((found, length)) if found == expected => {
                    // If the time cannot be set, the image is only removed earlier.
                    let _ = file.set_modified(SystemTime::now());
                    return Some((file, length));
                }
                // The next build makes it again.
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        None
    }

    /// Adds an image, and removes the least recently used ones while there are too many bytes.
    ///
    /// # Errors
    /// The directory cannot be created or written. The cache then has not changed.
    pub fn put(&self, key: &str, image: &mut File) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let (sum, length) = hash(image)?;
        if length > self.max {
            return Ok(());
        }
        let mut copy = tmpfile::create(&self.directory)?;
        image.rewind()?;
        let progress = LongStep::part("copy the EROFS image into the cache", length);
        io::copy(&mut progress.count(image), &mut copy)?;
        let path = self.directory.join(format!("{key}.{sum}{SUFFIX}"));
        match linkat(
            CWD,
            tmpfile::proc_path(&copy),
            CWD,
            &path,
            AtFlags::SYMLINK_FOLLOW,
        ) {
            // Another build was faster.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.shrink()
    }

    fn shrink(&self) -> io::Result<()> {
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let is_image = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.ends_with(SUFFIX));
            if let (true, Ok(metadata)) = (is_image, entry.metadata()) {
                images.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        images.sort();
        let mut total = images
            .iter()
            .fold(0u64, |total, (_, length, _)| total.saturating_add(*length));
        for (_, length, path) in images {
            if total <= self.max {
                break;
            }
            // Another build may have removed it.
            let _ = fs::remove_file(path);
            total = total.saturating_sub(length);
        }
        Ok(())
    }
}

/// The SHA-256 of a whole file, and its length in bytes.
fn hash(file: &mut File) -> io::Result<(String, u64)> {
    file.rewind()?;
    let mut hasher = Hasher::Sha256(Sha256::new());
    let progress = LongStep::part("hash the EROFS image", file.metadata()?.len());
    let length = io::copy(&mut progress.count(file), &mut hasher)?;
    let digest = hasher.finish();
    Ok((digest.replace("sha256:", ""), length))
}
