//! Which of the devices a word of the command line names.

use std::path::PathBuf;

use log::{debug, warn};

use super::contents::{Contents, is_worth_reading};
use super::{Device, Wanted};
use crate::error::{Error, Result};
use crate::format::superblock::Volume;
use crate::plan::device_spec::Spec;

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
    /// Why it could not be read, in words: a disk that fails is not one without a filesystem.
    pub unread: Option<String>,
    /// The nodes of the filesystem's other devices (btrfs). A mount wants each as `device=`.
    pub companions: Vec<PathBuf>,
}

impl Found {
    /// How many devices of its filesystem were found.
    pub(super) fn devices(&self) -> usize {
        self.companions.len().saturating_add(1)
    }

    /// The superblock to believe.
    pub fn volume(&self) -> Option<&Volume> {
        self.volumes.first()
    }

    /// Refuses what is recognised as no filesystem, with the reason.
    pub fn mountable(&self) -> Result<()> {
        match self.volume().and_then(|volume| volume.kind.refusal()) {
            Some(why) => Err(Error::new("mount", self.path.display(), why)),
            None => Ok(()),
        }
    }

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

/// What one look at the devices comes to.
pub(super) enum Look {
    There(Box<Found>),
    NotYet,
    /// Some of the devices of a filesystem, and how many it has.
    Incomplete(Box<Found>, u64),
}

impl Contents {
    /// Looks for what is `wanted` among `devices`.
    pub(super) fn look(&mut self, wanted: Wanted<'_>, devices: &[Device]) -> Result<Look> {
        let candidates = match wanted.spec {
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
            Spec::Uuid(uuid) => return self.by_volume(wanted, devices, |v| v.has_uuid(uuid)),
            Spec::Label(label) => {
                let fits = |volume: &Volume| volume.label.as_deref() == Some(label);
                return self.by_volume(wanted, devices, fits);
            }
        };
        match candidates.as_slice() {
            [] => Ok(Look::NotYet),
            [device] if device.size == 0 => Ok(Look::NotYet),
            [device] => {
                let (volumes, unread) = match self.volumes(device) {
                    Ok(volumes) => (volumes, None),
                    // No medium yet, or one that a drive takes its time for.
                    Err(error) if device.is_removable() => {
                        debug!("{error}");
                        return Ok(Look::NotYet);
                    }
                    Err(error) => {
                        warn!("{error}");
                        (Vec::new(), Some(error.to_string()))
                    }
                };
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
                    let found = self.by_volume(wanted, devices, |v| v.has_uuid(&uuid))?;
                    return Ok(match found {
                        Look::There(found) => Look::There(Box::new(found.starting_at(device)?)),
                        Look::Incomplete(found, of) => {
                            Look::Incomplete(Box::new(found.starting_at(device)?), of)
                        }
                        Look::NotYet => Look::NotYet,
                    });
                }
                there(device, volumes, unread, Vec::new())
            }
            several => Err(self.refuse_to_guess(wanted, several)),
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
                match self.entry(device) {
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
        wanted: Wanted<'_>,
        devices: &[Device],
        fits: impl Fn(&Volume) -> bool,
    ) -> Result<Look> {
        let mut found: Vec<(&Device, Vec<Volume>)> = Vec::new();
        for device in devices.iter().filter(|device| is_worth_reading(device)) {
            match self.volumes(device) {
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
                there(device, volumes.clone(), None, Vec::new())
            }
            several => match complete(several) {
                Some(of) => {
                    let Some(((device, volumes), others)) = several.split_first() else {
                        return Ok(Look::NotYet);
                    };
                    let others = others.iter().map(|(device, _)| device.node());
                    let others = others.collect::<Result<_>>()?;
                    let look = there(device, volumes.clone(), None, others)?;
                    Ok(match look {
                        Look::There(found) if several.len() as u64 != of => {
                            Look::Incomplete(found, of)
                        }
                        look => look,
                    })
                }
                None => {
                    let devices: Vec<_> = several.iter().map(|(device, _)| *device).collect();
                    Err(self.refuse_to_guess(wanted, &devices))
                }
            },
        }
    }

    fn refuse_to_guess(&mut self, wanted: Wanted<'_>, candidates: &[&Device]) -> Error {
        let candidates: Vec<_> = candidates.iter().map(|device| (*device).clone()).collect();
        let names: Vec<_> = candidates.iter().map(ToString::to_string).collect();
        Error::new(
            "find",
            wanted,
            format!(
                "{} devices fit ({}), and this program does not guess; name one by PARTUUID= or by its \
                 path: {}",
                candidates.len(),
                names.join(", "),
                self.list(&candidates)
            ),
        )
    }
}

fn there(
    device: &Device,
    volumes: Vec<Volume>,
    unread: Option<String>,
    companions: Vec<PathBuf>,
) -> Result<Look> {
    let path = match device.node() {
        // Gone between the look at sysfs and now; it may come back.
        Err(_) if Device::by_name(&device.name).is_none() => return Ok(Look::NotYet),
        done => done?,
    };
    Ok(Look::There(Box::new(Found {
        device: device.clone(),
        path,
        volumes,
        unread,
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
