//! The block devices of the running kernel, and the search for the one that the command line names.
//!
//! Devices are enumerated in sysfs (Documentation/ABI/stable/sysfs-block). Their nodes come from devtmpfs;
//! without it, this program creates them. [`crate::format::superblock`] reads what is on them.

use std::cell::LazyCell;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open};
use rustix::io::Errno;

use crate::bytes::Opened;
use crate::error::{Context, Error, Result};
use crate::plan::Place;
use crate::plan::verity::LAYER;
use crate::sys::cdrom;

mod contents;
mod media;
pub mod uevent;

mod matching;

mod search;

pub use contents::ContentCache;
pub use matching::MatchedDevice;
pub use search::{DEFAULT_WAIT, DeviceQuery, Search, WaitPolicy};

const CLASS: &str = "/sys/class/block";

/// Bytes of sysfs' unit for sizes, independent of the block size of the device.
const SECTOR: u64 = 512;

/// Documentation/admin-guide/devices.txt.
const SCSI_CDROM_MAJOR: u32 = 11;

/// A block device. Displayed as the path of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name in sysfs, such as `sda1` or `cciss!c0d0`.
    pub name: String,
    /// Path of the node below /dev: the name with slashes, or the driver's choice.
    pub node: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Size in bytes; 0 for a drive without a medium or a loop device without a file.
    pub size: u64,
    /// For a partition: where it is on its disk.
    pub partition: Option<PartitionExtent>,
    /// PARTUUID if sysfs has it (Linux 7.2 does, 6.12 does not); else only the partition table has it.
    pub part_uuid: Option<String>,
    /// PARTLABEL as the kernel spells it, with mangled non-ASCII characters.
    pub part_name: Option<String>,
    /// The kernel's sequence number of disk and medium (Linux 5.14 and newer; else 0).
    pub disk_sequence: u64,
}

/// Where a partition is on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionExtent {
    /// Partition number.
    pub number: u32,
    /// Name of the disk in sysfs.
    pub disk: String,
    /// Start on the disk, in bytes.
    pub start: u64,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/{}", self.node)
    }
}

/// Every block device that has a device number, sorted by number. Skips devices that disappear meanwhile.
pub fn enumerate() -> Result<Vec<Device>> {
    let entries = match fs::read_dir(CLASS) {
        // No block driver is loaded yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during("read", CLASS)?,
    };
    let mut devices: Vec<_> = entries
        .filter_map(|entry| Device::by_name(entry.ok()?.file_name().to_str()?))
        .collect();
    // This program's own loop devices for layers are no candidates.
    let sources = LazyCell::new(layer_sources);
    devices.retain(|device| {
        let file = device.backing_file();
        let is_layer = device
            .mapped_name()
            .is_some_and(|name| name.starts_with(LAYER));
        !is_layer && file.is_none_or(|file| !(sources.contains(&file) || is_on_medium(&file)))
    });
    devices.sort_unstable_by_key(|device| (device.major, device.minor));
    Ok(devices)
}

/// The files that hold layers. /layers may contain symbolic links.
fn layer_sources() -> Vec<PathBuf> {
    let files = fs::read_dir(Place::LAYERS).into_iter().flatten().flatten();
    let initrd = [Place::Initrd, Place::InitrdImage].map(|place| place.path().into());
    let places = files.map(|file| file.path()).chain(initrd);
    places
        .filter_map(|place| fs::canonicalize(place).ok())
        .collect()
}

/// Whether a file holds layers of `rd.layers.from=`: on a medium, or it is a device without a filesystem.
fn is_on_medium(file: &Path) -> bool {
    [Place::MEDIA, Place::COPIES, "/dev"]
        .iter()
        .any(|directory| file.starts_with(directory))
}

impl Device {
    /// The device with this name in sysfs; `None` if there is none.
    pub fn by_name(name: &str) -> Option<Self> {
        let directory = Path::new(CLASS).join(name);
        let number = |file: &str| {
            let text = fs::read_to_string(directory.join(file)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        // Names in old partition tables can contain any bytes.
        let uevent = fs::read(directory.join("uevent")).ok()?;
        let uevent = String::from_utf8_lossy(&uevent);
        // The first match wins: such a name can contain lines of its own, and comes last.
        let text = |key: &str| {
            let mut values = uevent
                .lines()
                .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            values.next()
        };
        let mut device = Self {
            name: name.into(),
            node: match text("DEVNAME") {
                Some(node) => node.into(),
                None => name.replace('!', "/"),
            },
            // The hidden paths of multipath NVMe have no number.
            major: text("MAJOR")?.parse().ok()?,
            minor: text("MINOR")?.parse().ok()?,
            size: number("size")?.saturating_mul(SECTOR),
            partition: None,
            part_uuid: text("PARTUUID").map(Into::into),
            part_name: text("PARTNAME").map(Into::into),
            disk_sequence: text("DISKSEQ").and_then(|n| n.parse().ok()).unwrap_or(0),
        };
        if let Some(number_in_table) = text("PARTN").and_then(|n| n.parse().ok()) {
            // The link's target ends in sda/sda1.
            let link = fs::read_link(&directory).ok()?;
            device.partition = Some(PartitionExtent {
                number: number_in_table,
                disk: link.parent()?.file_name()?.to_str()?.into(),
                start: number("start")?.saturating_mul(SECTOR),
            });
        }
        Some(device)
    }

    /// The device with this device number.
    pub fn by_number(major: u32, minor: u32) -> Option<Self> {
        let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        Self::by_name(link.file_name()?.to_str()?)
    }

    /// Whether the device has disappeared or its medium has changed.
    pub fn is_gone(&self) -> bool {
        Self::by_name(&self.name).is_none_or(|now| now.disk_sequence != self.disk_sequence)
    }

    /// The backing file of a loop device, with symbolic links resolved.
    fn backing_file(&self) -> Option<PathBuf> {
        if !self.name.starts_with("loop") {
            return None;
        }
        let path = fs::read_to_string(self.directory().join("loop/backing_file")).ok()?;
        fs::canonicalize(path.trim_end()).ok()
    }

    /// The name below /dev/mapper.
    pub(crate) fn mapped_name(&self) -> Option<String> {
        let file = self.directory().join("dm/name");
        Some(fs::read_to_string(file).ok()?.trim_end().into())
    }

    /// Whether another device uses this one (RAID, device mapper).
    pub(crate) fn is_held(&self) -> bool {
        fs::read_dir(self.directory().join("holders"))
            .is_ok_and(|mut holders| holders.next().is_some())
    }

    /// Size of a logical block in bytes.
    pub(crate) fn sector_size(&self) -> u64 {
        fs::read_to_string(self.directory().join("queue/logical_block_size"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(SECTOR)
    }

    fn directory(&self) -> PathBuf {
        Path::new(CLASS).join(&self.name)
    }

    /// The path of the node, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// Another file is in its place, the device is gone, or the node cannot be created.
    pub fn node(&self) -> Result<PathBuf> {
        let path = Path::new("/dev").join(&self.node);
        let device = makedev(self.major, self.minor);
        match fs::metadata(&path) {
            Ok(there) if there.file_type().is_block_device() && there.rdev() == device => {
                return Ok(path);
            }
            Ok(_) => {
                return Err(Error::new(
                    "use",
                    path.display(),
                    "another file is in the place of the device node",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).during("stat", path.display()),
        }
        // devtmpfs removes the node together with the device. A node created after that would remain and block
        // the next device of that name.
        if Self::by_number(self.major, self.minor).is_none_or(|now| now.name != self.name) {
            return Err(Error::new("use", path.display(), "the device is gone"));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).during("create", parent.display())?;
        }
        mknodat(
            CWD,
            &path,
            FileType::BlockDevice,
            Mode::RUSR | Mode::WUSR,
            device,
        )
        .during("create", path.display())?;
        Ok(path)
    }

    /// Opens the device for reading.
    ///
    /// # Errors
    ///
    /// ENOMEDIUM for a CD drive without a disc. Such a drive reports 1 GiB, and the kernel logs ten lines for
    /// each attempt to read it.
    pub fn open(&self) -> Result<Opened> {
        let path = self.node()?;
        // Without NONBLOCK, a CD drive closes its tray and waits for the disc.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file: OwnedFd = open(&path, flags, Mode::empty()).during("open", path.display())?;
        if self.major == SCSI_CDROM_MAJOR && cdrom::is_empty(&file) {
            return Err(Errno::NOMEDIUM).during("open", path.display());
        }
        Ok(Opened::new(file.into(), self.size))
    }
}
