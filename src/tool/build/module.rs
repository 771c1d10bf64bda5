//! A kernel module's file, as it goes into a loader: so that the kernel has the least to do with it.

use std::fs;
use std::path::Path;

use super::spec::Content;
use crate::error::{Context, Result};
use crate::format::compress::Codec;
use crate::module::dep::{self, MODULE_MAX};

/// What is done with modules on their way into a loader.
#[derive(Clone, Copy, Debug, Default)]
pub struct Treatment {
    /// Compressed ones stay so. Else they are decompressed: a kernel needs more time for that than
    /// for reading a larger loader.
    pub keep_compressed: bool,
    /// Signatures are cut off.
    pub strip_signatures: bool,
}

/// A module as it goes into a loader.
#[derive(Debug)]
pub struct Prepared {
    /// Its name, which says how it is compressed.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// Prepares the module `name`, which lies at `path`.
pub fn prepare(name: &str, path: &Path, treatment: Treatment) -> Result<Prepared> {
    let as_it_is = || Prepared {
        name: name.into(),
        content: Content::Location(path.into()),
    };
    // A signature is inside of the compression.
    if treatment.keep_compressed && !treatment.strip_signatures {
        return Ok(as_it_is());
    }
    let bytes = fs::read(path).during("read", path.display())?;
    // By content, not by name, as everything else is known here.
    let codec = Codec::detect(&bytes);
    let (name, mut image) = match codec {
        Some(codec) => {
            let image = codec.decompress(&*bytes, MODULE_MAX);
            let image = image.during("decompress", path.display())?;
            (without_ending(name), image)
        }
        None => (name, bytes),
    };
    if treatment.strip_signatures {
        let length = dep::without_signature(&image).len();
        image.truncate(length);
    } else if codec.is_none() {
        return Ok(as_it_is());
    }
    Ok(Prepared {
        name: name.into(),
        content: Content::Bytes(image),
    })
}

/// `erofs.ko.xz` to `erofs.ko`.
fn without_ending(name: &str) -> &str {
    match name.rfind(".ko.") {
        Some(at) => name.get(..at.saturating_add(3)).unwrap_or(name),
        None => name,
    }
}
