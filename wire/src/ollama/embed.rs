//! Vectors: `/api/embed` and the older `/api/embeddings`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KeepAlive, ModelOptions, is_default, null_as_default};

/// `POST /api/embed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbedRequest {
    /// Which model.
    pub model: String,
    /// A text, or several.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// Whether a text that does not fit is cut without a word (absent: it is) or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// How many numbers of each vector to keep; absent or 0: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// How long the model stays in memory after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Sampling and context.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub options: ModelOptions,
}

/// The answer to [`EmbedRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbedResponse {
    /// As the request named it.
    pub model: String,
    /// A vector of length one for each text.
    pub embeddings: Vec<Vec<f32>>,
    /// Nanoseconds from the request's arrival.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_duration: Option<u64>,
    /// Nanoseconds until the model was in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_duration: Option<u64>,
    /// Tokens of all texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_count: Option<u64>,
}

/// `POST /api/embeddings`, the older form of [`EmbedRequest`]: one text, its vector as the model made it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbeddingRequest {
    /// Which model.
    pub model: String,
    /// The text.
    #[serde(deserialize_with = "null_as_default")]
    pub prompt: String,
    /// How long the model stays in memory after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Sampling and context.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub options: ModelOptions,
}

/// The answer to [`EmbeddingRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbeddingResponse {
    /// Not of length one.
    pub embedding: Vec<f64>,
}
