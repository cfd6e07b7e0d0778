//! Ollama's API as data, shared by those who ask (verify, bench, gateway) and the stand-in that answers.
//!
//! The shapes follow `api/types.go` and `docs/api.md` of ollama/ollama. Two habits of the engine rule this page:
//! it omits whatever is zero (Go's `omitempty`), and it adds fields from one version to the next.
//!
//! Invariant: reading is lenient — every counter, duration and label that the engine may omit is optional or defaulted,
//! `null` reads like an absent field, unknown fields are ignored — and writing omits what the engine would omit.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The body of every error answer, and the last line of a stream that failed after its status had gone out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, in the engine's words.
    pub error: String,
}

/// One line of a streamed answer. An error arrives in the place of a chunk, under status 200.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Line<T> {
    /// The stream ends here, unfinished.
    Error(ErrorBody),
    /// What was asked for.
    Chunk(T),
}

/// `GET /api/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// As in a release's tag, without the `v`.
    pub version: String,
}

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

/// How long a model stays in memory after its last request.
///
/// On the wire: a number of seconds or a duration as Go writes them (`"5m"`, `"1h30m"`); negative means forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// This long. Zero: it leaves as soon as it is idle.
    For(Duration),
    /// Until someone says otherwise.
    Forever,
}

impl KeepAlive {
    /// From a number of seconds; negative, or too large to matter, is forever. `None` if it is no number.
    pub fn from_seconds(seconds: f64) -> Option<Self> {
        if seconds.is_nan() {
            return None;
        }
        Some(Duration::try_from_secs_f64(seconds).map_or(Self::Forever, Self::For))
    }

    /// From a duration as Go's `time.ParseDuration` reads them: signed decimals, each with its unit, or a plain `0`.
    pub fn parse(text: &str) -> Option<Self> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if unsigned == "0" {
            return Some(Self::For(Duration::ZERO));
        }
        let mut rest = unsigned;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            seconds += number * unit_seconds(&rest[..letters])?;
            rest = &rest[letters..];
        }
        match (unsigned.is_empty(), negative && seconds > 0.0) {
            (true, _) => None,
            (false, true) => Some(Self::Forever),
            (false, false) => Self::from_seconds(seconds),
        }
    }
}

/// Seconds in one of Go's units of time.
fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        // U+00B5 and U+03BC: two characters that look alike, and Go takes both.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Forever => serializer.serialize_i64(-1),
            Self::For(duration) => serializer.collect_str(&format_args!("{}s", duration.as_secs_f64())),
        }
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepAliveVisitor)
    }
}

struct KeepAliveVisitor;

impl Visitor<'_> for KeepAliveVisitor {
    type Value = KeepAlive;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds or a duration such as \"5m\"")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<KeepAlive, E> {
        Ok(KeepAlive::For(Duration::from_secs(seconds)))
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<KeepAlive, E> {
        Ok(u64::try_from(seconds).map_or(KeepAlive::Forever, |seconds| KeepAlive::For(Duration::from_secs(seconds))))
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<KeepAlive, E> {
        KeepAlive::from_seconds(seconds).ok_or_else(|| E::invalid_value(de::Unexpected::Float(seconds), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAlive, E> {
        KeepAlive::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// Go writes `null` for an empty slice or map and reads it as one.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
    fn an_error_line_is_not_a_chunk() {
        assert_eq!(
            from_str::<Line<PullProgress>>(r#"{"error":"file does not exist"}"#).unwrap(),
            Line::Error(ErrorBody { error: "file does not exist".to_owned() })
        );
        let Line::Chunk(progress) = from_str::<Line<PullProgress>>(r#"{"status":"success"}"#).unwrap() else {
            panic!("progress was read as an error");
        };
        assert_eq!(progress.status, "success");
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

    #[test]
    fn reads_keep_alive_in_every_spelling() {
        let read = |text: &str| from_str::<KeepAlive>(text).ok();
        let seconds = |seconds| Some(KeepAlive::For(Duration::from_secs_f64(seconds)));
        assert_eq!(read("0"), seconds(0.0));
        assert_eq!(read("300"), seconds(300.0));
        assert_eq!(read("1.5"), seconds(1.5));
        assert_eq!(read("-1"), Some(KeepAlive::Forever));
        assert_eq!(read("1e300"), Some(KeepAlive::Forever));
        assert_eq!(read(r#""0""#), seconds(0.0));
        assert_eq!(read(r#""1h30m""#), seconds(5400.0));
        assert_eq!(read(r#""250ms""#), seconds(0.25));
        assert_eq!(read(r#""-1m""#), Some(KeepAlive::Forever));
        assert_eq!(read(r#""-1""#), None, "a number in a string lacks a unit");
        assert_eq!(read(r#""""#), None);
        assert_eq!(read(r#""m""#), None);
        assert_eq!(read("true"), None);
    }

    #[test]
    fn keep_alive_survives_the_wire() {
        for keep_alive in
            [KeepAlive::Forever, KeepAlive::For(Duration::ZERO), KeepAlive::For(Duration::from_millis(1500))]
        {
            let written = serde_json::to_string(&keep_alive).unwrap();
            assert_eq!(from_str::<KeepAlive>(&written).unwrap(), keep_alive, "{written}");
        }
    }
}
