//! Opens the sources of layers, and walks them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::{debug, info, warn};
use rustix::fs::{FallocateFlags, fallocate, fstatfs};

use super::filesystem::is_in_memory;
use crate::bytes::{Opened, ReadAt};
use crate::error::{self, Context, Result};
use crate::initrd::{self, Kind, Walk};
use crate::plan::{Content, Found, Place, Plan, Root};
use crate::text::shown;

/// Up to this size in bytes, `/initrd.image` is freed before the real init starts, which then has all of
/// the memory. It takes the kernel 16 ms to free 32 MiB.
const FREED_BEFORE_EXEC: u64 = 32 << 20;

/// An open source of layers.
#[derive(Debug)]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// The file, open for reading.
    pub file: Opened,
}

/// Opens and walks every source, in the order of layers: the files of /layers by name, then the initrd,
/// once, wherever the kernel provides it. `rdinit` is the path of the program that the kernel started.
pub fn open_all(rdinit: &str) -> Result<(Vec<Source>, Vec<Found>)> {
    let mut sources = Vec::new();
    let mut found = Vec::new();
    let mut add = |place: Place, file: Opened, walk: Walk| {
        let path = PathBuf::from(place.path());
        debug!(
            "{place}: {} segments in {} bytes",
            walk.segments.len(),
            file.size()
        );
        for segment in &walk.segments {
            debug!("{segment}");
        }
        sources.push(Source { path, file });
        found.push(Found { place, walk });
    };
    for path in layer_files()? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let file = Opened::open(&path)?;
        let walk = initrd::walk_layer_file(&file);
        add(Place::File(name), file, walk);
    }
    for place in [Place::Initrd, Place::InitrdImage] {
        let path = PathBuf::from(place.path());
        if !path.exists() {
            debug!("{}: does not exist", path.display());
            continue;
        }
        let file = Opened::open(&path)?;
        let walk = walk_initrd(&file, rdinit);
        add(place, file, walk);
        break;
    }
    Ok((sources, found))
}

/// Walks the initrd. The loader is the archive that holds the running program, which need not be the one that
/// the kernel started (`rdinit=` may name a link or a script); if no archive holds it, the one with `rdinit`.
fn walk_initrd(file: &Opened, rdinit: &str) -> Walk {
    let holds_init = |walk: &Walk| {
        let mut segments = walk.segments.iter();
        segments.any(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.holds_init))
    };
    if let Ok(program) = fs::read_link("/proc/self/exe")
        && program != Path::new(rdinit)
    {
        let walk = initrd::walk(file, program.as_os_str().as_encoded_bytes());
        if holds_init(&walk) {
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
        // Follows symbolic links: their target can be mounted as well.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => files.push(path),
            Ok(_) => warn!("{}: not a file; not used", name(&path)),
            Err(error) => warn!("{}: {error}; not used", name(&path)),
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Frees the parts of `/initrd.image` that no layer needs: all of it if the initrd was read from sysfs, else
/// everything outside of the mounted images. Returns the bytes freed, or `None` if freeing takes longer than
/// the real init should wait: the file is then freed with the old root. A tmpfs can punch holes; a ramfs
/// cannot, and frees the file with the old root.
pub fn release_image(plan: &Plan) -> Option<u64> {
    if matches!(plan.root, Root::Initramfs | Root::Assembled) {
        return Some(0);
    }
    let path = Place::InitrdImage.path();
    let mut options = File::options();
    let options = options.write(true).custom_flags(libc::O_NOFOLLOW);
    let Ok(file) = options.open(&path) else {
        return Some(0);
    };
    // The kernel's copy is in the rootfs. A file of that name on a disk is another one.
    if !fstatfs(&file).is_ok_and(|filesystem| is_in_memory(&filesystem)) {
        debug!("{path}: not in a ramfs or tmpfs, so not freed");
        return Some(0);
    }
    // st_blocks counts 512 bytes, whatever the block size of the filesystem (stat(2)).
    let allocated = || {
        file.metadata()
            .map_or(0, |metadata| metadata.blocks().saturating_mul(512))
    };
    let before = allocated();
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut mounted = plan
        .layers
        .iter()
        .filter(|layer| {
            layer.place == Place::InitrdImage && matches!(layer.content, Content::Erofs { .. })
        })
        .peekable();
    if mounted.peek().is_none() && size > FREED_BEFORE_EXEC {
        debug!("{path}: {size} bytes will be freed while the real init starts");
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
            debug!(
                "{path}: the unused parts cannot be freed yet: {}",
                error::name(errno)
            );
            break;
        }
        from = offset.saturating_add(length);
    }
    let freed = before.saturating_sub(allocated());
    info!("{path}: {freed} of {before} bytes freed");
    Some(freed)
}
