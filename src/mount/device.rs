//! A device that the command line names: found, recognised, mounted.

use std::time::Duration;

use log::{info, warn};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{Context, Mount};
use crate::coldplug;
use crate::device::{Found, Patience, Search, Wanted};
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

/// A device as it was mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its node.
    pub node: String,
    /// The filesystem's type.
    pub fstype: String,
}

/// Finds devices, while the drivers that the machine asks for are loaded. Nothing is looked for, and
/// no driver loaded, before the first is wanted.
#[derive(Debug)]
pub struct Finder {
    search: Option<Search>,
    patience: Patience,
}

impl Finder {
    /// A finder that waits for each device as long as `patience` says; its delay is waited for once.
    pub fn new(patience: Patience) -> Self {
        Self {
            search: None,
            patience,
        }
    }

    /// Waits for a device, and returns what `using` makes of it. One that goes away meanwhile, as a USB disk
    /// does that is reset, is waited for again.
    pub fn find<T>(
        &mut self,
        wanted: Wanted<'_>,
        loader: &mut Loader,
        mut using: impl FnMut(&Found, &mut Loader) -> Result<T>,
    ) -> Result<T> {
        loop {
            let found = self.wait(wanted, loader)?;
            match using(&found, loader) {
                Err(error) if found.device.is_gone() => {
                    warn!(
                        "{error}: {} has gone away; waiting for {wanted} again",
                        found.device
                    );
                }
                done => return done,
            }
        }
    }

    fn wait(&mut self, wanted: Wanted<'_>, loader: &mut Loader) -> Result<Found> {
        let search = match &mut self.search {
            Some(search) => search,
            None => {
                // Listening comes first: drivers find devices as they are loaded, and those want
                // drivers in turn.
                let search = self.search.insert(Search::new());
                loader.follow(&coldplug::modaliases());
                search
            }
        };
        let found = search.find(wanted, self.patience, &mut |modaliases| {
            loader.follow(modaliases)
        });
        self.patience.delay = Duration::ZERO;
        found
    }
}

/// Mounts the root device: read-only where that is all it can, as the kernel does after EACCES
/// (mount_root_generic in init/do_mounts.c), and here after EROFS, too.
pub fn mount_root(
    wanted: Wanted<'_>,
    device: &Device,
    found: &Found,
    loader: &mut Loader,
) -> Result<(Mounted, Mount)> {
    match mount(wanted, device, found, loader) {
        Err(error) if device.writable && error.has(&[Errno::ACCESS, Errno::ROFS]) => {
            warn!("{error}: it cannot be written to, and is mounted read-only");
            let read_only = Device {
                writable: false,
                ..device.clone()
            };
            mount(wanted, &read_only, found, loader)
        }
        done => done,
    }
}

/// Mounts a device that was found.
pub fn mount(
    wanted: Wanted<'_>,
    device: &Device,
    found: &Found,
    loader: &mut Loader,
) -> Result<(Mounted, Mount)> {
    let node = found.path.to_string_lossy().into_owned();
    let types = match device.types.as_slice() {
        [] => vec![recognised(found)?],
        types => types.to_vec(),
    };
    let mut refusals = Vec::new();
    for fstype in types {
        loader.need_filesystem(&fstype);
        let mut tried = try_one(device, found, &node, &fstype);
        // ext4 and others ask the kernel for the format of their quotas, which asks modprobe.
        let refusal = tried.as_ref().err().and_then(Error::errno);
        if refusal == Some(Errno::SRCH) {
            loader.follow(&["quota_v2".to_string()]);
            tried = try_one(device, found, &node, &fstype);
        }
        match tried {
            Ok(mount) => {
                info!("{wanted} ({node}): mounted as {fstype}");
                return Ok((Mounted { node, fstype }, mount));
            }
            Err(error) => refusals.push(error),
        }
    }
    let object = format_args!("{wanted} ({node})");
    Err(Error::with("mount", object, Cause::Each(refusals)))
}

/// The type of the filesystem on a device, as the kernel calls it.
fn recognised(found: &Found) -> Result<String> {
    found.mountable()?;
    match (found.volume(), &found.unread) {
        (Some(volume), _) => Ok(volume.kind.name().into()),
        (None, Some(why)) => Err(Error::new("recognise", found.path.display(), why)),
        (None, None) => {
            let what =
                "it holds no filesystem that is known here (for root=, rootfstype= can name one)";
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
