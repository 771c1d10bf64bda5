//! The ramdisk of a FIT image, which is a flattened device tree.
//!
//! Source: the Devicetree Specification, chapter 5; doc/usage/fit/source_file_format.rst of U-Boot.

use std::io;

use crate::bytes::ReadAt;

const MAGIC: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();

/// The largest block of strings, in bytes.
const STRINGS_MAX: u64 = 1 << 20;

/// The most tokens that are read.
const TOKENS_MAX: usize = 1 << 16;

/// The depth of nodes that are entered: /images/NAME/hash-1.
const DEPTH_MAX: usize = 16;

/// A longer value is no name and no number.
const VALUE_MAX: u32 = 1024;

/// The ramdisk in a FIT image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FitRamdisk {
    /// The offset of its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its CRC32, if the image has one.
    pub crc: Option<u32>,
}

/// Whether a file with these first bytes is a flattened device tree.
pub fn is_fit(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// Finds the ramdisk of the default configuration, or without one the first ramdisk.
///
/// # Errors
/// The tree is damaged or cannot be read, or it has no ramdisk, or one that U-Boot has to decompress.
pub fn ramdisk(source: &dyn ReadAt) -> Result<FitRamdisk, String> {
    let tree = DeviceTree::read(source)?;
    let chosen = tree.default.as_ref().and_then(|name| {
        let mut all = tree.configurations.iter();
        let (_, ramdisk) = all.find(|(configuration, _)| configuration == name)?;
        ramdisk.clone()
    });
    let mut images = tree.images.iter();
    let image = match &chosen {
        Some(name) => images.find(|image| image.name == *name),
        None => images.find(|image| image.kind == "ramdisk"),
    };
    let image = image.ok_or("a FIT image without a ramdisk")?;
    if !matches!(image.compression.as_str(), "" | "none") {
        return Err(format!(
            "a FIT image that wants U-Boot to decompress its ramdisk ({})",
            image.compression
        ));
    }
    let outside = tree.total.saturating_add(3) & !3;
    let (offset, length) = match (image.data, image.position, image.offset, image.size) {
        (Some(data), ..) => data,
        (None, Some(position), _, Some(size)) => (position, size),
        (None, None, Some(offset), Some(size)) => (outside.saturating_add(offset), size),
        _ => return Err("a FIT image whose ramdisk has no data".into()),
    };
    Ok(FitRamdisk {
        offset,
        length,
        crc: image.crc,
    })
}

/// A node of /images.
#[derive(Debug, Default)]
struct FitImage {
    name: String,
    kind: String,
    compression: String,
    /// Offset in the file and length of the property `data`.
    data: Option<(u64, u64)>,
    position: Option<u64>,
    offset: Option<u64>,
    size: Option<u64>,
    crc: Option<u32>,
}

/// What of the tree matters here.
#[derive(Debug, Default)]
struct DeviceTree {
    /// The length of the tree in the file.
    total: u64,
    images: Vec<FitImage>,
    /// Names of configurations, and of the ramdisk of each.
    configurations: Vec<(String, Option<String>)>,
    /// The name of the default configuration.
    default: Option<String>,
}

/// Reads the structure block from an offset.
struct Structure<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    end: u64,
    strings: Vec<u8>,
}

impl Structure<'_> {
    fn number(&mut self) -> Option<u32> {
        let mut bytes = [0; 4];
        let end = self.at.checked_add(4).filter(|end| *end <= self.end)?;
        self.source.read_exact_at(&mut bytes, self.at).ok()?;
        self.at = end;
        Some(u32::from_be_bytes(bytes))
    }

    /// A text that a NUL ends, and padding.
    fn name(&mut self) -> Option<String> {
        let mut bytes = vec![0; VALUE_MAX as usize];
        let length = self.end.saturating_sub(self.at).min(bytes.len() as u64);
        bytes.truncate(usize::try_from(length).ok()?);
        self.source.read_exact_at(&mut bytes, self.at).ok()?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let name = String::from_utf8_lossy(bytes.get(..end)?).into_owned();
        self.skip((end as u64).saturating_add(1));
        Some(name)
    }

    /// Skips bytes, and those up to the next multiple of 4.
    fn skip(&mut self, length: u64) {
        let end = self.at.saturating_add(length);
        self.at = end.saturating_add(3) & !3;
    }

    /// The name of a property, in the block of strings.
    fn string(&self, offset: u32) -> Option<String> {
        let rest = self.strings.get(usize::try_from(offset).ok()?..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
    }
}

impl DeviceTree {
    fn read(source: &dyn ReadAt) -> Result<Self, String> {
        const BEGIN_NODE: u32 = 1;
        const END_NODE: u32 = 2;
        const PROP: u32 = 3;
        const NOP: u32 = 4;
        const END: u32 = 9;
        const DAMAGED: &str = "a FIT image with a damaged tree";
        let (mut structure, total) =
            header(source).map_err(|error| format!("{DAMAGED}: {error}"))?;
        let mut tree = Self {
            total,
            ..Self::default()
        };
        let mut path: Vec<String> = Vec::new();
        for _ in 0..TOKENS_MAX {
            match structure.number().ok_or(DAMAGED)? {
                BEGIN_NODE => {
                    path.push(structure.name().ok_or(DAMAGED)?);
                    if path.len() > DEPTH_MAX {
                        return Err(DAMAGED.into());
                    }
                    tree.begin(&path);
                }
                END_NODE => {
                    path.pop().ok_or(DAMAGED)?;
                }
                PROP => {
                    let length = structure.number().ok_or(DAMAGED)?;
                    let name = structure.number().ok_or(DAMAGED)?;
                    let name = structure.string(name).ok_or(DAMAGED)?;
                    let at = structure.at;
                    structure.skip(length.into());
                    if structure.at > structure.end {
                        return Err(DAMAGED.into());
                    }
                    let mut value = Vec::new();
                    if length <= VALUE_MAX {
                        value.resize(length as usize, 0);
                        let read = source.read_exact_at(&mut value, at);
                        read.map_err(|error| format!("{DAMAGED}: {error}"))?;
                    }
                    tree.property(&path, &name, (at, length.into()), &value);
                }
                NOP => {}
                END => return Ok(tree),
                _ => return Err(DAMAGED.into()),
            }
        }
        Err(DAMAGED.into())
    }

    fn begin(&mut self, path: &[String]) {
        match path {
            [_, parent, name] if parent == "images" => self.images.push(FitImage {
                name: name.clone(),
                ..FitImage::default()
            }),
            [_, parent, name] if parent == "configurations" => {
                self.configurations.push((name.clone(), None));
            }
            _ => {}
        }
    }

    /// Takes a property of the node at `path`. `place` is the offset and the length of its value, which is empty if it
    /// is too long.
    fn property(&mut self, path: &[String], name: &str, place: (u64, u64), value: &[u8]) {
        let text = || {
            let end = value.strip_suffix(b"\0").unwrap_or(value);
            String::from_utf8_lossy(end).into_owned()
        };
        let number = || value.try_into().ok().map(u32::from_be_bytes);
        match path {
            [_, parent] if parent == "configurations" && name == "default" => {
                self.default = Some(text())
            }
            [_, parent, _] if parent == "configurations" && name == "ramdisk" => {
                // Of several ramdisks in a list, the first.
                let first = text().split('\0').next().unwrap_or_default().to_string();
                if let Some((_, ramdisk)) = self.configurations.last_mut() {
                    *ramdisk = Some(first);
                }
            }
            [_, parent, _, rest @ ..] if parent == "images" => {
                let Some(image) = self.images.last_mut() else {
                    return;
                };
                match (rest, name) {
                    ([], "type") => image.kind = text(),
                    ([], "compression") => image.compression = text(),
                    ([], "data") => image.data = Some(place),
                    ([], "data-position") => image.position = number().map(u64::from),
                    ([], "data-offset") => image.offset = number().map(u64::from),
                    ([], "data-size") => image.size = number().map(u64::from),
                    // The value of a CRC32 is the only one of 4 bytes.
                    ([hash], "value") if hash.starts_with("hash") => {
                        image.crc = number().or(image.crc)
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// The structure block and the length of the tree, from the header.
fn header(source: &dyn ReadAt) -> io::Result<(Structure<'_>, u64)> {
    let mut header = [0; 40];
    source.read_exact_at(&mut header, 0)?;
    if !is_fit(&header) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no magic"));
    }
    let mut fields = header
        .chunks_exact(4)
        .map(|field| u64::from(field.try_into().map_or(0, u32::from_be_bytes)));
    // magic, totalsize, off_dt_struct, off_dt_strings, off_mem_rsvmap, version, last_comp_version, boot_cpuid_phys,
    // size_dt_strings, size_dt_struct
    let mut next = || fields.next().unwrap_or(0);
    let (_magic, total, at, strings_at) = (next(), next(), next(), next());
    let (_reserved, _version, _compatible, _cpu) = (next(), next(), next(), next());
    let (strings_size, structure_size) = (next(), next());
    let mut strings = vec![0; usize::try_from(strings_size.min(STRINGS_MAX)).unwrap_or(0)];
    source.read_exact_at(&mut strings, strings_at)?;
    let end = at.saturating_add(structure_size).min(source.size());
    let structure = Structure {
        source,
        at,
        end,
        strings,
    };
    Ok((structure, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[u8] = b"type\0compression\0data\0data-size\0data-offset\0value\0default\0ramdisk\0data-position\0";

    fn offset(name: &str) -> u32 {
        let name = [name.as_bytes(), b"\0"].concat();
        let found = NAMES.windows(name.len()).enumerate();
        let mut starts =
            found.filter(|(at, part)| *part == name && (*at == 0 || NAMES[at - 1] == 0));
        starts.next().unwrap().0 as u32
    }

    fn node(name: &str, inner: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = 1u32.to_be_bytes().to_vec();
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(inner.concat());
        bytes.extend(2u32.to_be_bytes());
        bytes
    }

    fn property(name: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [3, value.len() as u32, offset(name)]
            .map(u32::to_be_bytes)
            .concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn fit(root: &[Vec<u8>]) -> Vec<u8> {
        let mut structure = node("", root);
        structure.extend(9u32.to_be_bytes());
        let strings = 40 + structure.len() as u32;
        let total = strings + NAMES.len() as u32;
        let header = [
            0xd00d_feed,
            total,
            40,
            strings,
            0,
            17,
            16,
            0,
            NAMES.len() as u32,
            structure.len() as u32,
        ];
        let header: Vec<u8> = header.map(u32::to_be_bytes).concat();
        [header, structure, NAMES.to_vec()].concat()
    }

    fn image(name: &str, kind: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
        let all = [
            &[property("type", kind), property("compression", b"none\0")],
            more,
        ]
        .concat();
        node(name, &all)
    }

    /// Two ramdisks, the second that of the default configuration.
    fn with_two() -> Vec<u8> {
        let crc = node("hash-1", &[property("value", &[1, 2, 3, 4])]);
        let sha = node("hash-2", &[property("value", &[9; 32])]);
        let size = |size: u32| property("data-size", &size.to_be_bytes());
        let outside = property("data-offset", &4096u32.to_be_bytes());
        fit(&[
            node(
                "images",
                &[
                    image("kernel", b"kernel\0", &[property("data", &[0xEE; 2000])]),
                    image("first", b"ramdisk\0", &[property("data", b"070701")]),
                    image("second", b"ramdisk\0", &[size(6), outside, crc, sha]),
                ],
            ),
            node(
                "configurations",
                &[
                    property("default", b"conf-2\0"),
                    node("conf-1", &[property("ramdisk", b"first\0")]),
                    node("conf-2", &[property("ramdisk", b"second\0")]),
                ],
            ),
        ])
    }

    #[test]
    fn the_ramdisk_is_that_of_the_default_configuration() {
        let fit = with_two();
        assert!(is_fit(&fit));
        let expected = FitRamdisk {
            offset: (fit.len() as u64).next_multiple_of(4) + 4096,
            length: 6,
            crc: Some(0x0102_0304),
        };
        assert_eq!(ramdisk(&fit.as_slice()), Ok(expected));
    }

    #[test]
    fn data_may_be_in_the_tree_or_at_a_position() {
        let inside = fit(&[node(
            "images",
            &[image("r", b"ramdisk\0", &[property("data", b"070701")])],
        )]);
        let found = ramdisk(&inside.as_slice()).unwrap();
        let at = found.offset as usize;
        assert_eq!(
            (&inside[at..at + 6], found.length, found.crc),
            (&b"070701"[..], 6, None)
        );
        let numbers = [
            property("data-size", &7u32.to_be_bytes()),
            property("data-position", &0x2000u32.to_be_bytes()),
        ];
        let at = fit(&[node("images", &[image("r", b"ramdisk\0", &numbers)])]);
        assert_eq!(
            ramdisk(&at.as_slice()).map(|found| (found.offset, found.length)),
            Ok((0x2000, 7))
        );
    }

    #[test]
    fn what_is_no_ramdisk_for_the_kernel_is_refused() {
        let none = fit(&[node("images", &[image("k", b"kernel\0", &[])])]);
        assert_eq!(
            ramdisk(&none.as_slice()),
            Err("a FIT image without a ramdisk".into())
        );
        let empty = fit(&[node("images", &[image("r", b"ramdisk\0", &[])])]);
        let what = "a FIT image whose ramdisk has no data";
        assert_eq!(ramdisk(&empty.as_slice()), Err(what.into()));
        let properties = [
            property("type", b"ramdisk\0"),
            property("compression", b"gzip\0"),
        ];
        let packed = fit(&[node("images", &[node("r", &properties)])]);
        let what = "a FIT image that wants U-Boot to decompress its ramdisk (gzip)";
        assert_eq!(ramdisk(&packed.as_slice()), Err(what.into()));
    }

    #[test]
    fn a_tree_without_its_magic_is_none() {
        let mut bytes = with_two();
        assert!(ramdisk(&bytes.as_slice()).is_ok());
        bytes[0] = 0;
        let error = ramdisk(&bytes.as_slice()).unwrap_err();
        assert_eq!(error, "a FIT image with a damaged tree: no magic");
    }

    #[test]
    fn damaged_trees_are_errors_and_end() {
        let good = with_two();
        let damaged = |fit: &[u8]| {
            ramdisk(&fit).is_err_and(|what| what.starts_with("a FIT image with a damaged tree"))
        };
        for length in 0..good.len() {
            assert!(damaged(&good[..length]), "{length}");
        }
        for at in 4..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 0xff;
            let _ = ramdisk(&flipped.as_slice());
        }
        let deep = (0..20).fold(Vec::new(), |inner, _| node("x", &[inner]));
        assert!(damaged(&fit(&[deep])));
        let mut endless = good;
        endless[40..].fill(0);
        endless[36..40].fill(0xff);
        assert!(damaged(&endless));
    }
}
