//! The sandbox: the stand-in engine and the gateway, and of the rest what the host has installed.

use std::path::PathBuf;

use super::{Host, Made, alertmanager, engine};
use crate::{
    component::Component,
    process::Command,
    release::{Absent, Contents, Launch, Service},
};

pub(super) fn make(host: &Host<'_>) -> Made {
    let mut services = vec![stand_in(host), gateway(host)];
    let left_out = |component, reason: &str| Absent { component, reason: reason.to_owned() };
    let mut absent = vec![
        left_out(Component::Edge, "the sandbox listens on loopback only: nothing needs guarding"),
        left_out(Component::Grafana, "not part of the sandbox"),
    ];
    match host.program("prometheus") {
        Some(program) => services.push(prometheus(host, program)),
        None => absent.push(missing(host, Component::Prometheus, "prometheus", "prometheus")),
    }
    match host.program("alertmanager") {
        Some(program) => services.push(alertmanager::process(host, program)),
        None => absent.push(missing(host, Component::Alertmanager, "prometheus-alertmanager", "alertmanager")),
    }
    match host.program("node_exporter") {
        Some(program) => services.push(node_exporter(host, program)),
        None => absent.push(missing(host, Component::NodeExporter, "prometheus-node-exporter", "node_exporter")),
    }
    let contents = watching(host, &mut services);
    Made {
        services,
        absent,
        contents,
        notes: Vec::new(),
        first: Vec::new(),
        doors: [].into(),
        engine: None,
        init: None,
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

/// The stand-in takes Ollama's own variables, so that what is set here means the same to the real engine.
fn stand_in(host: &Host<'_>) -> Service {
    let sandbox = &host.settings.sandbox;
    let mut args = vec![
        "--seed".to_owned(),
        host.settings.models.default.clone(),
        "--time-to-first-token-ms".to_owned(),
        sandbox.time_to_first_token.as_millis().to_string(),
        "--time-per-output-token-ms".to_owned(),
        sandbox.time_per_output_token.as_millis().to_string(),
        "--load-ms".to_owned(),
        sandbox.load.as_millis().to_string(),
    ];
    let scenarios = sandbox.scenarios.as_ref().map(|name| format!("source/{name}"));
    let path = scenarios.as_ref().map(|file| host.root.current().join(file).display().to_string());
    for (flag, value) in
        [("--memory-bytes", sandbox.memory_bytes.map(|bytes| bytes.to_string())), ("--scenarios", path)]
    {
        args.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    let mut command = own(host, Component::Engine, args);
    let models = host.root.data().join("models");
    command.env = engine::environment(&host.settings.engine, host.listen(Component::Engine), &models);
    command.env.insert("OLLAMA_MAX_QUEUE".to_owned(), sandbox.max_queue.to_string());
    let mut service = host.service(Component::Engine, Launch::Process { command, own_program: true }, "/api/version");
    // It reads them once, when it starts.
    service.reads = scenarios.into_iter().collect();
    service
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

pub(super) fn prometheus(host: &Host<'_>, program: PathBuf) -> Service {
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

pub(super) fn node_exporter(host: &Host<'_>, program: PathBuf) -> Service {
    let args = vec![
        format!("--web.listen-address={}", host.listen(Component::NodeExporter)),
        format!("--collector.textfile.directory={}", host.root.textfile().display()),
    ];
    host.service(Component::NodeExporter, program_alone(Command { program, args, env: [].into() }), "/")
}

/// Our own program, run from the release so that a rollback brings back the old one.
fn own(host: &Host<'_>, component: Component, args: Vec<String>) -> Command {
    let args = ["host".to_owned(), component.to_string()].into_iter().chain(args).collect();
    Command { program: host.root.current().join("bin/xtask"), args, env: [].into() }
}

pub(super) fn program_alone(command: Command) -> Launch {
    Launch::Process { command, own_program: false }
}

pub(super) fn missing(host: &Host<'_>, component: Component, debian: &str, homebrew: &str) -> Absent {
    let install = match host.observed.system.as_str() {
        "Darwin" => format!("brew install {homebrew}"),
        _ => format!("apt-get install {debian}"),
    };
    Absent { component, reason: format!("not installed; `{install}` brings it, then deploy again") }
}
