//! The docker runtime: every component is a service of `compose.yaml`, and what is declared are its values.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    Host, Made, alertmanager, certificate,
    compose::{self, Files, Values},
    engine,
    grafana::{self, PASSWORD},
    nginx::{self, Doors},
    packages, prometheus,
};
use crate::{
    component::Component,
    failure::{Class, Failure},
    observed::Engine,
    plan::Step,
    process::Command,
    release::{Absent, Container, Contents, Launch, Service},
    settings::{Settings, Tls},
};

/// The oldest engine that can do all that `compose.yaml` asks for.
const OLDEST_ENGINE: (u32, u32) = (20, 10);

/// Components by their name in `compose.yaml`, which is the guide's, and what their variables begin with.
const SERVICES: [(Component, &str, &str); 7] = [
    (Component::Engine, "ollama", "STACK_ENGINE"),
    (Component::Gateway, "gateway", "STACK_GATEWAY"),
    (Component::Edge, "nginx", "STACK_EDGE"),
    (Component::Prometheus, "prometheus", "STACK_PROMETHEUS"),
    (Component::Alertmanager, "alertmanager", "STACK_ALERTMANAGER"),
    (Component::Grafana, "grafana", "STACK_GRAFANA"),
    (Component::NodeExporter, "node-exporter", "STACK_NODE_EXPORTER"),
];

/// Where the edge's container sees its certificate.
const CERTIFICATE: &str = "/etc/nginx/tls";

/// Where the container of Alertmanager sees the host's secrets.
const SEEN_SECRETS: &str = "/run/stack-secrets";

/// What the edge lets be reached at which port of the LAN. Clients have written these down: they are had as they are, or
/// not at all.
pub(super) fn doors(settings: &Settings) -> BTreeMap<Component, u16> {
    let ports = &settings.ports;
    BTreeMap::from([
        (Component::Gateway, ports.api),
        (Component::Grafana, ports.lan_grafana),
        (Component::Prometheus, ports.lan_prometheus),
    ])
}

/// The images by component, as the settings name them. Where they name none for the gateway, the host makes it, of the program
/// itself: [`Root::own_image`](crate::layout::Root::own_image).
pub(super) fn images(settings: &Settings) -> BTreeMap<Component, String> {
    let image = |(component, _, variable): &(Component, &str, &str)| {
        let reference = match (settings.images.get(component), &settings.engine.version) {
            (Some(image), _) => image.0.clone(),
            (None, _) if *component == Component::Gateway => return None,
            (None, Some(version)) if *component == Component::Engine => format!("ollama/ollama:{version}"),
            (None, _) => compose::default_of(&format!("{variable}_IMAGE")).to_owned(),
        };
        Some((*component, reference))
    };
    SERVICES.iter().filter_map(image).collect()
}

pub(super) fn make(host: &Host<'_>) -> Result<Made, Failure> {
    let install = packages::steps(host);
    if install.is_empty() {
        usable(host)?;
    }
    free(host)?;
    let mac = host.observed.system == "Darwin";
    let (nvidia, mut notes) = gpu(host);
    if mac {
        notes.push(
            "containers on a Mac have no GPU, and the edge cannot see who asks: the engine is slow, and edge.allow is not \
             enforced"
                .to_owned(),
        );
    }
    let own = host.root.own_image(&host.wanted.program);
    let mut images = images(host.settings);
    images.entry(Component::Gateway).or_insert_with(|| own.clone());
    let ids = ids(host, &images);
    // Without an engine nothing can be said of images yet.
    let mut first = if install.is_empty() { missing_images(host, &images, &ids, &own)? } else { install };
    first.extend(missing_secrets(host));
    if mac && host.settings.edge.tls != Tls::Off {
        // The host's own requests come in from outside of the container, as all others do, and it asks plainly.
        return Err(Failure::new(
            Class::Settings,
            "in a container on a Mac the edge cannot tell the host from the LAN",
        )
        .hint("`tls = \"off\"` under [edge] in stack.toml, or `runtime = \"native\"` under [engine]"));
    }
    let certificate = certificate::wanted(host)?;
    let first: Vec<Step> = first.into_iter().chain(certificate.first).collect();
    let values = values(host, &ids, mac)?;
    let files = Files { nvidia, mac };
    let mut services: Vec<Service> = SERVICES
        .into_iter()
        .filter(|(component, ..)| !(mac && *component == Component::NodeExporter))
        .map(|(component, name, _)| {
            let container = Container {
                service: name.to_owned(),
                image: images.get(&component).cloned().unwrap_or_default(),
                image_id: ids.get(&component).cloned().unwrap_or_default(),
                definition: files.definition(name, &values),
                migrates: (component == Component::Grafana).then(|| "grafana".to_owned()),
                folders: match component {
                    Component::Engine => vec![models(host)],
                    Component::NodeExporter => vec![host.root.textfile()],
                    Component::Edge => vec![host.root.certificate()],
                    Component::Alertmanager => vec![host.root.data().join("alertmanager")],
                    _ => Vec::new(),
                },
            };
            service(host, component, container, mac)
        })
        .collect();
    let mut absent = Vec::new();
    if mac {
        absent.push(left_out(Component::NodeExporter, "in a container on a Mac it would measure Docker's own machine"));
    }
    let mut contents = told_files(host, &mut services, &images, certificate.digest);
    contents.extend(grafana::files(host.settings, host.port(Component::Prometheus)));
    contents.extend(files.place(with_fingerprints(host, values, &services, &contents)));
    Ok(Made { services, absent, contents, notes, first, doors: doors(host.settings), tarballs: Vec::new(), init: None })
}

/// Docker's own state, each in its own words.
fn usable(host: &Host<'_>) -> Result<(), Failure> {
    let refuse = |message: &str, hint: &str| Err(Failure::new(Class::Refused, message).hint(hint));
    let mac = host.observed.system == "Darwin";
    let Some(docker) = &host.observed.docker else {
        return refuse("nothing is known of Docker on the host", "run the same command again: it looks anew");
    };
    match &docker.engine {
        Engine::Absent if mac => refuse("Docker is not installed", "`brew install --cask docker`, and start it once"),
        Engine::Absent => {
            refuse("Docker is not installed", "`sudo apt-get install docker.io` brings it on Debian and Ubuntu")
        }
        Engine::Silent(said) if said.contains("permission denied") => {
            Err(Failure::new(Class::Refused, "Docker's engine does not let this user in")
                .because(&std::io::Error::other(said.clone()))
                .hint("`sudo usermod -aG docker $USER`, then log in anew"))
        }
        Engine::Silent(said) => Err(Failure::new(Class::Refused, "Docker is installed, and its engine does not run")
            .because(&std::io::Error::other(said.clone()))
            .hint(if mac {
                "`docker desktop start`, or `colima start`; `docker context ls` tells which socket is asked: Docker Desktop's is \
                 ~/.docker/run/docker.sock, OrbStack's ~/.orbstack/run/docker.sock, Colima's ~/.colima/default/docker.sock"
            } else {
                "`sudo systemctl enable --now docker`"
            })),
        Engine::Answers { version, .. } if is_older(version, OLDEST_ENGINE) => {
            let (major, minor) = OLDEST_ENGINE;
            refuse(
                &format!("Docker's engine is {version}, and {major}.{minor} is the oldest that can do this"),
                "upgrade it: https://docs.docker.com/engine/install/",
            )
        }
        Engine::Answers { compose: None, version } if !version.is_empty() => refuse(
            "Docker has no Compose of version 2",
            "`sudo apt-get install curl` and the same command again: it fetches the plugin; or install that from Docker's \
             repository, `docker-compose-plugin`",
        ),
        Engine::Answers { .. } => Ok(()),
    }
}

fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < than)
}

/// Somebody else on a port of the LAN is a fault, not a reason to listen where nobody looks.
pub(super) fn free(host: &Host<'_>) -> Result<(), Failure> {
    let taken = doors(host.settings).into_values().find_map(|port| Some((port, host.observed.taken.get(&port)?)));
    let Some((port, holder)) = taken else { return Ok(()) };
    Err(Failure::new(Class::Failed, format!("port {port}, which the edge is to listen on, is taken by {holder}"))
        .hint("stop that, or write another port under [ports] in stack.toml"))
}

/// Whether the engine gets an NVIDIA GPU.
fn gpu(host: &Host<'_>) -> (bool, Vec<String>) {
    match (host.program("nvidia-smi"), host.program("nvidia-ctk")) {
        (Some(_), Some(_)) => (true, Vec::new()),
        (Some(_), None) => {
            let note = "the host has an NVIDIA GPU and not its container toolkit: the engine runs on the CPU until \
                        nvidia-container-toolkit is installed";
            (false, vec![note.to_owned()])
        }
        (None, _) => (false, Vec::new()),
    }
}

/// An image's id is found once, and then kept as long as the same image is asked for.
fn ids(host: &Host<'_>, images: &BTreeMap<Component, String>) -> BTreeMap<Component, String> {
    let kept = |component: &Component, reference: &String| {
        let container = host.observed.current_release()?.service(*component)?.container()?;
        (container.image == *reference).then(|| container.image_id.clone())
    };
    let found = |reference: &String| host.observed.docker.as_ref()?.images.get(reference).cloned();
    let id = |(component, reference): (&Component, &String)| {
        Some((*component, kept(component, reference).or_else(|| found(reference))?))
    };
    images.iter().filter_map(id).collect()
}

fn missing_images(
    host: &Host<'_>,
    images: &BTreeMap<Component, String>,
    ids: &BTreeMap<Component, String>,
    own: &str,
) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for (_, image) in images.iter().filter(|(component, _)| !ids.contains_key(component)) {
        if image != own {
            steps.push(Step::Pull { image: image.clone() });
        } else if host.observed.system == "Darwin" {
            return Err(Failure::new(Class::Settings, "the gateway's image cannot be made of a Mac's program").hint(
                "make one on Linux, and name it under [images] in stack.toml; config/compose/compose.yaml says how",
            ));
        } else {
            steps.push(Step::Import { image: image.clone() });
        }
    }
    Ok(steps)
}

/// What a secret is decides what its container is known by, so it comes first.
pub(super) fn missing_secrets(host: &Host<'_>) -> impl Iterator<Item = Step> {
    let missing = SECRETS.into_iter().filter(|name| !host.observed.secrets.contains_key(*name));
    missing.map(|name| Step::Generate { secret: name.to_owned() })
}

/// The values of `compose.yaml` but for the fingerprints, which are made of them.
fn values(host: &Host<'_>, ids: &BTreeMap<Component, String>, mac: bool) -> Result<Values, Failure> {
    let (settings, root) = (host.settings, &host.root);
    let ports = &settings.ports;
    let engine = &settings.engine;
    let models = models(host);
    if ports.api == 0 {
        return Err(Failure::new(Class::Settings, "the edge cannot listen on any free port: clients have to know it")
            .hint("write one at `ports.api` in stack.toml"));
    }
    let told = engine::environment(engine, host.listen(Component::Engine), &models);
    let mut values = Values::new();
    let mut set = |name: &str, value: String| drop(values.insert(name.to_owned(), value));
    for (component, _, variable) in SERVICES {
        set(&format!("{variable}_IMAGE"), ids.get(&component).cloned().unwrap_or_default());
        set(&format!("{variable}_PORT"), host.port(component).to_string());
    }
    for name in ["KEEP_ALIVE", "NUM_PARALLEL", "MAX_LOADED_MODELS", "CONTEXT_LENGTH", "KV_CACHE_TYPE"] {
        set(&format!("STACK_{name}"), told.get(&format!("OLLAMA_{name}")).cloned().unwrap_or_default());
    }
    set("STACK_GATEWAY_FLAGS", settings.gateway.args(engine, &settings.models, Path::new("/keys/keys.json")).join(" "));
    set("STACK_KEYS", root.keys().parent().unwrap_or(root.path()).display().to_string());
    set("STACK_FLASH_ATTENTION", engine.flash_attention.map(|on| u8::from(on).to_string()).unwrap_or_default());
    set("STACK_PROJECT", root.project());
    set("STACK_USER", host.observed.account.ids.clone());
    set("STACK_MODELS", models.display().to_string());
    set("STACK_CONFIG", root.live().display().to_string());
    set("STACK_TEXTFILE", root.textfile().display().to_string());
    set("STACK_TLS", root.certificate().display().to_string());
    set("STACK_SECRETS", root.secrets().display().to_string());
    set("STACK_ALERTMANAGER_DATA", root.data().join("alertmanager").display().to_string());
    set("STACK_MEMORY_LIMIT", format!("{}b", engine.memory_limit_bytes));
    set("STACK_MEMORY_RESERVATION", format!("{}b", engine.memory_reservation_bytes));
    set("STACK_RETENTION", format!("{}s", settings.monitoring.retention.as_secs()));
    set("STACK_API_PORT", ports.api.to_string());
    set("STACK_PROMETHEUS_URL", prometheus::external_url(settings).unwrap_or_default());
    if mac {
        set("STACK_NETWORK", "service:nginx".to_owned());
        set("STACK_EDGE_NETWORK", "bridge".to_owned());
        set("STACK_LAN_GRAFANA_PORT", ports.lan_grafana.to_string());
        set("STACK_LAN_PROMETHEUS_PORT", ports.lan_prometheus.to_string());
    }
    match values.iter().find(|(_, value)| value.contains(['\'', '\n', '$'])) {
        Some((_, value)) => Err(Failure::new(Class::Settings, format!("Compose cannot be given {value:?}"))
            .hint("choose a path without quotes and dollar signs, with host.root or engine.models_path")),
        None => Ok(values),
    }
}

fn models(host: &Host<'_>) -> PathBuf {
    let path = &host.settings.engine.models_path;
    path.strip_prefix("~").map_or_else(|_| path.clone(), |below| host.observed.account.home.join(below))
}

fn service(host: &Host<'_>, component: Component, container: Container, mac: bool) -> Service {
    let ports = &host.settings.ports;
    let (ready_path, lan) = match component {
        Component::Engine | Component::Gateway => ("/api/version", ports.api),
        Component::Edge => (nginx::CONFIG_PATH, ports.api),
        Component::Prometheus => ("/-/ready", ports.lan_prometheus),
        Component::Grafana => ("/api/health", ports.lan_grafana),
        Component::Alertmanager => ("/-/ready", 0),
        Component::NodeExporter | Component::Macmon => ("/", 0),
    };
    let mut service = host.service(component, Launch::Container(container), ready_path);
    // What listens inside of a Mac's Docker is reached through the edge only.
    if mac || component == Component::Edge {
        service.listen.set_port(lan);
    }
    service.reads = match component {
        Component::Edge => vec!["nginx/".to_owned()],
        Component::Prometheus => vec!["prometheus/".to_owned()],
        Component::Alertmanager => vec!["alertmanager/".to_owned()],
        Component::Grafana => vec!["grafana/provisioning/".to_owned()],
        _ => Vec::new(),
    };
    if component == Component::Grafana {
        service.secrets = host.secrets(&SECRETS);
    }
    service.config_path = match component {
        Component::Edge => Some(nginx::CONFIG_PATH.to_owned()),
        Component::Prometheus => Some(prometheus::CONFIG_PATH.to_owned()),
        Component::Alertmanager => Some(alertmanager::CONFIG_PATH.to_owned()),
        _ => None,
    };
    service
}

/// The files of those that tell which ones are in force.
fn told_files(
    host: &Host<'_>,
    services: &mut [Service],
    images: &BTreeMap<Component, String>,
    certificate: Option<String>,
) -> Contents {
    let doors = Doors {
        api: (host.settings.ports.api, host.port(Component::Gateway)),
        grafana: (host.settings.ports.lan_grafana, host.port(Component::Grafana)),
        prometheus: (host.settings.ports.lan_prometheus, host.port(Component::Prometheus)),
        tls: certificate.map(|digest| (CERTIFICATE.to_owned(), digest)),
        ipv6: host.observed.ipv6,
    };
    // Prometheus scrapes where the components listen, which on a Mac is not where they are reached. The edge has one place.
    let inside = |service: &Service| match service.component {
        Component::Edge => service.listen,
        component => host.listen(component),
    };
    let targets: Vec<Service> =
        services.iter().map(|service| Service { listen: inside(service), ..service.clone() }).collect();
    let version = images.get(&Component::Prometheus).and_then(|image| prometheus::version_of(image));
    let (mut contents, edge) = host.told("nginx/", |name| nginx::files(&host.settings.edge.allow, &doors, name));
    let (files, prometheus) =
        host.told("prometheus/", |name| prometheus::files(host.settings, &targets, version, name));
    contents.extend(files);
    let alerts = alertmanager::told(host, Path::new(SEEN_SECRETS));
    contents.extend(alerts.files);
    for service in services {
        service.config = match service.component {
            Component::Edge => Some(edge.clone()),
            Component::Prometheus => Some(prometheus.clone()),
            Component::Alertmanager => Some(alerts.name.clone()),
            _ => None,
        };
        service.note = alerts.note.clone().filter(|_| service.component == Component::Alertmanager);
    }
    contents
}

/// Adds what each container is to be known by.
fn with_fingerprints(host: &Host<'_>, mut values: Values, services: &[Service], contents: &Contents) -> Values {
    let outline = host.outline(services, contents);
    for (component, _, variable) in SERVICES {
        let fingerprint = outline.service(component).map(|service| outline.fingerprint(service));
        values.insert(format!("{variable}_FINGERPRINT"), fingerprint.unwrap_or_default());
    }
    values
}

fn left_out(component: Component, reason: &str) -> Absent {
    Absent { component, reason: reason.to_owned() }
}

/// What lets a component's own tool check what is staged in `folder`, in the image that will read it.
pub(crate) fn check(docker: &Path, folder: &Path, service: &Service) -> Option<Command> {
    let container = service.container()?;
    let (tool, below, target, args): (_, _, _, &[&str]) = match service.component {
        Component::Edge => ("nginx", "nginx", "/etc/nginx/stack", &["-q", "-t", "-c", "/etc/nginx/stack/nginx.conf"]),
        Component::Prometheus => (
            "promtool",
            "prometheus",
            "/etc/prometheus/stack",
            &["check", "config", "/etc/prometheus/stack/prometheus.yml"],
        ),
        Component::Alertmanager => (
            "amtool",
            "alertmanager",
            "/etc/alertmanager/stack",
            &["check-config", "/etc/alertmanager/stack/alertmanager.yml"],
        ),
        _ => return None,
    };
    let mount = format!("type=bind,source={},target={target},readonly", folder.join(below).display());
    let mut mounts = vec!["--mount".to_owned(), mount];
    // Else the configuration names a certificate that is not there.
    for folder in container.folders.iter().filter(|_| service.component == Component::Edge) {
        mounts.push("--mount".to_owned());
        mounts.push(format!("type=bind,source={},target={CERTIFICATE},readonly", folder.display()));
    }
    let fixed = ["run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--user=101:101"];
    let args = fixed
        .into_iter()
        .chain(mounts.iter().map(String::as_str))
        .chain(["--entrypoint", tool, &container.image_id])
        .chain(args.iter().copied());
    let args = args.map(str::to_owned).collect();
    Some(Command { program: docker.to_owned(), args, env: [].into() })
}

/// The secrets that containers are given, each made up where it is missing.
pub(crate) const SECRETS: [&str; 1] = [PASSWORD];
