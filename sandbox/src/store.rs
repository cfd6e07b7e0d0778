//! The model store, laid out as Ollama lays it out, so that backup and restore meet the real thing:
//! `manifests/<host>/<namespace>/<model>/<tag>` and `blobs/sha256-<64 hex digits>`.
//!
//! Invariant: what stands under a final name is whole. Everything is written beside it, synced, then renamed, and a
//! manifest is written after the blobs that it refers to. Ollama is laxer; whoever reads its store must not be.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use wire::ollama::{Message, ModelDetails, PullProgress, TagModel};

use crate::gguf;
use crate::name::Name;
use crate::registry::{self, Config, Image, Layer, media};
use crate::scenario::Pull;

/// Pieces that a new blob arrives in: enough for a progress bar to move.
const PIECES: usize = 4;

/// How old what nobody refers to must be before it is pruned: it may belong to a pull that goes on.
const PRUNE_AFTER: Duration = Duration::from_secs(60 * 60);

/// A model store below one directory.
pub(crate) struct Store {
    root: PathBuf,
    /// One writer at a time: names of partial files can then be fixed, and one that a crash left is written over.
    writing: Mutex<()>,
    /// How pulls go.
    pace: Pull,
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
    pub(crate) system: String,
    pub(crate) licenses: Vec<String>,
    /// How every conversation begins.
    pub(crate) messages: Vec<Message>,
    pub(crate) params: Map<String, Value>,
    /// The GGUF's header.
    pub(crate) header: gguf::Header,
    pub(crate) layers: Vec<Descriptor>,
    /// The GGUF's place.
    pub(crate) model_path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u32,
    media_type: String,
    config: Descriptor,
    /// Go writes none as `null`.
    layers: Option<Vec<Descriptor>>,
}

/// A blob as a manifest refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    /// `sha256:<64 hex digits>`.
    pub(crate) digest: String,
    pub(crate) size: u64,
}

impl Manifest {
    /// The blobs that it refers to.
    fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().flatten().chain([&self.config])
    }
}

impl Store {
    /// The store at `root`, made if it is not there.
    pub(crate) fn open(root: &Path, pace: Pull) -> Result<Self, StoreError> {
        for dir in ["blobs", "manifests"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(io_at(&dir))?;
        }
        Ok(Self { root: root.to_owned(), writing: Mutex::new(()), pace })
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

    /// Brings a model as if it had always been there: nothing that befalls pulls befalls it.
    pub(crate) fn seed(&self, name: &Name) -> Result<(), StoreError> {
        self.pull_at(name, &Pull::default(), |_| true)
    }

    /// Brings a model from the registry, telling `progress` as it goes; a `progress` that answers `false` ends it.
    /// What is there already is kept as it is.
    pub(crate) fn pull(&self, name: &Name, progress: impl FnMut(PullProgress) -> bool) -> Result<(), StoreError> {
        self.pull_at(name, &self.pace, progress)
    }

    fn pull_at(
        &self,
        name: &Name,
        pace: &Pull,
        mut progress: impl FnMut(PullProgress) -> bool,
    ) -> Result<(), StoreError> {
        let mut tell = |line: PullProgress| if progress(line) { Ok(()) } else { Err(StoreError::Cancelled) };
        tell(status("pulling manifest"))?;
        let Image { layers, config } = registry::image(name).ok_or(StoreError::UnknownModel)?;
        let mut descriptors = Vec::new();
        let mut pace = pace.clone();
        for layer in layers.iter().chain([&config]) {
            let descriptor = describe(layer);
            self.put_blob(&descriptor, &layer.bytes, &mut pace, &mut tell)?;
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

    /// Writes a blob that comes piece by piece. Pieces that an earlier pull brought are not brought again, and those
    /// that come now are taken off `pace`.
    fn put_blob(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        pace: &mut Pull,
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
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let partial = path.with_file_name(format!("{}-partial", descriptor.digest.replace(':', "-")));
        let held = fs::read(&partial).unwrap_or_default();
        let mut written = if bytes.starts_with(&held) && held.len() < bytes.len() { held.len() } else { 0 };
        tell(here(written))?;
        let mut file = open_at(&partial, written).map_err(io_at(&partial))?;
        for piece in bytes[written..].chunks(bytes.len().div_ceil(PIECES).max(1)) {
            match &mut pace.error_after_pieces {
                Some(0) => return Err(StoreError::RegistryGone),
                Some(left) => *left -= 1,
                None => {}
            }
            std::thread::sleep(Duration::from_millis(pace.piece_ms));
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

    /// As Ollama at its start: removes what is older than an hour among the blobs and is no blob, or one that no
    /// manifest refers to; nothing at all if a manifest cannot be read.
    pub(crate) fn prune(&self) -> Result<(), StoreError> {
        let Some(used) = self.used()? else {
            log::warn!("a manifest cannot be read: nothing is pruned");
            return Ok(());
        };
        let blobs = self.root.join("blobs");
        for file in children(&blobs)? {
            let path = blobs.join(&file);
            let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
            if !used.contains(&path) && path.is_file() && age.is_some_and(|age| age >= PRUNE_AFTER) {
                log::info!("removing {file}: no model uses it");
                fs::remove_file(&path).map_err(io_at(&path))?;
            }
        }
        Ok(())
    }

    fn remove_unused(&self, digests: impl Iterator<Item = String>) -> Result<(), StoreError> {
        let Some(used) = self.used()? else { return Ok(()) };
        for path in digests.map(|digest| self.blob_path(&digest)).filter(|path| !used.contains(path)) {
            match fs::remove_file(&path) {
                Err(error) if !is_absence(&error) => return Err(io_at(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the blobs are that manifests refer to; `None` if a manifest cannot be read.
    fn used(&self) -> Result<Option<HashSet<PathBuf>>, StoreError> {
        let mut used = HashSet::new();
        for name in self.names()? {
            let path = self.root.join("manifests").join(name.path());
            match read_json::<Manifest>(&path) {
                Ok(manifest) => used.extend(manifest.blobs().map(|blob| self.blob_path(&blob.digest))),
                Err(StoreError::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(used))
    }

    /// The name in the letters that the store has it in, if it has it.
    fn as_held(&self, name: &Name) -> Result<Name, StoreError> {
        Ok(self.names()?.into_iter().find(|held| held.is_same(name)).unwrap_or_else(|| name.clone()))
    }

    fn put_manifest(&self, name: &Name, config: Descriptor, layers: Vec<Descriptor>) -> Result<(), StoreError> {
        let manifest =
            Manifest { schema_version: 2, media_type: media::MANIFEST.to_owned(), config, layers: Some(layers) };
        let path = self.root.join("manifests").join(name.path());
        let bytes = serde_json::to_vec(&manifest).map_err(damaged_at(&path))?;
        self.put_manifest_bytes(name, &bytes)
    }

    fn put_manifest_bytes(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join("manifests").join(name.path());
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
        file.write_all(bytes).map_err(io_at(&partial))?;
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
        let layers = manifest.layers.clone().unwrap_or_default();
        let of = |media_type: &str| -> Vec<PathBuf> {
            let of = layers.iter().filter(|layer| layer.media_type == media_type);
            of.map(|layer| self.blob_path(&layer.digest)).collect()
        };
        let texts = |media_type| {
            let read = |path: &PathBuf| fs::read_to_string(path).map_err(io_at(path));
            of(media_type).iter().map(read).collect::<Result<Vec<String>, _>>()
        };
        // The last of a kind counts, as in Ollama, which reads one after the other.
        let params = of(media::PARAMS).last().map(|path| read_json(path)).transpose()?;
        let messages = of(media::MESSAGES).last().map(|path| read_json(path)).transpose()?;
        // A manifest without a model is refused as one whose model is missing.
        let model_path = of(media::MODEL).pop().unwrap_or_else(|| self.blob_path("none"));
        let model = File::open(&model_path).map_err(io_at(&model_path))?;
        Ok(Some(Entry {
            name: name.clone(),
            digest: hex(&bytes),
            size_bytes: manifest.blobs().map(|layer| layer.size).sum(),
            modified_at: modified.into(),
            config: read_json(&self.blob_path(&manifest.config.digest))?,
            // Ollama's own, for a model that brings none.
            template: texts(media::TEMPLATE)?.pop().unwrap_or_else(|| "{{ .Prompt }}".to_owned()),
            system: texts(media::SYSTEM)?.pop().unwrap_or_default(),
            licenses: texts(media::LICENSE)?,
            messages: messages.unwrap_or_default(),
            params: params.unwrap_or_default(),
            header: gguf::read_header(BufReader::new(model)).map_err(io_at(&model_path))?,
            model_path,
            layers,
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
        let by_variable = [(".Tools", "tools"), (".Suffix", "insert"), (".Thinking", "thinking")];
        let found = by_variable.into_iter().filter(|(variable, _)| self.template.contains(variable));
        let first = if self.is_embedder() { "embedding" } else { "completion" };
        [first].into_iter().chain(found.map(|(_, capability)| capability)).map(str::to_owned).collect()
    }

    /// Whether it makes vectors, and nothing else.
    pub(crate) fn is_embedder(&self) -> bool {
        self.figure("pooling_type").is_some()
    }

    /// `<architecture>.<key>` of the GGUF's metadata.
    pub(crate) fn figure(&self, key: &str) -> Option<u32> {
        let metadata = &self.header.metadata;
        let architecture = metadata.get("general.architecture")?.as_str()?;
        metadata.get(&format!("{architecture}.{key}"))?.as_u64()?.try_into().ok()
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
    digits(&Sha256::digest(bytes))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// A file whose first `len` bytes stay, to be written after them.
fn open_at(path: &Path, len: usize) -> io::Result<File> {
    let mut file = File::options().create(true).write(true).truncate(false).open(path)?;
    file.set_len(len as u64)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
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
