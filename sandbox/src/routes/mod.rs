//! The HTTP side: which path is answered by whom, and how requests are read and refused.
//!
//! Invariant: every refusal has the shape and status that Ollama gives it, and no request is answered that Ollama's own
//! guard against foreign `Host` headers would turn away.

mod host;
mod inference;
mod models;
mod pull;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::ollama::ErrorBody;

use crate::Engine;
use crate::name::Name;
use crate::store::{Entry, StoreError};

/// Ollama takes bodies of any size; this is more than any prompt and less than what would hurt.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Everything that the engine answers when it listens on `address`.
pub(crate) fn router(engine: Arc<Engine>, address: SocketAddr) -> Router {
    let guard = middleware::from_fn(move |request, next| host::guard(address.ip(), request, next));
    Router::new()
        .route("/", get("Ollama is running"))
        .route("/api/version", get(models::version))
        .route("/api/tags", get(models::tags))
        .route("/api/ps", get(models::ps).head(method_not_allowed))
        .route("/api/show", post(models::show))
        .route("/api/generate", post(inference::generate))
        .route("/api/chat", post(inference::chat))
        .route("/api/pull", post(pull::pull))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
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
#[derive(Debug)]
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
        let mut response = json(&ErrorBody { error: self.error });
        *response.status_mut() = self.status;
        response
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
    serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// A whole answer.
fn json(value: &impl Serialize) -> Response {
    with_type("application/json; charset=utf-8", Body::from(bytes(value)))
}

/// An answer of many lines.
fn ndjson(body: Body) -> Response {
    with_type("application/x-ndjson", body)
}

fn with_type(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A value as one line of a stream.
fn line(value: &impl Serialize) -> Bytes {
    let mut line = bytes(value);
    line.push(b'\n');
    line.into()
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
        let name = Name::parse(spelled).ok_or_else(|| Refusal::bad_request("invalid model name"))?;
        self.store.find(&name)?.ok_or_else(|| Refusal::no_such_model(spelled))
    }
}
