//! What is asked of a model and what it answers: `/api/generate`, `/api/chat`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KeepAlive, is_default, null_as_default};

/// Options of one request; those that nobody here reads or writes are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelOptions {
    /// Context in tokens. A value that differs from the loaded one makes the engine load the model again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_ctx: Option<u32>,
    /// Most tokens to generate; negative: until the model stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_predict: Option<i64>,
    /// Of the sampler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Of the sampler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Where an answer ends; the text itself is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
}

/// `POST /api/generate`. Without a prompt it loads the model, or unloads it if `keep_alive` is zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateRequest {
    /// Which model.
    pub model: String,
    /// What to continue.
    #[serde(deserialize_with = "null_as_default")]
    pub prompt: String,
    /// What follows the text to be inserted (fill in the middle).
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub suffix: String,
    /// In place of the model's own system prompt.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub system: String,
    /// Absent means true; see [`GenerateRequest::is_streamed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// How long the model stays in memory after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// `true`, `false`, or an effort: `"low"`, `"medium"`, `"high"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Value>,
    /// `"json"` or a JSON schema that the answer must follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
    /// Whether a prompt that does not fit is cut without a word (absent: it is) or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Sampling and context.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub options: ModelOptions,
}

impl GenerateRequest {
    /// Whether the answer comes as a stream of chunks: so it does unless declined.
    pub fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(true)
    }
}

/// One line of the answer to [`GenerateRequest`], or all of it when that is not streamed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateChunk {
    /// As the request named it.
    pub model: String,
    /// When the engine made this chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<DateTime<Utc>>,
    /// The text that this chunk adds; empty in the last one of a stream.
    pub response: String,
    /// Reasoning that this chunk adds, where the model thinks aloud.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    /// True in the last chunk only.
    pub done: bool,
    /// Why it is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<DoneReason>,
    /// In the last chunk only.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// `POST /api/chat`. Without messages it loads the model, or unloads it if `keep_alive` is zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// Which model.
    pub model: String,
    /// The conversation so far.
    #[serde(deserialize_with = "null_as_default")]
    pub messages: Vec<Message>,
    /// Functions that the model may call, each as OpenAI describes them.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub tools: Vec<Value>,
    /// Absent means true; see [`ChatRequest::is_streamed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// How long the model stays in memory after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// As in [`GenerateRequest::think`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Value>,
    /// `"json"` or a JSON schema that the answer must follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
    /// Whether a prompt that does not fit is cut without a word (absent: it is) or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Sampling and context.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub options: ModelOptions,
}

impl ChatRequest {
    /// Whether the answer comes as a stream of chunks: so it does unless declined.
    pub fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(true)
    }
}

/// One line of the answer to [`ChatRequest`], or all of it when that is not streamed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatChunk {
    /// As the request named it.
    pub model: String,
    /// When the engine made this chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<DateTime<Utc>>,
    /// What this chunk adds; its content is empty in the last one of a stream.
    pub message: Message,
    /// True in the last chunk only.
    pub done: bool,
    /// Why it is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<DoneReason>,
    /// In the last chunk only.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// A message of a conversation, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    #[serde(deserialize_with = "null_as_default")]
    pub content: String,
    /// Reasoning, where the model thinks aloud.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub thinking: String,
    /// Functions that the model wants called: `{id, function: {name, arguments}}`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub tool_calls: Vec<Value>,
    /// In a `tool` message, the function that answers.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub tool_name: String,
    /// In a `tool` message, the call that it answers.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub tool_call_id: String,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DoneReason {
    /// The model had said all.
    Stop,
    /// `num_predict` or the context was used up.
    Length,
    /// There was nothing to say: the model is in memory now.
    Load,
    /// There was nothing to say: the model is on its way out of memory.
    Unload,
    /// One that this page does not know yet.
    #[serde(other)]
    Other,
}

/// Counters and durations of one answer. Durations are in nanoseconds; whatever is zero is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// From the request's arrival to its end, the wait for a slot included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_duration: Option<u64>,
    /// Until the model was in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_duration: Option<u64>,
    /// Tokens of the prompt, those that came from the cache included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_count: Option<u64>,
    /// Covers the tokens that did not come from the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_duration: Option<u64>,
    /// Tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_count: Option<u64>,
    /// Covers the tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_duration: Option<u64>,
}

impl Metrics {
    /// Nanoseconds that the request waited for a slot. The engine reports the wait nowhere: it is what the parts leave
    /// of the total. `None` without a total.
    pub fn queue_duration(&self) -> Option<u64> {
        let parts = [self.load_duration, self.prompt_eval_duration, self.eval_duration];
        let accounted = parts.into_iter().flatten().fold(0u64, u64::saturating_add);
        Some(self.total_duration?.saturating_sub(accounted))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json, to_value};

    use super::*;

    #[test]
    fn reads_a_final_chunk_without_counters() {
        let chunk: GenerateChunk =
            from_str(r#"{"model":"m","done":true,"done_reason":"stop","new_field":[1]}"#).unwrap();
        assert_eq!(chunk.done_reason, Some(DoneReason::Stop));
        assert_eq!(chunk.metrics, Metrics::default());
        assert_eq!(chunk.metrics.queue_duration(), None);
    }

    #[test]
    fn reads_a_done_reason_of_the_future() {
        let chunk: ChatChunk = from_str(r#"{"done":true,"done_reason":"tired"}"#).unwrap();
        assert_eq!(chunk.done_reason, Some(DoneReason::Other));
    }

    #[test]
    fn the_queue_is_what_the_parts_leave_of_the_total() {
        let chunk: ChatChunk =
            from_str(r#"{"total_duration":100,"load_duration":5,"prompt_eval_duration":20,"eval_duration":30}"#)
                .unwrap();
        assert_eq!(chunk.metrics.queue_duration(), Some(45));
    }

    #[test]
    fn null_reads_like_an_absent_field() {
        let request: ChatRequest =
            from_str(r#"{"model":"m","messages":null,"options":null,"stream":null,"keep_alive":null}"#).unwrap();
        assert_eq!(request, ChatRequest { model: "m".to_owned(), ..Default::default() });
        assert!(request.is_streamed());
    }

    #[test]
    fn a_request_says_only_what_was_decided() {
        let request = GenerateRequest { model: "m".to_owned(), prompt: "p".to_owned(), ..Default::default() };
        assert_eq!(to_value(&request).unwrap(), json!({"model": "m", "prompt": "p"}));
    }
}
