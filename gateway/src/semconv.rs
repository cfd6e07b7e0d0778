//! The same under OpenTelemetry's names, so that dashboards survive a move.
//!
//! Names, labels and buckets are those of the semantic conventions for generative AI, as Prometheus spells them: dots
//! become underscores and the unit stands at the end.
//!
//! Invariant: nothing here that the gateway's own metrics do not have; labels come from the same closed sets.

use std::fmt::{self, Write};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{endpoint::Endpoint, metrics::Account, model::Model};

const DURATION_BUCKETS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

const FIRST_TOKEN_BUCKETS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

const PER_TOKEN_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

const TOKEN_BUCKETS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    gen_ai_operation_name: Operation,
    gen_ai_request_model: Model,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    gen_ai_operation_name: Operation,
    gen_ai_request_model: Model,
    gen_ai_token_type: TokenType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Chat,
    TextCompletion,
    Embeddings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum TokenType {
    Input,
    Output,
}

impl EncodeLabelValue for Operation {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            Operation::Chat => "chat",
            Operation::TextCompletion => "text_completion",
            Operation::Embeddings => "embeddings",
        })
    }
}

impl EncodeLabelValue for TokenType {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            TokenType::Input => "input",
            TokenType::Output => "output",
        })
    }
}

impl Operation {
    fn of(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Embed | Endpoint::Embeddings | Endpoint::OpenaiEmbeddings => Operation::Embeddings,
            Endpoint::Generate | Endpoint::OpenaiCompletions => Operation::TextCompletion,
            _ => Operation::Chat,
        }
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The conventions' metrics of a server.
pub(crate) struct Semconv {
    duration: Histograms<Labels>,
    first_token: Histograms<Labels>,
    per_token: Histograms<Labels>,
    tokens: Histograms<TokenLabels>,
}

impl Semconv {
    pub(crate) fn new() -> Self {
        Semconv {
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            first_token: Family::new_with_constructor(|| Histogram::new(FIRST_TOKEN_BUCKETS)),
            per_token: Family::new_with_constructor(|| Histogram::new(PER_TOKEN_BUCKETS)),
            tokens: Family::new_with_constructor(|| Histogram::new(TOKEN_BUCKETS)),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_label(("gen_ai_provider_name".into(), "ollama".into()));
        for (name, help, histograms) in [
            ("gen_ai_server_request_duration", "Time of a request", &self.duration),
            ("gen_ai_server_time_to_first_token", "Time to the first token of a stream", &self.first_token),
            ("gen_ai_server_time_per_output_token", "Time between two tokens", &self.per_token),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histograms.clone());
        }
        registry.register("gen_ai_client_token_usage", "Tokens of a request", self.tokens.clone());
    }

    /// Writes down a request that made a model compute.
    pub(crate) fn record(&self, account: &Account) {
        let labels = Labels {
            gen_ai_operation_name: Operation::of(account.labels.endpoint),
            gen_ai_request_model: account.labels.model.clone(),
        };
        self.duration.get_or_create(&labels).observe(account.duration.as_secs_f64());
        if let Some(first) = account.first_token {
            self.first_token.get_or_create(&labels).observe(first.as_secs_f64());
        }
        if let Some(per_token) = account.per_token_s() {
            self.per_token.get_or_create(&labels).observe(per_token);
        }
        let Labels { gen_ai_operation_name, gen_ai_request_model } = labels;
        for (gen_ai_token_type, tokens) in
            [(TokenType::Input, account.told.prompt_eval_count), (TokenType::Output, account.told.eval_count)]
        {
            let gen_ai_request_model = gen_ai_request_model.clone();
            let labels = TokenLabels { gen_ai_operation_name, gen_ai_request_model, gen_ai_token_type };
            if let Some(tokens) = tokens {
                self.tokens.get_or_create(&labels).observe(tokens as f64);
            }
        }
    }
}
