//! What runs, where, and how it is: the facts of an observation as a person asks for them.

use std::net::SocketAddr;

use serde::Serialize;
use stack::{
    backup::Run,
    component::{Component, Runtime},
    observed::{Observed, State},
    release::{Release, ReleaseId},
};

/// The shape of `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// How the host is called.
    pub host: String,
    /// Who starts the components; none before the first deploy.
    pub runtime: Option<Runtime>,
    /// What is deployed.
    pub release: Option<ReleaseId>,
    /// In reading order.
    pub components: Vec<Part>,
    /// How the last backup went, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<Run>,
    /// The same, the last drill and the schedule, in words.
    #[serde(skip)]
    pub backup_words: Option<String>,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Which one.
    pub name: Component,
    /// How it is.
    pub state: State,
    /// Where it answers, from the host itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where it answers on the LAN, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan_url: Option<String>,
    /// What is wrong, what it waits for, or why it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Summary {
    /// Sums up an observation of `host`.
    pub fn of(host: &str, observed: &Observed) -> Summary {
        let release = observed.current_release();
        let mut components = release.map(|release| parts(host, release, observed)).unwrap_or_default();
        components.sort_by_key(|part| part.name);
        Summary {
            host: host.to_owned(),
            runtime: release.map(|release| release.content.runtime),
            release: observed.current.clone(),
            components,
            backup: observed.backups.last.clone(),
            backup_words: observed.backups.words(),
        }
    }

    /// Where a component answers on the LAN.
    pub fn door(&self, component: Component) -> Option<&str> {
        self.components.iter().find(|part| part.name == component)?.lan_url.as_deref()
    }

    /// Whether something that is meant to serve does not.
    pub fn is_sick(&self) -> bool {
        self.components.iter().any(|part| part.state == State::Unhealthy)
    }
}

fn parts(host: &str, release: &Release, observed: &Observed) -> Vec<Part> {
    let present = release.content.services.iter().map(|service| {
        let running = observed.components.get(&service.component);
        let stopped = observed.desired.stopped.contains(&service.component) || observed.desired.halted;
        let (state, detail) = match running {
            Some(running) => (running.state, running.detail.clone()),
            None if stopped => (State::Stopped, Some("stopped by hand".to_owned())),
            None if observed.supervisor.is_none() => (State::Stopped, Some("no supervisor runs".to_owned())),
            None => (State::Starting, None),
        };
        Part {
            name: service.component,
            state,
            url: Some(service.url("")),
            lan_url: lan_url(host, service.component, release, observed),
            detail,
        }
    });
    let absent = release.content.absent.iter().map(|absent| Part {
        name: absent.component,
        state: State::Absent,
        url: None,
        lan_url: None,
        detail: Some(absent.reason.clone()),
    });
    present.chain(absent).collect()
}

/// By the address that the live connection has found the host at, else by its name: never by a guess about interfaces.
fn lan_url(host: &str, component: Component, release: &Release, observed: &Observed) -> Option<String> {
    let port = release.content.doors.get(&component)?;
    let name = match observed.reached_at {
        Some(address) => return Some(format!("http://{}", SocketAddr::new(address, *port))),
        None if host == "localhost" => return None,
        None => host,
    };
    Some(format!("http://{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stack::release::Content;

    use super::*;

    fn door(host: &str, reached_at: Option<&str>) -> Option<String> {
        let content: Content = serde_json::from_value(json!({
            "runtime": "sandbox", "program": "p", "services": [], "absent": [], "ports": {}, "files": {},
            "doors": { "gateway": 11434 },
        }))
        .unwrap();
        let observed: Observed = serde_json::from_value(json!({
            "system": "Linux", "machine": "x86_64", "clock": "2026-01-01T00:00:00Z", "reached_at": reached_at, "root": "/",
            "releases": [], "leftovers": [], "damaged": [], "history": [], "components": {}, "ports": {}, "programs": {},
            "contents": {}, "desired": { "revision": 0, "halted": false, "stopped": [], "restarts": {} },
        }))
        .unwrap();
        assert_eq!(lan_url(host, Component::Engine, &Release::new(content.clone()), &observed), None);
        lan_url(host, Component::Gateway, &Release::new(content), &observed)
    }

    #[test]
    fn a_door_is_told_by_the_address_of_the_live_connection() {
        assert_eq!(door("studio", Some("10.0.0.2")).as_deref(), Some("http://10.0.0.2:11434"));
        assert_eq!(door("studio", Some("fd00::2")).as_deref(), Some("http://[fd00::2]:11434"));
        assert_eq!(door("studio.local", None).as_deref(), Some("http://studio.local:11434"));
        assert_eq!(door("localhost", None), None);
    }
}
