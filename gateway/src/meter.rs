//! The account of one request.
//!
//! Invariant: every metered request is counted exactly once, when its meter is dropped, so no path through the proxy
//! can forget it. Nothing said otherwise, the client went away: that is what being dropped unasked means.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::StatusCode;
use wire::{ollama, prompt::Prompt, watch::Seen};

use crate::{
    endpoint::Endpoint,
    metrics::{Account, Labels, Metrics, Outcome},
    model::Model,
};

/// The code of a request whose client left before there was a status; nginx and Ollama log the same.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Measures one request from its head to its response's last byte.
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    endpoint: Endpoint,
    started: Instant,
    request: Arc<RequestFacts>,
    code: u16,
    /// The first verdict stands.
    outcome: Option<Outcome>,
    waited: Duration,
    first_token: Option<Duration>,
    told: ollama::Metrics,
    asked_for_usage: bool,
}

impl Meter {
    /// A request to `endpoint` has arrived.
    pub(crate) fn start(endpoint: Endpoint, metrics: Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        Meter {
            metrics,
            endpoint,
            started: Instant::now(),
            request: Arc::default(),
            code: CLIENT_CLOSED_REQUEST,
            outcome: None,
            waited: Duration::ZERO,
            first_token: None,
            told: ollama::Metrics::default(),
            asked_for_usage: false,
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Where the request's body reports what it sees.
    pub(crate) fn request(&self) -> &Arc<RequestFacts> {
        &self.request
    }

    /// The request has got its turn.
    pub(crate) fn begins(&mut self) {
        self.waited = self.started.elapsed();
    }

    /// Whether the gateway asks for the counters of a stream.
    pub(crate) fn asks_for_usage(&mut self, asks: bool) {
        self.asked_for_usage = asks;
    }

    /// The gateway asked for them and the client did not.
    pub(crate) fn usage_is_ours(&self) -> bool {
        self.asked_for_usage && !self.request.asks_for_usage.load(Ordering::Relaxed)
    }

    /// The response has a status.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.code = status.as_u16();
    }

    /// This much of the response was seen.
    pub(crate) fn sees(&mut self, seen: &Seen) {
        if seen.token && self.first_token.is_none() {
            self.first_token = Some(self.started.elapsed());
        }
        if seen.error {
            self.failed();
        }
        self.told = seen.metrics;
    }

    /// The response is complete: its status tells how the request ended, unless it is known to have failed.
    pub(crate) fn ended(&mut self) {
        self.outcome.get_or_insert(Outcome::of(self.code));
    }

    /// The request failed, whatever its status.
    pub(crate) fn failed(&mut self) {
        self.outcome.get_or_insert(Outcome::Error);
    }

    /// The label of the model that the request names, as far as it has come.
    pub(crate) fn model(&self) -> Model {
        match (self.endpoint.model_field(), self.request.model.get()) {
            (None, _) => Model::None,
            (Some(_), None) => Model::Other,
            (Some(_), Some(name)) => self.metrics.models.label(name),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let labels = Labels {
            model: self.model(),
            endpoint: self.endpoint,
            outcome: self.outcome.unwrap_or(Outcome::Cancelled),
            code: self.code,
        };
        self.metrics.record(Account {
            labels,
            duration: self.started.elapsed(),
            waited: self.waited,
            first_token: self.first_token,
            text_bytes: self.request.text_bytes.load(Ordering::Relaxed),
            told: self.told,
        });
        self.metrics.in_flight.dec();
    }
}

/// What a request's body tells while it passes. The body belongs to the engine's side of the proxy, the meter to the
/// client's: this is what they share.
#[derive(Default)]
pub(crate) struct RequestFacts {
    model: OnceLock<String>,
    text_bytes: AtomicU64,
    asks_for_usage: AtomicBool,
    client_left: AtomicBool,
    too_long: AtomicBool,
}

impl RequestFacts {
    pub(crate) fn names_model(&self, name: String) {
        self.model.get_or_init(|| name);
    }

    pub(crate) fn says(&self, prompt: &Prompt) {
        self.text_bytes.store(prompt.text_bytes(), Ordering::Relaxed);
        self.asks_for_usage.store(prompt.asks_for_usage(), Ordering::Relaxed);
    }

    pub(crate) fn client_leaves(&self) {
        self.client_left.store(true, Ordering::Relaxed);
    }

    /// The client left before its request's body was complete.
    pub(crate) fn client_left(&self) -> bool {
        self.client_left.load(Ordering::Relaxed)
    }

    pub(crate) fn is_too_long(&self) {
        self.too_long.store(true, Ordering::Relaxed);
    }

    /// More came than the gateway takes.
    pub(crate) fn was_too_long(&self) -> bool {
        self.too_long.load(Ordering::Relaxed)
    }
}
