//! What the gateway measures, under the names that dashboards and alert rules use.
//!
//! Invariant: every label value comes from a closed set (see [`crate::model`], [`crate::endpoint`]; codes are HTTP's),
//! and every series that an alert watches exists at 0 before it counts: one that is born at 1 never increased.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::{Mutex, PoisonError, atomic::AtomicI64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use wire::ollama::{self, PsModel};

use crate::{
    endpoint::Endpoint,
    model::{Model, Models},
    semconv::Semconv,
};

/// The media type of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds, from a cached embedding to a long answer of a large model.
const DURATION_BUCKETS: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0];

/// Of waits: for the first token, for a slot, for a model to load.
const WAIT_BUCKETS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];

/// Between two tokens, from 500 a second to one.
const TOKEN_BUCKETS: [f64; 14] = [0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0];

/// More bytes of text than this for every token that the engine counted, and something was left out. English takes
/// about four and a half, code some three; a cut prompt keeps about half of the context.
const TEXT_BYTES_PER_TOKEN: u64 = 6;

/// So much of a request's text need not reach the model: names of roles and fields.
const TEXT_BYTES_ASIDE: u64 = 2048;

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

/// The labels of `ollama_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Labels {
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    model: Model,
    endpoint: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: Model,
}

/// All that is known of a request that is over.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) labels: Labels,
    /// From its head to its response's last byte.
    pub(crate) duration: Duration,
    /// For a turn, here.
    pub(crate) waited: Duration,
    /// From its head; none if it was not streamed, or said nothing.
    pub(crate) first_token: Option<Duration>,
    /// How much text it carried.
    pub(crate) text_bytes: u64,
    /// By the engine.
    pub(crate) told: ollama::Metrics,
}

impl Account {
    /// Seconds between two tokens: as the engine counts where it tells, else as the client saw it.
    pub(crate) fn per_token_s(&self) -> Option<f64> {
        let tokens = self.told.eval_count.filter(|&tokens| tokens > 0)?;
        if let Some(eval) = self.told.eval_duration {
            return Some(seconds(eval) / tokens as f64);
        }
        let streaming = self.duration.checked_sub(self.first_token?)?;
        (tokens > 1).then(|| streaming.as_secs_f64() / (tokens - 1) as f64)
    }

    /// True if the prompt must have been cut: far more was sent than was counted, and what was counted fills the context
    /// to where a cut leaves it.
    fn is_truncated(&self, context_tokens: Option<u32>) -> bool {
        let Some(counted) = self.told.prompt_eval_count.filter(|&counted| counted > 0) else { return false };
        let fills = context_tokens.is_none_or(|context| counted >= u64::from(context) / 4);
        fills && self.text_bytes > counted * TEXT_BYTES_PER_TOKEN + TEXT_BYTES_ASIDE
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histograms<L: Clone + std::hash::Hash + Eq>(new: fn() -> Histogram) -> Histograms<L> {
    Family::new_with_constructor(new)
}

/// All that the gateway measures.
pub(crate) struct Metrics {
    registry: Registry,
    durations: Histograms<DurationLabels>,
    first_tokens: Histograms<EndpointLabels>,
    per_token: Histograms<ModelLabels>,
    queue: Histograms<ModelLabels>,
    load: Histograms<ModelLabels>,
    requests: Family<Labels, Counter>,
    prompt_tokens: Family<ModelLabels, Counter>,
    generated_tokens: Family<ModelLabels, Counter>,
    truncated: Family<ModelLabels, Counter>,
    loads: Family<ModelLabels, Counter>,
    size_bytes: Family<ModelLabels, Gauge>,
    vram_bytes: Family<ModelLabels, Gauge>,
    semconv: Semconv,
    /// The models in memory, as of the last poll, and the context of each; none before the first.
    loaded: Mutex<Option<HashMap<Model, u32>>>,
    /// Requests whose response is not complete.
    pub(crate) in_flight: Gauge,
    /// Requests that wait for a turn.
    pub(crate) waiting: Gauge,
    /// 1 while the engine answers.
    pub(crate) up: Gauge,
    /// The names allowed in labels.
    pub(crate) models: Models,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Metrics {
            registry: Registry::default(),
            durations: histograms(|| Histogram::new(DURATION_BUCKETS)),
            first_tokens: histograms(|| Histogram::new(WAIT_BUCKETS)),
            per_token: histograms(|| Histogram::new(TOKEN_BUCKETS)),
            queue: histograms(|| Histogram::new(WAIT_BUCKETS)),
            load: histograms(|| Histogram::new(WAIT_BUCKETS)),
            requests: Family::default(),
            prompt_tokens: Family::default(),
            generated_tokens: Family::default(),
            truncated: Family::default(),
            loads: Family::default(),
            size_bytes: Family::default(),
            vram_bytes: Family::default(),
            semconv: Semconv::new(),
            loaded: Mutex::default(),
            in_flight: Gauge::<i64, AtomicI64>::default(),
            waiting: Gauge::<i64, AtomicI64>::default(),
            up: Gauge::<i64, AtomicI64>::default(),
            models: Models::default(),
        };
        metrics.expect(Model::Other);
        Metrics { registry: metrics.registry(), ..metrics }
    }

    /// Every metric under its name. The encoder adds what OpenMetrics wants at the end of it: the unit, `_total`, `_info`.
    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "ollama_request_duration",
            "Time from a request's head to the last byte of its response",
            seconds(),
            self.durations.clone(),
        );
        registry.register_with_unit(
            "ollama_time_to_first_token",
            "Time from a request's head to the first content, thinking or tool call of its stream",
            seconds(),
            self.first_tokens.clone(),
        );
        registry.register_with_unit(
            "ollama_time_per_output_token",
            "Time between two tokens",
            seconds(),
            self.per_token.clone(),
        );
        let queue = "Wait for a turn at the gateway, and for a slot in the engine where it tells";
        registry.register_with_unit("ollama_queue", queue, seconds(), self.queue.clone());
        let load = "Time until the model was in memory, as the engine tells it";
        registry.register_with_unit("ollama_load_duration", load, seconds(), self.load.clone());
        registry.register("ollama_requests", "Requests that are over, by how they ended", self.requests.clone());
        registry.register("ollama_prompt_tokens", "Tokens of prompts, cached ones too", self.prompt_tokens.clone());
        registry.register("ollama_generated_tokens", "Tokens generated", self.generated_tokens.clone());
        let truncated = "Prompts that the engine must have cut: far more text was sent than it counted tokens";
        registry.register("ollama_prompt_truncated", truncated, self.truncated.clone());
        registry.register("ollama_model_loads", "Times that a model came into memory", self.loads.clone());
        let bytes = || Unit::Bytes;
        registry.register_with_unit("ollama_model_size", "Memory of a loaded model", bytes(), self.size_bytes.clone());
        let vram = "Memory of a loaded model that the GPU holds";
        registry.register_with_unit("ollama_model_vram", vram, bytes(), self.vram_bytes.clone());
        let in_flight = "Requests whose response is not complete";
        registry.register("ollama_requests_in_flight", in_flight, self.in_flight.clone());
        registry.register("ollama_requests_waiting", "Requests that wait for a turn", self.waiting.clone());
        registry.register("ollama_up", "Whether the engine answers: 1 if it did when last asked", self.up.clone());
        registry.register(
            "gateway_build",
            "The gateway that exports these metrics",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        self.semconv.register(&mut registry);
        registry
    }

    /// Writes down a request that is over.
    pub(crate) fn record(&self, account: Account) {
        log::debug!("{account:?}");
        self.requests.get_or_create(&account.labels).inc();
        let Labels { model, endpoint, outcome, .. } = account.labels.clone();
        let labels = DurationLabels { model: model.clone(), endpoint, outcome };
        self.durations.get_or_create(&labels).observe(account.duration.as_secs_f64());
        if !endpoint.is_inference() {
            return;
        }
        self.semconv.record(&account);
        if let Some(first) = account.first_token {
            let labels = EndpointLabels { model: model.clone(), endpoint };
            self.first_tokens.get_or_create(&labels).observe(first.as_secs_f64());
        }
        let context_tokens = self.loaded().as_ref().and_then(|loaded| loaded.get(&model).copied());
        let labels = ModelLabels { model };
        if account.is_truncated(context_tokens) {
            self.truncated.get_or_create(&labels).inc();
        }
        if outcome != Outcome::Rejected {
            let queued = account.told.queue_duration().map_or(0.0, seconds);
            self.queue.get_or_create(&labels).observe(account.waited.as_secs_f64() + queued);
        }
        if let Some(load) = account.told.load_duration {
            self.load.get_or_create(&labels).observe(seconds(load));
        }
        if let Some(per_token) = account.per_token_s() {
            self.per_token.get_or_create(&labels).observe(per_token);
        }
        if let Some(tokens) = account.told.prompt_eval_count {
            self.prompt_tokens.get_or_create(&labels).inc_by(tokens);
        }
        if let Some(tokens) = account.told.eval_count {
            self.generated_tokens.get_or_create(&labels).inc_by(tokens);
        }
    }

    /// The engine has these models: their names are labels from now on.
    pub(crate) fn know_models(&self, names: impl IntoIterator<Item = String>) {
        for model in self.models.replace(names) {
            self.expect(model);
        }
    }

    /// The engine has these in memory.
    pub(crate) fn know_loaded(&self, models: &[PsModel]) {
        let now: HashMap<Model, &PsModel> =
            models.iter().map(|loaded| (self.models.label(&loaded.name), loaded)).collect();
        let before = self.loaded().replace(now.iter().map(|(model, ps)| (model.clone(), ps.context_length)).collect());
        let before = before.as_ref();
        for (model, ps) in &now {
            let labels = ModelLabels { model: model.clone() };
            self.size_bytes.get_or_create(&labels).set(ps.size.cast_signed());
            self.vram_bytes.get_or_create(&labels).set(ps.size_vram.cast_signed());
            // What was in memory before the gateway came was not loaded meanwhile. With another context it is loaded anew.
            if before.is_some_and(|before| before.get(model) != Some(&ps.context_length)) {
                self.loads.get_or_create(&labels).inc();
            }
        }
        for model in before.into_iter().flat_map(HashMap::keys).filter(|model| !now.contains_key(model)) {
            let labels = ModelLabels { model: model.clone() };
            self.size_bytes.remove(&labels);
            self.vram_bytes.remove(&labels);
        }
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Option<HashMap<Model, u32>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the counters of `model` at 0.
    fn expect(&self, model: Model) {
        for endpoint in Endpoint::INFERENCE {
            for (outcome, code) in USUAL_ENDS {
                drop(self.requests.get_or_create(&Labels { model: model.clone(), endpoint, outcome, code }));
            }
        }
        let labels = ModelLabels { model };
        for counters in [&self.prompt_tokens, &self.generated_tokens, &self.truncated, &self.loads] {
            drop(counters.get_or_create(&labels));
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

    fn account(labels: Labels) -> Account {
        let told = ollama::Metrics {
            total_duration: Some(290_000_000),
            load_duration: Some(50_000_000),
            prompt_eval_count: Some(11),
            prompt_eval_duration: Some(100_000_000),
            eval_count: Some(10),
            eval_duration: Some(40_000_000),
        };
        let (duration, waited) = (Duration::from_millis(300), Duration::from_millis(25));
        let first_token = Some(Duration::from_millis(200));
        Account { labels, duration, waited, first_token, text_bytes: 40, told }
    }

    #[test]
    fn names_types_and_units_are_as_dashboards_expect() {
        let metrics = Metrics::new();
        let model = Model::Known("qwen3:8b".into());
        metrics.record(account(Labels { model, endpoint: Endpoint::Chat, outcome: Outcome::Ok, code: 200 }));
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
            "ollama_time_to_first_token_seconds_sum{model=\"qwen3:8b\",endpoint=\"chat\"} 0.2",
            "ollama_time_per_output_token_seconds_sum{model=\"qwen3:8b\"} 0.004",
            "ollama_queue_seconds_sum{model=\"qwen3:8b\"} 0.125",
            "ollama_load_duration_seconds_sum{model=\"qwen3:8b\"} 0.05",
            "ollama_prompt_tokens_total{model=\"qwen3:8b\"} 11",
            "ollama_generated_tokens_total{model=\"qwen3:8b\"} 10",
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
        let labels =
            Labels { model: metrics.models.label("m:1"), endpoint: Endpoint::Chat, outcome: Outcome::Ok, code: 200 };
        metrics.record(account(labels.clone()));
        metrics.know_models(["m:1".to_owned()]);
        assert_eq!(metrics.requests.get_or_create(&labels).get(), 1);
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

    #[test]
    fn a_cut_prompt_is_told_from_one_that_fits() {
        let labels = Labels { model: Model::Other, endpoint: Endpoint::Chat, outcome: Outcome::Ok, code: 200 };
        // Bytes sent, tokens counted, tokens of context.
        for (text_bytes, counted, context, truncated) in [
            (4_000, 1_000, Some(32_768), false),
            (140_000, 32_000, Some(32_768), false),
            (400_000, 32_768, Some(32_768), true),
            (140_000, 16_384, Some(32_768), true),
            (400_000, 16_384, None, true),
            // An image that is no text, or a template that drops most of it: nowhere near the context.
            (400_000, 100, Some(32_768), false),
            (0, 32_768, Some(32_768), false),
        ] {
            let mut account = account(labels.clone());
            account.text_bytes = text_bytes;
            account.told.prompt_eval_count = Some(counted);
            assert_eq!(account.is_truncated(context), truncated, "{text_bytes} {counted} {context:?}");
        }
    }

    #[test]
    fn a_model_is_loaded_when_it_comes_and_gone_when_it_goes() {
        let metrics = Metrics::new();
        metrics.know_models(["a:1".to_owned(), "b:1".to_owned()]);
        let ps = |name: &str| PsModel { name: name.to_owned(), size: 10, size_vram: 7, ..PsModel::default() };
        metrics.know_loaded(&[ps("a:1")]);
        metrics.know_loaded(&[ps("a:1"), ps("b:1")]);
        metrics.know_loaded(&[ps("b:1")]);
        metrics.know_loaded(&[ps("a:1"), ps("b:1")]);
        metrics.know_loaded(&[PsModel { context_length: 4096, ..ps("b:1") }]);
        let text = metrics.encode().unwrap();
        for line in [
            "ollama_model_loads_total{model=\"a:1\"} 1",
            "ollama_model_loads_total{model=\"b:1\"} 2",
            "ollama_model_size_bytes{model=\"b:1\"} 10",
            "ollama_model_vram_bytes{model=\"b:1\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("ollama_model_size_bytes{model=\"a:1\"}"), "{text}");
    }

    /// A rule about a metric that nobody exports never fires, and a panel stays empty.
    #[test]
    fn every_metric_of_ours_that_an_alert_or_a_dashboard_names_is_exported() {
        let metrics = Metrics::new();
        metrics.know_models(["m:1".to_owned()]);
        metrics.know_loaded(&[PsModel { name: "m:1".to_owned(), ..PsModel::default() }]);
        let model = metrics.models.label("m:1");
        metrics.record(account(Labels { model, endpoint: Endpoint::Chat, outcome: Outcome::Ok, code: 200 }));
        let exported = metrics.encode().unwrap();
        let config = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        let mut texts = String::new();
        for folder in ["prometheus/rules", "grafana/dashboards"] {
            for entry in std::fs::read_dir(config.join(folder)).unwrap() {
                texts += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
            }
        }
        let words = texts.split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_');
        let named: std::collections::BTreeSet<_> = words.filter(|word| word.starts_with("ollama_")).collect();
        assert!(named.len() >= 15, "{named:?}");
        for name in named {
            let is_exported =
                exported.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
            assert!(is_exported, "{name} is not in\n{exported}");
        }
    }
}
