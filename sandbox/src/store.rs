//! The model store, laid out as Ollama lays it out, so that backup and restore meet the real thing:
//! `manifests/<host>/<namespace>/<model>/<tag>` and `blobs/sha256-<64 hex digits>`.
//!
//! Invariant: what stands under a final name is whole. Everything is written beside it, synced, then renamed, and a
//! manifest is written after the blobs that it refers to. Ollama is laxer; whoever reads its store must not be.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use wire::ollama::{ModelDetails, PullProgress, TagModel};

use crate::gguf;
use crate::name::Name;
use crate::registry::{self, Config, Image, Layer, media};

/// Pieces that a new blob arrives in: enough for a progress bar to move.
const PIECES: usize = 4;

/// A model store below one directory.
pub(crate) struct Store {
    root: PathBuf,
    /// One writer at a time: names of partial files can then be fixed, and one that a crash left is written over.
    writing: Mutex<()>,
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

/// A model that the store holds.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    /// SHA-256 of the manifest's bytes, 64 hex digits.
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
    pub(crate) modified_at: DateTime<Utc>,
    pub(crate) config: Config,
    pub(crate) template: String,
    pub(crate) params: Map<String, Value>,
    /// The GGUF's header.
    pub(crate) metadata: Map<String, Value>,
    /// The GGUF's place.
    pub(crate) model_path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// A blob as a manifest refers to it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    /// `sha256:<64 hex digits>`.
    digest: String,
    size: u64,
}

impl Store {
    /// The store at `root`, made if it is not there.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        for dir in ["blobs", "manifests"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(io_at(&dir))?;
        }
        Ok(Self { root: root.to_owned(), writing: Mutex::new(()) })
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

    /// Brings a model from the registry, telling `progress` as it goes; a `progress` that answers `false` ends it.
    /// What is there already is kept as it is.
    pub(crate) fn pull(&self, name: &Name, mut progress: impl FnMut(PullProgress) -> bool) -> Result<(), StoreError> {
        let mut tell = |line: PullProgress| if progress(line) { Ok(()) } else { Err(StoreError::Cancelled) };
        tell(status("pulling manifest"))?;
        let Image { layers, config } = registry::image(name).ok_or(StoreError::UnknownModel)?;
        let mut descriptors = Vec::new();
        for layer in layers.iter().chain([&config]) {
            let descriptor = describe(layer);
            self.put_blob(&descriptor, &layer.bytes, &mut tell)?;
            descriptors.push(descriptor);
        }
        // Nothing is left to verify: a blob's name was made from its bytes. The line is part of the protocol.
        tell(status("verifying sha256 digest"))?;
        tell(status("writing manifest"))?;
        if let Some(config) = descriptors.pop() {
            self.put_manifest(name, config, descriptors)?;
        }
        tell(status("success"))
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        tell: &mut impl FnMut(PullProgress) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = self.blob_path(&descriptor.digest);
        let here = |completed: usize| PullProgress {
            status: format!("pulling {}", &descriptor.digest["sha256:".len()..][..12]),
            digest: descriptor.digest.clone(),
            total: Some(descriptor.size),
            completed: (completed > 0).then_some(completed as u64),
        };
        if fs::metadata(&path).is_ok_and(|meta| meta.len() == descriptor.size) {
            return tell(here(bytes.len()));
        }
        tell(here(0))?;
        let _writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let partial = path.with_file_name(format!("{}-partial", descriptor.digest.replace(':', "-")));
        let mut file = File::create(&partial).map_err(io_at(&partial))?;
        let mut written = 0;
        for piece in bytes.chunks(bytes.len().div_ceil(PIECES).max(1)) {
            file.write_all(piece).map_err(io_at(&partial))?;
            written += piece.len();
            // The last piece is told once the blob is safe.
            if written < bytes.len() {
                tell(here(written))?;
            }
        }
        publish(&file, &partial, &path).map_err(io_at(&path))?;
        tell(here(bytes.len()))
    }

    fn put_manifest(&self, name: &Name, config: Descriptor, layers: Vec<Descriptor>) -> Result<(), StoreError> {
        let manifest = Manifest { schema_version: 2, media_type: media::MANIFEST.to_owned(), config, layers };
        let path = self.root.join("manifests").join(name.path());
        let bytes = serde_json::to_vec(&manifest).map_err(damaged_at(&path))?;
        if fs::read(&path).is_ok_and(|held| held == bytes) {
            return Ok(());
        }
        let _writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io_at(dir))?;
        }
        // Beside the tags it would look like one, so it waits among the blobs.
        let partial = self.root.join("blobs").join("manifest-partial");
        let mut file = File::create(&partial).map_err(io_at(&partial))?;
        file.write_all(&bytes).map_err(io_at(&partial))?;
        publish(&file, &partial, &path).map_err(io_at(&path))
    }

    /// The names of all manifests, in the order of their paths.
    fn names(&self) -> Result<Vec<Name>, StoreError> {
        let mut names = Vec::new();
        let root = self.root.join("manifests");
        for host in children(&root)? {
            for namespace in children(&root.join(&host))? {
                for model in children(&root.join(&host).join(&namespace))? {
                    for tag in children(&root.join(&host).join(&namespace).join(&model))? {
                        names.extend(Name::from_parts(&host, &namespace, &model, &tag));
                    }
                }
            }
        }
        Ok(names)
    }

    /// The model whose manifest stands exactly there.
    fn read(&self, name: &Name) -> Result<Option<Entry>, StoreError> {
        let path = self.root.join("manifests").join(name.path());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // A directory or a file in the middle of the path: whatever stands there is no manifest.
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(io_at(&path)(error)),
        };
        let modified = fs::metadata(&path).and_then(|meta| meta.modified()).map_err(io_at(&path))?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(damaged_at(&path))?;
        let layer = |media_type| {
            let descriptor = manifest.layers.iter().find(|layer| layer.media_type == media_type)?;
            Some(self.blob_path(&descriptor.digest))
        };
        let template =
            layer(media::TEMPLATE).map(|path| fs::read_to_string(&path).map_err(io_at(&path))).transpose()?;
        let params = layer(media::PARAMS).map(|path| read_json(&path)).transpose()?;
        // A manifest without a model is refused as one whose model is missing.
        let model_path = layer(media::MODEL).unwrap_or_else(|| self.blob_path("none"));
        let model = File::open(&model_path).map_err(io_at(&model_path))?;
        Ok(Some(Entry {
            name: name.clone(),
            digest: hex(&bytes),
            size_bytes: manifest.layers.iter().chain([&manifest.config]).map(|layer| layer.size).sum(),
            modified_at: modified.into(),
            config: read_json(&self.blob_path(&manifest.config.digest))?,
            template: template.unwrap_or_default(),
            params: params.unwrap_or_default(),
            metadata: gguf::read_metadata(BufReader::new(model)).map_err(io_at(&model_path))?,
            model_path,
        }))
    }

    /// A manifest may hold any text for a digest: here it becomes a file name, which cannot leave `blobs/`.
    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }
}

impl Entry {
    /// The labels that people choose by.
    pub(crate) fn details(&self) -> ModelDetails {
        ModelDetails {
            format: self.config.model_format.clone(),
            family: self.config.model_family.clone(),
            families: self.config.model_families.clone().unwrap_or_default(),
            parameter_size: self.config.model_type.clone(),
            quantization_level: self.config.file_type.clone(),
            ..ModelDetails::default()
        }
    }

    /// As `/api/tags` lists it.
    pub(crate) fn tag_model(&self) -> TagModel {
        TagModel {
            name: self.name.to_string(),
            model: self.name.to_string(),
            modified_at: Some(self.modified_at),
            size: self.size_bytes,
            digest: self.digest.clone(),
            details: ModelDetails {
                context_length: self.figure("context_length"),
                embedding_length: self.figure("embedding_length"),
                ..self.details()
            },
            capabilities: self.capabilities(),
        }
    }

    /// What it can do, told as Ollama tells it: by the variables of its template.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        let by_variable = [(".Tools", "tools"), (".Suffix", "insert")];
        let found = by_variable.into_iter().filter(|(variable, _)| self.template.contains(variable));
        ["completion"].into_iter().chain(found.map(|(_, capability)| capability)).map(str::to_owned).collect()
    }

    /// `<architecture>.<key>` of the GGUF's metadata.
    pub(crate) fn figure(&self, key: &str) -> Option<u32> {
        let architecture = self.metadata.get("general.architecture")?.as_str()?;
        self.metadata.get(&format!("{architecture}.{key}"))?.as_u64()?.try_into().ok()
    }
}

fn status(status: &str) -> PullProgress {
    PullProgress { status: status.to_owned(), ..PullProgress::default() }
}

fn describe(layer: &Layer) -> Descriptor {
    Descriptor {
        media_type: layer.media_type.to_owned(),
        digest: format!("sha256:{}", hex(&layer.bytes)),
        size: layer.bytes.len() as u64,
    }
}

/// SHA-256 as 64 hex digits.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a finished partial file the real one, so that a power cut leaves either no file or a whole one.
fn publish(file: &File, partial: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(partial, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Names of a directory's entries, sorted. A file in a directory's place has none.
fn children(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(io_at(dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(io_at(dir))?.file_name().into_string());
    }
    names.sort();
    Ok(names)
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
