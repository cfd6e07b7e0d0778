//! `POST /api/embed`, `/api/embeddings` and `/v1/embeddings`: vectors that mean nothing and behave.
//!
//! Invariant: the same model and text give the same vector, of the model's width and, in the newer APIs, of length one.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::time::Instant;
use wire::ollama::{EmbedRequest, EmbedResponse, EmbeddingRequest, EmbeddingResponse};
use wire::openai::EmbeddingsRequest;

use super::inference::with_defaults;
use super::{Refusal, read};
use crate::Engine;
use crate::random::Random;
use crate::store::Entry;
use crate::timing::{nonzero, nonzero_ns};

/// Width of a vector when the model does not say.
const DEFAULT_WIDTH: u32 = 64;

pub(super) async fn embed(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    Ok(super::json(&engine.embed(read(&body)?).await?))
}

pub(super) async fn embeddings(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: EmbeddingRequest = read(&body)?;
    if request.model.is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    let entry = engine.embedder(&request.model)?;
    let options = with_defaults(request.options, &entry);
    let tenancy = engine.house.enter(engine.wanted(&entry, &options, request.keep_alive)).await?;
    tenancy.ready().await;
    let embedding = if request.prompt.is_empty() {
        Vec::new()
    } else if !entry.is_embedder() {
        return Err(no_embedder(StatusCode::INTERNAL_SERVER_ERROR));
    } else {
        // The older API tells vectors as the model makes them: not of length one.
        vector(&entry, &request.prompt).into_iter().map(|number| f64::from(number) * 8.0).collect()
    };
    Ok(super::json(&EmbeddingResponse { embedding }))
}

/// OpenAI's API, as a rewriting of Ollama's.
pub(super) async fn openai(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: EmbeddingsRequest = super::openai::read(&body)?;
    let format = request.encoding_format.unwrap_or_default();
    let is_base64 = format.eq_ignore_ascii_case("base64");
    if !is_base64 && !format.is_empty() && !format.eq_ignore_ascii_case("float") {
        let supported = "Supported values: ['float', 'base64'].";
        let error = format!("Invalid value for 'encoding_format' = {format}. {supported}");
        return Err(Refusal::bad_request(error));
    }
    let input = match request.input {
        Value::Null => return Err(Refusal::bad_request("invalid input")),
        Value::Array(texts) if texts.is_empty() => return Err(Refusal::bad_request("invalid input")),
        Value::String(text) if text.is_empty() => json!([""]),
        input => input,
    };
    let ask = EmbedRequest { model: request.model, input, dimensions: request.dimensions, ..EmbedRequest::default() };
    let answer = engine.embed(ask).await?;
    let data: Vec<Value> = answer
        .embeddings
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if is_base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                Value::String(base64(&bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "embedding": embedding, "index": index})
        })
        .collect();
    let tokens = answer.prompt_eval_count.unwrap_or(0);
    Ok(super::json(&json!({
        "object": "list",
        "data": data,
        "model": answer.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })))
}

impl Engine {
    /// The model of that name.
    fn embedder(&self, spelled: &str) -> Result<Entry, Refusal> {
        self.model(spelled).map_err(|refusal| match refusal.status {
            // In words of its own, here only.
            StatusCode::NOT_FOUND => {
                let error = format!("model {spelled:?} not found, try pulling it first");
                Refusal::new(StatusCode::NOT_FOUND, error)
            }
            _ => refusal,
        })
    }

    async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse, Refusal> {
        let arrived = Instant::now();
        if request.model.is_empty() {
            return Err(Refusal::no_such_model(""));
        }
        let texts = texts(&request.input)?;
        let entry = self.embedder(&request.model)?;
        let options = with_defaults(request.options, &entry);
        let wanted = self.wanted(&entry, &options, request.keep_alive);
        let context_length = wanted.context_length;
        let tenancy = self.house.enter(wanted).await?;
        tenancy.ready().await;
        let loaded = arrived.elapsed();
        if !texts.is_empty() && !entry.is_embedder() {
            return Err(no_embedder(StatusCode::NOT_IMPLEMENTED));
        }
        let mut tokens = 0u32;
        let mut embeddings = Vec::new();
        for text in &texts {
            let length = u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX);
            if length > context_length && request.truncate == Some(false) {
                return Err(Refusal::bad_request("the input length exceeds the context length"));
            }
            tokens = tokens.saturating_add(length.min(context_length));
            let mut vector = vector(&entry, text);
            if let Some(width) = request.dimensions.filter(|width| (1..vector.len()).contains(width)) {
                vector.truncate(width);
            }
            normalize(&mut vector);
            embeddings.push(vector);
        }
        if embeddings.is_empty() {
            return Ok(EmbedResponse { model: request.model, ..EmbedResponse::default() });
        }
        Ok(EmbedResponse {
            model: request.model,
            embeddings,
            total_duration: nonzero_ns(arrived.elapsed()),
            load_duration: nonzero_ns(loaded),
            prompt_eval_count: nonzero(tokens),
        })
    }
}

/// The runner's words: a model that writes is not loaded in a way that it can embed.
fn no_embedder(status: StatusCode) -> Refusal {
    Refusal::new(status, "This server does not support embeddings. Start it with `--embeddings`")
}

fn texts(input: &Value) -> Result<Vec<String>, Refusal> {
    let text =
        |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| Refusal::bad_request("invalid input type"));
    match input {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::Array(texts) => texts.iter().map(text).collect(),
        input => Ok(vec![text(input)?]),
    }
}

/// A vector of the model's width, of length one.
fn vector(entry: &Entry, text: &str) -> Vec<f32> {
    let width = entry.figure("embedding_length").unwrap_or(DEFAULT_WIDTH);
    let mut random = Random::seeded(&[b"embedding", entry.name.to_string().as_bytes(), text.as_bytes()]);
    let mut vector: Vec<f32> = (0..width).map(|_| random.next() as i32 as f32 / i32::MAX as f32).collect();
    normalize(&mut vector);
    vector
}

fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|number| *number /= length);
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let pairs = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, encoded) in pairs {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
