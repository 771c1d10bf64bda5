//! The filesystems of the devices that `/init` mounts: their drivers, and the character sets of the drivers.
//!
//! The type of a filesystem is known from `rootfstype=`, or if the directory that stands in for a device of
//! `rd.layers.from=` is the mount point of such a filesystem.

use super::context::Check;
use super::options::LoaderLocation;
use crate::format::superblock::VolumeKind;
use crate::plan::medium;
use crate::plan::{MountSpec, Plan};
use crate::tool::finding::Findings;
use crate::tool::image::loader_modules::LoaderModules;
use crate::tool::kernel_config::KernelConfig;

/// The devices to mount, each with the word that a finding is about.
fn devices(plan: &Plan) -> impl Iterator<Item = (String, &MountSpec)> {
    let media = plan.media.iter().filter_map(|medium| {
        let device = medium.device.as_ref()?;
        Some((format!("{}={}", medium::WORD, device.spec), device))
    });
    let root = plan.device.iter();
    media.chain(root.map(|device| (format!("rootfstype={}", device.types.join(",")), device)))
}

/// Reports devices whose filesystem the kernel does not mount.
pub fn drivers(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    if check.options.loader == LoaderLocation::BuiltIn {
        return;
    }
    for (word, device) in devices(plan) {
        if let Some(what) = no_filesystem(config, check.modules, device) {
            findings.error(word, what);
        }
    }
}

/// Why a kernel mounts none of the filesystem types of a device; `None` if it mounts one, or if this tool
/// does not know one.
fn no_filesystem(
    config: &KernelConfig,
    modules: &LoaderModules,
    device: &MountSpec,
) -> Option<String> {
    let mut refusals = Vec::new();
    for fstype in &device.types {
        let (option, module) = VolumeKind::filesystem(fstype)?.driver()?;
        refusals.push(match config.value(option) {
            "y" => return None,
            "m" => format!(
                "CONFIG_{option}=m, and {}",
                modules.why_missing(config.version, module)?
            ),
            value => format!("CONFIG_{option}={value}"),
        });
    }
    let what = format!("{} cannot be mounted: {}", device.spec, refusals.join("; "));
    Some(what).filter(|_| !refusals.is_empty())
}

/// Reports character sets that the driver of a filesystem needs to mount, and that the kernel does not have:
/// vfat and exfat fail without them (fat_fill_super in fs/fat/inode.c), and names of an ISO with Joliet are
/// garbled.
pub fn character_sets(check: &Check, findings: &mut Findings) {
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    if check.options.loader == LoaderLocation::BuiltIn {
        return;
    }
    for (word, device) in devices(plan) {
        // With several types, another one may be mounted.
        let [fstype] = device.types.as_slice() else {
            continue;
        };
        for (setting, charset) in default_character_sets(fstype, config) {
            let suffix = charset.replace('-', "_");
            let option = match suffix.strip_prefix("cp") {
                Some(number) => format!("NLS_CODEPAGE_{number}"),
                None => format!("NLS_{}", suffix.to_ascii_uppercase()),
            };
            let why = match config.value(&option) {
                "y" => continue,
                "m" => match check
                    .modules
                    .why_missing(config.version, &format!("nls_{suffix}"))
                {
                    None => continue,
                    Some(why) => format!("CONFIG_{option}=m, and {why}"),
                },
                value => format!("CONFIG_{option}={value}"),
            };
            let what =
                format!("{fstype} uses the character set {charset} (CONFIG_{setting}): {why}");
            match fstype.as_str() {
                "iso9660" => findings.warning(&word, what),
                _ => findings.error(&word, what),
            }
        }
    }
}

/// The character sets that a filesystem uses without mount options, each with the kernel option that names it.
fn default_character_sets(fstype: &str, config: &KernelConfig) -> Vec<(&'static str, String)> {
    let settings: &[&'static str] = match fstype {
        "vfat" => &["FAT_DEFAULT_CODEPAGE", "FAT_DEFAULT_IOCHARSET"],
        "exfat" => &["EXFAT_DEFAULT_IOCHARSET"],
        "iso9660" => &["NLS_DEFAULT"],
        _ => &[],
    };
    let charset = |setting: &&'static str| {
        let value = config.value(setting).trim_matches('"');
        match value {
            "n" | "" => None,
            // That driver has UTF-8 built in (exfat_fill_super in fs/exfat/super.c).
            "utf8" if *setting == "EXFAT_DEFAULT_IOCHARSET" => None,
            number if *setting == "FAT_DEFAULT_CODEPAGE" => Some((*setting, format!("cp{number}"))),
            name => Some((*setting, name.to_string())),
        }
    };
    settings.iter().filter_map(charset).collect()
}
