//! What changes an engine's store: `/api/pull`, `/api/create`, `/api/copy`, `/api/delete`, `/api/push`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Message, null_as_default};

/// `POST /api/pull`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullRequest {
    /// Which model.
    pub model: String,
    /// The old spelling of `model`, read when that is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Absent means true; see [`PullRequest::is_streamed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl PullRequest {
    /// Whether progress comes line by line: so it does unless declined.
    pub fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(true)
    }
}

/// One line of the answer to [`PullRequest`]. The last line of a pull that worked says `success`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullProgress {
    /// `pulling manifest`, `pulling <12 hex digits>`, `verifying sha256 digest`, `writing manifest`, `success`.
    pub status: String,
    /// The blob on its way: `sha256:<64 hex digits>`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Bytes of that blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes of it that are here; absent while none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
}

/// `POST /api/create`. What is not given is taken over from the base.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateRequest {
    /// The model to be.
    pub model: String,
    /// The old spelling of `model`, read when that is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The base: a model, pulled if it is not there.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub from: String,
    /// The base: file names, each with the digest of a blob that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
    /// As [`CreateRequest::files`], for a fine-tune's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters: Option<BTreeMap<String, String>>,
    /// The prompt's template, in Go's template language.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub template: String,
    /// The system prompt of requests that bring none.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub system: String,
    /// Default options. Those of the base that are not named stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// How every conversation begins.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub messages: Vec<Message>,
    /// A text, or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<Value>,
    /// `q8_0`, `q4_K_M`, …: what the base, which must be F32, F16 or BF16, becomes.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub quantize: String,
    /// Absent means true; see [`CreateRequest::is_streamed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl CreateRequest {
    /// Whether progress comes line by line: so it does unless declined.
    pub fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(true)
    }
}

/// `POST /api/copy`: a second name for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyRequest {
    /// The model that is there.
    pub source: String,
    /// Its other name.
    pub destination: String,
}

/// `DELETE /api/delete`, and `POST /api/push` as far as it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameRequest {
    /// Which model.
    pub model: String,
    /// The old spelling of `model`, read when that is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Absent means true; `delete` does not look at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}
