//! The modules for the disks and the root filesystem of a machine, from its /sys and /proc/mounts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::format::superblock;
use crate::module::alias::Database;
use crate::module::dep::Index;

/// The loaded module of a device's driver, and the device's MODALIAS. Either may be missing.
type Driver = (Option<String>, Option<String>);

/// The modules of one kernel that a machine needs for its disks and the filesystem of its present `/`. `root`
/// is the directory with the machine's sys and proc. Leaves out modules that are built into the kernel.
///
/// For each device on the path to a disk, parents first: the module of its present driver, if this kernel has it, else
/// the modules that match its MODALIAS. Virtual disks (loop, ram, device mapper) need none.
///
/// # Errors
/// A directory of sys or proc/mounts cannot be read.
pub fn modules(root: &Path, index: &Index<'_>, database: &Database) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (module, modalias) in drivers(root)? {
        match (module, modalias) {
            (Some(module), _) if database.has(&module) || index.is_builtin(&module) => {
                names.push(module);
            }
            (_, Some(modalias)) => names.push(modalias),
            (_, None) => {}
        }
    }
    if let Some(fstype) = root_filesystem(root)? {
        names.push(format!("fs-{fstype}"));
        names.extend(
            superblock::helper_modules(&fstype)
                .iter()
                .map(ToString::to_string),
        );
        names.push(fstype);
    }
    Ok(database.resolve(&names))
}

/// The devices on the paths to all disks, each once, parents first.
fn drivers(root: &Path) -> Result<Vec<Driver>> {
    let class = root.join("sys/class/block");
    let devices = root.join("sys/devices");
    let devices = fs::canonicalize(&devices).during("find", devices.display())?;
    let entries = fs::read_dir(&class).during("read", class.display())?;
    let mut found: BTreeMap<(usize, PathBuf), Driver> = BTreeMap::new();
    for entry in entries {
        let link = entry.during("read", class.display())?.path();
        // The disk has been removed in the meantime.
        let Ok(disk) = fs::canonicalize(&link) else {
            continue;
        };
        if disk.starts_with(devices.join("virtual")) {
            continue;
        }
        for device in disk.ancestors().take_while(|path| *path != devices) {
            let module = fs::canonicalize(device.join("driver/module")).ok();
            let module = module.and_then(|path| path.file_name()?.to_str().map(String::from));
            let modalias = fs::read_to_string(device.join("modalias")).ok();
            let modalias = modalias
                .map(|text| text.trim().to_string())
                .filter(|text| !text.is_empty());
            let place = (device.iter().count(), device.to_path_buf());
            found.insert(place, (module, modalias));
        }
    }
    Ok(found.into_values().collect())
}

/// The type of the filesystem on `/`. The last of several mounts is on top.
fn root_filesystem(root: &Path) -> Result<Option<String>> {
    let path = root.join("proc/mounts");
    let mounts = fs::read_to_string(&path).during("read", path.display())?;
    let mut of_root = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        match (words.nth(1), words.next()) {
            (Some("/"), Some(fstype)) if fstype != "rootfs" => Some(fstype.to_string()),
            _ => None,
        }
    });
    Ok(of_root.next_back())
}
