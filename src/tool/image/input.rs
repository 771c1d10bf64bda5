//! The image that `list`, `check` and `plan` look at.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};

use crate::bytes::Opened;
use crate::error::{Context, Result};

/// Opens a file for reading, or a block device, whose size is where it ends.
pub fn open(path: &Path) -> Result<Opened> {
    let is_device = |metadata: fs::Metadata| metadata.file_type().is_block_device();
    if !fs::metadata(path).is_ok_and(is_device) {
        return Opened::open(path);
    }
    let file = File::open(path).during("open", path.display())?;
    let size = seek(&file, SeekFrom::End(0)).during("find the size of", path.display())?;
    Ok(Opened::new(file, size))
}
