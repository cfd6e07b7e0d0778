//! What the gateway says itself.
//!
//! Invariant: an error has the shape of the API that was asked, for the sake of clients that show its message.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

use crate::{
    body::ResponseBody,
    metrics::{self, Metrics},
};

/// A response's body: the gateway's own, or the engine's on its way through.
pub(crate) type ReplyBody = Either<Full<Bytes>, ResponseBody>;

/// Whose API a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Ollama,
    OpenAi,
    Anthropic,
}

impl Protocol {
    pub(crate) fn of(path: &str) -> Self {
        match path.strip_prefix("/v1/") {
            Some(rest) if rest == "messages" || rest.starts_with("messages/") => Protocol::Anthropic,
            Some(_) => Protocol::OpenAi,
            None => Protocol::Ollama,
        }
    }

    fn error(self, message: &str) -> Value {
        match self {
            Protocol::Ollama => json!({ "error": message }),
            Protocol::OpenAi => {
                json!({ "error": { "message": message, "type": "api_error", "param": null, "code": null } })
            }
            Protocol::Anthropic => json!({ "type": "error", "error": { "type": "api_error", "message": message } }),
        }
    }
}

/// An error that did not come from the engine.
pub(crate) fn error(status: StatusCode, protocol: Protocol, message: &str) -> Response<ReplyBody> {
    own(status, "application/json", protocol.error(message).to_string())
}

/// `GET /metrics`.
pub(crate) fn metrics(metrics: &Metrics) -> Response<ReplyBody> {
    match metrics.encode() {
        Ok(text) => own(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(reason) => own(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("cannot encode: {reason}\n")),
    }
}

/// `GET /healthz`: who can answer is alive.
pub(crate) fn healthy() -> Response<ReplyBody> {
    own(StatusCode::OK, "text/plain", "ok\n".to_owned())
}

/// What the gateway's own paths say to any method that is not GET or HEAD.
pub(crate) fn read_only() -> Response<ReplyBody> {
    let mut response = own(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET or HEAD only\n".to_owned());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn own(status: StatusCode, content_type: &'static str, text: String) -> Response<ReplyBody> {
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
