//! The model store, laid out as Ollama lays it out, so that backup and restore meet the real thing:
//! `manifests/<host>/<namespace>/<model>/<tag>` and `blobs/sha256-<64 hex digits>`.
//!
//! Invariant: what stands under a final name is whole. Everything is written beside it, synced, then renamed, and a
//! manifest is written after the blobs that it refers to. Ollama is laxer; whoever reads its store must not be.

mod blob;
mod entry;
mod manifest;
mod prune;
mod pull;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use self::manifest::Manifest;
use crate::name::Name;
use crate::scenario::Pull;

pub(crate) use self::blob::Descriptor;
pub(crate) use self::entry::Entry;

/// A model store below one directory.
pub(crate) struct Store {
    root: PathBuf,
    /// One writer at a time: names of partial files can then be fixed, and one that a crash left is written over.
    writing: Mutex<()>,
    /// How pulls go.
    pace: Pull,
    /// How many of those to come are to end with a digest that is not the right one.
    mismatches: AtomicU32,
}

/// Why a model could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The registry has no such model. The words are Ollama's.
    #[error("pull model manifest: file does not exist")]
    UnknownModel,
    /// Whoever asked for the model has left.
    #[error("context canceled")]
    Cancelled,
    /// A scenario wants the registry to go away. The words are Go's.
    #[error("unexpected EOF")]
    RegistryGone,
    /// A scenario wants what came to be something else. The words are Ollama's.
    #[error("digest mismatch, file must be downloaded again: want {want}, got {got}")]
    Corrupt {
        /// By the manifest.
        want: String,
        /// Of what came.
        got: String,
    },
    /// A blob that should be there is not. The words are Go's.
    #[error("stat {}: no such file or directory", .0.display())]
    NoBlob(PathBuf),
    /// A blob came whose content is not what its name promises.
    #[error("digest mismatch, expected {expected:?}, got {got:?}")]
    Mismatch {
        /// As it was announced.
        expected: String,
        /// Of what came.
        got: String,
    },
    /// A file or directory of the store could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A file of the store is not what its place promises.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What its reader answered.
        source: serde_json::Error,
    },
}

impl Store {
    /// The store at `root`, made if it is not there.
    pub(crate) fn open(root: &Path, pace: Pull) -> Result<Self, StoreError> {
        for dir in ["blobs", "manifests"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(io_at(&dir))?;
        }
        let mismatches = AtomicU32::new(pace.mismatches);
        Ok(Self { root: root.to_owned(), writing: Mutex::new(()), pace, mismatches })
    }

    /// Every model that can be read, most recently modified first. One that cannot is logged and left out, as in
    /// Ollama.
    pub(crate) fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        for name in self.names()? {
            match self.read(&name) {
                Ok(entry) => entries.extend(entry),
                Err(error) => log::warn!("{name} is left out of the list: {error}"),
            }
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.modified_at.timestamp()));
        Ok(entries)
    }

    /// The model of that name, whatever its letters' case; `None` if the store does not hold it.
    pub(crate) fn find(&self, name: &Name) -> Result<Option<Entry>, StoreError> {
        if let Some(entry) = self.read(name)? {
            return Ok(Some(entry));
        }
        match self.names()?.into_iter().find(|held| held.is_same(name)) {
            Some(held) => self.read(&held),
            None => Ok(None),
        }
    }

    /// A second name for the model of `source`. `None` if there is no such model.
    pub(crate) fn copy(&self, source: &Name, destination: &Name) -> Result<Option<()>, StoreError> {
        let Some(entry) = self.find(source)? else { return Ok(None) };
        let path = self.root.join("manifests").join(entry.name.path());
        let bytes = fs::read(&path).map_err(io_at(&path))?;
        self.put_manifest_bytes(&self.as_held(destination)?, &bytes)?;
        Ok(Some(()))
    }

    /// Removes a model, and the blobs that no other model uses. `None` if there is no such model.
    pub(crate) fn delete(&self, name: &Name) -> Result<Option<()>, StoreError> {
        let name = self.as_held(name)?;
        let path = self.root.join("manifests").join(name.path());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(io_at(&path)(error)),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(damaged_at(&path))?;
        fs::remove_file(&path).map_err(io_at(&path))?;
        // Empty directories go too, up to the host's; one that is not empty refuses, which is all that is asked.
        for dir in path.ancestors().skip(1).take(3) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        self.remove_unused(manifest.blobs().map(|blob| blob.digest.clone()))?;
        Ok(Some(()))
    }

    /// Writes a model's manifest, and removes the blobs of the one that it replaces if no model uses them any more and
    /// `prunes`.
    pub(crate) fn put_model(
        &self,
        name: &Name,
        config: Descriptor,
        layers: Vec<Descriptor>,
        prunes: bool,
    ) -> Result<(), StoreError> {
        let name = self.as_held(name)?;
        let old = fs::read(self.root.join("manifests").join(name.path()));
        self.put_manifest(&name, config, layers)?;
        match old.ok().and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok()) {
            Some(old) if prunes => self.remove_unused(old.blobs().map(|blob| blob.digest.clone())),
            _ => Ok(()),
        }
    }

    /// A manifest may hold any text for a digest: here it becomes a file name, which cannot leave `blobs/`.
    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = fs::read(path).map_err(io_at(path))?;
    serde_json::from_slice(&bytes).map_err(damaged_at(path))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

fn damaged_at(path: &Path) -> impl FnOnce(serde_json::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Damaged { path, source }
}
