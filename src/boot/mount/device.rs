//! Finds, identifies and mounts the devices of `root=`, `rd.overlay=` and `rd.layers.from=`.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use log::{info, warn};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{FsContext, Mount};
use crate::bytes::Opened;
use crate::device::{DeviceQuery, MatchedDevice, Search, WaitPolicy};
use crate::error::{self, Cause, Context, Error, Result};
use crate::format::superblock::Volume;
use crate::module::loader::Loader;
use crate::plan::cmdline::Options;
use crate::plan::{MountSpec, medium};
use crate::sys::blockdev;

/// The flags that select how atime is updated; fsmount(2) takes only one of them.
const ATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR__ATIME;

/// Mount options that are attributes of the mount and not parameters of the filesystem: name, attributes to
/// clear, attributes to set. The last one of several wins. Source: linux_flags_map in libmount/src/optmap.c of
/// util-linux, mount(8). relatime is the kernel's default, and `norelatime` does not change that.
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

/// Options that mount(8) interprets itself and does not pass to the kernel (userspace_opts_map in
/// libmount/src/optmap.c). They do not apply to a mount by root at boot. The last four are flags of mount(2)
/// that fsconfig(2) does not know, and that have no effect on a root filesystem.
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

/// Prefixes of further options of this kind.
const USERSPACE_PREFIXES: [&str; 4] = ["user=", "comment=", "x-", "X-"];

/// Splits mount options into attributes of the mount and parameters of the filesystem.
fn split_options(flags: &[String]) -> (MountAttrFlags, Vec<&String>) {
    let mut attributes = MountAttrFlags::empty();
    let mut rest = Vec::new();
    for flag in flags {
        if let Some((_, clear, set)) = ATTRIBUTES.iter().find(|(name, ..)| name == flag) {
            attributes = attributes.difference(*clear).union(*set);
        } else if !USERSPACE.contains(&flag.as_str())
            && !USERSPACE_PREFIXES
                .iter()
                .any(|prefix| flag.starts_with(prefix))
        {
            rest.push(flag);
        }
    }
    (attributes, rest)
}

/// A mounted device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedDevice {
    /// The path of its device node.
    pub node: String,
    /// The filesystem type.
    pub fstype: String,
    /// The UUID of the filesystem, if it has one that is known.
    pub uuid: Option<String>,
}

/// Finds and mounts devices, and loads drivers while it waits for them. The first search loads the drivers of
/// the devices that are present.
#[derive(Debug)]
pub struct DeviceFinder {
    search: Option<Search>,
    policy: WaitPolicy,
}

impl DeviceFinder {
    /// A finder that waits for each device as long as the options allow, and waits for `rootdelay=` once.
    pub fn new(options: &Options) -> Self {
        Self {
            search: None,
            policy: WaitPolicy::of(options),
        }
    }

    /// Waits for a device, and mounts it if `check` accepts it. If the device disappears meanwhile, as a USB
    /// disk does on a reset, the finder waits for it again.
    pub fn mount(
        &mut self,
        wanted: DeviceQuery<'_>,
        device: &MountSpec,
        loader: &mut Loader,
        mut check: impl FnMut(&MatchedDevice) -> Result<()>,
    ) -> Result<(MountedDevice, Mount)> {
        self.retry(wanted, loader, |found, loader| {
            check(found)?;
            mount(wanted, device, found, loader)
        })
    }

    /// Waits for a device, and calls `mount` with it; again with the device that returns if it disappears meanwhile.
    fn retry(
        &mut self,
        wanted: DeviceQuery<'_>,
        loader: &mut Loader,
        mut mount: impl FnMut(&MatchedDevice, &mut Loader) -> Result<(MountedDevice, Mount)>,
    ) -> Result<(MountedDevice, Mount)> {
        loop {
            let found = self.find(wanted, loader)?;
            match mount(&found, loader) {
                Err(error) if found.device.is_gone() => {
                    warn!(
                        "{error}: {} has disappeared; waiting for {wanted} again",
                        found.device
                    );
                }
                done => return done,
            }
        }
    }

    /// Mounts the root device. Retries read-only after EACCES, as the kernel does (mount_root_generic in
    /// init/do_mounts.c), and after EROFS.
    pub fn mount_root(
        &mut self,
        device: &MountSpec,
        loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        let wanted = DeviceQuery::of("root", device);
        match self.mount(wanted, device, loader, |_| Ok(())) {
            Err(error) if device.writable && error.has(&[Errno::ACCESS, Errno::ROFS]) => {
                warn!("{error}: the device is not writable; mounting it read-only");
                let read_only = MountSpec {
                    writable: false,
                    ..device.clone()
                };
                self.mount(wanted, &read_only, loader, |_| Ok(()))
            }
            done => done,
        }
    }

    /// Mounts the device that overlayfs is to write to. `root` is the root device, where that is a layer.
    pub fn mount_upper(
        &mut self,
        device: &MountSpec,
        root: Option<&MountedDevice>,
        loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        let wanted = DeviceQuery::of("rd.overlay", device);
        let mounted = self.mount(wanted, device, loader, |found| {
            check_upper(wanted, found, root)
        });
        mounted.map_err(|error| match error.has(&[Errno::BUSY]) {
            true => error.hint("a device of rd.layers.from= is mounted read-only, and cannot take the writes as well"),
            false => error,
        })
    }

    /// Mounts a device of `rd.layers.from=`. Nothing is written to it: the kernel refuses all writes meanwhile. A
    /// filesystem whose journal would have to be replayed is mounted without that.
    pub fn mount_medium(
        &mut self,
        device: &MountSpec,
        loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        let wanted = DeviceQuery::of(medium::WORD, device);
        self.retry(wanted, loader, |found, loader| {
            let _protected = Protected::new(found);
            match mount(wanted, device, found, loader) {
                Err(error) if !found.device.is_gone() => {
                    mount_unreplayed(wanted, device, found, loader, error)
                }
                done => done,
            }
        })
    }

    /// Opens a device of `rd.layers.from=` that holds layers without a filesystem. Returns the path of its node, too.
    pub fn open_medium(
        &mut self,
        device: &MountSpec,
        loader: &mut Loader,
    ) -> Result<(String, Opened)> {
        let wanted = DeviceQuery::of(medium::WORD, device);
        let found = self.find(wanted, loader)?;
        found.check_mountable()?;
        let node = found.path.to_string_lossy().into_owned();
        Ok((node, found.device.open()?))
    }

    pub(super) fn find(
        &mut self,
        wanted: DeviceQuery<'_>,
        loader: &mut Loader,
    ) -> Result<MatchedDevice> {
        let mut load = |modaliases: &[String]| loader.load_requested(modaliases);
        let search = match &mut self.search {
            Some(search) => search,
            None => {
                // The search listens for uevents before it loads drivers: these find devices, which need
                // drivers in turn.
                let search = self.search.insert(Search::new());
                search.coldplug(&mut load);
                search
            }
        };
        let found = search.find(wanted, self.policy, &mut load);
        self.policy.delay = Duration::ZERO;
        found
    }
}

/// Mounts the filesystem of a device without replaying its journal, after that failed for `why` on a device that
/// cannot be written to.
fn mount_unreplayed(
    wanted: DeviceQuery<'_>,
    device: &MountSpec,
    found: &MatchedDevice,
    loader: &mut Loader,
    why: Error,
) -> Result<(MountedDevice, Mount)> {
    let option = found.volume().and_then(|volume| volume.kind.no_replay());
    let Some(option) = option else {
        return Err(why);
    };
    let mut unreplayed = device.clone();
    unreplayed.flags.push(option.into());
    match mount(wanted, &unreplayed, found, loader) {
        Ok(mounted) => {
            warn!(
                "{wanted} ({}): mounted with {option}, because its journal has to be replayed and /init writes \
                 nothing to it: what was written last may be missing. Do not remount it for writing: its journal \
                 would be replayed over that later",
                found.path.display()
            );
            Ok(mounted)
        }
        Err(_) => Err(why),
    }
}

/// The devices of a filesystem, which the kernel lets nobody write to until this is dropped.
struct Protected(Vec<File>);

impl Protected {
    fn new(found: &MatchedDevice) -> Self {
        let mut devices = Vec::new();
        for node in found.companions.iter().chain([&found.path]) {
            let mut protect = || {
                let mut options = File::options();
                // Without NONBLOCK, a CD drive closes its tray and waits for the disc.
                let options = options.read(true).custom_flags(libc::O_NONBLOCK);
                let object = node.display();
                let device = options.open(node).during("open", &object)?;
                if !blockdev::is_read_only(&device).during("read access of", &object)? {
                    blockdev::set_read_only(&device, true).during("write-protect", &object)?;
                    devices.push(device);
                }
                Ok::<_, Error>(())
            };
            // It is mounted read-only all the same.
            if let Err(error) = protect() {
                warn!("{error}");
            }
        }
        Self(devices)
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        for device in &self.0 {
            if let Err(errno) = blockdev::set_read_only(device, false) {
                warn!("a device stays write-protected: {}", error::name(errno));
            }
        }
    }
}

/// Refuses a device that cannot hold an upper directory, as far as its superblock shows. `root` is the root
/// device, where that is a layer.
fn check_upper(
    wanted: DeviceQuery<'_>,
    found: &MatchedDevice,
    root: Option<&MountedDevice>,
) -> Result<()> {
    let refuse = |why: &str| {
        let object = format_args!("{wanted} ({})", found.path.display());
        Err(Error::new("write to", object, why))
    };
    let is_root = |root: &MountedDevice| {
        let mut nodes = found.companions.iter().chain([&found.path]);
        nodes.any(|node| node.as_os_str() == root.node.as_str())
    };
    if root.is_some_and(is_root) {
        return refuse("it is the root device too: overlayfs cannot write to one of its layers");
    }
    found.check_mountable()?;
    let unfit = |volume: &Volume| {
        let why = volume.kind.upper_refusal()?;
        Some(format!("it is {}: {why}", volume.kind))
    };
    match found.volume().and_then(unfit) {
        Some(why) => refuse(&why),
        None => Ok(()),
    }
}

/// Mounts a device that was found with the first of its filesystem types that works.
pub fn mount(
    wanted: DeviceQuery<'_>,
    device: &MountSpec,
    found: &MatchedDevice,
    loader: &mut Loader,
) -> Result<(MountedDevice, Mount)> {
    let node = found.path.to_string_lossy().into_owned();
    let types = match device.types.as_slice() {
        [] => vec![identify(found)?],
        types => types.to_vec(),
    };
    let mut refusals = Vec::new();
    for fstype in types {
        loader.need_filesystem(&fstype);
        let mut mounted = mount_as(device, found, &node, &fstype);
        // A filesystem with quotas requests the module of their format, for which the kernel runs modprobe:
        // there is none.
        let errno = mounted.as_ref().err().and_then(Error::errno);
        if errno == Some(Errno::SRCH) {
            loader.load_requested(&["quota_v2".to_string()]);
            mounted = mount_as(device, found, &node, &fstype);
        }
        match mounted {
            Ok(mount) => {
                info!("{wanted} ({node}): mounted as {fstype}");
                let uuid = found.volume().and_then(|volume| volume.uuid.clone());
                return Ok((MountedDevice { node, fstype, uuid }, mount));
            }
            Err(error) => refusals.push(error),
        }
    }
    let object = format_args!("{wanted} ({node})");
    Err(Error::with("mount", object, Cause::Each(refusals)))
}

/// The type of the filesystem on a device, by the kernel's name.
fn identify(found: &MatchedDevice) -> Result<String> {
    found.check_mountable()?;
    match (found.volume(), &found.unread) {
        (Some(volume), _) => Ok(volume.kind.name().into()),
        (None, Some(why)) => Err(Error::new("identify", found.path.display(), why)),
        (None, None) => Err(Error::new(
            "identify",
            found.path.display(),
            "it holds no known filesystem (for root=, rootfstype= can name one)",
        )),
    }
}

fn mount_as(device: &MountSpec, found: &MatchedDevice, node: &str, fstype: &str) -> Result<Mount> {
    let context = FsContext::new(fstype)?;
    context.string("source", node)?;
    for companion in &found.companions {
        context.string("device", &companion.to_string_lossy())?;
    }
    let (mut attributes, options) = split_options(&device.flags);
    for option in options {
        context.option(option)?;
    }
    // After the options: `rootflags=rw` must not make a layer writable.
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
    fn mount_options_are_split_as_mount_8_does() {
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
            // The last one wins; both together fail with EINVAL.
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
            let (got, left) = split_options(&flags);
            assert_eq!(got, attributes, "{text}");
            assert_eq!(
                left,
                crate::text::items(rest).iter().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }
}
