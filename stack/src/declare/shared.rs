//! What the sandbox and the native runtime share: components that are programs of the host's own.

use std::path::PathBuf;

use super::{Host, alertmanager, prometheus::external_url};
use crate::{
    component::Component,
    process::Command,
    release::{Absent, Contents, Launch, Service},
};

/// What brings them to a Mac. Homebrew has no formula of Alertmanager's: the native runtime brings it (`tarball.rs`).
const ALERTMANAGER: &str = "alertmanager and amtool from https://prometheus.io/download, in /usr/local/bin";
const NODE_EXPORTER: &str = "brew install node_exporter";

/// Prometheus, Alertmanager and node_exporter: each if the host has it, else it is named with what brings it.
pub(super) fn watchers(
    host: &Host<'_>,
    alertmanager: Option<PathBuf>,
    services: &mut Vec<Service>,
    absent: &mut Vec<Absent>,
) {
    match host.program("prometheus") {
        Some(program) => {
            let has_edge = services.iter().any(|service| service.component == Component::Edge);
            let door = external_url(host.settings).filter(|_| has_edge);
            services.push(prometheus(host, program, door));
        }
        None => absent.push(missing(host, Component::Prometheus, "prometheus", "brew install prometheus")),
    }
    match alertmanager {
        Some(program) => services.push(alertmanager::process(host, program)),
        None => absent.push(missing(host, Component::Alertmanager, "prometheus-alertmanager", ALERTMANAGER)),
    }
    match host.program("node_exporter") {
        Some(program) => services.push(node_exporter(host, program)),
        None => absent.push(missing(host, Component::NodeExporter, "prometheus-node-exporter", NODE_EXPORTER)),
    }
}

/// The files of those that watch the others, each told by a name.
pub(super) fn watching(host: &Host<'_>, services: &mut [Service]) -> Contents {
    let version = host.observed.versions.get("prometheus").map(String::as_str);
    let (mut contents, prometheus) =
        host.told("prometheus/", |name| super::prometheus::files(host.settings, services, version, name));
    let alerts = alertmanager::told(host, &host.root.secrets());
    for service in services {
        match service.component {
            Component::Prometheus => service.config = Some(prometheus.clone()),
            Component::Alertmanager => {
                service.config = Some(alerts.name.clone());
                service.note.clone_from(&alerts.note);
                contents.extend(alerts.files.clone());
            }
            _ => {}
        }
    }
    contents
}

pub(super) fn gateway(host: &Host<'_>) -> Service {
    let upstream = host.listen(Component::Engine).to_string();
    let listen = host.listen(Component::Gateway).to_string();
    let mut args = vec!["--listen".to_owned(), listen, "--upstream".to_owned(), upstream];
    args.extend(host.settings.gateway.args(&host.settings.engine, &host.settings.models, &host.root.keys()));
    let launch = Launch::Process { command: own(host, Component::Gateway, args), own_program: true };
    let mut service = host.service(Component::Gateway, launch, "/healthz");
    service.needs = vec![Component::Engine];
    // Streams in flight are let finish.
    service.stop_grace_s = 35;
    service
}

/// `door`: where people reach it, if they do.
fn prometheus(host: &Host<'_>, program: PathBuf, door: Option<String>) -> Service {
    let config = host.root.current().join("prometheus/prometheus.yml");
    let retention_s = host.settings.monitoring.retention.as_secs();
    let mut args = vec![
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", host.root.data().join("prometheus").display()),
        format!("--storage.tsdb.retention.time={retention_s}s"),
        format!("--web.listen-address={}", host.listen(Component::Prometheus)),
        // Reload by POST: it answers only once the new rules are in force. Loopback only.
        "--web.enable-lifecycle".to_owned(),
        // For the backup, which asks it for a snapshot. Loopback only: the edge passes no admin endpoint.
        "--web.enable-admin-api".to_owned(),
    ];
    args.extend(door.map(|url| format!("--web.external-url={url}")));
    if super::prometheus::knows_native_histograms(host.observed.versions.get("prometheus").map(String::as_str)) {
        // Up to 3.8 native histograms are kept only with this; later ones take no notice.
        args.push("--enable-feature=native-histograms".to_owned());
    }
    let mut service =
        host.service(Component::Prometheus, program_alone(Command { program, args, env: [].into() }), "/-/ready");
    service.reads = vec!["prometheus/".to_owned()];
    service.reload_path = Some("/-/reload".to_owned());
    service
}

fn node_exporter(host: &Host<'_>, program: PathBuf) -> Service {
    let args = vec![
        format!("--web.listen-address={}", host.listen(Component::NodeExporter)),
        format!("--collector.textfile.directory={}", host.root.textfile().display()),
    ];
    host.service(Component::NodeExporter, program_alone(Command { program, args, env: [].into() }), "/")
}

/// Our own program, run from the release so that a rollback brings back the old one.
pub(super) fn own(host: &Host<'_>, component: Component, args: Vec<String>) -> Command {
    let args = ["host".to_owned(), component.to_string()].into_iter().chain(args).collect();
    Command { program: host.root.current().join("bin/xtask"), args, env: [].into() }
}

pub(super) fn program_alone(command: Command) -> Launch {
    Launch::Process { command, own_program: false }
}

/// `mac`: what brings it to a Mac.
pub(super) fn missing(host: &Host<'_>, component: Component, debian: &str, mac: &str) -> Absent {
    let install = match host.observed.system.as_str() {
        "Darwin" => mac.to_owned(),
        _ => format!("apt-get install {debian}"),
    };
    Absent { component, reason: format!("not installed; `{install}` brings it, then deploy again") }
}
