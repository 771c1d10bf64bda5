//! The content of files: decompressed and written by all processors, while one thread creates the files.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::{Errno, pwrite};

use super::attributes::{self, Attributes};
use crate::boot::priority::processors;
use crate::bytes::{Opened, ReadAt};
use crate::error::{Context as _, Error, Result};
use crate::format::erofs::{Cluster, Data, Extent};
use crate::sys::signal::with_signal_stack;
use crate::text::Shown;

/// A batch goes to a thread when it has this many bytes: waking a thread costs more than copying a short
/// batch.
const BATCH_BYTES: u64 = 512 << 10;
/// Or this many pieces: the files of all batches are open, and PID 1 may have 1024 open.
const BATCH_PIECES: usize = 32;
/// The most threads: more would wait for the one that creates the files.
const THREADS_MAX: usize = 8;

/// The bytes of an image, which all threads read.
pub type Bytes<'a> = &'a (dyn ReadAt + Sync);

/// A file that is being written. It gets its attributes when its last byte is written: a write clears
/// capabilities and set-user-ID bits, and sets the time.
pub struct OutFile {
    /// The file, open for writing.
    pub file: OwnedFd,
    /// The attributes to set at the end.
    pub attributes: Attributes,
    /// Its path, for messages.
    pub path: Vec<u8>,
    failure: Failure,
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let Err(errno) = attributes::set_on_file(&self.file, &self.attributes) {
            let error: Result<()> = Err(errno).during("set the attributes of", Shown(&self.path));
            error.unwrap_or_else(|error| self.failure.report(error));
        }
    }
}

/// The first failure of any thread.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    fn report(&self, error: Error) {
        lock(&self.0).get_or_insert(error);
    }

    fn check(&self) -> Result<()> {
        lock(&self.0).take().map_or(Ok(()), Err)
    }
}

/// Locks a value that is complete whenever the lock is released.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A piece of a file.
type Piece = (Arc<OutFile>, Extent);

/// Batches on their way to the threads. A channel of std takes 5 KB more in `/init`.
struct Batches {
    queue: Mutex<Queue>,
    /// The queue has changed.
    changed: Condvar,
    /// So many batches may wait.
    most: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Vec<Piece>>,
    /// There will be no more batches, or a thread has ended.
    closed: bool,
}

impl Batches {
    fn new(most: usize) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Condvar::new(),
            most,
        }
    }

    /// Adds a batch, once there is room for it. Drops it after the end.
    fn put(&self, batch: Vec<Piece>) {
        let mut queue = lock(&self.queue);
        while queue.waiting.len() >= self.most && !queue.closed {
            queue = self.wait(queue);
        }
        if !queue.closed {
            queue.waiting.push_back(batch);
            self.changed.notify_all();
        }
    }

    /// Takes the next batch, once there is one; `None` at the end.
    fn take(&self) -> Option<Vec<Piece>> {
        let mut queue = lock(&self.queue);
        while queue.waiting.is_empty() && !queue.closed {
            queue = self.wait(queue);
        }
        self.changed.notify_all();
        queue.waiting.pop_front()
    }

    fn wait<'q>(&self, queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue> {
        let woken = self.changed.wait(queue);
        woken.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the queue when it is dropped: at the end, and when one of its users panics, for which the others would wait.
struct CloseAtEnd<'q>(&'q Batches);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        lock(&self.0.queue).closed = true;
        self.0.changed.notify_all();
    }
}

/// Writes the pieces of files.
pub struct Writer<'a> {
    /// The pieces that no thread has yet, and the number of their bytes.
    batch: Vec<Piece>,
    bytes: u64,
    /// To the threads; `None` if the caller's thread does everything.
    threads: Option<CloseAtEnd<'a>>,
    own: PieceDecoder<'a>,
    failure: Failure,
}

impl Writer<'_> {
    /// Begins a file.
    pub fn file(&self, file: OwnedFd, attributes: Attributes, path: Vec<u8>) -> Arc<OutFile> {
        Arc::new(OutFile {
            file,
            attributes,
            path,
            failure: self.failure.clone(),
        })
    }

    /// Writes a piece of a file, now or later.
    ///
    /// # Errors
    /// This piece or an earlier one could not be read, decompressed or written.
    pub fn write(&mut self, file: &Arc<OutFile>, extent: Extent) -> Result<()> {
        self.bytes = self.bytes.saturating_add(extent.length);
        self.batch.push((Arc::clone(file), extent));
        match self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_PIECES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        let batch = mem::take(&mut self.batch);
        match &self.threads {
            Some(CloseAtEnd(batches)) => batches.put(batch),
            None => self.own.batch(batch, &self.failure),
        }
        self.failure.check()
    }
}

/// Runs `work` with a writer for the files of the image in `bytes`. When this returns, every file is written.
pub fn with_writer<T>(bytes: Bytes<'_>, work: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
    let failure = Failure::default();
    let threads = match processors() {
        1 => 0,
        several => several.min(THREADS_MAX),
    };
    // Two batches for each thread: one in work, one that waits.
    let batches = &Batches::new(threads);
    let result = thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..threads {
            let failure = failure.clone();
            let run = with_signal_stack(move || PieceDecoder::new(bytes).run(batches, &failure));
            match thread::Builder::new().spawn_scoped(scope, run) {
                Ok(_) => started += 1,
                Err(error) => log::debug!("extract with {started} threads: {error}"),
            }
        }
        let mut writer = Writer {
            batch: Vec::new(),
            bytes: 0,
            threads: (started > 0).then_some(CloseAtEnd(batches)),
            own: PieceDecoder::new(bytes),
            failure: failure.clone(),
        };
        let done = work(&mut writer)?;
        writer.flush()?;
        Ok(done)
    });
    // The threads have ended, and the last files got their attributes.
    failure.check()?;
    result
}

/// Bytes of a file are written once there are this many. Until then they stay in the processor's cache.
const WRITE_BYTES: usize = 256 << 10;

/// Reads and decompresses pieces, and writes them.
struct PieceDecoder<'a> {
    image: Bytes<'a>,
    /// The last decoded cluster, if it has more than the piece that needed it: files share clusters.
    cluster: Option<Cluster>,
    plain: Vec<u8>,
    packed: Vec<u8>,
    pending: Pending,
}

/// Bytes of one file that are not written yet.
#[derive(Default)]
struct Pending {
    /// The first `used` bytes are.
    bytes: Vec<u8>,
    used: usize,
    /// The file, and where they belong.
    to: Option<(Arc<OutFile>, u64)>,
}

impl Pending {
    /// Room for more bytes at `offset` of a file. Writes the buffered bytes first, unless these follow them.
    fn room(&mut self, file: &Arc<OutFile>, offset: u64, length: usize) -> Result<&mut [u8]> {
        let follows = self.to.as_ref().is_some_and(|(before, at)| {
            Arc::ptr_eq(before, file) && at.checked_add(self.used as u64) == Some(offset)
        });
        if !follows || self.used.saturating_add(length) > WRITE_BYTES {
            self.write()?;
            self.to = Some((Arc::clone(file), offset));
        }
        let start = self.used;
        self.used = start.saturating_add(length);
        if self.bytes.len() < self.used {
            self.bytes.resize(self.used, 0);
        }
        Ok(self.bytes.get_mut(start..self.used).unwrap_or_default())
    }

    fn write(&mut self) -> Result<()> {
        let used = mem::take(&mut self.used);
        match (self.to.take(), self.bytes.get(..used)) {
            (Some((file, at)), Some(bytes)) => {
                write_at(&file.file, bytes, at).during("write", Shown(&file.path))
            }
            _ => Ok(()),
        }
    }
}

impl<'a> PieceDecoder<'a> {
    fn new(image: Bytes<'a>) -> Self {
        Self {
            image,
            cluster: None,
            plain: Vec::new(),
            packed: Vec::new(),
            pending: Pending::default(),
        }
    }

    /// Writes batches until there are no more.
    fn run(&mut self, batches: &Batches, failure: &Failure) {
        let _close = CloseAtEnd(batches);
        while let Some(batch) = batches.take() {
            self.batch(batch, failure);
        }
    }

    fn batch(&mut self, batch: Vec<Piece>, failure: &Failure) {
        let mut pieces = batch.into_iter();
        let mut done = pieces.try_for_each(|(file, extent)| self.piece(&file, &extent));
        if done.is_ok() {
            done = self.pending.write();
        }
        if let Err(error) = done {
            // The decoded bytes there are incomplete.
            self.pending = Pending::default();
            failure.report(error);
        }
    }

    fn piece(&mut self, file: &Arc<OutFile>, extent: &Extent) -> Result<()> {
        let path = Shown(&file.path);
        let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
        match &extent.data {
            Data::Hole => Ok(()),
            Data::Bytes(bytes) => {
                let to = self.pending.room(file, extent.offset, bytes.len())?;
                to.copy_from_slice(bytes);
                Ok(())
            }
            Data::Raw(from) => self.copy(file, extent, *from),
            Data::Cluster(cluster, 0) if u64::from(cluster.length) == extent.length => {
                let to = self.pending.room(file, extent.offset, length)?;
                let decoded = cluster.decode_into(self.image, &mut self.packed, to);
                decoded.map_err(|fault| Error::new("read", path, fault.to_string()))
            }
            Data::Cluster(cluster, skip) => {
                if self.cluster.as_ref() != Some(cluster) {
                    self.cluster = None;
                    let decoded = cluster.decode(self.image, &mut self.plain);
                    decoded.map_err(|fault| Error::new("read", path, fault.to_string()))?;
                    self.cluster = Some(cluster.clone());
                }
                let skip = usize::try_from(*skip).unwrap_or(usize::MAX);
                let bytes = skip
                    .checked_add(length)
                    .and_then(|end| self.plain.get(skip..end));
                let short = || Error::new("read", path, "a cluster is shorter than its index says");
                let bytes = bytes.ok_or_else(short)?;
                let to = self.pending.room(file, extent.offset, length)?;
                to.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Copies bytes that the image stores uncompressed.
    fn copy(&mut self, file: &Arc<OutFile>, extent: &Extent, mut from: u64) -> Result<()> {
        let (mut at, mut left) = (extent.offset, extent.length);
        while left > 0 {
            let n = left.min(WRITE_BYTES as u64);
            let to = self
                .pending
                .room(file, at, usize::try_from(n).unwrap_or(0))?;
            let read = self.image.read_exact_at(to, from);
            read.during("read", Shown(&file.path))?;
            from = from.saturating_add(n);
            at = at.saturating_add(n);
            left = left.saturating_sub(n);
        }
        Ok(())
    }
}

/// Copies the bytes of another file. Holes stay holes.
pub fn copy_file(from: &Opened, to: &OutFile) -> Result<()> {
    const CHUNK: u64 = 64 << 10;
    let mut buffer = Vec::new();
    let mut at = from.next_data(0);
    while at < from.size() {
        let n = from.size().saturating_sub(at).min(CHUNK);
        buffer.resize(usize::try_from(n).unwrap_or(0), 0);
        let read = from.read_exact_at(&mut buffer, at);
        read.during("read", Shown(&to.path))?;
        write_at(&to.file, &buffer, at).during("write", Shown(&to.path))?;
        at = from.next_data(at.saturating_add(n));
    }
    Ok(())
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> std::result::Result<(), Errno> {
    while !bytes.is_empty() {
        let n = pwrite(file, bytes, at)?;
        bytes = bytes.get(n..).unwrap_or_default();
        at = at.saturating_add(n as u64);
    }
    Ok(())
}
