//! The files by which the loader verifies its layers: the list and the policy.

use std::path::Path;

use super::layer::PreparedLayer;
use super::spec::{Body, Entry, FileContent};
use crate::bytes::{Opened, ReadAt};
use crate::error::{Context, Error, Result};
use crate::format::cpio::normalized;
use crate::initrd::{self, Kind, Segment, Walk};
use crate::plan::{self, Place, Source};
use crate::text::shown;
use crate::verify::digest::Digests;
use crate::verify::list::{self, Expected};
use crate::verify::{content, policy};

/// What the loader verifies, and what it allows.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Layers that may vary.
    pub exceptions: Vec<Exception>,
    /// Words of the command line that are allowed: `WORD` or `WORD=VALUE`.
    pub allowed: Vec<String>,
}

/// A layer that may vary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its file name, with or without extensions; of a layer that is not built in, a name for people.
    name: String,
    /// The directory that all its files are below; `None`: that of the files of the layer.
    directory: Option<String>,
}

impl Exception {
    /// Parses `NAME` or `NAME:DIRECTORY`.
    ///
    /// # Errors
    /// The directory is not an absolute path, or is `/`; the name is empty.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (name, directory) = match text.split_once(":/") {
            Some((name, _)) => {
                let path = text.get(name.len().saturating_add(1)..).unwrap_or_default();
                (name, Some(list::directory(path)?))
            }
            None => (text, None),
        };
        match name.is_empty() {
            true => Err("not NAME or NAME:/DIRECTORY".into()),
            false => Ok(Self {
                name: name.into(),
                directory,
            }),
        }
    }
}

/// A layer in a file, as `/init` finds it.
struct Part<'a> {
    name: String,
    file: &'a dyn ReadAt,
    segment: Segment,
}

/// Adds the list and the policy to the loader. `appended` are the layers behind it.
///
/// # Errors
/// The loader has such a file already, a layer cannot be read, or an exception does not fit its layer.
pub fn add_files(
    options: &VerifyOptions,
    loader: &mut Vec<Entry>,
    appended: &[PreparedLayer],
) -> Result<()> {
    let files = [
        (list::PATH, list(options, loader, appended)?),
        (policy::PATH, text(options)),
    ];
    for (path, text) in files {
        let name = normalized(path.as_bytes());
        let exists = loader.iter().any(|entry| normalized(&entry.name) == name);
        // A policy of a spec is the builder's own.
        if exists && path == policy::PATH && options.allowed.is_empty() {
            continue;
        }
        if exists {
            let what = "a spec has this file already, and --verify would write it";
            return Err(Error::new("add", path, what));
        }
        add(loader, name, text);
    }
    Ok(())
}

/// Adds a file, and the directories that it is in.
fn add(loader: &mut Vec<Entry>, name: Vec<u8>, text: String) {
    let entry = |name: &[u8], mode, body| Entry {
        name: name.into(),
        mode,
        uid: 0,
        gid: 0,
        mtime: None,
        body,
        origin: "--verify".into(),
    };
    let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    for directory in slashes.filter_map(|(at, _)| name.get(..at)) {
        if !loader
            .iter()
            .any(|entry| normalized(&entry.name) == directory)
        {
            loader.push(entry(directory, libc::S_IFDIR | 0o755, Body::Empty));
        }
    }
    let body = Body::File(FileContent::Bytes(text.into_bytes()), Vec::new());
    loader.push(entry(&name, libc::S_IFREG | 0o644, body));
}

/// The policy.
fn text(options: &VerifyOptions) -> String {
    let mut text =
        String::from("# Words of the kernel command line that could defeat verification.\n");
    for word in &options.allowed {
        text.push_str(&format!("allow {word}\n"));
    }
    text
}

/// The list.
fn list(options: &VerifyOptions, loader: &[Entry], appended: &[PreparedLayer]) -> Result<String> {
    let mut exceptions: Vec<&Exception> = options.exceptions.iter().collect();
    let mut lines = Vec::new();
    for (name, file) in layer_files(loader)? {
        let walk = initrd::walk_layer_file(&*file);
        let is = |exception: &Exception| {
            // Behind the number of --layers-inside.
            let given = name.split_once('-').map_or("", |(_, given)| given);
            [name.as_str(), given].into_iter().any(|name| {
                let rest = name.strip_prefix(exception.name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        let found = take(&mut exceptions, is);
        lines.extend(entries(&name, &*file, walk, found)?);
    }
    for layer in appended {
        let name = shown(layer.name.as_encoded_bytes());
        let file = layer
            .file
            .try_clone()
            .during("open", layer.path.display())?;
        let file = Opened::new(file, layer.length);
        let found = take(&mut exceptions, |exception| layer.is(&exception.name));
        lines.extend(entries(&name, &file, initrd::walk(&file, b""), found)?);
    }
    for Exception { name, directory } in exceptions {
        let Some(directory) = directory else {
            let what = "no layer has this file name, and there is no directory (NAME:/DIRECTORY)";
            return Err(Error::new(
                "add",
                format_args!("--verify-except {name}"),
                what,
            ));
        };
        lines.push(list::Entry {
            expected: Expected::Vary(directory.clone()),
            name: shown(name.as_bytes()),
        });
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// Takes the first exception that is meant out of the list.
fn take<'a>(
    exceptions: &mut Vec<&'a Exception>,
    is: impl Fn(&Exception) -> bool,
) -> Option<&'a Exception> {
    let index = exceptions.iter().position(|exception| is(exception))?;
    Some(exceptions.remove(index))
}

/// The files of the loader's /layers with their names, in the order of layers.
fn layer_files(loader: &[Entry]) -> Result<Vec<(String, Box<dyn ReadAt + '_>)>> {
    let mut files: Vec<(Vec<u8>, Box<dyn ReadAt>)> = Vec::new();
    for entry in loader {
        let names = match &entry.body {
            Body::File(_, links) => links.as_slice(),
            _ => &[],
        };
        for name in names.iter().chain([&entry.name]) {
            let path = normalized(name);
            let Some(name) = path
                .strip_prefix(b"layers/")
                .filter(|name| !name.contains(&b'/'))
            else {
                continue;
            };
            let file: Box<dyn ReadAt> = match &entry.body {
                Body::File(FileContent::Location(path), _) => Box::new(open(path)?),
                Body::File(FileContent::Bytes(bytes), _) => Box::new(bytes.as_slice()),
                Body::Empty => continue,
                Body::Link(_) | Body::Device(..) => {
                    let what =
                        "a link or device cannot be verified: put the file itself into /layers";
                    return Err(Error::new("verify", shown(&path), what));
                }
            };
            // A later file of the same name replaces it.
            files.retain(|(other, _)| other != name);
            files.push((name.to_vec(), file));
        }
    }
    files.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let named = files.into_iter().map(|(name, file)| (shown(&name), file));
    Ok(named.collect())
}

fn open(path: &Path) -> Result<Opened> {
    Opened::open(path)
}

/// The lines for the layers of a file.
fn entries(
    name: &str,
    file: &dyn ReadAt,
    walk: Walk,
    exception: Option<&Exception>,
) -> Result<Vec<list::Entry>> {
    // In a file of /layers and behind a stop or an image alike, the kernel unpacks nothing.
    let place = Place::File(name.into());
    let source = Source { place, walk };
    let mut lines = Vec::new();
    for segment in plan::layer_segments(&source) {
        let name = match segment.offset {
            0 => name.to_string(),
            offset => format!("{name}+{offset:#x}"),
        };
        let part = Part {
            name,
            file,
            segment: segment.clone(),
        };
        let expected = match exception {
            Some(exception) => Expected::Vary(part.directory(exception)?),
            None => part.digest()?,
        };
        let name = part.name;
        lines.push(list::Entry { expected, name });
    }
    if exception.is_some() {
        // A line stands for any number of archives.
        lines.dedup_by(|one, other| one.expected == other.expected);
    }
    Ok(lines)
}

impl Part<'_> {
    fn digest(&self) -> Result<Expected> {
        let Segment {
            offset,
            length,
            kind,
        } = &self.segment;
        let archive = matches!(kind, Kind::Cpio(cpio) if cpio.codec.is_none());
        let digests =
            Digests::of(self.file, *offset, *length, archive).during("read", &self.name)?;
        // Where the whole file is an archive with its padding, the digest is that of the file.
        let end = offset.saturating_add(length.next_multiple_of(512));
        let digest = match digests.padded {
            Some(padded) if self.file.size() == end => padded,
            _ => digests.exact,
        };
        Ok(Expected::Sha256(digest))
    }

    /// The directory of a layer that may vary.
    fn directory(&self, exception: &Exception) -> Result<String> {
        let refuse = |what: String| Err(Error::new("let vary", &self.name, what));
        let Segment {
            offset,
            length,
            kind,
        } = &self.segment;
        let Kind::Cpio(cpio) = kind else {
            return refuse("it is no cpio archive: only archives may vary".into());
        };
        let directory = match &exception.directory {
            Some(directory) => directory.clone(),
            None => {
                let found = content::directory(self.file, *offset, *length, cpio.codec);
                match found.as_deref().map(list::directory) {
                    Some(Ok(directory)) => directory,
                    _ => {
                        return refuse(
                            "its files are not in one directory below /: name one (NAME:/DIRECTORY)".into(),
                        );
                    }
                }
            }
        };
        match content::is_below(self.file, *offset, *length, cpio.codec, &directory) {
            Ok(()) => Ok(directory),
            Err(what) => refuse(what),
        }
    }
}
