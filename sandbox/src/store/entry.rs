//! A model that the store holds: its manifest and everything that this refers to, read.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use wire::ollama::{Message, ModelDetails, TagModel};

use super::blob::hex;
use super::manifest::Manifest;
use super::{Descriptor, Store, StoreError, damaged_at, io_at, is_absence, read_json};
use crate::gguf;
use crate::name::Name;
use crate::registry::{Config, media};

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

impl Store {
    /// The model whose manifest stands exactly there.
    pub(super) fn read(&self, name: &Name) -> Result<Option<Entry>, StoreError> {
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
