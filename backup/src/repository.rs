//! A repository: made, opened, locked, listed, and its objects read.
//!
//! Invariant: nothing is touched before the format was read and understood.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::disk::{Buffer, Disk, Guard, Input, Lock, RealDisk, read_all};
use crate::failure::{Doing, StoreError};
use crate::index::{Index, Location};
use crate::listing::{Lister, Listing};
use crate::pack;
use crate::pump::{Broken, pump};
use crate::snapshot::Snapshot;
use crate::tree::{Entry, Lines};
use crate::watch::Watch;

const FORMAT: &str = "frontier-llm-backup";
const VERSION: u32 = 1;
const FEATURES: [&str; 2] = ["sha256", "zstd"];
/// All folders of a repository.
pub(crate) const FOLDERS: [&str; 7] = ["objects", "packs", "snapshots", "damaged", "verified", "temporary", "trash"];
/// No file of ours that is read in one go is longer.
const SMALL: u64 = 1 << 30;
/// A frame holds 4 MiB; its window is no larger.
const WINDOW_LOG: u32 = 23;

#[derive(Serialize, Deserialize)]
struct Format {
    format: String,
    version: u32,
    required: Vec<String>,
}

/// A repository that this program understands.
pub struct Repository {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) watch: Watch,
}

impl Repository {
    /// The repository in a folder of this machine.
    pub fn at(folder: &Path) -> Result<Self, StoreError> {
        Self::open(Box::new(RealDisk::new(folder)))
    }

    /// Like [`Repository::at`], and made if nothing is there yet.
    pub fn at_or_new(folder: &Path) -> Result<Self, StoreError> {
        let disk = RealDisk::new(folder);
        disk.make_folder("").doing("make", "")?;
        let ours = |name: &str| FOLDERS.contains(&name) || name == "lock" || name == "format.json";
        let names = std::fs::read_dir(folder).doing("list", "")?.flatten().map(|it| it.file_name());
        // `lost+found` is what the root of a fresh file system has.
        let foreign =
            names.filter(|name| !name.to_str().is_some_and(|it| ours(it) || it == "lost+found" || it.starts_with('.')));
        let is_empty = foreign.count() == 0;
        match Self::open(Box::new(RealDisk::new(folder))) {
            Err(StoreError::Absent) if is_empty => Self::init(Box::new(disk)),
            Err(StoreError::Absent) => Err(StoreError::Occupied),
            opened => opened,
        }
    }

    /// Opens what is on a disk.
    pub fn open(disk: Box<dyn Disk>) -> Result<Self, StoreError> {
        let bytes = match read_all(&*disk, "format.json", SMALL) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Absent),
            bytes => bytes.doing("read", "format.json")?,
        };
        let format: Format =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::damaged("format.json", error))?;
        if format.format != FORMAT {
            return Err(StoreError::damaged("format.json", "it is not a backup's"));
        }
        if format.version != VERSION {
            return Err(StoreError::Unsupported(format!("format version {}", format.version)));
        }
        match format.required.iter().find(|it| !FEATURES.contains(&it.as_str())) {
            Some(unknown) => Err(StoreError::Unsupported(format!("`{unknown}`"))),
            None => Ok(Self { disk, watch: Watch::default() }),
        }
    }

    /// Makes a repository on an empty disk. What a crashed attempt left is made anew.
    pub fn init(disk: Box<dyn Disk>) -> Result<Self, StoreError> {
        for folder in FOLDERS {
            disk.make_folder(folder).doing("make", folder)?;
        }
        let _lock = disk.lock("lock", Lock::Exclusive).doing("lock", "lock")?.ok_or(StoreError::Locked)?;
        let format =
            Format { format: FORMAT.to_owned(), version: VERSION, required: FEATURES.map(str::to_owned).to_vec() };
        let mut bytes = serde_json::to_vec(&format).map_err(|error| StoreError::damaged("format.json", error))?;
        bytes.push(b'\n');
        let repository = Self { disk, watch: Watch::default() };
        repository.publish("", "format.json", &bytes)?;
        Ok(repository)
    }

    /// Has `look` told of the bytes that a save reads, a verify checks and a restore writes, as they are, from any
    /// thread. With [`ControlFlow::Break`] the run ends in [`StoreError::Stopped`].
    #[must_use]
    pub fn watched(self, look: impl Fn(u64) -> ControlFlow<()> + Send + Sync + 'static) -> Self {
        Self { watch: Watch::new(Box::new(look)), ..self }
    }

    /// Writes a small file so that it is whole or absent, and durable on return.
    pub(crate) fn publish(&self, folder: &str, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let temporary = format!("temporary/new-{name}");
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).doing("remove", &temporary),
            _ => {}
        }
        let mut file = self.disk.create(&temporary).doing("create", &temporary)?;
        file.append(bytes).doing("write", &temporary)?;
        self.disk.flush(&mut [file]).doing("flush", &temporary)?;
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        self.disk.rename(&temporary, &path).doing("rename", &path)?;
        self.disk.flush_folder(folder).doing("flush", folder)
    }

    /// Takes the lock, or says that another run has it.
    pub(crate) fn lock(&self, kind: Lock) -> Result<Box<dyn Guard>, StoreError> {
        self.disk.lock("lock", kind).doing("lock", "lock")?.ok_or(StoreError::Locked)
    }

    /// Bytes that can still be written to it.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.disk.free_bytes().doing("measure", "")
    }

    /// Ids of all snapshots, oldest first, readable or not.
    pub fn ids(&self) -> Result<Vec<String>, StoreError> {
        let listed = self.disk.list("snapshots").doing("list", "snapshots")?;
        let mut ids: Vec<String> =
            listed.into_iter().filter_map(|file| Some(file.name.strip_suffix(".json")?.to_owned())).collect();
        ids.sort();
        Ok(ids)
    }

    /// The one id that begins so; `latest` is the newest.
    pub fn find(&self, id: &str) -> Result<String, StoreError> {
        let mut ids = self.ids()?;
        if let ("latest", Some(last)) = (id, ids.last()) {
            return Ok(last.clone());
        }
        ids.retain(|it| it.starts_with(id));
        match ids.pop() {
            Some(only) if ids.is_empty() => Ok(only),
            last => Err(StoreError::Ambiguous { id: id.to_owned(), found: ids.len() + usize::from(last.is_some()) }),
        }
    }

    /// A snapshot by its full id.
    pub fn snapshot(&self, id: &str) -> Result<Snapshot, StoreError> {
        let path = format!("snapshots/{id}.json");
        Snapshot::read(&path, &read_all(&*self.disk, &path, SMALL).doing("read", &path)?)
    }

    /// Tells what one source held, entry by entry. What was told is to be believed only when this is `Ok`.
    pub fn entries(&self, index: &Index, tree: Digest, mut each: impl FnMut(Entry) + Send) -> Result<(), StoreError> {
        let (mut lines, mut read) = (Lines::default(), Ok(()));
        self.read(index, tree, |piece| {
            if read.is_ok() {
                read = lines.take(piece, &mut each);
            }
            Ok(())
        })
        .map_err(ReadError::store)?;
        read.and_then(|()| lines.end(&mut each)).map_err(|what| StoreError::damaged(&format!("tree {tree}"), what))
    }

    /// What one source held, in little room.
    pub(crate) fn listing(&self, index: &Index, tree: Digest) -> Result<Listing, StoreError> {
        let failed = |error| StoreError::damaged(&format!("tree {tree}"), error);
        let mut lister = Lister::new().map_err(failed)?;
        let mut pushed = Ok(());
        self.entries(index, tree, |entry| {
            if pushed.is_ok() {
                pushed = lister.push(&entry);
            }
        })?;
        pushed.and_then(|()| lister.finish()).map_err(failed)
    }

    /// What one source held.
    pub fn tree(&self, index: &Index, tree: Digest) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        self.entries(index, tree, |entry| entries.push(entry))?;
        Ok(entries)
    }

    /// What stands where; packs whose index cannot be read are told apart.
    pub fn index(&self) -> Result<Index, StoreError> {
        Index::read(&*self.disk)
    }

    /// Reads an object in order and checks its hash. What `each` was given is to be believed only when this is `Ok`.
    pub(crate) fn read(
        &self,
        index: &Index,
        digest: Digest,
        mut each: impl FnMut(&[u8]) -> io::Result<()> + Send,
    ) -> Result<(), ReadError> {
        let location = index.get(&digest).ok_or_else(|| StoreError::Missing(digest.to_string()))?;
        let path = index.path(&digest, location);
        let mut file = self.open_object(&digest, &path)?;
        if let Location::Packed { place, .. } = location {
            let plain = pack::read(&path, &mut *file, digest, *place)?;
            return each(&plain).map_err(ReadError::Target);
        }
        let mut hasher = Hasher::new();
        let look = |piece: &[u8]| hasher.update(piece);
        let pumped = if matches!(location, Location::Zstd { .. }) {
            let mut decoder = zstd::stream::read::Decoder::new(Sequential::new(file)).map_err(read_failed(&path))?;
            decoder.window_log_max(WINDOW_LOG).map_err(read_failed(&path))?;
            pump(move |buffer| fill(buffer, &mut decoder), look, each)
        } else {
            let mut offset = 0;
            let read = move |buffer: &mut Buffer| {
                let len = file.read_at(offset, buffer.room())?;
                buffer.set_len(len);
                offset += len as u64;
                Ok(())
            };
            pump(read, look, each)
        };
        match pumped {
            Err(Broken::Write(error)) => return Err(ReadError::Target(error)),
            // zstd says `Other` of bytes that are no frame.
            Err(Broken::Read(error)) if error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none() => {
                return Err(StoreError::damaged(&path, error).into());
            }
            Err(Broken::Read(error)) => return Err(read_failed(&path)(error)),
            Ok(()) => {}
        }
        if hasher.finish() != digest {
            return Err(StoreError::damaged(&path, "it does not have its hash").into());
        }
        Ok(())
    }

    /// Reads an object and says what its bytes hash to, which is its digest, or else fails: a drill for one object.
    pub fn digest(&self, index: &Index, digest: Digest) -> Result<Digest, StoreError> {
        let mut hasher = Hasher::new();
        self.read(index, digest, |piece| {
            hasher.update(piece);
            Ok(())
        })
        .map_err(ReadError::store)?;
        Ok(hasher.finish())
    }

    pub(crate) fn open_object(&self, digest: &Digest, path: &str) -> Result<Box<dyn Input>, StoreError> {
        match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing(digest.to_string())),
            file => file.doing("read", path),
        }
    }
}

/// Why an object did not get to where it was going.
#[derive(Debug)]
pub(crate) enum ReadError {
    Store(StoreError),
    /// Whoever took the pieces.
    Target(io::Error),
}

impl ReadError {
    pub(crate) fn store(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Target(source) => StoreError::Disk { doing: "take in", path: String::new(), source },
        }
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn read_failed(path: &str) -> impl Fn(io::Error) -> ReadError {
    let path = path.to_owned();
    move |error| ReadError::Store(Err::<(), _>(error).doing("read", &path).expect_err("it was one"))
}

/// Fills a buffer, less only at the end.
pub(crate) fn fill(buffer: &mut Buffer, from: &mut (impl io::Read + ?Sized)) -> io::Result<()> {
    let room = buffer.room();
    let mut len = 0;
    while len < room.len() {
        match from.read(&mut room[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.set_len(len);
    Ok(())
}

/// An input from its start to its end, read in aligned pieces.
pub(crate) struct Sequential {
    input: Box<dyn Input>,
    offset: u64,
    buffer: Buffer,
    taken: usize,
}

impl Sequential {
    pub(crate) fn new(input: Box<dyn Input>) -> Self {
        Self::from(input, 0)
    }

    pub(crate) fn from(input: Box<dyn Input>, offset: u64) -> Self {
        Self { input, offset, buffer: Buffer::new(1 << 20), taken: 0 }
    }
}

impl io::Read for Sequential {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.bytes().len() {
            let len = self.input.read_at(self.offset, self.buffer.room())?;
            self.buffer.set_len(len);
            self.offset += len as u64;
            self.taken = 0;
        }
        let rest = &self.buffer.bytes()[self.taken..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.taken += len;
        Ok(len)
    }
}
