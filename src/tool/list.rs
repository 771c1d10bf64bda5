//! `layerinit list`: the segments and files of an image, as text or as JSON.

use std::io::Write;

use super::image::boot::walk;
use super::image::erofs_tree;
use super::image::files::{self, File};
use super::image::input::Initrd;
use super::image::squashfs::{self, SquashfsImage};
use crate::bytes::{Part, ReadAt};
use crate::error::{Context, Error, Result};
use crate::format::erofs::{Checksum, Image, Superblock};
use crate::initrd::{Cpio, Kind, Segment, Walk};
use crate::json::{Array, Object};

/// What to list, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListOptions {
    /// List the files in archives and images, too.
    pub files: bool,
    /// Write one JSON object instead of text.
    pub json: bool,
}

/// Lists an image. Returns false if a part cannot be listed.
///
/// # Errors
/// A part of the image is not recognised. Text lists the parts before it first; the JSON object has the error
/// instead.
pub fn list(image: &Initrd, options: ListOptions, out: &mut dyn Write) -> Result<bool> {
    let walk = walk(image, b"/init");
    let good = match options.json {
        true => json(image, &walk, options.files, out)?,
        false => text(image, &walk, options.files, out)?,
    };
    match walk.trouble {
        // The JSON object has the error.
        Some(_) if options.json => Ok(false),
        Some(trouble) => Err(trouble),
        None => Ok(good),
    }
}

fn text(image: &Initrd, walk: &Walk, files: bool, out: &mut dyn Write) -> Result<bool> {
    let mut good = true;
    let mut line = |text: String| writeln!(out, "{text}").during("write", "the listing");
    if !image.pieces().is_empty() {
        line(format!("{:<10} {:>11} from", "offset", "length"))?;
        for piece in image.pieces() {
            line(format!(
                "{:#010x} {:>11} {}",
                piece.offset, piece.length, piece.name
            ))?;
        }
        line(String::new())?;
    }
    line(format!("{:<10} {:>11} what", "offset", "length"))?;
    for segment in &walk.segments {
        line(segment.to_string())?;
        if let Kind::Erofs(superblock) = &segment.kind {
            line(format!("{:>23}{}", "", superblock_details(superblock)))?;
        }
        if files {
            let listed = each_file(image, segment, |file| line(format!("    {file}")));
            if let Err(error) = listed {
                line(format!("    error: {error}"))?;
                good = false;
            }
        }
    }
    Ok(good)
}

/// The parts of a superblock that the line of its segment does not show.
fn superblock_details(superblock: &Superblock) -> String {
    let mut text = format!("uuid {}, {} inodes", superblock.uuid(), superblock.inos);
    for (what, names) in [
        ("features", superblock.features()),
        ("compression", superblock.algorithms()),
    ] {
        if !names.is_empty() {
            text.push_str(&format!(", {what} {}", names.join(" ")));
        }
    }
    if superblock.extra_devices != 0 {
        text.push_str(&format!(
            ", needs {} more devices",
            superblock.extra_devices
        ));
    }
    text
}

fn each_file(
    image: &(dyn ReadAt + Sync),
    segment: &Segment,
    mut take: impl FnMut(File) -> Result<()>,
) -> Result<()> {
    match &segment.kind {
        Kind::Cpio(Cpio { codec, .. }) => files::cpio(image, segment, *codec, take),
        Kind::Erofs(superblock) => {
            let alone = Part::new(image, segment.offset, segment.length);
            let image = Image::new(&alone, superblock)?;
            erofs_tree::walk(&image, |file, _| take(file))
        }
        Kind::Squashfs(superblock) => {
            let alone = Part::new(image, segment.offset, segment.length);
            squashfs::each_file(&SquashfsImage::new(&alone, superblock)?, take)
        }
        Kind::Padding | Kind::Stop | Kind::Bootconfig { .. } => Ok(()),
    }
}

fn json(image: &Initrd, walk: &Walk, files: bool, out: &mut dyn Write) -> Result<bool> {
    let mut good = true;
    let mut text = String::new();
    {
        let mut object = Object::new(&mut text);
        object
            .text("image", &image.name)
            .number("size", image.size());
        if !image.pieces().is_empty() {
            let mut pieces = object.array("pieces");
            for piece in image.pieces() {
                pieces
                    .object()
                    .text("name", &piece.name)
                    .number("offset", piece.offset)
                    .number("length", piece.length);
            }
        }
        match &walk.trouble {
            Some(trouble) => object.text("trouble", &trouble.to_string()),
            None => object.null("trouble"),
        };
        let mut segments = object.array("segments");
        for segment in &walk.segments {
            let mut object = segments.object();
            object
                .number("offset", segment.offset)
                .number("length", segment.length);
            fields(&segment.kind, &mut object);
            if files
                && matches!(
                    segment.kind,
                    Kind::Cpio(_) | Kind::Erofs(_) | Kind::Squashfs(_)
                )
            {
                let listed = json_files(image, segment, object.array("files"));
                if let Err(error) = listed {
                    object.text("files_trouble", &error.to_string());
                    good = false;
                }
            }
        }
    }
    writeln!(out, "{text}").during("write", "the listing")?;
    Ok(good)
}

fn fields(kind: &Kind, object: &mut Object) {
    match kind {
        Kind::Padding => {
            object.text("kind", "padding");
        }
        Kind::Stop => {
            object.text("kind", "stop");
        }
        Kind::Bootconfig { intact } => {
            object.text("kind", "bootconfig").boolean("intact", *intact);
        }
        Kind::Cpio(cpio) => {
            object.text("kind", "cpio");
            match cpio.codec {
                Some(codec) => object.text("codec", &codec.to_string()),
                None => object.null("codec"),
            };
            object
                .number("members", cpio.members)
                .number("unpacked", cpio.unpacked.bytes(4096))
                .boolean("by_kernel", cpio.by_kernel)
                .boolean("holds_init", cpio.holds_init)
                .boolean("early", cpio.only_early);
            if let Some(at) = cpio.bad_sum {
                object.number("bad_sum", at);
            }
            if let Some(at) = cpio.bad_name {
                object.number("bad_name", at);
            }
        }
        Kind::Squashfs(superblock) => {
            object
                .text("kind", "squashfs")
                .number("block_size", u64::from(superblock.block_size))
                .number("inodes", superblock.inodes);
            match superblock.decompressor() {
                Some((name, _)) => object.text("algorithm", name),
                None => object.null("algorithm"),
            };
        }
        Kind::Erofs(superblock) => {
            object
                .text("kind", "erofs")
                .number("block_size", superblock.block_size())
                .number("blocks", superblock.blocks)
                .number("inodes", superblock.inos)
                .text("uuid", &superblock.uuid())
                .text("label", &superblock.label())
                .text("checksum", checksum(superblock.checksum))
                .number("extra_devices", superblock.extra_devices);
            texts(object.array("features"), &superblock.features());
            texts(object.array("algorithms"), &superblock.algorithms());
        }
    }
}

fn texts(mut array: Array, texts: &[String]) {
    for text in texts {
        array.text(text);
    }
}

fn checksum(checksum: Checksum) -> &'static str {
    match checksum {
        Checksum::None => "none",
        Checksum::Good => "good",
        Checksum::Bad { .. } => "bad",
        Checksum::Truncated => "truncated",
    }
}

fn json_files(image: &(dyn ReadAt + Sync), segment: &Segment, mut array: Array) -> Result<()> {
    /// One object holds everything: this bounds archives that decompress to endless names.
    const FILES_MAX: u32 = 1 << 21;
    let mut count = 0u32;
    each_file(image, segment, |file| {
        count = count.saturating_add(1);
        if count > FILES_MAX {
            let object = format_args!("segment at {:#x}", segment.offset);
            return Err(Error::new(
                "list",
                object,
                format!("more than {FILES_MAX} files; use --files without --json"),
            ));
        }
        file.json(&mut array.object());
        Ok(())
    })
}
