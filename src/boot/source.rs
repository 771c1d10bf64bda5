//! Opens the files that hold the layers, and walks them.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use log::{debug, warn};

use crate::bytes::{Opened, ReadAt};
use crate::error::{Context, Result};
use crate::initrd::{self, Walk};
use crate::plan::{Place, Source};
use crate::text::shown;
#[cfg(feature = "verify")]
use crate::verify::measured::Measured;

/// A source of layers, open.
#[derive(Debug)]
pub struct OpenSource {
    /// Its place and segments, from which the plan is made.
    pub source: Source,
    /// The file, open for reading.
    pub file: Opened,
    /// How the kernel verifies the file at each read; `None`: it does not.
    #[cfg(feature = "verify")]
    pub measured: Option<Measured>,
}

impl AsRef<Source> for OpenSource {
    fn as_ref(&self) -> &Source {
        &self.source
    }
}

impl OpenSource {
    /// Opens a source, and walks it with `walk`.
    pub(super) fn open(place: Place, walk: impl FnOnce(&Opened) -> Walk) -> Result<Self> {
        let file = Opened::open(Path::new(&place.path()))?;
        Ok(Self::new(place, file, walk))
    }

    /// A source whose file is open.
    pub(super) fn new(place: Place, file: Opened, walk: impl FnOnce(&Opened) -> Walk) -> Self {
        let walk = walk(&file);
        debug!(
            "{place}: {} segments in {} bytes",
            walk.segments.len(),
            file.size()
        );
        for segment in &walk.segments {
            debug!("{segment}");
        }
        let source = Source { place, walk };
        Self {
            source,
            file,
            #[cfg(feature = "verify")]
            measured: None,
        }
    }

    /// The path for the kernel to open. If the open file is verified, the path leads to that very file: the
    /// directory on the disk could lead to another one next time.
    pub fn path(&self) -> String {
        #[cfg(feature = "verify")]
        if self.measured.is_some() && !self.source.place.is_verity() {
            return self.fd_path();
        }
        self.source.place.path()
    }

    /// The path of the open file, whatever its name.
    pub fn fd_path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.file.as_raw_fd())
    }
}

/// Finds every source, in the order of layers: the files of /layers by name, then the initrd, of which the
/// kernel may offer two copies. `rdinit` is the path of the program that the kernel started.
///
/// # Errors
/// /layers or the initrd exists but cannot be read.
pub fn find(rdinit: &str) -> Result<Vec<OpenSource>> {
    let mut sources = Vec::new();
    for path in layer_files()? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let place = Place::File(name);
        sources.push(OpenSource::open(place, |file| {
            initrd::walk_layer_file(file)
        })?);
    }
    for place in [Place::Initrd, Place::InitrdImage] {
        let path = place.path();
        if Path::new(&path).exists() {
            sources.push(OpenSource::open(place, |file| walk_initrd(file, rdinit))?);
            break;
        }
        debug!("{path}: does not exist");
    }
    Ok(sources)
}

/// Walks the initrd. The archive that holds the running program is the loader. That need not be the program
/// that the kernel started: `rdinit=` may name a link or a script. If no archive holds it, the one with
/// `rdinit=` is the loader.
fn walk_initrd(file: &Opened, rdinit: &str) -> Walk {
    if let Ok(program) = fs::read_link("/proc/self/exe")
        && program != Path::new(rdinit)
    {
        let walk = initrd::walk(file, program.as_os_str().as_encoded_bytes());
        if walk.holds_init() {
            return walk;
        }
    }
    initrd::walk(file, rdinit.as_bytes())
}

/// The files of /layers, sorted by the bytes of their names.
fn layer_files() -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(Place::LAYERS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during("read", Place::LAYERS)?,
    };
    let name = |path: &Path| shown(path.as_os_str().as_encoded_bytes());
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.during("read", Place::LAYERS)?.path();
        // Follows symbolic links: they may lead to files on a disk.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => files.push(path),
            Ok(_) => warn!("{}: not a regular file; not used", name(&path)),
            Err(error) => warn!("{}: {error}; not used", name(&path)),
        }
    }
    files.sort_unstable();
    Ok(files)
}
