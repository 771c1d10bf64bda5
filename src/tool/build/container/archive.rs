//! A layer as a tar archive for `mkfs.erofs --tar=f`: complete names in order, pax headers, whiteouts as devices.

use std::collections::HashMap;
use std::io::{self, Write};

use tar::{Builder, EntryType, Header};

use super::member::{DeviceNode, TarAttributes};
use super::stack::{LayerFiles, LayerStack, PathEntry, StackedKind};

/// The attribute of an opaque directory (Documentation/filesystems/overlayfs.rst).
pub const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");

/// Bytes of a name or target in the header.
const NAME: usize = 100;

/// Writes a layer. `latest` is the latest modification time of files.
pub fn write(
    stack: &LayerStack,
    layer: &LayerFiles,
    latest: u32,
    out: impl Write,
) -> io::Result<()> {
    let mut tar = Builder::new(out);
    let mut first = HashMap::new();
    for (path, place) in &layer.places {
        let (mut records, mut header) = (Vec::new(), Header::new_gnu());
        let name = match path.as_slice() {
            b"" => b".",
            path => path,
        };
        put_name(&mut header, name, &mut records);
        let PathEntry::Node(index) = place else {
            put_device(&mut header, WHITEOUT)?;
            put_attributes(&mut header, &TarAttributes::default(), latest);
            append(&mut tar, header, &records, io::empty())?;
            continue;
        };
        let Some(node) = stack.node(*index) else {
            continue;
        };
        put_attributes(&mut header, &node.attributes, latest);
        if !matches!(node.body, StackedKind::Directory)
            && let Some(target) = first.insert(*index, path)
        {
            first.insert(*index, target);
            header.set_entry_type(EntryType::Link);
            put_target(&mut header, target, &mut records);
            append(&mut tar, header, &records, io::empty())?;
            continue;
        }
        for (name, value) in &node.attributes.xattrs {
            records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
        match &node.body {
            StackedKind::Directory => {
                header.set_entry_type(EntryType::Directory);
                if layer.opaque.contains(path) {
                    let (name, value) = OPAQUE;
                    records.push(([b"SCHILY.xattr.", name].concat(), value.to_vec()));
                }
            }
            StackedKind::File(content) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(crate::bytes::ReadAt::size(content));
                append(&mut tar, header, &records, content.reader())?;
                continue;
            }
            StackedKind::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                put_target(&mut header, target, &mut records);
            }
            StackedKind::Device(device) => put_device(&mut header, *device)?,
            StackedKind::Fifo => header.set_entry_type(EntryType::Fifo),
        }
        append(&mut tar, header, &records, io::empty())?;
    }
    tar.into_inner()?.flush()
}

/// The device node that overlayfs reads as a whiteout.
pub const WHITEOUT: DeviceNode = DeviceNode {
    character: true,
    major: 0,
    minor: 0,
};

/// Keys and values of a pax header.
type PaxRecords = Vec<(Vec<u8>, Vec<u8>)>;

fn put_name(header: &mut Header, name: &[u8], records: &mut PaxRecords) {
    if name.len() > NAME {
        records.push((b"path".to_vec(), name.to_vec()));
    }
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name
            .iter_mut()
            .zip(name)
            .for_each(|(to, from)| *to = *from);
    }
}

fn put_target(header: &mut Header, target: &[u8], records: &mut PaxRecords) {
    if target.len() > NAME {
        records.push((b"linkpath".to_vec(), target.to_vec()));
    }
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.linkname
            .iter_mut()
            .zip(target)
            .for_each(|(to, from)| *to = *from);
    }
}

fn put_device(header: &mut Header, device: DeviceNode) -> io::Result<()> {
    header.set_entry_type(match device.character {
        true => EntryType::Char,
        false => EntryType::Block,
    });
    header.set_device_major(device.major)?;
    header.set_device_minor(device.minor)
}

fn put_attributes(header: &mut Header, attributes: &TarAttributes, latest: u32) {
    header.set_size(0);
    header.set_mode(attributes.mode);
    header.set_uid(attributes.uid.into());
    header.set_gid(attributes.gid.into());
    header.set_mtime(attributes.mtime.min(latest.into()));
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    mut header: Header,
    records: &PaxRecords,
    content: impl io::Read,
) -> io::Result<()> {
    if !records.is_empty() {
        let mut bytes = Vec::new();
        for (key, value) in records {
            bytes.extend(record(key, value));
        }
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        extended.set_size(bytes.len() as u64);
        extended.set_mode(0o644);
        extended.set_cksum();
        tar.append(&extended, bytes.as_slice())?;
    }
    header.set_cksum();
    tar.append(&header, content)
}

/// A record of a pax header, whose length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    // The space, the equals sign and the newline.
    let rest = key.len().saturating_add(value.len()).saturating_add(3);
    let mut length = rest.saturating_add(1);
    while length.to_string().len().saturating_add(rest) != length {
        length = length.saturating_add(1);
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}
