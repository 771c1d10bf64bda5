//! The new root that results from the layers of an image being built.

use super::archive::{self, CpioOptions};
use super::layer::PreparedLayer;
use super::spec::{Body, FileContent, SpecEntry};
use crate::bytes::{Chain, Opened};
use crate::error::{Context, Result};
use crate::tool::image::boot::{Boot, StandIns};
use crate::tool::image::merged::{Layers, Stacking, layer_parts, merge};
use crate::tool::image::rootfs::Rootfs;

/// Stacks the layers as `/init` does.
///
/// # Errors
/// A layer cannot be read.
pub fn read<T>(layers: &[PreparedLayer], look: impl FnOnce(&Rootfs, &Layers) -> T) -> Result<T> {
    const NAME: &str = "loader";
    // The first archive with /init is the loader, and everything after it is a layer.
    let body = Body::File(FileContent::Bytes(Vec::new()), Vec::new());
    let entries = [SpecEntry::of_root(
        "init",
        libc::S_IFREG | 0o755,
        body,
        NAME,
    )];
    let mut loader = Vec::new();
    archive::write(&entries, CpioOptions::default(), &mut loader, NAME)?;
    let mut image = Chain::default();
    image.push(Box::new(loader), 1);
    for layer in layers {
        let file = layer
            .file
            .try_clone()
            .during("read", layer.path.display())?;
        image.push(Box::new(Opened::new(file, layer.length)), 4096);
    }
    let boot = Boot::new(&image, "retain_initrd", &StandIns::default());
    let plan = boot.plan()?;
    let sources = boot.open(&image)?;
    let parts = layer_parts(&plan, &sources);
    let (root, contents, _) = merge(&plan, &sources, &parts, Stacking::default());
    Ok(look(&root, &contents))
}
