//! The root device with dm-verity: the kernel verifies each block when it is read.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use log::{debug, info};
use rustix::fs::{CWD, FileType, Mode, major, makedev, minor, mknodat};
use rustix::io::Errno;

use super::device::DeviceFinder;
use crate::bytes::ReadAt;
use crate::device::{DeviceQuery, MatchedDevice};
use crate::error::{Context, Error, Result};
use crate::format::verity::{Format, LENGTH};
use crate::module::loader::Loader;
use crate::plan::verity::{NAME, Verity};
use crate::sys::dm;

const CONTROL: &str = "/dev/mapper/control";

/// MISC_MAJOR and MAPPER_CTRL_MINOR (include/uapi/linux/major.h, include/linux/miscdevice.h).
const CONTROL_NUMBER: (u32, u32) = (10, 236);

/// Sets up /dev/mapper/root.
///
/// # Errors
/// A device is missing or has no hash tree, or the kernel refuses it. The kernel notices a wrong root hash
/// when it reads the first block.
pub fn open(finder: &mut DeviceFinder, verity: &Verity, loader: &mut Loader) -> Result<()> {
    let query = |word, spec| DeviceQuery {
        word,
        spec,
        degraded: false,
    };
    let data = finder.find(query("systemd.verity_root_data", &verity.data), loader)?;
    let hash = finder.find(query("systemd.verity_root_hash", &verity.hash), loader)?;
    let format = match &verity.format {
        Some(format) => format.clone(),
        None => superblock(&hash, verity.hash_offset)?,
    };
    let sectors = format.sectors().unwrap_or_default();
    if sectors.saturating_mul(512) > data.device.size {
        let (size, blocks, block) = (data.device.size, format.data_blocks, format.data_block);
        let what =
            format!("it has {size} bytes, and the hash tree is for {blocks} blocks of {block}");
        return Err(Error::new("use", data.path.display(), what));
    }
    let number = |found: &MatchedDevice| format!("{}:{}", found.device.major, found.device.minor);
    let parameters = verity.behaviour.parameters();
    let table = format.table(
        &number(&data),
        &number(&hash),
        verity.hash_offset,
        &verity.root_hash,
        &parameters,
    );
    set_up(NAME, &format, &table, loader)?;
    info!(
        "/dev/mapper/{NAME}: verified by dm-verity, data on {}, hash tree on {}",
        data.path.display(),
        hash.path.display()
    );
    Ok(())
}

/// Sets up the device /dev/mapper/`name` with a table for `format`. Returns its number.
///
/// # Errors
/// The kernel has no dm-verity, or refuses the table.
pub(super) fn set_up(name: &str, format: &Format, table: &str, loader: &mut Loader) -> Result<u64> {
    // The kernel would run modprobe for its hash algorithm.
    let modules = [
        "dm_mod",
        "dm_verity",
        &format!("crypto-{}", format.algorithm),
    ];
    loader.load_requested(&modules.map(String::from));
    let sectors = format.sectors().unwrap_or_default();
    debug!("/dev/mapper/{name}: 0 {sectors} verity {table}");
    let control = control()?;
    // The name that veritysetup uses, so that it can close the device.
    let uuid = format!("CRYPT-VERITY-{}-{name}", format.uuid.replace('-', ""));
    let path = format!("/dev/mapper/{name}");
    let created = dm::create(&control, name, &uuid).during("create", &path)?;
    dm::load(&control, name, "verity", sectors, table)
        .and_then(|()| dm::resume(&control, name))
        .inspect_err(|_| {
            let _ = dm::remove(&control, name);
        })
        .during("set up", format_args!("{path} (dm-verity {table})"))
        .map_err(|error| {
            error.hint("it needs CONFIG_DM_VERITY, or the module dm_verity in the loader")
        })?;
    link(&path, created)?;
    Ok(created)
}

/// Reads the superblock of the hash device.
fn superblock(hash: &MatchedDevice, offset: u64) -> Result<Format> {
    let mut bytes = [0; LENGTH];
    let object = || {
        format!(
            "dm-verity superblock of {} at {offset:#x}",
            hash.path.display()
        )
    };
    let file = hash.device.open()?;
    file.read_exact_at(&mut bytes, offset)
        .during("read", object())?;
    Format::parse(&bytes).map_err(|what| Error::new("read", object(), what))
}

/// Opens the driver. Creates its node where there is no devtmpfs.
fn control() -> Result<File> {
    if !Path::new(CONTROL).exists() {
        fs::create_dir_all("/dev/mapper").during("create", "/dev/mapper")?;
        let (major, minor) = CONTROL_NUMBER;
        let device = makedev(major, minor);
        match mknodat(
            CWD,
            CONTROL,
            FileType::CharacterDevice,
            Mode::RUSR | Mode::WUSR,
            device,
        ) {
            Err(Errno::EXIST) => {}
            done => done.during("create", CONTROL)?,
        }
    }
    let mut options = File::options();
    let file = options.read(true).write(true).open(CONTROL);
    file.during("open", CONTROL).map_err(|error| {
        error.hint("it needs CONFIG_BLK_DEV_DM, or the module dm_mod in the loader")
    })
}

/// Links the name of the device to its node, as udev does.
fn link(path: &str, number: u64) -> Result<()> {
    let target = format!("../dm-{}", minor(number));
    debug!("{path}: device {}:{}", major(number), minor(number));
    match symlink(&target, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        done => done.during("create", path),
    }
}
