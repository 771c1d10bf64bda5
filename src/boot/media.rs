//! The media of `rd.layers.from=`: mounts each, and opens the files on it that hold layers.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use log::{debug, info, warn};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::mount::{DeviceFinder, MountedDevice};
use super::resolve::resolve;
use super::source::OpenSource;
use crate::error::{self, Context, Error, Result};
use crate::initrd;
use crate::module::loader::Loader;
use crate::plan::medium::{self, WORD};
use crate::plan::{Layer, Medium, MediumFile, MountSpec, Place, Storage, loader_files};
use crate::text::shown;

/// The number of names that an error lists.
const NAMES_MAX: usize = 20;

/// The files at a path.
#[derive(Debug)]
pub struct FoundFiles {
    /// The files, open.
    pub sources: Vec<OpenSource>,
    /// The names that are not used, each with the reason.
    pub unused: Vec<(String, String)>,
    /// The path of a list of layers beside the files, in the initramfs.
    pub list: Option<String>,
}

/// A medium whose files are open.
#[derive(Debug)]
pub struct OpenMedium {
    /// What the command line names.
    pub medium: Medium,
    /// Its device and filesystem. `None` for a path in the initramfs, and for a device without a filesystem.
    pub device: Option<MountedDevice>,
    /// Its mount point; `None` if it is not mounted.
    pub mount: Option<String>,
    /// The path of a list of layers beside its files.
    pub list: Option<String>,
}

/// Mounts the media, in order, and opens the files on them that hold layers.
///
/// # Errors
///
/// A device or a file does not exist; the error lists what is there. A medium cannot be mounted, or holds no layer.
pub fn open(
    media: Vec<Medium>,
    finder: &mut DeviceFinder,
    loader: &mut Loader,
) -> Result<(Vec<OpenMedium>, Vec<OpenSource>)> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    for medium in media {
        let mut opened = OpenMedium {
            medium,
            device: None,
            mount: None,
            list: None,
        };
        let medium = &opened.medium;
        let found = match (&medium.device, &medium.path) {
            (Some(device), Some(path)) => {
                let (mounted, mount) = finder.mount_medium(device, loader)?;
                let target = medium.mount_point();
                fs::create_dir_all(&target).during("create", &target)?;
                mount.attach(&target)?;
                let found = find_logged(medium, Path::new(&target), path)?;
                (opened.device, opened.mount) = (Some(mounted), Some(target));
                found
            }
            (Some(device), None) => FoundFiles {
                sources: vec![open_device(medium, device, finder, loader)?],
                unused: Vec::new(),
                list: None,
            },
            (None, path) => find_logged(medium, Path::new("/"), path.as_deref().unwrap_or("/"))?,
        };
        medium::check(&opened.medium, &found.sources)?;
        all.extend(found.sources);
        opened.list = found.list;
        open.push(opened);
    }
    Ok((open, all))
}

/// Opens a device that holds layers without a filesystem.
fn open_device(
    medium: &Medium,
    device: &MountSpec,
    finder: &mut DeviceFinder,
    loader: &mut Loader,
) -> Result<OpenSource> {
    let (path, file) = finder.open_medium(device, loader)?;
    let place = Place::Medium(MediumFile {
        medium: medium.number,
        name: medium.to_string(),
        path,
        storage: Storage::Device,
    });
    Ok(OpenSource::new(place, file, |file| {
        initrd::walk_device(file)
    }))
}

fn find_logged(medium: &Medium, root: &Path, path: &str) -> Result<FoundFiles> {
    let found = find(medium, root, path)?;
    for (name, why) in &found.unused {
        warn!("{name}: {why}");
    }
    Ok(found)
}

/// Opens the file at `path`, or the files of the directory there, by name. Symbolic links are resolved below
/// the directory `root`, as if it were `/`.
///
/// # Errors
///
/// The path does not exist; the error lists what is there. A file cannot be opened.
pub fn find(medium: &Medium, root: &Path, path: &str) -> Result<FoundFiles> {
    let root = File::open(root).during("open", root.display())?;
    let root = root.as_fd();
    let object = format_args!("{WORD}={medium}");
    let found = locate(root, path)
        .during("open", object)
        .map_err(|error| error.hint(what_is_there(root, path)))?;
    let (mut sources, mut unused, mut list) = (Vec::new(), Vec::new(), None);
    match found.kind {
        FileType::RegularFile => sources.push(open_file(medium, medium.to_string(), found)?),
        FileType::Directory => {
            let top = medium.to_string();
            for name in names(&found.path).during("read directory", object)? {
                let shown = format!("{}/{}", top.trim_end_matches('/'), shown(name.as_bytes()));
                // The name need not be UTF-8, and resolve() takes text.
                let file = match name.to_str() {
                    Some(name) => locate(root, &format!("{path}/{name}")),
                    None => Err(Errno::ILSEQ),
                };
                match file {
                    // The list of the layers, or its signature.
                    Ok(file) if name == loader_files::LIST_NAME => list = Some(file.path),
                    Ok(_) if name == loader_files::SIGNATURE_NAME => {}
                    Ok(file) if file.kind == FileType::RegularFile => {
                        sources.push(open_file(medium, shown, file)?);
                    }
                    Ok(_) => unused.push((shown, "not a regular file; not used".into())),
                    Err(errno) => {
                        unused.push((shown, format!("{}; not used", error::name(errno))));
                    }
                }
            }
        }
        _ => return Err(Error::new("open", object, "neither a file nor a directory")),
    }
    Ok(FoundFiles {
        sources,
        unused,
        list,
    })
}

/// A file on a medium.
struct LocatedFile {
    /// Its path in the initramfs, without symbolic links.
    path: String,
    kind: FileType,
}

fn locate(root: BorrowedFd<'_>, path: &str) -> std::result::Result<LocatedFile, Errno> {
    let file = resolve(root, path)?;
    let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?;
    let path = path.into_string().map_err(|_| Errno::ILSEQ)?;
    Ok(LocatedFile { path, kind })
}

fn open_file(medium: &Medium, name: String, found: LocatedFile) -> Result<OpenSource> {
    let storage = match medium.device {
        Some(_) => Storage::Filesystem,
        None => Storage::Initramfs,
    };
    let place = Place::Medium(MediumFile {
        medium: medium.number,
        name,
        path: found.path,
        storage,
    });
    OpenSource::open(place, |file| initrd::walk_layer_file(file))
}

/// The names in a directory, sorted by their bytes.
fn names(directory: &str) -> std::io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let mut names = entries.collect::<std::io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// For a path that does not exist: the names in the last directory on it that does.
fn what_is_there(root: BorrowedFd<'_>, path: &str) -> String {
    let mut above = path;
    while let Some((parent, _)) = above.rsplit_once('/') {
        above = parent;
        let parent = if parent.is_empty() { "/" } else { parent };
        let Ok(found) = locate(root, parent) else {
            continue;
        };
        let Ok(names) = names(&found.path) else {
            break;
        };
        let name = |name: &std::ffi::OsString| shown(OsStr::as_bytes(name));
        let mut list: Vec<_> = names.iter().take(NAMES_MAX).map(name).collect();
        if let Some(more) = names.len().checked_sub(NAMES_MAX).filter(|more| *more > 0) {
            list.push(format!("and {more} more"));
        }
        let list = match list.is_empty() {
            true => "nothing".into(),
            false => list.join(", "),
        };
        return format!("{} holds: {list}", shown(parent.as_bytes()));
    }
    "its directory cannot be read".into()
}

/// Unmounts the media that hold no mounted image, so that their disks can be removed while the real init
/// runs. `images` are the layers that the kernel still reads in place.
pub fn release(media: &mut [OpenMedium], images: &[&Layer]) {
    for open in media {
        let number = open.medium.number;
        let is_on_it =
            |file: &MediumFile| file.medium == number && file.storage != Storage::Initramfs;
        let in_use = images
            .iter()
            .any(|layer| matches!(&layer.place, Place::Medium(file) if is_on_it(file)));
        let Some(path) = open.mount.take_if(|_| !in_use) else {
            continue;
        };
        // Detached: its files are open until the real init starts.
        let unmounted = unmount(&path, UnmountFlags::DETACH).during("unmount", &path);
        match unmounted.and_then(|()| fs::remove_dir(&path).during("remove", &path)) {
            Ok(()) => info!(
                "{WORD}={}: unmounted, no layer is mounted from it",
                open.medium
            ),
            Err(error) => debug!("{error}"),
        }
    }
}
