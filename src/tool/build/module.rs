//! Files of kernel modules for a loader: uncompressed so that they load fast, and without signatures on
//! request.

use std::fs;
use std::path::Path;

use super::spec::FileContent;
use crate::error::{Context, Result};
use crate::format::compress::Codec;
use crate::module::dep::{self, MODULE_MAX};

/// How to change modules before they go into a loader.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModuleOptions {
    /// Keep modules compressed. The kernel then needs more time to decompress them than to read a larger
    /// loader.
    pub keep_compressed: bool,
    /// Remove signatures.
    pub strip_signatures: bool,
}

/// The file of a module in a loader.
#[derive(Debug)]
pub struct ModuleFile {
    /// Its path below lib/modules/RELEASE, with the suffix of the compression.
    pub name: String,
    /// Its content.
    pub content: FileContent,
}

/// Prepares the module `name`, a path below lib/modules/RELEASE, whose file is `path`.
///
/// # Errors
/// The file cannot be read or decompressed.
pub fn prepare(name: &str, path: &Path, options: ModuleOptions) -> Result<ModuleFile> {
    let unchanged = || ModuleFile {
        name: name.into(),
        content: FileContent::Location(path.into()),
    };
    // The signature is inside the compressed data.
    if options.keep_compressed && !options.strip_signatures {
        return Ok(unchanged());
    }
    let bytes = fs::read(path).during("read", path.display())?;
    // The content decides and not the suffix, as everywhere in the tool.
    let codec = Codec::detect(&bytes);
    let (name, mut image) = match codec {
        Some(codec) => {
            let image = codec.decompress(&*bytes, MODULE_MAX);
            let image = image.during("decompress", path.display())?;
            (without_suffix(name), image)
        }
        None => (name, bytes),
    };
    if options.strip_signatures {
        let length = dep::without_signature(&image).len();
        image.truncate(length);
    } else if codec.is_none() {
        return Ok(unchanged());
    }
    Ok(ModuleFile {
        name: name.into(),
        content: FileContent::Bytes(image),
    })
}

/// `erofs.ko.xz` to `erofs.ko`.
fn without_suffix(name: &str) -> &str {
    match name.rfind(".ko.") {
        Some(at) => name.get(..at.saturating_add(3)).unwrap_or(name),
        None => name,
    }
}
