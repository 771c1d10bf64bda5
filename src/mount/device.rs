//! The root device: found, recognised, mounted.

use log::info;
use rustix::mount::MountAttrFlags;

use super::context::{Context, Mount};
use crate::coldplug;
use crate::device::{Found, Patience, Search};
use crate::error::{Cause, Error, Result};
use crate::load::Loader;
use crate::plan::Device;

/// Mount options that belong to the mount and not to the filesystem (mount(8)); those without a bit
/// are what every mount is anyway.
const ATTRIBUTES: [(&str, MountAttrFlags); 12] = [
    ("nosuid", MountAttrFlags::MOUNT_ATTR_NOSUID),
    ("nodev", MountAttrFlags::MOUNT_ATTR_NODEV),
    ("noexec", MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ("noatime", MountAttrFlags::MOUNT_ATTR_NOATIME),
    ("strictatime", MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ("nodiratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ("relatime", MountAttrFlags::empty()),
    ("defaults", MountAttrFlags::empty()),
    ("suid", MountAttrFlags::empty()),
    ("dev", MountAttrFlags::empty()),
    ("exec", MountAttrFlags::empty()),
    ("auto", MountAttrFlags::empty()),
];

/// The root device as it was mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its node.
    pub node: String,
    /// The filesystem's type.
    pub fstype: String,
}

/// Waits for the root device and mounts it.
pub fn mount(device: &Device, patience: Patience, loader: &mut Loader) -> Result<(Mounted, Mount)> {
    // Listening comes first: drivers find devices as they are loaded, and those want drivers in turn.
    let mut search = Search::new();
    loader.follow(&coldplug::modaliases());
    let found = search.find(&device.spec, patience, &mut |modaliases| {
        loader.follow(modaliases)
    })?;
    let node = found.path.to_string_lossy().into_owned();
    let types = match device.types.as_slice() {
        [] => vec![recognised(&found)?],
        types => types.to_vec(),
    };
    let mut refusals = Vec::new();
    for fstype in types {
        loader.need_filesystem(&fstype);
        match try_one(device, &found, &node, &fstype) {
            Ok(mount) => {
                info!("root device {} ({node}): mounted as {fstype}", device.spec);
                return Ok((Mounted { node, fstype }, mount));
            }
            Err(error) => refusals.push(error),
        }
    }
    let object = format_args!("root device {} ({node})", device.spec);
    Err(Error::with("mount", object, Cause::Each(refusals)))
}

/// The type of the filesystem on a device, as the kernel calls it.
fn recognised(found: &Found) -> Result<String> {
    found.mountable()?;
    match found.volume() {
        Some(volume) => Ok(volume.kind.name().into()),
        None => {
            let what = "it holds no filesystem that is known here; rootfstype= can name one";
            Err(Error::new("recognise", found.path.display(), what))
        }
    }
}

fn try_one(device: &Device, found: &Found, node: &str, fstype: &str) -> Result<Mount> {
    let context = Context::new(fstype)?;
    context.string("source", node)?;
    for companion in &found.companions {
        context.string("device", &companion.to_string_lossy())?;
    }
    let mut attributes = MountAttrFlags::empty();
    if !device.writable {
        context.flag("ro")?;
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    for flag in &device.flags {
        match ATTRIBUTES.iter().find(|(name, _)| name == flag) {
            Some((_, attribute)) => attributes |= *attribute,
            None => context.option(flag)?,
        }
    }
    context.mount(attributes)
}
