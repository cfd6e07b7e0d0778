//! `POST /api/generate` and `POST /api/chat`, and the work behind every API that asks for an answer.
//!
//! Invariant: an answer is a value that its reader pulls. Whatever a request holds — its place in a queue, a slot, a
//! model in memory — it holds inside the future or stream that hyper drops when the client leaves.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::Instant;
use wire::ollama::{ChatRequest, DoneReason, GenerateRequest, KeepAlive, Message, ModelOptions};

use super::voice::{Chat, Generate, Said, Voice, nothing};
use super::{JSON, Refusal, read, with_type};
use crate::generation::{Event, Generation};
use crate::residency::{Slot, Wanted};
use crate::scenario::Reply;
use crate::script::{Saying, Script};
use crate::store::Entry;
use crate::text::Prompt;
use crate::timing::{PromptTokens, Timing};
use crate::{DEFAULT_CONTEXT_LENGTH, Engine, schema};

/// A request in any API.
#[derive(Default)]
pub(super) struct Ask {
    /// As the client spelled it.
    pub(super) model: String,
    /// Empty: load or unload only.
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<Value>,
    /// What the model must be able to do for this.
    pub(super) needs: Vec<&'static str>,
    pub(super) think: Think,
    /// `"json"` or a schema.
    pub(super) format: Option<Value>,
    pub(super) options: ModelOptions,
    pub(super) keep_alive: Option<KeepAlive>,
    /// A prompt that does not fit is refused, not cut.
    pub(super) is_uncut: bool,
    pub(super) is_streamed: bool,
}

/// Whether thoughts are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Think {
    /// If the model can.
    #[default]
    Unsaid,
    Unwanted,
    /// A model that cannot is an error …
    Wanted,
    /// … or not, as in Anthropic's API.
    WantedIfPossible,
}

impl Think {
    /// `think` is a wish if it is true or names an effort.
    fn of(think: Option<&Value>) -> Self {
        match think {
            None | Some(Value::Null) => Self::Unsaid,
            Some(Value::Bool(true)) => Self::Wanted,
            Some(Value::String(effort)) if !effort.is_empty() => Self::Wanted,
            Some(_) => Self::Unwanted,
        }
    }
}

pub(super) async fn generate(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: GenerateRequest = read(&body)?;
    if request.model.is_empty() {
        return Err(Refusal::no_such_model(""));
    }
    let is_streamed = request.is_streamed();
    let voice = Generate(request.model.clone());
    engine.answer(ask_to_generate(request, is_streamed), voice).await
}

/// The same for OpenAI's older API.
pub(super) fn ask_to_generate(request: GenerateRequest, is_streamed: bool) -> Ask {
    let mut messages = Vec::new();
    if !request.prompt.is_empty() {
        let said = [("system", &request.system), ("user", &request.prompt), ("suffix", &request.suffix)];
        messages.extend(said.into_iter().filter(|(_, content)| !content.is_empty()).map(|(role, content)| Message {
            role: role.to_owned(),
            content: content.clone(),
            ..Message::default()
        }));
    }
    Ask {
        needs: if request.suffix.is_empty() { vec!["completion"] } else { vec!["completion", "insert"] },
        think: Think::of(request.think.as_ref()),
        messages,
        model: request.model,
        format: request.format,
        options: request.options,
        keep_alive: request.keep_alive,
        is_uncut: request.truncate == Some(false),
        is_streamed,
        tools: Vec::new(),
    }
}

pub(super) async fn chat(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: ChatRequest = read(&body)?;
    if request.model.is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    let voice = Chat(request.model.clone());
    let ask = Ask {
        is_streamed: request.is_streamed(),
        needs: if request.tools.is_empty() { vec!["completion"] } else { vec!["completion", "tools"] },
        think: Think::of(request.think.as_ref()),
        model: request.model,
        messages: request.messages,
        tools: request.tools,
        format: request.format,
        options: request.options,
        keep_alive: request.keep_alive,
        is_uncut: request.truncate == Some(false),
    };
    engine.answer(ask, voice).await
}

impl Engine {
    /// Answers in `voice`.
    pub(super) async fn answer(&self, ask: Ask, mut voice: impl Voice + 'static) -> Result<Response, Refusal> {
        let arrived = Instant::now();
        let entry = self.model(&ask.model)?;
        if ask.messages.is_empty() && ask.keep_alive == Some(KeepAlive::For(Duration::ZERO)) {
            self.house.unload(&entry.name.to_string());
            return Ok(whole(voice.whole(Said::default(), &nothing(DoneReason::Unload))));
        }
        let is_thinking = capable(&entry, &ask)?;
        let model = entry.name.to_string();
        let scenario = self.scenarios.choose(&model, &ask.messages);
        if let Some((status, error)) = scenario.and_then(Reply::refusal) {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(Refusal::new(status, error));
        }
        let options = with_defaults(ask.options, &entry);
        let wanted = self.wanted(&entry, &options, ask.keep_alive);
        let context_length = wanted.context_length;
        let tenancy = self.house.enter(wanted).await?;
        if ask.messages.is_empty() {
            tenancy.ready().await;
            return Ok(whole(voice.whole(Said::default(), &nothing(DoneReason::Load))));
        }
        let prompt = Prompt {
            model,
            messages: with_own(ask.messages, &entry),
            tools: ask.tools,
            seed: options.seed.unwrap_or_default(),
            format: ask.format.filter(|format| !format.is_null() && format != ""),
            is_thinking,
        };
        if ask.is_uncut && prompt.tokens() >= context_length {
            return Err(too_long(prompt.tokens(), context_length));
        }
        if let Some(format) = prompt.format.as_ref().filter(|format| !schema::is_format(format)) {
            let expected = "expected \"json\" or a valid JSON Schema object";
            let error = format!("invalid format: {:?}; {expected}", format.to_string());
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error));
        }
        let slot = tenancy.slot().await;
        let (script, timing) = self.script(&prompt, &options, scenario);
        let tokens = prompt_tokens(&prompt, &script, &slot, context_length);
        let generation = Generation::new(slot, script, tokens, timing, arrived);
        if ask.is_streamed { streamed(generation, voice).await } else { collected(generation, voice).await }
    }

    /// What will be said, and how fast.
    fn script(&self, prompt: &Prompt, options: &ModelOptions, scenario: Option<&Reply>) -> (Script, Timing) {
        let mut script = prompt.reply();
        if let Some(scenario) = scenario {
            script = scenario.script(script);
        }
        script.stop_at(options.stop.as_deref().unwrap_or_default());
        if let Some(most) = options.num_predict.and_then(|most| u32::try_from(most).ok()) {
            script.limit(most);
        }
        if let Some(scenario) = scenario {
            scenario.spoil(&mut script);
        }
        let timing = self.options.timing;
        (script, scenario.map_or(timing, |scenario| scenario.timing(timing)))
    }

    /// The model as a request wants it in memory.
    pub(super) fn wanted(&self, entry: &Entry, options: &ModelOptions, keep_alive: Option<KeepAlive>) -> Wanted {
        let chosen = options.num_ctx.unwrap_or(self.options.context_length);
        let chosen = if chosen == 0 { DEFAULT_CONTEXT_LENGTH } else { chosen.max(LEAST_CONTEXT) };
        let trained = entry.figure("context_length").unwrap_or(u32::MAX);
        Wanted {
            model: entry.name.to_string(),
            size_bytes: entry.size_bytes,
            context_length: chosen.min(trained),
            load: self.options.timing.load,
            keep_alive,
        }
    }
}

/// The runner's own refusal, which Ollama passes on as it is: JSON within a string.
fn too_long(tokens: u32, context_length: u32) -> Refusal {
    let size = format!("the available context size ({context_length} tokens)");
    let error = json!({"error": {
        "code": 400,
        "message": format!("request ({tokens} tokens) exceeds {size}, try increasing it"),
        "type": "exceed_context_size_error",
        "n_prompt_tokens": tokens,
        "n_ctx": context_length,
    }});
    Refusal::bad_request(error.to_string())
}

/// Ollama raises a smaller context to this.
const LEAST_CONTEXT: u32 = 4;

/// Whether the model will think for this, if it can do what is asked at all.
fn capable(entry: &Entry, ask: &Ask) -> Result<bool, Refusal> {
    let capabilities = entry.capabilities();
    let can = |wanted: &str| capabilities.iter().any(|capability| capability == wanted);
    let is_thinker = can("thinking");
    if ask.think == Think::Wanted && !is_thinker {
        return Err(Refusal::bad_request(format!("{:?} does not support thinking", ask.model)));
    }
    if let Some(missing) = ask.needs.iter().find(|need| !can(need)) {
        // Ollama spells the name in full here, and here only.
        return Err(Refusal::bad_request(match *missing {
            "completion" if ask.needs.contains(&"tools") => format!("{:?} does not support chat", ask.model),
            "completion" => format!("{:?} does not support generate", ask.model),
            _ => format!("{} does not support {missing}", entry.name.full()),
        }));
    }
    Ok(is_thinker && ask.think != Think::Unwanted)
}

/// The model's own options, where the request has none.
pub(super) fn with_defaults(options: ModelOptions, entry: &Entry) -> ModelOptions {
    let own: ModelOptions = serde_json::from_value(Value::Object(entry.params.clone())).unwrap_or_else(|error| {
        log::warn!("the parameters of {} cannot be read: {error}", entry.name);
        ModelOptions::default()
    });
    ModelOptions {
        num_ctx: options.num_ctx.or(own.num_ctx),
        num_predict: options.num_predict.or(own.num_predict),
        seed: options.seed.or(own.seed),
        temperature: options.temperature.or(own.temperature),
        stop: options.stop.or(own.stop),
    }
}

/// The conversation with the model's own beginning.
fn with_own(messages: Vec<Message>, entry: &Entry) -> Vec<Message> {
    let mut all = entry.messages.clone();
    if !entry.system.is_empty() && messages.first().is_none_or(|first| first.role != "system") {
        let content = entry.system.clone();
        all.insert(0, Message { role: "system".to_owned(), content, ..Message::default() });
    }
    all.extend(messages);
    all
}

/// A prompt that does not fit is cut to half of the context without a word, as Ollama does.
fn prompt_tokens(prompt: &Prompt, script: &Script, slot: &Slot, context_length: u32) -> PromptTokens {
    let reply: String = script.steps.iter().filter_map(|step| step.text()).collect();
    let read = prompt.read();
    let shared = slot.recall(&read, &format!("{reply}\nassistant\n"));
    let all = prompt.tokens();
    if all >= context_length {
        // Where the cut falls differs from prompt to prompt, so nothing of it is in the cache.
        return PromptTokens { all: (context_length / 2).max(1), cached: 0 };
    }
    let cached = u32::try_from(shared / 4).unwrap_or(u32::MAX);
    PromptTokens { all, cached: cached.min(all.saturating_sub(1)) }
}

/// Everything at once.
async fn collected(mut generation: Generation, mut voice: impl Voice) -> Result<Response, Refusal> {
    let mut said = Said::default();
    while let Some(event) = generation.next().await {
        match event {
            Event::Say(Saying::Error(error)) => return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error)),
            Event::Say(Saying::Death) => return Ok(cut(&voice.whole(said, &nothing(DoneReason::Stop)))),
            Event::Say(Saying::Malformed(text)) => return Ok(whole(text.into_bytes())),
            Event::Say(saying) => said.add(saying),
            Event::End(end) => return Ok(whole(voice.whole(said, &end))),
        }
    }
    Ok(whole(voice.whole(said, &nothing(DoneReason::Stop))))
}

/// Chunk by chunk. The headers leave with the first one, as Ollama's do, so an error in its place has a status.
/// A connection that is to die first lets what it has written be read.
async fn streamed(mut generation: Generation, voice: impl Voice + 'static) -> Result<Response, Refusal> {
    let first = generation.next().await;
    if let Some(Event::Say(Saying::Error(error))) = first {
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error));
    }
    let content_type = voice.content_type();
    let rest = stream::unfold(generation, |mut generation| async { Some((generation.next().await?, generation)) });
    let events = stream::iter(first).chain(rest);
    let chunks = events.scan(voice, |voice, event| {
        let chunks: Vec<io::Result<Bytes>> = match event {
            Event::Say(Saying::Malformed(text)) => vec![Ok((text + "\n").into())],
            Event::Say(Saying::Error(error)) => vec![Ok(voice.fail(&error).into())],
            Event::Say(Saying::Death) => {
                let chunk = voice.say(&Saying::Text("…".to_owned()));
                vec![Ok(chunk[..chunk.len() / 2].to_vec().into()), Err(died())]
            }
            Event::Say(saying) => vec![Ok(voice.say(&saying).into())],
            Event::End(end) => vec![Ok(voice.end(&end).into())],
        };
        std::future::ready(Some(stream::iter(chunks).then(|chunk| async {
            if chunk.is_err() {
                tokio::time::sleep(LAST_WORDS).await;
            }
            chunk
        })))
    });
    // What a voice has nothing to write for is no chunk: an empty one would end the body.
    let chunks = chunks.flatten().filter(|chunk| std::future::ready(chunk.as_ref().map_or(true, |c| !c.is_empty())));
    Ok(with_type(content_type, Body::from_stream(chunks)))
}

/// What is written leaves the kernel in this time; a reset right after it could overtake it.
const LAST_WORDS: Duration = Duration::from_millis(20);

fn whole(answer: Vec<u8>) -> Response {
    with_type(JSON, Body::from(answer))
}

/// Half of an answer, then the connection ends.
fn cut(answer: &[u8]) -> Response {
    let half = Bytes::copy_from_slice(&answer[..answer.len() / 2]);
    with_type(JSON, Body::from_stream(stream::iter([Ok(half), Err(died())])))
}

fn died() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the scenario ends here")
}
