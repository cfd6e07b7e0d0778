//! A repository in a folder of a file system.
//!
//! Large reads and writes go past the page cache: a backup reads and writes everything once, and copying it through
//! the cache costs more than hashing it (and throws out what the host was using). Invariant: whether direct I/O works
//! decides about speed only; what it cannot do (an unaligned tail, a file system without it) goes through the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};

use super::{ALIGNMENT, Disk, Facts, Guard, Input, Listed, Lock, Output};

/// A file from this size on is worth the trouble of direct reads.
const DIRECT_FROM: u64 = 1 << 20;

/// A process that is just being started from this one has our locks too, until it is itself.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// Between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A folder of this machine.
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The repository, there or not yet, at `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(FileWriter::create(&self.at(path), 0o600)?))
    }

    fn reopen(&self, path: &str, len: u64) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(FileWriter::reopen(&self.at(path), len)?))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Input>> {
        Ok(Box::new(FileReader::open(&self.at(path))?))
    }

    fn flush(&self, files: &mut [Box<dyn Output>]) -> io::Result<()> {
        files.iter_mut().try_for_each(|file| file.flush())?;
        if cfg!(target_vendor = "apple") && !files.is_empty() {
            // The drive has them all; one order to write what it has, whichever file it is given by, covers them.
            File::open(&self.root)?.sync_all()?;
        }
        Ok(())
    }

    fn flush_folder(&self, path: &str) -> io::Result<()> {
        File::open(self.at(path))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.at(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let entries = match fs::read_dir(self.at(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry?;
            let meta = entry.metadata()?;
            // What has no name that we could have given is not ours.
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                listed.push(Listed { name, size_bytes: meta.len(), modified: meta.modified()? });
            }
        }
        Ok(listed)
    }

    fn lock(&self, path: &str, kind: Lock) -> io::Result<Option<Box<dyn Guard>>> {
        let path = self.at(path);
        // A reader of a repository that it may not write to still has its lock to hold.
        let writable = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = writable.or_else(|_| File::open(&path))?;
        let operation = match kind {
            Lock::Shared => FlockOperation::NonBlockingLockShared,
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Some(Box::new(HeldFile { _file: file }))),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_RETRY),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(Facts::of(&self.root)?.free_bytes)
    }
}

struct HeldFile {
    _file: File,
}

impl Guard for HeldFile {}

/// Has a file system write all that was given to it, and waits for that. (Linux tells of what it could not write from 5.8
/// on.)
#[cfg(target_os = "linux")]
pub(crate) fn flush_all(on: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(on)?)
}

/// Has the drive write all that was given to it by [`Output::flush`].
#[cfg(not(target_os = "linux"))]
pub(crate) fn flush_all(on: &File) -> io::Result<()> {
    on.sync_all()
}

/// Writes a file past the page cache, as far as its pieces are aligned.
pub(crate) struct FileWriter {
    file: File,
    offset: u64,
    direct: bool,
}

impl FileWriter {
    pub(crate) fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
        Ok(Self { file, offset: 0, direct: false })
    }

    fn reopen(path: &Path, len: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.set_len(len)?;
        Ok(Self { file, offset: len, direct: false })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Leaves a hole.
    pub(crate) fn skip(&mut self, len: u64) -> io::Result<()> {
        self.offset += len;
        self.file.set_len(self.offset)
    }

    /// Direct I/O wants everything aligned; the first unaligned piece is the last one, and goes through the cache.
    fn set_direct(&mut self, wanted: bool) {
        if wanted != self.direct {
            self.direct = wanted && direct(&self.file, true);
            if !wanted {
                direct(&self.file, false);
            }
        }
    }
}

impl Output for FileWriter {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits = bytes.as_ptr().align_offset(ALIGNMENT) == 0
            && self.offset.is_multiple_of(ALIGNMENT as u64)
            && bytes.len() as u64 >= DIRECT_FROM;
        let whole = if fits { bytes.len() / ALIGNMENT * ALIGNMENT } else { 0 };
        if whole > 0 {
            self.set_direct(true);
            if let Err(error) = self.file.write_all_at(&bytes[..whole], self.offset) {
                if !self.direct || error.raw_os_error() != Some(rustix::io::Errno::INVAL.raw_os_error()) {
                    return Err(error);
                }
                self.set_direct(false);
                self.file.write_all_at(&bytes[..whole], self.offset)?;
            }
        }
        if whole < bytes.len() {
            self.set_direct(false);
            self.file.write_all_at(&bytes[whole..], self.offset + whole as u64)?;
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        // On a Mac `sync_all` waits for the drive itself, some 18 ms; there a batch waits once, in `Disk::flush`.
        Ok(rustix::fs::fsync(&self.file)?)
    }
}

/// Reads a file past the page cache where it is large.
pub struct FileReader {
    file: File,
    size_bytes: u64,
    direct: bool,
}

impl FileReader {
    /// Opens a file; a symbolic link is not followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let size_bytes = file.metadata()?.len();
        let direct = size_bytes >= DIRECT_FROM && direct(&file, true);
        Ok(Self { file, size_bytes, direct })
    }

    /// Like [`FileReader::open`], for a file whose place on the drive is not in question: what memory holds of it
    /// already is taken from there.
    pub fn open_source(path: &Path) -> io::Result<Self> {
        let mut reader = Self::open(path)?;
        if reader.direct && direct(&reader.file, false) {
            reader.direct = !is_cached(&reader.file, reader.size_bytes) && direct(&reader.file, true);
        }
        Ok(reader)
    }

    /// The file itself, to be looked at.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Input for FileReader {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let fits = buffer.as_ptr().align_offset(ALIGNMENT) == 0
            && buffer.len().is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64);
        if self.direct && !fits {
            self.direct = !direct(&self.file, false);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(len) => {
                    filled += len;
                    // A direct read that ends off the grid has met the end of the file.
                    if self.direct && !len.is_multiple_of(ALIGNMENT) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && error.kind() == io::ErrorKind::InvalidInput => {
                    self.direct = !direct(&self.file, false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Whether memory holds a file, by a few pages spread over it. Looking does not bring them in.
#[cfg(target_os = "linux")]
fn is_cached(file: &File, size_bytes: u64) -> bool {
    use rustix::io::{ReadWriteFlags, preadv2};
    const LOOKS: u64 = 16;
    (0..LOOKS).all(|at| {
        let mut page = [0; ALIGNMENT];
        let offset = size_bytes / LOOKS * at;
        preadv2(file, &mut [io::IoSliceMut::new(&mut page)], offset, ReadWriteFlags::NOWAIT).is_ok_and(|len| len > 0)
    })
}

/// Here reads go through memory anyway.
#[cfg(not(target_os = "linux"))]
fn is_cached(_: &File, _: u64) -> bool {
    true
}

/// Turns direct I/O on or off; says whether that worked.
#[cfg(target_os = "linux")]
fn direct(file: &File, on: bool) -> bool {
    let Ok(flags) = rustix::fs::fcntl_getfl(file) else { return false };
    let flags = if on { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
    rustix::fs::fcntl_setfl(file, flags).is_ok()
}

/// There is no direct I/O that we know how to ask for here.
#[cfg(not(target_os = "linux"))]
fn direct(_: &File, _: bool) -> bool {
    false
}
