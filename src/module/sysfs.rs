//! The devices that were there before this program, and the modules that they want.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use log::debug;

use super::alias::{Config, Database};
use crate::error::{Context, Result};

/// Devices that are looked at on one bus: a bound for the time, far beyond any machine.
const DEVICES_MAX: usize = 10_000;

/// Where modprobe.d(5) says that files may be; of two of the same name the first counts.
const MODPROBE_D: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// The MODALIAS of every device that has no driver, those nearer to the processor first: what stands
/// on a bus behind a bridge comes after the bridge.
///
/// Looks at /sys/bus/*/devices, which is flat, and has a link for each device of /sys/devices that
/// a driver can be bound to. Not at /sys/devices/system/cpu: those modules (faster ciphers, KVM) are
/// nothing that a root needs, and the system loads them.
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
            // The link's path has as many parts as there are devices above.
            let place = fs::read_link(&device).unwrap_or(device);
            found.insert((place.iter().count(), place), modalias.to_string());
        }
    }
    let mut modaliases = Vec::new();
    for modalias in found.into_values() {
        // As many as there are devices of the kind; tens, not thousands.
        if !modaliases.contains(&modalias) {
            modaliases.push(modalias);
        }
    }
    modaliases
}

/// Reads what the administrator says about modules in modprobe.d, and what the kernel command line
/// says.
pub fn config(cmdline: &str) -> Result<Config> {
    let mut config = Config::default();
    for file in modprobe_d() {
        let text = optional(&file)?;
        config.read(&text, &file.display().to_string());
    }
    config.read_cmdline(cmdline);
    Ok(config)
}

/// Reads what depmod says about the modules in `directory` (/lib/modules/RELEASE), of whose modules.dep
/// `dep` is the text. `config` has the last word.
pub fn database(directory: &Path, dep: &str, config: Config) -> Result<Database> {
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

/// The files of modprobe.d, by name.
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

/// The names in a directory; none where there is no such directory.
fn names(directory: &Path) -> Vec<OsString> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect()
}

/// The text of a file; none where there is no such file.
fn optional(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).during("read", path.display()),
    }
}
