//! An image as the kernel and `/init` see it: the rootfs, the sources of layers, the plan.

use super::rootfs::{Extent, Node, Rootfs};
use super::spool;
use super::unpack::Packed;
use crate::bytes::{Part, ReadAt};
use crate::error::{Error, Result};
use crate::format::cpio::normalized;
use crate::initrd::{self, Kind, Walk};
use crate::plan::cmdline::Options;
use crate::plan::{self, Place, Plan, Source};
use crate::text::shown;
use crate::tool::finding::{FINDINGS_MAX, Findings};
use crate::verify::content::SignedList;
use crate::verify::{self, signature};

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
    /// What the kernel drops or changes when it unpacks the archives, except those that are layers: `/init`
    /// unpacks these again. And which files of /layers are not used.
    pub findings: Findings,
    /// The list that is signed, from the first archive behind the loader, if the loader has keys.
    pub signed: Option<SignedList>,
    /// Where the bytes of each source are; `None`: the image itself, or an empty file.
    extents: Vec<Option<Extent>>,
}

impl Boot {
    /// Unpacks `image` as the kernel does, and finds the sources of layers.
    pub fn new(image: &(dyn ReadAt + Sync), cmdline: &str) -> Self {
        let options = Options::parse(cmdline);
        let walk = initrd::walk(image, options.rdinit.as_bytes());
        let (rootfs, findings) = unpack(image, &walk);
        let walk = walk_for_init(image, walk, &rootfs, &options);
        let mut boot = Self {
            rootfs,
            sources: Vec::new(),
            options,
            findings: Findings::default(),
            signed: None,
            extents: Vec::new(),
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
        boot.find_layer_files(image, &initrd.walk);
        boot.sources.push(initrd);
        boot
    }

    /// The plan that `/init` makes.
    pub fn plan(&self) -> Result<Plan> {
        plan::plan(&self.sources, &self.options)
    }

    /// Opens all sources, in their order.
    pub fn open<'a>(
        &self,
        image: &'a (dyn ReadAt + Sync),
    ) -> Result<Vec<Box<dyn ReadAt + Sync + 'a>>> {
        let nothing = Walk::default();
        let walk = self.image().unwrap_or(&nothing);
        let files = self.sources.iter().enumerate().map(|(index, source)| {
            let extent = self.extents.get(index).copied().flatten();
            match &source.place {
                Place::File(_) => open(image, walk, extent),
                _ => Ok(Box::new(Part::new(image, 0, image.size())) as Box<dyn ReadAt + Sync>),
            }
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

    fn find_layer_files(&mut self, image: &(dyn ReadAt + Sync), walk: &Walk) {
        let Some((directory, _)) = self.rootfs.find(b"layers") else {
            return;
        };
        for name in self.rootfs.directory(&directory) {
            let path = [directory.as_slice(), b"/", name].concat();
            let mut findings = self.findings.at(format_args!("layers/{}", shown(name)));
            let Some((_, node)) = self.rootfs.find(&path) else {
                findings.warning("a dangling symlink; not used");
                continue;
            };
            if node.mode & libc::S_IFMT != libc::S_IFREG {
                findings.warning("not a regular file; not used");
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
                    self.extents.push(node.body);
                    self.sources.push(Source {
                        place: Place::File(String::from_utf8_lossy(name).into_owned()),
                        walk,
                    });
                }
                Err(error) => findings.error(error.to_string()),
            }
        }
    }
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
            let packed = Packed {
                offset: segment.offset,
                length: segment.length,
                codec: cpio.codec,
                only_early: cpio.only_early,
            };
            let mut findings = Findings::with_max(room);
            if let Err(error) = rootfs.unpack(image, packed, &mut findings) {
                findings.error(format_args!("{:#010x}", segment.offset), error.to_string());
            }
            room = room.saturating_sub(findings.list().len());
            all.push((segment.offset, findings));
        }
    }
    (rootfs, all)
}

/// The walk that the running `/init` makes: it looks for its own file in the archives, and knows this by one
/// name. That is the path that `rdinit=` leads to, or `init` if a script is there, which starts it.
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
        let by_path = initrd::walk(image, &path);
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

fn is_script(image: &(dyn ReadAt + Sync), walk: &Walk, extent: Extent) -> bool {
    let mut head = [0; 2];
    open(image, walk, Some(extent)).is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok())
        && head == *b"#!"
}

fn is_compressed(walk: &Walk, extent: Extent) -> bool {
    let mut segments = walk.segments.iter();
    let segment = segments.find(|segment| segment.offset == extent.segment);
    segment.is_some_and(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.codec.is_some()))
}

/// The bytes of a file in an archive; an empty file has no extent. Those in a compressed archive are written
/// to an unnamed temporary file.
fn open<'a>(
    image: &'a (dyn ReadAt + Sync),
    walk: &Walk,
    extent: Option<Extent>,
) -> Result<Box<dyn ReadAt + Sync + 'a>> {
    let Some(extent) = extent else {
        return Ok(Box::new(Part::new(image, 0, 0)));
    };
    let mut segments = walk.segments.iter();
    let segment = segments.find(|segment| segment.offset == extent.segment);
    let Some((segment, Kind::Cpio(cpio))) = segment.map(|segment| (segment, &segment.kind)) else {
        let archive = format_args!("archive at {:#x}", extent.segment);
        return Err(Error::new("read", archive, "the archive has gone"));
    };
    let Some(codec) = cpio.codec else {
        let offset = segment.offset.saturating_add(extent.offset);
        return Ok(Box::new(Part::new(image, offset, extent.length)));
    };
    let archive = (segment.offset, segment.length);
    let part = (extent.offset, extent.length);
    Ok(Box::new(spool::decompress(image, archive, codec, part)?))
}
