//! The block devices of the running kernel, and the wait for one that the command line names.
//!
//! Devices come from sysfs (Documentation/ABI/stable/sysfs-block), their nodes from devtmpfs, or
//! from here where it makes none. What is on them comes from [`crate::format::superblock`].

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
use crate::sys::cdrom;

mod contents;
mod media;
pub mod uevent;

mod matching;

mod search;

pub use contents::Contents;
pub use matching::Found;
pub use search::{DEFAULT_WAIT, Patience, Search, Wanted};

const CLASS: &str = "/sys/class/block";

/// sysfs counts in these, whatever the device's own blocks are.
const SECTOR: u64 = 512;

/// Documentation/admin-guide/devices.txt.
const SCSI_CDROM_MAJOR: u32 = 11;

/// A block device. Displayed as the path of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name in sysfs, such as `sda1` or `cciss!c0d0`.
    pub name: String,
    /// Where its node belongs, below /dev: the name with slashes, or what the driver chose.
    pub node: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Length in bytes; 0 for a drive without a medium and a loop device without a file.
    pub size: u64,
    /// Where it lies on its disk, for a partition.
    pub partition: Option<Slice>,
    /// PARTUUID, where the kernel tells it (7.2 does, 6.12 does not); else it stands in the table.
    pub part_uuid: Option<String>,
    /// PARTLABEL in the kernel's spelling: other characters than those of ASCII are mangled.
    pub part_name: Option<String>,
    /// Counts each medium of each disk, from Linux 5.14; else 0.
    pub disk_sequence: u64,
}

/// A partition's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The partition's number.
    pub number: u32,
    /// The disk's name in sysfs.
    pub disk: String,
    /// Where the partition starts, in bytes.
    pub start: u64,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/{}", self.node)
    }
}

/// Every block device that has a number, by number. One that goes away meanwhile is left out.
pub fn enumerate() -> Result<Vec<Device>> {
    let entries = match fs::read_dir(CLASS) {
        // A kernel whose block drivers are all modules; they are coming.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during("read", CLASS)?,
    };
    let mut devices: Vec<_> = entries
        .filter_map(|entry| Device::by_name(entry.ok()?.file_name().to_str()?))
        .collect();
    // What this program has made of the initrd is no candidate.
    let sources = LazyCell::new(layer_sources);
    devices.retain(|device| {
        let file = device.backing_file();
        file.is_none_or(|file| !sources.contains(&file))
    });
    devices.sort_unstable_by_key(|device| (device.major, device.minor));
    Ok(devices)
}

/// The files that layers come from. In /layers there may be links.
fn layer_sources() -> Vec<PathBuf> {
    let files = fs::read_dir(Place::LAYERS).into_iter().flatten().flatten();
    let initrd = [Place::Initrd, Place::InitrdImage].map(|place| place.path().into());
    let places = files.map(|file| file.path()).chain(initrd);
    places
        .filter_map(|place| fs::canonicalize(place).ok())
        .collect()
}

impl Device {
    /// The device that sysfs has under `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        let directory = Path::new(CLASS).join(name);
        let number = |file: &str| {
            let text = fs::read_to_string(directory.join(file)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        // A name in an old partition table can be of any bytes.
        let uevent = fs::read(directory.join("uevent")).ok()?;
        let uevent = String::from_utf8_lossy(&uevent);
        // The first of two counts: such a name can hold lines, too, and comes last.
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
            // A path of multipath NVMe is hidden, and has no number.
            major: text("MAJOR")?.parse().ok()?,
            minor: text("MINOR")?.parse().ok()?,
            size: number("size")?.saturating_mul(SECTOR),
            partition: None,
            part_uuid: text("PARTUUID").map(Into::into),
            part_name: text("PARTNAME").map(Into::into),
            disk_sequence: text("DISKSEQ").and_then(|n| n.parse().ok()).unwrap_or(0),
        };
        if let Some(number_in_table) = text("PARTN").and_then(|n| n.parse().ok()) {
            // The link leads to .../sda/sda1.
            let link = fs::read_link(&directory).ok()?;
            device.partition = Some(Slice {
                number: number_in_table,
                disk: link.parent()?.file_name()?.to_str()?.into(),
                start: number("start")?.saturating_mul(SECTOR),
            });
        }
        Some(device)
    }

    /// The device with this number.
    pub fn by_number(major: u32, minor: u32) -> Option<Self> {
        let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        Self::by_name(link.file_name()?.to_str()?)
    }

    /// Whether it has gone away since, or has another medium.
    pub fn is_gone(&self) -> bool {
        Self::by_name(&self.name).is_none_or(|now| now.disk_sequence != self.disk_sequence)
    }

    /// What a loop device shows, without links on the way.
    fn backing_file(&self) -> Option<PathBuf> {
        if !self.name.starts_with("loop") {
            return None;
        }
        let path = fs::read_to_string(self.directory().join("loop/backing_file")).ok()?;
        fs::canonicalize(path.trim_end()).ok()
    }

    /// The name that the device mapper gives it below /dev/mapper.
    pub(crate) fn mapped_name(&self) -> Option<String> {
        let file = self.directory().join("dm/name");
        Some(fs::read_to_string(file).ok()?.trim_end().into())
    }

    /// Whether another device is made of this one: a RAID, a mapping.
    pub(crate) fn is_held(&self) -> bool {
        fs::read_dir(self.directory().join("holders"))
            .is_ok_and(|mut holders| holders.next().is_some())
    }

    /// Bytes of a logical block.
    pub(crate) fn sector_size(&self) -> u64 {
        fs::read_to_string(self.directory().join("queue/logical_block_size"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(SECTOR)
    }

    fn directory(&self) -> PathBuf {
        Path::new(CLASS).join(&self.name)
    }

    /// The path of its node, which is made if it is not there.
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
                    "something else stands where the device's node belongs",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).during("stat", path.display()),
        }
        // devtmpfs takes the node away with the device. One made after that would stay, and be in the
        // way of the next device of that name.
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

    /// Opens it for reading. ENOMEDIUM for a drive without a disc: such a drive says that it has 1 GiB, and
    /// each attempt to read that is worth ten lines to the kernel.
    pub fn open(&self) -> Result<Opened> {
        let path = self.node()?;
        // Without NONBLOCK a CD drive would pull its tray in and wait for the disc.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file: OwnedFd = open(&path, flags, Mode::empty()).during("open", path.display())?;
        if self.major == SCSI_CDROM_MAJOR && cdrom::is_empty(&file) {
            return Err(Errno::NOMEDIUM).during("open", path.display());
        }
        Ok(Opened::new(file.into(), self.size))
    }
}
