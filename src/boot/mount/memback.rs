//! The memback backend: EROFS on the memory of the initrd, without a block device or a copy.
//!
//! Needs a kernel with the patches in qemu/kernel; the interface is documented there.

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{Context, Mount};
use crate::error::{Error, Result};
use crate::plan::Layer;

/// Mounts a part of the initrd. A kernel that does not know `memback=` says so in the context ("Unknown
/// parameter") and not in its log; `unknown` keeps that, and the kernel is asked once.
pub fn mount(layer: &Layer, unknown: &mut bool) -> Result<Mount> {
    if *unknown {
        return Err(Error::new("mount", "erofs", "this kernel has no memback"));
    }
    let context = Context::erofs()?;
    let range = format!("{}:{}", layer.offset, layer.length);
    context.string("memback", &range).inspect_err(|error| {
        *unknown = error.errno() == Some(Errno::INVAL);
    })?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}
