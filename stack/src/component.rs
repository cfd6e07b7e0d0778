//! The parts of the stack by name, and who can start them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One part of the stack. The order is the order in which a person reads them: from the model outwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Runs models: Ollama, or the stand-in.
    Engine,
    /// Meters every request.
    Gateway,
    /// nginx, the only LAN listener.
    Edge,
    /// Scrapes and keeps metrics.
    Prometheus,
    /// Sends alerts.
    Alertmanager,
    /// Draws dashboards.
    Grafana,
    /// Exports the host's own metrics.
    NodeExporter,
    /// Exports what an Apple GPU does and what the machine draws.
    Macmon,
}

impl Component {
    /// Every component, in reading order.
    pub const ALL: [Component; 8] = [
        Component::Engine,
        Component::Gateway,
        Component::Edge,
        Component::Prometheus,
        Component::Alertmanager,
        Component::Grafana,
        Component::NodeExporter,
        Component::Macmon,
    ];

    /// The name that people type and files carry.
    pub const fn name(self) -> &'static str {
        match self {
            Component::Engine => "engine",
            Component::Gateway => "gateway",
            Component::Edge => "edge",
            Component::Prometheus => "prometheus",
            Component::Alertmanager => "alertmanager",
            Component::Grafana => "grafana",
            Component::NodeExporter => "node-exporter",
            Component::Macmon => "macmon",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no component's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no component is called `{0}`; there are engine, gateway, edge, prometheus, alertmanager, grafana, node-exporter, macmon"
)]
pub struct UnknownComponent(pub String);

impl FromStr for Component {
    type Err = UnknownComponent;

    /// Takes the guide's names (`ollama`, `nginx`) as well.
    fn from_str(name: &str) -> Result<Self, UnknownComponent> {
        match name {
            "ollama" => Ok(Component::Engine),
            "nginx" => Ok(Component::Edge),
            "node_exporter" => Ok(Component::NodeExporter),
            _ => Component::ALL
                .into_iter()
                .find(|component| component.name() == name)
                .ok_or_else(|| UnknownComponent(name.to_owned())),
        }
    }
}

/// Who starts the components, all of them: runtimes are not mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Our supervisor as a system service, with the real engine.
    Native,
    /// Compose.
    Docker,
    /// Our supervisor, detached, without root, with the stand-in engine.
    Sandbox,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Runtime::Native => "native",
            Runtime::Docker => "docker",
            Runtime::Sandbox => "sandbox",
        })
    }
}
