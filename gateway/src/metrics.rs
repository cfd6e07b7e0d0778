//! What the gateway measures, under the names that dashboards and alert rules use.
//!
//! Invariant: every label value comes from a closed set (see [`crate::model`], [`crate::endpoint`]; codes are HTTP's),
//! and every series that an alert watches exists at 0 before it counts: one that is born at 1 never increased.

use std::{
    fmt::{self, Write},
    sync::atomic::AtomicI64,
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    endpoint::Endpoint,
    model::{Model, Models},
};

/// The media type of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds, from a cached embedding to a long answer of a large model.
const DURATION_BUCKETS: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0];

/// How requests usually end; the second to fourth are what alerts count.
const USUAL_ENDS: [(Outcome, u16); 4] =
    [(Outcome::Ok, 200), (Outcome::Error, 500), (Outcome::Error, 502), (Outcome::Rejected, 503)];

/// The label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Answered in full, by 1xx to 3xx.
    Ok,
    /// 4xx or 5xx, an error inside a stream under 200, or a response that the engine broke off.
    Error,
    /// The client left before the end.
    Cancelled,
    /// 429 or 503: the engine was asked for more than it takes at a time.
    Rejected,
}

impl Outcome {
    /// How a request ended that was answered in full with `code`.
    pub(crate) fn of(code: u16) -> Self {
        match code {
            429 | 503 => Outcome::Rejected,
            400.. => Outcome::Error,
            _ => Outcome::Ok,
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Cancelled => "cancelled",
            Outcome::Rejected => "rejected",
        })
    }
}

/// What is known of a request that is over: the labels of `ollama_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Account {
    pub(crate) model: Model,
    pub(crate) endpoint: Endpoint,
    pub(crate) outcome: Outcome,
    pub(crate) code: u16,
}

/// The labels of `ollama_request_duration_seconds`: without the code, which would double its many buckets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    model: Model,
    endpoint: Endpoint,
    outcome: Outcome,
}

/// All that the gateway measures.
pub(crate) struct Metrics {
    registry: Registry,
    durations: Family<DurationLabels, Histogram>,
    requests: Family<Account, Counter>,
    /// Requests whose response is not complete.
    pub(crate) in_flight: Gauge,
    /// 1 while the engine answers.
    pub(crate) up: Gauge,
    /// The names allowed in labels.
    pub(crate) models: Models,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let durations = Family::new_with_constructor((|| Histogram::new(DURATION_BUCKETS)) as fn() -> Histogram);
        let requests = Family::<Account, Counter>::default();
        let in_flight = Gauge::<i64, AtomicI64>::default();
        let up = Gauge::<i64, AtomicI64>::default();

        // The encoder adds what OpenMetrics wants at the end of a name: the unit, `_total`, `_info`.
        let mut registry = Registry::default();
        registry.register_with_unit(
            "ollama_request_duration",
            "Time from a request's head to the last byte of its response",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("ollama_requests", "Requests that are over, by how they ended", requests.clone());
        registry.register("ollama_requests_in_flight", "Requests whose response is not complete", in_flight.clone());
        registry.register("ollama_up", "Whether the engine answers: 1 if it did when last asked", up.clone());
        registry.register(
            "gateway_build",
            "The gateway that exports these metrics",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let metrics = Metrics { registry, durations, requests, in_flight, up, models: Models::default() };
        metrics.expect_requests(Model::Other);
        metrics
    }

    /// Writes down a request that is over.
    pub(crate) fn record(&self, account: Account, duration: Duration) {
        self.requests.get_or_create(&account).inc();
        let Account { model, endpoint, outcome, .. } = account;
        let labels = DurationLabels { model, endpoint, outcome };
        self.durations.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// The engine has these models: their names are labels from now on.
    pub(crate) fn know_models(&self, names: impl IntoIterator<Item = String>) {
        for model in self.models.replace(names) {
            self.expect_requests(model);
        }
    }

    /// Begins the counters of `model` at 0.
    fn expect_requests(&self, model: Model) {
        for endpoint in Endpoint::INFERENCE {
            for (outcome, code) in USUAL_ENDS {
                drop(self.requests.get_or_create(&Account { model: model.clone(), endpoint, outcome, code }));
            }
        }
    }

    /// Everything, as OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_types_and_units_are_as_dashboards_expect() {
        let metrics = Metrics::new();
        let model = Model::Known("qwen3:8b".into());
        let account = Account { model, endpoint: Endpoint::Chat, outcome: Outcome::Ok, code: 200 };
        metrics.record(account, Duration::from_millis(300));
        metrics.up.set(1);
        let text = metrics.encode().unwrap();
        for line in [
            "# TYPE ollama_request_duration_seconds histogram",
            "# UNIT ollama_request_duration_seconds seconds",
            "ollama_request_duration_seconds_sum{model=\"qwen3:8b\",endpoint=\"chat\",outcome=\"ok\"} 0.3",
            "ollama_request_duration_seconds_bucket{le=\"0.25\",model=\"qwen3:8b\",endpoint=\"chat\",outcome=\"ok\"} 0",
            "ollama_request_duration_seconds_bucket{le=\"0.5\",model=\"qwen3:8b\",endpoint=\"chat\",outcome=\"ok\"} 1",
            "ollama_request_duration_seconds_bucket{le=\"1200.0\",model=\"qwen3:8b\",endpoint=\"chat\",outcome=\"ok\"} 1",
            "# TYPE ollama_requests counter",
            "ollama_requests_total{model=\"qwen3:8b\",endpoint=\"chat\",outcome=\"ok\",code=\"200\"} 1",
            "# TYPE ollama_requests_in_flight gauge",
            "ollama_requests_in_flight 0",
            "# TYPE ollama_up gauge",
            "ollama_up 1",
            concat!("gateway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_known_model_begins_at_zero() {
        let metrics = Metrics::new();
        metrics.know_models(["qwen3:8b".to_owned()]);
        let text = metrics.encode().unwrap();
        for labels in [
            "model=\"qwen3:8b\",endpoint=\"chat\",outcome=\"ok\",code=\"200\"",
            "model=\"qwen3:8b\",endpoint=\"anthropic_messages\",outcome=\"rejected\",code=\"503\"",
            "model=\"other\",endpoint=\"openai_chat\",outcome=\"error\",code=\"502\"",
        ] {
            assert!(text.contains(&format!("ollama_requests_total{{{labels}}} 0\n")), "{labels} is not in\n{text}");
        }
    }

    #[test]
    fn knowing_the_models_again_keeps_their_counts() {
        let metrics = Metrics::new();
        metrics.know_models(["m:1".to_owned()]);
        let account =
            Account { model: metrics.models.label("m:1"), endpoint: Endpoint::Chat, outcome: Outcome::Ok, code: 200 };
        metrics.record(account.clone(), Duration::ZERO);
        metrics.know_models(["m:1".to_owned()]);
        assert_eq!(metrics.requests.get_or_create(&account).get(), 1);
    }

    #[test]
    fn a_status_tells_the_outcome() {
        for (code, outcome) in [
            (200, Outcome::Ok),
            (206, Outcome::Ok),
            (304, Outcome::Ok),
            (404, Outcome::Error),
            (429, Outcome::Rejected),
            (500, Outcome::Error),
            (503, Outcome::Rejected),
        ] {
            assert_eq!(Outcome::of(code), outcome, "{code}");
        }
    }
}
