//! The file backend: EROFS on a regular file, without a block device.
//!
//! Linux 6.12 with EROFS_FS_BACKED_BY_FILE; ENOTBLK before, and on a tmpfs. `fsoffset=` is of 6.16.

use rustix::mount::MountAttrFlags;

use super::context::{Context, Mount};
use crate::boot::source::Source;
use crate::error::Result;
use crate::plan::Layer;

/// Mounts an image that starts on a block boundary of a file.
pub fn mount(layer: &Layer, source: &Source) -> Result<Mount> {
    let context = Context::erofs()?;
    context.string("source", &source.path.to_string_lossy())?;
    if layer.offset != 0 {
        context.string("fsoffset", &layer.offset.to_string())?;
    }
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}
