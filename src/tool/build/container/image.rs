//! Container images: which manifest, which layers, which configuration.
//!
//! Source: OCI image specification 1.1; docker save writes the manifest.json of Docker's image specification 1.2.

use std::path::Path;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde_json::Value;

use super::digest::Hasher;
use super::file_slice::FileSlice;
use super::platform::OciPlatform;
use super::reference::{Reference, Transport};
use super::spool::SparseSpool;
use super::store::{Store, digest_of, json};
use crate::error::{Context, Error, Result};

/// The annotation with the tag of a manifest.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation with the full name, which containerd and buildx add.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// The maximum depth of nested indices.
const DEPTH_MAX: usize = 4;

/// An image: its layers, lowest first, and its configuration.
#[derive(Debug)]
pub struct ContainerImage {
    /// The layers.
    pub layers: Vec<LayerBlob>,
    /// The configuration.
    pub config: ImageConfiguration,
}

/// A layer of an image.
#[derive(Debug)]
pub struct LayerBlob {
    /// The archive, compressed or not.
    pub content: FileSlice,
    /// The digest of the archive without compression, which is not verified yet.
    pub diff_id: String,
}

/// Opens an image. `object` is its name on the command line, `platform` such as `linux/arm64`.
///
/// # Errors
/// There is no such image, or none for the platform; a digest does not match.
pub fn open(
    reference: &Reference,
    object: &str,
    platform: Option<&str>,
    spool: &mut SparseSpool,
) -> Result<ContainerImage> {
    let path = &reference.path;
    let tag = reference.tag.as_deref();
    let store = match reference.transport {
        Transport::Oci if !path.is_dir() => {
            return Err(Error::new("open", object, "there is no such directory"));
        }
        Transport::Oci => Store::Directory(path.clone()),
        Transport::OciArchive | Transport::DockerArchive => Store::archive(path, spool)?,
    };
    let source = ImageSource {
        store,
        object,
        platform,
    };
    match reference.transport {
        Transport::DockerArchive => source.docker(tag),
        _ => source.oci(tag),
    }
}

struct ImageSource<'a> {
    store: Store,
    object: &'a str,
    platform: Option<&'a str>,
}

impl ImageSource<'_> {
    fn refuse(&self, what: impl Into<String>) -> Error {
        Error::new("read", self.object, what)
    }

    /// An image of an OCI layout.
    fn oci(&self, tag: Option<&str>) -> Result<ContainerImage> {
        let Some(index) = self.store.find("index.json")? else {
            return Err(self.refuse("not an OCI layout: it has no index.json"));
        };
        let index = self.index(&json(&index, self.object)?)?;
        let manifest = self.manifest(&self.tagged(&index, tag)?, 0)?;
        let descriptor = manifest.config();
        if !matches!(descriptor.media_type(), MediaType::ImageConfig)
            && descriptor.media_type().as_ref() != "application/vnd.docker.container.image.v1+json"
        {
            let what = format!(
                "not a container image but an artifact ({})",
                descriptor.media_type()
            );
            return Err(self.refuse(what));
        }
        let config = self.config(&self.blob(descriptor)?)?;
        let diff_ids = config.rootfs().diff_ids();
        self.check_counts(manifest.layers().len(), diff_ids.len())?;
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            layers.push(LayerBlob {
                content: self.blob(layer)?,
                diff_id: diff_id.clone(),
            });
        }
        Ok(ContainerImage { layers, config })
    }

    /// The manifests of an index with this tag, or all of them without a tag.
    fn tagged(&self, index: &ImageIndex, tag: Option<&str>) -> Result<Vec<Descriptor>> {
        let name =
            |manifest: &Descriptor, key: &str| manifest.annotations().as_ref()?.get(key).cloned();
        let Some(tag) = tag else {
            // Several manifests are one image if only their platforms differ.
            let mut names: Vec<_> = index
                .manifests()
                .iter()
                .filter_map(|manifest| name(manifest, REF_NAME))
                .collect();
            names.dedup();
            return match names.len() {
                0 | 1 => Ok(index.manifests().clone()),
                _ => Err(self.refuse(format!(
                    "it has several images; name one: {}",
                    names.join(", ")
                ))),
            };
        };
        let is_meant = |manifest: &&Descriptor| {
            name(manifest, REF_NAME).as_deref() == Some(tag)
                || name(manifest, IMAGE_NAME).as_deref() == Some(tag)
        };
        let found: Vec<_> = index.manifests().iter().filter(is_meant).cloned().collect();
        if found.is_empty() {
            let names = index
                .manifests()
                .iter()
                .filter_map(|manifest| name(manifest, REF_NAME));
            let names = names.collect::<Vec<_>>().join(", ");
            let what = match names.as_str() {
                "" => {
                    format!("it has no image {tag}; its only image has no name: leave out :{tag}")
                }
                names => format!("it has no image {tag}, but {names}"),
            };
            return Err(self.refuse(what));
        }
        Ok(found)
    }

    /// The manifest for the platform among these, which may be indices.
    fn manifest(&self, candidates: &[Descriptor], depth: usize) -> Result<ImageManifest> {
        let candidates: Vec<_> = candidates
            .iter()
            .filter(|manifest| !is_attestation(manifest))
            .collect();
        let chosen = match candidates.as_slice() {
            [] => return Err(self.refuse("it has no image")),
            // A platform from the command line always has to match.
            [only] if only.platform().is_none() || self.platform.is_none() && depth == 0 => *only,
            several => self.choose(several)?,
        };
        let bytes = json(&self.blob(chosen)?, self.object)?;
        // For images of Docker, the media type in the file decides.
        let value: Value = self.parsed(serde_json::from_slice(&bytes))?;
        if value.get("manifests").is_some() {
            if depth >= DEPTH_MAX {
                return Err(self.refuse("its indices are nested too deeply"));
            }
            let index = self.index(&bytes)?;
            return self.manifest(index.manifests(), depth.saturating_add(1));
        }
        let manifest: ImageManifest = self.parsed(ImageManifest::from_reader(bytes.as_slice()))?;
        if chosen.platform().is_none()
            && let Some(wanted) = self.platform
        {
            self.check_platform(&self.config(&self.blob(manifest.config())?)?, wanted)?;
        }
        Ok(manifest)
    }

    fn choose<'d>(&self, manifests: &[&'d Descriptor]) -> Result<&'d Descriptor> {
        let wanted = self
            .platform
            .map_or_else(OciPlatform::of_this_machine, OciPlatform::parse);
        let platforms = manifests
            .iter()
            .map(|manifest| (*manifest, platform(manifest)));
        let platforms: Vec<_> = platforms.collect();
        let found = platforms.iter().find(|(_, platform)| {
            platform
                .as_ref()
                .is_some_and(|platform| wanted.is_met_by(platform))
        });
        if let Some((manifest, _)) = found {
            return Ok(manifest);
        }
        let names = platforms
            .iter()
            .filter_map(|(_, platform)| platform.as_ref().map(OciPlatform::to_string));
        let names = names.collect::<Vec<_>>().join(", ");
        let error = self.refuse(format!("it has no image for {wanted}, but for {names}"));
        Err(error.hint("choose one with --platform"))
    }

    /// An image of an archive of `docker save`.
    fn docker(&self, tag: Option<&str>) -> Result<ContainerImage> {
        let Some(manifest) = self.store.find("manifest.json")? else {
            return Err(self.refuse("not written by docker save: it has no manifest.json"));
        };
        let manifest = json(&manifest, self.object)?;
        let images: Vec<Value> = self.parsed(serde_json::from_slice(&manifest))?;
        let strings = |image: &Value, key: &str| -> Vec<String> {
            let list = image
                .get(key)
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            list.iter()
                .filter_map(|text| text.as_str().map(String::from))
                .collect()
        };
        let names = || {
            let names = images.iter().flat_map(|image| strings(image, "RepoTags"));
            names.collect::<Vec<_>>().join(", ")
        };
        let image = match (tag, images.as_slice()) {
            (None, [only]) => only,
            (None, []) => return Err(self.refuse("it has no image")),
            (None, _) => {
                return Err(self.refuse(format!("it has several images; name one: {}", names())));
            }
            (Some(tag), _) => {
                let latest = format!("{tag}:latest");
                let mut found = images.iter().filter(|image| {
                    strings(image, "RepoTags")
                        .iter()
                        .any(|name| name == tag || *name == latest)
                });
                found
                    .next()
                    .ok_or_else(|| self.refuse(format!("it has no image {tag}, but {}", names())))?
            }
        };
        let name = image
            .get("Config")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let file = self.file(name)?;
        // The name of the file is its digest: 0123...json, or blobs/sha256/0123...
        let stem = name
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .trim_end_matches(".json");
        self.verify(&file, &format!("sha256:{stem}"), name)?;
        let config = self.config(&file)?;
        let (files, diff_ids) = (strings(image, "Layers"), config.rootfs().diff_ids());
        self.check_counts(files.len(), diff_ids.len())?;
        let mut layers = Vec::new();
        for (file, diff_id) in files.iter().zip(diff_ids) {
            let content = self.file(file)?;
            layers.push(LayerBlob {
                content,
                diff_id: diff_id.clone(),
            });
        }
        if let Some(wanted) = self.platform {
            self.check_platform(&config, wanted)?;
        }
        Ok(ContainerImage { layers, config })
    }

    fn file(&self, name: &str) -> Result<FileSlice> {
        let found = self.store.find(name)?;
        found.ok_or_else(|| self.refuse(format!("the image has no file {name}")))
    }

    /// Verifies the digest of a file, if `digest` is one.
    fn verify(&self, content: &FileSlice, digest: &str, name: &str) -> Result<()> {
        let Some(hasher) = Hasher::of(digest) else {
            return Ok(());
        };
        let found = digest_of(content, hasher).during("read", self.object)?;
        match found == digest {
            true => Ok(()),
            false => Err(self.refuse(format!(
                "{name}: the digest does not match: its bytes have {found}"
            ))),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<FileSlice> {
        let digest = descriptor.digest().to_string();
        self.store.blob(&digest, descriptor.size(), self.object)
    }

    fn index(&self, bytes: &[u8]) -> Result<ImageIndex> {
        self.parsed(ImageIndex::from_reader(bytes))
    }

    /// Refuses an image whose manifest and configuration have different numbers of layers.
    fn check_counts(&self, layers: usize, ids: usize) -> Result<()> {
        match layers == ids {
            true => Ok(()),
            false => Err(self.refuse(format!(
                "the manifest has {layers} layers, the configuration {ids}"
            ))),
        }
    }

    /// Refuses an image for another platform than `wanted`.
    fn check_platform(&self, config: &ImageConfiguration, wanted: &str) -> Result<()> {
        let found = OciPlatform::new(
            config.os().to_string(),
            config.architecture().to_string(),
            config.variant().clone(),
        );
        match OciPlatform::parse(wanted).is_met_by(&found) {
            true => Ok(()),
            false => Err(self.refuse(format!("it has no image for {wanted}, only for {found}"))),
        }
    }

    fn config(&self, content: &FileSlice) -> Result<ImageConfiguration> {
        let bytes = json(content, self.object)?;
        self.parsed(ImageConfiguration::from_reader(bytes.as_slice()))
    }

    fn parsed<T, E: std::fmt::Display>(&self, parsed: std::result::Result<T, E>) -> Result<T> {
        parsed.map_err(|error| self.refuse(format!("its JSON is invalid: {error}")))
    }
}

/// Whether this is an attestation of another manifest, which buildx adds without a platform.
fn is_attestation(manifest: &Descriptor) -> bool {
    let annotations = manifest.annotations().as_ref();
    annotations.is_some_and(|all| all.contains_key("vnd.docker.reference.type"))
}

fn platform(manifest: &Descriptor) -> Option<OciPlatform> {
    let platform = manifest.platform().as_ref()?;
    let (os, architecture) = (
        platform.os().to_string(),
        platform.architecture().to_string(),
    );
    Some(OciPlatform::new(
        os,
        architecture,
        platform.variant().clone(),
    ))
}

/// The name of a layer for its volume label: the first digits of its digest.
pub fn short_digest(digest: &str) -> &str {
    let hex = digest.split(':').nth(1).unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// The name of an image or archive for its volume label: the file name without suffixes.
pub fn stem(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split(".tar").next().unwrap_or_default();
    Path::new("/").join(name.trim_end_matches(".tgz"))
}
