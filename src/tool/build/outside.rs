//! Layers outside of the image: files for a disk, which `rd.layers.from=` names.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::inside::file_name;
use super::layer::PreparedLayer;
use super::output::ImageWriter;
use super::spec::{Body, FileContent, SpecEntry};
use super::temp_files::TempFiles;
use crate::bytes::{Opened, ReadAt};
use crate::error::{Context, Error, Result};
use crate::format::verity::LENGTH;
use crate::initrd::{self, Kind};
use crate::text::shown;
use crate::tool::hash_tree::{HashTree, fs_verity_digest};
use crate::verify::digest::Digest;
use crate::verify::list::Expected;
use crate::verify::tree::BLOCK;

/// How the kernel verifies the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// It does not: `/init` copies them into memory.
    None,
    /// By dm-verity, with a hash tree after each image.
    Verity,
    /// By fs-verity, which is enabled where the files are stored.
    FsVerity,
}

/// Where the layers go.
#[derive(Clone, Debug)]
pub struct Outside {
    /// The directory.
    pub directory: PathBuf,
    /// How the kernel verifies them.
    pub protection: Protection,
}

/// How the kernel verifies one file.
#[derive(Clone, Debug)]
pub enum FileProtection {
    /// It does not.
    None,
    /// By this hash tree after the image.
    Verity(HashTree),
    /// By this digest.
    FsVerity(Digest),
}

impl FileProtection {
    /// The entry of the list for the file; `None`: the digest of its bytes.
    pub fn expected(&self) -> Option<Expected> {
        match self {
            Self::None => None,
            Self::Verity(tree) => Some(Expected::Verity(tree.root)),
            Self::FsVerity(digest) => Some(Expected::FsVerity(*digest)),
        }
    }
}

impl Outside {
    /// Hashes the layers for the protection.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn protect(&self, layers: &[PreparedLayer]) -> Result<Vec<FileProtection>> {
        let protect = |layer: &PreparedLayer| {
            let path = || layer.path.display();
            let file = layer.file.try_clone().during("open", path())?;
            let file = Opened::new(file, layer.length);
            let protection = match self.protection {
                Protection::None => Ok(FileProtection::None),
                Protection::FsVerity => fs_verity_digest(&file).map(FileProtection::FsVerity),
                Protection::Verity => tree(&file)
                    .map(|tree| tree.map_or(FileProtection::None, FileProtection::Verity)),
            };
            protection.during("read", path())
        };
        layers.iter().map(protect).collect()
    }

    /// Writes the layers, each with its hash tree.
    ///
    /// # Errors
    /// The directory cannot be created, or a file not be written.
    pub fn write(
        &self,
        layers: &mut [PreparedLayer],
        protections: &[FileProtection],
    ) -> Result<Vec<String>> {
        fs::create_dir_all(&self.directory).during("create", self.directory.display())?;
        let count = layers.len();
        let mut lines = Vec::new();
        for ((index, layer), protection) in layers.iter_mut().enumerate().zip(protections) {
            let path = self.directory.join(file_name(index, count, &layer.name));
            let tree = match protection {
                FileProtection::Verity(tree) => Some(tree),
                FileProtection::None | FileProtection::FsVerity(_) => None,
            };
            lines.push(write_layer(layer, tree, &path)?);
        }
        Ok(lines)
    }

    /// Writes the list, and its signature if there is one, beside the layers. Both are regular files of
    /// `entries`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_list(&self, entries: &[SpecEntry]) -> Result<()> {
        fs::create_dir_all(&self.directory).during("create", self.directory.display())?;
        for entry in entries {
            let Body::File(FileContent::Bytes(bytes), _) = &entry.body else {
                continue;
            };
            let name = entry.name.rsplit(|byte| *byte == b'/').next();
            let path = self.directory.join(shown(name.unwrap_or_default()));
            let mut output = ImageWriter::new(
                Some(&path),
                TempFiles::new(Some(&path))?,
                bytes.len() as u64,
            )?;
            output.write_all(bytes).during("write", path.display())?;
            output.finish()?;
        }
        Ok(())
    }
}

fn write_layer(layer: &mut PreparedLayer, tree: Option<&HashTree>, path: &Path) -> Result<String> {
    let read = || layer.path.display().to_string();
    let size = tree.map_or(0, |tree| tree.bytes.len() as u64);
    let temp = TempFiles::new(Some(path))?;
    let expected = layer.length.saturating_add(size);
    let mut output = ImageWriter::new(Some(path), temp, expected)?;
    layer.file.rewind().during("read", read())?;
    let copied = io::copy(&mut (&layer.file).take(layer.length), &mut output);
    if copied.during("write", path.display())? != layer.length {
        return Err(Error::new("write", path.display(), "the layer ends early"));
    }
    let mut verified = "";
    if let Some(tree) = tree {
        let block = u64::from(BLOCK);
        output.align(block)?;
        let written = output.write_all(&superblock(tree));
        written.during("write", path.display())?;
        output.align(block)?;
        let written = output.write_all(&tree.bytes);
        written.during("write", path.display())?;
        verified = ", with a hash tree";
    }
    let length = output.length();
    let name = shown(path.as_os_str().as_encoded_bytes());
    Ok(match output.finish()? {
        Some(what) => format!("warning: {name}: {what}"),
        None => format!("{name}: {length} bytes{verified}"),
    })
}

/// The hash tree of a file that is a single image. `None`: it is anything else, which `/init` reads itself.
fn tree(file: &dyn ReadAt) -> io::Result<Option<HashTree>> {
    let walk = initrd::walk_layer_file(file);
    match walk.segments.as_slice() {
        [image] if matches!(image.kind, Kind::Erofs(_) | Kind::Squashfs(_)) => {
            HashTree::of(file, image.length, &[]).map(Some)
        }
        _ => Ok(None),
    }
}

/// The superblock of a tree, as `veritysetup format` writes it. The UUID is derived from the root hash, so
/// that the same image has the same UUID.
fn superblock(tree: &HashTree) -> [u8; LENGTH] {
    let Digest(root) = tree.root;
    let mut uuid = root.first_chunk().copied().unwrap_or([0; 16]);
    // Version 8 and the variant of RFC 9562: a UUID of its maker's own.
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    let mut algorithm = [0; 32];
    for (to, from) in algorithm.iter_mut().zip(b"sha256") {
        *to = *from;
    }
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.extend(b"verity\0\0");
    // The version of the superblock, and the type of the hashes.
    bytes.extend([1u32.to_le_bytes(), 1u32.to_le_bytes()].concat());
    bytes.extend(uuid);
    bytes.extend(algorithm);
    bytes.extend([BLOCK.to_le_bytes(), BLOCK.to_le_bytes()].concat());
    bytes.extend(tree.data_blocks.to_le_bytes());
    // No salt.
    bytes.resize(LENGTH, 0);
    bytes.first_chunk().copied().unwrap_or([0; LENGTH])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::verity::Format;

    #[test]
    fn a_superblock_is_read_back() {
        let tree = HashTree::of(&&[1u8; 5000][..], 5000, &[]).unwrap();
        let format = Format::parse(&superblock(&tree)).unwrap();
        assert_eq!(
            (format.data_blocks, &*format.algorithm, format.salt.len()),
            (2, "sha256", 0)
        );
        assert_eq!(format.uuid.as_bytes().get(14), Some(&b'8'));
    }
}
