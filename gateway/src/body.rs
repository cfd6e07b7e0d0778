//! Bodies in passing: each frame is looked at and handed on.
//!
//! Both wrappers pull one frame at a time from one side when the other side asks for it, so a slow reader holds back
//! its writer and neither is ever buffered here.
//!
//! Invariant: the frames that go out are the frames that came in, at the moment they came in, but for what settings
//! have the gateway add to a request (see [`RequestBody::insert`]) or take out of a response (see [`crate::strip`]).

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::{
    HeaderMap,
    body::{Body, Frame, Incoming, SizeHint},
    header::CONTENT_TYPE,
};
use memchr::memmem;
use wire::{
    json,
    prompt::Prompt,
    watch::{Framing, Watch},
};

use crate::{
    endpoint::Endpoint,
    meter::{Meter, RequestFacts},
    queue::Turn,
    strip::Strip,
    upstream::{Answer, Fault},
};

/// The longest request but for a blob: a prompt of millions of tokens, or some hundred images.
pub(crate) const LIMIT_BYTES: u64 = 256 * 1024 * 1024;

/// Why a request's body did not reach the engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the client did not send it whole")]
    Client(#[source] hyper::Error),
    #[error("it is longer than {LIMIT_BYTES} bytes")]
    TooLong,
}

/// A request's body on its way to the engine; finds out which model it names and how much it says.
pub(crate) struct RequestBody {
    inner: Incoming,
    /// The first frame, if it was asked for before its time.
    ahead: Option<Result<Frame<Bytes>, Cut>>,
    /// While there is still something to find.
    model: Option<json::Scanner>,
    prompt: Option<Prompt>,
    /// How much more may come.
    left_bytes: u64,
    facts: Arc<RequestFacts>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, endpoint: Endpoint, facts: Arc<RequestFacts>) -> Self {
        let model = endpoint.model_field().map(json::Scanner::new);
        let prompt = endpoint.is_inference().then(Prompt::default);
        let left_bytes = if endpoint == Endpoint::Blobs { u64::MAX } else { LIMIT_BYTES };
        RequestBody { inner, ahead: None, model, prompt, left_bytes, facts }
    }

    /// Waits until the body has begun, so that nobody takes a turn before the client has spoken.
    pub(crate) async fn begin(&mut self) {
        if self.ahead.is_none() && !self.is_end_stream() {
            self.ahead = poll_fn(|cx| self.poll_inner(cx)).await;
        }
    }

    /// Puts the field `name` first in the JSON object that has begun. False if it is no object with fields, or is seen
    /// to have this one; if the client names it further on, Go takes what comes last, and so the client's word holds.
    pub(crate) fn insert(&mut self, name: &str, value: &str) -> bool {
        let Some(Ok(frame)) = &self.ahead else { return false };
        let Some(bytes) = frame.data_ref() else { return false };
        let Some(brace) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else { return false };
        let next = bytes[brace + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
        let quoted = format!("\"{name}\"");
        if bytes[brace] != b'{' || next != Some(&b'"') || memmem::find(bytes, quoted.as_bytes()).is_some() {
            return false;
        }
        let field = format!("{quoted}:{value},");
        let mut longer = BytesMut::with_capacity(bytes.len() + field.len());
        longer.extend_from_slice(&bytes[..=brace]);
        longer.extend_from_slice(field.as_bytes());
        longer.extend_from_slice(&bytes[brace + 1..]);
        self.ahead = Some(Ok(Frame::data(longer.freeze())));
        true
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else { return Poll::Ready(None) };
        let frame = frame.map_err(|error| {
            self.facts.client_leaves();
            Cut::Client(error)
        });
        if let Ok(frame) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            match self.left_bytes.checked_sub(bytes.len() as u64) {
                Some(left_bytes) => self.left_bytes = left_bytes,
                None => {
                    self.facts.is_too_long();
                    return Poll::Ready(Some(Err(Cut::TooLong)));
                }
            }
            self.look(bytes);
        }
        Poll::Ready(Some(frame))
    }

    fn look(&mut self, bytes: &[u8]) {
        if let Some(scanner) = &mut self.model
            && !scanner.feed(bytes)
        {
            if let Some(model) = scanner.take_value() {
                self.facts.names_model(model);
            }
            self.model = None;
        }
        if let Some(prompt) = &mut self.prompt {
            prompt.feed(bytes);
            self.facts.says(prompt);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.ahead.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_inner(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        if let Some(Ok(frame)) = &self.ahead
            && let Some(bytes) = frame.data_ref()
        {
            match hint.exact() {
                Some(exact) => hint.set_exact(exact + bytes.len() as u64),
                None => hint.set_lower(hint.lower() + bytes.len() as u64),
            }
        }
        hint
    }
}

/// A response's body on its way to the client; finds out how the request ended. The request is over when this is
/// dropped, which the server does as soon as it has the last byte, or has nobody to give it to.
pub(crate) struct ResponseBody {
    inner: Answer<RequestBody>,
    watch: Option<Watch>,
    /// Set if the gateway asked for what the client did not.
    strip: Option<Strip>,
    meter: Meter,
    /// The engine's slot is held for as long as the engine speaks.
    _turn: Option<Turn>,
}

impl ResponseBody {
    pub(crate) fn new(inner: Answer<RequestBody>, headers: &HeaderMap, meter: Meter, turn: Option<Turn>) -> Self {
        let kind = kind(headers);
        let framing = match kind {
            Some(Kind::Ndjson | Kind::Events) => Some(Framing::Lines),
            Some(Kind::Json) if meter.endpoint().is_inference() => Some(Framing::Whole),
            _ => None,
        };
        let strip = (kind == Some(Kind::Events) && meter.usage_is_ours()).then(Strip::default);
        ResponseBody { inner, watch: framing.map(Watch::new), strip, meter, _turn: turn }
    }

    /// True if the length that the engine told may not hold.
    pub(crate) fn may_be_shorter(&self) -> bool {
        self.strip.is_some()
    }

    fn look(&mut self, bytes: &[u8]) {
        if let Some(watch) = &mut self.watch {
            watch.feed(bytes);
            self.meter.sees(watch.seen());
        }
    }

    /// The engine has said everything.
    fn end(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.finish();
            self.meter.sees(watch.seen());
        }
        self.meter.ended();
    }

    /// The frame without what was not asked for; none if nothing is left of it.
    fn stripped(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(strip) = &mut self.strip else { return Some(frame) };
        let Some(bytes) = frame.data_ref() else { return Some(frame) };
        let passed = strip.pass(bytes);
        (!passed.is_empty()).then(|| Frame::data(passed))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.look(bytes);
                    }
                    if let Some(frame) = self.stripped(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                Some(Err(error)) => {
                    // A client that left in the middle of its own body has cancelled.
                    if !self.meter.request().client_left() {
                        log::warn!("a response was broken off: {error}");
                        self.meter.failed();
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let rest = self.strip.take().map(|mut strip| strip.finish()).unwrap_or_default();
                    if !rest.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(rest))));
                    }
                    self.end();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.strip.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.strip {
            Some(_) => SizeHint::default(),
            None => self.inner.size_hint(),
        }
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

/// The media types in which an engine tells something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ndjson,
    Events,
    Json,
}

fn kind(headers: &HeaderMap) -> Option<Kind> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let essence = value.split(|&byte| byte == b';').next()?.trim_ascii();
    [
        (&b"application/x-ndjson"[..], Kind::Ndjson),
        (&b"text/event-stream"[..], Kind::Events),
        (&b"application/json"[..], Kind::Json),
    ]
    .into_iter()
    .find_map(|(name, kind)| essence.eq_ignore_ascii_case(name).then_some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_media_types_whatever_their_case_and_parameters() {
        for (content_type, expected) in [
            ("application/x-ndjson", Some(Kind::Ndjson)),
            ("Application/X-NDJSON; charset=utf-8", Some(Kind::Ndjson)),
            ("application/json;charset=utf-8", Some(Kind::Json)),
            ("text/event-stream", Some(Kind::Events)),
            ("application/octet-stream", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
            assert_eq!(kind(&headers), expected, "{content_type}");
        }
        assert_eq!(kind(&HeaderMap::new()), None);
    }
}
