//! `/v1/messages`: Anthropic's API as Ollama rewrites its own into it (`anthropic/anthropic.go`).
//!
//! Invariant: every block that a stream starts it stops, before the next starts.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use wire::anthropic::{MessageParam, MessagesRequest};
use wire::ollama::{DoneReason, Message, ModelOptions};

use super::inference::{Ask, Think};
use super::openai::{counts, id, read};
use super::voice::{Said, Voice};
use super::{Refusal, bytes};
use crate::Engine;
use crate::generation::End;
use crate::script::Saying;

/// A refusal in Anthropic's shape.
pub(super) fn refusal(refusal: &Refusal) -> Value {
    let kind = match refusal.status {
        StatusCode::BAD_REQUEST => "invalid_request_error",
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        _ => "api_error",
    };
    let error = json!({"type": kind, "message": refusal.error});
    json!({"type": "error", "error": error, "request_id": id("req")})
}

pub(super) async fn messages(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: MessagesRequest = read(&body)?;
    if request.model.is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    if request.max_tokens <= 0 {
        return Err(Refusal::bad_request("max_tokens is required and must be positive"));
    }
    if request.messages.is_empty() {
        return Err(Refusal::bad_request("messages is required"));
    }
    let voice = Messages {
        id: id("msg"),
        model: request.model.clone(),
        estimate: estimate(&request),
        has_begun: false,
        open: None,
        index: 0,
        has_called: false,
    };
    let think = match request.thinking.as_ref().and_then(|thinking| thinking.get("type")).and_then(Value::as_str) {
        Some("enabled") => Think::WantedIfPossible,
        Some("disabled") => Think::Unwanted,
        _ => Think::Unsaid,
    };
    let system = text(&request.system);
    let mut messages = Vec::new();
    if !system.is_empty() {
        messages.push(Message { role: "system".to_owned(), content: system, ..Message::default() });
    }
    for message in &request.messages {
        messages.extend(native(message)?);
    }
    let tool = |tool: &Value| {
        let function = json!({
            "name": tool["name"],
            "description": tool.get("description").cloned().unwrap_or_else(|| "".into()),
            "parameters": tool.get("input_schema").cloned().unwrap_or_else(|| json!({})),
        });
        json!({"type": "function", "function": function})
    };
    let stop = (!request.stop_sequences.is_empty()).then_some(request.stop_sequences);
    let ask = Ask {
        needs: if request.tools.is_empty() { vec!["completion"] } else { vec!["completion", "tools"] },
        tools: request.tools.iter().map(tool).collect(),
        model: request.model,
        messages,
        think,
        options: ModelOptions { num_predict: Some(request.max_tokens), stop, ..ModelOptions::default() },
        is_streamed: request.stream,
        ..Ask::default()
    };
    engine.answer(ask, voice).await
}

/// The text of a content that may be a text or a list of blocks.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

/// One message may hold a text, calls and results: results go first, each as a message of its own.
fn native(message: &MessageParam) -> Result<Vec<Message>, Refusal> {
    let mut said = Message { role: message.role.to_lowercase(), ..Message::default() };
    let mut results = Vec::new();
    let plain = json!([{"type": "text", "text": message.content}]);
    let blocks = if message.content.is_string() { &plain } else { &message.content };
    for block in blocks.as_array().into_iter().flatten() {
        let field = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
        match field("type") {
            "text" => said.content.push_str(field("text")),
            "thinking" => said.thinking = field("thinking").to_owned(),
            "tool_use" => {
                for name in ["id", "name"] {
                    if field(name).is_empty() {
                        let error = format!("tool_use block missing required '{name}' field");
                        return Err(Refusal::bad_request(error));
                    }
                }
                let function = json!({"index": 0, "name": block["name"], "arguments": block["input"]});
                said.tool_calls.push(json!({"id": block["id"], "function": function}));
            }
            "tool_result" => results.push(Message {
                role: "tool".to_owned(),
                content: text(&block["content"]),
                tool_call_id: field("tool_use_id").to_owned(),
                ..Message::default()
            }),
            _ => {}
        }
    }
    let is_said = !said.content.is_empty() || !said.thinking.is_empty() || !said.tool_calls.is_empty();
    results.extend(is_said.then_some(said));
    Ok(results)
}

/// A stream tells the prompt's tokens before they are counted: a fourth of its bytes.
fn estimate(request: &MessagesRequest) -> u64 {
    let messages = request.messages.iter().map(|message| message.role.len() + text(&message.content).len());
    let tools = request.tools.iter().map(|tool| tool.to_string().len());
    let bytes = text(&request.system).len() + messages.sum::<usize>() + tools.sum::<usize>();
    (bytes as u64 / 4).max(1)
}

fn stop_reason(reason: DoneReason, has_called: bool) -> &'static str {
    match reason {
        _ if has_called => "tool_use",
        DoneReason::Stop => "end_turn",
        DoneReason::Length => "max_tokens",
        _ => "stop_sequence",
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
}

/// One answer.
struct Messages {
    id: String,
    model: String,
    estimate: u64,
    has_begun: bool,
    open: Option<Block>,
    index: u32,
    has_called: bool,
}

impl Messages {
    fn begin(&mut self, out: &mut Vec<u8>, input_tokens: u64) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "usage": {"input_tokens": input_tokens, "output_tokens": 0},
        });
        event(out, "message_start", json!({"message": message}));
    }

    fn open(&mut self, out: &mut Vec<u8>, block: Block) {
        if self.open == Some(block) {
            return;
        }
        self.close(out);
        self.open = Some(block);
        let content = match block {
            Block::Thinking => json!({"type": "thinking", "thinking": ""}),
            Block::Text => json!({"type": "text", "text": ""}),
        };
        event(out, "content_block_start", json!({"index": self.index, "content_block": content}));
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            event(out, "content_block_stop", json!({"index": self.index}));
            self.index += 1;
        }
    }

    fn delta(&self, out: &mut Vec<u8>, delta: &Value) {
        event(out, "content_block_delta", json!({"index": self.index, "delta": delta}));
    }

    fn call(&mut self, out: &mut Vec<u8>, call: &Value) {
        self.close(out);
        self.has_called = true;
        let function = &call["function"];
        let content = json!({"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}});
        event(out, "content_block_start", json!({"index": self.index, "content_block": content}));
        let json = function["arguments"].to_string();
        self.delta(out, &json!({"type": "input_json_delta", "partial_json": json}));
        event(out, "content_block_stop", json!({"index": self.index}));
        self.index += 1;
    }
}

fn event(out: &mut Vec<u8>, kind: &str, mut data: Value) {
    data["type"] = kind.into();
    out.extend(format!("event: {kind}\ndata: ").bytes());
    out.extend(bytes(&data));
    out.extend(b"\n\n");
}

impl Voice for Messages {
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn say(&mut self, saying: &Saying) -> Vec<u8> {
        let mut out = Vec::new();
        self.begin(&mut out, self.estimate);
        match saying {
            Saying::Thinking(text) => {
                self.open(&mut out, Block::Thinking);
                self.delta(&mut out, &json!({"type": "thinking_delta", "thinking": text}));
            }
            Saying::Text(text) => {
                self.open(&mut out, Block::Text);
                self.delta(&mut out, &json!({"type": "text_delta", "text": text}));
            }
            Saying::Calls(calls) => calls.iter().for_each(|call| self.call(&mut out, call)),
            _ => {}
        }
        out
    }

    fn end(&mut self, end: &End) -> Vec<u8> {
        let mut out = Vec::new();
        let (input_tokens, output_tokens) = counts(end);
        self.begin(&mut out, input_tokens);
        self.close(&mut out);
        let delta = json!({"stop_reason": stop_reason(end.reason, self.has_called)});
        let usage = json!({"input_tokens": input_tokens, "output_tokens": output_tokens});
        event(&mut out, "message_delta", json!({"delta": delta, "usage": usage}));
        event(&mut out, "message_stop", json!({}));
        out
    }

    /// As Ollama, which takes the error for a chunk that says nothing.
    fn fail(&mut self, _error: &str) -> Vec<u8> {
        Vec::new()
    }

    fn whole(&mut self, said: Said, end: &End) -> Vec<u8> {
        let mut content = Vec::new();
        if !said.thinking.is_empty() {
            content.push(json!({"type": "thinking", "thinking": said.thinking}));
        }
        if !said.text.is_empty() {
            content.push(json!({"type": "text", "text": said.text}));
        }
        content.extend(said.calls.iter().map(|call| {
            let function = &call["function"];
            json!({"type": "tool_use", "id": call["id"], "name": function["name"], "input": function["arguments"]})
        }));
        let (input_tokens, output_tokens) = counts(end);
        bytes(&json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason(end.reason, !said.calls.is_empty()),
            "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
        }))
    }
}
