//! From settings and facts to the release that a host is to run.
//!
//! Invariant: pure, and the only place that knows how a component is started.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use crate::{
    addition,
    component::{Component, Runtime},
    failure::{Class, Failure},
    layout::Root,
    observed::{Observed, Question},
    process::Command,
    release::{Absent, Content, Contents, Port, Release, Service, sha256_hex},
    settings::{KvCacheType, RuntimeChoice, Settings},
};

const PROMETHEUS_CONFIG: &str = include_str!("../../config/prometheus/prometheus.yml");

/// Programs that a release uses if the host has them; the first name is how facts are keyed.
const PROGRAMS: [&[&str]; 3] = [&["prometheus"], &["promtool"], &["node_exporter", "prometheus-node-exporter"]];

/// Everything that is declared on the client's side.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The checked settings.
    pub settings: Settings,
    /// What the user wrote: `stack.toml`, and what stands in `local/`, and scenarios; see [`addition`]. Without a `stack.toml` the
    /// embedded sandbox is meant.
    pub source: Contents,
    /// Identity of our program.
    pub program: String,
}

/// A release with its bytes, and what a person should know about how it came to be.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub(crate) release: Release,
    pub(crate) contents: Contents,
    pub(crate) notes: Vec<String>,
}

/// What must be known of the host before anything can be declared.
pub fn question(settings: &Settings) -> Question {
    Question {
        ports: wanted_ports(settings).into_iter().collect(),
        programs: PROGRAMS.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect(),
        contents: false,
        facts: None,
    }
}

/// What the host is to run.
///
/// # Errors
/// The runtime that the settings ask for cannot be brought up.
pub(crate) fn declare(wanted: &Wanted, observed: &Observed) -> Result<Declared, Failure> {
    let mut notes = Vec::new();
    let runtime = runtime(wanted, observed)?;
    let ports = choose_ports(&wanted.settings, observed, &mut notes);
    let host = Host { settings: &wanted.settings, observed, root: Root::new(observed.root.clone()), ports: &ports };
    let (services, absent) = host.services();
    let mut contents = addition::place(&wanted.source);
    contents.extend(prometheus_files(&wanted.settings, &services));
    let files = contents.iter().map(|(path, text)| (path.clone(), sha256_hex(text.as_bytes()))).collect();
    let content = Content { runtime, program: wanted.program.clone(), services, absent, ports, files };
    Ok(Declared { release: Release::new(content), contents, notes })
}

fn runtime(wanted: &Wanted, observed: &Observed) -> Result<Runtime, Failure> {
    let (picked, why) = match wanted.settings.engine.runtime {
        _ if !wanted.source.contains_key("stack.toml") => (Runtime::Sandbox, "there is no stack.toml".to_owned()),
        RuntimeChoice::Fixed(runtime) => (runtime, "stack.toml asks for it".to_owned()),
        RuntimeChoice::Auto if observed.system == "Darwin" => (Runtime::Native, "the host is a Mac".to_owned()),
        RuntimeChoice::Auto => (Runtime::Docker, format!("the host runs {}", observed.system)),
    };
    match picked {
        Runtime::Sandbox => Ok(picked),
        Runtime::Native | Runtime::Docker => {
            Err(Failure::new(Class::Settings, format!("this version cannot bring up the {picked} runtime ({why})"))
                .hint("write `runtime = \"sandbox\"` under [engine] in stack.toml to run the embedded sandbox"))
        }
    }
}

fn wanted_ports(settings: &Settings) -> [(Component, u16); 4] {
    let ports = &settings.ports;
    // The sandbox has no edge: the gateway itself stands where clients look for Ollama.
    [
        (Component::Engine, ports.engine),
        (Component::Gateway, ports.api),
        (Component::Prometheus, ports.prometheus),
        (Component::NodeExporter, ports.node_exporter),
    ]
}

/// A port once chosen is kept as long as the same one is wanted and nobody else has taken it.
fn choose_ports(settings: &Settings, observed: &Observed, notes: &mut Vec<String>) -> BTreeMap<Component, Port> {
    let kept = observed.current_release().map(|release| &release.content.ports);
    let mut ports = BTreeMap::new();
    for (component, wanted) in wanted_ports(settings) {
        let fact = observed.ports.get(&component);
        let kept = kept.and_then(|ports| ports.get(&component)).filter(|port| port.wanted == wanted);
        let chosen = match (kept, fact) {
            (Some(kept), None) => kept.chosen,
            (Some(kept), Some(fact)) if fact.free == kept.chosen => kept.chosen,
            (_, Some(fact)) => fact.free,
            (None, None) => wanted,
        };
        if let (true, Some(holder)) = (chosen != wanted, fact.and_then(|fact| fact.holder.as_deref())) {
            notes.push(format!("port {wanted} is taken by {holder}: the {component} listens on {chosen} instead"));
        }
        ports.insert(component, Port { wanted, chosen });
    }
    ports
}

/// Where the services are made: all that they depend on.
struct Host<'a> {
    settings: &'a Settings,
    observed: &'a Observed,
    root: Root,
    ports: &'a BTreeMap<Component, Port>,
}

impl Host<'_> {
    fn services(&self) -> (Vec<Service>, Vec<Absent>) {
        let mut services = vec![self.engine(), self.gateway()];
        let left_out = |component, reason: &str| Absent { component, reason: reason.to_owned() };
        let mut absent = vec![
            left_out(Component::Edge, "the sandbox listens on loopback only: nothing needs guarding"),
            left_out(Component::Alertmanager, "not part of the sandbox"),
            left_out(Component::Grafana, "not part of the sandbox"),
        ];
        match self.program("prometheus") {
            Some(program) => services.push(self.prometheus(program)),
            None => absent.push(self.missing(Component::Prometheus, "prometheus", "prometheus")),
        }
        match self.program("node_exporter") {
            Some(program) => services.push(self.node_exporter(program)),
            None => absent.push(self.missing(Component::NodeExporter, "prometheus-node-exporter", "node_exporter")),
        }
        (services, absent)
    }

    /// The stand-in takes Ollama's own variables, so that what is set here means the same to the real engine.
    fn engine(&self) -> Service {
        let (engine, sandbox) = (&self.settings.engine, &self.settings.sandbox);
        let mut args = vec![
            "--seed".to_owned(),
            self.settings.models.default.clone(),
            "--time-to-first-token-ms".to_owned(),
            sandbox.time_to_first_token.as_millis().to_string(),
            "--time-per-output-token-ms".to_owned(),
            sandbox.time_per_output_token.as_millis().to_string(),
            "--load-ms".to_owned(),
            sandbox.load.as_millis().to_string(),
        ];
        let mut given = |flag: &str, value: Option<String>| {
            args.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]))
        };
        given("--memory-bytes", sandbox.memory_bytes.map(|bytes| bytes.to_string()));
        let scenarios = sandbox.scenarios.as_ref().map(|name| format!("source/{name}"));
        given("--scenarios", scenarios.as_ref().map(|file| text(&self.root.current().join(file))));
        let mut service = self.own(Component::Engine, args, "/api/version");
        // It reads them once, when it starts.
        service.reads = scenarios.into_iter().collect();
        service.command.env = BTreeMap::from([
            ("OLLAMA_HOST".to_owned(), service.listen.to_string()),
            ("OLLAMA_MODELS".to_owned(), text(&self.root.data().join("models"))),
            ("OLLAMA_KEEP_ALIVE".to_owned(), go_duration(engine.keep_alive)),
            ("OLLAMA_NUM_PARALLEL".to_owned(), engine.num_parallel.to_string()),
            ("OLLAMA_MAX_LOADED_MODELS".to_owned(), engine.max_loaded_models.to_string()),
            ("OLLAMA_MAX_QUEUE".to_owned(), sandbox.max_queue.to_string()),
            ("OLLAMA_CONTEXT_LENGTH".to_owned(), engine.context_length.to_string()),
            ("OLLAMA_KV_CACHE_TYPE".to_owned(), kv_cache_type(engine.kv_cache_type).to_owned()),
        ]);
        service
    }

    fn gateway(&self) -> Service {
        let upstream = self.listen(Component::Engine).to_string();
        let listen = self.listen(Component::Gateway).to_string();
        let args = vec!["--listen".to_owned(), listen, "--upstream".to_owned(), upstream];
        let mut service = self.own(Component::Gateway, args, "/healthz");
        service.needs = vec![Component::Engine];
        // Streams in flight are let finish.
        service.stop_grace_s = 35;
        service
    }

    fn prometheus(&self, program: PathBuf) -> Service {
        let config = self.root.current().join("prometheus/prometheus.yml");
        let retention_s = self.settings.monitoring.retention.as_secs();
        let args = vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", self.root.data().join("prometheus").display()),
            format!("--storage.tsdb.retention.time={retention_s}s"),
            format!("--web.listen-address={}", self.listen(Component::Prometheus)),
            // Reload by POST: it answers only once the new rules are in force. Loopback only.
            "--web.enable-lifecycle".to_owned(),
            // For the backup, which asks it for a snapshot. Loopback only: the edge passes no admin endpoint.
            "--web.enable-admin-api".to_owned(),
        ];
        let mut service = self.service(Component::Prometheus, program, args, "/-/ready");
        service.reads = vec!["prometheus/".to_owned()];
        service.reload_path = Some("/-/reload".to_owned());
        service
    }

    fn node_exporter(&self, program: PathBuf) -> Service {
        let args = vec![
            format!("--web.listen-address={}", self.listen(Component::NodeExporter)),
            format!("--collector.textfile.directory={}", self.root.textfile().display()),
        ];
        self.service(Component::NodeExporter, program, args, "/")
    }

    /// A component that is our own program, run from the release so that a rollback brings back the old one.
    fn own(&self, component: Component, args: Vec<String>, ready_path: &str) -> Service {
        let program = self.root.current().join("bin/xtask");
        let args = ["host".to_owned(), component.to_string()].into_iter().chain(args).collect();
        Service { own_program: true, ..self.service(component, program, args, ready_path) }
    }

    fn service(&self, component: Component, program: PathBuf, args: Vec<String>, ready_path: &str) -> Service {
        Service {
            component,
            command: Command { program, args, env: BTreeMap::new() },
            own_program: false,
            listen: self.listen(component),
            ready_path: ready_path.to_owned(),
            needs: Vec::new(),
            reads: Vec::new(),
            reload_path: None,
            stop_grace_s: 15,
        }
    }

    fn listen(&self, component: Component) -> SocketAddr {
        let port = self.ports.get(&component).map_or(0, |port| port.chosen);
        (Ipv4Addr::LOCALHOST, port).into()
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        self.observed.programs.get(name).cloned().flatten()
    }

    fn missing(&self, component: Component, debian: &str, homebrew: &str) -> Absent {
        let install = match self.observed.system.as_str() {
            "Darwin" => format!("brew install {homebrew}"),
            _ => format!("apt-get install {debian}"),
        };
        Absent { component, reason: format!("not installed; `{install}` brings it, then deploy again") }
    }
}

/// Prometheus' configuration and its targets, one file a job.
fn prometheus_files(settings: &Settings, services: &[Service]) -> Contents {
    // The one line that a setting changes; what is checked in has the default.
    let interval = format!("scrape_interval: {}s", settings.monitoring.scrape_interval.as_secs().max(1));
    let config = PROMETHEUS_CONFIG.replace("scrape_interval: 5s", &interval);
    let mut files = Contents::from([("prometheus/prometheus.yml".to_owned(), config)]);
    for (component, job) in
        [(Component::Gateway, "ollama"), (Component::NodeExporter, "node"), (Component::Prometheus, "prometheus")]
    {
        let targets: BTreeSet<String> = services
            .iter()
            .filter(|service| service.component == component)
            .map(|service| service.listen.to_string())
            .collect();
        files.insert(format!("prometheus/targets/{job}.json"), format!("{:#}\n", json!([{ "targets": targets }])));
    }
    files
}

/// Go's `ParseDuration`, which Ollama uses, knows no days; seconds it knows. Negative means for ever.
fn go_duration(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-1s".to_owned(), |duration| format!("{}s", duration.as_secs()))
}

fn kv_cache_type(kind: KvCacheType) -> &'static str {
    match kind {
        KvCacheType::F16 => "f16",
        KvCacheType::Q8_0 => "q8_0",
        KvCacheType::Q4_0 => "q4_0",
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
