//! How the stack performs now: what each component takes, and the queries that people ask first.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use stack::{component::Component, failure::Failure, observed::Observed};

use super::{
    Monitor,
    query::{self, Row},
    usage::{Usage, usage},
};

/// What is asked, and the expression; the first two as the old guide has them.
const QUERIES: [(&str, &str); 10] = [
    ("what answers", "up"),
    ("requests, of native histograms", "rate(ollama_request_duration_seconds[5m])"),
    ("requests per second", "sum by (model, outcome) (rate(ollama_requests_total{model!=\"none\"}[5m]) > 0)"),
    (
        "request, 95th percentile, s",
        "histogram_quantile(0.95, sum by (le, model) (rate(ollama_request_duration_seconds_bucket{model!=\"none\"}[5m]))) > 0",
    ),
    (
        "first token, 95th percentile, s",
        "histogram_quantile(0.95, sum by (le, model) (rate(ollama_time_to_first_token_seconds_bucket[5m]))) > 0",
    ),
    ("tokens generated per second", "sum by (model) (rate(ollama_generated_tokens_total[5m]) > 0)"),
    ("requests in flight", "ollama_requests_in_flight"),
    ("requests that wait", "ollama_requests_waiting"),
    ("memory of models, bytes", "ollama_model_size_bytes"),
    ("of that on the GPU", "ollama_model_vram_bytes / ollama_model_size_bytes"),
];

/// The shape of `perf --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perf {
    /// What each component that runs takes of the machine, with all that it has started.
    pub components: BTreeMap<Component, Taken>,
    /// The queries in order; without a Prometheus there are none.
    pub queries: Vec<Asked>,
}

/// What a component takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Taken {
    /// Resident.
    pub memory_bytes: u64,
    /// Of one core.
    pub cpu_percent: f64,
}

/// A query, and its rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// What it tells.
    pub what: String,
    /// In PromQL.
    pub query: String,
    /// None: there is nothing to tell of.
    pub rows: Vec<Row>,
}

/// Looks and asks.
///
/// # Errors
/// Prometheus is there and does not answer.
pub fn perf(observed: &Observed, monitor: &Monitor) -> Result<Perf, Failure> {
    let taken = |Usage { memory_bytes, cpu_percent }: Usage| Taken { memory_bytes, cpu_percent };
    let components = usage(observed).into_iter().map(|(component, usage)| (component, taken(usage))).collect();
    let ask = |(what, query): &(&str, &str)| {
        let rows = query::query(monitor, query, None)?;
        Ok(Asked { what: (*what).to_owned(), query: (*query).to_owned(), rows })
    };
    let queries = match monitor.url(Component::Prometheus) {
        Ok(_) => QUERIES.iter().map(ask).collect::<Result<_, Failure>>()?,
        Err(_) => Vec::new(),
    };
    Ok(Perf { components, queries })
}

impl Perf {
    /// For a terminal.
    pub fn words(&self) -> String {
        let mut words = format!("{:<16}{:>12}{:>10}\n", "component", "memory", "CPU");
        for (component, taken) in &self.components {
            let mebibytes = taken.memory_bytes as f64 / f64::from(1 << 20);
            let _ = writeln!(words, "{component:<16}{mebibytes:>8.1} MiB{:>8.1} %", taken.cpu_percent);
        }
        if self.queries.is_empty() {
            words.push_str("\nthere is no Prometheus to ask for more\n");
        }
        for Asked { what, query, rows } in &self.queries {
            let _ = writeln!(words, "\n{what}: {query}");
            match rows.is_empty() {
                true => words.push_str("  –\n"),
                false => query::table(rows, None).lines().for_each(|line| words.push_str(&format!("  {line}\n"))),
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_figure_and_says_what_is_missing() {
        let row = Row { series: "up{job=node}".into(), points: vec![(0.0, 1.0)], count: None };
        let asked = |rows| Asked { what: "what answers".into(), query: "up".into(), rows };
        let taken = Taken { memory_bytes: 3 << 19, cpu_percent: 12.34 };
        let perf =
            Perf { components: [(Component::Engine, taken)].into(), queries: vec![asked(vec![row]), asked(vec![])] };
        insta::assert_snapshot!(perf.words(), @r"
        component             memory       CPU
        engine               1.5 MiB    12.3 %

        what answers: up
          up{job=node}  1

        what answers: up
          –
        ");
        let alone = Perf { queries: vec![], ..perf };
        assert!(alone.words().contains("there is no Prometheus"));
    }
}
