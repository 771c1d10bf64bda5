//! The memback backend: EROFS on the memory of the initrd, without a block device or a copy.
//!
//! It needs a kernel with the patches in qemu/kernel, which document the interface.

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{FsContext, Mount};
use crate::error::{Error, Result};
use crate::plan::Layer;

/// The backend, and whether the kernel has it.
#[derive(Debug, Default)]
pub struct Memback {
    unsupported: bool,
}

impl Memback {
    /// Mounts a part of the initrd.
    ///
    /// # Errors
    /// The kernel has no memback, or refuses the image. Another backend may work.
    pub fn mount(&mut self, layer: &Layer) -> Result<Mount> {
        if self.unsupported {
            return Err(Error::new("mount", "erofs", "this kernel has no memback"));
        }
        let context = FsContext::read_only("erofs")?;
        let range = format!("{}:{}", layer.offset, layer.length);
        // A kernel without memback refuses it as an unknown parameter. One attempt is enough.
        context.string("memback", &range).inspect_err(|error| {
            self.unsupported = error.errno() == Some(Errno::INVAL);
        })?;
        context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }
}
