//! The plan to a mounted root: each layer by the first backend that works, then the overlay.

mod context;

pub mod device;
mod file;
mod loopback;
mod memback;
pub mod unpack;

pub mod upper;

pub mod overlay;

pub mod archive;

pub mod row;

use std::fs;

use log::{debug, info};

use super::source::Source;
use super::systemd;
use crate::device::Wanted;
use crate::error::{Cause, Context as _, Error, Result};
use crate::format::compress::Codec;
use crate::format::erofs::{Checksum, Superblock};
use crate::initrd;
use crate::module::loader::Loader;
use crate::plan::backend::Backend;
use crate::plan::{self, Content, Layer, Module, Plan, Root};
use context::Mount;
pub use device::Finder;
use overlay::Stack;
use row::Row;

/// Where the layers are mounted, by number; the new root finds them there too.
pub const LAYERS: &str = "/run/initramfs/layers";

/// Where archives are unpacked over the layers below them.
const BENCH: &str = "/run/initramfs/unpack";

/// Where the new root is mounted until it becomes `/`.
pub const SYSROOT: &str = "/sysroot";

/// How a layer came to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By the EROFS driver, through this backend.
    Erofs(Backend),
    /// Unpacked into a tmpfs.
    Unpacked,
}

/// How everything came to be mounted.
#[derive(Debug, Default)]
pub struct Mounted {
    /// The root device.
    pub device: Option<device::Mounted>,
    /// The layers of the plan, in their order.
    pub layers: Vec<Means>,
    /// What takes the writes.
    pub upper: Option<upper::Mounted>,
}

/// Mounts the plan's root device, where it is the root itself at [`SYSROOT`], and every layer.
pub fn layers(
    plan: &Plan,
    sources: &[Source],
    finder: &mut Finder,
    loader: &mut Loader,
) -> Result<Mounted> {
    fs::create_dir_all(LAYERS).during("create", LAYERS)?;
    let mut mounted = Mounted::default();
    if let Some(device) = &plan.device {
        let target = match plan.root {
            Root::Device => SYSROOT.into(),
            _ => layer_directory(0),
        };
        mounted.device = Some(root_device(device, &target, finder, loader)?);
    }
    let mut without_memback = false;
    let mut below = Stack {
        directory: LAYERS.into(),
        names: plan.device.iter().map(|_| "0".into()).collect(),
    };
    let mut row = None;
    for (index, layer) in plan.layers.iter().enumerate() {
        if let Some(why) = layer.unreachable() {
            return Err(Error::new("mount", layer, why));
        }
        let source = sources
            .get(layer.source)
            .ok_or_else(|| Error::new("mount", layer, "its source is not open"))?;
        let target = layer_directory(layer.number);
        make_directory(&target)?;
        let means = match &layer.content {
            Content::Cpio { codec, memory, .. } => {
                enough_memory(layer, *memory)?;
                if !below.names.is_empty() {
                    loader.need(Module::Overlay)?;
                }
                let rest = plan.layers.get(index..).unwrap_or_default();
                if row.is_none() && archives(rest) > row::SEPARATE {
                    make_directory(BENCH)?;
                    row = Some(Row::begin(&below, BENCH)?);
                }
                unpack_layer(layer, source, *codec, &below, row.as_mut(), &target)?;
                Means::Unpacked
            }
            Content::Erofs {
                superblock,
                backends,
            } => {
                loader.need(Module::Erofs)?;
                end(row.take())?;
                let tried = by_first_that_works(
                    layer,
                    backends,
                    source,
                    loader,
                    &mut without_memback,
                    &target,
                );
                Means::Erofs(tried.map_err(|refusals| refused(layer, superblock, refusals))?)
            }
        };
        mounted.layers.push(means);
        below.names.push(layer.number.to_string());
    }
    end(row)?;
    Ok(mounted)
}

/// With how many archives these layers begin.
fn archives(layers: &[Layer]) -> usize {
    let is_archive = |layer: &&Layer| matches!(layer.content, Content::Cpio { .. });
    layers.iter().take_while(is_archive).count()
}

/// Ends a row of archives, where there is one.
fn end(row: Option<Row>) -> Result<()> {
    let Some(row) = row else { return Ok(()) };
    row.end()?;
    fs::remove_dir(BENCH).during("remove", BENCH)
}

/// Finds the root device, and mounts it.
fn root_device(
    device: &plan::Device,
    target: &str,
    finder: &mut Finder,
    loader: &mut Loader,
) -> Result<device::Mounted> {
    make_directory(target)?;
    let wanted = Wanted::of("root", device);
    let (mounted, mount) = finder.find(wanted, loader, |found, loader| {
        device::mount_root(wanted, device, found, loader)
    })?;
    mount.attach(target)?;
    Ok(mounted)
}

fn make_directory(path: &str) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        done => done.during("create", path),
    }
}

/// Makes the new root out of the mounted layers. Returns where it is: [`SYSROOT`], or `/` where the
/// initramfs itself is the system.
pub fn root(
    plan: &Plan,
    mounted: &mut Mounted,
    finder: &mut Finder,
    loader: &mut Loader,
) -> Result<&'static str> {
    match plan.root {
        Root::Initramfs => {
            info!("no layers: the initramfs itself is the system");
            return Ok("/");
        }
        Root::Assembled => {
            info!("the kernel has stacked the layers already: going on with the root it made");
            show_assembled_layers();
            return Ok("/");
        }
        // It has been mounted there.
        Root::Device => return Ok(SYSROOT),
        Root::Layer | Root::Overlay(_) => {}
    }
    make_directory(SYSROOT)?;
    let device = plan.device.iter().map(|_| 0);
    let numbers = device.chain(plan.layers.iter().map(|layer| layer.number));
    let layers = Stack {
        directory: LAYERS.into(),
        names: numbers.map(|number| number.to_string()).collect(),
    };
    match (&plan.root, layers.names.first()) {
        (Root::Layer, Some(name)) => {
            Mount::again(&format!("{LAYERS}/{name}"), false)?.attach(SYSROOT)?;
        }
        (Root::Overlay(upper), Some(_)) => {
            let has_root = |layer: &&Layer| {
                !matches!(
                    layer.content,
                    Content::Cpio {
                        has_root: false,
                        ..
                    }
                )
            };
            let root_of = match &plan.device {
                Some(_) => Some(0),
                None => plan.layers.iter().find(has_root).map(|layer| layer.number),
            };
            loader.need(Module::Overlay)?;
            let stack = |upper: Option<&upper::Mounted>| overlay::stack(&layers, upper, SYSROOT);
            let device = mounted.device.as_ref();
            mounted.upper = upper::with(upper, root_of, device, finder, loader, stack)?;
            if let Some(device) = &mounted.device {
                systemd::link_volatile_root(&device.node);
            }
            info!("layers stacked: {}", layers.names.len());
        }
        _ => return Err(Error::new("mount", "root", "there is nothing to mount")),
    }
    Ok(SYSROOT)
}

/// Shows the kernel's own layers where ours would be.
fn show_assembled_layers() {
    const KERNEL_LAYERS: &str = "/initrd_layers";
    let shown = Mount::again(KERNEL_LAYERS, true).and_then(|layers| layers.attach(LAYERS));
    // Nobody needs them to boot.
    if let Err(error) = shown {
        debug!("not shown in {LAYERS}: {error}");
    }
}

fn layer_directory(number: usize) -> String {
    format!("{LAYERS}/{number}")
}

/// Why a layer cannot be mounted.
fn refused(layer: &Layer, superblock: &Superblock, mut refusals: Vec<Error>) -> Error {
    if let Checksum::Bad { .. } = superblock.checksum {
        let what = format!(
            "its superblock is damaged: checksum {}",
            superblock.checksum
        );
        refusals.insert(0, Error::new("read", "the image", what));
    }
    if let Some(what) = superblock.in_pieces() {
        refusals.insert(0, Error::new("read", "the image", what));
    }
    Error::with("mount", layer, Cause::Each(refusals))
}

/// Tries the backends in order; why each refused, where all did.
fn by_first_that_works(
    layer: &Layer,
    backends: &[Backend],
    source: &Source,
    loader: &mut Loader,
    without_memback: &mut bool,
    target: &str,
) -> std::result::Result<Backend, Vec<Error>> {
    let mut refusals = Vec::new();
    for backend in backends {
        let mounted = match backend {
            Backend::Memback => memback::mount(layer, without_memback),
            Backend::File => file::mount(layer, source),
            Backend::Loop => loopback::mount(layer, source, loader),
        };
        match mounted.and_then(|mount| mount.attach(target)) {
            Ok(()) => {
                info!("{layer}: mounted by {backend}");
                return Ok(*backend);
            }
            Err(error) => {
                debug!("{layer}: not by {backend}: {error}");
                refusals.push(Error::with("by", backend, Cause::Each(vec![error])));
            }
        }
    }
    Err(refusals)
}

/// Refuses to unpack what does not fit: with nothing else running, the kernel would end in a panic
/// for want of a process to kill.
fn enough_memory(layer: &Layer, needed: u64) -> Result<()> {
    let meminfo = fs::read_to_string("/proc/meminfo").during("read", "/proc/meminfo")?;
    let kib = meminfo.lines().find_map(|line| {
        let value = line.strip_prefix("MemAvailable:")?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    match kib.map(|kib| kib.saturating_mul(1024)) {
        Some(available) if available < needed => {
            let what =
                format!("it takes {needed} bytes of memory, of which {available} are available");
            Err(Error::new("unpack", layer, what))
        }
        _ => Ok(()),
    }
}

/// Unpacks a cpio layer.
fn unpack_layer(
    layer: &Layer,
    source: &Source,
    codec: Option<Codec>,
    below: &Stack,
    row: Option<&mut Row>,
    target: &str,
) -> Result<()> {
    let unpack = |changes| {
        let archive = initrd::open_archive(&source.file, layer.offset, layer.length, codec)
            .during("open", layer)?;
        unpack::unpack(archive, changes)
    };
    let done = match row {
        Some(row) => row.layer(&layer.number.to_string(), unpack),
        None => {
            make_directory(BENCH)?;
            let done = archive::layer(&layer.name, below, BENCH, target, unpack);
            done.and_then(|done| {
                fs::remove_dir(BENCH).during("remove", BENCH)?;
                Ok(done)
            })
        }
    };
    let done = done
        .and_then(|done| done)
        .map_err(|error| Error::with("unpack", layer, Cause::Each(vec![error])))?;
    info!(
        "{layer}: unpacked, {} members, {} not created",
        done.members, done.dropped
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Content, Place};

    #[test]
    fn what_is_wrong_with_an_image_comes_before_what_backends_say() {
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
        let refusal = Error::new("by", "loop", "no");
        let expected = "mount layer 3 (initrd+0x1000): read the image: the image needs 2 more devices: only \
                        images of one piece can be mounted; read the image: its superblock is damaged: checksum \
                        bad (stored 0x00000000, computed ";
        let said = refused(&layer, &superblock, vec![refusal]).to_string();
        assert!(said.starts_with(expected), "{said}");
        assert!(said.ends_with("; by loop: no"), "{said}");
    }
}
