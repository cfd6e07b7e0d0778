//! Forwards one request to the engine, and its response back.
//!
//! Invariant: a request is forwarded or answered with an error in the shape its API's clients expect, and both ways
//! end in exactly one account of it. Dropping the future, or the response's body, cancels the request upstream.

use std::{error, net::SocketAddr, sync::Arc};

use http_body_util::Either;
use hyper::{Request, Response, StatusCode, Version, body::Incoming, header::HOST};

use crate::{
    body::{RequestBody, ResponseBody},
    endpoint::Endpoint,
    header,
    meter::Meter,
    metrics::Metrics,
    reply::{self, Protocol, ReplyBody},
    upstream::{self, Upstream},
};

/// The way to the engine.
pub(crate) struct Proxy {
    upstream: Upstream,
    client: upstream::Client<RequestBody>,
    metrics: Arc<Metrics>,
}

impl Proxy {
    pub(crate) fn new(upstream: SocketAddr, metrics: Arc<Metrics>) -> Self {
        Proxy { upstream: Upstream::at(upstream), client: upstream::client(), metrics }
    }

    /// Forwards `request`. The response's body is still under way when this returns.
    pub(crate) async fn forward(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let path = request.uri().path();
        let (endpoint, protocol) = (Endpoint::of(path), Protocol::of(path));
        let mut meter = Meter::start(endpoint, Arc::clone(&self.metrics));

        let (mut head, body) = request.into_parts();
        let Some(uri) = self.upstream.uri(&head.uri) else {
            meter.answered(StatusCode::BAD_REQUEST);
            meter.ended();
            return reply::error(StatusCode::BAD_REQUEST, protocol, "the request names no path");
        };
        head.uri = uri;
        head.version = Version::HTTP_11;
        header::remove_hop_by_hop(&mut head.headers);
        head.headers.insert(HOST, self.upstream.host());
        let body = RequestBody::new(body, meter.request());

        match self.client.request(Request::from_parts(head, body)).await {
            Ok(response) => pass_back(response, meter),
            Err(error) => unreachable_engine(&error, protocol, meter),
        }
    }
}

fn pass_back(response: Response<Incoming>, mut meter: Meter) -> Response<ReplyBody> {
    let (mut head, body) = response.into_parts();
    meter.answered(head.status);
    head.version = Version::HTTP_11;
    header::remove_hop_by_hop(&mut head.headers);
    let body = ResponseBody::new(body, &head.headers, meter);
    Response::from_parts(head, Either::Right(body))
}

fn unreachable_engine(error: &dyn error::Error, protocol: Protocol, mut meter: Meter) -> Response<ReplyBody> {
    let mut reason = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    // A client that left in the middle of its body fails the request too; it has nobody to answer.
    if !meter.client_left() {
        log::warn!("the engine does not answer: {reason}");
        meter.answered(StatusCode::BAD_GATEWAY);
        meter.ended();
    }
    reply::error(StatusCode::BAD_GATEWAY, protocol, &format!("the engine does not answer: {reason}"))
}
