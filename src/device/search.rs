//! Finds the device that `root=` names, and waits for it.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::contents::{Contents, is_worth_reading};
use super::{Device, enumerate};
use crate::cmdline::{Options, Wait};
use crate::error::{Error, Result};
use crate::probe::Volume;
use crate::rootspec::Spec;
use crate::uevent::{Event, Listener, News, pause};

/// How long a device may take where the command line does not say. USB disks and slow controllers
/// come within a few seconds; after that somebody should see a message.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// How often a wait says what it waits for.
const REPORT: Duration = Duration::from_secs(5);

/// How often the devices are looked at on a kernel that announces none (without CONFIG_NET).
const BLIND: Duration = Duration::from_millis(250);

/// How long to wait for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `rootdelay=`: no look before that.
    pub delay: Duration,
    /// After the delay; `None` is for ever.
    pub limit: Option<Duration>,
}

impl Patience {
    /// What the command line asks for: `rootwait=N`, else `rd.timeout=N`, else `rootwait` for ever,
    /// else [`DEFAULT_WAIT`].
    pub fn of(options: &Options) -> Self {
        let limit = match (options.rootwait, options.timeout) {
            (Wait::Seconds(seconds), _) => Some(Duration::from_secs(seconds)),
            (_, Some(seconds)) => Some(Duration::from_secs(seconds)),
            (Wait::Forever, None) => None,
            (Wait::Default, None) => Some(DEFAULT_WAIT),
        };
        Self {
            delay: Duration::from_secs(options.rootdelay),
            limit,
        }
    }
}

/// A device that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The device.
    pub device: Device,
    /// Its node, which exists.
    pub path: PathBuf,
    /// What is on it: the superblock that was asked for, else the one to believe first, and then
    /// those that an earlier use has left behind. Empty where nothing is known, or it could not be
    /// read.
    pub volumes: Vec<Volume>,
    /// The nodes of the filesystem's other devices (btrfs). A mount wants each as `device=`.
    pub companions: Vec<PathBuf>,
}

impl Found {
    /// The superblock to believe.
    pub fn volume(&self) -> Option<&Volume> {
        self.volumes.first()
    }

    /// Refuses what is recognised as no filesystem, with the reason.
    pub fn mountable(&self) -> Result<()> {
        match self.volume().and_then(|volume| volume.kind.never_mounted()) {
            Some(why) => Err(Error::new("mount", self.path.display(), why)),
            None => Ok(()),
        }
    }
}

/// What one look at the devices comes to.
enum Look {
    There(Box<Found>),
    NotYet,
    /// For a filesystem of several devices: how many are there, and of how many.
    Incomplete(usize, u64),
}

/// A search for devices. Events count from its start, so that it starts before drivers are loaded.
#[derive(Debug)]
pub struct Search {
    listener: Option<Listener>,
    contents: Contents,
}

impl Search {
    /// Starts to listen for devices. Without uevents it looks now and then.
    pub fn new() -> Self {
        let listener = Listener::open().inspect_err(|error| {
            warn!("{error}; looking for devices every quarter of a second instead");
        });
        Self {
            listener: listener.ok(),
            contents: Contents::default(),
        }
    }

    /// Waits for the device that `spec` names. `modaliases` gets what came and wants a driver, as
    /// it comes, from the start of the search on.
    ///
    /// It is an error when two devices fit, at once, and when none does in time; both name the
    /// devices that are there.
    pub fn find(
        &mut self,
        spec: &Spec,
        patience: Patience,
        modaliases: &mut dyn FnMut(&[String]),
    ) -> Result<Found> {
        let started = Instant::now();
        // A delay that does not fit into an Instant is none, and such a limit is for ever.
        let first = later(started, patience.delay);
        let limit = patience.limit.and_then(|limit| first.checked_add(limit));
        let mut report = later(started, REPORT);
        let mut look = patience.delay.is_zero();
        if !look {
            info!(
                "rootdelay: looking for {spec} in {} s",
                patience.delay.as_secs()
            );
        }
        loop {
            let now = Instant::now();
            let timed_out = limit.is_some_and(|limit| now >= limit);
            let due = now >= report;
            if now >= first && (look || due || timed_out) {
                let devices = enumerate()?;
                let missing = match self.look(spec, &devices)? {
                    Look::There(found) => {
                        debug!(
                            "{spec} is {}, after {} ms",
                            found.device,
                            started.elapsed().as_millis()
                        );
                        return Ok(*found);
                    }
                    Look::NotYet => None,
                    Look::Incomplete(there, of) => Some((there, of)),
                };
                let state = State {
                    missing,
                    waited: started.elapsed(),
                };
                if timed_out {
                    let list = self.contents.list(&devices);
                    return Err(Error::new(
                        "find",
                        format_args!("root={spec}"),
                        format!("{state}; there are: {list}"),
                    ));
                }
                if due {
                    let list = self.contents.list(&devices);
                    info!("waiting for root={spec}: {state}; there are: {list}");
                }
            }
            if due {
                report = later(now, REPORT);
            }
            let mut until = report;
            if let Some(limit) = limit {
                until = until.min(limit);
            }
            if now < first {
                until = first;
            }
            let news = self.wait(until)?;
            look = self.follow(&news, modaliases) || now < first;
        }
    }

    /// What has come by `until`.
    fn wait(&self, until: Instant) -> Result<News> {
        if let Some(listener) = &self.listener {
            return listener.wait(until);
        }
        // Nothing to wait on but time; an error could only come from the descriptors.
        let _ = pause(&mut [], until.min(later(Instant::now(), BLIND)));
        Ok(News {
            lost: true,
            ..News::default()
        })
    }

    /// Takes note of what has come. Whether a look at the devices may find more than before.
    fn follow(&mut self, news: &News, modaliases: &mut dyn FnMut(&[String])) -> bool {
        let wanted: Vec<_> = news
            .events
            .iter()
            .filter(|event| event.action == "add")
            .filter_map(|event| event.modalias.clone())
            .collect();
        if !wanted.is_empty() {
            modaliases(&wanted);
        }
        if news.lost && self.listener.is_some() {
            self.contents.forget(None);
        }
        let is_block = |event: &&Event| event.subsystem == "block";
        let mut any = news.lost;
        for event in news.events.iter().filter(is_block) {
            any = true;
            if let Some(node) = &event.devname {
                self.contents.forget(Some(node));
            }
        }
        any
    }

    /// Looks for `spec` among `devices`.
    fn look(&mut self, spec: &Spec, devices: &[Device]) -> Result<Look> {
        let candidates = match spec {
            Spec::Name(name) => by_path(name, devices),
            Spec::Number { major, minor } => devices
                .iter()
                .filter(|device| (device.major, device.minor) == (*major, *minor))
                .collect(),
            Spec::PartUuid { uuid, offset } => {
                let found = self.partitions(devices, |entry| entry.has_uuid(uuid));
                match offset {
                    0 => found,
                    offset => found
                        .into_iter()
                        .filter_map(|device| neighbour(device, *offset, devices))
                        .collect(),
                }
            }
            Spec::PartLabel(label) => self.partitions(devices, |entry| entry.has_label(label)),
            Spec::Uuid(uuid) => return self.by_volume(spec, devices, |v| v.has_uuid(uuid)),
            Spec::Label(label) => {
                let fits = |volume: &Volume| volume.label.as_deref() == Some(label);
                return self.by_volume(spec, devices, fits);
            }
        };
        match candidates.as_slice() {
            [] => Ok(Look::NotYet),
            [device] if device.size == 0 => Ok(Look::NotYet),
            [device] => {
                let volumes = self.contents.volumes(device).unwrap_or_else(|error| {
                    warn!("{error}");
                    Vec::new()
                });
                let share = volumes.first().and_then(|volume| volume.share);
                if let (
                    Some(_),
                    Some(Volume {
                        uuid: Some(uuid), ..
                    }),
                ) = (share, volumes.first())
                {
                    // The other devices of the same filesystem have to be there too.
                    let uuid = uuid.clone();
                    let found = self.by_volume(spec, devices, |v| v.has_uuid(&uuid))?;
                    return Ok(match found {
                        Look::There(found) => Look::There(Box::new(found.starting_at(device)?)),
                        other => other,
                    });
                }
                there(device, volumes, Vec::new())
            }
            several => Err(self.refuse_to_guess(spec, several)),
        }
    }

    /// The partitions whose entry in the table fits. A table that cannot be read holds none.
    fn partitions<'a>(
        &mut self,
        devices: &'a [Device],
        fits: impl Fn(&Entry) -> bool,
    ) -> Vec<&'a Device> {
        let mut found = Vec::new();
        for device in devices.iter().filter(|device| device.partition.is_some()) {
            let mut entry = Entry {
                uuid: device.part_uuid.clone(),
                label: device.part_name.clone(),
            };
            // Linux 6.12 tells the name of a GPT partition, and no identifier.
            if entry.uuid.is_none() && is_worth_reading(device) {
                match self.contents.entry(device) {
                    Ok(Some(read)) => {
                        entry.uuid = read.uuid;
                        entry.label = read.label;
                    }
                    Ok(None) => {}
                    Err(error) => debug!("{error}"),
                }
            }
            if fits(&entry) {
                found.push(device);
            }
        }
        found
    }

    /// The devices with a superblock that fits.
    fn by_volume(
        &mut self,
        spec: &Spec,
        devices: &[Device],
        fits: impl Fn(&Volume) -> bool,
    ) -> Result<Look> {
        let mut found: Vec<(&Device, Vec<Volume>)> = Vec::new();
        for device in devices.iter().filter(|device| is_worth_reading(device)) {
            match self.contents.volumes(device) {
                Ok(mut volumes) => {
                    if let Some(at) = volumes.iter().position(&fits) {
                        volumes.swap(0, at);
                        found.push((device, volumes));
                    }
                }
                Err(error) => debug!("{error}"),
            }
        }
        reduce(&mut found);
        match found.as_slice() {
            [] => Ok(Look::NotYet),
            [(device, volumes)] if volumes.first().is_none_or(|v| v.share.is_none()) => {
                there(device, volumes.clone(), Vec::new())
            }
            several => match complete(several) {
                Some(of) if several.len() as u64 == of => {
                    let Some(((device, volumes), others)) = several.split_first() else {
                        return Ok(Look::NotYet);
                    };
                    let others = others.iter().map(|(device, _)| device.node());
                    there(device, volumes.clone(), others.collect::<Result<_>>()?)
                }
                Some(of) => Ok(Look::Incomplete(several.len(), of)),
                None => {
                    let devices: Vec<_> = several.iter().map(|(device, _)| *device).collect();
                    Err(self.refuse_to_guess(spec, &devices))
                }
            },
        }
    }

    fn refuse_to_guess(&mut self, spec: &Spec, candidates: &[&Device]) -> Error {
        let candidates: Vec<_> = candidates.iter().map(|device| (*device).clone()).collect();
        let names: Vec<_> = candidates.iter().map(ToString::to_string).collect();
        Error::new(
            "find",
            format_args!("root={spec}"),
            format!(
                "{} devices fit ({}), and this program does not guess; name one by PARTUUID= or by its \
                 path: {}",
                candidates.len(),
                names.join(", "),
                self.contents.list(&candidates)
            ),
        )
    }
}

impl Default for Search {
    fn default() -> Self {
        Self::new()
    }
}

impl Found {
    /// The same filesystem, mounted by another of its devices.
    fn starting_at(mut self, device: &Device) -> Result<Self> {
        let path = device.node()?;
        if let Some(at) = self.companions.iter().position(|other| *other == path)
            && let Some(other) = self.companions.get_mut(at)
        {
            std::mem::swap(other, &mut self.path);
            self.device = device.clone();
        }
        Ok(self)
    }
}

fn there(device: &Device, volumes: Vec<Volume>, companions: Vec<PathBuf>) -> Result<Look> {
    Ok(Look::There(Box::new(Found {
        device: device.clone(),
        path: device.node()?,
        volumes,
        companions,
    })))
}

/// The device whose node is `path` below /dev, or that the device mapper calls so.
fn by_path<'a>(path: &str, devices: &'a [Device]) -> Vec<&'a Device> {
    let plain = devices
        .iter()
        .find(|device| device.node == path || device.name.replace('!', "/") == path);
    let mapped = || {
        let name = path.strip_prefix("mapper/")?;
        let is = |device: &&Device| device.mapped_name().as_deref() == Some(name);
        devices.iter().find(is)
    };
    plain.or_else(mapped).into_iter().collect()
}

/// The partition of the same disk whose number is `offset` more.
fn neighbour<'a>(device: &Device, offset: i32, devices: &'a [Device]) -> Option<&'a Device> {
    let slice = device.partition.as_ref()?;
    let number = slice.number.checked_add_signed(offset)?;
    devices.iter().find(|other| {
        other
            .partition
            .as_ref()
            .is_some_and(|its| its.disk == slice.disk && its.number == number)
    })
}

/// Of several devices with the same content, leaves out those that hold it for another: a disk
/// whose partition shows it too (as on images for both CD and USB), and what a mapping is made of.
fn reduce(found: &mut Vec<(&Device, Vec<Volume>)>) {
    let disks: Vec<_> = found
        .iter()
        .filter_map(|(device, _)| Some(device.partition.as_ref()?.disk.clone()))
        .collect();
    found.retain(|(device, _)| !disks.contains(&device.name));
    if found.len() > 1 {
        let free = |(device, _): &(&Device, Vec<Volume>)| !device.is_held();
        if found.iter().any(free) {
            found.retain(free);
        }
    }
}

/// Whether these are different devices of one filesystem: of how many.
fn complete(found: &[(&Device, Vec<Volume>)]) -> Option<u64> {
    let (_, volumes) = found.first()?;
    let first = volumes.first()?;
    let of = first.share?.of;
    let mut members = Vec::new();
    for (_, volumes) in found {
        let volume = volumes.first()?;
        let member = volume.share?.member;
        if volume.uuid != first.uuid || members.contains(&member) {
            return None;
        }
        members.push(member);
    }
    (members.len() as u64 <= of).then_some(of)
}

/// What a partition table says of a partition.
struct Entry {
    uuid: Option<String>,
    label: Option<String>,
}

impl Entry {
    fn has_uuid(&self, uuid: &str) -> bool {
        self.uuid
            .as_ref()
            .is_some_and(|own| own.eq_ignore_ascii_case(uuid))
    }

    /// The kernel keeps seven bits of each character (utf16_le_to_7bit of block/partitions/efi.c).
    fn has_label(&self, label: &str) -> bool {
        let narrow = |unit: u16| match (unit & 0x7f) as u8 {
            byte @ 0x20..=0x7e => char::from(byte),
            _ => '!',
        };
        self.label
            .as_ref()
            .is_some_and(|own| own == label || label.encode_utf16().map(narrow).eq(own.chars()))
    }
}

/// How far a wait has come, as a clause.
struct State {
    missing: Option<(usize, u64)>,
    waited: Duration,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.waited.as_secs();
        match self.missing {
            None => write!(f, "no such device after {seconds} s"),
            Some((there, of)) => write!(
                f,
                "{there} of the {of} devices of its filesystem after {seconds} s"
            ),
        }
    }
}

fn later(now: Instant, by: Duration) -> Instant {
    now.checked_add(by).unwrap_or(now)
}
