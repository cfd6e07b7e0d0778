//! Prometheus' configuration and its targets, one file a job.

use std::collections::BTreeSet;

use serde_json::json;

use super::DECLARED;
use crate::{
    component::Component,
    release::{Contents, Service},
    settings::Settings,
};

const PROMETHEUS: &str = include_str!("../../../config/prometheus/prometheus.yml");

/// Alerts, by file.
const RULES: [(&str, &str); 2] = [
    ("gateway.yml", include_str!("../../../config/prometheus/rules/gateway.yml")),
    ("host.yml", include_str!("../../../config/prometheus/rules/host.yml")),
];

/// Where Prometheus tells which files it runs.
pub(super) const CONFIG_PATH: &str = "/api/v1/status/config";

/// Everything below `prometheus/` but the additions, under the name `declared` that it is to tell.
pub(super) fn files(settings: &Settings, services: &[Service], declared: &str) -> Contents {
    // The lines that a deploy changes; what is checked in has the defaults.
    let interval = format!("scrape_interval: {}s", settings.monitoring.scrape_interval.as_secs().max(1));
    let config = PROMETHEUS
        .replace("scrape_interval: 5s", &interval)
        .replace(&format!("{DECLARED}by-hand"), &format!("{DECLARED}{declared}"));
    let mut files = Contents::from([("prometheus/prometheus.yml".to_owned(), config)]);
    files.extend(RULES.map(|(name, rules)| (format!("prometheus/rules/{name}"), rules.to_owned())));
    for (component, job) in
        [(Component::Gateway, "ollama"), (Component::NodeExporter, "node"), (Component::Prometheus, "prometheus")]
    {
        let targets: BTreeSet<String> = services
            .iter()
            .filter(|service| service.component == component)
            .map(|service| service.listen.to_string())
            .collect();
        files.insert(format!("prometheus/targets/{job}.json"), format!("{:#}\n", json!([{ "targets": targets }])));
    }
    files
}
