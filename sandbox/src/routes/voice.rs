//! How an answer is written: one voice for each API that Ollama speaks.
//!
//! The engine knows one kind of answer; Ollama's own two dialects are here, OpenAI's and Anthropic's have rooms of
//! their own. As in Ollama they are rewritings of the native chunks, down to what becomes of an error inside a stream:
//! the native API tells it, OpenAI's gets an empty chunk, Anthropic's and the Responses API nothing.
//!
//! Invariant: a voice only writes. It never waits, and what it wrote before decides nothing but form.

use chrono::{DateTime, Utc};
use serde_json::Value;
use wire::ollama::{ChatChunk, DoneReason, ErrorBody, GenerateChunk, Message, Metrics};

use super::{bytes, line};
use crate::generation::End;
use crate::script::Saying;

/// One answer in one API.
pub(super) trait Voice: Send {
    /// Of a stream.
    fn content_type(&self) -> &'static str;
    /// What a stream writes for a part of the answer. Never called with a fault.
    fn say(&mut self, saying: &Saying) -> Vec<u8>;
    /// What ends a stream.
    fn end(&mut self, end: &End) -> Vec<u8>;
    /// What a stream that fails ends with.
    fn fail(&mut self, error: &str) -> Vec<u8>;
    /// The answer in one piece.
    fn whole(&mut self, said: Said, end: &End) -> Vec<u8>;
}

/// Everything that an answer said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) thinking: String,
    pub(super) calls: Vec<Value>,
}

impl Said {
    pub(super) fn add(&mut self, saying: Saying) {
        match saying {
            Saying::Text(text) => self.text.push_str(&text),
            Saying::Thinking(text) => self.thinking.push_str(&text),
            Saying::Calls(calls) => self.calls.extend(calls),
            Saying::Malformed(_) | Saying::Error(_) | Saying::Death => {}
        }
    }
}

/// The answer to a request that had nothing to say.
pub(super) fn nothing(reason: DoneReason) -> End {
    End { reason, metrics: Metrics::default() }
}

/// `/api/generate`. Holds the model as the client spelled it.
pub(super) struct Generate(pub(super) String);

/// `/api/chat`. Holds the model as the client spelled it.
pub(super) struct Chat(pub(super) String);

impl Generate {
    fn chunk(&self, said: Said, end: Option<&End>) -> GenerateChunk {
        GenerateChunk {
            model: self.0.clone(),
            created_at: now(),
            response: said.text,
            thinking: said.thinking,
            done: end.is_some(),
            done_reason: end.map(|end| end.reason),
            metrics: end.map(|end| end.metrics).unwrap_or_default(),
        }
    }
}

impl Chat {
    fn chunk(&self, said: Said, end: Option<&End>) -> ChatChunk {
        ChatChunk {
            model: self.0.clone(),
            created_at: now(),
            message: Message {
                role: "assistant".to_owned(),
                content: said.text,
                thinking: said.thinking,
                tool_calls: said.calls,
                ..Message::default()
            },
            done: end.is_some(),
            done_reason: end.map(|end| end.reason),
            metrics: end.map(|end| end.metrics).unwrap_or_default(),
        }
    }
}

fn now() -> Option<DateTime<Utc>> {
    Some(Utc::now())
}

fn only(saying: &Saying) -> Said {
    let mut said = Said::default();
    said.add(saying.clone());
    said
}

const NDJSON: &str = "application/x-ndjson";

/// Both dialects differ in their chunks alone.
macro_rules! native {
    ($voice:ty) => {
        impl Voice for $voice {
            fn content_type(&self) -> &'static str {
                NDJSON
            }

            fn say(&mut self, saying: &Saying) -> Vec<u8> {
                line(&self.chunk(only(saying), None))
            }

            fn end(&mut self, end: &End) -> Vec<u8> {
                line(&self.chunk(Said::default(), Some(end)))
            }

            fn fail(&mut self, error: &str) -> Vec<u8> {
                line(&ErrorBody { error: error.to_owned() })
            }

            fn whole(&mut self, said: Said, end: &End) -> Vec<u8> {
                bytes(&self.chunk(said, Some(end)))
            }
        }
    };
}

native!(Generate);
native!(Chat);
