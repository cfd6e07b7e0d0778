//! Looking at a stack over time: Prometheus, Alertmanager and Grafana, asked by their own APIs.
//!
//! Invariant: what is told was answered just now; a component that is absent or silent is said to be, never guessed at.

pub mod alert;
pub mod dashboard;
pub mod perf;
pub mod query;
pub mod status;
mod usage;

use std::{fmt::Write as _, time::Duration};

use reqwest::blocking::{Client, RequestBuilder};
use serde_json::Value;
use stack::{
    component::Component,
    failure::{Class, Failure},
    observed::{Observed, State},
};

use crate::summary::Summary;

/// They answer at once or not at all; a query over weeks takes a moment.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The components that watch the others, seen from their host.
pub struct Monitor {
    summary: Summary,
    client: Client,
}

impl Monitor {
    /// Of the stack that was observed.
    ///
    /// # Errors
    /// Nothing is deployed.
    pub fn of(observed: &Observed) -> Result<Monitor, Failure> {
        if observed.current.is_none() {
            return Err(
                Failure::new(Class::Nothing, "nothing is deployed").hint("`cargo xtask deploy` brings up a stack")
            );
        }
        let client = Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap_or_default();
        Ok(Monitor { summary: Summary::of("", observed), client })
    }

    /// Where a component answers.
    ///
    /// # Errors
    /// It is absent or does not run.
    pub fn url(&self, component: Component) -> Result<&str, Failure> {
        let part = self.summary.components.iter().find(|part| part.name == component);
        let why = match part {
            Some(part) if matches!(part.state, State::Absent | State::Stopped) => part.detail.clone(),
            Some(part) => return Ok(part.url.as_deref().unwrap_or_default()),
            None => None,
        };
        let mut failure = Failure::new(Class::Nothing, format!("there is no {component} to ask"))
            .hint("`cargo xtask status` shows what runs");
        failure.causes.extend(why);
        Err(failure)
    }

    fn text(&self, component: Component, path: &str) -> Result<String, Failure> {
        let url = format!("{}{path}", self.url(component)?);
        let silent = |error: reqwest::Error| silent(component, &error);
        self.client
            .get(url)
            .send()
            .and_then(reqwest::blocking::Response::error_for_status)
            .map_err(silent)?
            .text()
            .map_err(silent)
    }

    fn json(&self, component: Component, path: &str, parameters: &[(&str, &str)]) -> Result<Value, Failure> {
        let url = format!("{}{path}{}", self.url(component)?, query_string(parameters));
        answer(component, self.client.get(url))
    }

    /// What Prometheus answers, without its envelope. A query that it does not understand is the asker's fault.
    fn prometheus(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, Failure> {
        let mut answer = self.json(Component::Prometheus, path, parameters)?;
        if answer["status"] == "success" {
            return Ok(answer["data"].take());
        }
        let class = if answer["errorType"] == "bad_data" { Class::Settings } else { Class::Failed };
        let words = answer["error"].as_str().unwrap_or("it does not say why").to_owned();
        let mut failure = Failure::new(class, "Prometheus cannot answer that");
        failure.causes.push(words);
        Err(failure)
    }
}

/// An answer in JSON, whatever its status.
fn answer(component: Component, request: RequestBuilder) -> Result<Value, Failure> {
    let answer = request.send().map_err(|error| silent(component, &error))?;
    answer.json().map_err(|error| silent(component, &error))
}

fn silent(component: Component, error: &reqwest::Error) -> Failure {
    Failure::new(Class::Failed, format!("{} does not answer as it should", called(component)))
        .because(error)
        .hint(format!("`cargo xtask logs {component}` shows what it says"))
}

/// What a component is called in a sentence.
fn called(component: Component) -> String {
    match component {
        Component::Prometheus => "Prometheus".to_owned(),
        Component::Alertmanager => "Alertmanager".to_owned(),
        Component::Grafana => "Grafana".to_owned(),
        other => format!("the {other}"),
    }
}

/// `?name=value&…`, with everything escaped that may mean something in a URL.
fn query_string(parameters: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        let _ = write!(text, "{}{name}=", if text.is_empty() { '?' } else { '&' });
        for byte in value.bytes() {
            let _ = match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(text, "{}", char::from(byte))
                }
                _ => write!(text, "%{byte:02X}"),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_called_by_their_names() {
        assert_eq!(called(Component::Prometheus), "Prometheus");
        assert_eq!(called(Component::NodeExporter), "the node-exporter");
    }

    #[test]
    fn an_expression_survives_a_url() {
        assert_eq!(query_string(&[]), "");
        let string = query_string(&[("query", "up{job=\"ollama\"} + 1"), ("time", "1")]);
        assert_eq!(string, "?query=up%7Bjob%3D%22ollama%22%7D%20%2B%201&time=1");
    }
}
