//! Blobs: bytes under the name of their digest.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Store, StoreError, io_at, is_absence};
use crate::gguf;

/// A blob as a manifest refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    /// `sha256:<64 hex digits>`.
    pub(crate) digest: String,
    pub(crate) size: u64,
}

impl Store {
    /// A blob that is there, as a layer of a model.
    pub(crate) fn layer(&self, media_type: &str, digest: &str) -> Result<Descriptor, StoreError> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(meta) => {
                Ok(Descriptor { media_type: media_type.to_owned(), digest: digest.replace('-', ":"), size: meta.len() })
            }
            Err(error) if is_absence(&error) => Err(StoreError::NoBlob(path)),
            Err(error) => Err(io_at(&path)(error)),
        }
    }

    /// Whether a blob of that name is there.
    pub(crate) fn has_blob(&self, digest: &str) -> bool {
        self.blob_path(digest).is_file()
    }

    /// The header of a blob that is a GGUF.
    pub(crate) fn gguf(&self, digest: &str) -> Result<gguf::Header, StoreError> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(io_at(&path))?;
        gguf::read_header(BufReader::new(file)).map_err(io_at(&path))
    }

    /// What a blob holds.
    pub(crate) fn blob(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        fs::read(&path).map_err(io_at(&path))
    }

    /// Writes a blob, unless it is there, and tells whether it was written.
    pub(crate) fn add_blob(&self, media_type: &str, bytes: &[u8]) -> Result<(Descriptor, bool), StoreError> {
        let digest = format!("sha256:{}", hex(bytes));
        let path = self.blob_path(&digest);
        let descriptor = Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 };
        if path.is_file() {
            return Ok((descriptor, false));
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let partial = path.with_file_name(format!("{}-partial", descriptor.digest.replace(':', "-")));
        let mut file = File::create(&partial).map_err(io_at(&partial))?;
        file.write_all(bytes).map_err(io_at(&partial))?;
        publish(&file, &partial, &path).map_err(io_at(&path))?;
        Ok((descriptor, true))
    }

    /// A place to write a blob that someone sends, and nobody sees until [`Incoming::finish`].
    pub(crate) fn incoming(&self) -> Result<Incoming<'_>, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sha256-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.root.join("blobs").join(name);
        let file = File::create(&path).map_err(io_at(&path))?;
        Ok(Incoming { store: self, path, file, hash: Sha256::new() })
    }
}

/// A blob that is on its way. Dropping it without [`Incoming::finish`] leaves nothing.
pub(crate) struct Incoming<'a> {
    store: &'a Store,
    path: PathBuf,
    file: File,
    hash: Sha256,
}

impl Incoming<'_> {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(io_at(&self.path))
    }

    /// Makes it the blob `expected`, if that is what came.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mismatch`] if something else came.
    pub(crate) fn finish(self, expected: &str) -> Result<(), StoreError> {
        let got = format!("sha256:{}", digits(&self.hash.clone().finalize()));
        if got != expected {
            return Err(StoreError::Mismatch { expected: expected.to_owned(), got });
        }
        let path = self.store.blob_path(&got);
        publish(&self.file, &self.path, &path).map_err(io_at(&path))
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // Finished, it is not there under this name any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// SHA-256 as 64 hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    digits(&Sha256::digest(bytes))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a finished partial file the real one, so that a power cut leaves either no file or a whole one.
pub(super) fn publish(file: &File, partial: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(partial, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
