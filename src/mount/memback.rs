//! The memback backend: EROFS on the memory of the initrd, without a block device or a copy.
//!
//! Needs a kernel with the patches in qemu/kernel; the interface is documented there.

use rustix::mount::MountAttrFlags;

use super::context::{Context, Mount};
use crate::error::Result;
use crate::plan::Layer;

/// Mounts a part of the initrd. Where the kernel does not know `memback=`, its refusal says so
/// ("Unknown parameter") and nothing is written to the kernel log.
pub fn mount(layer: &Layer) -> Result<Mount> {
    let context = Context::erofs()?;
    context.string("memback", &format!("{}:{}", layer.offset, layer.length))?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}
