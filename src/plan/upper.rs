//! The upper layer: `rd.overlay=` and its companions.

use std::fmt;

use super::MountSpec;
use super::cmdline::Options;
use super::device_spec::Spec;
use super::feature::DISK;
use crate::error::{Context, Error, Result};
use crate::text::items;

/// The default directory on the device of `rd.overlay=`.
const DIRECTORY: &str = "layerinit";

/// Longest path of the directory, in bytes: fsconfig(2) takes values of 255, and the mount adds a prefix.
const PATH_MAX: usize = 200;

/// The upper layer of the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// A tmpfs with these mount options, each `key=value` or `key`.
    Tmpfs(Vec<String>),
    /// A directory on a device, which keeps the writes.
    Device(PersistentUpper),
    /// None: the root is read-only.
    None,
}

/// A directory on a device. Displayed in the form of `rd.overlay=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistentUpper {
    /// The device, mounted writable.
    pub device: MountSpec,
    /// Path of the directory, without slashes at the ends; empty: the top of the filesystem.
    pub directory: String,
    /// Options of the tmpfs to use if the device cannot be used (`rd.overlay.fallback=`); `None`: the boot
    /// fails.
    pub fallback: Option<Vec<String>>,
}

impl fmt::Display for PersistentUpper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/{}", self.device.spec, self.directory)
    }
}

/// Falls back to a tmpfs if the device of `rd.overlay=` cannot be used: the options of the tmpfs, and a
/// warning.
///
/// Without `rd.overlay.fallback=` this is an error: the owner asked for writes that stay, and a service that
/// finds its data gone may initialize itself again.
fn fall_back(
    wanted: &str,
    fallback: Option<&[String]>,
    why: Error,
) -> Result<(Vec<String>, String)> {
    match fallback {
        Some(options) => Ok((
            options.to_vec(),
            format!(
                "rd.overlay={wanted} CANNOT BE USED: {why}. Writes go to a tmpfs \
                 (rd.overlay.fallback=): WHAT IS WRITTEN FROM NOW ON IS LOST when the machine stops"
            ),
        )),
        None => {
            let hint = "boot without it: rd.overlay.fallback=tmpfs (what is written is lost then), or \
                        rd.overlay.readonly";
            let object = format_args!("rd.overlay={wanted}");
            Err(why)
                .during("use", object)
                .map_err(|error| error.hint(hint))
        }
    }
}

/// Reads `rd.overlay=`, `rd.overlay.fallback=` and `rd.overlay.readonly`: the upper layer, and
/// [`super::Plan::lost`].
pub(super) fn upper(options: &Options) -> Result<(Upper, Option<String>)> {
    let text = options.overlay.as_deref().unwrap_or("tmpfs");
    if options.overlay_readonly {
        return Ok((Upper::None, None));
    }
    if let ("tmpfs", list) = text.split_once(':').unwrap_or((text, "")) {
        return Ok((Upper::Tmpfs(items(list)), None));
    }
    let fallback = options.overlay_fallback.clone();
    let parsed = match DISK.is_on {
        true => parse(text),
        false => Err(Error::new("find", "the device", DISK.missing)),
    };
    match parsed {
        Ok((spec, directory)) => {
            let device = MountSpec {
                verity: None,
                spec,
                types: Vec::new(),
                flags: Vec::new(),
                writable: true,
            };
            let store = PersistentUpper {
                device,
                directory,
                fallback,
            };
            Ok((Upper::Device(store), None))
        }
        Err(error) => {
            let (options, warning) = fall_back(text, fallback.as_deref(), error)?;
            Ok((Upper::Tmpfs(options), Some(warning)))
        }
    }
}

impl PersistentUpper {
    /// Falls back to a tmpfs because the device cannot be used: the options of the tmpfs, and a warning.
    ///
    /// # Errors
    ///
    /// Without a fallback: `why`, with a hint how to boot without the device.
    pub fn fall_back(&self, why: Error) -> Result<(Vec<String>, String)> {
        fall_back(&self.to_string(), self.fallback.as_deref(), why)
    }
}

impl Upper {
    /// The warning for a device that is not used, because there is no overlay. An error without a fallback.
    pub(super) fn unused(&self, why: &str) -> Result<Option<String>> {
        match self {
            Self::Device(store) => {
                let (_, warning) = store.fall_back(Error::new("make", "an overlay", why))?;
                Ok(Some(warning))
            }
            Self::Tmpfs(_) | Self::None => Ok(None),
        }
    }
}

/// Splits `DEVICE[:PATH]`. A colon in a label is written `\x3a`, as udev does.
fn split(text: &str) -> (&str, &str) {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let numbers = text.split(':').take_while(|part| is_number(part)).count();
    // MAJOR:MINOR has a colon of its own.
    let nth = usize::from(numbers >= 2);
    let colon = text.match_indices(':').nth(nth);
    match colon.and_then(|(at, _)| text.split_at_checked(at)) {
        Some((device, path)) if path != ":" => (device, path.get(1..).unwrap_or_default()),
        Some((device, _)) => (device, DIRECTORY),
        None => (text, DIRECTORY),
    }
}

fn parse(text: &str) -> Result<(Spec, String)> {
    let object = format!("rd.overlay={text}");
    let (device, path) = split(text);
    // An error of the whole text says more for "nfs:server:/path".
    let spec = Spec::parse(device)
        .or_else(|_| Spec::parse(text))
        .map_err(|error| error.of(&object))?;
    let refuse = |why: &str| Err(Error::new("read", &object, why));
    let directory = path.trim_matches('/');
    if directory.len() > PATH_MAX {
        return refuse("the directory's path is too long");
    }
    if directory.contains([',', '\\']) {
        return refuse("overlayfs takes no comma and no backslash in the directory's path");
    }
    let odd = |part: &str| matches!(part, "" | "." | "..");
    if !directory.is_empty() && directory.split('/').any(odd) {
        return refuse("not a path of a directory on the device (no . or .. in it)");
    }
    Ok((spec, directory.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_directory_are_told_apart() {
        for (text, expected) in [
            ("LABEL=data", "LABEL=data:/layerinit"),
            ("LABEL=data:", "LABEL=data:/layerinit"),
            ("LABEL=data:/", "LABEL=data:/"),
            ("LABEL=data:/a/b/", "LABEL=data:/a/b"),
            ("LABEL=a\\x3ab:c", "LABEL=a:b:/c"),
            ("UUID=1-2:x", "UUID=1-2:/x"),
            ("/dev/vdb1:x", "/dev/vdb1:/x"),
            ("PARTUUID=ab/PARTNROFF=1:x", "PARTUUID=ab/PARTNROFF=1:/x"),
            ("8:17", "8:17:/layerinit"),
            ("8:17:x", "8:17:/x"),
            ("8:17:18", "8:17:/18"),
            ("0811:x", "8:17:/x"),
        ] {
            let (spec, directory) = parse(text).unwrap();
            assert_eq!(format!("{spec}:/{directory}"), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        let long = format!("LABEL=a:{}", "b".repeat(201));
        for (text, why) in [
            ("label=a", "did you mean LABEL=?"),
            ("tmpf:size=1g", "unknown form; expected /dev/NAME"),
            ("nfs:server:/a", "a network root is not supported"),
            ("LABEL=a:b/../c", "not a path of a directory"),
            ("LABEL=a:b,c", "overlayfs takes no comma"),
            (&long, "too long"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            let start = format!("read rd.overlay={text}: ");
            let reason = error
                .strip_prefix(&start)
                .unwrap_or_else(|| panic!("{error}"));
            assert!(reason.contains(why), "{error}");
        }
    }
}
