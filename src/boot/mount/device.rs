//! A device that the command line names: found, recognised, mounted.

use std::time::Duration;

use log::{info, warn};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{Context, Mount};
use crate::device::{Found, Patience, Search, Wanted};
use crate::error::{Cause, Error, Result};
use crate::module::loader::Loader;
use crate::plan::Device;

/// How atime is kept; fsmount(2) takes one of these only.
const ATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR__ATIME;

/// Mount options that belong to the mount and not to the filesystem: what each takes away, and what
/// it adds, so that the last of several wins. Source: linux_flags_map in libmount/src/optmap.c of
/// util-linux, mount(8). relatime is what a mount has unless something else is said, and
/// `norelatime` does not change that.
const ATTRIBUTES: [(&str, MountAttrFlags, MountAttrFlags); 17] = {
    use MountAttrFlags as Flags;
    const NONE: MountAttrFlags = MountAttrFlags::empty();
    [
        ("nosuid", NONE, Flags::MOUNT_ATTR_NOSUID),
        ("suid", Flags::MOUNT_ATTR_NOSUID, NONE),
        ("nodev", NONE, Flags::MOUNT_ATTR_NODEV),
        ("dev", Flags::MOUNT_ATTR_NODEV, NONE),
        ("noexec", NONE, Flags::MOUNT_ATTR_NOEXEC),
        ("exec", Flags::MOUNT_ATTR_NOEXEC, NONE),
        ("noatime", ATIME, Flags::MOUNT_ATTR_NOATIME),
        ("atime", Flags::MOUNT_ATTR_NOATIME, NONE),
        ("strictatime", ATIME, Flags::MOUNT_ATTR_STRICTATIME),
        ("nostrictatime", Flags::MOUNT_ATTR_STRICTATIME, NONE),
        ("relatime", ATIME, NONE),
        ("norelatime", NONE, NONE),
        ("nodiratime", NONE, Flags::MOUNT_ATTR_NODIRATIME),
        ("diratime", Flags::MOUNT_ATTR_NODIRATIME, NONE),
        // From Linux 5.14 on (fsmount(2)).
        ("nosymfollow", NONE, Flags::MOUNT_ATTR_NOSYMFOLLOW),
        ("symfollow", Flags::MOUNT_ATTR_NOSYMFOLLOW, NONE),
        ("defaults", NONE, NONE),
    ]
};

/// What mount(8) keeps from the kernel: who may mount, when, and what it says meanwhile
/// (userspace_opts_map in libmount/src/optmap.c). Root's mount at boot is not concerned. The last four
/// are flags of mount(2) that fsconfig(2) does not know, and that change nothing in a root filesystem.
const USERSPACE: [&str; 16] = [
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "silent",
    "loud",
    "iversion",
    "noiversion",
];

/// The same, with anything behind.
const USERSPACE_PREFIXES: [&str; 4] = ["user=", "comment=", "x-", "X-"];

/// Parts mount options into those of the mount and those of the filesystem.
fn parted(flags: &[String]) -> (MountAttrFlags, Vec<&String>) {
    let mut attributes = MountAttrFlags::empty();
    let mut rest = Vec::new();
    for flag in flags {
        if let Some((_, less, more)) = ATTRIBUTES.iter().find(|(name, ..)| name == flag) {
            attributes = attributes.difference(*less).union(*more);
        } else if !USERSPACE.contains(&flag.as_str())
            && !USERSPACE_PREFIXES
                .iter()
                .any(|start| flag.starts_with(start))
        {
            rest.push(flag);
        }
    }
    (attributes, rest)
}

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
        let mut follow = |modaliases: &[String]| loader.follow(modaliases);
        let search = match &mut self.search {
            Some(search) => search,
            None => {
                // Listening comes first: drivers find devices as they are loaded, and those want
                // drivers in turn.
                let search = self.search.insert(Search::new());
                search.coldplug(&mut follow);
                search
            }
        };
        let found = search.find(wanted, self.patience, &mut follow);
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
    let (mut attributes, options) = parted(&device.flags);
    for option in options {
        context.option(option)?;
    }
    // After them: `rootflags=rw` does not make a layer writable.
    if !device.writable {
        context.flag("ro")?;
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    context.mount(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_go_where_mount_8_sends_them() {
        for (text, attributes, rest) in [
            (
                "defaults,errors=remount-ro,commit=30",
                MountAttrFlags::empty(),
                "errors=remount-ro,commit=30",
            ),
            (
                "noatime,nodiratime,nosuid,nodev,noexec,nosymfollow",
                MountAttrFlags::MOUNT_ATTR_NOATIME
                    | MountAttrFlags::MOUNT_ATTR_NODIRATIME
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC
                    | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
                "",
            ),
            // The last one wins; both together would be EINVAL.
            (
                "noatime,strictatime",
                MountAttrFlags::MOUNT_ATTR_STRICTATIME,
                "",
            ),
            (
                "strictatime,noatime,norelatime",
                MountAttrFlags::MOUNT_ATTR_NOATIME,
                "",
            ),
            (
                "noatime,atime,nodiratime,diratime,noexec,exec,nosuid,suid,nodev,dev",
                MountAttrFlags::empty(),
                "",
            ),
            (
                "strictatime,nostrictatime,nosymfollow,symfollow,noatime,relatime",
                MountAttrFlags::empty(),
                "",
            ),
            (
                "nofail,_netdev,noauto,auto,user,user=joe,nouser,users,owner,group,silent,\
                 x-systemd.growfs,X-mount.mkdir,comment=root,lazytime,group_id=1",
                MountAttrFlags::empty(),
                "lazytime,group_id=1",
            ),
        ] {
            let flags = crate::text::items(text);
            let (got, left) = parted(&flags);
            assert_eq!(got, attributes, "{text}");
            assert_eq!(
                left,
                crate::text::items(rest).iter().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }
}
