//! The account of one request.
//!
//! Invariant: every metered request is counted exactly once, when its meter is dropped, so no path through the proxy
//! can forget it. Nothing said otherwise, the client went away: that is what being dropped unasked means.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use hyper::StatusCode;

use crate::{
    endpoint::Endpoint,
    metrics::{Account, Metrics, Outcome},
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
}

impl Meter {
    /// A request to `endpoint` has arrived.
    pub(crate) fn start(endpoint: Endpoint, metrics: Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        let request = RequestFacts { endpoint, model: OnceLock::new(), client_left: AtomicBool::new(false) };
        Meter {
            metrics,
            endpoint,
            started: Instant::now(),
            request: Arc::new(request),
            code: CLIENT_CLOSED_REQUEST,
            outcome: None,
        }
    }

    /// Where the request's body reports what it sees.
    pub(crate) fn request(&self) -> Arc<RequestFacts> {
        Arc::clone(&self.request)
    }

    /// The client left before its request's body was complete.
    pub(crate) fn client_left(&self) -> bool {
        self.request.client_left.load(Ordering::Relaxed)
    }

    /// The response has a status.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.code = status.as_u16();
    }

    /// The response is complete: its status tells how the request ended, unless it is known to have failed.
    pub(crate) fn ended(&mut self) {
        self.outcome.get_or_insert(Outcome::of(self.code));
    }

    /// The request failed, whatever its status.
    pub(crate) fn failed(&mut self) {
        self.outcome.get_or_insert(Outcome::Error);
    }

    fn model(&self) -> Model {
        match (self.request.model_field(), self.request.model.get()) {
            (None, _) => Model::None,
            (Some(_), None) => Model::Other,
            (Some(_), Some(name)) => self.metrics.models.label(name),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let account = Account {
            model: self.model(),
            endpoint: self.endpoint,
            outcome: self.outcome.unwrap_or(Outcome::Cancelled),
            code: self.code,
        };
        let duration = self.started.elapsed();
        log::debug!("{account:?} in {duration:?}");
        self.metrics.record(account, duration);
        self.metrics.in_flight.dec();
    }
}

/// What a request's body tells while it passes. The body belongs to the client's side of the proxy, the meter to the
/// server's: this is what they share.
pub(crate) struct RequestFacts {
    endpoint: Endpoint,
    model: OnceLock<String>,
    client_left: AtomicBool,
}

impl RequestFacts {
    /// The field in which the body names a model, if it does.
    pub(crate) fn model_field(&self) -> Option<&'static str> {
        self.endpoint.model_field()
    }

    pub(crate) fn names_model(&self, name: String) {
        self.model.get_or_init(|| name);
    }

    pub(crate) fn client_leaves(&self) {
        self.client_left.store(true, Ordering::Relaxed);
    }
}
