//! EROFS images of layers: from a tar archive with a newer mkfs.erofs, or from a directory.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::stack::{LayerFiles, LayerStack, PathEntry, StackedKind};
use super::{archive, unpack};
use crate::bytes::ReadAt;
use crate::error::{Cause, Context, Error, Result};
use crate::text::shown;
use crate::tool::build::mkfs::{self, ErofsImage, ErofsOptions, ErofsSource};
use crate::tool::build::temp_files::TempFiles;
use crate::tool::progress::LongStep;

/// The remedy where mkfs.erofs reads no tar archive.
const NEWER: &str = "install erofs-utils 1.7 or newer (Debian 13 has it)";

/// Makes the image of a layer. `object` is the layer in messages, `latest` the latest modification time of its files,
/// `number` makes the names of temporary files unique.
///
/// # Errors
/// mkfs.erofs is missing or fails; or it cannot read tar archives, and this program lacks the privileges to
/// unpack them.
#[allow(clippy::too_many_arguments)]
pub fn make(
    stack: &LayerStack,
    layer: &LayerFiles,
    label: Option<&str>,
    latest: u32,
    object: &Path,
    number: usize,
    options: &ErofsOptions,
    temp: &TempFiles,
) -> Result<ErofsImage> {
    let newest = newest(stack, layer).min(latest);
    if mkfs::features(temp)?.tar {
        let (file, path) = temp.create(&format!("layer{number}.tar"))?;
        if let Some(path) = path {
            // It stays open.
            std::fs::remove_file(&path).during("remove", path.display())?;
        }
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let progress = unpacking(stack, layer, object);
        let written = archive::write(stack, layer, latest, progress.count(&mut out));
        let written = written.and_then(|()| out.flush());
        drop(progress);
        written.during("write the archive of", object.display())?;
        drop(out);
        let source = ErofsSource::Tar {
            file: &file,
            newest,
        };
        return mkfs::make(source, label, object, number, options, temp);
    }
    if !rustix::process::geteuid().is_root() {
        let what = "this mkfs.erofs cannot read tar archives, and only root can unpack one with the owners of its files";
        let error = Error::new("make an EROFS image of", object.display(), what);
        return Err(error.hint(format!("run it as root, or {NEWER}")));
    }
    // mkfs.erofs 1.5 truncates such a name, and then does not find the file.
    let long = layer.places.keys().find(|path| {
        path.split(|byte| *byte == b'/')
            .any(|name| name.len() == 255)
    });
    if let Some(long) = long {
        let what = format!(
            "{}: this mkfs.erofs cannot store a name of 255 bytes",
            shown(long)
        );
        let error = Error::new("make an EROFS image of", object.display(), what);
        return Err(error.hint(NEWER));
    }
    let directory = temp.directory(&format!("layer{number}"))?;
    let progress = unpacking(stack, layer, object);
    let made = unpack::write(stack, layer, latest, &directory, &progress)
        .map_err(|error| {
            let cause = Cause::Because(Box::new(error));
            Error::with("unpack", object.display(), cause)
        })
        .and_then(|()| {
            drop(progress);
            let source = ErofsSource::Directory {
                path: &directory,
                newest: Some(newest),
            };
            mkfs::make(source, label, object, number, options, temp)
        });
    // Removed early, to free the space for the next one.
    let removed = temp.remove_directory(&directory);
    let image = made?;
    removed?;
    Ok(image)
}

/// The step that writes the files of a layer for mkfs.erofs.
fn unpacking(stack: &LayerStack, layer: &LayerFiles, object: &Path) -> LongStep {
    let size = |place: &PathEntry| match place {
        PathEntry::Node(index) => match stack.node(*index).map(|node| &node.body) {
            Some(StackedKind::File(content)) => content.size(),
            _ => 0,
        },
        PathEntry::Whiteout => 0,
    };
    let bytes = layer.places.values().map(size);
    let bytes = bytes.fold(0u64, u64::saturating_add);
    LongStep::part(format_args!("unpack {}", object.display()), bytes)
}

/// The latest modification time of a layer.
fn newest(stack: &LayerStack, layer: &LayerFiles) -> u32 {
    let nodes = layer.places.values().filter_map(|place| match place {
        PathEntry::Node(index) => stack.node(*index),
        PathEntry::Whiteout => None,
    });
    let newest = nodes.map(|node| node.attributes.mtime).max();
    u32::try_from(newest.unwrap_or(0)).unwrap_or(u32::MAX)
}
