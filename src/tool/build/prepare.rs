//! Turns a layer of the command line into one that can be appended.

use std::ffi::OsStr;
use std::fs;

use super::container::layers::ArchiveLayers;
use super::container::reference::{self, Reference};
use super::cpio_layer;
use super::layer::{self, LayerFormat, LayerInput, PreparedLayer};
use super::mkfs::{self, ErofsOptions};
use super::temp_files::TempFiles;
use crate::bytes::Opened;
use crate::error::{Context, Error, Result};

/// Adds the layers of one --layer to `layers`, lowest first. A directory becomes an image or an archive in `temp`, a
/// tar archive an image, a container image one for each of its layers; any other file is used unchanged.
/// `number` is the position of the --layer.
///
/// # Errors
/// The file holds anything besides layers; a directory holds the image that is being built; --as or --label
/// do not fit the layer; a program is missing or fails.
pub fn prepare(
    input: &LayerInput,
    number: usize,
    erofs: &ErofsOptions,
    temp: &TempFiles,
    archives: &mut ArchiveLayers,
    layers: &mut Vec<PreparedLayer>,
) -> Result<()> {
    let path = &input.path;
    let refuse = |what: &str| Err(Error::new("read", path.display(), what));
    let file_as = "not a directory: --as sets the format of a directory, a file stays unchanged";
    if let Some(reference) = Reference::parse(path) {
        return match input.format {
            None | Some(LayerFormat::Erofs) => archives.image(input, &reference, layers),
            Some(LayerFormat::Cpio(_)) => {
                refuse("container images become EROFS images: --as is for directories")
            }
        };
    }
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match reference::not_here(path) {
                Some(image) => return Err(image),
                None => Err(error),
            }
        }
        metadata => metadata,
    };
    let metadata = metadata.during("open", path.display())?;
    if !metadata.is_dir() {
        if input
            .format
            .is_none_or(|format| format == LayerFormat::Erofs)
            && let Some(layer) = archives.archive(input)?
        {
            layer.add_to(layers);
            return Ok(());
        }
        if input.label.is_some() {
            return refuse("not a directory: --label is for EROFS images made from directories");
        }
        if input.format.is_some() {
            return refuse(file_as);
        }
        layer::from_file(Opened::open(path)?, path)?.add_to(layers);
        return Ok(());
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
    layer.add_to(layers);
    Ok(())
}
