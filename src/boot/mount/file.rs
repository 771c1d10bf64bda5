//! The file backend: EROFS on a regular file, without a block device.
//!
//! It needs Linux 6.12 with EROFS_FS_BACKED_BY_FILE. An older kernel fails with ENOTBLK, as does every kernel
//! for a file on a tmpfs. `fsoffset=` came with Linux 6.16.

use rustix::mount::MountAttrFlags;

use super::context::{FsContext, Mount};
use crate::boot::source::OpenSource;
use crate::error::Result;
use crate::plan::Layer;

/// The path that the kernel opens. fsconfig(2) takes values of up to 255 bytes.
fn path(source: &OpenSource) -> String {
    const VALUE_MAX: usize = 255;
    match source.path() {
        path if path.len() <= VALUE_MAX => path,
        _ => source.fd_path(),
    }
}

/// Mounts an image that starts on a block boundary of a file.
///
/// # Errors
/// The kernel does not mount regular files (ENOTBLK), or refuses the image. Another backend may work.
pub fn mount(layer: &Layer, source: &OpenSource) -> Result<Mount> {
    let context = FsContext::read_only("erofs")?;
    context.string("source", &path(source))?;
    if layer.offset != 0 {
        context.string("fsoffset", &layer.offset.to_string())?;
    }
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}
