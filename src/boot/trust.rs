//! Refuses to boot layers that the loader does not list, and words of the command line that its policy does
//! not allow.
//!
//! The loader is trusted, because the firmware or boot loader has verified it (docs/trust.md). It turns
//! verification on with a file in [`DIRECTORY`](verify::DIRECTORY); no word of the command line turns it off.
//! The bytes that are hashed are the bytes that are used: the memory of the initrd and the files of the
//! rootfs, which nobody but `/init` can change. [`secure`](super::mount::secure) copies files of a disk
//! there, or has the kernel verify them.

use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use log::{debug, info};
use rustix::fs::fstatfs;
use rustix::time::ClockId;

use super::clock::microseconds;
use super::filesystem::is_in_memory;
use super::priority::processors;
use super::source::OpenSource;
use super::verified::{Verified, wanted_by};
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::plan::cmdline::Options;
use crate::plan::verity::Behaviour;
use crate::plan::{self, Layer, Plan, Source, loader_files};
use crate::verify;
use crate::verify::content::{self, SignedList};
use crate::verify::list::{self, ListEntry};
use crate::verify::measured::Measured;
use crate::verify::policy::{self, Policy};
use crate::verify::signature::{self, Key};

/// The loader's rules: the layers and lists that may be used.
#[derive(Debug, Default)]
pub struct Trust {
    /// The layers that may be used; `None`: any.
    list: Option<Vec<ListEntry>>,
    /// The keys of the loader. If there are any, the list has to be signed.
    keys: Vec<Key>,
    /// The oldest version of a signed list.
    minimum_version: Option<u64>,
    /// What dm-verity does with layers on a disk.
    verity: Behaviour,
}

impl Trust {
    /// Reads the files of the loader, and applies its policy to the options of the command line: unless it
    /// allows a shell, there is none, even if the boot fails. With neither list nor policy in the loader,
    /// nothing changes.
    ///
    /// # Errors
    /// A file is damaged, or the policy does not allow a word. The options allow no shell then.
    pub fn restrict(options: &mut Options) -> Result<Self> {
        if wanted_by().is_none() {
            return Ok(Self::default());
        }
        let wants_shell = std::mem::replace(&mut options.shell, false);
        let breaks = std::mem::take(&mut options.breaks);
        let policy = match read(policy::PATH)? {
            Some(text) => Policy::parse(&text).during("read", policy::PATH)?,
            None => Policy::default(),
        };
        options.shell = wants_shell && policy.allows_shell();
        policy.check(&options.text)?;
        options.breaks = breaks;
        let keys = read_keys()?;
        let list = match keys.as_slice() {
            [] => read(list::PATH)?.map(|text| verify::read_list(&text)),
            _ => None,
        };
        Ok(Self {
            list: list.transpose()?,
            keys,
            minimum_version: policy.minimum_version,
            verity: policy.verity,
        })
    }

    /// With keys in the loader: reads the list from the first archive after the loader, which is no layer then, from
    /// the rootfs, or from `beside`, the paths of lists beside layers on a disk, and verifies its signature.
    ///
    /// # Errors
    /// There is no list, or its signature is not one of the keys'.
    pub fn find_list<'a>(
        &mut self,
        sources: &mut [OpenSource],
        mut beside: impl Iterator<Item = &'a String>,
    ) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut found = None;
        for open in sources {
            if open.source.place.is_initrd() {
                found = found.or(verify::take_list(&mut open.source, &open.file));
            }
        }
        let found = match (found, read(list::PATH)?, read(signature::PATH)?) {
            (Some(found), ..) => found,
            (None, Some(list), Some(signature)) => SignedList { list, signature },
            (None, list, _) => match beside.next() {
                Some(path) if list.is_none() => read_beside(path)?,
                _ => {
                    let missing = list.map_or(list::PATH, |_| signature::PATH);
                    let what = format!(
                        "the loader has keys, and there is no {missing}, neither in the rootfs nor in the first \
                         archive after the loader, nor beside the layers of rd.layers.from="
                    );
                    return Err(Error::new("verify", "the layers", what));
                }
            },
        };
        self.list = Some(verify::read_signed(
            &self.keys,
            &found,
            self.minimum_version,
        )?);
        Ok(())
    }

    /// The layers that may be used; `None`: any.
    pub fn list(&self) -> Option<&[ListEntry]> {
        self.list.as_deref()
    }

    /// What dm-verity does with layers on a disk.
    pub fn verity(&self) -> &Behaviour {
        &self.verity
    }

    /// Refuses layers that the kernel has mounted itself: it has not verified them.
    pub fn check_assembled(&self, assembled: bool) -> Result<()> {
        match assembled && (self.list.is_some() || !self.keys.is_empty()) {
            true => {
                let what =
                    "the kernel has stacked them itself, and has not compared them with the list";
                Err(Error::new("verify", "the layers", what))
            }
            false => Ok(()),
        }
    }

    /// Compares all layers of the sources with the list, including those that the plan leaves out. `None`
    /// without a list.
    ///
    /// # Errors
    /// A layer differs from the list: see [`verify::check`].
    pub fn verify(
        &self,
        plan: &Plan,
        sources: &[OpenSource],
        options: &Options,
    ) -> Result<Option<Verified>> {
        let Some(list) = &self.list else {
            return Ok(None);
        };
        let started = microseconds(ClockId::Monotonic);
        let opened: Vec<&Source> = sources.iter().map(AsRef::as_ref).collect();
        sources.iter().try_for_each(check_memory)?;
        let first = usize::from(plan.device.is_some());
        let layers = plan::collect_layers(&opened, options, first);
        let digests = measure_all(&layers, sources);
        let mut measured = Vec::new();
        let mut bytes = 0u64;
        for (layer, found) in layers.into_iter().zip(digests) {
            let found = found.during("read", &layer)?;
            debug!("{layer}: {found}");
            if matches!(found, Measured::Hashed(_)) {
                bytes = bytes.saturating_add(layer.length);
            }
            measured.push((layer, found));
        }
        let files: Vec<&dyn ReadAt> = sources.iter().map(|open| &open.file as _).collect();
        verify::check(list, &measured, &opened, &files)?;
        let verified = Verified {
            layers: measured.len() as u64,
            bytes,
            microseconds: microseconds(ClockId::Monotonic).saturating_sub(started),
        };
        info!(
            "{} layers verified: {bytes} bytes hashed in {} us",
            verified.layers, verified.microseconds
        );
        Ok(Some(verified))
    }
}

/// The text of a file, if it exists.
fn read(path: &str) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).during("read", path),
    }
}

/// A list on a disk, and its signature beside it. They are read once.
fn read_beside(path: &str) -> Result<SignedList> {
    let read = |path: String| {
        let mut bytes = Vec::new();
        let file = fs::File::open(&path).during("read", &path)?;
        let read = file.take(content::LIST_MAX).read_to_end(&mut bytes);
        read.during("read", &path).map(|_| bytes)
    };
    info!("{path}: the list of layers");
    Ok(SignedList {
        list: read(path.into())?,
        signature: read(loader_files::signature_beside(path))?,
    })
}

/// The keys of the loader.
fn read_keys() -> Result<Vec<Key>> {
    let entries = match fs::read_dir(signature::KEYS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during("read", signature::KEYS)?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry.during("read", signature::KEYS)?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            let text = fs::read(&path).during("read", path.display())?;
            keys.push(Key::parse(&path.to_string_lossy(), &text)?);
        }
    }
    match keys.is_empty() {
        true => Err(Error::new(
            "read",
            signature::KEYS,
            "there is no key (*.pub)",
        )),
        false => Ok(keys),
    }
}

/// Refuses a source that could change after it is verified. A path of the initramfs may lead to another filesystem.
fn check_memory(source: &OpenSource) -> Result<()> {
    let in_memory = || fstatfs(&source.file.file).is_ok_and(|found| is_in_memory(&found));
    match source.measured {
        // The kernel verifies it at each read.
        Some(_) => Ok(()),
        None => verify::check_memory(&source.source, in_memory),
    }
}

impl OpenSource {
    /// Whether nobody but `/init` can change it.
    pub fn is_in_memory(&self) -> bool {
        check_memory(self).is_ok()
    }
}

/// The digests of all layers, computed on all processors.
fn measure_all(layers: &[Layer], sources: &[OpenSource]) -> Vec<io::Result<Measured>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((index, layer)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            layers.get(index).map(|layer| (index, layer))
        } {
            let digests = match sources.get(layer.source) {
                Some(source) => match source.measured {
                    Some(measured) => Ok(measured),
                    None => verify::measure(layer, &source.file),
                },
                None => Err(io::ErrorKind::NotFound.into()),
            };
            done.push((index, digests));
        }
        done
    };
    let mut all = thread::scope(|scope| {
        // This thread works, too. If a thread cannot start, the others do its work.
        let more = processors().min(layers.len()).saturating_sub(1);
        let threads: Vec<_> = (0..more)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut all = work();
        for thread in threads {
            // A panic of a thread is a failed boot already.
            all.extend(thread.join().unwrap_or_default());
        }
        all
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    let measured: Vec<_> = all.into_iter().map(|(_, digests)| digests).collect();
    match measured.len() == layers.len() {
        true => measured,
        false => layers
            .iter()
            .map(|_| Err(io::Error::other("a thread has failed")))
            .collect(),
    }
}
