//! What `/init` would find if a kernel booted an image: the rootfs, the sources of layers, the plan.

use std::fs::{self, File};
use std::io::{self, Read};

use super::rootfs::{Bytes, Node, Rootfs};
use super::unpack::{Report, Severity};
use crate::bytes::{Opened, Part, ReadAt, Skip};
use crate::error::{Context, Error, Result};
use crate::format::cpio::normalized;
use crate::initrd::{self, Kind, Walk};
use crate::plan::cmdline::Options;
use crate::plan::{self, Place, Plan, Source};
use crate::text::shown;
use crate::tool::tmpfile;

/// More findings in one image than anybody reads.
pub const FINDINGS_MAX: usize = 1000;

/// An image as a kernel would boot it.
#[derive(Debug)]
pub struct Boot {
    /// What the kernel's unpacker leaves in the rootfs.
    pub rootfs: Rootfs,
    /// The sources of layers as `/init` would find them: files of /layers, then the image, which
    /// plays /sys/firmware/initrd.
    pub sources: Vec<Source>,
    /// The command line.
    pub options: Options,
    /// Where the bytes of each source are; `None`: the image itself, or nothing.
    bytes: Vec<Option<Bytes>>,
}

impl Boot {
    /// Boots `image` as far as bytes go. What the kernel does not unpack as it stands in the archive is
    /// reported, unless that archive is a layer, for then `/init` unpacks it.
    pub fn new(image: &dyn ReadAt, cmdline: &str, report: Report) -> Result<Self> {
        let options = Options::parse(cmdline);
        let mut walk = initrd::walk(image, options.rdinit.as_bytes());
        let mut rootfs = Rootfs::of_the_kernel();
        let mut findings = Vec::new();
        for segment in &walk.segments {
            if let Kind::Cpio(cpio) = &segment.kind
                && cpio.by_kernel
            {
                let mut note = |severity, place, what| {
                    if findings.len() < FINDINGS_MAX {
                        findings.push((segment.offset, severity, place, what));
                    }
                };
                if let Err(error) = rootfs.unpack(image, segment, cpio, &mut note) {
                    let place = format!("{:#010x}", segment.offset);
                    note(Severity::Error, place, error.to_string());
                }
            }
        }
        // The running /init knows its file by what the kernel followed rdinit= to, or, where that is a
        // script, by what this starts: there is one name for it.
        if let Some((path, node)) = rootfs.find(options.rdinit.as_bytes()) {
            let script = node
                .body
                .is_some_and(|bytes| is_script(image, &walk, bytes));
            let path = if script { b"init".to_vec() } else { path };
            if path != normalized(options.rdinit.as_bytes()) {
                let again = initrd::walk(image, &path);
                if again.holds_init() {
                    walk = again;
                }
            }
        }
        let mut boot = Self {
            rootfs,
            sources: Vec::new(),
            options,
            bytes: Vec::new(),
        };
        let found = Source {
            place: Place::Initrd,
            walk,
        };
        let layers = layer_offsets(&found);
        for (archive, severity, place, what) in findings {
            if !layers.contains(&archive) {
                report(severity, place, what);
            }
        }
        boot.layer_files(image, &found.walk, report);
        boot.sources.push(found);
        Ok(boot)
    }

    /// The plan that `/init` would make.
    pub fn plan(&self) -> Result<Plan> {
        plan::plan(&self.sources, &self.options)
    }

    /// Opens all sources, in their order.
    pub fn open<'a>(&self, image: &'a dyn ReadAt) -> Result<Vec<Box<dyn ReadAt + 'a>>> {
        let nothing = Walk::default();
        let walk = self.image().unwrap_or(&nothing);
        let files = self.sources.iter().enumerate().map(|(index, source)| {
            let bytes = self.bytes.get(index).copied().flatten();
            match &source.place {
                Place::File(_) => open(image, walk, bytes),
                _ => Ok(Box::new(Part::new(image, 0, image.size())) as Box<dyn ReadAt>),
            }
        });
        files.collect()
    }

    /// The bytes of a regular file of the rootfs.
    pub fn content<'a>(&self, image: &'a dyn ReadAt, node: &Node) -> Result<Box<dyn ReadAt + 'a>> {
        let nothing = Walk::default();
        open(image, self.image().unwrap_or(&nothing), node.body)
    }

    /// The walk over the image itself.
    pub fn image(&self) -> Option<&Walk> {
        self.sources.last().map(|found| &found.walk)
    }

    /// Where the layers lie that stand in the image itself, in bytes from its start.
    pub fn image_layers(&self) -> Vec<u64> {
        self.sources.last().map(layer_offsets).unwrap_or_default()
    }

    fn layer_files(&mut self, image: &dyn ReadAt, walk: &Walk, report: Report) {
        let Some((directory, _)) = self.rootfs.find(b"layers") else {
            return;
        };
        for name in self.rootfs.directory(&directory) {
            let path = [directory.as_slice(), b"/", name].concat();
            let text = shown(name);
            let Some((_, node)) = self.rootfs.find(&path) else {
                report(
                    Severity::Warning,
                    format!("layers/{text}"),
                    "a link that leads nowhere; not used".into(),
                );
                continue;
            };
            if node.mode & libc::S_IFMT != libc::S_IFREG {
                report(
                    Severity::Warning,
                    format!("layers/{text}"),
                    "not a file; not used".into(),
                );
                continue;
            }
            if node.body.is_some_and(|bytes| is_compressed(walk, bytes)) {
                let what = "in a compressed archive: it is decompressed at every boot, and again \
                            when it is read";
                report(Severity::Warning, format!("layers/{text}"), what.into());
            }
            match open(image, walk, node.body) {
                Ok(file) => {
                    let walk = initrd::walk_layer_file(&*file);
                    self.bytes.push(node.body);
                    self.sources.push(Source {
                        place: Place::File(String::from_utf8_lossy(name).into_owned()),
                        walk,
                    });
                }
                Err(error) => report(Severity::Error, format!("layers/{text}"), error.to_string()),
            }
        }
    }
}

fn layer_offsets(found: &Source) -> Vec<u64> {
    plan::layer_segments(found)
        .map(|segment| segment.offset)
        .collect()
}

fn is_script(image: &dyn ReadAt, walk: &Walk, bytes: Bytes) -> bool {
    let mut head = [0; 2];
    open(image, walk, Some(bytes)).is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok())
        && head == *b"#!"
}

fn is_compressed(walk: &Walk, bytes: Bytes) -> bool {
    let mut segments = walk.segments.iter();
    let segment = segments.find(|segment| segment.offset == bytes.segment);
    segment.is_some_and(|segment| matches!(&segment.kind, Kind::Cpio(cpio) if cpio.codec.is_some()))
}

/// The bytes of a file in an archive, of which an empty one has none. Those in a compressed archive go to a
/// nameless temporary file.
fn open<'a>(
    image: &'a dyn ReadAt,
    walk: &Walk,
    bytes: Option<Bytes>,
) -> Result<Box<dyn ReadAt + 'a>> {
    let Some(bytes) = bytes else {
        return Ok(Box::new(Part::new(image, 0, 0)));
    };
    let context = || format!("archive at {:#x}", bytes.segment);
    let segment = walk
        .segments
        .iter()
        .find(|segment| segment.offset == bytes.segment);
    let Some((segment, Kind::Cpio(cpio))) = segment.map(|segment| (segment, &segment.kind)) else {
        return Err(Error::new("read", context(), "it is not there any more"));
    };
    if cpio.codec.is_none() {
        let offset = segment.offset.saturating_add(bytes.offset);
        return Ok(Box::new(Part::new(image, offset, bytes.length)));
    }
    let archive = initrd::open_archive(image, segment.offset, segment.length, cpio.codec)
        .during("read", context())?;
    let mut input = archive.into_input();
    input.skip(bytes.offset).during("read", context())?;
    let mut file = temporary()?;
    let copied = io::copy(&mut input.take(bytes.length), &mut file);
    let size = copied.during("write", "a temporary file")?;
    Ok(Box::new(Opened::new(file, size)))
}

/// A file without a name.
fn temporary() -> Result<File> {
    let directory = std::env::temp_dir();
    if let Ok(file) = tmpfile::create(&directory) {
        return Ok(file);
    }
    let path = directory.join(format!("layerinit-{}", std::process::id()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.during("create", path.display())?;
    fs::remove_file(&path).during("remove", path.display())?;
    Ok(file)
}
