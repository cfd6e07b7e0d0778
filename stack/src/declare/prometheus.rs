//! Prometheus' configuration and its targets, one file a job.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde_json::json;

use super::DECLARED;
use crate::{
    component::Component,
    release::{Contents, Service},
    settings::{Settings, Tls},
};

const PROMETHEUS: &str = include_str!("../../../config/prometheus/prometheus.yml");

/// Alerts, by file.
const RULES: [(&str, &str); 2] = [
    ("gateway.yml", include_str!("../../../config/prometheus/rules/gateway.yml")),
    ("host.yml", include_str!("../../../config/prometheus/rules/host.yml")),
];

/// Settings that an older Prometheus does not know, and would not start with.
const NATIVE: [&str; 2] = ["convert_classic_histograms_to_nhcb:", "always_scrape_classic_histograms:"];

/// Where Prometheus tells which files it runs.
pub(super) const CONFIG_PATH: &str = "/api/v1/status/config";

/// Everything below `prometheus/` but the additions, under the name `declared` that it is to tell.
pub(super) fn files(settings: &Settings, services: &[Service], version: Option<&str>, declared: &str) -> Contents {
    // The lines that a deploy changes; what is checked in has the defaults.
    let interval = format!("scrape_interval: {}s", settings.monitoring.scrape_interval.as_secs().max(1));
    let config = PROMETHEUS
        .replace("scrape_interval: 5s", &interval)
        .replace(&format!("{DECLARED}by-hand"), &format!("{DECLARED}{declared}"));
    let is_of_native = |line: &str| NATIVE.iter().any(|key| line.trim_start().starts_with(key));
    let native = knows_native_histograms(version);
    let config = config.split_inclusive('\n').filter(|line| native || !is_of_native(line)).collect();
    let mut files = Contents::from([("prometheus/prometheus.yml".to_owned(), config)]);
    files.extend(RULES.map(|(name, rules)| (format!("prometheus/rules/{name}"), rules.to_owned())));
    for (component, job) in [
        (Component::Gateway, "ollama"),
        (Component::NodeExporter, "node"),
        (Component::Prometheus, "prometheus"),
        (Component::Alertmanager, "alertmanager"),
        (Component::Macmon, "macmon"),
        (Component::Edge, "edge"),
    ] {
        let targets: BTreeSet<String> = services
            .iter()
            .filter(|service| service.component == component)
            .map(|service| service.listen.to_string())
            .collect();
        files.insert(format!("prometheus/targets/{job}.json"), format!("{:#}\n", json!([{ "targets": targets }])));
    }
    files
}

/// Where people reach it: what links in alerts begin with. Without a path, which would become a prefix of all that it answers.
/// By the settings alone: the address that a deploy came by is another one tomorrow, and no reason to start it anew.
/// `None`: the host is known by no name that is good elsewhere.
pub(super) fn external_url(settings: &Settings) -> Option<String> {
    let scheme = if settings.edge.tls == Tls::Off { "http" } else { "https" };
    let port = settings.ports.lan_prometheus;
    match (settings.host.address.as_str(), settings.host.address.parse::<IpAddr>()) {
        (_, Ok(address)) => (!address.is_loopback()).then(|| format!("{scheme}://{}/", SocketAddr::new(address, port))),
        ("localhost", _) => None,
        (name, _) => Some(format!("{scheme}://{name}:{port}/")),
    }
}

/// Whether this version makes native histograms of classic ones as it is told to. One that is not known does not.
pub(super) fn knows_native_histograms(version: Option<&str>) -> bool {
    let mut numbers = version.unwrap_or_default().split('.').map_while(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= (3, 5))
}

/// The version of an image by its tag, as `v3.5.3`.
pub(super) fn version_of(image: &str) -> Option<&str> {
    image.split('@').next()?.rsplit_once(":v").map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_alerts_lead_to_the_door_of_the_edge() {
        let mut settings = Settings::default();
        let url = |settings: &mut Settings, address: &str| {
            settings.host.address = address.to_owned();
            external_url(settings)
        };
        for own in ["localhost", "127.0.0.1", "::1"] {
            assert_eq!(url(&mut settings, own), None, "{own} is somewhere else for whoever reads the mail");
        }
        assert_eq!(url(&mut settings, "10.0.0.2").as_deref(), Some("http://10.0.0.2:9090/"));
        settings.edge.tls = Tls::Internal;
        settings.ports.lan_prometheus = 9999;
        assert_eq!(url(&mut settings, "studio.local").as_deref(), Some("https://studio.local:9999/"));
        assert_eq!(url(&mut settings, "fd00::2").as_deref(), Some("https://[fd00::2]:9999/"));
    }

    #[test]
    fn only_a_prometheus_that_knows_native_histograms_is_told_of_them() {
        for (image, knows) in [
            ("prom/prometheus:v3.5.3", true),
            ("registry:5000/prometheus:v3.13.0@sha256:0", true),
            ("prom/prometheus:v3.4.2", false),
            ("prom/prometheus:v2.55.1", false),
            ("prometheus:20260101", false),
            ("prometheus@sha256:0", false),
        ] {
            assert_eq!(knows_native_histograms(version_of(image)), knows, "{image}");
            let files = files(&Settings::default(), &[], version_of(image), "");
            let told = files["prometheus/prometheus.yml"].matches("_histograms").count();
            assert_eq!(told, if knows { 2 } else { 0 }, "{image}");
        }
        assert!(!knows_native_histograms(None) && !knows_native_histograms(Some("2.42.0+ds")));
    }
}
