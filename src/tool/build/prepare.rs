//! From a layer of the command line to one that can be appended.

use std::ffi::OsStr;
use std::fs;

use super::cpio_layer;
use super::layer::{self, LayerFormat, LayerInput, PreparedLayer};
use super::mkfs::{self, ErofsOptions};
use super::temp_files::TempFiles;
use crate::bytes::Opened;
use crate::error::{Context, Error, Result};

/// Prepares a layer: a directory becomes an image or an archive in `temp`; a file is used unchanged. `number` is the
/// position of the layer.
///
/// # Errors
/// The file holds something else than layers; a directory holds the image that is being built; --as or --label do not
/// fit the layer; a program is missing or fails.
pub fn prepare(
    input: &LayerInput,
    number: usize,
    erofs: &ErofsOptions,
    temp: &TempFiles,
) -> Result<PreparedLayer> {
    let path = &input.path;
    let refuse = |what: &str| Err(Error::new("read", path.display(), what));
    let metadata = fs::metadata(path).during("open", path.display())?;
    if !metadata.is_dir() {
        if input.label.is_some() {
            return refuse("not a directory: --label is for EROFS images made from directories");
        }
        if input.format.is_some() {
            return refuse(
                "not a directory: --as sets the format of a directory, a file stays unchanged",
            );
        }
        return layer::from_file(Opened::open(path)?, path);
    }
    // An absolute path does not look like an option.
    let source = fs::canonicalize(path).during("open", path.display())?;
    if temp.is_inside(&source) {
        return refuse("the image is written into this directory, and would contain itself");
    }
    let format = input.format.unwrap_or(LayerFormat::Erofs);
    let mut layer = match format {
        LayerFormat::Erofs => mkfs::prepare(input, &source, number, erofs, temp)?,
        LayerFormat::Cpio(_) if input.label.is_some() => {
            return refuse("a cpio archive has no volume label: --label is for EROFS images");
        }
        LayerFormat::Cpio(codec) => cpio_layer::prepare(path, number, codec, erofs.times, temp)?,
    };
    layer.name = source.file_name().unwrap_or(OsStr::new("root")).into();
    layer.name.push(".");
    layer.name.push(format.suffix());
    Ok(layer)
}
