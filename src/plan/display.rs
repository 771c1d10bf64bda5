//! The plan as text, the same from `/init` and from `layerinit plan`.

use std::fmt;

use super::cmdline::Stale;
use super::verity::Signature;
use super::{
    Content, KeptDirectories, Layer, MountSpec, PersistentUpper, Place, Plan, Root, Upper,
};
use crate::text::shown;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => f.write_str(&shown(name.as_bytes())),
            Self::Medium(file) => f.write_str(&file.name),
            Self::InitrdImage => f.write_str("initrd.image"),
            Self::Initrd => f.write_str("initrd"),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (&self.place, self.offset) {
            // With its device.
            (Place::Medium(file), 0) => file.name.clone(),
            _ => shown(self.name.as_bytes()),
        };
        write!(f, "layer {} ({name})", self.number)
    }
}

impl fmt::Display for MountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.writable { "rw" } else { "ro" };
        write!(f, "{}: {access}", self.spec)?;
        for flag in &self.flags {
            write!(f, ",{flag}")?;
        }
        f.write_str(", type ")?;
        match self.types.as_slice() {
            [] => f.write_str("auto")?,
            types => list(f, types)?,
        }
        match &self.verity {
            Some(verity) => {
                write!(f, ", dm-verity of {} with {}", verity.data, verity.hash)?;
                match &verity.signature {
                    Some(Signature::File(path)) => write!(f, ", signature {path}"),
                    Some(Signature::Inline(_)) => f.write_str(", signed"),
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in self.warnings().chain(self.urgent_warnings()) {
            writeln!(f, "warning: {warning}")?;
        }
        if let Some(device) = &self.device {
            writeln!(f, "root device {device}")?;
        }
        for medium in &self.media {
            write!(f, "layers from {medium}")?;
            match (&medium.device, &medium.path) {
                (Some(_), Some(_)) => writeln!(f, ", mounted at {}", medium.mount_point())?,
                (Some(_), None) => writeln!(f, ", a device without a filesystem")?,
                (None, _) => writeln!(f, " of the initramfs")?,
            }
        }
        for layer in &self.layers {
            write!(f, "{layer}: {} bytes, ", layer.length)?;
            match &layer.content {
                Content::Erofs {
                    superblock,
                    backends,
                } => {
                    f.write_str("erofs")?;
                    let label = superblock.label();
                    if !label.is_empty() {
                        write!(f, " {label:?}")?;
                    }
                    f.write_str(" by ")?;
                    list(f, backends)?;
                }
                Content::Squashfs { backends, .. } => {
                    f.write_str("squashfs by ")?;
                    list(f, backends)?;
                }
                Content::Cpio {
                    codec, unpacked, ..
                } => {
                    f.write_str("cpio")?;
                    if let Some(codec) = codec {
                        write!(f, ".{codec}")?;
                    }
                    write!(f, " into a tmpfs of {} bytes", unpacked.bytes(4096))?;
                }
            }
            writeln!(f)?;
        }
        match &self.root {
            Root::Initramfs => writeln!(f, "root: the initramfs itself, nothing to stack")?,
            Root::Device => writeln!(f, "root: the root device itself")?,
            Root::Assembled => writeln!(f, "root: as the kernel has assembled it")?,
            Root::Layer if self.layers.is_empty() => {
                writeln!(f, "root: the root device itself, read-only")?;
            }
            Root::Layer => writeln!(f, "root: the layer itself, read-only")?,
            Root::Extracted { options, writable } => {
                f.write_str("root: a tmpfs that all layers are written into")?;
                if !options.is_empty() {
                    write!(f, " with {}", options.join(","))?;
                }
                writeln!(f, "{}", if *writable { "" } else { ", read-only" })?;
            }
            Root::Overlay(Upper::None) => writeln!(f, "root: overlay, read-only")?,
            Root::Overlay(Upper::Tmpfs(options)) => {
                f.write_str("root: overlay, writes to a tmpfs")?;
                if !options.is_empty() {
                    write!(f, " with {}", options.join(","))?;
                }
                writeln!(f)?;
            }
            Root::Overlay(Upper::Device(store)) => {
                write!(f, "root: overlay, writes to /{} of ", store.directory)?;
                writeln!(f, "device {}", store.device)?;
            }
        }
        if let Some(KeptDirectories { store, paths }) = &self.kept {
            list(f, paths)?;
            write!(f, ": overlay, writes to /{} of ", store.directory)?;
            writeln!(f, "device {}", store.device)?;
        }
        if let Some(store) = self.store() {
            fmt_store(f, store)?;
        }
        f.write_str("modules: ")?;
        list(f, self.modules.iter().map(|module| module.name()))?;
        f.write_str("\ninit: ")?;
        list(f, &self.inits)?;
        writeln!(f)
    }
}

/// What happens to a directory on a device that was written over other layers, and to the boot without the
/// device.
fn fmt_store(f: &mut fmt::Formatter<'_>, store: &PersistentUpper) -> fmt::Result {
    match &store.reset {
        Some(value) => writeln!(f, "reset once for rd.overlay.reset={value}")?,
        None => match store.stale {
            Stale::Keep => {}
            Stale::Fail => writeln!(f, "written over other layers: no boot")?,
            Stale::Reset => writeln!(f, "written over other layers: reset")?,
        },
    }
    f.write_str("without that device: ")?;
    match store.fallback.as_deref() {
        None => writeln!(f, "no boot"),
        Some([]) => writeln!(f, "writes to a tmpfs"),
        Some(options) => writeln!(f, "writes to a tmpfs with {}", options.join(",")),
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = impl fmt::Display>,
) -> fmt::Result {
    let mut empty = true;
    for item in items {
        write!(f, "{}{item}", if empty { "" } else { ", " })?;
        empty = false;
    }
    if empty {
        f.write_str("none")?;
    }
    Ok(())
}
