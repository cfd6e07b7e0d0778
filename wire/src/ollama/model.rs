//! The models that an engine has: `/api/tags`, `/api/ps`, `/api/show`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Message, is_false, null_as_default};

/// `GET /api/tags`: the models in the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tags {
    /// Most recently modified first.
    #[serde(deserialize_with = "null_as_default")]
    pub models: Vec<TagModel>,
}

/// A model in the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TagModel {
    /// Shortest form that names it, always with a tag: `qwen2.5-coder:latest`.
    pub name: String,
    /// The same as `name`.
    pub model: String,
    /// When its manifest was last written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<DateTime<Utc>>,
    /// Bytes on disk: all layers and the config.
    pub size: u64,
    /// SHA-256 of the manifest: 64 hex digits, no prefix.
    pub digest: String,
    /// What the model is.
    pub details: ModelDetails,
    /// `completion`, `tools`, `insert`, `thinking`, `vision`, … Absent before Ollama 0.32.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub capabilities: Vec<String>,
}

/// What a model is, in the labels that people choose by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelDetails {
    /// The model it was derived from; empty for most.
    pub parent_model: String,
    /// `gguf` or `safetensors`.
    pub format: String,
    /// The architecture: `qwen2`, `llama`, …
    pub family: String,
    /// Often `null` on the wire.
    #[serde(deserialize_with = "null_as_default")]
    pub families: Vec<String>,
    /// For people: `32.8B`, `494.03M`.
    pub parameter_size: String,
    /// `Q8_0`, `Q4_K_M`, `F16`, …
    pub quantization_level: String,
    /// Tokens that the model was trained to attend to. In `/api/tags` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// Width of the model. In `/api/tags` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_length: Option<u32>,
}

/// `GET /api/ps`: the models in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ps {
    /// The one that stays longest first.
    #[serde(deserialize_with = "null_as_default")]
    pub models: Vec<PsModel>,
}

/// A model in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PsModel {
    /// As in [`TagModel::name`].
    pub name: String,
    /// The same as `name`.
    pub model: String,
    /// Bytes in memory.
    pub size: u64,
    /// As in [`TagModel::digest`].
    pub digest: String,
    /// What the model is.
    pub details: ModelDetails,
    /// When it leaves memory unless asked again. Some three centuries away when it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Bytes of `size` that the GPU holds; less than `size` means that part of the model runs on the CPU.
    pub size_vram: u64,
    /// Tokens per slot that it was loaded with.
    pub context_length: u32,
}

/// `POST /api/show`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowRequest {
    /// Which model.
    pub model: String,
    /// The old spelling of `model`, read when that is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Send long arrays too. Without it the engine answers `[]` for arrays of more than five.
    #[serde(skip_serializing_if = "is_false")]
    pub verbose: bool,
}

/// The answer to [`ShowRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowResponse {
    /// A Modelfile that would make this model again.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub modelfile: String,
    /// All of the model's licences.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// The system prompt of requests that bring none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Default options, one a line, `name value`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parameters: String,
    /// The prompt's template, in Go's template language.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// What the model is.
    pub details: ModelDetails,
    /// How every conversation begins.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub messages: Vec<Message>,
    /// The GGUF's metadata: `general.architecture`, `<architecture>.context_length`, …
    #[serde(deserialize_with = "null_as_default")]
    pub model_info: Map<String, Value>,
    /// The GGUF's tensors: `{name, type, shape}`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub tensors: Vec<Value>,
    /// As in [`TagModel::capabilities`].
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub capabilities: Vec<String>,
    /// When its manifest was last written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<DateTime<Utc>>,
}
