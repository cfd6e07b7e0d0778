//! Grafana's provisioning: where the samples are, and where the dashboards.

use crate::{release::Contents, settings::Settings};

const DATA_SOURCE: &str = include_str!("../../../config/grafana/provisioning/datasources/stack.yaml");
const PROVIDER: &str = include_str!("../../../config/grafana/provisioning/dashboards/stack.yaml");

/// The secret that Grafana's `admin` logs in with at first.
pub(crate) const PASSWORD: &str = "grafana-admin-password";

/// Everything below `grafana/` but the additions.
pub(super) fn files(settings: &Settings, prometheus_port: u16) -> Contents {
    let interval = settings.monitoring.scrape_interval.as_secs().max(1);
    let source = DATA_SOURCE
        .replace("127.0.0.1:19090", &format!("127.0.0.1:{prometheus_port}"))
        .replace("timeInterval: 5s", &format!("timeInterval: {interval}s"));
    [
        ("grafana/provisioning/datasources/stack.yaml", source),
        ("grafana/provisioning/dashboards/stack.yaml", PROVIDER.to_owned()),
        // The provider complains of a folder that is not there.
        ("grafana/dashboards/README", "Dashboards that come with the stack; yours are in local/.\n".to_owned()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}
