//! Mounts what a plan names: the root device, each layer with the first backend that works, and the overlay.

mod context;
pub mod paths;

mod attributes;

pub mod trees;

#[cfg(feature = "disk")]
mod mount_options;

#[cfg_attr(not(feature = "disk"), path = "device_off.rs")]
pub mod device;
#[cfg(feature = "extract")]
pub mod extract;
mod file;
mod loopback;
mod memback;
pub mod unpack;

#[cfg(all(feature = "disk", feature = "verify"))]
mod verity;

pub mod generation;
mod identity;

pub mod upper;

pub mod overlay;

mod kept;

mod mounted;

pub mod archive;

pub mod merge;

#[cfg_attr(not(all(feature = "disk", feature = "verify")), path = "secure_off.rs")]
mod secure;

#[cfg(feature = "extract")]
pub mod memory;

#[cfg(feature = "extract")]
mod single;

mod root;

use std::fs;

#[cfg(feature = "extract")]
use log::warn;
use log::{debug, info};
#[cfg(feature = "extract")]
use rustix::mount::{UnmountFlags, unmount};

use super::release;
use super::source::OpenSource;
use crate::error::{Cause, Context, Error, Result};
use crate::format::compress::Codec;
use crate::format::erofs::{Checksum, Superblock};
use crate::initrd;
use crate::module::loader::Loader;
#[cfg(feature = "extract")]
use crate::plan::Upper;
use crate::plan::backend::Backend;
use crate::plan::{Content, Layer, Module, Plan, Root};
use context::Mount;
pub use device::{DeviceFinder, MountedDevice};
pub use kept::MountedKept;
use memback::Memback;
use merge::{MERGE_EVERY, MergedLayers};
pub use mounted::{MountMethod, MountedLayer, MountedRoot};
use overlay::Stack;
pub use paths::{KEPT, LAYERS, SYSROOT, UPPER};
use paths::{UNPACK_DIR, create_directory, layer_directory};
pub use secure::secure;
pub use upper::MountedUpper;

/// The size of the kernel's pages, in bytes.
fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Mounts what a plan names.
pub struct Mounter<'a> {
    plan: &'a Plan,
    sources: &'a [OpenSource],
    finder: DeviceFinder,
    loader: Loader,
    memback: Memback,
    /// Whether the kernel has overlayfs; `None`: it is not known yet.
    has_overlay: Option<bool>,
    mounted: MountedRoot<'a>,
}

impl<'a> Mounter<'a> {
    /// Mounts nothing yet. `sources` are those that the plan was made from.
    pub fn new(
        plan: &'a Plan,
        sources: &'a [OpenSource],
        finder: DeviceFinder,
        loader: Loader,
    ) -> Self {
        Self {
            plan,
            sources,
            finder,
            loader,
            memback: Memback::default(),
            has_overlay: None,
            mounted: MountedRoot::default(),
        }
    }

    /// What was mounted, and the loader for the list of modules that it loaded.
    pub fn finish(self) -> (MountedRoot<'a>, Loader) {
        (self.mounted, self.loader)
    }

    /// Mounts the root device, at [`SYSROOT`] if it is the root itself, and every layer.
    ///
    /// # Errors
    /// The root device or a layer cannot be mounted; with each reason, if several backends were tried.
    pub fn mount_layers(&mut self) -> Result<()> {
        fs::create_dir_all(LAYERS).during("create", LAYERS)?;
        #[cfg(feature = "extract")]
        if let Root::Extracted { options, writable } = &self.plan.root {
            return self.extract_all(options, *writable);
        }
        match self.mount_each_layer() {
            Err(error) if self.has_overlay == Some(false) => self.do_without_overlay(error),
            done => done,
        }
    }

    fn mount_each_layer(&mut self) -> Result<()> {
        let plan = self.plan;
        if let Some(device) = &plan.device {
            let target = match plan.root {
                Root::Device => SYSROOT.into(),
                _ => layer_directory(0),
            };
            create_directory(&target)?;
            #[cfg(all(feature = "disk", feature = "verify"))]
            if let Some(verity) = &device.verity {
                verity::open(&mut self.finder, verity, &mut self.loader)?;
            }
            let (mounted, mount) = self.finder.mount_root(device, &mut self.loader)?;
            mount.attach(&target)?;
            self.mounted.device = Some(mounted);
        }
        let is_archive = |layer: &Layer| matches!(layer.content, Content::Cpio { .. });
        for run in plan
            .layers
            .chunk_by(|one, next| is_archive(one) == is_archive(next))
        {
            match run.first() {
                Some(first) if is_archive(first) && run.len() > MERGE_EVERY => {
                    self.mount_many_archives(run)?;
                }
                _ => run
                    .iter()
                    .try_for_each(|layer| self.mount_layer(layer, None))?,
            }
        }
        Ok(())
    }

    /// Mounts consecutive archives, and merges them as it goes.
    fn mount_many_archives(&mut self, archives: &'a [Layer]) -> Result<()> {
        create_directory(UNPACK_DIR)?;
        let mut merged = MergedLayers::new(self.lower(), UNPACK_DIR)?;
        for layer in archives {
            self.mount_layer(layer, Some(&mut merged))?;
        }
        merged.finish()?;
        fs::remove_dir(UNPACK_DIR).during("remove", UNPACK_DIR)
    }

    fn mount_layer(&mut self, layer: &'a Layer, merged: Option<&mut MergedLayers>) -> Result<()> {
        if let Some(why) = layer.unreachable() {
            return Err(Error::new("mount", layer, why));
        }
        let source = self.source(layer)?;
        create_directory(&layer_directory(layer.number))?;
        let method = match &layer.content {
            Content::Cpio {
                codec,
                unpacked,
                inodes,
                ..
            } => {
                let content = unpacked.bytes(page_size());
                archive::check_memory(layer, content.saturating_add(*inodes))?;
                self.unpack(layer, source, *codec, merged)
                    .during("unpack", layer)?;
                MountMethod::Unpacked
            }
            Content::Erofs {
                superblock,
                backends,
            } => self
                .try_backends(layer, backends, source)
                .map_err(|errors| not_mounted(layer, superblock, errors))?,
            Content::Squashfs { .. } => {
                self.loader.need(Module::Squashfs).during("mount", layer)?;
                loopback::mount(layer, source, &mut self.loader)
                    .and_then(|mount| mount.attach(&layer_directory(layer.number)))
                    .during("mount", layer)?;
                info!("{layer}: mounted by {}", Backend::Loop);
                MountMethod::Squashfs(Backend::Loop)
            }
        };
        // An error occurs again when the upper is compared, and is handled there.
        let identity = self.plan.store().map(|_| identity::of_layer(layer, source));
        self.mounted.layers.push(MountedLayer {
            layer,
            method,
            identity: identity.and_then(Result::ok),
        });
        // Until overlayfs is known to work, the layer may have to be read again.
        if self.has_overlay == Some(true) || !matches!(self.plan.root, Root::Overlay(_)) {
            self.free_consumed(layer);
        }
        Ok(())
    }

    /// Frees the bytes of a layer, unless it is mounted from there.
    fn free_consumed(&mut self, layer: &Layer) {
        let mounted = &self.mounted.layers;
        let consumed = |layer: &Layer| {
            mounted.iter().any(|mounted| {
                mounted.layer.number == layer.number && !mounted.method.reads_in_place()
            })
        };
        if consumed(layer) {
            let layers = self.plan.layers.iter();
            let freed = release::free_layer(layer, &mut layers.filter(|layer| !consumed(layer)));
            self.mounted.freed = self.mounted.freed.saturating_add(freed);
        }
    }

    /// Tries the backends of a layer in order. Fails with the error of each.
    fn try_backends(
        &mut self,
        layer: &Layer,
        backends: &[Backend],
        source: &OpenSource,
    ) -> std::result::Result<MountMethod, Vec<Error>> {
        let target = layer_directory(layer.number);
        let mut errors = Vec::new();
        let mut has_erofs = true;
        for backend in backends {
            // One error is enough for a kernel without EROFS.
            if !backend.is_extract() {
                if has_erofs && let Err(error) = self.loader.need(Module::Erofs) {
                    debug!("{layer}: {error}");
                    errors.push(error);
                    has_erofs = false;
                }
                if !has_erofs {
                    continue;
                }
            }
            let attach = |mount: Mount| {
                mount.attach(&target)?;
                info!("{layer}: mounted by {backend}");
                Ok(MountMethod::Erofs(*backend))
            };
            let mounted = match backend {
                Backend::Memback => self.memback.mount(layer).and_then(attach),
                Backend::File => file::mount(layer, source).and_then(attach),
                Backend::Loop => loopback::mount(layer, source, &mut self.loader).and_then(attach),
                #[cfg(feature = "extract")]
                Backend::Extract => self.extract_own(layer, &target),
            };
            match mounted.during("by", backend) {
                Ok(method) => return Ok(method),
                Err(error) => {
                    debug!("{layer}: not mounted {error}");
                    errors.push(error);
                }
            }
        }
        Err(errors)
    }

    /// Unpacks an archive over the layers that are mounted already.
    fn unpack(
        &mut self,
        layer: &Layer,
        source: &OpenSource,
        codec: Option<Codec>,
        merged: Option<&mut MergedLayers>,
    ) -> Result<()> {
        let is_lowest = self.plan.device.is_none() && self.mounted.layers.is_empty();
        if !is_lowest {
            self.need_overlay()?;
        }
        let unpack = |upper| {
            let archive = initrd::open_archive(&source.file, layer.offset, layer.length, codec)
                .during("open", layer)?;
            unpack::unpack(archive, upper)
        };
        let unpacked = match merged {
            Some(merged) => merged.unpack_layer(&layer.number.to_string(), unpack)??,
            None => {
                let (below, target) = (self.lower(), layer_directory(layer.number));
                create_directory(UNPACK_DIR)?;
                let unpacked =
                    archive::unpack_layer(&layer.name, &below, UNPACK_DIR, &target, unpack)?;
                fs::remove_dir(UNPACK_DIR).during("remove", UNPACK_DIR)?;
                unpacked?
            }
        };
        info!(
            "{layer}: unpacked, {} members, {} not created",
            unpacked.members, unpacked.dropped
        );
        Ok(())
    }

    fn need_overlay(&mut self) -> Result<()> {
        let done = self.loader.need(Module::Overlay);
        self.has_overlay = Some(done.is_ok());
        done
    }

    /// Writes all layers into one tmpfs where overlayfs is missing and the plan allows it. `error` says why it
    /// is missing.
    fn do_without_overlay(&mut self, error: Error) -> Result<()> {
        #[cfg(feature = "extract")]
        if let Root::Overlay(upper) = &self.plan.root
            && self.plan.may_extract_all()
        {
            let (options, writable) = match upper {
                Upper::Tmpfs(options) => (options.as_slice(), true),
                Upper::None => (&[][..], false),
                Upper::Device(_) => return Err(error),
            };
            warn!("{error}; all layers are written into one tmpfs instead");
            for mounted in &self.mounted.layers {
                let directory = layer_directory(mounted.layer.number);
                unmount(&directory, UnmountFlags::DETACH).during("unmount", &directory)?;
            }
            // The new root should find no empty directories there.
            fs::remove_dir_all(LAYERS).during("remove", LAYERS)?;
            return self.extract_all(options, writable);
        }
        Err(error.hint(
            "rd.layers.backend=extract needs no overlayfs, if nothing but the initrd has layers",
        ))
    }

    fn source(&self, layer: &Layer) -> Result<&'a OpenSource> {
        let missing = || Error::new("mount", layer, "its source is not open");
        self.sources.get(layer.source).ok_or_else(missing)
    }

    /// The root device, if it is a layer, and the layers that are mounted already.
    fn lower(&self) -> Stack {
        let device = self.plan.device.iter().map(|_| 0);
        let layers = self.mounted.layers.iter();
        let numbers = device.chain(layers.map(|mounted| mounted.layer.number));
        Stack {
            directory: LAYERS.into(),
            names: numbers.map(|number| number.to_string()).collect(),
        }
    }
}

/// The error of a layer that no backend could mount: a fault of the image comes first.
fn not_mounted(layer: &Layer, superblock: &Superblock, mut errors: Vec<Error>) -> Error {
    if let Checksum::Bad { .. } = superblock.checksum {
        let what = format!(
            "its superblock is damaged: checksum {}",
            superblock.checksum
        );
        errors.insert(0, Error::new("read", "the image", what));
    }
    if let Some(what) = superblock.in_pieces() {
        errors.insert(0, Error::new("read", "the image", what));
    }
    Error::with("mount", layer, Cause::Each(errors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Content, Place};

    #[test]
    fn errors_of_the_image_come_before_those_of_the_backends() {
        let mut image = vec![0; 4096];
        image[1024..1028].copy_from_slice(&crate::format::erofs::MAGIC);
        image[1032] = 1;
        image[1036] = 12;
        image[1110] = 2;
        let superblock = Superblock::read(&&image[..], 0).unwrap().unwrap();
        let layer = Layer {
            number: 3,
            name: "initrd+0x1000".into(),
            place: Place::Initrd,
            source: 0,
            offset: 4096,
            length: 4096,
            content: Content::Erofs {
                superblock: superblock.clone(),
                backends: vec![Backend::Loop],
            },
        };
        let error = Error::new("by", "loop", "no");
        let expected = "mount layer 3 (initrd+0x1000): read the image: the image needs 2 more devices: only \
                        images of one piece can be mounted; read the image: its superblock is damaged: checksum \
                        bad (stored 0x00000000, computed ";
        let said = not_mounted(&layer, &superblock, vec![error]).to_string();
        assert!(said.starts_with(expected), "{said}");
        assert!(said.ends_with("; by loop: no"), "{said}");
    }
}
