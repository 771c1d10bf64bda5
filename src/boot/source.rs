//! Opens the files that hold the layers, and walks them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::{debug, info, warn};
use rustix::fs::{FallocateFlags, fallocate, fstatfs};

use super::filesystem::is_in_memory;
use crate::bytes::{Opened, ReadAt};
use crate::error::{self, Context, Result};
use crate::initrd::{self, Walk};
use crate::plan::{Layer, Place, Plan, Root, Source};
use crate::text::shown;

/// The largest `/initrd.image` that is freed before the real init starts, in bytes. The kernel frees 32 MiB in
/// 16 ms, and the real init starts with all of the memory.
const FREE_AT_ONCE: u64 = 32 << 20;

/// A source of layers, open.
#[derive(Debug)]
pub struct OpenSource {
    /// What the plan is made from.
    pub source: Source,
    /// The file, open for reading.
    pub file: Opened,
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
        Self { source, file }
    }

    /// Its path in the initramfs.
    pub fn path(&self) -> String {
        self.source.place.path()
    }
}

/// Finds every source, in the order of layers: the files of /layers by name, then the initrd, of which the
/// kernel may offer two copies. `rdinit` is the path of the program that the kernel started.
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

/// Frees the memory of `/initrd.image` that no layer needs: all of it where the initrd is in sysfs too, else
/// everything outside `images`, which are mounted. Returns the number of bytes freed, or `None` if that takes
/// longer than the real init should wait, and the old root is to be freed later. Only a tmpfs can free parts of a
/// file; on a ramfs the file is freed with the old root.
pub fn release_image(plan: &Plan, images: &[&Layer]) -> Option<u64> {
    if matches!(plan.root, Root::Initramfs | Root::Assembled) {
        return Some(0);
    }
    let path = Place::InitrdImage.path();
    let mut options = File::options();
    let options = options.write(true).custom_flags(libc::O_NOFOLLOW);
    let Ok(file) = options.open(&path) else {
        return Some(0);
    };
    // The kernel's copy lies in the rootfs. A file of that name on a disk is not the kernel's.
    if !fstatfs(&file).is_ok_and(|filesystem| is_in_memory(&filesystem)) {
        debug!("{path}: not in a ramfs or tmpfs; not freed");
        return Some(0);
    }
    // st_blocks counts units of 512 bytes on every filesystem (stat(2)).
    let allocated = || {
        file.metadata()
            .map_or(0, |metadata| metadata.blocks().saturating_mul(512))
    };
    let before = allocated();
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut mounted = images
        .iter()
        .filter(|layer| layer.place == Place::InitrdImage)
        .peekable();
    if mounted.peek().is_none() && size > FREE_AT_ONCE {
        debug!("{path}: {size} bytes to be freed while the real init starts");
        return None;
    }
    let mut from = 0;
    for (offset, length) in mounted
        .map(|layer| (layer.offset, layer.length))
        .chain([(size, 0)])
    {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let hole = offset.saturating_sub(from);
        if hole > 0
            && let Err(errno) = fallocate(&file, flags, from, hole)
        {
            debug!("{path}: unused parts are not freed: {}", error::name(errno));
            break;
        }
        from = offset.saturating_add(length);
    }
    let freed = before.saturating_sub(allocated());
    info!("{path}: {freed} of {before} bytes freed");
    Some(freed)
}
