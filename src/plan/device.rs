//! What `root=` names.

use super::cmdline::Options;
use super::device_spec::Spec;
use crate::error::Result;
use crate::text::items;

/// A device to mount: for `root=` what that and its companions say, for `rd.overlay=` the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which device.
    pub spec: Spec,
    /// `rootfstype=`: types to try, in order; empty, as with `auto` among them: whatever is on it.
    pub types: Vec<String>,
    /// `rootflags=`: mount options.
    pub flags: Vec<String>,
    /// Whether it is mounted for writing: the root device with `rw` where it is the root itself rather
    /// than a layer; the one that takes the writes.
    pub writable: bool,
}

impl Device {
    /// Whether it may be mounted without some of its devices (`degraded` of btrfs).
    pub fn degraded(&self) -> bool {
        self.flags.iter().any(|flag| flag == "degraded")
    }
}

/// What `root=` asks for.
pub(super) fn root(options: &Options, warnings: &mut Vec<String>) -> Result<Option<Device>> {
    let Some(text) = &options.root else {
        return Ok(None);
    };
    let list = |list: &Option<String>| items(list.as_deref().unwrap_or_default());
    let spec = Spec::parse(text)?;
    if spec.is_ramdisk() {
        // The way in which boot loaders have named the initrd since before there was an initramfs.
        warnings.push(format!(
            "root={text}: the initrd is not copied into a ramdisk; its layers are used"
        ));
        return Ok(None);
    }
    // "Look", in mount(8), dracut and initramfs-tools; no filesystem has the name.
    let mut types = list(&options.rootfstype);
    if types.iter().any(|fstype| fstype == "auto") {
        types.clear();
    }
    Ok(Some(Device {
        spec,
        types,
        flags: list(&options.rootflags),
        writable: options.root_writable,
    }))
}
