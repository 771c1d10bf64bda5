//! From archives and images of the command line to layers that can be appended.

use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::cache::LayerCache;
use super::digest::{Hasher, hex};
use super::file_slice::FileSlice;
use super::image::{self, LayerBlob, short_digest, stem};
use super::layer_builder::Rules;
use super::member::{self, BYTES_MAX};
use super::reference::Reference;
use super::spool::SparseSpool;
use super::stack::{LayerFiles, LayerStack};
use super::store::digest_of;
use super::{erofs, image::ContainerImage};
use crate::bytes::{Opened, ReadAt, Reader, fill};
use crate::error::{Context, Error, Result};
use crate::format::compress::{Codec, Decoder};
use crate::text::shown;
use crate::tool::build::label;
use crate::tool::build::layer::{LayerInput, PreparedLayer};
use crate::tool::build::mkfs::{self, ErofsImage, ErofsOptions};
use crate::tool::build::temp_files::TempFiles;
use crate::tool::build::tree::Timestamps;
use crate::tool::tmpfile;

/// How layers are made of archives and images.
#[derive(Clone, Debug, Default)]
pub struct ContainerOptions {
    /// The platform of images, such as `linux/arm64`; `None`: this machine's.
    pub platform: Option<String>,
    /// Whether each image becomes one layer.
    pub flatten: bool,
    /// The most bytes of the cache; `None`: no cache.
    pub cache: Option<u64>,
    /// Whether absolute names in archives are relative to the root directory.
    pub absolute_names: bool,
}

/// An archive that is a layer.
struct ArchiveLayer {
    /// The name of the archive in messages.
    object: String,
    content: FileSlice,
    codec: Option<Codec>,
    /// The digest of the file, or of a layer of an image without compression.
    digest: String,
    /// Whether it is the latter digest, which is verified when the archive is read.
    is_diff_id: bool,
    rules: Rules,
}

/// Makes layers of the archives and images of one build.
pub struct ArchiveLayers<'a> {
    options: &'a ContainerOptions,
    erofs: &'a ErofsOptions,
    temp: &'a TempFiles,
    spool: SparseSpool<'a>,
    cache: Option<LayerCache>,
    /// The files of the archives so far, except those of `pending`.
    stack: LayerStack,
    /// Archives whose images were in the cache: they are read only if a later layer needs their files.
    pending: Vec<ArchiveLayer>,
    /// Identifies all archives so far: a layer depends on those below.
    chain: String,
    /// The number of images made, for the names of temporary files.
    made: usize,
    /// The last container image.
    pub image: Option<ContainerImage>,
}

impl<'a> ArchiveLayers<'a> {
    /// No layers so far.
    pub fn new(
        options: &'a ContainerOptions,
        erofs: &'a ErofsOptions,
        temp: &'a TempFiles,
    ) -> Self {
        Self {
            options,
            erofs,
            temp,
            spool: SparseSpool::new(temp),
            cache: options.cache.and_then(LayerCache::new),
            stack: LayerStack::new(),
            pending: Vec::new(),
            chain: String::new(),
            made: 0,
            image: None,
        }
    }

    /// The layer of a file, if that is a tar archive.
    ///
    /// # Errors
    /// The archive is damaged, hostile or too large, or mkfs.erofs fails.
    pub fn archive(&mut self, input: &LayerInput) -> Result<Option<PreparedLayer>> {
        let object = shown(input.path.as_os_str().as_encoded_bytes());
        let opened = Opened::open(&input.path)?;
        let length = opened.size();
        let content = FileSlice::new(opened.file, length);
        let Some(codec) = tar_codec(&content).during("read", &object)? else {
            return Ok(None);
        };
        let hasher = Hasher::Sha256(Sha256::new());
        let digest = digest_of(&content, hasher).during("read", &object)?;
        let name = stem(&input.path);
        let label = input.label.clone().or_else(|| label::of_directory(&name));
        let rules = Rules {
            absolute_names: self.options.absolute_names,
            complete: false,
        };
        let archive = ArchiveLayer {
            object,
            content,
            codec,
            digest,
            is_diff_id: false,
            rules,
        };
        let mut layer = self.layer(archive, label.as_deref(), &input.path)?;
        layer.name = name.file_name().unwrap_or_default().into();
        layer.name.push(".erofs");
        Ok(Some(layer))
    }

    /// Adds the layers of an image to `layers`.
    ///
    /// # Errors
    /// As for [`Self::archive`]; there is no such image; a digest does not match.
    pub fn image(
        &mut self,
        input: &LayerInput,
        reference: &Reference,
        layers: &mut Vec<PreparedLayer>,
    ) -> Result<()> {
        let object = shown(input.path.as_os_str().as_encoded_bytes());
        let mut image = image::open(
            reference,
            &object,
            self.options.platform.as_deref(),
            &mut self.spool,
        )?;
        // An image does not depend on the layers below.
        self.stack = LayerStack::new();
        self.pending.clear();
        self.chain.clear();
        let count = image.layers.len();
        let mut archives = Vec::new();
        for (index, layer) in std::mem::take(&mut image.layers).into_iter().enumerate() {
            let number = index.saturating_add(1);
            let name = format!(
                "{object}, layer {number} of {count} ({})",
                short_digest(&layer.diff_id)
            );
            archives.push(self.layer_archive(layer, name)?);
        }
        self.image = Some(image);
        if self.options.flatten {
            let name = stem(&reference.path);
            let label = input.label.clone().or_else(|| label::of_directory(&name));
            let mut layer = self.flattened(archives, label.as_deref(), &input.path)?;
            layer.name = name.file_name().unwrap_or_default().into();
            layer.name.push(".erofs");
            layer.add_to(layers);
            return Ok(());
        }
        if input.label.is_some() && count != 1 {
            let what = format!("it has {count} layers: --label needs --flatten");
            return Err(Error::new("read", object, what));
        }
        for archive in archives {
            let short = short_digest(&archive.digest).to_string();
            let short = match label::parse(&short) {
                Ok(label) => label,
                // A label of digits would mean the position of a layer.
                Err(_) => format!("l{short}"),
            };
            let label = input.label.as_ref().unwrap_or(&short);
            let mut layer = self.layer(archive, Some(label), &input.path)?;
            layer.name = format!("{short}.erofs").into();
            layer.add_to(layers);
        }
        Ok(())
    }

    fn layer_archive(&self, layer: LayerBlob, object: String) -> Result<ArchiveLayer> {
        let mut first = [0; 8];
        let n = fill(&mut layer.content.reader(), &mut first).during("read", &object)?;
        Ok(ArchiveLayer {
            codec: Codec::detect(first.get(..n).unwrap_or_default()),
            object,
            content: layer.content,
            digest: layer.diff_id,
            is_diff_id: true,
            rules: Rules {
                absolute_names: self.options.absolute_names,
                complete: true,
            },
        })
    }

    /// The layer of one archive over those so far.
    fn layer(
        &mut self,
        archive: ArchiveLayer,
        label: Option<&str>,
        path: &Path,
    ) -> Result<PreparedLayer> {
        let object = archive.object.clone();
        self.link(&archive);
        let key = self.key("layer", label)?;
        if let Some(image) = self.cached(&key) {
            self.pending.push(archive);
            return Ok(prepared(image, path, format!("{object}: from the cache")));
        }
        for archive in std::mem::take(&mut self.pending) {
            self.apply(archive)?;
        }
        let layer = self.apply(archive)?;
        let (image, note) = self.make(&layer, label, &object, &key)?;
        Ok(prepared(image, path, note))
    }

    /// One layer of all archives of an image.
    fn flattened(
        &mut self,
        archives: Vec<ArchiveLayer>,
        label: Option<&str>,
        path: &Path,
    ) -> Result<PreparedLayer> {
        let object = shown(path.as_os_str().as_encoded_bytes());
        archives.iter().for_each(|archive| self.link(archive));
        let key = self.key("flat", label)?;
        if let Some(image) = self.cached(&key) {
            self.pending.extend(archives);
            return Ok(prepared(image, path, format!("{object}: from the cache")));
        }
        for archive in archives {
            self.apply(archive)?;
        }
        let layer = self.stack.flatten();
        let (image, note) = self.make(&layer, label, &object, &key)?;
        Ok(prepared(image, path, note))
    }

    /// Makes the image of a layer, and puts it into the cache.
    fn make(
        &mut self,
        layer: &LayerFiles,
        label: Option<&str>,
        object: &str,
        key: &str,
    ) -> Result<(ErofsImage, String)> {
        self.made = self.made.saturating_add(1);
        // The names differ from those of layers from directories.
        let number = self.made.saturating_add(1 << 20);
        let latest = self.latest();
        let mut image = erofs::make(
            &self.stack,
            layer,
            label,
            latest,
            Path::new(object),
            number,
            self.erofs,
            self.temp,
        )?;
        let mut note = format!(
            "{object}: {} files, {} bytes",
            layer.places.len(),
            image.length
        );
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(key, &mut image.file)
        {
            note = format!("{note}; warning: not kept in the cache: {error}");
        }
        Ok((image, note))
    }

    /// Reads an archive into the stack.
    fn apply(&mut self, archive: ArchiveLayer) -> Result<LayerFiles> {
        let object = archive.object.as_str();
        let (plain, found) = match archive.codec {
            Some(codec) => {
                let (plain, hash) =
                    self.spool
                        .decompress(&archive.content, codec, BYTES_MAX, object)?;
                (plain, format!("sha256:{}", hex(&hash)))
            }
            None if archive.is_diff_id => {
                let hasher = Hasher::Sha256(Sha256::new());
                let found = digest_of(&archive.content, hasher).during("read", object)?;
                (archive.content, found)
            }
            None => (archive.content, String::new()),
        };
        if archive.is_diff_id && found != archive.digest {
            let what = format!(
                "the digest of the uncompressed archive does not match: its bytes have {found}"
            );
            return Err(Error::new("read", object, what));
        }
        let mut builder = self.stack.begin(object, archive.rules);
        member::read(&plain, object, &mut self.spool, |member| {
            builder.add(member)
        })?;
        Ok(builder.finish())
    }

    /// The latest modification time of files.
    fn latest(&self) -> u32 {
        match (self.erofs.times, self.erofs.mtime) {
            (_, Some(mtime)) => mtime,
            (Timestamps::Preserved(latest), None) => latest,
            (Timestamps::Fixed(_), None) => u32::MAX,
        }
    }

    /// Adds an archive to the chain.
    fn link(&mut self, archive: &ArchiveLayer) {
        let Rules {
            absolute_names,
            complete,
        } = archive.rules;
        let text = format!(
            "{} {} {absolute_names} {complete}",
            self.chain, archive.digest
        );
        self.chain = hex(&Sha256::digest(text));
    }

    /// The key in the cache of an image of all archives so far.
    fn key(&self, kind: &str, label: Option<&str>) -> Result<String> {
        /// Increase this when the content of images changes.
        const VERSION: u32 = 1;
        let ErofsOptions {
            compression, args, ..
        } = self.erofs;
        let program = mkfs::features(self.temp)?.text;
        let text = format!(
            "{VERSION} {kind} {label:?} {} {compression:?} {} {args:?} {program}",
            self.chain,
            self.latest()
        );
        Ok(hex(&Sha256::digest(text)))
    }

    fn cached(&self, key: &str) -> Option<ErofsImage> {
        let (file, length) = self.cache.as_ref()?.get(key)?;
        Some(ErofsImage {
            location: tmpfile::proc_path(&file),
            file,
            length,
        })
    }
}

fn prepared(image: ErofsImage, path: &Path, note: String) -> PreparedLayer {
    PreparedLayer {
        file: image.file,
        length: image.length,
        last_image: Some((0, image.length)),
        starts_with_image: true,
        path: path.into(),
        location: image.location,
        name: std::ffi::OsString::new(),
        warning: None,
        note: Some(note),
    }
}

/// The compression of a file that is a tar archive: `None` if it is not a tar archive, `Some(None)` if it is
/// not compressed.
fn tar_codec(content: &FileSlice) -> io::Result<Option<Option<Codec>>> {
    let mut first = [0; 512];
    let n = fill(&mut content.reader(), &mut first)?;
    let first = first.get(..n).unwrap_or_default();
    if member::is_tar(first) {
        return Ok(Some(None));
    }
    let Some(codec) = Codec::detect(first).filter(|codec| codec.supported()) else {
        return Ok(None);
    };
    let mut decoder = Decoder::new(codec, Reader::new(content, 0))?;
    let mut plain = [0; 512];
    // Damaged: the walk over archives reports it.
    let n = fill(&mut decoder, &mut plain).unwrap_or(0);
    let is_tar = member::is_tar(plain.get(..n).unwrap_or_default());
    Ok(is_tar.then_some(Some(codec)))
}
