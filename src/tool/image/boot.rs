//! An image as the kernel and `/init` see it: the rootfs, the sources of layers, the plan.

use std::fs;
use std::path::{Path, PathBuf};

use super::node::{ArchiveExtent, Node};
use super::rootfs::Rootfs;
use super::spool;
use super::unpack::PackedArchive;
use crate::boot::media;
use crate::bytes::{Opened, Part, ReadAt};
use crate::error::{Context, Error, Result};
use crate::format::cpio::normalized;
use crate::initrd::{self, Kind, Walk};
use crate::plan::cmdline::Options;
use crate::plan::device_spec::Spec;
use crate::plan::medium::{self, WORD};
use crate::plan::{self, Medium, MediumFile, Place, Plan, Source, Storage, loader_files};
use crate::text::shown;
use crate::tool::finding::{FINDINGS_MAX, Findings};
use crate::tool::progress::LongStep;
use crate::verify::content::SignedList;
use crate::verify::{self, signature};

const NOT_REGULAR: &str = "not a regular file; not used";
const DANGLING: &str = "a dangling symlink; not used";

/// An image as a kernel boots it.
#[derive(Debug)]
pub struct Boot {
    /// The rootfs after the kernel has unpacked the initrd.
    pub rootfs: Rootfs,
    /// The sources of layers that `/init` finds: files of /layers, then the image as
    /// /sys/firmware/initrd.
    pub sources: Vec<Source>,
    /// The command line.
    pub options: Options,
    /// What the kernel drops or changes when it unpacks the archives, except those that are layers, which
    /// `/init` unpacks again; and the files of /layers that are not used.
    pub findings: Findings,
    /// The signed list from the first archive after the loader, if the loader has keys.
    pub signed: Option<SignedList>,
    /// Why the layers of `rd.layers.from=` are not known.
    media_error: Option<Error>,
    /// The numbers of media whose stand-in is the mount point of a filesystem, and the type of the
    /// filesystem.
    media_types: Vec<(usize, String)>,
    /// The location of the bytes of each source.
    bodies: Vec<SourceBytes>,
}

/// The location of the bytes of a source.
#[derive(Clone, Debug)]
enum SourceBytes {
    /// The image itself.
    Image,
    /// A file of the rootfs; `None`: it is empty.
    Rootfs(Option<ArchiveExtent>),
    /// A file of this machine.
    Host(PathBuf),
}

/// Stand-ins for the devices of `rd.layers.from=`.
#[derive(Clone, Debug, Default)]
pub struct StandIns(Vec<PathBuf>);

impl StandIns {
    /// One directory for all devices, or one for each, in the order in which the command line names them first. For a
    /// device without a filesystem it is a file.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self(paths)
    }

    /// The path that stands in for the device of a medium, one of `media`.
    fn of(&self, medium: &Medium, media: &[Medium]) -> Option<&Path> {
        if let [path] = self.0.as_slice() {
            return Some(path);
        }
        let mut devices: Vec<&Spec> = Vec::new();
        for device in media.iter().filter_map(|medium| medium.device.as_ref()) {
            if !devices.contains(&&device.spec) {
                devices.push(&device.spec);
            }
        }
        let spec = &medium.device.as_ref()?.spec;
        let number = devices.iter().position(|device| *device == spec)?;
        self.0.get(number).map(PathBuf::as_path)
    }
}

impl Boot {
    /// Unpacks `image` as the kernel does, and finds the sources of layers. `stand_ins` replace the devices
    /// of `rd.layers.from=`.
    pub fn new(image: &(dyn ReadAt + Sync), cmdline: &str, stand_ins: &StandIns) -> Self {
        let options = Options::parse(cmdline);
        let walk = walk(image, options.rdinit.as_bytes());
        let (rootfs, findings) = unpack(image, &walk);
        let walk = walk_for_init(image, walk, &rootfs, &options);
        let mut boot = Self {
            rootfs,
            sources: Vec::new(),
            options,
            findings: Findings::default(),
            signed: None,
            media_error: None,
            media_types: Vec::new(),
            bodies: Vec::new(),
        };
        let mut initrd = Source {
            place: Place::Initrd,
            walk,
        };
        if boot.rootfs.find(signature::KEYS.as_bytes()).is_some() {
            boot.signed = verify::take_list(&mut initrd, image);
        }
        let layers = layer_offsets(&initrd);
        for (archive, findings) in findings {
            if !layers.contains(&archive) {
                boot.findings.extend(&findings);
            }
        }
        boot.media_error = boot.find_media(image, &initrd.walk, stand_ins).err();
        boot.find_layer_files(image, &initrd.walk);
        boot.push(initrd, SourceBytes::Image);
        boot
    }

    fn push(&mut self, source: Source, body: SourceBytes) {
        self.sources.push(source);
        self.bodies.push(body);
    }

    /// Fails if the layers of `rd.layers.from=` are not known.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn check_media(&self) -> Result<()> {
        match &self.media_error {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// The plan that `/init` makes.
    ///
    /// # Errors
    /// Those of [`plan::plan`], and of [`check_media`](Self::check_media).
    pub fn plan(&self) -> Result<Plan> {
        self.check_media()?;
        let mut plan = plan::plan(&self.sources, &self.options)?;
        for (medium, fstype) in &self.media_types {
            if let Some(device) = plan
                .media
                .get_mut(*medium)
                .and_then(|medium| medium.device.as_mut())
            {
                device.types = vec![fstype.clone()];
            }
        }
        Ok(plan)
    }

    /// Opens all sources, in their order.
    ///
    /// # Errors
    /// A file cannot be read or decompressed.
    pub fn open<'a>(
        &self,
        image: &'a (dyn ReadAt + Sync),
    ) -> Result<Vec<Box<dyn ReadAt + Sync + 'a>>> {
        let nothing = Walk::default();
        let walk = self.image().unwrap_or(&nothing);
        let files = self.bodies.iter().map(|body| match body {
            SourceBytes::Image => {
                Ok(Box::new(Part::new(image, 0, image.size())) as Box<dyn ReadAt + Sync>)
            }
            SourceBytes::Rootfs(extent) => open(image, walk, *extent),
            SourceBytes::Host(path) => Ok(Box::new(Opened::open(path)?) as Box<dyn ReadAt + Sync>),
        });
        files.collect()
    }

    /// The bytes of a regular file of the rootfs.
    pub fn content<'a>(
        &self,
        image: &'a (dyn ReadAt + Sync),
        node: &Node,
    ) -> Result<Box<dyn ReadAt + Sync + 'a>> {
        let nothing = Walk::default();
        open(image, self.image().unwrap_or(&nothing), node.body)
    }

    /// The walk over the image itself.
    pub fn image(&self) -> Option<&Walk> {
        self.sources.last().map(|source| &source.walk)
    }

    /// The offsets of the layers in the image itself.
    pub fn image_layers(&self) -> Vec<u64> {
        self.sources.last().map(layer_offsets).unwrap_or_default()
    }

    /// Finds the sources on the media of `rd.layers.from=`.
    fn find_media(
        &mut self,
        image: &(dyn ReadAt + Sync),
        walk: &Walk,
        stand_ins: &StandIns,
    ) -> Result<()> {
        let media = medium::media(&self.options)?;
        for medium in &media {
            let first = self.sources.len();
            match (&medium.device, &medium.path) {
                (None, path) => {
                    let path = path.as_deref().unwrap_or("/");
                    self.find_in_rootfs(image, walk, medium, path)?;
                }
                (Some(_), path) => {
                    let Some(stand_in) = stand_ins.of(medium, &media) else {
                        let why = "the content of the device is not known here";
                        return Err(Error::new("use", format_args!("{WORD}={medium}"), why)
                            .hint("--from DIR names a directory with the same files"));
                    };
                    match path {
                        Some(path) => self.find_on_host(medium, stand_in, path)?,
                        None => self.push_device(medium, stand_in)?,
                    }
                }
            }
            let found = self.sources.get(first..).unwrap_or_default();
            medium::check(medium, found)?;
        }
        Ok(())
    }

    /// Finds the sources of a medium in a directory of this machine.
    fn find_on_host(&mut self, medium: &Medium, directory: &Path, path: &str) -> Result<()> {
        let directory = fs::canonicalize(directory).during("open", directory.display())?;
        let fstype = mounted_type(&directory);
        self.media_types
            .extend(fstype.map(|fstype| (medium.number, fstype)));
        let found = media::find(medium, &directory, path)?;
        for (name, what) in found.unused {
            self.findings.at(name).warning(what);
        }
        // /init does the same: with keys, unless the initrd has a list.
        let has_keys = self.rootfs.find(signature::KEYS.as_bytes()).is_some();
        if let Some(path) = found.list
            && has_keys
            && self.signed.is_none()
        {
            let read = |path: String| fs::read(&path).during("read", &path);
            self.signed = Some(SignedList {
                signature: read(loader_files::signature_beside(&path))?,
                list: read(path)?,
            });
        }
        for mut source in found.sources {
            let host = PathBuf::from(source.path());
            if let Place::Medium(file) = &mut source.source.place {
                let inside = host.strip_prefix(&directory).unwrap_or(&host);
                file.path = format!("{}/{}", medium.mount_point(), inside.display());
            }
            self.push(source.source, SourceBytes::Host(host));
        }
        Ok(())
    }

    /// Adds a file of this machine that stands in for a device without a filesystem.
    fn push_device(&mut self, medium: &Medium, stand_in: &Path) -> Result<()> {
        let walk = initrd::walk_device(&Opened::open(stand_in)?);
        let place = Place::Medium(MediumFile {
            medium: medium.number,
            name: medium.to_string(),
            path: medium.to_string(),
            storage: Storage::Device,
        });
        self.push(Source { place, walk }, SourceBytes::Host(stand_in.into()));
        Ok(())
    }

    /// Finds the sources of a medium in the rootfs.
    fn find_in_rootfs(
        &mut self,
        image: &(dyn ReadAt + Sync),
        walk: &Walk,
        medium: &Medium,
        path: &str,
    ) -> Result<()> {
        let place = |name: String, path: &[u8]| {
            Place::Medium(MediumFile {
                medium: medium.number,
                name,
                path: format!("/{}", String::from_utf8_lossy(path)),
                storage: Storage::Initramfs,
            })
        };
        let Some((found, node)) = self.rootfs.find(path.as_bytes()) else {
            let object = format_args!("{WORD}={medium}");
            return Err(Error::new(
                "open",
                object,
                "there is no such file in the initramfs",
            ));
        };
        if node.mode & libc::S_IFMT == libc::S_IFREG {
            let body = node.body;
            return self.push_rootfs_file(image, walk, body, place(medium.to_string(), &found));
        }
        let mut files = Vec::new();
        for name in self.rootfs.directory(&found) {
            let shown = format!("{medium}/{}", shown(name));
            let path = [found.as_slice(), b"/", name].concat();
            let mut findings = self.findings.at(&shown);
            match self.rootfs.find(&path) {
                Some((path, node)) if node.mode & libc::S_IFMT == libc::S_IFREG => {
                    files.push((node.body, place(shown, &path)));
                }
                Some(_) => findings.warning(NOT_REGULAR),
                None => findings.warning(DANGLING),
            }
        }
        let mut files = files.into_iter();
        files.try_for_each(|(body, place)| self.push_rootfs_file(image, walk, body, place))
    }

    fn push_rootfs_file(
        &mut self,
        image: &(dyn ReadAt + Sync),
        walk: &Walk,
        body: Option<ArchiveExtent>,
        place: Place,
    ) -> Result<()> {
        let file = open(image, walk, body)?;
        let walk = initrd::walk_layer_file(&*file);
        self.push(Source { place, walk }, SourceBytes::Rootfs(body));
        Ok(())
    }

    fn find_layer_files(&mut self, image: &(dyn ReadAt + Sync), walk: &Walk) {
        let Some((directory, _)) = self.rootfs.find(b"layers") else {
            return;
        };
        for name in self.rootfs.directory(&directory) {
            let path = [directory.as_slice(), b"/", name].concat();
            let mut findings = self.findings.at(format_args!("layers/{}", shown(name)));
            let Some((_, node)) = self.rootfs.find(&path) else {
                findings.warning(DANGLING);
                continue;
            };
            if node.mode & libc::S_IFMT != libc::S_IFREG {
                findings.warning(NOT_REGULAR);
                continue;
            }
            if node.body.is_some_and(|extent| is_compressed(walk, extent)) {
                findings.warning(
                    "in a compressed archive: it is decompressed at every boot, and again when it is read",
                );
            }
            match open(image, walk, node.body) {
                Ok(file) => {
                    let walk = initrd::walk_layer_file(&*file);
                    let place = Place::File(String::from_utf8_lossy(name).into_owned());
                    let body = SourceBytes::Rootfs(node.body);
                    self.sources.push(Source { place, walk });
                    self.bodies.push(body);
                }
                Err(error) => findings.error(error.to_string()),
            }
        }
    }
}

/// The type of the filesystem that is mounted at a path without symbolic links; `None`: it is not a mount
/// point.
fn mounted_type(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // A space in a path is written as \040, and such a path is not found. The last mount covers the earlier
    // ones.
    let mut lines = mounts.lines().rev();
    lines.find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let fstype = filesystem.split(' ').next()?;
        (Path::new(point) == path).then(|| fstype.to_string())
    })
}

/// Finds the segments of an image, with a progress bar: compressed archives are read as a whole for that.
pub fn walk(image: &dyn ReadAt, rdinit: &[u8]) -> Walk {
    let progress = LongStep::part("read the initrd", image.size());
    initrd::walk(&progress.watch(image, 0), rdinit)
}

/// Unpacks the archives that the kernel unpacks. Findings are by the offset of the archive.
fn unpack(image: &(dyn ReadAt + Sync), walk: &Walk) -> (Rootfs, Vec<(u64, Findings)>) {
    let mut rootfs = Rootfs::default_initramfs();
    let mut all = Vec::new();
    let mut room = FINDINGS_MAX;
    for segment in &walk.segments {
        if let Kind::Cpio(cpio) = &segment.kind
            && cpio.by_kernel
        {
            let packed = PackedArchive {
                offset: segment.offset,
                length: segment.length,
                codec: cpio.codec,
                only_early: cpio.only_early,
            };
            let mut findings = Findings::with_max(room);
            let progress = LongStep::part("unpack the initramfs", segment.length);
            let image = progress.watch(image, segment.offset);
            if let Err(error) = rootfs.unpack(&image, packed, &mut findings) {
                findings.error(format_args!("{:#010x}", segment.offset), error.to_string());
            }
            room = room.saturating_sub(findings.list().len());
            all.push((segment.offset, findings));
        }
    }
    (rootfs, all)
}

/// The walk of the running `/init`, which looks for its own file in the archives by one name: the path that
/// `rdinit=` leads to, or `init` if that is a script, which starts it.
fn walk_for_init(
    image: &(dyn ReadAt + Sync),
    walk: Walk,
    rootfs: &Rootfs,
    options: &Options,
) -> Walk {
    let rdinit = options.rdinit.as_bytes();
    let Some((path, node)) = rootfs.find(rdinit) else {
        return walk;
    };
    let script = node
        .body
        .is_some_and(|extent| is_script(image, &walk, extent));
    let path = if script { b"init".to_vec() } else { path };
    if path != normalized(rdinit) {
        let by_path = self::walk(image, &path);
        if by_path.holds_init() {
            return by_path;
        }
    }
    walk
}

fn layer_offsets(source: &Source) -> Vec<u64> {
    plan::layer_segments(source)
        .map(|segment| segment.offset)
        .collect()
}

fn is_script(image: &(dyn ReadAt + Sync), walk: &Walk, extent: ArchiveExtent) -> bool {
    let mut head = [0; 2];
    open(image, walk, Some(extent)).is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok())
        && head == *b"#!"
}

fn is_compressed(walk: &Walk, extent: ArchiveExtent) -> bool {
    let mut segments = walk.segments.iter();
    let segment = segments.find(|segment| segment.offset == extent.segment);
    segment.is_some_and(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.codec.is_some()))
}

/// The bytes of a file in an archive; an empty file has no extent. A file in a compressed archive is written
/// to an unnamed temporary file.
fn open<'a>(
    image: &'a (dyn ReadAt + Sync),
    walk: &Walk,
    extent: Option<ArchiveExtent>,
) -> Result<Box<dyn ReadAt + Sync + 'a>> {
    let Some(extent) = extent else {
        return Ok(Box::new(Part::new(image, 0, 0)));
    };
    let mut segments = walk.segments.iter();
    let segment = segments.find(|segment| segment.offset == extent.segment);
    let Some((segment, Kind::Cpio(cpio))) = segment.map(|segment| (segment, &segment.kind)) else {
        let archive = format_args!("archive at {:#x}", extent.segment);
        return Err(Error::new(
            "read",
            archive,
            "the archive is no longer there",
        ));
    };
    let Some(codec) = cpio.codec else {
        let offset = segment.offset.saturating_add(extent.offset);
        return Ok(Box::new(Part::new(image, offset, extent.length)));
    };
    let archive = (segment.offset, segment.length);
    let part = (extent.offset, extent.length);
    Ok(Box::new(spool::decompress(image, archive, codec, part)?))
}
