//! Grafana's provisioning: where the samples are, and the dashboards.

use crate::{release::Contents, settings::Settings};

const DATA_SOURCE: &str = include_str!("../../../config/grafana/provisioning/datasources/stack.yaml");
const PROVIDER: &str = include_str!("../../../config/grafana/provisioning/dashboards/stack.yaml");

/// Dashboards, by file.
const DASHBOARDS: [(&str, &str); 4] = [
    ("overview", include_str!("../../../config/grafana/dashboards/overview.json")),
    ("models", include_str!("../../../config/grafana/dashboards/models.json")),
    ("host", include_str!("../../../config/grafana/dashboards/host.json")),
    ("backups", include_str!("../../../config/grafana/dashboards/backups.json")),
];

/// The secret that Grafana's `admin` logs in with at first.
pub(crate) const PASSWORD: &str = "grafana-admin-password";

/// Everything below `grafana/` but the additions.
pub(super) fn files(settings: &Settings, prometheus_port: u16) -> Contents {
    let interval = settings.monitoring.scrape_interval.as_secs().max(1);
    let source = DATA_SOURCE
        .replace("127.0.0.1:19090", &format!("127.0.0.1:{prometheus_port}"))
        .replace("timeInterval: 5s", &format!("timeInterval: {interval}s"));
    let dashboards = DASHBOARDS.map(|(name, model)| (format!("grafana/dashboards/{name}.json"), model.to_owned()));
    [
        ("grafana/provisioning/datasources/stack.yaml".to_owned(), source),
        ("grafana/provisioning/dashboards/stack.yaml".to_owned(), PROVIDER.to_owned()),
    ]
    .into_iter()
    .chain(dashboards)
    .collect()
}
