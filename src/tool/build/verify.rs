//! The files by which the loader verifies its layers: the list and the policy.

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::inside::file_name;
use super::layer::PreparedLayer;
use super::outside::FileProtection;
use super::program::run;
use super::spec::{Body, FileContent, SpecEntry};
use super::temp_files::TempFiles;
use crate::bytes::{Opened, ReadAt};
use crate::error::{Context, Error, Result};
use crate::format::cpio::normalized;
use crate::initrd::{self, Kind, Segment, Walk};
use crate::plan::{self, Place, Source, medium};
use crate::text::shown;
use crate::tool::progress::LongStep;
use crate::tool::tmpfile::shared_path;
use crate::verify::digest::Digests;
use crate::verify::list::{self, Expected};
use crate::verify::signature::{self, Key};
use crate::verify::{content, policy};

/// What the loader verifies, and what it allows.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Layers that may vary.
    pub exceptions: Vec<Exception>,
    /// Words of the command line that are allowed: `WORD` or `WORD=VALUE`.
    pub allowed: Vec<String>,
    /// Public keys of minisign for the loader: then the list has to be signed.
    pub keys: Vec<PathBuf>,
    /// The secret key of minisign that signs the list.
    pub sign: Option<PathBuf>,
    /// The version in the signature.
    pub version: Option<u64>,
    /// The oldest version that the loader boots.
    pub minimum_version: Option<u64>,
    /// What dm-verity does with layers on a disk: options of veritytab(5).
    pub verity: Option<String>,
}

/// A layer that may vary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its file name, with or without extensions; for a layer that is not in the image, a name for messages.
    name: String,
    /// The directory above all its files; `None`: the one that the files of the layer share.
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
struct LayerFile<'a> {
    name: String,
    file: &'a dyn ReadAt,
    segment: Segment,
}

/// Adds the policy and the keys to the loader. `appended` are the layers after the loader, or those on a
/// disk, and `protections` says how the kernel verifies the latter. Returns the entries of the list, and of
/// its signature if a key signs it.
///
/// # Errors
/// The loader has such a file already, a layer or a key cannot be read, an exception does not fit its layer, or minisign
/// fails.
pub fn add_files(
    options: &VerifyOptions,
    loader: &mut Vec<SpecEntry>,
    appended: &[PreparedLayer],
    protections: Option<&[FileProtection]>,
    temp: &TempFiles,
) -> Result<Vec<SpecEntry>> {
    let exists = |loader: &[SpecEntry], name: &[u8]| {
        let mut all = loader.iter();
        all.any(|entry| normalized(&entry.name) == name)
    };
    let refuse = |path: &str| {
        let what = "a spec has this file already, and --verify would write it";
        Err(Error::new("add", path, what))
    };
    let list = list(options, loader, appended, protections)?;
    let mut entries = Vec::new();
    if let Some(key) = &options.sign {
        let signature = sign(list.as_bytes(), key, options.version, temp)?;
        add(
            &mut entries,
            normalized(signature::PATH.as_bytes()),
            signature,
        );
    }
    let list_name = normalized(list::PATH.as_bytes());
    if exists(loader, &list_name) {
        return refuse(list::PATH);
    }
    add(&mut entries, list_name, list);
    let mut files = vec![(
        policy::PATH.to_string(),
        text(options, protections.is_some()),
    )];
    for path in &options.keys {
        let text = fs::read(path).during("read", path.display())?;
        Key::parse(&path.display().to_string(), &text)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = String::from_utf8_lossy(&text).into_owned();
        files.push((format!("{}/{name}.pub", signature::KEYS), text));
    }
    for (path, text) in files {
        let name = normalized(path.as_bytes());
        // The builder is responsible for a policy from a spec.
        let decides = !options.allowed.is_empty()
            || options.minimum_version.is_some()
            || options.verity.is_some();
        match exists(loader, &name) {
            true if path == policy::PATH && !decides => {}
            true => return refuse(&path),
            false => add(loader, name, text),
        }
    }
    Ok(entries)
}

/// Adds the loader's files to it, without directories that it has already.
pub fn add_to_loader(loader: &mut Vec<SpecEntry>, entries: Vec<SpecEntry>) {
    for entry in entries {
        let name = normalized(&entry.name);
        if !loader.iter().any(|other| normalized(&other.name) == name) {
            loader.push(entry);
        }
    }
}

/// Signs a list with minisign. It reads the password of the key, if there is one, from standard input.
fn sign(list: &[u8], key: &Path, version: Option<u64>, temp: &TempFiles) -> Result<String> {
    let (mut input, input_path) = temp.create("layers.sha256")?;
    let (mut output, output_path) = temp.create("layers.sha256.minisig")?;
    input.write_all(list).during("write", list::PATH)?;
    let comment = match version {
        Some(version) => format!("{}{version}", signature::VERSION),
        None => "layers of an initrd".into(),
    };
    let mut command = Command::new("minisign");
    command.args(["-S", "-t", &comment, "-s"]).arg(key);
    let path = input_path.unwrap_or_else(|| shared_path(&input));
    command.arg("-m").arg(path);
    let path = output_path.unwrap_or_else(|| shared_path(&output));
    command.arg("-x").arg(path);
    run(command.stdout(Stdio::null()), "minisign", key, temp)?;
    let mut text = String::new();
    output.rewind().during("read", signature::PATH)?;
    let read = output.read_to_string(&mut text);
    read.during("read", signature::PATH)?;
    Ok(text)
}

/// Adds a file and its parent directories.
fn add(loader: &mut Vec<SpecEntry>, name: Vec<u8>, text: String) {
    let entry = |name: &[u8], mode, body| SpecEntry::of_root(name, mode, body, "--verify");
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
fn text(options: &VerifyOptions, outside: bool) -> String {
    let mut text =
        String::from("# Words of the kernel command line that could defeat verification.\n");
    if let Some(version) = options.minimum_version {
        text.push_str(&format!("minimum-version {version}\n"));
    }
    if let Some(list) = &options.verity {
        text.push_str(&format!("verity-options {list}\n"));
    }
    // The list decides which layers boot, wherever they are.
    let from = outside.then_some(medium::WORD);
    let allowed = options.allowed.iter().map(String::as_str);
    for word in allowed.chain(from) {
        text.push_str(&format!("allow {word}\n"));
    }
    text
}

/// The list.
fn list(
    options: &VerifyOptions,
    loader: &[SpecEntry],
    appended: &[PreparedLayer],
    protections: Option<&[FileProtection]>,
) -> Result<String> {
    let mut exceptions: Vec<&Exception> = options.exceptions.iter().collect();
    let mut lines = Vec::new();
    for (name, file) in layer_files(loader)? {
        let walk = initrd::walk_layer_file(&*file);
        let is = |exception: &Exception| {
            // The name after the number of --layers-inside.
            let given = name.split_once('-').map_or("", |(_, given)| given);
            [name.as_str(), given].into_iter().any(|name| {
                let rest = name.strip_prefix(exception.name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        let found = take(&mut exceptions, is);
        lines.extend(entries(&name, &*file, walk, found, None)?);
    }
    for (index, layer) in appended.iter().enumerate() {
        let name = match protections {
            Some(_) => &file_name(index, appended.len(), &layer.name),
            None => &layer.name,
        };
        let name = shown(name.as_encoded_bytes());
        let file = layer
            .file
            .try_clone()
            .during("open", layer.path.display())?;
        let file = Opened::new(file, layer.length);
        let found = take(&mut exceptions, |exception| layer.is(&exception.name));
        let protection = protections.and_then(|all| all.get(index));
        let expected = protection.and_then(FileProtection::expected);
        let walk = initrd::walk(&file, b"");
        lines.extend(entries(&name, &file, walk, found, expected)?);
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
        lines.push(list::ListEntry {
            expected: Expected::Vary(directory.clone()),
            name: shown(name.as_bytes()),
        });
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// Removes the first exception for the layer from the list.
fn take<'a>(
    exceptions: &mut Vec<&'a Exception>,
    is: impl Fn(&Exception) -> bool,
) -> Option<&'a Exception> {
    let index = exceptions.iter().position(|exception| is(exception))?;
    Some(exceptions.remove(index))
}

/// The files of the loader's /layers with their names, in the order of layers.
fn layer_files(loader: &[SpecEntry]) -> Result<Vec<(String, Box<dyn ReadAt + '_>)>> {
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

/// The lines for the layers of a file. `expected`: how the kernel verifies the file.
fn entries(
    name: &str,
    file: &dyn ReadAt,
    walk: Walk,
    exception: Option<&Exception>,
    expected: Option<Expected>,
) -> Result<Vec<list::ListEntry>> {
    // The kernel unpacks nothing in a file of /layers, nor after a stop or an image.
    let place = Place::File(name.into());
    let source = Source { place, walk };
    let mut lines = Vec::new();
    for segment in plan::layer_segments(&source) {
        let name = match segment.offset {
            0 => name.to_string(),
            offset => format!("{name}+{offset:#x}"),
        };
        let part = LayerFile {
            name,
            file,
            segment: segment.clone(),
        };
        let expected = match (exception, &expected) {
            (Some(exception), _) => Expected::Vary(part.directory(exception)?),
            (None, Some(expected)) => expected.clone(),
            (None, None) => part.digest()?,
        };
        let name = part.name;
        lines.push(list::ListEntry { expected, name });
    }
    if exception.is_some() {
        // A line stands for any number of archives.
        lines.dedup_by(|one, other| one.expected == other.expected);
    }
    Ok(lines)
}

impl LayerFile<'_> {
    fn digest(&self) -> Result<Expected> {
        let Segment {
            offset,
            length,
            kind,
        } = &self.segment;
        let archive = matches!(kind, Kind::Cpio(cpio) if cpio.codec.is_none());
        let progress = LongStep::part(format_args!("hash {}", self.name), *length);
        let file = progress.watch(self.file, *offset);
        let digests = Digests::of(&file, *offset, *length, archive).during("read", &self.name)?;
        // If the whole file is an archive with its padding, the digest is that of the file.
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
            return refuse("it is not a cpio archive: only archives may vary".into());
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
