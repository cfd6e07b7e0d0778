//! Bodies in passing: each frame is looked at and handed on as it is.
//!
//! Both wrappers pull one frame at a time from one side when the other side asks for it, so a slow reader holds back
//! its writer and neither is ever buffered here.
//!
//! Invariant: the frames that go out are the frames that came in, at the moment they came in.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    HeaderMap,
    body::{Body, Frame, Incoming, SizeHint},
    header::CONTENT_TYPE,
};
use wire::{json, ndjson};

use crate::meter::{Meter, RequestFacts};

/// A request's body on its way to the engine; finds out which model it names.
pub(crate) struct RequestBody {
    inner: Incoming,
    /// While there is still something to find.
    scanner: Option<json::Scanner>,
    facts: Arc<RequestFacts>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, facts: Arc<RequestFacts>) -> Self {
        let scanner = facts.model_field().map(json::Scanner::new);
        RequestBody { inner, scanner, facts }
    }

    fn look(&mut self, bytes: &[u8]) {
        if let Some(scanner) = &mut self.scanner
            && !scanner.feed(bytes)
        {
            if let Some(model) = scanner.take_value() {
                self.facts.names_model(model);
            }
            self.scanner = None;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|bytes| self.look(bytes)),
            Some(Err(_)) => self.facts.client_leaves(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body on its way to the client; finds out how the request ended. The request is over when this is
/// dropped, which the server does as soon as it has the last byte, or has nobody to give it to.
pub(crate) struct ResponseBody {
    inner: Incoming,
    errors: Option<ErrorWatch>,
    meter: Meter,
}

impl ResponseBody {
    pub(crate) fn new(inner: Incoming, headers: &HeaderMap, meter: Meter) -> Self {
        ResponseBody { inner, errors: is_ndjson(headers).then(ErrorWatch::new), meter }
    }

    fn look(&mut self, bytes: &[u8]) {
        if let Some(errors) = &mut self.errors {
            errors.feed(bytes);
        }
    }

    /// The engine has said everything.
    fn end(&mut self) {
        if self.errors.as_mut().is_some_and(ErrorWatch::finish) {
            self.meter.failed();
        }
        self.meter.ended();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|bytes| self.look(bytes)),
            Some(Err(error)) => {
                log::warn!("the engine broke off a response: {error}");
                self.meter.failed();
            }
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body of known length, or none, is not asked for the `None` after its last frame.
        if self.inner.is_end_stream() {
            self.end();
        }
    }
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    const NDJSON: &[u8] = b"application/x-ndjson";
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..NDJSON.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(NDJSON))
}

/// Watches a stream of objects for the one that says `{"error":"…"}`: after its first chunk Ollama cannot take back
/// the 200, and reports in this way that it failed.
struct ErrorWatch {
    lines: ndjson::Splitter,
    scanner: json::Scanner,
    seen: bool,
}

impl ErrorWatch {
    fn new() -> Self {
        ErrorWatch { lines: ndjson::Splitter::default(), scanner: json::Scanner::new("error"), seen: false }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let ErrorWatch { lines, scanner, seen } = self;
        lines.feed(bytes, |line| *seen |= is_error(scanner, line));
    }

    /// True if there was an error.
    fn finish(&mut self) -> bool {
        let ErrorWatch { lines, scanner, seen } = self;
        lines.finish(|line| *seen |= is_error(scanner, line));
        *seen
    }
}

fn is_error(scanner: &mut json::Scanner, line: &[u8]) -> bool {
    scanner.reset();
    scanner.feed(line);
    scanner.value().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_error(parts: &[&str]) -> bool {
        let mut watch = ErrorWatch::new();
        for part in parts {
            watch.feed(part.as_bytes());
        }
        watch.finish()
    }

    #[test]
    fn sees_an_error_line_wherever_it_is_cut() {
        assert!(has_error(&["{\"status\":\"pulling manifest\"}\n{\"error\":\"no such file\"}\n"]));
        assert!(has_error(&["{\"done\":false}\n{\"err", "or\":\"unexpected EOF\"}"]));
        assert!(has_error(&["{\"status\":500,\"error\":\"x\"}\n", "{\"done\":true}\n"]));
    }

    #[test]
    fn takes_no_talk_of_errors_for_an_error() {
        assert!(!has_error(&["{\"message\":{\"content\":\"{\\\"error\\\":\\\"x\\\"}\"},\"done\":false}\n"]));
        assert!(!has_error(&["{\"message\":{\"error\":\"x\"}}\n{\"error\":null,\"done\":true}\n"]));
    }

    #[test]
    fn looks_into_ndjson_only() {
        for (content_type, watched) in [
            ("application/x-ndjson", true),
            ("Application/X-NDJSON; charset=utf-8", true),
            ("application/json", false),
            ("text/event-stream", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
            assert_eq!(is_ndjson(&headers), watched, "{content_type}");
        }
        assert!(!is_ndjson(&HeaderMap::new()));
    }
}
