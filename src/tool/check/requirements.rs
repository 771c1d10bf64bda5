//! What an image needs from the kernel.

use std::collections::BTreeSet;

use super::context::Check;
use crate::format::compress::Codec;
use crate::format::erofs::{INCOMPAT_0PADDING, Superblock};
use crate::initrd::Kind;
use crate::plan::backend::Backend;
use crate::plan::{Content, Module, Place, Plan, Root, Upper};
use crate::tool::image::boot::Boot;

/// Kernel options (built in, or as modules in the loader) and words of the kernel command line that the image
/// needs.
pub fn requirements(check: &Check, plan: &Plan) -> BTreeSet<&'static str> {
    let mut needs = BTreeSet::from(["CONFIG_BLK_DEV_INITRD"]);
    needs.extend(compressed_archives(check.boot).map(|(_, codec)| codec.kernel_option()));
    for layer in &plan.layers {
        if let Some((filesystem, backends)) = layer.content.image()
            && plan.modules.contains(&filesystem)
        {
            needs.insert(filesystem.option());
            needs.extend(decompression(&layer.content));
            if let Some(backend) = Backend::most_portable(backends) {
                needs.extend(backend.options());
                needs.extend(backend.modules().iter().map(|module| module.option()));
            }
        }
    }
    if needs_tmpfs(plan) {
        needs.insert("CONFIG_TMPFS");
    }
    if plan.modules.contains(&Module::Overlay) {
        needs.insert("CONFIG_OVERLAY_FS");
    }
    if has_layers_in_initrd(plan) {
        needs.insert("retain_initrd");
    }
    needs
}

/// Whether a layer is in the initrd itself, rather than in a file that the kernel has unpacked.
pub fn has_layers_in_initrd(plan: &Plan) -> bool {
    let mut layers = plan.layers.iter();
    layers.any(|layer| layer.place == Place::Initrd)
}

/// Whether the kernel mounts EROFS layers. With `rd.layers.backend=extract` alone, `/init` reads them.
pub fn is_mounted(plan: &Plan) -> bool {
    plan.modules.contains(&Module::Erofs)
}

/// Whether layers are unpacked into a tmpfs, or writes go to one, if only as the fallback.
pub fn needs_tmpfs(plan: &Plan) -> bool {
    let mut layers = plan.layers.iter();
    let archives = layers.any(|layer| matches!(layer.content, Content::Cpio { .. }));
    let upper = match &plan.root {
        Root::Overlay(Upper::Tmpfs(_)) => true,
        Root::Extracted { .. } => true,
        _ => plan.store().is_some_and(|store| store.fallback.is_some()),
    };
    archives || upper
}

/// The compressed archives that the kernel unpacks and that are no layers, by offset.
pub fn compressed_archives<'a>(boot: &'a Boot) -> impl Iterator<Item = (u64, Codec)> + 'a {
    let layers = boot.image_layers();
    let segments = boot.image().into_iter().flat_map(|walk| &walk.segments);
    segments.filter_map(move |segment| match &segment.kind {
        Kind::Cpio(cpio) if cpio.by_kernel && !layers.contains(&segment.offset) => {
            Some((segment.offset, cpio.codec?))
        }
        _ => None,
    })
}

/// The options for reading the compressed files of a layer.
pub fn decompression(content: &Content) -> Vec<&'static str> {
    match content {
        Content::Erofs { superblock, .. } => decompression_options(superblock),
        Content::Squashfs { superblock, .. } => {
            let option = superblock.decompressor();
            option.map(|(_, option)| option).into_iter().collect()
        }
        Content::Cpio { .. } => Vec::new(),
    }
}

/// The options for reading a compressed EROFS image. The superblock of an image without the compr_cfgs feature does not
/// say whether there are compressed files; with 0padding there may be, by lz4.
fn decompression_options(superblock: &Superblock) -> Vec<&'static str> {
    let mut needs = Vec::new();
    for algorithm in superblock.algorithms() {
        needs.extend(match algorithm.as_str() {
            "lzma" => Some("CONFIG_EROFS_FS_ZIP_LZMA"),
            "deflate" => Some("CONFIG_EROFS_FS_ZIP_DEFLATE"),
            "zstd" => Some("CONFIG_EROFS_FS_ZIP_ZSTD"),
            _ => None,
        });
    }
    if superblock.feature_incompat & INCOMPAT_0PADDING != 0 {
        needs.push("CONFIG_EROFS_FS_ZIP");
    }
    needs
}
