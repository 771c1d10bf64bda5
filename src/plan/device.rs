//! `root=` and its companions.

use super::cmdline::Options;
use super::device_spec::Spec;
use super::verity::{self, Verity};
use crate::error::{Error, Result};
use crate::text::items;

/// A device and how to mount it, for `root=` or `rd.overlay=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// The device.
    pub spec: Spec,
    /// Filesystem types to try, in order (`rootfstype=`); empty: the type from the superblock.
    pub types: Vec<String>,
    /// Mount options (`rootflags=`).
    pub flags: Vec<String>,
    /// Whether it is mounted writable: the device of `rd.overlay=` always, the root device with `rw` if it is
    /// the root itself rather than a layer.
    pub writable: bool,
    /// How dm-verity verifies it; `None`: it is not verified.
    pub verity: Option<Box<Verity>>,
}

impl MountSpec {
    /// Whether the filesystem may be mounted while some of its devices are missing (btrfs: `degraded`).
    pub fn degraded(&self) -> bool {
        self.flags.iter().any(|flag| flag == "degraded")
    }
}

/// Reads `root=`, `rootfstype=` and `rootflags=`.
pub(super) fn root(options: &Options, warnings: &mut Vec<String>) -> Result<Option<MountSpec>> {
    let verity = verity::root(options)?;
    let mapped = format!("/dev/mapper/{}", verity::NAME);
    let text = match (&options.root, &verity) {
        (None, None) => return Ok(None),
        (None, Some(_)) => &mapped,
        (Some(text), Some(_)) if *text != mapped => {
            let what = format!("roothash= verifies {mapped}: name that, or leave root= out");
            return Err(Error::new("read", format_args!("root={text}"), what));
        }
        (Some(text), _) => text,
    };
    let list = |list: &Option<String>| items(list.as_deref().unwrap_or_default());
    let spec = Spec::parse(text)?;
    if spec.is_ramdisk() {
        // Boot loaders have used this name for the initrd since before initramfs existed.
        warnings.push(format!(
            "root={text}: the initrd is not copied into a ramdisk; its layers are used"
        ));
        return Ok(None);
    }
    // In mount(8), dracut and initramfs-tools, auto means detection; no filesystem has that name.
    let mut types = list(&options.rootfstype);
    if types.iter().any(|fstype| fstype == "auto") {
        types.clear();
    }
    Ok(Some(MountSpec {
        spec,
        types,
        flags: list(&options.rootflags),
        writable: options.root_writable && verity.is_none(),
        verity: verity.map(Box::new),
    }))
}
