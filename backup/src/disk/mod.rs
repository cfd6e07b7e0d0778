//! The few things that the store asks of a disk. Everything it does to a repository goes through [`Disk`], so that a
//! test can stand in for the disk, fail any operation, and cut the power after any.
//!
//! Paths are relative to the repository, with `/`. Invariant: nothing else in this crate touches a repository's files.

use std::io;
use std::time::SystemTime;

mod aligned;
mod facts;
mod real;
pub mod simulated;

pub use aligned::{ALIGNMENT, Buffer};
pub use facts::{Facts, is_mounted};
pub use real::{FileReader, RealDisk};
pub(crate) use real::{FileWriter, flush_all};

/// A place that holds a repository.
pub trait Disk: Send + Sync {
    /// A new, empty file, to be written from start to end.
    fn create(&self, path: &str) -> io::Result<Box<dyn Output>>;

    /// A file that was begun, to be gone on with behind its first `len` bytes; what it has beyond them goes. An error if
    /// it is shorter.
    fn reopen(&self, path: &str, len: u64) -> io::Result<Box<dyn Output>>;

    /// A file to be read anywhere.
    fn open(&self, path: &str) -> io::Result<Box<dyn Input>>;

    /// Makes what files hold durable, all in one go.
    fn flush(&self, files: &mut [Box<dyn Output>]) -> io::Result<()>;

    /// Makes the names in a folder durable; `""` is the repository itself.
    fn flush_folder(&self, path: &str) -> io::Result<()>;

    /// Gives a file another name, in whatever folder.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes a folder, if it is not there, with all above it.
    fn make_folder(&self, path: &str) -> io::Result<()>;

    /// The files in a folder, in no order. A folder that is not there has none.
    fn list(&self, path: &str) -> io::Result<Vec<Listed>>;

    /// Takes the lock until the guard goes; `None` if another holds it.
    fn lock(&self, path: &str, kind: Lock) -> io::Result<Option<Box<dyn Guard>>>;

    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name there.
    pub name: String,
    /// How long it is.
    pub size_bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// Whom a lock keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Only those who change things: for readers.
    Shared,
    /// Everybody else.
    Exclusive,
}

/// Something that is held as long as it lives.
pub trait Guard: Send {}

/// A file that is being written.
pub trait Output: Send {
    /// Appends. Fastest where the buffer is aligned and its length a multiple of [`ALIGNMENT`].
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// For [`Disk::flush`].
    fn flush(&mut self) -> io::Result<()>;
}

/// A file that is being read.
pub trait Input: Send {
    /// How long it was when it was opened.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` from `offset` on; less only at the end. Fastest where offset, buffer and length are aligned.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// All of a file that must not be longer than `limit`.
pub(crate) fn read_all(disk: &dyn Disk, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = disk.open(path)?;
    if file.size_bytes() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than such a file can be"));
    }
    let mut bytes = vec![0; file.size_bytes() as usize];
    let len = file.read_at(0, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// A part of a file, whole or an error.
pub(crate) fn read_exactly(file: &mut dyn Input, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    if file.read_at(offset, &mut bytes)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
