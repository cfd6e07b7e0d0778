//! `POST /api/generate` and `POST /api/chat`: the same work told in two dialects.
//!
//! Invariant: an answer is a value that its reader pulls. Whatever a request holds — its place in a queue, a slot, a
//! model in memory — it holds inside the future or stream that hyper drops when the client leaves.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::time::Instant;
use wire::ollama::{
    ChatChunk, ChatRequest, DoneReason, GenerateChunk, GenerateRequest, KeepAlive, Message, Metrics, ModelOptions,
};

use super::{Refusal, json, line, ndjson, read};
use crate::generation::{Bounds, End, Event, Generation};
use crate::residency::Wanted;
use crate::store::Entry;
use crate::text::Prompt;
use crate::{DEFAULT_CONTEXT_LENGTH, Engine, or_default};

/// A request in either dialect.
struct Ask {
    voice: Voice,
    /// Empty: load or unload only.
    messages: Vec<Message>,
    /// What the model must be able to do for this.
    needs: Vec<&'static str>,
    options: ModelOptions,
    keep_alive: Option<KeepAlive>,
    is_streamed: bool,
}

/// How chunks are written.
struct Voice {
    dialect: Dialect,
    /// As the client spelled it.
    model: String,
}

enum Dialect {
    Generate,
    Chat,
}

pub(super) async fn generate(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let arrived = Instant::now();
    let request: GenerateRequest = read(&body)?;
    if request.model.is_empty() {
        return Err(Refusal::no_such_model(""));
    }
    let mut messages = Vec::new();
    if !request.prompt.is_empty() {
        let said = [("system", &request.system), ("user", &request.prompt), ("suffix", &request.suffix)];
        messages.extend(said.into_iter().filter(|(_, content)| !content.is_empty()).map(|(role, content)| Message {
            role: role.to_owned(),
            content: content.clone(),
            ..Message::default()
        }));
    }
    let mut needs = vec!["completion"];
    needs.extend((!request.suffix.is_empty()).then_some("insert"));
    needs.extend(request.think.as_ref().is_some_and(is_wanted).then_some("thinking"));
    let ask = Ask {
        is_streamed: request.is_streamed(),
        voice: Voice { dialect: Dialect::Generate, model: request.model },
        messages,
        needs,
        options: request.options,
        keep_alive: request.keep_alive,
    };
    engine.answer(ask, arrived).await
}

pub(super) async fn chat(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let arrived = Instant::now();
    let request: ChatRequest = read(&body)?;
    if request.model.is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    let mut needs = vec!["completion"];
    needs.extend((!request.tools.is_empty()).then_some("tools"));
    needs.extend(request.think.as_ref().is_some_and(is_wanted).then_some("thinking"));
    let ask = Ask {
        is_streamed: request.is_streamed(),
        voice: Voice { dialect: Dialect::Chat, model: request.model },
        messages: request.messages,
        needs,
        options: request.options,
        keep_alive: request.keep_alive,
    };
    engine.answer(ask, arrived).await
}

/// `think` is a wish if it is true or names an effort.
fn is_wanted(think: &Value) -> bool {
    match think {
        Value::Bool(wanted) => *wanted,
        Value::String(effort) => !effort.is_empty(),
        _ => false,
    }
}

impl Engine {
    async fn answer(&self, ask: Ask, arrived: Instant) -> Result<Response, Refusal> {
        let entry = self.model(&ask.voice.model)?;
        if ask.messages.is_empty() && ask.keep_alive == Some(KeepAlive::For(Duration::ZERO)) {
            self.house.unload(&entry.name.to_string());
            return Ok(ask.voice.whole(DoneReason::Unload));
        }
        if let Some(missing) = ask.needs.iter().find(|need| !entry.capabilities().iter().any(|has| has == *need)) {
            return Err(Refusal::bad_request(format!("{:?} does not support {missing}", ask.voice.model)));
        }
        let wanted = self.wanted(&entry, &ask);
        let bounds = Bounds { context_length: wanted.context_length, num_predict: ask.options.num_predict };
        let tenancy = self.house.enter(wanted).await;
        if ask.messages.is_empty() {
            tenancy.ready().await;
            return Ok(ask.voice.whole(DoneReason::Load));
        }
        let slot = tenancy.slot().await;
        let prompt = Prompt::new(entry.name.to_string(), ask.messages, ask.options.seed);
        let generation = Generation::new(slot, &prompt, bounds, self.options.timing, arrived);
        if ask.is_streamed { Ok(ask.voice.stream(generation).await) } else { Ok(ask.voice.collect(generation).await) }
    }

    fn wanted(&self, entry: &Entry, ask: &Ask) -> Wanted {
        let chosen = ask.options.num_ctx.unwrap_or(self.options.context_length);
        let trained = entry.figure("context_length").unwrap_or(u32::MAX);
        Wanted {
            model: entry.name.to_string(),
            context_length: or_default(chosen, DEFAULT_CONTEXT_LENGTH).min(trained),
            load: self.options.timing.load,
            keep_alive: ask.keep_alive,
        }
    }
}

impl Voice {
    /// The answer to a request that had nothing to say.
    fn whole(&self, reason: DoneReason) -> Response {
        json(&self.chunk(String::new(), Some(End { reason, metrics: Metrics::default() })))
    }

    /// Everything at once.
    async fn collect(self, mut generation: Generation) -> Response {
        let mut text = String::new();
        let mut end = None;
        while let Some(event) = generation.next().await {
            match event {
                Event::Token(token) => text.push_str(&token),
                Event::End(last) => end = Some(last),
            }
        }
        json(&self.chunk(text, end))
    }

    /// Chunk by chunk. The headers leave with the first one, as Ollama's do.
    async fn stream(self, mut generation: Generation) -> Response {
        let first = generation.next().await;
        let rest = stream::unfold(generation, |mut generation| async { Some((generation.next().await?, generation)) });
        let chunks = stream::iter(first).chain(rest).map(move |event| {
            Ok::<_, Infallible>(line(&match event {
                Event::Token(token) => self.chunk(token, None),
                Event::End(end) => self.chunk(String::new(), Some(end)),
            }))
        });
        ndjson(Body::from_stream(chunks))
    }

    fn chunk(&self, text: String, end: Option<End>) -> Chunk {
        let created_at = Some(Utc::now());
        let model = self.model.clone();
        let done = end.is_some();
        let done_reason = end.as_ref().map(|end| end.reason);
        let metrics = end.map(|end| end.metrics).unwrap_or_default();
        match self.dialect {
            Dialect::Generate => Chunk::Generate(GenerateChunk {
                model,
                created_at,
                response: text,
                done,
                done_reason,
                metrics,
                ..GenerateChunk::default()
            }),
            Dialect::Chat => {
                let message = Message { role: "assistant".to_owned(), content: text, ..Message::default() };
                Chunk::Chat(ChatChunk { model, created_at, message, done, done_reason, metrics })
            }
        }
    }
}

/// A chunk in either dialect.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Chunk {
    Generate(GenerateChunk),
    Chat(ChatChunk),
}
