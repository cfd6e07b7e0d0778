//! From settings and facts to the release that a host is to run.
//!
//! Invariant: pure, and the only place that knows how a component is started. A runtime is a file, and what runtimes share
//! is another: the files of nginx, Prometheus and Grafana are the same whoever starts these.

mod alertmanager;
mod certificate;
mod compose;
pub(crate) mod docker;
mod engine;
mod grafana;
pub(crate) mod native;
mod nginx;
mod packages;
mod prometheus;
mod sandbox;
pub(crate) mod service;
mod shared;
pub(crate) mod tarball;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use crate::{
    addition,
    component::{Component, Runtime},
    failure::{Class, Failure},
    layout::Root,
    observed::{Init, Observed, Question},
    plan::Step,
    release::{Absent, Content, Contents, Launch, Port, Release, Service, Tarball, digest_of, sha256_hex},
    settings::{RuntimeChoice, Settings},
};

/// Stands before the fingerprint by which a component's files call themselves, in whatever it tells of them.
pub(crate) const DECLARED: &str = "declared-";

/// Finds the name by which files call themselves in what a component tells.
pub(crate) fn told(text: &str) -> Option<String> {
    let (_, after) = text.split_once(DECLARED)?;
    Some(after.chars().take_while(char::is_ascii_hexdigit).collect())
}

/// Programs that a release uses if the host has them; the first name is how facts are keyed.
const PROGRAMS: [&[&str]; 10] = [
    &["apt-get"],
    &["curl"],
    &["docker"],
    &["prometheus"],
    &["promtool"],
    &["alertmanager", "prometheus-alertmanager"],
    &["amtool"],
    &["node_exporter", "prometheus-node-exporter"],
    &["nvidia-smi"],
    &["nvidia-ctk"],
];

/// Everything that is declared on the client's side.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The checked settings.
    pub settings: Settings,
    /// What the user wrote: `stack.toml`, and what stands in `local/`; see [`addition::read`]. Without a `stack.toml` the
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
    /// What has to be done before all of this can be known; until then the release is only an outline.
    pub(crate) first: Vec<Step>,
}

/// What must be known of the host before anything can be declared. `program` is the identity of ours.
pub fn question(settings: &Settings, program: &str) -> Question {
    let may_be = |runtime| match settings.engine.runtime {
        RuntimeChoice::Fixed(fixed) => fixed == runtime,
        RuntimeChoice::Auto => runtime != Runtime::Sandbox,
    };
    let (native, docker) = (may_be(Runtime::Native), may_be(Runtime::Docker));
    let own = native::PROGRAMS.iter().map(std::slice::from_ref).filter(|_| native);
    let programs = PROGRAMS.iter().copied().chain(own);
    Question {
        ports: wanted_ports(settings).into_iter().collect(),
        programs: programs.map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect(),
        versions: ["prometheus", "macmon"]
            .into_iter()
            .filter(|_| !matches!(settings.engine.runtime, RuntimeChoice::Fixed(Runtime::Docker)))
            .map(str::to_owned)
            .collect(),
        native,
        contents: false,
        facts: None,
        certificate_files: certificate::files(settings),
        fixed_ports: docker::doors(settings).into_values().filter(|_| native || docker).collect(),
        own_image: (docker && !settings.images.contains_key(&Component::Gateway)).then(|| program.to_owned()),
        images: docker.then(|| docker::images(settings).into_values().collect()),
    }
}

fn is_sandbox(settings: &Settings) -> bool {
    settings.engine.runtime == RuntimeChoice::Fixed(Runtime::Sandbox)
}

/// What a runtime makes of settings and facts.
struct Made {
    /// In starting order.
    services: Vec<Service>,
    absent: Vec<Absent>,
    /// Beside the additions.
    contents: Contents,
    notes: Vec<String>,
    first: Vec<Step>,
    /// See [`Content::doors`].
    doors: BTreeMap<Component, u16>,
    /// See [`Content::tarballs`].
    tarballs: Vec<Tarball>,
    /// See [`Content::init`].
    init: Option<Init>,
}

/// What the host is to run.
///
/// # Errors
/// The runtime that the settings ask for cannot be brought up.
pub(crate) fn declare(wanted: &Wanted, observed: &Observed) -> Result<Declared, Failure> {
    let mut notes = Vec::new();
    let runtime = runtime(wanted, observed)?;
    let ports = choose_ports(&wanted.settings, observed, &mut notes);
    let additions = addition::place(&wanted.source);
    let root = Root::new(observed.root.clone());
    let host = Host { wanted, settings: &wanted.settings, additions: &additions, observed, root, ports: &ports };
    let made = match runtime {
        Runtime::Docker => docker::make(&host)?,
        Runtime::Native => native::make(&host)?,
        Runtime::Sandbox => sandbox::make(&host),
    };
    let Made { services, absent, mut contents, notes: more, first, doors, tarballs, init } = made;
    notes.extend(more);
    contents.extend(additions);
    let files = contents.iter().map(|(path, text)| (path.clone(), sha256_hex(text.as_bytes()))).collect();
    let program = wanted.program.clone();
    let content = Content { runtime, program, tarballs, init, services, absent, ports, doors, files };
    Ok(Declared { release: Release::new(content), contents, notes, first })
}

fn runtime(wanted: &Wanted, observed: &Observed) -> Result<Runtime, Failure> {
    let (picked, why) = match wanted.settings.engine.runtime {
        _ if !wanted.source.contains_key("stack.toml") => (Runtime::Sandbox, "there is no stack.toml".to_owned()),
        RuntimeChoice::Fixed(runtime) => (runtime, "stack.toml asks for it".to_owned()),
        RuntimeChoice::Auto if observed.system == "Darwin" => (Runtime::Native, "the host is a Mac".to_owned()),
        RuntimeChoice::Auto => (Runtime::Docker, format!("the host runs {}", observed.system)),
    };
    let deployed = observed.current_release().map(|release| release.content.runtime);
    if let Some(deployed) = deployed.filter(|deployed| *deployed != picked) {
        return Err(Failure::new(
            Class::Refused,
            format!("{} runs in the {deployed} runtime, and not {picked} ({why})", observed.root.display()),
        )
        .hint(
            "runtimes are not mixed: `cargo xtask uninstall` ends the old one and leaves the data, then deploy again",
        ));
    }
    Ok(picked)
}

fn wanted_ports(settings: &Settings) -> Vec<(Component, u16)> {
    let ports = &settings.ports;
    let mut wanted = vec![
        (Component::Engine, ports.engine),
        (Component::Prometheus, ports.prometheus),
        (Component::NodeExporter, ports.node_exporter),
        (Component::Alertmanager, ports.alertmanager),
    ];
    if is_sandbox(settings) {
        // There is no edge: the gateway itself stands where clients look for Ollama.
        wanted.push((Component::Gateway, ports.api));
    } else {
        wanted.extend([
            (Component::Gateway, ports.gateway),
            (Component::Grafana, ports.grafana),
            (Component::Macmon, ports.macmon),
        ]);
    }
    wanted
}

/// A port once chosen is kept as long as the same one is wanted and nobody else has taken it.
fn choose_ports(settings: &Settings, observed: &Observed, notes: &mut Vec<String>) -> BTreeMap<Component, Port> {
    let kept = observed.current_release().map(|release| &release.content.ports);
    let mut ports = BTreeMap::new();
    let is_mac = observed.system == "Darwin";
    for (component, wanted) in wanted_ports(settings).into_iter().filter(|it| is_mac || it.0 != Component::Macmon) {
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
    wanted: &'a Wanted,
    settings: &'a Settings,
    /// By path below the release.
    additions: &'a Contents,
    observed: &'a Observed,
    root: Root,
    ports: &'a BTreeMap<Component, Port>,
}

impl Host<'_> {
    fn service(&self, component: Component, launch: Launch, ready_path: &str) -> Service {
        Service {
            component,
            launch,
            listen: self.listen(component),
            ready_path: ready_path.to_owned(),
            needs: Vec::new(),
            reads: Vec::new(),
            reload_path: None,
            config_path: None,
            config: None,
            secrets: BTreeMap::new(),
            stop_grace_s: 15,
            note: None,
        }
    }

    /// Those of these secrets that the host keeps, for [`Service::secrets`].
    fn secrets(&self, names: &[&str]) -> BTreeMap<String, String> {
        let kept = names.iter().filter_map(|name| self.observed.secrets.get_key_value(*name));
        kept.map(|(name, digest)| (name.clone(), digest.clone())).collect()
    }

    fn listen(&self, component: Component) -> SocketAddr {
        let port = self.ports.get(&component).map_or(0, |port| port.chosen);
        (Ipv4Addr::LOCALHOST, port).into()
    }

    fn port(&self, component: Component) -> u16 {
        self.listen(component).port()
    }

    /// A release of these services and files alone, for the fingerprints that they give.
    fn outline(&self, services: &[Service], contents: &Contents) -> Release {
        let files = contents.iter().map(|(path, text)| (path.clone(), sha256_hex(text.as_bytes()))).collect();
        let (program, services) = (self.wanted.program.clone(), services.to_vec());
        let (runtime, ports, doors) = (Runtime::Docker, [].into(), [].into());
        let (tarballs, init, absent) = (Vec::new(), None, Vec::new());
        let content = Content { runtime, program, tarballs, init, services, absent, ports, doors, files };
        Release::new(content)
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        self.observed.programs.get(name).cloned().flatten()
    }

    /// The files of a component that tells which ones are in force, and the name by which they are told: `write` gives them
    /// under a name, which is made of what they are without one.
    fn told(&self, folder: &str, write: impl Fn(&str) -> Contents) -> (Contents, String) {
        let mut unnamed = write("");
        let own = self.additions.iter().filter(|(path, _)| path.starts_with(folder));
        unnamed.extend(own.map(|(path, text)| (path.clone(), text.clone())));
        let name = digest_of(&unnamed);
        (write(&name), name)
    }
}
