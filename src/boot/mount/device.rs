//! Finds, identifies and mounts the devices of `root=`, `rd.overlay=` and `rd.layers.from=`.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use log::{info, warn};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::context::{FsContext, Mount};
use super::mount_options::split_options;
use crate::bytes::Opened;
use crate::device::{DeviceQuery, MatchedDevice, Search, WaitPolicy};
use crate::error::{self, Cause, Context, Error, Result};
use crate::format::superblock::Volume;
use crate::module::loader::Loader;
use crate::plan::cmdline::Options;
use crate::plan::{MountSpec, medium, upper_device};
use crate::sys::blockdev;

/// The word of the command line that names the device for writes.
const UPPER_WORD: &str = "rd.overlay";

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
    /// The device that takes writes.
    upper: Option<MountSpec>,
}

impl DeviceFinder {
    /// A finder that waits for each device as long as the options allow, and waits for `rootdelay=` once.
    pub fn new(options: &Options) -> Self {
        Self {
            search: None,
            policy: WaitPolicy::of(options),
            upper: upper_device(options),
        }
    }

    /// Waits for a device, and mounts it if `check` accepts it. If the device disappears in the meantime, as
    /// a USB disk does on a reset, the finder waits for it again.
    ///
    /// # Errors
    /// The device does not appear in time, several devices match, `check` refuses it, or no filesystem type
    /// can be mounted.
    pub fn mount(
        &mut self,
        wanted: DeviceQuery<'_>,
        device: &MountSpec,
        loader: &mut Loader,
        mut check: impl FnMut(&MatchedDevice) -> Result<()>,
    ) -> Result<(MountedDevice, Mount)> {
        self.retry(wanted, loader, |_, found, loader| {
            check(found)?;
            mount(wanted, device, found, loader)
        })
    }

    /// Waits for a device, and calls `mount` with it. If the device disappears in the meantime and comes
    /// back, it calls `mount` again.
    fn retry(
        &mut self,
        wanted: DeviceQuery<'_>,
        loader: &mut Loader,
        mut mount: impl FnMut(&mut Self, &MatchedDevice, &mut Loader) -> Result<(MountedDevice, Mount)>,
    ) -> Result<(MountedDevice, Mount)> {
        loop {
            let found = self.find(wanted, loader)?;
            match mount(self, &found, loader) {
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
    ///
    /// # Errors
    /// The device does not appear, or cannot be mounted, not even read-only.
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
    ///
    /// # Errors
    /// The device does not appear, cannot be mounted writable, or cannot hold an upper directory. The
    /// caller may fall back to a tmpfs.
    pub fn mount_upper(
        &mut self,
        device: &MountSpec,
        root: Option<&MountedDevice>,
        loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        let wanted = DeviceQuery::of(UPPER_WORD, device);
        let mounted = self.mount(wanted, device, loader, |found| {
            check_upper(wanted, found, root)
        });
        mounted.map_err(|error| match error.has(&[Errno::BUSY]) {
            true => error.hint("it is mounted read-only already, for rd.layers.from="),
            false => error,
        })
    }

    /// Mounts a device of `rd.layers.from=`. Nothing is written to it: the kernel refuses all writes
    /// meanwhile. It mounts a filesystem whose journal needs a replay without replaying it.
    ///
    /// If `rd.overlay=` names the same device, the filesystem is writable, and only this mount of it
    /// read-only: both mounts have one superblock in the kernel, which is read-only for both or for neither.
    ///
    /// # Errors
    /// The device does not appear, or cannot be mounted.
    pub fn mount_medium(
        &mut self,
        device: &MountSpec,
        loader: &mut Loader,
    ) -> Result<(MountedDevice, Mount)> {
        let wanted = DeviceQuery::of(medium::WORD, device);
        let upper = self.upper.clone();
        self.retry(wanted, loader, |finder, found, loader| {
            if upper.as_ref().is_some_and(|upper| finder.takes_writes(found, upper)) {
                info!("{wanted} is the device of rd.overlay=, too: its filesystem is mounted for writing");
                match mount_with(wanted, device, Access::ReadOnlyMount, found, loader) {
                    Err(error) if !found.device.is_gone() => {
                        warn!("{error}; it is mounted read-only");
                    }
                    done => return done,
                }
            }
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

    /// Whether `found` is the device `upper` of `rd.overlay=`, and can take the writes. If it cannot, or
    /// several devices match, mounting the upper fails later.
    fn takes_writes(&mut self, found: &MatchedDevice, upper: &MountSpec) -> bool {
        let wanted = DeviceQuery::of(UPPER_WORD, upper);
        let search = self.search.as_mut();
        let same = search.and_then(|search| search.look(wanted).ok().flatten());
        same.is_some_and(|same| same.nodes().any(|node| *node == found.path))
            && check_upper(wanted, found, None).is_ok()
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
                // The search listens for uevents before it loads drivers: drivers find devices, which need
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

/// Mounts the filesystem of a device without replaying its journal, after the replay failed with `why` on a
/// device that cannot be written to.
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

/// The devices of a filesystem: until this is dropped, the kernel refuses all writes to them.
struct Protected(Vec<File>);

impl Protected {
    fn new(found: &MatchedDevice) -> Self {
        let mut devices = Vec::new();
        for node in found.nodes() {
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
            // It is mounted read-only anyway.
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

/// Refuses a device whose superblock shows that it cannot hold an upper directory. `root` is the root device,
/// where that is a layer.
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
        found
            .nodes()
            .any(|node| node.as_os_str() == root.node.as_str())
    };
    if root.is_some_and(is_root) {
        return refuse(
            "it is the root device too, and overlayfs cannot write to one of its layers; an image in a file on it \
             can be the layer instead (rd.layers.from=)",
        );
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

/// Who may write to a filesystem that is being mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Nobody.
    ReadOnly,
    /// Other mounts of the filesystem, but not this one.
    ReadOnlyMount,
    /// This mount, too.
    Writable,
}

/// Mounts a device that was found with the first of its filesystem types that works.
pub fn mount(
    wanted: DeviceQuery<'_>,
    device: &MountSpec,
    found: &MatchedDevice,
    loader: &mut Loader,
) -> Result<(MountedDevice, Mount)> {
    let access = match device.writable {
        true => Access::Writable,
        false => Access::ReadOnly,
    };
    mount_with(wanted, device, access, found, loader)
}

fn mount_with(
    wanted: DeviceQuery<'_>,
    device: &MountSpec,
    access: Access,
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
        let mut mounted = mount_as(device, access, found, &node, &fstype);
        // A filesystem with quotas requests the module of their format, for which the kernel runs modprobe:
        // there is none.
        let errno = mounted.as_ref().err().and_then(Error::errno);
        if errno == Some(Errno::SRCH) {
            loader.load_requested(&["quota_v2".to_string()]);
            mounted = mount_as(device, access, found, &node, &fstype);
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

fn mount_as(
    device: &MountSpec,
    access: Access,
    found: &MatchedDevice,
    node: &str,
    fstype: &str,
) -> Result<Mount> {
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
    if access == Access::ReadOnly {
        context.flag("ro")?;
    }
    if access != Access::Writable {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    context.mount(attributes)
}
