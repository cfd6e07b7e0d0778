//! The native runtime: every component is a program of the host's own, which our supervisor starts, and the system that.
//!
//! The engine is a release of Ollama that we bring, and so is Alertmanager where there is none (`tarball.rs`); the others come
//! from Homebrew or the distribution. Root is asked for
//! what only root may do (`service.rs`), once.

use std::path::{Path, PathBuf};

use super::{
    Host, Made, certificate,
    docker::{SECRETS, doors, free, missing_secrets},
    engine, grafana,
    nginx::{self, Doors},
    service,
    shared::{gateway, missing, program_alone, watchers, watching},
    tarball,
};
use crate::{
    component::Component,
    failure::{Class, Failure},
    observed::Native,
    plan::Step,
    process::Command,
    release::{Absent, Contents, Service, Tarball},
    settings::Settings,
};

/// Programs that are looked for beside those of other runtimes.
pub(super) const PROGRAMS: [&str; 6] = ["brew", "grafana", "macmon", "nginx", "tar", "zstd"];

/// Where engines keep models if they are not told: the guide's folder, and Ollama's own.
pub(crate) const STORES: [&str; 2] = ["~/ollama-models", "~/.ollama/models"];

/// What starts an engine of its own, each by a file that is there as long as it does, and how it is stopped.
pub(crate) const RIVALS: [(&str, &str); 4] = [
    ("/Applications/Ollama.app", "quit it, and take it out of the login items: it ends other engines on its port"),
    ("~/Library/LaunchAgents/homebrew.mxcl.ollama.plist", "`brew services stop ollama`"),
    ("/Library/LaunchDaemons/homebrew.mxcl.ollama.plist", "`sudo brew services stop ollama`"),
    ("/etc/systemd/system/ollama.service", "`sudo systemctl disable --now ollama`"),
];

/// Homebrew's formulas, each by the name of the program that it brings.
const FORMULAS: [&str; 4] = ["nginx", "prometheus", "node_exporter", "grafana"];

/// Where config/grafana says that Grafana's files are, which is so in a container.
const GRAFANA_FILES: &str = "/etc/grafana/stack";

pub(super) fn make(host: &Host<'_>) -> Result<Made, Failure> {
    let unknown = || Failure::new(Class::Refused, "nothing is known of the host's own programs").hint("deploy again");
    let native = host.observed.native.as_ref().ok_or_else(unknown)?;
    let mut first = install(host);
    if first.is_empty() {
        usable(host)?;
    }
    first.extend(missing_secrets(host).filter(|_| host.program("grafana").is_some()));
    let certificate = certificate::wanted(host)?;
    first.extend(certificate.first);
    not_in_the_way(host, native)?;
    let ollama = tarball::ollama(host)?;
    let models = models(host, native);
    let mut services = vec![engine(host, &ollama, &models), gateway(host)];
    let mut absent = Vec::new();
    let mut contents = Contents::new();
    services.extend(host.program("nginx").map(|program| edge(host, program)));
    let alertmanager = tarball::alertmanager(host);
    let program = alertmanager.as_ref().map(|it| it.path(&host.root)).or_else(|| host.program("alertmanager"));
    watchers(host, program, &mut services, &mut absent);
    match host.program("grafana") {
        Some(program) => {
            services.push(grafana(host, program));
            contents.extend(grafana_files(host));
        }
        None => {
            absent.push(missing(host, Component::Grafana, "grafana (from apt.grafana.com)", "brew install grafana"))
        }
    }
    if host.observed.system == "Darwin" {
        match macmon(host) {
            Ok(service) => services.push(service),
            Err(reason) => absent.push(Absent { component: Component::Macmon, reason }),
        }
    }
    contents.extend(told_files(host, &mut services, certificate.digest));
    if let Some(init) = native.init {
        let text = service::text(init, &host.root, &native.user, &host.observed.account.home);
        contents.insert(service::file(init, &host.root), text);
    }
    let notes = notes(host, native, &models);
    let tarballs = [ollama].into_iter().chain(alertmanager).collect();
    let (doors, init) = (doors(host.settings), native.init);
    Ok(Made { services, absent, contents, notes, first, doors, tarballs, init })
}

/// The steps that bring what is missing, where there is something that can bring it.
fn install(host: &Host<'_>) -> Vec<Step> {
    if let Some(brew) = host.program("brew") {
        let formulas = FORMULAS.into_iter().chain(is_apple_silicon(host).then_some("macmon"));
        let lacking = formulas.filter(|formula| host.program(formula).is_none());
        let formulas: Vec<String> = lacking.map(str::to_owned).collect();
        if formulas.is_empty() {
            return Vec::new();
        }
        let what = format!("install {}", formulas.join(", "));
        let args = std::iter::once("install".to_owned()).chain(formulas).collect();
        let env = [("NONINTERACTIVE".to_owned(), "1".to_owned())].into();
        return vec![Step::Tool { what, command: Command { program: brew, args, env } }];
    }
    let lacking: Vec<&str> = ["curl", "zstd"].into_iter().filter(|name| host.program(name).is_none()).collect();
    match host.program("apt-get") {
        Some(apt) if !lacking.is_empty() && host.observed.system != "Darwin" => {
            let args = [&["install", "-q", "-y", "--no-install-recommends"], &lacking[..]].concat();
            let args = args.into_iter().map(str::to_owned).collect();
            let commands = vec![Command { program: apt, args, env: [].into() }];
            vec![Step::AsRoot { what: format!("install {}", lacking.join(", ")), commands }]
        }
        _ => Vec::new(),
    }
}

/// What there is no stack without.
fn usable(host: &Host<'_>) -> Result<(), Failure> {
    let mac = host.observed.system == "Darwin";
    let Some(missing) = ["nginx", "curl", "tar"].into_iter().find(|name| host.program(name).is_none()) else {
        return Ok(());
    };
    let why = match missing {
        "nginx" => "nginx is not installed, and nothing else lets the network in",
        _ => "what fetches and unpacks the engine is not installed",
    };
    let hint = match (mac, missing) {
        (true, _) => "Homebrew brings it, with Apple's command line tools: `/bin/bash -c \"$(curl -fsSL \
             https://raw.githubusercontent.com/Homebrew/install/HEAD/install.sh)\"` on the Mac; then deploy again"
            .to_owned(),
        // The packages of distributions start a server of their own.
        (false, "nginx") => {
            "`sudo apt-get install nginx-light && sudo systemctl disable --now nginx`, then deploy again; \
                             prometheus, prometheus-node-exporter and grafana likewise, where you want them"
                .to_owned()
        }
        (false, _) => format!("`sudo apt-get install {missing}`, then deploy again"),
    };
    Err(Failure::new(Class::Refused, format!("{why} ({missing})")).hint(hint))
}

/// Somebody else on a port of the LAN; most likely another engine.
fn not_in_the_way(host: &Host<'_>, native: &Native) -> Result<(), Failure> {
    if host.settings.ports.api == 0 {
        return Err(Failure::new(Class::Settings, "the edge cannot listen on any free port: clients have to know it")
            .hint("write one at `ports.api` in stack.toml"));
    }
    free(host).map_err(|failure| match rivals(host, native).as_slice() {
        [] => failure,
        rivals => failure.hint(format!("the engine there is started by {}", rivals.join("; "))),
    })
}

/// What would start another engine, and how it is stopped.
fn rivals(host: &Host<'_>, native: &Native) -> Vec<String> {
    let is_there = |path: &str| native.rivals.contains(&at_home(host, Path::new(path)));
    let there = RIVALS.iter().filter(|(path, _)| is_there(path));
    there.map(|(path, stop)| format!("{path}: {stop}")).collect()
}

fn notes(host: &Host<'_>, native: &Native, models: &Path) -> Vec<String> {
    let engine = &host.settings.engine;
    let limit_gib = engine.memory_limit_bytes >> 30;
    let mut notes = vec![format!(
        "nothing holds a native engine to memory_limit ({limit_gib} GiB): it takes what its models need; `cargo xtask model \
         fit` tells how much that is"
    )];
    if models != at_home(host, &engine.models_path) {
        notes.push(format!("the models in {} are used as they are: nothing is pulled again", models.display()));
    }
    let rivals = rivals(host, native);
    notes.extend(rivals.iter().map(|rival| format!("another engine may fight for the port: {rival}")));
    if native.init.is_none() {
        let (program, root) = (host.root.program(), host.root.path());
        notes.push(format!(
            "nothing that we know starts services here (process 1 is neither launchd nor systemd): after a restart of the \
             machine nothing runs until something calls `{} host supervise --root={}`",
            program.display(),
            root.display()
        ));
    }
    notes
}

fn at_home(host: &Host<'_>, path: &Path) -> PathBuf {
    path.strip_prefix("~").map_or_else(|_| path.to_owned(), |below| host.observed.account.home.join(below))
}

/// The model store: where the settings say nothing else, one that holds models already.
fn models(host: &Host<'_>, native: &Native) -> PathBuf {
    let (wanted, default) = (&host.settings.engine.models_path, Settings::default().engine.models_path);
    let stores = STORES.iter().map(|path| at_home(host, Path::new(path)));
    let found = stores.into_iter().filter(|_| *wanted == default).find(|path| native.stores.contains(path));
    found.unwrap_or_else(|| at_home(host, wanted))
}

fn engine(host: &Host<'_>, tarball: &Tarball, models: &Path) -> Service {
    let settings = &host.settings.engine;
    let program = tarball.path(&host.root);
    let mut env = engine::environment(settings, host.listen(Component::Engine), models);
    let flash_attention = settings.flash_attention.map(|on| u8::from(on).to_string());
    env.extend(flash_attention.map(|value| ("OLLAMA_FLASH_ATTENTION".to_owned(), value)));
    // Private: without this it calls home every few hours.
    env.insert("OLLAMA_NO_CLOUD".to_owned(), "1".to_owned());
    let launch = program_alone(Command { program, args: vec!["serve".to_owned()], env });
    host.service(Component::Engine, launch, "/api/version")
}

fn edge(host: &Host<'_>, program: PathBuf) -> Service {
    let config = host.root.current().join("nginx/nginx.conf");
    let args = nginx_args(&host.root.run(), &config, &["-g", "daemon off;"]);
    let launch = program_alone(Command { program, args, env: [].into() });
    let mut service = host.service(Component::Edge, launch, nginx::CONFIG_PATH);
    service.listen.set_port(host.settings.ports.api);
    service.reads = vec!["nginx/".to_owned()];
    service.config_path = Some(nginx::CONFIG_PATH.to_owned());
    service.needs = vec![Component::Gateway];
    service
}

/// nginx with its own files below `folder`. `-e`: else it complains of a log that only root can write.
fn nginx_args(folder: &Path, config: &Path, more: &[&str]) -> Vec<String> {
    let (folder, config) = (format!("{}/", folder.display()), config.display().to_string());
    ["-e", "stderr", "-p", &folder, "-c", &config].into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
}

/// What lets nginx check what is staged in `folder`.
pub(crate) fn check_edge(program: PathBuf, run: &Path, folder: &Path) -> Command {
    Command { program, args: nginx_args(run, &folder.join("nginx/nginx.conf"), &["-q", "-t"]), env: [].into() }
}

fn grafana(host: &Host<'_>, program: PathBuf) -> Service {
    let home = match program.parent().and_then(Path::parent) {
        Some(prefix) if host.observed.system == "Darwin" => prefix.join("opt/grafana/share/grafana"),
        _ => PathBuf::from("/usr/share/grafana"),
    };
    let listen = host.listen(Component::Grafana);
    let secret = host.root.secrets().join(grafana::PASSWORD);
    let current = host.root.current().join("grafana");
    let env = [
        ("GF_SERVER_HTTP_ADDR", listen.ip().to_string()),
        ("GF_SERVER_HTTP_PORT", listen.port().to_string()),
        ("GF_PATHS_DATA", host.root.data().join("grafana").display().to_string()),
        ("GF_PATHS_LOGS", host.root.logs().join("grafana").display().to_string()),
        ("GF_PATHS_PROVISIONING", current.join("provisioning").display().to_string()),
        ("GF_LOG_MODE", "console".to_owned()),
        ("GF_SECURITY_ADMIN_PASSWORD", format!("$__file{{{}}}", secret.display())),
        ("GF_USERS_ALLOW_SIGN_UP", "false".to_owned()),
        ("GF_ANALYTICS_REPORTING_ENABLED", "false".to_owned()),
        ("GF_ANALYTICS_CHECK_FOR_UPDATES", "false".to_owned()),
        ("GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "false".to_owned()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).into();
    let args = vec!["server".to_owned(), format!("--homepath={}", home.display())];
    let launch = program_alone(Command { program, args, env });
    let mut service = host.service(Component::Grafana, launch, "/api/health");
    service.reads = vec!["grafana/provisioning/".to_owned()];
    service.secrets = host.secrets(&SECRETS);
    service
}

fn is_apple_silicon(host: &Host<'_>) -> bool {
    (host.observed.system.as_str(), host.observed.machine.as_str()) == ("Darwin", "arm64")
}

/// What macmon 0.8 and later know of an Apple GPU, without root. `Err`: why there is none. Older ones listen for everybody,
/// whatever they are told.
fn macmon(host: &Host<'_>) -> Result<Service, String> {
    if !is_apple_silicon(host) {
        return Err("there is none for a Mac with a processor of Intel's".to_owned());
    }
    let program = host.program("macmon");
    let program = program.ok_or("not installed; `brew install macmon` brings it, then deploy again")?;
    if let Some(version) = host.observed.versions.get("macmon")
        && version
            .strip_prefix("0.")
            .and_then(|it| it.split('.').next()?.parse().ok())
            .is_some_and(|minor: u32| minor < 8)
    {
        return Err(format!("{version} cannot be kept to loopback; `brew upgrade macmon`, then deploy again"));
    }
    let listen = host.listen(Component::Macmon);
    let (address, port) = (listen.ip().to_string(), listen.port().to_string());
    let args = ["serve", "--host", &address, "--port", &port].map(str::to_owned).into();
    // Told 503 until there is a first measurement.
    Ok(host.service(Component::Macmon, program_alone(Command { program, args, env: [].into() }), "/metrics"))
}

fn grafana_files(host: &Host<'_>) -> Contents {
    let current = host.root.current().join("grafana").display().to_string();
    let files = grafana::files(host.settings, host.port(Component::Prometheus));
    files.into_iter().map(|(path, text)| (path, text.replace(GRAFANA_FILES, &current))).collect()
}

/// The files of those that tell which ones are in force.
fn told_files(host: &Host<'_>, services: &mut [Service], certificate: Option<String>) -> Contents {
    let doors = Doors {
        api: (host.settings.ports.api, host.port(Component::Gateway)),
        grafana: (host.settings.ports.lan_grafana, host.port(Component::Grafana)),
        prometheus: (host.settings.ports.lan_prometheus, host.port(Component::Prometheus)),
        tls: certificate.map(|digest| (host.root.certificate().display().to_string(), digest)),
        ipv6: host.observed.ipv6,
    };
    let (mut contents, edge) = host.told("nginx/", |name| {
        let mut files = nginx::files(&host.settings.edge.allow, &doors, name);
        // What is in /tmp in a container stands beside the supervisor's own files here, by names below nginx's folder.
        files.entry("nginx/nginx.conf".to_owned()).and_modify(|text| {
            *text = text.replace("pid /tmp/nginx.pid", "pid edge.pid").replace("_path /tmp/", "_path edge-");
        });
        files
    });
    services.iter_mut().filter(|it| it.component == Component::Edge).for_each(|it| it.config = Some(edge.clone()));
    contents.extend(watching(host, services));
    contents
}
