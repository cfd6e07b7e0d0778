//! `/v1/responses`: OpenAI's newer API as Ollama rewrites its own into it (`openai/responses.go`).
//!
//! Invariant: events are numbered without a gap, and the last tells the items that were told before it.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use serde_json::{Value, json};
use wire::ollama::{Message, ModelOptions};
use wire::openai::ResponsesRequest;

use super::inference::Ask;
use super::openai::{counts, id, read, think};
use super::voice::{Said, Voice};
use super::{Refusal, bytes};
use crate::Engine;
use crate::generation::End;
use crate::script::Saying;

pub(super) async fn responses(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: ResponsesRequest = read(&body)?;
    let tools = request.tools.clone().unwrap_or_default();
    let effort = request.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
    let ask = Ask {
        model: request.model.clone(),
        messages: messages(&request)?,
        needs: if tools.is_empty() { vec!["completion"] } else { vec!["completion", "tools"] },
        tools,
        think: think(effort)?,
        format: format(&request),
        options: ModelOptions { num_predict: request.max_output_tokens, ..ModelOptions::default() },
        is_streamed: request.stream.unwrap_or(false),
        ..Ask::default()
    };
    if ask.model.is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    let voice = Responses {
        id: id("resp").replace('-', "_"),
        item: id("msg").replace('-', "_"),
        request,
        number: 0,
        index: 0,
        items: Vec::new(),
        open: None,
        text: String::new(),
        has_called: false,
    };
    engine.answer(ask, voice).await
}

fn format(request: &ResponsesRequest) -> Option<Value> {
    let format = request.text.as_ref()?.get("format")?;
    (format.get("type")? == "json_schema").then(|| format.get("schema").cloned()).flatten()
}

/// Items of the input as native messages.
fn messages(request: &ResponsesRequest) -> Result<Vec<Message>, Refusal> {
    let message = |role: &str, content: String| Message { role: role.to_owned(), content, ..Message::default() };
    let mut native = Vec::new();
    let instructions = request.instructions.clone().filter(|text| !text.is_empty());
    native.extend(instructions.map(|text| message("system", text)));
    match &request.input {
        Value::String(text) if !text.is_empty() => native.push(message("user", text.clone())),
        Value::Array(items) => {
            for item in items {
                let field = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
                match field("type") {
                    "function_call" => native.push(call(item)?),
                    "function_call_output" => native.push(Message {
                        tool_call_id: field("call_id").to_owned(),
                        ..message("tool", text(&item["output"]))
                    }),
                    "reasoning" | "web_search_call" => {}
                    "" | "message" => native.push(message(field("role"), text(&item["content"]))),
                    other => return Err(Refusal::bad_request(format!("unknown input item type: {other}"))),
                }
            }
        }
        _ => {}
    }
    Ok(native)
}

fn call(item: &Value) -> Result<Message, Refusal> {
    let arguments = item.get("arguments").and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or("{}");
    let arguments: Value = serde_json::from_str(arguments)
        .map_err(|error| Refusal::bad_request(format!("failed to parse function call arguments: {error}")))?;
    let function = json!({"index": 0, "name": item["name"], "arguments": arguments});
    let tool_calls = vec![json!({"id": item["call_id"], "function": function})];
    Ok(Message { role: "assistant".to_owned(), tool_calls, ..Message::default() })
}

fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

/// An item that has begun.
enum Open {
    Reasoning(String),
    Message,
}

/// One answer.
struct Responses {
    id: String,
    /// The message's.
    item: String,
    request: ResponsesRequest,
    /// Of the next event.
    number: u32,
    /// Of the next item.
    index: usize,
    /// Those that are complete.
    items: Vec<Value>,
    open: Option<Open>,
    /// What was thought or said in the open item.
    text: String,
    has_called: bool,
}

impl Responses {
    fn event(&mut self, out: &mut Vec<u8>, kind: &str, mut data: Value) {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        out.extend(format!("event: {kind}\ndata: ").bytes());
        out.extend(bytes(&data));
        out.extend(b"\n\n");
    }

    fn response(&self, status: &str, output: &[Value], usage: Value) -> Value {
        let request = &self.request;
        let format = request.text.as_ref().and_then(|text| text.get("format"));
        json!({
            "id": self.id,
            "object": "response",
            "created_at": Utc::now().timestamp(),
            "completed_at": null,
            "status": status,
            "incomplete_details": null,
            "model": request.model,
            "previous_response_id": null,
            "instructions": request.instructions.as_ref().filter(|text| !text.is_empty()),
            "output": output,
            "error": null,
            "tools": request.tools.clone().unwrap_or_default(),
            "tool_choice": "auto",
            "truncation": request.truncation.as_deref().unwrap_or("disabled"),
            "parallel_tool_calls": true,
            "text": {"format": format.cloned().unwrap_or_else(|| json!({"type": "text"}))},
            "top_p": request.top_p.unwrap_or(1.0),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": request.temperature.unwrap_or(1.0),
            "reasoning": request.reasoning.as_ref().filter(|reasoning| reasoning.effort.is_some()),
            "usage": usage,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": null,
            "store": false,
            "background": false,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": null,
            "prompt_cache_key": null,
        })
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.number == 0 {
            for kind in ["response.created", "response.in_progress"] {
                let response = self.response("in_progress", &[], Value::Null);
                self.event(out, kind, json!({"response": response}));
            }
        }
    }

    fn think(&mut self, out: &mut Vec<u8>, thought: &str) {
        if self.open.is_none() {
            let item = id("rs").replace('-', "_");
            let added = json!({"id": item, "type": "reasoning", "summary": []});
            self.event(out, "response.output_item.added", json!({"output_index": self.index, "item": added}));
            self.open = Some(Open::Reasoning(item));
        }
        let Some(Open::Reasoning(item)) = &self.open else { return };
        self.text.push_str(thought);
        let data = json!({"item_id": item, "output_index": self.index, "summary_index": 0, "delta": thought});
        self.event(out, "response.reasoning_summary_text.delta", data);
    }

    fn speak(&mut self, out: &mut Vec<u8>, text: &str) {
        if !matches!(self.open, Some(Open::Message)) {
            self.close(out);
            let added = json!({
                "id": self.item, "type": "message", "status": "in_progress", "role": "assistant", "content": [],
            });
            self.event(out, "response.output_item.added", json!({"output_index": self.index, "item": added}));
            let data = self.of_text(&json!({"part": part("")}));
            self.event(out, "response.content_part.added", data);
            self.open = Some(Open::Message);
        }
        self.text.push_str(text);
        let data = self.of_text(&json!({"delta": text, "logprobs": []}));
        self.event(out, "response.output_text.delta", data);
    }

    /// What every event about the message's text says.
    fn of_text(&self, more: &Value) -> Value {
        let mut data = more.clone();
        data["item_id"] = self.item.clone().into();
        data["output_index"] = self.index.into();
        data["content_index"] = 0.into();
        data
    }

    /// Ends the open item.
    fn close(&mut self, out: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.text);
        let item = match self.open.take() {
            None => return,
            Some(Open::Reasoning(item)) => {
                let data = json!({"item_id": item, "output_index": self.index, "summary_index": 0, "text": text});
                self.event(out, "response.reasoning_summary_text.done", data);
                reasoning(&item, &text)
            }
            Some(Open::Message) => {
                let data = self.of_text(&json!({"text": text, "logprobs": []}));
                self.event(out, "response.output_text.done", data);
                let data = self.of_text(&json!({"part": part(&text)}));
                self.event(out, "response.content_part.done", data);
                message(&self.item, &text)
            }
        };
        self.event(out, "response.output_item.done", json!({"output_index": self.index, "item": item}));
        self.items.push(item);
        self.index += 1;
    }

    fn call(&mut self, out: &mut Vec<u8>, call: &Value) {
        let mut item = function_call(call);
        let (id, arguments) = (item["id"].clone(), item["arguments"].take());
        item["arguments"] = "".into();
        item["status"] = "in_progress".into();
        let index = self.index;
        self.event(out, "response.output_item.added", json!({"output_index": index, "item": item}));
        let of_item = json!({"item_id": id, "output_index": index});
        let mut delta = of_item.clone();
        delta["delta"] = arguments.clone();
        self.event(out, "response.function_call_arguments.delta", delta);
        let mut done = of_item;
        done["arguments"] = arguments.clone();
        self.event(out, "response.function_call_arguments.done", done);
        item["arguments"] = arguments;
        item["status"] = "completed".into();
        self.event(out, "response.output_item.done", json!({"output_index": index, "item": item}));
        self.items.push(item);
        self.index += 1;
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": [part(text)]})
}

fn reasoning(id: &str, text: &str) -> Value {
    let summary = json!([{"type": "summary_text", "text": text}]);
    json!({"id": id, "type": "reasoning", "summary": summary, "encrypted_content": text})
}

fn function_call(call: &Value) -> Value {
    let function = &call["function"];
    json!({
        "id": id("fc").replace('-', "_"),
        "type": "function_call",
        "status": "completed",
        "call_id": call["id"],
        "name": function["name"],
        "arguments": function["arguments"].to_string(),
    })
}

fn usage(end: &End) -> Value {
    let (input, output) = counts(end);
    json!({
        "input_tokens": input,
        "output_tokens": output,
        "total_tokens": input + output,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    })
}

impl Voice for Responses {
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn say(&mut self, saying: &Saying) -> Vec<u8> {
        let mut out = Vec::new();
        self.begin(&mut out);
        match saying {
            Saying::Thinking(thought) => self.think(&mut out, thought),
            Saying::Text(text) if !self.has_called => self.speak(&mut out, text),
            Saying::Calls(calls) => {
                // Ollama leaves a message open that came before calls; here it is closed, which clients need.
                self.close(&mut out);
                self.has_called = true;
                calls.iter().for_each(|call| self.call(&mut out, call));
            }
            _ => {}
        }
        out
    }

    fn end(&mut self, end: &End) -> Vec<u8> {
        let mut out = Vec::new();
        self.begin(&mut out);
        self.close(&mut out);
        let mut response = self.response("completed", &self.items, usage(end));
        response["completed_at"] = Utc::now().timestamp().into();
        self.event(&mut out, "response.completed", json!({"response": response}));
        out
    }

    /// As Ollama, which takes the error for a chunk that says nothing.
    fn fail(&mut self, _error: &str) -> Vec<u8> {
        Vec::new()
    }

    fn whole(&mut self, said: Said, end: &End) -> Vec<u8> {
        let mut output = Vec::new();
        if !said.thinking.is_empty() {
            output.push(reasoning(&format!("rs_{}", self.id), &said.thinking));
        }
        if said.calls.is_empty() {
            output.push(message(&self.item, &said.text));
        } else {
            output.extend(said.calls.iter().map(function_call));
        }
        let mut response = self.response("completed", &output, usage(end));
        response["completed_at"] = Utc::now().timestamp().into();
        bytes(&response)
    }
}
