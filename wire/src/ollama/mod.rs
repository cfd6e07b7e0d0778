//! Ollama's API as data, shared by those who ask (verify, bench, gateway) and the stand-in that answers.
//!
//! The shapes follow `api/types.go` and `docs/api.md` of ollama/ollama. Two habits of the engine rule this page:
//! it omits whatever is zero (Go's `omitempty`), and it adds fields from one version to the next.
//!
//! Invariant: reading is lenient — every counter, duration and label that the engine may omit is optional or defaulted,
//! `null` reads like an absent field, unknown fields are ignored — and writing omits what the engine would omit.

mod embed;
mod inference;
mod keep_alive;
mod library;
mod model;

use serde::{Deserialize, Deserializer, Serialize};

pub use self::{
    embed::{EmbedRequest, EmbedResponse, EmbeddingRequest, EmbeddingResponse},
    inference::{ChatChunk, ChatRequest, DoneReason, GenerateChunk, GenerateRequest, Message, Metrics, ModelOptions},
    keep_alive::KeepAlive,
    library::{CopyRequest, CreateRequest, NameRequest, PullProgress, PullRequest},
    model::{ModelDetails, Ps, PsModel, ShowRequest, ShowResponse, TagModel, Tags},
};

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
    use serde_json::from_str;

    use super::*;

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
}
