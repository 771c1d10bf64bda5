//! The identities of the layers and the root device, for the record of a persistent upper.
//!
//! An image is identified by its UUID and by a digest of the superblock and what follows it in the first 4
//! KiB: features, sizes, times and the first inodes. The digest distinguishes images whose builder gives all
//! of them one UUID. `layerinit build` derives the UUID from the content, and mkfs.erofs chooses it at
//! random, so that it changes with each image. All of an image without UUID (`mkfs.erofs -U clear`,
//! Buildroot's reproducible builds) is read: with fixed times, a change of a file that keeps its size changes
//! nothing in the superblock.
//!
//! An archive has no UUID, and has been read anyway: a digest of its bytes is its identity.

use std::fs::File;

use log::info;

use super::device::MountedDevice;
use crate::boot::source::OpenSource;
use crate::bytes::{Opened, Part, ReadAt, Reader};
use crate::error::{Context, Result};
use crate::format::checksum::digest;
use crate::format::erofs::SUPER_OFFSET;
use crate::plan::identity::StackMember;
use crate::plan::{Content, Layer, MountSpec};
use crate::text::shown;

/// The end of the bytes that the digest of an image with a UUID covers.
const HEAD_END: u64 = 4096;

/// The identity of the root device: its UUID, else a digest of its first 4 KiB.
pub fn of_device(spec: &MountSpec, device: &MountedDevice) -> Result<StackMember> {
    let id = match &device.uuid {
        Some(uuid) => format!("UUID={}", uuid.replace(' ', "_")),
        None => {
            let file = File::open(&device.node).during("open", &device.node)?;
            id_of_content(&Opened::new(file, HEAD_END), HEAD_END).during("read", &device.node)?
        }
    };
    Ok(StackMember {
        kind: device.fstype.clone(),
        id,
        name: format!("root={}", spec.spec),
    })
}

/// The identity of a layer.
pub fn of_layer(layer: &Layer, source: &OpenSource) -> Result<StackMember> {
    let bytes = Part::new(&source.file, layer.offset, layer.length);
    let (kind, id) = match &layer.content {
        Content::Erofs { superblock, .. } if superblock.uuid != [0; 16] => {
            let mut head = Reader::bounded(&bytes, SUPER_OFFSET, HEAD_END);
            let head = digest(&mut head).during("read", layer)?;
            // Half of the digest is enough to tell two images with one UUID apart.
            let id = format!("UUID={},DIGEST={:016x}", superblock.uuid(), head as u64);
            ("erofs", id)
        }
        Content::Erofs { .. } => {
            info!("{layer}: it has no UUID, so all of it is read to tell whether it has changed");
            (
                "erofs",
                id_of_content(&bytes, layer.length).during("read", layer)?,
            )
        }
        // The superblock has the time, the number of inodes, and where each table of the image is.
        Content::Squashfs { .. } => {
            let head = digest(&mut Reader::bounded(&bytes, 0, HEAD_END)).during("read", layer)?;
            let id = format!("DIGEST={head:032x},LENGTH={}", layer.length);
            ("squashfs", id)
        }
        Content::Cpio { .. } => (
            "cpio",
            id_of_content(&bytes, layer.length).during("read", layer)?,
        ),
    };
    Ok(StackMember {
        kind: kind.into(),
        id,
        name: shown(layer.name.as_bytes()),
    })
}

fn id_of_content(bytes: &dyn ReadAt, length: u64) -> std::io::Result<String> {
    let digest = digest(&mut Reader::bounded(bytes, 0, length))?;
    Ok(format!("DIGEST={digest:032x},LENGTH={length}"))
}
