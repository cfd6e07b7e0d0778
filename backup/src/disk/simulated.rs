//! A disk in memory that writes down what is done to it, fails when told to, and can be asked what a power cut after
//! any operation would have left.
//!
//! The model is stricter than any file system in use: what was not flushed may be lost on its own, whatever came after
//! it. A flushed file keeps its content but not its name; a flushed folder keeps the names in it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{Disk, Guard, Input, Listed, Lock, Output};

/// Something that was done to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A file was created: its number, its path.
    Create(usize, String),
    /// Bytes were put at the end of a file, which stood at this offset.
    Append(usize, u64, Arc<[u8]>),
    /// A file was cut to this length.
    Cut(usize, u64),
    /// A file's content was made durable.
    Flush(usize),
    /// A folder's names were made durable.
    FlushFolder(String),
    /// A file was renamed.
    Rename(String, String),
    /// A file was removed.
    Remove(String),
}

/// What stands on a disk: path to content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Which error comes when.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// At the operation of this number, counted from zero; reads and writes both count.
    pub at: usize,
    /// What is answered, as the system numbers it.
    pub errno: i32,
    /// Whether every operation after it fails as well.
    pub lasts: bool,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, (usize, Vec<u8>)>,
    /// Open files that have lost their name go on here.
    next: usize,
    log: Vec<Operation>,
    done: usize,
    fault: Option<Fault>,
}

/// The disk. A clone is the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

impl SimulatedDisk {
    /// A disk that holds these files, all of them durable.
    pub fn with(files: &Files) -> Self {
        let disk = Self::default();
        {
            let mut inner = disk.inner();
            inner.next = files.len();
            let numbered = files.iter().enumerate();
            inner.files = numbered.map(|(at, (path, bytes))| (path.clone(), (at, bytes.clone()))).collect();
        }
        disk
    }

    /// What stands on it now.
    pub fn files(&self) -> Files {
        self.inner().files.iter().map(|(path, (_, bytes))| (path.clone(), bytes.clone())).collect()
    }

    /// What was done to it so far.
    pub fn log(&self) -> Vec<Operation> {
        self.inner().log.clone()
    }

    /// How many operations were asked for, reads included.
    pub fn done(&self) -> usize {
        self.inner().done
    }

    /// Has an operation fail.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut inner = self.inner();
        inner.fault = fault;
        inner.done = 0;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation, which may be the one that fails.
    fn begin(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner();
        let number = inner.done;
        inner.done += 1;
        match inner.fault {
            Some(fault) if number == fault.at || (fault.lasts && number > fault.at) => {
                Err(io::Error::from_raw_os_error(fault.errno))
            }
            _ => Ok(inner),
        }
    }
}

/// Operations of `log` that a power cut after all of them could undo.
pub fn unsynced(log: &[Operation]) -> Vec<usize> {
    (0..log.len()).filter(|at| !is_synced(log, *at)).collect()
}

fn is_synced(log: &[Operation], at: usize) -> bool {
    let later = &log[at + 1..];
    let folder_flushed = |path: &str| {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        later.iter().any(|it| matches!(it, Operation::FlushFolder(flushed) if flushed == folder))
    };
    // A file whose later name is durable is there, whatever became of its first.
    let renamed = |path: &str| {
        let from_here = (at + 1..log.len()).find(|it| matches!(&log[*it], Operation::Rename(from, _) if from == path));
        from_here.is_some_and(|it| is_synced(log, it))
    };
    match &log[at] {
        Operation::Create(_, path) => folder_flushed(path) || renamed(path),
        Operation::Remove(path) | Operation::Rename(_, path) => folder_flushed(path),
        Operation::Append(file, ..) | Operation::Cut(file, _) => later.contains(&Operation::Flush(*file)),
        Operation::Flush(_) | Operation::FlushFolder(_) => true,
    }
}

/// What a disk that held `before` holds after `log`, without the operations in `dropped`, the one in `torn` half done.
pub fn after(before: &Files, log: &[Operation], dropped: &[usize], torn: Option<usize>) -> Files {
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut contents: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    for (at, (path, bytes)) in before.iter().enumerate() {
        names.insert(path.clone(), at);
        contents.insert(at, bytes.clone());
    }
    for (at, operation) in log.iter().enumerate().filter(|(at, _)| !dropped.contains(at)) {
        match operation {
            Operation::Create(file, path) => {
                names.insert(path.clone(), *file);
                contents.entry(*file).or_default();
            }
            Operation::Append(file, offset, bytes) => {
                let content = contents.entry(*file).or_default();
                let bytes = if torn == Some(at) { &bytes[..bytes.len() / 2] } else { bytes };
                let end = *offset as usize + bytes.len();
                // Where an earlier write was lost, its place reads as zeros.
                content.resize(content.len().max(end), 0);
                content[*offset as usize..end].copy_from_slice(bytes);
            }
            Operation::Cut(file, len) => contents.entry(*file).or_default().truncate(*len as usize),
            Operation::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Operation::Remove(path) => {
                names.remove(path);
            }
            Operation::Flush(_) | Operation::FlushFolder(_) => {}
        }
    }
    names.into_iter().map(|(path, file)| (path, contents.get(&file).cloned().unwrap_or_default())).collect()
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn Output>> {
        let mut inner = self.begin()?;
        if inner.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.next;
        inner.next += 1;
        inner.files.insert(path.to_owned(), (file, Vec::new()));
        inner.log.push(Operation::Create(file, path.to_owned()));
        Ok(Box::new(SimulatedOutput { disk: self.clone(), file, offset: 0 }))
    }

    fn reopen(&self, path: &str, len: u64) -> io::Result<Box<dyn Output>> {
        let mut inner = self.begin()?;
        let (file, content) = inner.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
        let file = *file;
        if (content.len() as u64) < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.truncate(len as usize);
        inner.log.push(Operation::Cut(file, len));
        Ok(Box::new(SimulatedOutput { disk: self.clone(), file, offset: len }))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Input>> {
        let inner = self.begin()?;
        let (_, bytes) = inner.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedInput { disk: self.clone(), bytes: bytes.clone() }))
    }

    fn flush(&self, files: &mut [Box<dyn Output>]) -> io::Result<()> {
        files.iter_mut().try_for_each(|file| file.flush())
    }

    fn flush_folder(&self, path: &str) -> io::Result<()> {
        self.begin()?.log.push(Operation::FlushFolder(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.begin()?;
        let file = inner.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.files.insert(to.to_owned(), file);
        inner.log.push(Operation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut inner = self.begin()?;
        inner.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        inner.log.push(Operation::Remove(path.to_owned()));
        Ok(())
    }

    /// Folders are there when they are needed: that a lost one takes its files along is covered by losing those.
    fn make_folder(&self, _: &str) -> io::Result<()> {
        self.begin().map(drop)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let inner = self.begin()?;
        let inside = inner.files.iter().filter_map(|(file, (_, bytes))| {
            let name = file.strip_prefix(path)?.strip_prefix('/')?;
            (!name.contains('/')).then(|| Listed {
                name: name.to_owned(),
                size_bytes: bytes.len() as u64,
                modified: SystemTime::UNIX_EPOCH,
            })
        });
        Ok(inside.collect())
    }

    fn lock(&self, _: &str, _: Lock) -> io::Result<Option<Box<dyn Guard>>> {
        self.begin().map(drop)?;
        Ok(Some(Box::new(Held)))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct Held;

impl Guard for Held {}

struct SimulatedOutput {
    disk: SimulatedDisk,
    file: usize,
    offset: u64,
}

impl Output for SimulatedOutput {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.begin()?;
        let open = inner.files.values_mut().find(|(file, _)| *file == self.file);
        let (_, content) = open.ok_or(io::ErrorKind::NotFound)?;
        content.extend_from_slice(bytes);
        inner.log.push(Operation::Append(self.file, self.offset, bytes.into()));
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.begin()?.log.push(Operation::Flush(self.file));
        Ok(())
    }
}

struct SimulatedInput {
    disk: SimulatedDisk,
    bytes: Vec<u8>,
}

impl Input for SimulatedInput {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let _counted = self.disk.begin()?;
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}
