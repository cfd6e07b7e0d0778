//! The HTTP side: which path is answered by whom, and how requests are read and refused.
//!
//! Invariant: every refusal has the shape and status that Ollama gives it, and no request is answered that Ollama's own
//! guard against foreign `Host` headers would turn away.

mod anthropic;
mod create;
mod embed;
mod host;
mod inference;
mod library;
mod models;
mod openai;
mod pull;
mod responses;
mod voice;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::ollama::ErrorBody;

use crate::Engine;
use crate::name::Name;
use crate::residency::Full;
use crate::store::{Entry, StoreError};

/// Ollama takes bodies of any size; this is more than any prompt and less than what would hurt.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Everything that the engine answers when it listens on `address`.
pub(crate) fn router(engine: Arc<Engine>, address: SocketAddr) -> Router {
    let guard = middleware::from_fn(move |request, next| host::guard(address.ip(), request, next));
    let openai = Router::new()
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*model}", get(openai::model))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/embeddings", post(embed::openai))
        .route("/v1/responses", post(responses::responses))
        .layer(middleware::map_response(|response| reshaped(response, openai::refusal)));
    let anthropic = Router::new()
        .route("/v1/messages", post(anthropic::messages))
        .layer(middleware::map_response(|response| reshaped(response, anthropic::refusal)));
    Router::new()
        .merge(openai)
        .merge(anthropic)
        .route("/", get("Ollama is running"))
        .route("/api/version", get(models::version))
        .route("/api/tags", get(models::tags))
        .route("/api/ps", get(models::ps).head(method_not_allowed))
        .route("/api/show", post(models::show))
        .route("/api/generate", post(inference::generate))
        .route("/api/chat", post(inference::chat))
        .route("/api/pull", post(pull::pull))
        .route("/api/push", post(library::push))
        .route("/api/create", post(create::create))
        .route("/api/copy", post(library::copy))
        .route("/api/delete", delete(library::delete))
        .route("/api/embed", post(embed::embed))
        .route("/api/embeddings", post(embed::embeddings))
        .route("/api/me", post(models::me))
        .route("/api/status", get(models::status).head(method_not_allowed))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        // After the limit, which is none of theirs: a model may have any size.
        .route("/api/blobs/{digest}", post(library::put_blob).head(library::has_blob))
        .layer(guard)
        .with_state(engine)
}

/// In the words of gin, Ollama's web framework.
async fn not_found() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, "404 page not found")
}

async fn method_not_allowed() -> impl IntoResponse {
    (StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed")
}

/// An answer that is an error: `{"error": …}`.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: String,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// `model` as the client spelled it.
    fn no_such_model(model: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("model '{model}' not found"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(&ErrorBody { error: self.error.clone() });
        *response.status_mut() = self.status;
        // For the APIs that have another shape for it.
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives a refusal, if `response` is one, the shape of another API.
async fn reshaped(response: Response, shape: fn(&Refusal) -> serde_json::Value) -> Response {
    let Some(refusal) = response.extensions().get::<Refusal>() else { return response };
    let mut reshaped = json(&shape(refusal));
    *reshaped.status_mut() = refusal.status;
    reshaped
}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        // The two spaces are Ollama's.
        let error = "server busy, please try again.  maximum pending requests exceeded";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        log::warn!("{}", with_causes(&error));
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, with_causes(&error))
    }
}

/// An error and what it came from, on one line, as Go's errors read.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// The request that a body holds. As in Ollama its content type is not looked at.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() {
        return Err(Refusal::bad_request("missing request body"));
    }
    // serde would read an array's items as the fields, in their order.
    if body.trim_ascii().starts_with(b"[") {
        return Err(Refusal::bad_request("json: cannot unmarshal array into Go value"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// The name that a request spells, with white space around it or the source `:local` behind it, as Ollama takes it
/// (`internal/modelref`). There is no other source here.
fn parse_name(spelled: &str) -> Option<Name> {
    let spelled = spelled.trim();
    let base = spelled.rsplit_once(':').filter(|(_, source)| source.trim().eq_ignore_ascii_case("local"));
    Name::parse(base.map_or(spelled, |(base, _)| base))
}

/// A whole answer.
fn json(value: &impl Serialize) -> Response {
    with_type(JSON, Body::from(bytes(value)))
}

/// An answer of many lines.
fn ndjson(body: Body) -> Response {
    with_type("application/x-ndjson", body)
}

const JSON: &str = "application/json; charset=utf-8";

fn with_type(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A value as one line of a stream.
fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = bytes(value);
    line.push(b'\n');
    line
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| {
        // Only maps with keys that are no strings fail, and no answer holds one.
        log::error!("an answer could not be written: {error}");
        br#"{"error":"internal"}"#.to_vec()
    })
}

impl Engine {
    /// The model that a request names in `spelled`.
    fn model(&self, spelled: &str) -> Result<Entry, Refusal> {
        let name = parse_name(spelled).ok_or_else(|| Refusal::bad_request("invalid model name"))?;
        self.store.find(&name)?.ok_or_else(|| Refusal::no_such_model(spelled))
    }
}
