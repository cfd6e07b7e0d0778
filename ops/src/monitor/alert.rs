//! A test of the alerts: one that is real goes the whole way, from a metric over a rule to the people who are told.
//!
//! Invariant: a way counts as good only when whoever is behind it took the alert, by Alertmanager's own count.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use chrono::Utc;
use stack::{
    component::Component,
    durable,
    failure::{Doing, Failure},
    layout::Root,
    settings::{Alerts, Monitoring},
};

use super::Monitor;
use crate::verify::{Check, Verdict};

/// What the rule is called, in `config/prometheus/rules/host.yml`.
const NAME: &str = "AlertTest";

/// What node_exporter hands on as a metric; the rule fires as long as it is young.
const METRIC: &str = "llm_alert_test_timestamp_seconds";

/// Besides the intervals of scrape and rules, what anybody may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the rules are evaluated at, in `prometheus.yml`.
const EVALUATION_INTERVAL: Duration = Duration::from_secs(5);

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Sends one, and tells each station that it has passed.
///
/// # Errors
/// A component on the way is absent, or the metric cannot be written.
pub fn test(
    monitor: &Monitor,
    root: &Root,
    (alerts, monitoring): (&Alerts, &Monitoring),
    mut tell: impl FnMut(&Check),
) -> Result<Vec<Check>, Failure> {
    for component in [Component::NodeExporter, Component::Prometheus, Component::Alertmanager] {
        monitor.url(component)?;
    }
    let before = Sent::ask(monitor)?;
    let metric = Metric::write(&root.textfile())?;
    let labels = format!("{{run=\"{}\"}}", metric.run);
    let patience = PATIENCE + 2 * monitoring.scrape_interval + 2 * EVALUATION_INTERVAL;
    let mut checks = Vec::new();
    let mut station =
        |name: &str, look: &mut dyn FnMut() -> Result<Result<String, String>, Failure>| -> Result<bool, Failure> {
            let begun = Instant::now();
            let found = loop {
                let found = look()?;
                if found.is_ok() || begun.elapsed() > patience {
                    break found;
                }
                thread::sleep(LOOK_EVERY);
            };
            let (result, detail) = match found {
                Ok(detail) => (Verdict::Pass, detail),
                Err(detail) => (Verdict::Fail, detail),
            };
            let check = Check { name: name.to_owned(), result, detail, seconds: begun.elapsed().as_secs_f64() };
            tell(&check);
            let passed = check.result == Verdict::Pass;
            checks.push(check);
            Ok(passed)
        };
    let passed = station("Prometheus has the metric", &mut || has(monitor, &format!("{METRIC}{labels}")))?
        && station("the rule fires", &mut || {
            has(monitor, &format!("ALERTS{{alertname=\"{NAME}\",alertstate=\"firing\",run=\"{}\"}}", metric.run))
        })?
        && station("Alertmanager has the alert", &mut || active(monitor, &metric.run))?;
    if passed {
        for Way { kind, names } in ways(alerts) {
            let take = if names.len() == 1 { "takes" } else { "take" };
            let name = format!("{} {take} it", names.join(" and "));
            station(&name, &mut || Ok(Sent::ask(monitor)?.since(&before, kind, names.len())))?;
        }
    }
    drop(metric);
    Ok(checks)
}

/// Ways to people that Alertmanager counts as one.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// Alertmanager's name of the kind.
    kind: &'static str,
    /// The settings' names of those that are set: one or more.
    names: Vec<&'static str>,
}

/// The ways that the settings ask for. The watchdog is none, and is told as another kind: its own count is in none of these.
pub fn ways(alerts: &Alerts) -> Vec<Way> {
    let Alerts { email, slack, ntfy, webhook, watchdog: _ } = alerts;
    let way = |kind, set: &[(&'static str, bool)]| {
        let names: Vec<_> = set.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
        (!names.is_empty()).then_some(Way { kind, names })
    };
    [
        way("email", &[("email", email.is_some())]),
        way("slack", &[("slack", slack.is_some())]),
        way("webhook", &[("ntfy", ntfy.is_some()), ("webhook", webhook.is_some())]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn has(monitor: &Monitor, expression: &str) -> Result<Result<String, String>, Failure> {
    let data = monitor.prometheus("/api/v1/query", &[("query", expression)])?;
    let rows = data["result"].as_array().map_or(0, Vec::len);
    Ok(if rows > 0 { Ok(expression.to_owned()) } else { Err(format!("{expression} has no rows")) })
}

fn active(monitor: &Monitor, run: &str) -> Result<Result<String, String>, Failure> {
    let filter = format!("run=\"{run}\"");
    let alerts = monitor.json(Component::Alertmanager, "/api/v2/alerts", &[("filter", &filter)])?;
    let receivers = alerts[0]["receivers"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = receivers.iter().filter_map(|it| it["name"].as_str()).collect();
    let silenced = alerts[0]["status"]["state"] == "suppressed";
    Ok(match (names.is_empty(), silenced) {
        (true, _) => Err("Prometheus did not hand it on".to_owned()),
        (false, true) => Err("it is silenced".to_owned()),
        (false, false) => Ok(format!("for {}", names.join(", "))),
    })
}

/// The metric as long as the test goes on: the alert is over when it is gone.
struct Metric {
    path: PathBuf,
    run: String,
}

impl Metric {
    fn write(folder: &Path) -> Result<Self, Failure> {
        let now = Utc::now();
        // An alert of its own each time: one that is known already is not told again.
        let run = now.timestamp_millis().to_string();
        let text = format!(
            "# HELP {METRIC} When somebody asked for a test of the alerts.\n# TYPE {METRIC} gauge\n{METRIC}{{run=\"{run}\"}} {}\n",
            now.timestamp()
        );
        let metric = Metric { path: folder.join("alert-test.prom"), run };
        durable::write(&metric.path, text.as_bytes()).doing("cannot write", &metric.path)?;
        Ok(metric)
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        // One that stays is over by itself in five minutes.
        let _ = fs::remove_file(&self.path);
    }
}

/// By kind of way: attempts to send, and those of them that failed.
struct Sent(BTreeMap<String, (f64, f64)>);

impl Sent {
    fn ask(monitor: &Monitor) -> Result<Sent, Failure> {
        Ok(Sent::read(&monitor.text(Component::Alertmanager, "/metrics")?))
    }

    fn read(metrics: &str) -> Sent {
        let mut sent: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in metrics.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let kind = |name: &str| series.strip_prefix(name)?.split_once("integration=\"")?.1.split('"').next();
            if let Some(kind) = kind("alertmanager_notification_requests_total{") {
                sent.entry(kind.to_owned()).or_default().0 += value;
            } else if let Some(kind) = kind("alertmanager_notification_requests_failed_total{") {
                sent.entry(kind.to_owned()).or_default().1 += value;
            }
        }
        Sent(sent)
    }

    fn since(&self, before: &Sent, kind: &str, wanted: usize) -> Result<String, String> {
        let of = |sent: &Sent| sent.0.get(kind).copied().unwrap_or_default();
        let ((tried, failed), (tried_before, failed_before)) = (of(self), of(before));
        let (tried, failed) = (tried - tried_before, failed - failed_before);
        let taken = tried - failed;
        match taken >= wanted as f64 {
            true => Ok(format!("{wanted} of {wanted} delivered")),
            false if failed > 0.0 => Err(format!(
                "{taken} of {wanted} delivered, {failed} attempts failed: see `cargo xtask logs alertmanager`"
            )),
            false => Err(format!("{taken} of {wanted} delivered: see `cargo xtask status`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_called_what_the_settings_call_it() {
        let names = |alerts: &Alerts| ways(alerts).into_iter().map(|way| way.names.join(" and ")).collect::<Vec<_>>();
        let mut alerts = Alerts { watchdog: Some("http://127.0.0.1:1/".to_owned()), ..Alerts::default() };
        assert!(names(&alerts).is_empty(), "the watchdog is nobody");
        alerts.ntfy = Some("http://127.0.0.1:1/".to_owned());
        assert_eq!(names(&alerts), ["ntfy"]);
        alerts.webhook.clone_from(&alerts.ntfy);
        assert_eq!(names(&alerts), ["ntfy and webhook"]);
    }

    #[test]
    fn only_what_was_taken_counts() {
        let metrics = |tried, failed| {
            Sent::read(&format!(
                "# HELP x y\nalertmanager_notification_requests_total{{integration=\"webhook\"}} {tried}\n\
                 alertmanager_notification_requests_failed_total{{integration=\"webhook\"}} {failed}\n"
            ))
        };
        let before = metrics(5, 1);
        assert!(metrics(6, 1).since(&before, "webhook", 1).is_ok());
        assert!(metrics(6, 1).since(&before, "webhook", 2).is_err());
        assert!(metrics(7, 3).since(&before, "webhook", 1).unwrap_err().contains("2 attempts failed"));
        assert!(metrics(6, 1).since(&before, "email", 1).is_err());
    }
}
