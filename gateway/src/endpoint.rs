//! What a path asks for.
//!
//! Invariant: a closed list. A path that is not on it is `other`, so no client can make a label.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// The label `endpoint`: one per route of Ollama's `server/routes.go`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    Root,
    Version,
    Tags,
    Ps,
    Show,
    Pull,
    Push,
    Create,
    Copy,
    Delete,
    Blobs,
    Generate,
    Chat,
    Embed,
    Embeddings,
    OpenaiChat,
    OpenaiCompletions,
    OpenaiEmbeddings,
    OpenaiResponses,
    OpenaiModels,
    OpenaiTranscriptions,
    AnthropicMessages,
    Other,
}

impl Endpoint {
    /// Those that make a model compute, and name it in a JSON body.
    pub(crate) const INFERENCE: [Endpoint; 9] = [
        Endpoint::Generate,
        Endpoint::Chat,
        Endpoint::Embed,
        Endpoint::Embeddings,
        Endpoint::OpenaiChat,
        Endpoint::OpenaiCompletions,
        Endpoint::OpenaiEmbeddings,
        Endpoint::OpenaiResponses,
        Endpoint::AnthropicMessages,
    ];

    /// The endpoint at `path`, whatever the method.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/" => Endpoint::Root,
            "/api/version" => Endpoint::Version,
            "/api/tags" => Endpoint::Tags,
            "/api/ps" => Endpoint::Ps,
            "/api/show" => Endpoint::Show,
            "/api/pull" => Endpoint::Pull,
            "/api/push" => Endpoint::Push,
            "/api/create" => Endpoint::Create,
            "/api/copy" => Endpoint::Copy,
            "/api/delete" => Endpoint::Delete,
            "/api/generate" => Endpoint::Generate,
            "/api/chat" => Endpoint::Chat,
            "/api/embed" => Endpoint::Embed,
            "/api/embeddings" => Endpoint::Embeddings,
            "/v1/chat/completions" => Endpoint::OpenaiChat,
            "/v1/completions" => Endpoint::OpenaiCompletions,
            "/v1/embeddings" => Endpoint::OpenaiEmbeddings,
            "/v1/responses" => Endpoint::OpenaiResponses,
            "/v1/models" => Endpoint::OpenaiModels,
            "/v1/audio/transcriptions" => Endpoint::OpenaiTranscriptions,
            "/v1/messages" => Endpoint::AnthropicMessages,
            _ if path.starts_with("/api/blobs/") => Endpoint::Blobs,
            _ if path.starts_with("/v1/models/") => Endpoint::OpenaiModels,
            _ => Endpoint::Other,
        }
    }

    /// Makes a model compute.
    pub(crate) fn is_inference(self) -> bool {
        Endpoint::INFERENCE.contains(&self)
    }

    /// The field of the request's JSON body that names the model.
    pub(crate) fn model_field(self) -> Option<&'static str> {
        let manages_a_model =
            matches!(self, Endpoint::Show | Endpoint::Pull | Endpoint::Push | Endpoint::Create | Endpoint::Delete);
        (manages_a_model || self.is_inference()).then_some("model")
    }

    fn as_str(self) -> &'static str {
        match self {
            Endpoint::Root => "root",
            Endpoint::Version => "version",
            Endpoint::Tags => "tags",
            Endpoint::Ps => "ps",
            Endpoint::Show => "show",
            Endpoint::Pull => "pull",
            Endpoint::Push => "push",
            Endpoint::Create => "create",
            Endpoint::Copy => "copy",
            Endpoint::Delete => "delete",
            Endpoint::Blobs => "blobs",
            Endpoint::Generate => "generate",
            Endpoint::Chat => "chat",
            Endpoint::Embed => "embed",
            Endpoint::Embeddings => "embeddings",
            Endpoint::OpenaiChat => "openai_chat",
            Endpoint::OpenaiCompletions => "openai_completions",
            Endpoint::OpenaiEmbeddings => "openai_embeddings",
            Endpoint::OpenaiResponses => "openai_responses",
            Endpoint::OpenaiModels => "openai_models",
            Endpoint::OpenaiTranscriptions => "openai_transcriptions",
            Endpoint::AnthropicMessages => "anthropic_messages",
            Endpoint::Other => "other",
        }
    }
}

impl EncodeLabelValue for Endpoint {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_path() {
        for (path, endpoint) in [
            ("/", "root"),
            ("/api/chat", "chat"),
            ("/api/blobs/sha256:00", "blobs"),
            ("/v1/models/qwen3:8b", "openai_models"),
            ("/v1/messages", "anthropic_messages"),
            ("/v1/messages/count_tokens", "other"),
            ("/api/chat/", "other"),
            ("/favicon.ico", "other"),
        ] {
            assert_eq!(Endpoint::of(path).as_str(), endpoint, "{path}");
        }
    }

    #[test]
    fn every_inference_endpoint_names_its_model() {
        assert!(Endpoint::INFERENCE.iter().all(|endpoint| endpoint.model_field().is_some()));
        assert_eq!(Endpoint::Blobs.model_field(), None);
    }
}
