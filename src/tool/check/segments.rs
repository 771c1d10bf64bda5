//! The segments of the image and of the files in /layers, and their content.

use super::context::Check;
use crate::format::erofs::{Checksum, Superblock};
use crate::initrd::{Cpio, Kind, Segment};
use crate::plan::{Place, Source};
use crate::text::shown;
use crate::tool::finding::{Findings, FindingsAt, Severity};
use crate::tool::image::machine;

/// Reports files that the kernel drops or changes, and files of /layers that are not used.
pub fn dropped_files(check: &Check, findings: &mut Findings) {
    findings.extend(&check.boot.findings);
}

/// Reports layers that cannot be read, and files of layers that `/init` drops or changes.
pub fn layers(check: &Check, findings: &mut Findings) {
    findings.extend(check.layer_findings);
}

/// Reports U-Boot ramdisks with a wrong CRC.
pub fn u_boot(check: &Check, findings: &mut Findings) {
    match check.image.bad_u_boot_crcs() {
        Ok(lines) => lines
            .into_iter()
            .for_each(|what| findings.error("image", what)),
        Err(error) => findings.error("image", error.to_string()),
    }
}

/// Reports segments that are broken, not aligned, or that a kernel with this configuration refuses.
pub fn segments(check: &Check, findings: &mut Findings) {
    let page = check.config.and_then(machine::page_size);
    for source in &check.boot.sources {
        for segment in &source.walk.segments {
            let mut findings = findings.at(place(source, segment.offset));
            match &segment.kind {
                Kind::Erofs(superblock) => {
                    erofs(superblock, &mut findings);
                    blocks(superblock, page, &mut findings);
                }
                Kind::Bootconfig { intact: false } => findings
                    .error("the bootconfig's size or checksum is wrong: the kernel ignores it"),
                Kind::Cpio(cpio) => not_unpacked(source, segment, cpio, &mut findings),
                Kind::Squashfs(superblock) => {
                    if superblock.decompressor().is_none() {
                        let what = format!(
                            "SquashFS image with compression {}, which no kernel has: it refuses the image",
                            superblock.compression
                        );
                        findings.error(what);
                    }
                }
                Kind::Padding | Kind::Stop | Kind::Bootconfig { .. } => {}
            }
        }
        alignment(source, findings);
        trouble(source, findings);
    }
}

/// The place of a segment of a source, for a message.
fn place(source: &Source, offset: u64) -> String {
    match &source.place {
        Place::File(name) => format!("layers/{} {offset:#x}", shown(name.as_bytes())),
        Place::Medium(file) => format!("{} {offset:#x}", file.name),
        Place::Initrd | Place::InitrdImage => format!("{offset:#010x}"),
    }
}

/// Why the walk over a source ended early, or found nothing in a file of /layers.
fn trouble(source: &Source, findings: &mut Findings) {
    let file = !source.place.is_initrd();
    let place = match file {
        true => place(source, 0),
        false => "image".into(),
    };
    match &source.walk.trouble {
        Some(trouble) => findings.error(place, trouble.to_string()),
        None if file && !source.walk.segments.iter().any(is_layer) => {
            findings.error(
                place,
                "neither an EROFS or SquashFS image nor a cpio archive",
            );
        }
        None => {}
    }
}

fn is_layer(segment: &Segment) -> bool {
    match &segment.kind {
        Kind::Erofs(_) | Kind::Squashfs(_) => true,
        Kind::Cpio(cpio) => cpio.members > 0,
        Kind::Padding | Kind::Stop | Kind::Bootconfig { .. } => false,
    }
}

/// Why the kernel does not unpack an archive. It is only a warning if the archive is a layer, because `/init`
/// unpacks it.
fn not_unpacked(source: &Source, segment: &Segment, cpio: &Cpio, findings: &mut FindingsAt) {
    // The kernel does not unpack a file of /layers. A wrong sum is reported with its member.
    let file = !source.place.is_initrd();
    let stopped = segment.stopped();
    let stopped = stopped.filter(|_| !file && cpio.bad_sum.is_none());
    let (severity, refused) = match cpio.only_layer_files {
        true => (Severity::Error, cpio.refused),
        false => (Severity::Warning, None),
    };
    let refused =
        refused.map(|why| format!("the kernel does not unpack these files of /layers: {why}"));
    if let Some(what) = stopped.or(refused) {
        findings.report(severity, what);
    }
}

/// Reports EROFS images at an offset that is not a multiple of their block size: one warning for all images
/// of a source, because they have one cause.
fn alignment(source: &Source, findings: &mut Findings) {
    let segments = source.walk.segments.iter();
    let mut unaligned = segments.filter_map(|segment| match &segment.kind {
        Kind::Erofs(sb) if !segment.offset.is_multiple_of(sb.block_size()) => {
            Some((segment.offset, sb.block_size()))
        }
        _ => None,
    });
    let Some((offset, block)) = unaligned.next() else {
        return;
    };
    let others = match unaligned.count() {
        0 => String::new(),
        n => format!(" (and {n} more like it)"),
    };
    let what = format!(
        "EROFS image not aligned to its blocks of {block} bytes: they cross page boundaries, and it cannot be \
         mounted as a file{others}"
    );
    findings.warning(place(source, offset), what);
}

/// Reports an EROFS image that is broken, or that no kernel mounts.
fn erofs(superblock: &Superblock, findings: &mut FindingsAt) {
    match superblock.checksum {
        Checksum::Bad { .. } => findings.error(format!(
            "EROFS superblock checksum {}: the kernel refuses the image",
            superblock.checksum
        )),
        Checksum::Truncated => findings.error("EROFS image without its first block"),
        Checksum::Good | Checksum::None => {}
    }
    let unknown = superblock.unknown_incompat();
    if unknown != 0 {
        findings.error(format!(
            "EROFS features {unknown:#x} that no kernel up to 7.2 knows: it refuses the image"
        ));
    }
    if superblock.extra_devices != 0 {
        let devices = super::count(superblock.extra_devices.into(), "more device");
        findings.error(format!(
            "EROFS image that needs {devices}: only images of one piece can be mounted"
        ));
    }
}

/// Reports blocks that are larger than the kernel's pages (erofs_read_superblock in fs/erofs/super.c).
fn blocks(superblock: &Superblock, page: Option<u64>, findings: &mut FindingsAt) {
    let block = superblock.block_size();
    match page {
        Some(page) if block > page => findings.error(format!(
            "EROFS blocks of {block} bytes, and this kernel's pages have {page}: it refuses the image"
        )),
        None if block > machine::PAGE_SIZE => findings.warning(format!(
            "EROFS blocks of {block} bytes: the kernel refuses the image where pages are smaller"
        )),
        _ => {}
    }
}
