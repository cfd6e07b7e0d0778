//! How well a stack is closed: what is declared, as a table, and what an attacker finds, as findings.
//!
//! Invariant: a measure says what the stack does, never what it ought to; and an audit's finding rests on an answer that was
//! given to whoever asked from here.

mod audit;
mod network;
mod tls;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stack::{
    component::{Component, Runtime},
    observed::{Certificate, Observed},
    settings::{Settings, Tls},
};

pub use self::{
    audit::{Target, attack},
    network::{READABLE, exposed_files, inner_ports},
};

/// A line of the table; the shape of `harden --json` is `{"measures":[…]}` of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// What is guarded.
    pub what: String,
    /// Whether it is.
    pub hardened: bool,
    /// How, or what is open.
    pub detail: String,
    /// What to write in `stack.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
}

fn closed(what: &str, detail: impl Into<String>) -> Measure {
    Measure { what: what.to_owned(), hardened: true, detail: detail.into(), setting: None }
}

fn open(what: &str, detail: impl Into<String>, setting: impl Into<String>) -> Measure {
    Measure { what: what.to_owned(), hardened: false, detail: detail.into(), setting: Some(setting.into()) }
}

/// What is hardened on a host and what is not. `observed` has its facts.
pub fn measures(settings: &Settings, observed: &Observed) -> Vec<Measure> {
    let mut measures = vec![listeners(observed)];
    let has_edge = observed.current_release().is_some_and(|it| it.service(Component::Edge).is_some());
    if !has_edge {
        measures.push(closed("network", "there is no edge: nothing of the stack can be reached from another machine"));
        return measures;
    }
    measures.extend(networks(settings, observed));
    measures.push(match (settings.edge.tls, &observed.certificate) {
        (Tls::Off, _) => {
            open("TLS", "keys, prompts and answers cross the network readably", "[edge] tls = \"internal\"")
        }
        (_, None) => open("TLS", "it is set, and there is no certificate yet", "cargo xtask deploy"),
        (_, Some(certificate)) => closed("TLS", format!("1.2 and 1.3; {}", until(certificate))),
    });
    measures.push(match settings.gateway.keys {
        true => closed("API keys", "clients need one (`cargo xtask key list`)"),
        false => open(
            "API keys",
            "whoever is on an allowed network may use, pull and delete models",
            "[gateway] keys = true",
        ),
    });
    measures.push(closed("requests", "100 a second of one client, then 429; streams are counted when they begin"));
    measures.push(closed("bodies", "64 MB at most, but for uploads of models"));
    measures.push(closed("headers", "no versions, no frames of others, no guessing of types"));
    measures.push(closed("Prometheus", "to read only: its admin, write and lifecycle APIs end at the edge"));
    measures.push(match observed.secrets.contains_key("grafana-admin-password") {
        true => closed("Grafana", "nobody signs up, and the password was made up on the host"),
        false => {
            open("Grafana", "the host keeps no password of its own", "cargo xtask secret set grafana-admin-password")
        }
    });
    measures
}

fn until(certificate: &Certificate) -> String {
    let whose = if certificate.internal { "the host's own certificate" } else { "a certificate of yours" };
    match certificate.expires {
        Some(expires) => format!("{whose}, until {}", expires.format("%Y-%m-%d")),
        None => whose.to_owned(),
    }
}

/// Everything but the edge is to listen on loopback.
fn listeners(observed: &Observed) -> Measure {
    let services = observed.current_release().map(|it| it.content.services.as_slice()).unwrap_or_default();
    let exposed: Vec<String> = services
        .iter()
        .filter(|service| service.component != Component::Edge && !service.listen.ip().is_loopback())
        .map(|service| format!("the {} at {}", service.component, service.listen))
        .collect();
    match exposed.is_empty() {
        true => closed("listeners", "the engine and everything behind the edge listen on loopback"),
        false => open("listeners", exposed.join(", "), "cargo xtask deploy"),
    }
}

fn networks(settings: &Settings, observed: &Observed) -> Vec<Measure> {
    let what = "allowlist";
    let allow = &settings.edge.allow;
    let contained = observed.current_release().is_some_and(|it| it.content.runtime == Runtime::Docker);
    let mut measures = Vec::new();
    measures.push(match allow.iter().find(|network| network.prefix_len() == 0) {
        Some(everyone) => open(what, format!("{everyone} is everyone"), "[edge] allow = [your networks]"),
        None if contained && observed.system == "Darwin" => open(
            what,
            "a container on a Mac does not see who asks: nobody, or everybody, is let in",
            "[engine] runtime = \"native\"",
        ),
        None => closed(what, allow.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    });
    // A `.local` name may resolve to an address of these, and then the allowlist shuts out its own network.
    let missing = offered(observed.facts.iter().flat_map(|machine| &machine.on_link), allow);
    if !missing.is_empty() {
        let networks = missing.iter().map(|it| format!("{:?}", it.to_string())).collect::<Vec<_>>().join(", ");
        measures.push(Measure {
            what: "IPv6".to_owned(),
            hardened: true,
            detail: "the host's own network is not allowed by IPv6, which a `.local` name may resolve to".to_owned(),
            setting: Some(format!("[edge] add {networks} to allow")),
        });
    }
    measures
}

/// The networks of a host that nobody on them would get an answer from.
fn offered<'a>(on_link: impl Iterator<Item = &'a String>, allow: &[IpNet]) -> Vec<IpNet> {
    let networks = on_link.filter_map(|network| network.parse::<IpNet>().ok()).map(|network| network.trunc());
    let mut missing: Vec<IpNet> = networks.filter(|it| !allow.iter().any(|allowed| allowed.contains(it))).collect();
    missing.sort();
    missing.dedup();
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_the_host_that_are_shut_out_are_offered() {
        let allow = Settings::default().edge.allow;
        let on_link =
            ["2001:db8:1:2::7/64", "2001:db8:1:2::9/64", "fd00::1/64", "192.168.1.9/24", "odd"].map(str::to_owned);
        let found: Vec<String> = offered(on_link.iter(), &allow).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["2001:db8:1:2::/64"]);
    }
}
