//! All layers in one tmpfs, which needs no overlayfs, EROFS, loop device or kernel module.

use std::fs::File;

use log::info;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::extract::{self, Onto};
use super::memory::{self, Need};
use super::paths::{SYSROOT, create_directory};
use super::unpack;
use super::{MountMethod, MountedLayer, Mounter, archive, page_size};
use crate::boot::release;
use crate::bytes::Part;
use crate::error::{Context, Error, Result};
use crate::initrd;
use crate::plan::{Content, Layer, Root};
use crate::sys::process::run_chrooted;

impl<'a> Mounter<'a> {
    /// Writes every layer into a tmpfs at [`SYSROOT`], the lowest first, each over those below, as overlayfs
    /// would show them.
    pub(super) fn extract_all(&mut self, options: &[String], writable: bool) -> Result<()> {
        create_directory(SYSROOT)?;
        archive::mount_tmpfs("root", options, SYSROOT)
            .during("make", "the tmpfs for all layers (rd.overlay=)")?;
        self.mounted.single = true;
        self.mounted.layers.clear();
        for layer in &self.plan.layers {
            if let Some(why) = layer.unreachable() {
                return Err(Error::new("extract", layer, why));
            }
        }
        self.check_memory_of_all()?;
        let mut onto = Onto::Root;
        for layer in &self.plan.layers {
            let method = match &layer.content {
                Content::Cpio { .. } => self.unpack_into_root(layer)?,
                Content::Erofs { .. } | Content::Squashfs { .. } => {
                    self.extract_layer(layer, SYSROOT, onto)?
                }
            };
            onto = Onto::Layers;
            // One tmpfs has no persistent upper.
            let identity = None;
            self.mounted.layers.push(MountedLayer {
                layer,
                method,
                identity,
            });
            self.free_consumed(layer);
        }
        if !writable {
            mount_remount(SYSROOT, MountFlags::RDONLY, "").during("remount read-only", SYSROOT)?;
        }
        Ok(())
    }

    /// Refuses the layers where they do not fit together into the memory or the tmpfs at [`SYSROOT`].
    fn check_memory_of_all(&self) -> Result<()> {
        let check = |holes| {
            let needs = self.plan.layers.iter().map(|layer| {
                let need = self.needed(layer, holes).during("extract", layer)?;
                Ok((layer, need))
            });
            memory::check(SYSROOT, &needs.collect::<Result<Vec<_>>>()?)
        };
        check(true).or_else(|_| {
            release::free_loader(self.plan);
            check(false)
        })
    }

    /// The space that the files of a layer take. Holes take no memory, but finding them takes time: with
    /// `holes`, they count as data.
    fn needed(&self, layer: &Layer, holes: bool) -> Result<Need> {
        match &layer.content {
            Content::Cpio {
                unpacked, inodes, ..
            } => {
                let content = unpacked.bytes(page_size());
                Ok(Need {
                    content,
                    memory: content.saturating_add(*inodes),
                    files: 0,
                })
            }
            Content::Erofs { superblock, .. } => {
                let source = self.source(layer)?;
                let image = Part::new(&source.file, layer.offset, layer.length);
                let needed = extract::needed(&image, superblock, holes)?;
                Ok(Need {
                    content: needed.content.bytes(page_size()),
                    memory: needed.memory(page_size()),
                    files: needed.files,
                })
            }
            Content::Squashfs { .. } => {
                let what = "the files of a SquashFS image cannot be extracted";
                Err(Error::new("extract", layer, what))
            }
        }
    }

    /// Writes the files of an EROFS layer into a directory.
    pub(super) fn extract_layer(
        &self,
        layer: &Layer,
        target: &str,
        onto: Onto,
    ) -> Result<MountMethod> {
        let Content::Erofs { superblock, .. } = &layer.content else {
            return Err(Error::new("extract", layer, "it is not an EROFS image"));
        };
        let source = self.source(layer)?;
        let image = Part::new(&source.file, layer.offset, layer.length);
        let work = || {
            let directory = File::open(target).during("open", target)?;
            extract::extract(&image, superblock, directory.into(), onto)
        };
        let done = work().during("extract", layer)?;
        info!(
            "{layer}: extracted, {} files, {} bytes",
            done.files, done.bytes
        );
        Ok(MountMethod::Extracted)
    }

    /// Writes the files of an EROFS layer into a separate tmpfs, for the overlay.
    pub(super) fn extract_own(&mut self, layer: &Layer, target: &str) -> Result<MountMethod> {
        if matches!(self.plan.root, Root::Overlay(_)) {
            self.need_overlay()?;
        }
        if archive::check_memory(layer, self.needed(layer, true)?.memory).is_err() {
            release::free_loader(self.plan);
            archive::check_memory(layer, self.needed(layer, false)?.memory)?;
        }
        archive::mount_tmpfs(&layer.name, &[], target)?;
        let extracted = self.extract_layer(layer, target, Onto::Layer);
        if extracted.is_err() {
            // A partly written layer is not mounted. The error to report is that of the extraction.
            let _ = unmount(target, UnmountFlags::DETACH);
        }
        let method = extracted?;
        mount_remount(target, MountFlags::RDONLY, "").during("remount read-only", target)?;
        Ok(method)
    }

    /// Unpacks an archive over the files that are there.
    fn unpack_into_root(&self, layer: &Layer) -> Result<MountMethod> {
        let Content::Cpio { codec, .. } = &layer.content else {
            return Err(Error::new("unpack", layer, "it is not an archive"));
        };
        let source = self.source(layer)?;
        let open = || {
            initrd::open_archive(&source.file, layer.offset, layer.length, *codec)
                .during("open", layer)
        };
        let work = || {
            // An opaque directory hides the layers below, but not the files that this archive has for it.
            unpack::clear_opaque(open()?)?;
            unpack::unpack_over(open()?)
        };
        let unpacked = run_chrooted(SYSROOT, work)
            .during("enter", SYSROOT)?
            .during("unpack", layer)?;
        info!(
            "{layer}: unpacked, {} members, {} not created",
            unpacked.members, unpacked.dropped
        );
        Ok(MountMethod::Unpacked)
    }
}
