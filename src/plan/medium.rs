//! `rd.layers.from=`: devices, directories and files outside of the initrd that hold layers.

use std::fmt;

use super::cmdline::Options;
use super::device_spec::{Spec, is_path, split_path};
use super::{MountSpec, Place, Source, layer_segments};
use crate::error::{Context, Error, Result};
use crate::text::shown;

/// The word of the command line.
pub const WORD: &str = "rd.layers.from";

/// How a device of `rd.layers.from=` is mounted: it holds data only.
const FLAGS: [&str; 3] = ["nosuid", "nodev", "noexec"];

/// What one `rd.layers.from=` names. Displayed in the form of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Position among these words, from 0. Also the name of the mount point in `/run/initramfs/media`.
    pub number: usize,
    /// The device; `None` for a path in the initramfs.
    pub device: Option<MountSpec>,
    /// The absolute path of a file or directory, without a slash at its end unless it is `/`. `None`: the device
    /// itself holds the layers, without a filesystem.
    pub path: Option<String>,
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = &self.device {
            f.write_str(&shown(device.spec.to_string().as_bytes()))?;
        }
        match (&self.device, &self.path) {
            (Some(_), Some(path)) => write!(f, ":{}", shown(path.as_bytes())),
            (None, Some(path)) => f.write_str(&shown(path.as_bytes())),
            (_, None) => Ok(()),
        }
    }
}

impl Medium {
    /// Where its filesystem is mounted.
    pub fn mount_point(&self) -> String {
        format!("{}/{}", Place::MEDIA, self.number)
    }
}

/// Reads every `rd.layers.from=`.
///
/// # Errors
///
/// A device or a path cannot be understood: the system would start without its layers.
pub fn media(options: &Options) -> Result<Vec<Medium>> {
    let words = options.from.iter().enumerate();
    words.map(|(number, text)| parse(number, text)).collect()
}

fn parse(number: usize, text: &str) -> Result<Medium> {
    let object = format!("{WORD}={text}");
    let (device, path) = match is_path(text) {
        true => (None, Some(text)),
        false => {
            let (device, path) = split_path(text);
            let spec = Spec::parse(device)
                .or_else(|error| Spec::parse(text).map_err(|_| error))
                .map_err(|error| error.of(&object))?;
            let device = MountSpec {
                spec,
                types: Vec::new(),
                flags: FLAGS.map(String::from).to_vec(),
                writable: false,
                verity: None,
            };
            (Some(device), path.filter(|path| !path.is_empty()))
        }
    };
    let names = path.unwrap_or_default().split('/');
    let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| matches!(*name, "." | "..")) {
        let why = "the path has . or .. in it: name the directory itself";
        return Err(Error::new("read", &object, why));
    }
    Ok(Medium {
        number,
        device,
        path: path.map(|_| format!("/{}", names.join("/"))),
    })
}

/// Makes sure that a medium has a layer. `sources` are all sources that were found on it.
///
/// # Errors
///
/// There is none, although the command line names the medium as a source of layers.
pub fn check(medium: &Medium, sources: &[impl AsRef<Source>]) -> Result<()> {
    let sources = || sources.iter().map(AsRef::as_ref);
    if sources().flat_map(layer_segments).next().is_some() {
        return Ok(());
    }
    let object = format_args!("{WORD}={medium}");
    for source in sources() {
        if let Some(trouble) = &source.walk.trouble {
            let error = Error::new("read", &source.place, trouble.to_string());
            return Err(error)
                .during("use", object)
                .map_err(|error| match medium.path {
                    None => error.hint("to name a file on the device, write DEVICE:/PATH"),
                    Some(_) => error,
                });
        }
    }
    let what = match sources().next() {
        None => "there is no file in it",
        Some(_) => "it holds neither an EROFS image nor a cpio archive",
    };
    Err(Error::new("use", object, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_path_are_told_apart() {
        for (text, expected) in [
            ("LABEL=sys:/a", "LABEL=sys:/a"),
            ("LABEL=sys:/a/b.erofs", "LABEL=sys:/a/b.erofs"),
            ("LABEL=sys:/a//b/", "LABEL=sys:/a/b"),
            ("LABEL=sys:/", "LABEL=sys:/"),
            ("LABEL=sys:a/b", "LABEL=sys:/a/b"),
            ("LABEL=a:b:/c", "LABEL=a:b:/c"),
            ("LABEL=a:b:", "LABEL=a:b"),
            ("LABEL=a\\x3ab:c", "LABEL=a:b:/c"),
            ("/dev/vda1:/x:/y", "/dev/vda1:/x:/y"),
            ("/dev/disk/by-label/a:b:/x", "LABEL=a:b:/x"),
            ("PARTUUID=ab/PARTNROFF=1:/x", "PARTUUID=ab/PARTNROFF=1:/x"),
            ("PARTUUID=ab/PARTNROFF=1:x", "PARTUUID=ab/PARTNROFF=1:/x"),
            ("PARTLABEL=a b:/x y", "PARTLABEL=a b:/x y"),
            ("UUID=1-2:/x", "UUID=1-2:/x"),
            ("8:17:/x", "8:17:/x"),
            ("0811:/x", "8:17:/x"),
            // A device without a filesystem.
            ("8:17", "8:17"),
            ("8:17:", "8:17"),
            ("/dev/vda2", "/dev/vda2"),
            ("/dev/vda2:", "/dev/vda2"),
            ("PARTUUID=ab:", "PARTUUID=ab"),
            // The initramfs.
            ("/images", "/images"),
            ("/images/", "/images"),
            ("/a:/b", "/a:/b"),
        ] {
            let medium = parse(0, text).unwrap();
            assert_eq!(medium.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (text, why) in [
            ("label=a:/x", "did you mean LABEL=?"),
            ("sda1:/x", "Did you mean /dev/sda1?"),
            ("nfs:server:/a", "a network root is not supported"),
            (":/x", "the value is empty"),
            ("LABEL=a:/b/../c", "the path has . or .. in it"),
            ("/a/..", "the path has . or .. in it"),
            ("/dev/disk/by-id/x:/y", "only udev creates this name"),
        ] {
            let error = parse(0, text).unwrap_err().to_string();
            let start = format!("read rd.layers.from={text}: ");
            let reason = error
                .strip_prefix(&start)
                .unwrap_or_else(|| panic!("{error}"));
            assert!(reason.contains(why), "{error}");
        }
    }
}
