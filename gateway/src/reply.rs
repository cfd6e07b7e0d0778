//! What the gateway says itself.
//!
//! Invariant: an error has the shape of the API that was asked, for the sake of clients that show its message.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};

use crate::{
    body::ResponseBody,
    door::Refusal,
    metrics::{self, Metrics},
    queue::NoRoom,
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

    fn error(self, status: StatusCode, message: &str) -> Value {
        let kind = match (status, self) {
            (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, _) => "invalid_request_error",
            (StatusCode::UNAUTHORIZED, Protocol::OpenAi) => "invalid_request_error",
            (StatusCode::UNAUTHORIZED, _) => "authentication_error",
            (StatusCode::TOO_MANY_REQUESTS, _) => "rate_limit_error",
            (StatusCode::SERVICE_UNAVAILABLE, Protocol::Anthropic) => "overloaded_error",
            _ => "api_error",
        };
        match self {
            Protocol::Ollama => json!({ "error": message }),
            Protocol::OpenAi => {
                let code = match status {
                    StatusCode::UNAUTHORIZED => json!("invalid_api_key"),
                    StatusCode::TOO_MANY_REQUESTS => json!("rate_limit_exceeded"),
                    _ => Value::Null,
                };
                json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
            }
            Protocol::Anthropic => json!({ "type": "error", "error": { "type": kind, "message": message } }),
        }
    }
}

/// An error that did not come from the engine.
pub(crate) fn error(status: StatusCode, protocol: Protocol, message: &str) -> Response<ReplyBody> {
    own(status, "application/json", protocol.error(status, message).to_string())
}

/// Nobody whom the gateway knows.
pub(crate) fn unknown(refusal: Refusal, protocol: Protocol) -> Response<ReplyBody> {
    let message = match refusal {
        Refusal::NoKey => "an API key is needed, as `Authorization: Bearer` or `x-api-key`",
        Refusal::WrongKey => "the API key is not known, or was revoked",
    };
    let mut response = error(StatusCode::UNAUTHORIZED, protocol, message);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// The status for somebody who has to come again.
fn status_of(full: NoRoom) -> StatusCode {
    if full.own_line { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Nobody who can be served soon.
pub(crate) fn no_room(full: NoRoom, protocol: Protocol) -> Response<ReplyBody> {
    let seconds = full.retry_after.as_secs();
    let whose = if full.own_line { "of your own" } else { "of all clients" };
    let message = format!("the queue is full: {} requests {whose} wait, try again in {seconds} s", full.ahead);
    let mut response = error(status_of(full), protocol, &message);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response.headers_mut().insert("x-queue-position", (full.ahead + 1).into());
    response
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_gets_its_own_shape() {
        for (path, status, body) in [
            ("/api/chat", 401, "{\"error\":\"m\"}"),
            (
                "/v1/chat/completions",
                401,
                "{\"error\":{\"code\":\"invalid_api_key\",\"message\":\"m\",\"param\":null,\"type\":\"invalid_request_error\"}}",
            ),
            (
                "/v1/messages",
                401,
                "{\"error\":{\"message\":\"m\",\"type\":\"authentication_error\"},\"type\":\"error\"}",
            ),
            ("/v1/messages", 503, "{\"error\":{\"message\":\"m\",\"type\":\"overloaded_error\"},\"type\":\"error\"}"),
            ("/v1/messages", 502, "{\"error\":{\"message\":\"m\",\"type\":\"api_error\"},\"type\":\"error\"}"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Protocol::of(path).error(status, "m").to_string(), body);
        }
    }
}
