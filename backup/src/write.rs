//! Getting objects into a repository, durably and in batches (`FORMAT.md`, "Order of writes").
//!
//! Invariant: nothing gets its name before it was flushed, and [`Writer::settle`] returns once every name is durable.

use std::io::{self, Read};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::{Digest, Hasher, SEGMENT, State};
use crate::disk::{Buffer, Disk, Input, Output};
use crate::failure::{Doing, StoreError};
use crate::index::{Index, Location};
use crate::pack::{self, PACKED_BELOW};
use crate::partial::{CHECKPOINT, Partial};
use crate::pump::{Broken, pump};
use crate::repository::fill;
use crate::states::{self, End};
use crate::watch::Watch;

/// Files that wait for their names at most: each holds a descriptor open.
const BATCH: usize = 64;
const SAMPLES: u64 = 64;
const SAMPLE: usize = 16 << 10;
/// zstd's fastest: what it gains over copying is room, and it must not cost time.
const LEVEL: i32 = 1;

/// A file that is written and waits for its name.
struct Staged {
    temporary: String,
    name: String,
    output: Box<dyn Output>,
}

/// A standalone object that is being written.
struct Begun {
    temporary: String,
    output: Box<dyn Output>,
    /// Of a huge one: what a later run goes on with.
    partial: Option<Partial>,
    /// Of the segments that are there already.
    ends: Vec<End>,
}

impl Begun {
    fn at(disk: &dyn Disk, partial: Partial) -> Result<Self, StoreError> {
        let (output, ends) = partial.open(disk)?;
        Ok(Self { temporary: partial.path.clone(), output, partial: Some(partial), ends })
    }
}

#[derive(Default)]
struct Inner {
    pack: pack::Builder,
    staged: Vec<Staged>,
    /// Ids of the packs that were written.
    packs: Vec<String>,
}

/// Puts objects into a repository.
pub(crate) struct Writer<'r> {
    disk: &'r dyn Disk,
    watch: &'r Watch,
    index: Mutex<Index>,
    inner: Mutex<Inner>,
    next: AtomicU64,
    /// Bytes written.
    pub(crate) written: AtomicU64,
    /// Bytes read from sources.
    pub(crate) taken: AtomicU64,
}

/// What was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Why nothing was put.
#[derive(Debug)]
pub(crate) enum PutError {
    /// The source could not be read.
    Source(io::Error),
    /// The content is not what it was said to be.
    Wrong(Digest),
    Store(StoreError),
}

impl From<StoreError> for PutError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<'r> Writer<'r> {
    pub(crate) fn new(disk: &'r dyn Disk, watch: &'r Watch, index: Index) -> Self {
        Self {
            disk,
            watch,
            index: Mutex::new(index),
            inner: Mutex::default(),
            next: AtomicU64::new(0),
            written: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that came from a source.
    fn take(&self, bytes: u64) -> Result<(), StoreError> {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        self.watch.moved(bytes).map_err(|_| StoreError::Stopped)
    }

    /// Puts content that is at hand.
    pub(crate) fn put_bytes(&self, bytes: &[u8]) -> Result<Put, PutError> {
        if bytes.len() as u64 >= PACKED_BELOW {
            return self.put_stream(&mut &*bytes, None);
        }
        let digest = Digest::of(bytes);
        let mut inner = self.inner();
        let is_new = !self.index().contains(&digest);
        if is_new {
            inner.pack.put(digest, bytes);
            // Its place is known when the pack is closed; nobody reads it before.
            self.index().insert(digest, Location::Raw { size: 0 });
        }
        let full = if inner.pack.is_full() { Some(mem::take(&mut inner.pack)) } else { None };
        drop(inner);
        if let Some(pack) = full {
            self.close(pack)?;
        }
        Ok(Put { digest, size: bytes.len() as u64 })
    }

    /// Puts what can be read once only. Content that is small after all is packed.
    pub(crate) fn put_stream(&self, from: &mut (dyn Read + Send), known: Option<Digest>) -> Result<Put, PutError> {
        let mut head = Buffer::new(PACKED_BELOW as usize);
        fill(&mut head, from).map_err(PutError::Source)?;
        let bytes = head.bytes();
        if (bytes.len() as u64) < PACKED_BELOW {
            check(known, Digest::of(bytes))?;
            self.take(bytes.len() as u64)?;
            return self.put_bytes(bytes);
        }
        let is_compressible = compresses(bytes.chunks(SAMPLE));
        let mut whole = bytes.chain(from);
        self.put_pieces(self.begin()?, |buffer| fill(buffer, &mut whole), is_compressible, known)
    }

    /// Puts a file's content. `identity` tells it from every other, and from what it was before it changed: a huge one
    /// that was begun by a run that did not end is gone on with.
    pub(crate) fn put_input(
        &self,
        input: &mut dyn Input,
        identity: &str,
        known: Option<Digest>,
    ) -> Result<Put, PutError> {
        let size = input.size_bytes();
        if size < PACKED_BELOW {
            let mut bytes = vec![0; size as usize];
            let len = input.read_at(0, &mut bytes).map_err(PutError::Source)?;
            check(known, Digest::of(&bytes[..len]))?;
            self.take(len as u64)?;
            return self.put_bytes(&bytes[..len]);
        }
        let is_compressible = sample(input).map_err(PutError::Source)?;
        let begun = match size > CHECKPOINT {
            true => Begun::at(self.disk, Partial::of(identity, is_compressible))?,
            false => self.begin()?,
        };
        let mut offset = begun.ends.last().map_or(0, |it| it.plain);
        let read = |buffer: &mut Buffer| {
            let len = input.read_at(offset, buffer.room())?;
            buffer.set_len(len);
            offset += len as u64;
            Ok(())
        };
        self.put_pieces(begun, read, is_compressible, known)
    }

    fn put_pieces(
        &self,
        begun: Begun,
        read: impl FnMut(&mut Buffer) -> io::Result<()> + Send,
        compress: bool,
        known: Option<Digest>,
    ) -> Result<Put, PutError> {
        let Begun { temporary, mut output, partial, mut ends } = begun;
        let start = ends.last().copied().unwrap_or(End { plain: 0, stored: 0, state: State::START });
        let mut hasher = Hasher::at(start.state, start.plain);
        // Where the function stood at each segment's end; writing is behind hashing.
        let (tell, told) = channel();
        let mut told = told.into_iter();
        let look = |piece: &[u8]| {
            hasher.update(piece);
            if let (true, Some(state)) = (hasher.hashed().is_multiple_of(SEGMENT), hasher.state()) {
                // Whoever writes has given up, and says why.
                let _ = tell.send(state);
            }
        };
        let (mut plain, mut stored) = (start.plain, start.stored);
        let write = |piece: &[u8]| {
            self.watch.moved(piece.len() as u64)?;
            plain += piece.len() as u64;
            stored += if compress {
                let frame = frame(piece)?;
                output.append(&frame)?;
                frame.len() as u64
            } else {
                output.append(piece)?;
                piece.len() as u64
            };
            if plain.is_multiple_of(SEGMENT) {
                ends.extend(told.next().map(|state| End { plain, stored, state }));
            }
            match &partial {
                Some(partial) if plain.is_multiple_of(CHECKPOINT) => partial.note(self.disk, &mut *output, &ends),
                _ => Ok(()),
            }
        };
        let pumped = pump(read, look, write);
        let size = hasher.hashed();
        let digest = hasher.finish();
        self.taken.fetch_add(size - start.plain, Ordering::Relaxed);
        let checked = match pumped {
            // What there is of it serves the next run.
            _ if self.watch.is_stopped() && partial.is_some() => return Err(StoreError::Stopped.into()),
            _ if self.watch.is_stopped() => Err(StoreError::Stopped.into()),
            Err(Broken::Read(error)) => Err(PutError::Source(error)),
            Err(Broken::Write(source)) => {
                Err(StoreError::Disk { doing: "write", path: temporary.clone(), source }.into())
            }
            Ok(()) => check(known, digest),
        };
        let forgotten = partial.map_or(Ok(()), |it| it.forget(self.disk));
        if checked.is_err() || self.index().contains(&digest) {
            let removed = self.disk.remove(&temporary).doing("remove", &temporary);
            checked?;
            removed?;
            return Ok(Put { digest, size });
        }
        forgotten?;
        self.written.fetch_add(stored - start.stored, Ordering::Relaxed);
        if size > SEGMENT {
            ends.retain(|it| it.plain < size);
            self.stage_small(format!("objects/{digest}.states"), states::write(&ends).as_bytes())?;
        }
        let location = if compress { Location::Zstd { size: stored } } else { Location::Raw { size: stored } };
        let name = self.index().path(&digest, &location);
        // The drive works on it while the next object is read; the batch's flush then has little to wait for.
        output.flush().doing("flush", &temporary)?;
        self.index().insert(digest, location);
        self.stage(Staged { temporary, name, output })?;
        Ok(Put { digest, size })
    }

    fn begin(&self) -> Result<Begun, StoreError> {
        let (temporary, output) = self.create()?;
        Ok(Begun { temporary, output, partial: None, ends: Vec::new() })
    }

    fn create(&self) -> Result<(String, Box<dyn Output>), StoreError> {
        let temporary = format!("temporary/{}", self.next.fetch_add(1, Ordering::Relaxed));
        let output = self.disk.create(&temporary).doing("create", &temporary)?;
        Ok((temporary, output))
    }

    fn stage_small(&self, name: String, bytes: &[u8]) -> Result<(), StoreError> {
        let (temporary, mut output) = self.create()?;
        output.append(bytes).doing("write", &temporary)?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.stage(Staged { temporary, name, output })
    }

    fn stage(&self, staged: Staged) -> Result<(), StoreError> {
        let mut inner = self.inner();
        inner.staged.push(staged);
        if inner.staged.len() < BATCH {
            return Ok(());
        }
        let batch = mem::take(&mut inner.staged);
        drop(inner);
        self.name(batch)
    }

    fn close(&self, pack: pack::Builder) -> Result<(), StoreError> {
        let (bytes, entries) = pack.finish();
        let id = Digest::of(&bytes).to_string();
        self.stage_small(format!("packs/{id}"), &bytes)?;
        self.inner().packs.push(id.clone());
        let mut index = self.index();
        let pack = index.add_pack(&id);
        for (digest, place) in entries {
            index.insert(digest, Location::Packed { pack, place });
        }
        Ok(())
    }

    /// Flushes a batch, then gives its files their names.
    fn name(&self, batch: Vec<Staged>) -> Result<(), StoreError> {
        let mut outputs = Vec::new();
        let mut names = Vec::new();
        for Staged { temporary, name, output } in batch {
            outputs.push(output);
            names.push((temporary, name));
        }
        self.disk.flush(&mut outputs).doing("flush", "temporary")?;
        drop(outputs);
        for (temporary, name) in names {
            self.disk.rename(&temporary, &name).doing("rename", &name)?;
        }
        Ok(())
    }

    /// Makes durable all that was put, and all that an earlier run left without a snapshot.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let pack = mem::take(&mut inner.pack);
        drop(inner);
        if !pack.is_empty() {
            self.close(pack)?;
        }
        let batch = mem::take(&mut self.inner().staged);
        self.name(batch)?;
        for folder in ["objects", "packs"] {
            self.disk.flush_folder(folder).doing("flush", folder)?;
        }
        self.clear_marks()
    }

    /// A pack that was written anew under the name of a damaged one has replaced it: content decides the name.
    fn clear_marks(&self) -> Result<(), StoreError> {
        let written = mem::take(&mut self.inner().packs);
        let marks = self.disk.list("damaged").doing("list", "damaged")?;
        let mut cleared = false;
        for mark in marks.iter().filter(|mark| written.contains(&mark.name)) {
            let path = format!("damaged/{}", mark.name);
            self.disk.remove(&path).doing("remove", &path)?;
            cleared = true;
        }
        if cleared { self.disk.flush_folder("damaged").doing("flush", "damaged") } else { Ok(()) }
    }

    /// Gives back the room of what did not get a name; for a run that has failed.
    pub(crate) fn abandon(&self) {
        for staged in mem::take(&mut self.inner().staged) {
            // The next save sweeps what this cannot.
            let _ = self.disk.remove(&staged.temporary);
        }
    }
}

fn check(known: Option<Digest>, found: Digest) -> Result<(), PutError> {
    match known {
        Some(known) if known != found => Err(PutError::Wrong(found)),
        _ => Ok(()),
    }
}

/// One independent zstd frame.
fn frame(piece: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.compress(piece)
}

/// Looks at samples spread over the content.
fn sample(input: &mut dyn Input) -> io::Result<bool> {
    let grid = SAMPLE as u64;
    let mut samples = Vec::new();
    for at in 0..SAMPLES {
        let mut buffer = Buffer::new(SAMPLE);
        let offset = input.size_bytes() / SAMPLES * at / grid * grid;
        let len = input.read_at(offset, buffer.room())?;
        buffer.set_len(len);
        samples.push(buffer);
        // Most content is plainly one or the other.
        if samples.len() == 8 && !compresses(samples.iter().map(Buffer::bytes)) && input.size_bytes() < SEGMENT {
            return Ok(false);
        }
    }
    Ok(compresses(samples.iter().map(Buffer::bytes)))
}

fn compresses<'a>(samples: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut plain, mut packed) = (0, 0);
    for sample in samples {
        plain += sample.len();
        packed += zstd::bulk::compress(sample, LEVEL).map_or(sample.len(), |it| it.len());
    }
    packed * 100 < plain * 95
}
