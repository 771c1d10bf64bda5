//! What takes the writes: `rd.overlay=` and its companions to a decision.

use std::fmt;

use super::Device;
use super::cmdline::Options;
use super::device_spec::Spec;
use super::feature::DISK;
use crate::error::{Context, Error, Result};
use crate::text::items;

/// The directory on the device where `rd.overlay=` names none.
const DIRECTORY: &str = "layerinit";

/// Bytes of a directory's path: a mount option has 255, some of which are ours.
const PATH_MAX: usize = 200;

/// What takes the writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// A tmpfs with these mount options, each `key=value` or `key`.
    Tmpfs(Vec<String>),
    /// A directory on a device: what is written stays.
    Device(PersistentUpper),
    /// Nothing: the root is read-only.
    None,
}

/// A directory on a device. Displayed as `rd.overlay=` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistentUpper {
    /// The device, to be mounted for writing.
    pub device: Device,
    /// Where on it, without slashes at the ends; empty: not below any directory.
    pub directory: String,
    /// `rd.overlay.fallback=`: options of the tmpfs to use where the device cannot be; `None`: the
    /// boot fails then.
    pub fallback: Option<Vec<String>>,
}

impl fmt::Display for PersistentUpper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/{}", self.device.spec, self.directory)
    }
}

/// What is to be done where the device that `rd.overlay=` names cannot take the writes.
///
/// The machine was told to keep what is written. That it starts without is for its owner to choose:
/// a service that finds its data gone may well set itself up anew.
fn instead(wanted: &str, fallback: Option<&[String]>, why: Error) -> Result<(Vec<String>, String)> {
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

/// Decides what takes the writes, and why they will not stay, where they were to.
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
            let device = Device {
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
            let (options, warning) = instead(text, fallback.as_deref(), error)?;
            Ok((Upper::Tmpfs(options), Some(warning)))
        }
    }
}

impl PersistentUpper {
    /// What to do where it cannot be used: the options of a tmpfs, and the warning to give; or the
    /// error that ends the boot.
    pub fn instead(&self, why: Error) -> Result<(Vec<String>, String)> {
        instead(&self.to_string(), self.fallback.as_deref(), why)
    }
}

impl Upper {
    /// That nothing can be written to the device is an error, or with a fallback a warning.
    pub(super) fn unused(&self, why: &str) -> Result<Option<String>> {
        match self {
            Self::Device(store) => {
                let (_, warning) = store.instead(Error::new("make", "an overlay", why))?;
                Ok(Some(warning))
            }
            Self::Tmpfs(_) | Self::None => Ok(None),
        }
    }
}

/// `DEVICE[:PATH]`, in two. A label's own colon is written `\x3a`, as udev does.
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
    // Of all of it, where its beginning makes no sense: "nfs:server:/path".
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
        return refuse("not a plain path of a directory on the device");
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
            ("tmpf:size=1g", "not understood; expected /dev/NAME"),
            ("nfs:server:/a", "a root on the network is not supported"),
            ("LABEL=a:b/../c", "not a plain path"),
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
