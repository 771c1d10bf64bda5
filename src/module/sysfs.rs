//! Coldplug: the MODALIAS of devices without a driver. Also reads modprobe.d and the files of depmod.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use log::debug;

use super::alias::{Database, ModprobeConfig};
use crate::error::{Context, Result};

/// Limit for the devices of one bus; no machine has as many.
const DEVICES_MAX: usize = 10_000;

/// The directories of modprobe.d(5). Of two files with the same name, the first wins.
const MODPROBE_D: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// The MODALIAS of every device without a driver. A bridge comes before the devices on the bus behind it.
///
/// Reads /sys/bus/*/devices, which is flat and has a link for each device of /sys/devices that can have a
/// driver. Skips /sys/devices/system/cpu: no root needs those modules (faster ciphers, KVM); the system loads
/// them.
pub fn modaliases() -> Vec<String> {
    let mut found = BTreeMap::new();
    for bus in names(Path::new("/sys/bus")) {
        let directory = Path::new("/sys/bus").join(bus).join("devices");
        for device in names(&directory).into_iter().take(DEVICES_MAX) {
            let device = directory.join(device);
            let Ok(modalias) = fs::read_to_string(device.join("modalias")) else {
                continue;
            };
            let modalias = modalias.trim_end();
            if modalias.is_empty() || fs::symlink_metadata(device.join("driver")).is_ok() {
                continue;
            }
            // The number of components of the link's target is the depth of the device.
            let place = fs::read_link(&device).unwrap_or(device);
            found.insert((place.iter().count(), place), modalias.to_string());
        }
    }
    let mut modaliases = Vec::new();
    for modalias in found.into_values() {
        // A linear search: there are tens of them, not thousands.
        if !modaliases.contains(&modalias) {
            modaliases.push(modalias);
        }
    }
    modaliases
}

/// Reads the configuration of modules from modprobe.d and the kernel command line.
pub fn config(cmdline: &str) -> Result<ModprobeConfig> {
    let mut config = ModprobeConfig::default();
    for file in modprobe_d() {
        let text = optional(&file)?;
        config.read(&text, &file.display().to_string());
    }
    config.read_cmdline(cmdline);
    Ok(config)
}

/// Reads modules.alias and modules.softdep in `directory` (/lib/modules/RELEASE). `dep` is the text of its
/// modules.dep; `config` takes precedence.
pub fn database(directory: &Path, dep: &str, config: ModprobeConfig) -> Result<Database> {
    let read = |file: &str| optional(&directory.join(file));
    let database = Database::new(
        dep,
        read("modules.alias")?,
        &read("modules.softdep")?,
        config,
    );
    debug!("{}: module aliases read", directory.display());
    Ok(database)
}

/// The files of modprobe.d, sorted by name.
fn modprobe_d() -> Vec<PathBuf> {
    let mut files = BTreeMap::new();
    for directory in MODPROBE_D.map(Path::new) {
        for name in names(directory) {
            if Path::new(&name)
                .extension()
                .is_some_and(|ext| ext == "conf")
            {
                let path = directory.join(&name);
                files.entry(name).or_insert(path);
            }
        }
    }
    files.into_values().collect()
}

/// The names in a directory; empty if it cannot be read.
fn names(directory: &Path) -> Vec<OsString> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect()
}

/// The text of a file; empty if it does not exist.
fn optional(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).during("read", path.display()),
    }
}
