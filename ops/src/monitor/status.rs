//! How the watching itself is: what is scraped, which rules fire, what is silenced, and who is told.

use std::fmt::Write as _;

use chrono::DateTime;
use serde::Serialize;
use serde_json::Value;
use stack::{component::Component, failure::Failure, observed::State};

use super::Monitor;

/// The shape of `monitor status --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// What Prometheus scrapes.
    pub targets: Vec<Target>,
    /// How many alerts could fire.
    pub rules: usize,
    /// Rules that Prometheus cannot evaluate, with its words.
    pub broken_rules: Vec<String>,
    /// Alerts that fire, but for those that only prove that alerts work.
    pub firing: Vec<Alert>,
    /// What nobody is told of for a while; `None`: there is no Alertmanager, or it does not answer.
    pub silences: Option<Vec<Silence>>,
    /// Why Alertmanager, which there is, does not answer: nobody is told of anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alertmanager_error: Option<String>,
    /// Why alerts do not reach everybody whom the settings name, or anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What is scraped, and whether it answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// The guide's name of it.
    pub job: String,
    /// Where.
    pub url: String,
    /// Whether it answered when last asked; `None`: it was not asked yet.
    pub up: Option<bool>,
    /// What went wrong, in Prometheus' words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// critical, warning, info.
    pub severity: String,
    /// Since when, in RFC 3339.
    pub since: String,
    /// What is wrong.
    pub summary: String,
    /// What to do.
    pub description: String,
    /// Whether nobody is told of it for a while.
    pub silenced: bool,
}

/// What nobody is told of for a while.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Silence {
    /// Which alerts: `alertname=Hot`.
    pub what: String,
    /// Until when, in RFC 3339.
    pub until: String,
    /// Whose it is, and why.
    pub why: String,
}

impl Status {
    /// Asks.
    ///
    /// # Errors
    /// There is no Prometheus, or it does not answer.
    pub fn ask(monitor: &Monitor) -> Result<Status, Failure> {
        let targets = monitor.prometheus("/api/v1/targets", &[("state", "active")])?;
        let rules = monitor.prometheus("/api/v1/rules", &[("type", "alert")])?;
        let groups = list(&rules["groups"]);
        let rules: Vec<&Value> = groups.iter().flat_map(|group| list(&group["rules"])).collect();
        let broken = rules.iter().filter(|rule| rule["health"] == "err");
        // What Prometheus says is worth the same without Alertmanager.
        let asked = match monitor.url(Component::Alertmanager) {
            Ok(_) => monitor.json(Component::Alertmanager, "/api/v2/silences", &[]).map(Some),
            Err(_) => Ok(None),
        };
        let (silences, alertmanager_error) = match asked {
            Ok(silences) => (silences.map(|it| list(&it).iter().filter_map(silence).collect()), None),
            Err(failure) => (None, Some(words(&failure))),
        };
        Ok(Status {
            targets: list(&targets["activeTargets"]).iter().map(target).collect(),
            rules: rules.len(),
            broken_rules: broken.map(|rule| format!("{}: {}", text(&rule["name"]), text(&rule["lastError"]))).collect(),
            // Once is enough to wait for one that is silent.
            firing: match alertmanager_error {
                None => firing(monitor)?,
                Some(_) => firing_but(monitor, &[])?,
            },
            silences,
            alertmanager_error,
            note: note(monitor),
        })
    }

    /// Whether something should be looked at.
    pub fn is_sick(&self) -> bool {
        let is_down = self.targets.iter().any(|target| target.up == Some(false));
        is_down
            || self.alertmanager_error.is_some()
            || !self.broken_rules.is_empty()
            || self.firing.iter().any(|alert| alert.severity != "info")
    }

    /// The same, in words.
    pub fn words(&self) -> String {
        let up = self.targets.iter().filter(|target| target.up == Some(true));
        let jobs: Vec<&str> = up.map(|target| target.job.as_str()).collect();
        let mut words = match self.targets.len() {
            0 => "targets   none is known yet: Prometheus has only just begun\n".to_owned(),
            all if jobs.is_empty() => format!("targets   0 of {all} up\n"),
            all => format!("targets   {} of {all} up: {}\n", jobs.len(), jobs.join(", ")),
        };
        for target in self.targets.iter().filter(|target| target.up != Some(true)) {
            let word = if target.up.is_some() { "down" } else { "not asked yet" };
            let line = format!("          {} {word}: {} {}", target.job, target.url, target.error);
            let _ = writeln!(words, "{}", line.trim_end());
        }
        let _ = writeln!(words, "rules     {} alerts are watched for", self.rules);
        let broken = self.broken_rules.iter().map(|rule| format!("          cannot be evaluated: {rule}\n"));
        words.extend(broken);
        words.push_str(&firing_words(&self.firing));
        match self.silences.as_deref() {
            None if self.alertmanager_error.is_some() => {
                let why = self.alertmanager_error.as_deref().unwrap_or_default();
                let _ = writeln!(words, "silences  unknown, and nobody is told: {why}");
            }
            None => words.push_str("silences  there is no Alertmanager\n"),
            Some([]) => words.push_str("silences  none\n"),
            Some(silences) => {
                let line = |silence: &Silence| {
                    let Silence { what, until, why } = silence;
                    format!("{what} until {} ({why})\n", minute(until))
                };
                words.push_str(&format!(
                    "silences  {}",
                    silences.iter().map(line).collect::<Vec<_>>().join("          ")
                ));
            }
        }
        if let Some(note) = &self.note {
            let _ = writeln!(words, "people    {note}");
        }
        words
    }
}

/// The alerts that fire, but for those that only prove that alerts work.
///
/// # Errors
/// There is no Prometheus, or it does not answer.
pub fn firing(monitor: &Monitor) -> Result<Vec<Alert>, Failure> {
    let alerts = monitor.json(Component::Alertmanager, "/api/v2/alerts", &[]);
    // Without an Alertmanager that answers nothing is known to be silenced.
    firing_but(monitor, list(&alerts.unwrap_or_default()))
}

/// `known`: as Alertmanager has them, which knows what is silenced.
fn firing_but(monitor: &Monitor, known: &[Value]) -> Result<Vec<Alert>, Failure> {
    let alerts = monitor.prometheus("/api/v1/alerts", &[])?;
    let fires = |alert: &&Value| alert["state"] == "firing" && alert["labels"]["severity"] != "none";
    let alert = |alert: &Value| Alert {
        name: text(&alert["labels"]["alertname"]),
        severity: text(&alert["labels"]["severity"]),
        since: text(&alert["activeAt"]),
        summary: text(&alert["annotations"]["summary"]),
        description: text(&alert["annotations"]["description"]),
        silenced: is_silenced(&alert["labels"], known),
    };
    Ok(list(&alerts["alerts"]).iter().filter(fires).map(alert).collect())
}

fn is_silenced(labels: &Value, known: &[Value]) -> bool {
    known.iter().any(|it| it["labels"] == *labels && !list(&it["status"]["silencedBy"]).is_empty())
}

/// What fires, in words.
pub fn firing_words(firing: &[Alert]) -> String {
    if firing.is_empty() {
        return "firing    nothing\n".to_owned();
    }
    let line = |alert: &Alert| {
        let Alert { name, severity, summary, description, .. } = alert;
        let since = minute(&alert.since);
        let silenced = if alert.silenced { ", silenced" } else { "" };
        format!("{name} ({severity}, since {since}{silenced}): {summary}\n            {description}\n")
    };
    format!("firing    {}", firing.iter().map(line).collect::<Vec<_>>().join("          "))
}

/// A time in RFC 3339, as a person reads it: `2026-11-26 03:40 UTC`.
fn minute(time: &str) -> String {
    match DateTime::parse_from_rfc3339(time) {
        Ok(time) => time.to_utc().format("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// In one line, whatever is behind it last.
fn words(failure: &Failure) -> String {
    failure.causes.last().map_or_else(|| failure.message.clone(), |why| format!("{} ({why})", failure.message))
}

fn target(target: &Value) -> Target {
    let up = match target["health"].as_str() {
        Some("up") => Some(true),
        Some("down") => Some(false),
        _ => None,
    };
    Target {
        job: text(&target["labels"]["job"]),
        url: text(&target["scrapeUrl"]),
        up,
        error: text(&target["lastError"]),
    }
}

fn silence(silence: &Value) -> Option<Silence> {
    let is_active = silence["status"]["state"] == "active";
    let matcher = |it: &Value| {
        let sign = match (it["isEqual"] != false, it["isRegex"] == true) {
            (true, false) => "=",
            (true, true) => "=~",
            (false, false) => "!=",
            (false, true) => "!~",
        };
        format!("{}{sign}{}", text(&it["name"]), text(&it["value"]))
    };
    let what = list(&silence["matchers"]).iter().map(matcher).collect::<Vec<_>>().join(", ");
    let why = format!("{}: {}", text(&silence["createdBy"]), text(&silence["comment"]));
    is_active.then(|| Silence { what, until: text(&silence["endsAt"]), why })
}

fn note(monitor: &Monitor) -> Option<String> {
    let part = monitor.summary.components.iter().find(|part| part.name == Component::Alertmanager)?;
    match (part.state, &part.detail) {
        (State::Absent, Some(why)) => Some(format!("nobody is told: Alertmanager is {why}")),
        (_, detail) => detail.clone(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alert_is_silenced_by_its_very_labels() {
        let known = json!([
            {"labels": {"alertname": "Hot", "sensor": "a"}, "status": {"silencedBy": ["1"], "state": "suppressed"}},
            {"labels": {"alertname": "Hot", "sensor": "b"}, "status": {"silencedBy": [], "state": "active"}},
        ]);
        let is = |sensor: &str| is_silenced(&json!({"alertname": "Hot", "sensor": sensor}), list(&known));
        assert!(is("a") && !is("b") && !is("c"));
    }

    #[test]
    fn everything_is_said_in_words() {
        let target = |job: &str, up, error: &str| Target {
            job: job.to_owned(),
            url: format!("http://127.0.0.1/{job}"),
            up,
            error: error.to_owned(),
        };
        let alert = Alert {
            name: "Hot".to_owned(),
            severity: "warning".to_owned(),
            since: "2026-11-26T03:40:12.5Z".to_owned(),
            summary: "101 °C".to_owned(),
            description: "The machine slows down to save itself.".to_owned(),
            silenced: false,
        };
        let silence = Silence {
            what: "alertname=Rebooted".into(),
            until: "2026-11-27T00:00:00Z".into(),
            why: "me: moving".into(),
        };
        let sick = Status {
            targets: vec![
                target("ollama", Some(true), ""),
                target("node", Some(false), "refused"),
                target("edge", None, ""),
            ],
            rules: 20,
            broken_rules: vec!["Hot: no".to_owned()],
            firing: vec![alert],
            silences: Some(vec![silence]),
            alertmanager_error: None,
            note: Some("it tells nobody: nothing is set under [alerts]".to_owned()),
        };
        let silenced = firing_words(&[Alert { silenced: true, ..sick.firing[0].clone() }]);
        assert!(silenced.contains("since 2026-11-26 03:40 UTC, silenced): 101"), "{silenced}");
        assert!(sick.is_sick());
        insta::assert_snapshot!(sick.words(), @r"
        targets   1 of 3 up: ollama
                  node down: http://127.0.0.1/node refused
                  edge not asked yet: http://127.0.0.1/edge
        rules     20 alerts are watched for
                  cannot be evaluated: Hot: no
        firing    Hot (warning, since 2026-11-26 03:40 UTC): 101 °C
                    The machine slows down to save itself.
        silences  alertname=Rebooted until 2026-11-27 00:00 UTC (me: moving)
        people    it tells nobody: nothing is set under [alerts]
        ");
        let well = Status {
            targets: sick.targets[..1].to_vec(),
            broken_rules: vec![],
            firing: vec![],
            silences: None,
            note: None,
            ..sick
        };
        assert!(!well.is_sick());
        insta::assert_snapshot!(well.words(), @r"
        targets   1 of 1 up: ollama
        rules     20 alerts are watched for
        firing    nothing
        silences  there is no Alertmanager
        ");
        let new = Status { targets: vec![], ..well.clone() };
        let words = new.words();
        assert!(
            words.starts_with("targets   none is known yet") && !words.lines().any(|it| it.ends_with(' ')),
            "{words}"
        );
        let deaf = Status { alertmanager_error: Some("Alertmanager does not answer as it should".to_owned()), ..well };
        let words = deaf.words();
        assert!(deaf.is_sick() && words.starts_with("targets   1 of 1 up: ollama\n"), "{words}");
        assert!(words.contains("silences  unknown, and nobody is told: Alertmanager does not answer"), "{words}");
    }
}
