//! The files of an image: of an OCI layout, or in an archive.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::digest::Hasher;
use super::file_slice::FileSlice;
use super::member::{self, BYTES_MAX, TarMemberKind};
use super::spool::SparseSpool;
use crate::bytes::{Opened, ReadAt, fill};
use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;
use crate::tool::progress::LongStep;

/// The most bytes of a manifest, index or configuration. Registries allow 4 MiB.
const JSON_MAX: u64 = 8 << 20;

/// The files of an image, by name.
pub enum Store {
    /// A directory.
    Directory(PathBuf),
    /// The files in a tar archive, and symbolic links with their targets.
    Archive(BTreeMap<Vec<u8>, TarMemberKind>),
}

impl Store {
    /// Opens the archive at `path`, compressed or not.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn archive(path: &Path, spool: &mut SparseSpool) -> Result<Self> {
        let object = path.display().to_string();
        let opened = Opened::open(path)?;
        let length = opened.size();
        let mut content = FileSlice::new(opened.file, length);
        let mut first = [0; 8];
        let n = fill(&mut content.reader(), &mut first).during("read", &object)?;
        if let Some(codec) = Codec::detect(first.get(..n).unwrap_or_default()) {
            (content, _) = spool.decompress(&content, codec, BYTES_MAX, &object)?;
        }
        let mut files = BTreeMap::new();
        member::read(&content, &object, spool, |member| {
            let name = member.name;
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            files.insert(name.to_vec(), member.kind);
            Ok(())
        })?;
        Ok(Self::Archive(files))
    }

    /// The file of this name; `None` if there is none.
    pub fn find(&self, name: &str) -> Result<Option<FileSlice>> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(name);
                match path.try_exists().during("open", path.display())? {
                    true => Opened::open(&path).map(|opened| {
                        let length = opened.size();
                        Some(FileSlice::new(opened.file, length))
                    }),
                    false => Ok(None),
                }
            }
            Self::Archive(files) => Ok(match files.get(name.as_bytes()) {
                Some(TarMemberKind::File(content)) => Some(content.clone()),
                // Before version 25, docker save writes the same layer of two images once.
                Some(TarMemberKind::Symlink(target)) => {
                    let target = target.strip_prefix(b"../").unwrap_or(target);
                    match files.get(target) {
                        Some(TarMemberKind::File(content)) => Some(content.clone()),
                        _ => None,
                    }
                }
                _ => None,
            }),
        }
    }

    /// The blob with this digest, which has `size` bytes. The digest is verified.
    ///
    /// # Errors
    /// There is no such file, or its size or digest is wrong.
    pub fn blob(&self, digest: &str, size: u64, object: &str) -> Result<FileSlice> {
        let refuse = |what: String| Error::new("read", object, format!("{digest}: {what}"));
        let Some(hasher) = Hasher::of(digest) else {
            return Err(refuse("not a sha256 or sha512 digest".into()));
        };
        let name = format!("blobs/{}", digest.replacen(':', "/", 1));
        let Some(content) = self.find(&name)? else {
            return Err(refuse(format!("the image has no file {name}")));
        };
        if content.size() != size {
            let what = format!(
                "the file has {} bytes, the manifest says {size}",
                content.size()
            );
            return Err(refuse(what));
        }
        let found =
            digest_of(&content, hasher).during("read", format_args!("{object}: {digest}"))?;
        match found == digest {
            true => Ok(content),
            false => Err(refuse(format!(
                "the digest does not match: its bytes have {found}"
            ))),
        }
    }
}

/// The digest of some bytes.
pub fn digest_of(content: &FileSlice, mut hasher: Hasher) -> io::Result<String> {
    let progress = LongStep::part("hash the archive", content.size());
    let reader = progress.count(content.reader());
    io::copy(
        &mut io::BufReader::with_capacity(1 << 18, reader),
        &mut hasher,
    )?;
    Ok(hasher.finish())
}

/// The bytes of a file of JSON.
pub fn json(content: &FileSlice, object: &str) -> Result<Vec<u8>> {
    if content.size() > JSON_MAX {
        return Err(Error::new(
            "read",
            object,
            "a file of JSON larger than 8 MiB",
        ));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut content.reader(), &mut bytes).during("read", object)?;
    Ok(bytes)
}
