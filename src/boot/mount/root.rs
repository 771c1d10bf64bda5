//! Makes the new root from the mounted layers.

use log::{debug, info};

use super::context::Mount;
use super::overlay::{self, Stack};
use super::paths::{LAYERS, SYSROOT, UPPER, create_directory};
use super::upper::{self, MountedUpper};
use super::{Mounter, identity};
use crate::boot::systemd;
use crate::error::{Error, Result};
use crate::plan::identity::StackRecord;
use crate::plan::{Content, Layer, PersistentUpper, Root, Upper};

impl Mounter<'_> {
    /// Makes the new root from the mounted layers. Returns its path: [`SYSROOT`], or `/` where the initramfs
    /// itself is the system.
    ///
    /// # Errors
    /// Overlayfs or what it writes to cannot be mounted, and nothing can replace it.
    pub fn mount_root(&mut self) -> Result<&'static str> {
        match &self.plan.root {
            Root::Initramfs => {
                info!("no layers: the initramfs itself is the system");
                return Ok("/");
            }
            Root::Assembled => {
                info!("the kernel has stacked the layers already: its root is the system");
                bind_kernel_layers();
                return Ok("/");
            }
            _ if self.mounted.single => return Ok(SYSROOT),
            // It is mounted there.
            Root::Device | Root::Extracted { .. } => return Ok(SYSROOT),
            Root::Layer | Root::Overlay(_) => create_directory(SYSROOT)?,
        }
        let is_complete = self.mount_stack()?;
        if let Some(kept) = self.plan.kept.as_ref().filter(|_| is_complete) {
            self.mount_kept(kept)?;
        }
        Ok(SYSROOT)
    }

    /// Mounts the layers at [`SYSROOT`]. `false` if one tmpfs took the place of the overlay.
    fn mount_stack(&mut self) -> Result<bool> {
        let lower = self.lower();
        let Some(lowest) = lower.names.first() else {
            return Err(Error::new("mount", "root", "there is nothing to mount"));
        };
        match &self.plan.root {
            Root::Overlay(upper) => {
                if let Err(error) = self.need_overlay() {
                    self.do_without_overlay(error)?;
                    return Ok(false);
                }
                self.mounted.upper = self.mount_overlay(&lower, upper)?;
                if let Some(device) = &self.mounted.device {
                    systemd::link_volatile_root(&device.node);
                }
                info!("layers stacked: {}", lower.names.len());
            }
            _ => Mount::bind(&format!("{LAYERS}/{lowest}"))?.attach(SYSROOT)?,
        }
        Ok(true)
    }

    /// Mounts the overlay, and the filesystem that it writes to, which is returned.
    fn mount_overlay(&mut self, lower: &Stack, upper: &Upper) -> Result<Option<MountedUpper>> {
        let root_of = self.root_directory_layer();
        let upper = match upper {
            Upper::None => None,
            Upper::Tmpfs(options) => Some(upper::mount_tmpfs(options, UPPER, root_of)?),
            Upper::Device(persistent) => {
                match self.mount_persistent_overlay(lower, persistent, root_of) {
                    Ok(upper) => return Ok(Some(upper)),
                    Err(why) => Some(upper::mount_fallback(persistent, UPPER, root_of, why)?),
                }
            }
        };
        overlay::mount(lower, upper.as_ref(), SYSROOT)?;
        Ok(upper)
    }

    /// Mounts the overlay with the device that it writes to.
    fn mount_persistent_overlay(
        &mut self,
        lower: &Stack,
        persistent: &PersistentUpper,
        root_of: Option<usize>,
    ) -> Result<MountedUpper> {
        let upper = self.mount_store(persistent, UPPER, root_of)?;
        overlay::mount(lower, Some(&upper), SYSROOT).inspect_err(|_| upper::detach(UPPER))?;
        info!("writes go to {} and are kept", upper.directory);
        Ok(upper)
    }

    /// Mounts the device of `rd.overlay=` at `target`, with an upper directory in the state that `rd.overlay.stale=`
    /// and `rd.overlay.reset` demand.
    pub(super) fn mount_store(
        &mut self,
        persistent: &PersistentUpper,
        target: &'static str,
        root_of: Option<usize>,
    ) -> Result<MountedUpper> {
        let root = self.mounted.device.as_ref();
        let device = self
            .finder
            .mount_upper(&persistent.device, root, &mut self.loader)?;
        let record = self.stack_record(persistent)?;
        upper::attach_device(persistent, device, target, root_of, &record)
    }

    /// The identities of what is mounted, and the value of `rd.overlay.reset`.
    fn stack_record(&self, persistent: &PersistentUpper) -> Result<StackRecord> {
        let device = self.plan.device.iter().zip(&self.mounted.device);
        let device = device.map(|(spec, device)| identity::of_device(spec, device));
        let layers = self.mounted.layers.iter();
        let layers = layers.map(|mounted| match &mounted.identity {
            Some(identity) => Ok(identity.clone()),
            None => identity::of_layer(mounted.layer, self.source(mounted.layer)?),
        });
        Ok(StackRecord {
            members: device.chain(layers).collect::<Result<_>>()?,
            reset: persistent.reset.clone(),
        })
    }

    /// The lowest layer that defines owner, mode and attributes of the root directory.
    pub(super) fn root_directory_layer(&self) -> Option<usize> {
        let defines_root = |layer: &&Layer| match layer.content {
            Content::Cpio { has_root, .. } => has_root,
            Content::Erofs { .. } | Content::Squashfs { .. } => true,
        };
        match &self.plan.device {
            Some(_) => Some(0),
            None => {
                let layer = self.plan.layers.iter().find(defines_root);
                layer.map(|layer| layer.number)
            }
        }
    }
}

/// Makes the layers that the kernel has mounted visible in [`LAYERS`], where the new root expects them.
fn bind_kernel_layers() {
    const KERNEL_LAYERS: &str = "/initrd_layers";
    let bound = Mount::rbind(KERNEL_LAYERS).and_then(|layers| layers.attach(LAYERS));
    // The system works without them.
    if let Err(error) = bound {
        debug!("no layers in {LAYERS}: {error}");
    }
}
