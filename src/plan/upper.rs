//! The upper layer: `rd.overlay=` and its companions.

use std::fmt;

use super::MountSpec;
use super::cmdline::{Options, Stale};
use super::device_spec::{Spec, split_path};
use super::feature::DISK;
use crate::error::{Context, Error, Result};
use crate::text::items;

/// The default directory on the device of `rd.overlay=`.
const DIRECTORY: &str = "layerinit";

/// The longest path of the directory, in bytes: fsconfig(2) takes values of 255 bytes, and the mount adds a
/// prefix.
const PATH_MAX: usize = 200;

/// The directories that `/init` mounts other filesystems on, so that writes to them reach no layer.
const MOUNTED: [&str; 4] = ["dev", "proc", "run", "sys"];

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

/// Directories whose writes a device keeps, each in an overlay of its own (`rd.overlay.for=`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDirectories {
    /// The directory on the device.
    pub store: PersistentUpper,
    /// Absolute paths in the new root. None is inside another.
    pub paths: Vec<String>,
}

/// What takes the writes.
#[derive(Debug)]
pub(super) struct Writes {
    /// The upper layer of the root.
    pub upper: Upper,
    /// The directories that have an upper of their own.
    pub kept: Option<KeptDirectories>,
    /// [`super::Plan::lost`].
    pub lost: Option<String>,
    /// Warnings about the words.
    pub warnings: Vec<String>,
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
    /// What to do if it was written over other layers.
    pub stale: Stale,
    /// The value of `rd.overlay.reset`.
    pub reset: Option<String>,
    /// Whether it keeps the directories of `rd.overlay.for=` only.
    pub partial: bool,
}

impl fmt::Display for PersistentUpper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/{}", self.device.spec, self.directory)
    }
}

/// Falls back to a tmpfs if the device of `rd.overlay=` cannot be used: the options of the tmpfs, and a
/// warning.
///
/// Without `rd.overlay.fallback=` this is an error: the user asked for persistent writes, and a service that
/// finds no data may initialize itself again.
fn fall_back(
    wanted: &str,
    fallback: Option<&[String]>,
    partial: bool,
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
            let hint = match partial {
                true => "boot without it: rd.overlay.fallback=tmpfs (what is written is lost then)",
                false => {
                    "boot without it: rd.overlay.fallback=tmpfs (what is written is lost then), or \
                     rd.overlay.readonly"
                }
            };
            let object = format_args!("rd.overlay={wanted}");
            Err(why)
                .during("use", object)
                .map_err(|error| error.hint(hint))
        }
    }
}

/// Reads `rd.overlay=` and the words that belong to it.
///
/// # Errors
///
/// The device or a directory cannot be understood, and there is no `rd.overlay.fallback=`.
pub(super) fn writes(options: &Options) -> Result<Writes> {
    let text = options.overlay.as_deref().unwrap_or("tmpfs");
    let tmpfs = match text.split_once(':').unwrap_or((text, "")) {
        ("tmpfs", list) => Some(items(list)),
        _ => None,
    };
    let names_device = tmpfs.is_none();
    let partial = !options.overlay_for.is_empty();
    let mut writes = Writes {
        upper: match options.overlay_readonly {
            true => Upper::None,
            false => Upper::Tmpfs(tmpfs.unwrap_or_default()),
        },
        kept: None,
        lost: None,
        warnings: idle_words(options, names_device),
    };
    let fallback = options.overlay_fallback.as_deref();
    let parsed = match (names_device, partial) {
        (false, true) => Err(no_device_for(options)),
        (true, true) => store(text, options).and_then(|store| kept(store, options)),
        (true, false) if !options.overlay_readonly => match store(text, options) {
            Ok(store) => {
                writes.upper = Upper::Device(store);
                return Ok(writes);
            }
            Err(error) => Err(error),
        },
        _ => return Ok(writes),
    };
    // If the device cannot take the writes to the directories, the tmpfs takes them, too.
    if let (Upper::Tmpfs(options), true, Some(list)) = (&mut writes.upper, partial, fallback) {
        *options = list.to_vec();
    }
    match parsed {
        Ok(kept) => writes.kept = Some(kept),
        Err(error) => {
            let (options, warning) = fall_back(text, fallback, partial, error)?;
            writes.upper = Upper::Tmpfs(options);
            writes.lost = Some(warning);
        }
    }
    Ok(writes)
}

/// The device that `rd.overlay=` names, if one is going to take writes.
pub fn upper_device(options: &Options) -> Option<MountSpec> {
    let writes = writes(options).ok()?;
    match (writes.upper, writes.kept) {
        (Upper::Device(store), _) | (_, Some(KeptDirectories { store, .. })) => Some(store.device),
        _ => None,
    }
}

/// Warnings for words that have no effect, because no device keeps writes.
fn idle_words(options: &Options, names_device: bool) -> Vec<String> {
    let why = match (names_device, options.overlay_readonly) {
        (false, _) => "rd.overlay= names no device",
        (true, true) if options.overlay_for.is_empty() => "rd.overlay.readonly: nothing is written",
        _ => return Vec::new(),
    };
    let words = [
        ("rd.overlay.stale=", options.overlay_stale != Stale::Keep),
        ("rd.overlay.reset", options.overlay_reset.is_some()),
    ];
    let idle = words.iter().filter(|(_, is_set)| *is_set);
    idle.map(|(word, _)| format!("{word} has no effect: {why}"))
        .collect()
}

fn no_device_for(options: &Options) -> Error {
    let object = format_args!("rd.overlay.for={}", options.overlay_for.join(","));
    let why = "rd.overlay= names no device that could keep these directories";
    Error::new("use", object, why)
}

/// The directory on a device that `text` names.
fn store(text: &str, options: &Options) -> Result<PersistentUpper> {
    if !DISK.is_on {
        return Err(Error::new("find", "the device", DISK.missing));
    }
    let (spec, directory) = parse(text)?;
    Ok(PersistentUpper {
        device: MountSpec {
            verity: None,
            spec,
            types: Vec::new(),
            flags: Vec::new(),
            writable: true,
        },
        directory,
        fallback: options.overlay_fallback.clone(),
        stale: options.overlay_stale,
        reset: options.overlay_reset.clone(),
        partial: !options.overlay_for.is_empty(),
    })
}

/// Reads `rd.overlay.for=`.
fn kept(store: PersistentUpper, options: &Options) -> Result<KeptDirectories> {
    let mut paths: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for text in &options.overlay_for {
        let refuse = |why: String| {
            Err(Error::new(
                "use",
                format_args!("rd.overlay.for={text}"),
                why,
            ))
        };
        let parts: Vec<_> = text.split('/').filter(|part| !part.is_empty()).collect();
        if !text.starts_with('/') || parts.iter().any(|part| matches!(*part, "." | "..")) {
            return refuse("not an absolute path (/etc; no . or .. in it)".into());
        }
        let Some(first) = parts.first() else {
            return refuse(
                "this is the whole root, which rd.overlay= keeps without rd.overlay.for=".into(),
            );
        };
        if MOUNTED.contains(first) {
            return refuse(format!(
                "/{first} is a filesystem of its own in the new root"
            ));
        }
        if text.contains([':', '\\']) {
            return refuse("overlayfs takes no colon and no backslash in a path".into());
        }
        let path = format!("/{}", parts.join("/"));
        if store.directory.len().saturating_add(path.len()) > PATH_MAX {
            return refuse(
                "its path and that of the directory on the device together are too long".into(),
            );
        }
        all.push(path);
    }
    all.sort_unstable();
    for path in all {
        let is_inside = |outer: &String| {
            let rest = path.strip_prefix(outer.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !paths.iter().any(is_inside) {
            paths.push(path);
        }
    }
    Ok(KeptDirectories { store, paths })
}

impl PersistentUpper {
    /// Falls back to a tmpfs because the device cannot be used: the options of the tmpfs, and a warning.
    ///
    /// # Errors
    ///
    /// Without a fallback: `why`, with a hint about booting without the device.
    pub fn fall_back(&self, why: Error) -> Result<(Vec<String>, String)> {
        fall_back(
            &self.to_string(),
            self.fallback.as_deref(),
            self.partial,
            why,
        )
    }
}

impl Writes {
    /// The warning for a device that is not used, because there is no overlay. An error without a fallback.
    pub(super) fn unused(self, why: &str) -> Result<Option<String>> {
        let store = match (&self.upper, &self.kept) {
            (Upper::Device(store), _) => store,
            (_, Some(kept)) => &kept.store,
            _ => return Ok(self.lost),
        };
        let (_, warning) = store.fall_back(Error::new("make", "an overlay", why))?;
        Ok(Some(warning))
    }
}

fn parse(text: &str) -> Result<(Spec, String)> {
    let object = format!("rd.overlay={text}");
    let (device, path) = split_path(text);
    let path = path.filter(|path| !path.is_empty()).unwrap_or(DIRECTORY);
    // For "nfs:server:/path", an error about the whole text is more helpful.
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
