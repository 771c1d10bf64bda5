//! Caches the superblocks and partition tables of devices.

use std::fmt::Write as _;

use rustix::io::Errno;

use super::Device;
use crate::error::{Context, Result};
use crate::format::superblock::partition::{self, Partition, Scheme, Table};
use crate::format::superblock::{self, Volume};

/// Most devices that a message lists.
const LISTED_MAX: usize = 40;

/// The superblocks and partition tables that were read.
#[derive(Debug, Default)]
pub struct ContentCache {
    volumes: Vec<(Device, Vec<Volume>)>,
    tables: Vec<(Device, Option<Table>)>,
}

impl ContentCache {
    /// The superblocks on `device`. The next call retries what cannot be read.
    pub fn volumes(&mut self, device: &Device) -> Result<Vec<Volume>> {
        if let Some((_, volumes)) = self.volumes.iter().find(|(known, _)| known == device) {
            return Ok(volumes.clone());
        }
        let volumes = superblock::volumes(&device.open()?).during("read", device)?;
        self.volumes.retain(|(known, _)| known.name != device.name);
        self.volumes.push((device.clone(), volumes.clone()));
        Ok(volumes)
    }

    /// The partition table on `disk`.
    fn table(&mut self, disk: &Device) -> Result<Option<&Table>> {
        let at = match self.tables.iter().position(|(known, _)| known == disk) {
            Some(at) => at,
            None => {
                let table =
                    partition::table(&disk.open()?, disk.sector_size()).during("read", disk)?;
                self.tables.retain(|(known, _)| known.name != disk.name);
                self.tables.push((disk.clone(), table));
                self.tables.len().saturating_sub(1)
            }
        };
        Ok(self.tables.get(at).and_then(|(_, table)| table.as_ref()))
    }

    /// The entry of the partition `device` in the table of its disk.
    pub(super) fn entry(&mut self, device: &Device) -> Result<Option<Partition>> {
        let Some(slice) = &device.partition else {
            return Ok(None);
        };
        let Some(disk) = Device::by_name(&slice.disk) else {
            return Ok(None);
        };
        let table = self.table(&disk)?;
        // The kernel's partitions can come from another table than the one read here, or from a program
        // (partx).
        let same = |entry: &&Partition| entry.number == slice.number && entry.start == slice.start;
        Ok(table.and_then(|table| table.partitions.iter().find(same).cloned()))
    }

    /// Drops what was read from the device with this node, or everything.
    pub(super) fn invalidate(&mut self, node: Option<&str>) {
        let other = |device: &Device| node.is_some_and(|node| device.node != node);
        self.volumes.retain(|(device, _)| other(device));
        self.tables.retain(|(device, _)| other(device));
    }

    /// Lists devices for a message: name, size and contents.
    pub fn list(&mut self, devices: &[Device]) -> String {
        let mut text = String::new();
        let mut shown = 0usize;
        for device in devices.iter().filter(|device| !is_idle(device)) {
            shown = shown.saturating_add(1);
            if shown > LISTED_MAX {
                continue;
            }
            let separator = if text.is_empty() { "" } else { "; " };
            let what = self.describe(device);
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{} {what}", device.node);
        }
        match shown {
            0 => "no block devices (is the disk's driver in the initramfs?)".into(),
            1..=LISTED_MAX => text,
            _ => format!("{text}; and {} more", shown.saturating_sub(LISTED_MAX)),
        }
    }

    /// `20.0 GiB, ext4 LABEL="root" UUID=...`.
    fn describe(&mut self, device: &Device) -> String {
        const EMPTY: &str = "without medium";
        if device.size == 0 {
            return EMPTY.into();
        }
        let mut text = size(device.size);
        if !is_worth_reading(device) {
            return text;
        }
        match self.volumes(device) {
            Err(error) if error.errno() == Some(Errno::NOMEDIUM) => return EMPTY.into(),
            Err(error) => {
                let _ = write!(text, ", {error}");
            }
            Ok(volumes) if volumes.is_empty() => text.push_str(match self.table(device) {
                _ if device.partition.is_some() => ", no known filesystem",
                Ok(Some(table)) => match table.scheme {
                    Scheme::Gpt => ", GPT",
                    Scheme::GptBackup => ", damaged GPT",
                    Scheme::Mbr => ", MBR",
                },
                _ => ", no known filesystem",
            }),
            Ok(volumes) => {
                for volume in volumes {
                    let _ = write!(text, ", {volume}");
                }
            }
        }
        if let Some(uuid) = &device.part_uuid {
            let _ = write!(text, ", PARTUUID={uuid}");
        } else if let Ok(Some(entry)) = self.entry(device)
            && let Some(uuid) = entry.uuid
        {
            let _ = write!(text, ", PARTUUID={uuid}");
        }
        text
    }
}

/// Whether a device is not set up, so that messages omit it.
fn is_idle(device: &Device) -> bool {
    let named = |prefix: &&str| device.name.starts_with(*prefix);
    let unused = device.size == 0 && ["loop", "zram", "nbd", "dm-", "md"].iter().any(named);
    unused || named(&"ram")
}

/// Whether a search reads the device. Ramdisks are empty, and a floppy drive without a floppy takes seconds
/// to fail.
pub(super) fn is_worth_reading(device: &Device) -> bool {
    /// Documentation/admin-guide/devices.txt.
    const FLOPPY_MAJOR: u32 = 2;
    device.size > 0 && device.major != FLOPPY_MAJOR && !device.name.starts_with("ram")
}

/// Formats bytes with a binary unit and one decimal, rounded down.
fn size(bytes: u64) -> String {
    let units = [
        (1u64 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let unit = units.iter().find(|(unit, _)| bytes >= *unit);
    match unit {
        None => format!("{bytes} bytes"),
        Some((unit, name)) => {
            let tenths = (bytes % unit).saturating_mul(10) / unit;
            format!("{}.{tenths} {name}", bytes / unit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536 << 10, "1.5 MiB"),
            (252 << 30, "252.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
