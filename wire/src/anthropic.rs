//! Requests in Anthropic's dialect, as far as Ollama reads them (`anthropic/anthropic.go`).
//!
//! Invariant: reading is lenient; what may be of several shapes (a content, a system prompt) stays JSON and is judged
//! by whoever answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `POST /v1/messages`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessagesRequest {
    /// Which model.
    pub model: String,
    /// Most tokens to generate; required.
    pub max_tokens: i64,
    /// The conversation so far.
    pub messages: Vec<MessageParam>,
    /// A text, or a list of text blocks.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub system: Value,
    /// Absent means false.
    pub stream: bool,
    /// Texts at which the answer ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<String>,
    /// Functions that the model may call: `{name, description, input_schema}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// `{type: enabled | disabled}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Value>,
}

/// A message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageParam {
    /// `user` or `assistant`.
    pub role: String,
    /// A text, or a list of blocks.
    pub content: Value,
}
