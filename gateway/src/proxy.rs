//! Forwards one request to the engine, and its response back.
//!
//! Invariant: a request is forwarded or answered with an error in the shape its API's clients expect, and both ways
//! end in exactly one account of it. Dropping the future, or the response's body, cancels the request upstream.

use std::{error::Error, net::IpAddr, sync::Arc};

use http_body_util::Either;
use hyper::{
    Request, Response, StatusCode, Uri, Version,
    body::{Body, Incoming},
    header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST},
};

use crate::{
    body::{LIMIT_BYTES, RequestBody, ResponseBody},
    door::Door,
    endpoint::Endpoint,
    header,
    meter::Meter,
    metrics::Metrics,
    queue::{Queues, Turn},
    reply::{self, Protocol, ReplyBody},
    upstream::{Answer, Fault, Upstream},
};

/// The way to the engine.
pub(crate) struct Proxy {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) door: Door,
    /// None: everyone goes through at once.
    pub(crate) queues: Option<Arc<Queues>>,
    pub(crate) wishes: Wishes,
}

/// What the gateway adds to requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Counters at the end of a stream in OpenAI's dialect.
    pub(crate) usage: bool,
    /// An error for a prompt that does not fit, in place of a cut.
    pub(crate) no_truncation: bool,
}

impl Proxy {
    /// Forwards `request` from `peer`. The response's body is still under way when this returns.
    pub(crate) async fn forward(&self, request: Request<Incoming>, peer: IpAddr) -> Response<ReplyBody> {
        let path = request.uri().path();
        let (endpoint, protocol) = (Endpoint::of(path), Protocol::of(path));
        let mut meter = Meter::start(endpoint, Arc::clone(&self.metrics));
        let client = match self.door.admit(request.headers(), peer) {
            Ok(client) => client,
            Err(refusal) => return refused(reply::unknown(refusal, protocol), meter),
        };
        let (mut head, body) = request.into_parts();
        let Some(path) = head.uri.path_and_query().cloned() else {
            return refused(reply::error(StatusCode::BAD_REQUEST, protocol, "the request names no path"), meter);
        };
        if endpoint != Endpoint::Blobs && body.size_hint().lower() > LIMIT_BYTES {
            return refused(too_long(protocol), meter);
        }
        head.uri = Uri::from(path);
        head.version = Version::HTTP_11;
        header::remove_hop_by_hop(&mut head.headers);
        head.headers.insert(HOST, self.upstream.host());

        let mut body = RequestBody::new(body, endpoint, Arc::clone(meter.request()));
        let mut turn = None;
        if endpoint.is_inference() {
            // A client that waits for "100 Continue" is not told to go on before the engine is there, if it can be helped.
            if self.wishes != Wishes::default() || !head.headers.contains_key(EXPECT) {
                body.begin().await;
            }
            self.add_wishes(endpoint, &mut body, &mut meter);
            if let Some(queues) = &self.queues {
                match queues.of(meter.model()).enter(&client).await {
                    Ok(begun) => turn = Some(begun),
                    Err(full) => return refused(reply::no_room(full, protocol), meter),
                }
                meter.begins();
                // Whose key was revoked meanwhile has waited in vain.
                if let Err(refusal) = self.door.admit(&head.headers, peer) {
                    return refused(reply::unknown(refusal, protocol), meter);
                }
            }
        }
        if self.door.keys.is_some() {
            // The engine has no use for it.
            head.headers.remove(AUTHORIZATION);
            head.headers.remove("x-api-key");
        }
        match self.upstream.send(Request::from_parts(head, body)).await {
            Ok(response) => pass_back(response, meter, turn),
            Err(error) => no_answer(&error, protocol, meter),
        }
    }

    fn add_wishes(&self, endpoint: Endpoint, body: &mut RequestBody, meter: &mut Meter) {
        match endpoint {
            Endpoint::OpenaiChat | Endpoint::OpenaiCompletions if self.wishes.usage => {
                meter.asks_for_usage(body.insert("stream_options", "{\"include_usage\":true}"));
            }
            Endpoint::Generate | Endpoint::Chat | Endpoint::Embed if self.wishes.no_truncation => {
                body.insert("truncate", "false");
            }
            _ => {}
        }
    }
}

fn pass_back(response: Response<Answer<RequestBody>>, mut meter: Meter, turn: Option<Turn>) -> Response<ReplyBody> {
    let (mut head, body) = response.into_parts();
    meter.answered(head.status);
    head.version = Version::HTTP_11;
    header::remove_hop_by_hop(&mut head.headers);
    let body = ResponseBody::new(body, &head.headers, meter, turn);
    if body.may_be_shorter() {
        head.headers.remove(CONTENT_LENGTH);
    }
    Response::from_parts(head, Either::Right(body))
}

/// The gateway's own answer is all that this client gets.
fn refused(response: Response<ReplyBody>, mut meter: Meter) -> Response<ReplyBody> {
    meter.answered(response.status());
    meter.ended();
    response
}

fn too_long(protocol: Protocol) -> Response<ReplyBody> {
    let message = format!("the request is longer than {} MiB", LIMIT_BYTES >> 20);
    reply::error(StatusCode::PAYLOAD_TOO_LARGE, protocol, &message)
}

fn no_answer(error: &Fault, protocol: Protocol, meter: Meter) -> Response<ReplyBody> {
    if meter.request().was_too_long() {
        return refused(too_long(protocol), meter);
    }
    let mut reason: &dyn Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    let response = reply::error(StatusCode::BAD_GATEWAY, protocol, &format!("the engine does not answer: {reason}"));
    // A client that left in the middle of its body fails the request too; it has nobody to answer.
    if meter.request().client_left() {
        return response;
    }
    log::warn!("the engine does not answer: {reason}");
    refused(response, meter)
}
