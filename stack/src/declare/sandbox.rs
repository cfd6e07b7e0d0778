//! The sandbox: the stand-in engine and the gateway, and of the rest what the host has installed.

use super::{
    Host, Made, engine,
    shared::{gateway, own, watchers, watching},
};
use crate::{
    component::Component,
    release::{Absent, Launch, Service},
};

pub(super) fn make(host: &Host<'_>) -> Made {
    let left_out = |component, reason: &str| Absent { component, reason: reason.to_owned() };
    let mut services = vec![stand_in(host), gateway(host)];
    let mut absent = vec![
        left_out(Component::Edge, "the sandbox listens on loopback only: nothing needs guarding"),
        left_out(Component::Grafana, "not part of the sandbox"),
    ];
    watchers(host, host.program("alertmanager"), &mut services, &mut absent);
    let contents = watching(host, &mut services);
    Made {
        services,
        absent,
        contents,
        notes: Vec::new(),
        first: Vec::new(),
        doors: [].into(),
        tarballs: Vec::new(),
        init: None,
    }
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
