//! Matches devices against the specification on the command line.

use std::path::PathBuf;

use log::{debug, warn};

use super::contents::{ContentCache, is_worth_reading};
use super::{Device, DeviceQuery};
use crate::error::{Error, Result};
use crate::format::superblock::Volume;
use crate::plan::device_spec::Spec;

/// A device that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedDevice {
    /// The device.
    pub device: Device,
    /// Its node, which exists.
    pub path: PathBuf,
    /// The superblocks on it. First the one that matches the query, else the most credible one; then
    /// leftovers of earlier filesystems. Empty if none is known or the device cannot be read.
    pub volumes: Vec<Volume>,
    /// Why it cannot be read: a failing disk must not pass for one without a filesystem.
    pub unread: Option<String>,
    /// The nodes of the other devices of the filesystem (btrfs). The mount needs a `device=` option for each.
    pub companions: Vec<PathBuf>,
}

impl MatchedDevice {
    /// The number of devices of its filesystem that were found.
    pub(super) fn devices(&self) -> usize {
        self.companions.len().saturating_add(1)
    }

    /// The nodes of all devices of its filesystem.
    pub fn nodes(&self) -> impl Iterator<Item = &PathBuf> {
        self.companions.iter().chain([&self.path])
    }

    /// The superblock to use.
    pub fn volume(&self) -> Option<&Volume> {
        self.volumes.first()
    }

    /// Returns an error if the contents are known but cannot be mounted (swap, LUKS, LVM, RAID).
    ///
    /// # Errors
    /// They cannot be mounted.
    pub fn check_mountable(&self) -> Result<()> {
        match self.volume().and_then(|volume| volume.kind.refusal()) {
            Some(why) => Err(Error::new("mount", self.path.display(), why)),
            None => Ok(()),
        }
    }

    /// The same filesystem, with `device` as the device to mount.
    fn with_first(mut self, device: &Device) -> Result<Self> {
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

/// The result of matching the current devices.
pub(super) enum MatchResult {
    Complete(Box<MatchedDevice>),
    NotFound,
    /// Some devices of the filesystem are missing: what was found, and how many there are in total.
    Incomplete(Box<MatchedDevice>, u64),
}

impl ContentCache {
    /// Searches `devices` for the one that `wanted` names.
    pub(super) fn find(
        &mut self,
        wanted: DeviceQuery<'_>,
        devices: &[Device],
    ) -> Result<MatchResult> {
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
                let matches = |volume: &Volume| volume.label.as_deref() == Some(label);
                return self.by_volume(wanted, devices, matches);
            }
        };
        match candidates.as_slice() {
            [] => Ok(MatchResult::NotFound),
            [device] if device.size == 0 => Ok(MatchResult::NotFound),
            [device] => {
                let (volumes, unread) = match self.volumes(device) {
                    Ok(volumes) => (volumes, None),
                    // No medium, or the drive is still reading it.
                    Err(error) if device.is_removable() => {
                        debug!("{error}");
                        return Ok(MatchResult::NotFound);
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
                    // The mount needs the other devices of the filesystem, too.
                    let uuid = uuid.clone();
                    let found = self.by_volume(wanted, devices, |v| v.has_uuid(&uuid))?;
                    return Ok(match found {
                        MatchResult::Complete(found) => {
                            MatchResult::Complete(Box::new(found.with_first(device)?))
                        }
                        MatchResult::Incomplete(found, of) => {
                            MatchResult::Incomplete(Box::new(found.with_first(device)?), of)
                        }
                        MatchResult::NotFound => MatchResult::NotFound,
                    });
                }
                complete(device, volumes, unread, Vec::new())
            }
            several => Err(self.refuse_to_guess(wanted, several)),
        }
    }

    /// The partitions whose entry in the partition table matches. None if the table cannot be read.
    fn partitions<'a>(
        &mut self,
        devices: &'a [Device],
        matches: impl Fn(&PartitionIds) -> bool,
    ) -> Vec<&'a Device> {
        let mut found = Vec::new();
        for device in devices.iter().filter(|device| device.partition.is_some()) {
            let mut entry = PartitionIds {
                uuid: device.part_uuid.clone(),
                label: device.part_name.clone(),
            };
            // sysfs of Linux 6.12 has the name of a GPT partition, but no UUID.
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
            if matches(&entry) {
                found.push(device);
            }
        }
        found
    }

    /// The devices with a superblock that matches.
    fn by_volume(
        &mut self,
        wanted: DeviceQuery<'_>,
        devices: &[Device],
        matches: impl Fn(&Volume) -> bool,
    ) -> Result<MatchResult> {
        let mut found: Vec<(&Device, Vec<Volume>)> = Vec::new();
        for device in devices.iter().filter(|device| is_worth_reading(device)) {
            match self.volumes(device) {
                Ok(mut volumes) => {
                    if let Some(at) = volumes.iter().position(&matches) {
                        volumes.swap(0, at);
                        found.push((device, volumes));
                    }
                }
                Err(error) => debug!("{error}"),
            }
        }
        drop_containers(&mut found);
        match found.as_slice() {
            [] => Ok(MatchResult::NotFound),
            [(device, volumes)] if volumes.first().is_none_or(|v| v.share.is_none()) => {
                complete(device, volumes.clone(), None, Vec::new())
            }
            several => match filesystem_devices(several) {
                Some(of) => {
                    let Some(((device, volumes), others)) = several.split_first() else {
                        return Ok(MatchResult::NotFound);
                    };
                    let others = others.iter().map(|(device, _)| device.node());
                    let others = others.collect::<Result<_>>()?;
                    let result = complete(device, volumes.clone(), None, others)?;
                    Ok(match result {
                        MatchResult::Complete(found) if several.len() as u64 != of => {
                            MatchResult::Incomplete(found, of)
                        }
                        result => result,
                    })
                }
                None => {
                    let devices: Vec<_> = several.iter().map(|(device, _)| *device).collect();
                    Err(self.refuse_to_guess(wanted, &devices))
                }
            },
        }
    }

    fn refuse_to_guess(&mut self, wanted: DeviceQuery<'_>, candidates: &[&Device]) -> Error {
        let candidates: Vec<_> = candidates.iter().map(|device| (*device).clone()).collect();
        let names: Vec<_> = candidates.iter().map(ToString::to_string).collect();
        Error::new(
            "find",
            wanted,
            format!(
                "{} devices match ({}), and /init does not guess; name one by PARTUUID= or by path: {}",
                candidates.len(),
                names.join(", "),
                self.list(&candidates)
            ),
        )
    }
}

fn complete(
    device: &Device,
    volumes: Vec<Volume>,
    unread: Option<String>,
    companions: Vec<PathBuf>,
) -> Result<MatchResult> {
    let path = match device.node() {
        // The device disappeared after the enumeration; it may come back.
        Err(_) if Device::by_name(&device.name).is_none() => return Ok(MatchResult::NotFound),
        done => done?,
    };
    Ok(MatchResult::Complete(Box::new(MatchedDevice {
        device: device.clone(),
        path,
        volumes,
        unread,
        companions,
    })))
}

/// The device with the node `path` below /dev, or the one with that name in the device mapper.
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

/// The partition of the same disk with a number larger by `offset`.
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

/// Among devices with the same superblock, drops those that contain another of them: disks whose partition
/// has it, too (hybrid images for CD and USB), and devices below a mapping.
fn drop_containers(found: &mut Vec<(&Device, Vec<Volume>)>) {
    let disks: Vec<_> = found
        .iter()
        .filter_map(|(device, _)| Some(device.partition.as_ref()?.disk.clone()))
        .collect();
    found.retain(|(device, _)| !disks.contains(&device.name));
    if found.len() > 1 {
        let unheld = |(device, _): &(&Device, Vec<Volume>)| !device.is_held();
        if found.iter().any(unheld) {
            found.retain(unheld);
        }
    }
}

/// If these are different devices of one filesystem: how many it has in total.
fn filesystem_devices(found: &[(&Device, Vec<Volume>)]) -> Option<u64> {
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

/// UUID and name of a partition.
struct PartitionIds {
    uuid: Option<String>,
    label: Option<String>,
}

impl PartitionIds {
    fn has_uuid(&self, uuid: &str) -> bool {
        self.uuid
            .as_ref()
            .is_some_and(|own| own.eq_ignore_ascii_case(uuid))
    }

    /// The kernel keeps 7 bits of each character (utf16_le_to_7bit in block/partitions/efi.c).
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
