//! `/v1/chat/completions`, `/v1/completions`, `/v1/models`: OpenAI's API as Ollama rewrites its own into it
//! (`openai/openai.go`, `middleware/openai.go`).
//!
//! Invariant: requests become native ones before anything else happens, so both APIs agree on everything but form.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use wire::ollama::{DoneReason, GenerateRequest, Message, ModelOptions};
use wire::openai::{ChatCompletionRequest, ChatMessage, CompletionRequest, StreamOptions};

use super::inference::{Ask, Think, ask_to_generate};
use super::voice::{Said, Voice};
use super::{Refusal, bytes};
use crate::Engine;
use crate::generation::End;
use crate::name::Name;
use crate::script::Saying;
use crate::store::Entry;

const EVENTS: &str = "text/event-stream";
const DONE: &str = "data: [DONE]\n\n";

/// The request that a body holds.
pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() {
        // Go's decoder, unlike the native API, says no more than this.
        return Err(Refusal::bad_request("EOF"));
    }
    super::read(body)
}

/// A refusal in OpenAI's shape.
pub(super) fn refusal(refusal: &Refusal) -> Value {
    let kind = match refusal.status {
        StatusCode::BAD_REQUEST => "invalid_request_error",
        StatusCode::NOT_FOUND => "not_found_error",
        _ => "api_error",
    };
    json!({"error": {"message": refusal.error, "type": kind, "param": null, "code": null}})
}

pub(super) async fn models(State(engine): State<Arc<Engine>>) -> Result<Response, Refusal> {
    let entries = engine.store.list()?;
    // Go writes no models as `null`.
    let data = if entries.is_empty() { Value::Null } else { entries.iter().map(listed).collect() };
    Ok(super::json(&json!({"object": "list", "data": data})))
}

pub(super) async fn model(State(engine): State<Arc<Engine>>, Path(spelled): Path<String>) -> Result<Response, Refusal> {
    let name = Name::parse(&spelled).ok_or_else(|| Refusal::bad_request("invalid model name"))?;
    let entry = engine.store.find(&name)?.ok_or_else(|| Refusal::no_such_model(&name.to_string()))?;
    let mut model = listed(&entry);
    model["id"] = spelled.into();
    Ok(super::json(&model))
}

fn listed(entry: &Entry) -> Value {
    json!({
        "id": entry.name.to_string(),
        "object": "model",
        "created": entry.modified_at.timestamp(),
        "owned_by": entry.name.namespace,
    })
}

pub(super) async fn chat(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: ChatCompletionRequest = read(&body)?;
    if request.messages.is_empty() {
        return Err(Refusal::bad_request("[] is too short - 'messages'"));
    }
    let effort = request.reasoning.and_then(|reasoning| reasoning.effort).or(request.reasoning_effort);
    let tools = request.tools.unwrap_or_default();
    let ask = Ask {
        messages: messages(&request.messages)?,
        needs: if tools.is_empty() { vec!["completion"] } else { vec!["completion", "tools"] },
        think: think(effort.as_deref())?,
        tools,
        format: request.response_format.as_ref().and_then(format),
        options: options(request.max_tokens, request.seed, &request.stop),
        is_streamed: request.stream,
        model: request.model,
        ..Ask::default()
    };
    if ask.model.is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    let voice = Chat {
        id: id("chatcmpl"),
        model: ask.model.clone(),
        created: Utc::now().timestamp(),
        with_usage: wants_usage(request.stream_options),
        has_begun: false,
        has_called: false,
    };
    engine.answer(ask, voice).await
}

pub(super) async fn completions(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: CompletionRequest = read(&body)?;
    let voice =
        Completion { id: id("cmpl"), model: request.model.clone(), with_usage: wants_usage(request.stream_options) };
    let native = GenerateRequest {
        model: request.model,
        prompt: request.prompt,
        suffix: request.suffix,
        options: options(request.max_tokens, request.seed, &request.stop),
        ..GenerateRequest::default()
    };
    if native.model.is_empty() {
        return Err(Refusal::no_such_model(""));
    }
    engine.answer(ask_to_generate(native, request.stream), voice).await
}

fn wants_usage(options: Option<StreamOptions>) -> bool {
    options.is_some_and(|options| options.include_usage)
}

/// Ollama draws a number below 999, too; here it counts up.
pub(super) fn id(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn options(max_tokens: Option<i64>, seed: Option<i64>, stop: &Value) -> ModelOptions {
    let stop = match stop {
        Value::String(stop) => Some(vec![stop.clone()]),
        Value::Array(stops) => Some(stops.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => None,
    };
    ModelOptions { num_predict: max_tokens, seed, stop, ..ModelOptions::default() }
}

/// What `response_format` asks for.
fn format(wanted: &Value) -> Option<Value> {
    match wanted.get("type")?.as_str()?.trim().to_ascii_lowercase().as_str() {
        "json_object" => Some("json".into()),
        "json_schema" => wanted.pointer("/json_schema/schema").cloned(),
        _ => None,
    }
}

/// What an effort means.
pub(super) fn think(effort: Option<&str>) -> Result<Think, Refusal> {
    match effort.unwrap_or_default() {
        "" => Ok(Think::Unsaid),
        "none" => Ok(Think::Unwanted),
        "minimal" | "low" | "medium" | "high" | "max" | "xhigh" | "ultra" => Ok(Think::Wanted),
        other => {
            let known = r#""minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none""#;
            Err(Refusal::bad_request(format!("invalid reasoning value: {other:?} (must be {known})")))
        }
    }
}

/// OpenAI's messages as native ones: each part of a content becomes a message of its own.
fn messages(messages: &[ChatMessage]) -> Result<Vec<Message>, Refusal> {
    let mut native: Vec<Message> = Vec::new();
    for message in messages {
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        let whole = Message {
            role: message.role.clone(),
            thinking: message.reasoning.clone().unwrap_or_default(),
            tool_calls: calls.iter().map(native_call).collect::<Result<_, _>>()?,
            tool_name: message.name.clone().unwrap_or_default(),
            tool_call_id: message.tool_call_id.clone().unwrap_or_default(),
            ..Message::default()
        };
        match &message.content {
            Value::String(content) => native.push(Message { content: content.clone(), ..whole }),
            Value::Array(parts) => {
                for part in parts {
                    let content = text_of(part)?;
                    native.push(Message { role: message.role.clone(), content, ..Message::default() });
                }
                if let Some(last) = native.last_mut().filter(|_| !calls.is_empty()) {
                    *last = Message { content: std::mem::take(&mut last.content), ..whole };
                }
            }
            _ if message.tool_calls.is_some() => native.push(whole),
            _ => return Err(Refusal::bad_request("invalid message content type: <nil>")),
        }
    }
    Ok(native)
}

/// Images and sound are looked at no further than Ollama looks at them before the model does.
fn text_of(part: &Value) -> Result<String, Refusal> {
    let invalid = || Refusal::bad_request("invalid message format");
    match part.get("type").and_then(Value::as_str) {
        Some("text") => part.get("text").and_then(Value::as_str).map(str::to_owned).ok_or_else(invalid),
        Some("image_url" | "input_audio") => Ok(String::new()),
        _ => Err(invalid()),
    }
}

fn native_call(call: &Value) -> Result<Value, Refusal> {
    let arguments = call.pointer("/function/arguments").and_then(Value::as_str).unwrap_or_default();
    let arguments: Map<String, Value> =
        serde_json::from_str(arguments).map_err(|_| Refusal::bad_request("invalid tool call arguments"))?;
    let name = call.pointer("/function/name").cloned().unwrap_or_default();
    Ok(json!({"id": call.get("id"), "function": {"index": 0, "name": name, "arguments": arguments}}))
}

/// Native calls as OpenAI has them: the arguments are JSON in a string.
pub(super) fn calls(native: &[Value]) -> Vec<Value> {
    let call = |call: &Value| {
        let function = &call["function"];
        json!({
            "id": call["id"],
            "index": function["index"],
            "type": "function",
            "function": {"name": function["name"], "arguments": function["arguments"].to_string()},
        })
    };
    native.iter().map(call).collect()
}

fn usage(end: &End) -> Value {
    let (prompt, completion) = counts(end);
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// Tokens read and told.
pub(super) fn counts(end: &End) -> (u64, u64) {
    (end.metrics.prompt_eval_count.unwrap_or(0), end.metrics.eval_count.unwrap_or(0))
}

fn finish(reason: DoneReason, has_called: bool) -> Value {
    match reason {
        DoneReason::Stop if has_called => "tool_calls".into(),
        reason => serde_json::to_value(reason).unwrap_or_default(),
    }
}

fn event(value: &Value) -> Vec<u8> {
    let mut event = b"data: ".to_vec();
    event.extend(bytes(value));
    event.extend(b"\n\n");
    event
}

/// `/v1/chat/completions`.
struct Chat {
    id: String,
    model: String,
    created: i64,
    with_usage: bool,
    has_begun: bool,
    has_called: bool,
}

impl Chat {
    fn chunk(&self, model: &str, choices: &Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        })
    }

    fn delta(&mut self, model: &str, mut delta: Value) -> Vec<u8> {
        if !std::mem::replace(&mut self.has_begun, true) {
            delta["role"] = "assistant".into();
        }
        event(&self.chunk(model, &json!([{"index": 0, "delta": delta, "finish_reason": null}])))
    }
}

impl Voice for Chat {
    fn content_type(&self) -> &'static str {
        EVENTS
    }

    fn say(&mut self, saying: &Saying) -> Vec<u8> {
        let delta = match saying {
            Saying::Text(text) => json!({"content": text}),
            Saying::Thinking(text) => json!({"content": "", "reasoning": text}),
            Saying::Calls(native) => {
                self.has_called = true;
                json!({"content": "", "tool_calls": calls(native)})
            }
            _ => return Vec::new(),
        };
        self.delta(&self.model.clone(), delta)
    }

    fn end(&mut self, end: &End) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.has_begun {
            out.extend(self.delta(&self.model.clone(), json!({"content": ""})));
        }
        let reason = finish(end.reason, self.has_called);
        out.extend(event(&self.chunk(&self.model, &json!([{"index": 0, "delta": {}, "finish_reason": reason}]))));
        if self.with_usage {
            let mut last = self.chunk(&self.model, &json!([]));
            last["usage"] = usage(end);
            out.extend(event(&last));
        }
        out.extend(DONE.bytes());
        out
    }

    /// As Ollama, which takes the error for a chunk that says nothing, of no model.
    fn fail(&mut self, _error: &str) -> Vec<u8> {
        self.delta("", json!({"content": ""}))
    }

    fn whole(&mut self, said: Said, end: &End) -> Vec<u8> {
        let mut message = json!({"role": "assistant", "content": said.text});
        if !said.thinking.is_empty() {
            message["reasoning"] = said.thinking.into();
        }
        if !said.calls.is_empty() {
            message["tool_calls"] = calls(&said.calls).into();
        }
        bytes(&json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_ollama",
            "choices": [{
                "index": 0,
                "message": message,
                "finish_reason": finish(end.reason, !said.calls.is_empty()),
            }],
            "usage": usage(end),
        }))
    }
}

/// `/v1/completions`.
struct Completion {
    id: String,
    model: String,
    with_usage: bool,
}

impl Completion {
    fn chunk(&self, model: &str, choices: &Value, usage: Option<Value>) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "text_completion",
            "created": Utc::now().timestamp(),
            "model": model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        chunk
    }

    /// Every chunk of a stream with usage has one, of noughts until the last.
    fn nought(&self) -> Option<Value> {
        self.with_usage.then(|| json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}))
    }
}

impl Voice for Completion {
    fn content_type(&self) -> &'static str {
        EVENTS
    }

    fn say(&mut self, saying: &Saying) -> Vec<u8> {
        // Thoughts have no place in this API: a chunk comes, and says nothing.
        let text = match saying {
            Saying::Text(text) => text.as_str(),
            _ => "",
        };
        let choices = json!([{"text": text, "index": 0, "finish_reason": null}]);
        event(&self.chunk(&self.model, &choices, self.nought()))
    }

    fn end(&mut self, end: &End) -> Vec<u8> {
        let choices = json!([{"text": "", "index": 0, "finish_reason": finish(end.reason, false)}]);
        let mut out = event(&self.chunk(&self.model, &choices, self.nought()));
        if self.with_usage {
            out.extend(event(&self.chunk(&self.model, &json!([]), Some(usage(end)))));
        }
        out.extend(DONE.bytes());
        out
    }

    fn fail(&mut self, _error: &str) -> Vec<u8> {
        event(&self.chunk("", &json!([{"text": "", "index": 0, "finish_reason": null}]), self.nought()))
    }

    fn whole(&mut self, said: Said, end: &End) -> Vec<u8> {
        let choices = json!([{"text": said.text, "index": 0, "finish_reason": finish(end.reason, false)}]);
        bytes(&self.chunk(&self.model, &choices, Some(usage(end))))
    }
}
