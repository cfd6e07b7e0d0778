//! What the user declares: `stack.toml`, checked.
//!
//! Two shapes on purpose. `read` walks the file with its spans and collects every fault; [`Settings`] is what is left
//! when there is none: typed, complete, without spans. Invariant: a `Settings` value is valid.

mod alerts;
mod backup;
mod env;
mod fault;
mod gateway;
mod new;
mod read;
mod table;
pub mod value;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::{
    alerts::{Alerts, Email, NTFY_TOKEN, SLACK_URL, SMTP_PASSWORD, WEBHOOK_TOKEN},
    backup::{Backup, BackupSource, Keep, TimeOfDay, time_of_day},
    env::{EnvFile, Note},
    fault::{Fault, Invalid, LoadError},
    gateway::Gateway,
    new::{New, render},
};
use crate::component::{Component, Runtime};

/// The annotated reference: every key, its default, and why. Also where faults find what a right line looks like.
pub const EXAMPLE: &str = include_str!("../../../config/stack.example.toml");

/// The checked settings of one stack. `Default` is what an empty `stack.toml` means.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The machine that is brought to serving.
    pub host: Host,
    /// The engine and how it serves.
    pub engine: Engine,
    /// The models that a deploy makes sure of.
    pub models: Models,
    /// Keys, turns, and what is added to requests.
    pub gateway: Gateway,
    /// The only LAN listener.
    pub edge: Edge,
    /// Where each component listens.
    pub ports: Ports,
    /// Prometheus.
    pub monitoring: Monitoring,
    /// Who is told of alerts.
    pub alerts: Alerts,
    /// Container images by component, each with a tag or a digest.
    pub images: BTreeMap<Component, Image>,
    /// What is saved, where to, when, and for how long.
    pub backup: Backup,
    /// How the stand-in engine behaves.
    pub sandbox: Sandbox,
}

impl Settings {
    /// Reads the text of a `stack.toml`; `file` is only its name, for the faults.
    pub fn parse(text: &str, file: &Path) -> Result<Settings, Invalid> {
        let (settings, found) = read::read(text);
        if found.faults.is_empty() { Ok(settings) } else { Err(Invalid::new(file, text, found.faults)) }
    }

    /// Reads a `stack.toml`.
    pub fn load(file: &Path) -> Result<Settings, LoadError> {
        Ok(Settings::parse(&LoadError::read(file)?, file)?)
    }

    /// What no `stack.toml` means: the defaults, tried out on this machine.
    pub fn sandbox() -> Settings {
        let defaults = Settings::default();
        Settings { engine: Engine { runtime: RuntimeChoice::Fixed(Runtime::Sandbox), ..defaults.engine }, ..defaults }
    }
}

impl Default for Settings {
    /// The only place of the defaults. Why each is what it is stands beside it in [`EXAMPLE`].
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Settings {
            host: Host {
                address: "localhost".to_owned(),
                user: None,
                port: None,
                root: None,
                github: "https://github.com".to_owned(),
            },
            engine: Engine {
                runtime: RuntimeChoice::Auto,
                version: None,
                models_path: PathBuf::from("~/ollama-models"),
                memory_limit_bytes: 128 * GIB,
                memory_reservation_bytes: 64 * GIB,
                keep_alive: Some(Duration::from_secs(5 * 60)),
                num_parallel: 1,
                max_loaded_models: 0,
                context_length: 32_768,
                kv_cache_type: KvCacheType::F16,
                flash_attention: None,
            },
            models: Models { default: "qwen2.5-coder:32b-instruct-q8_0".to_owned(), warm: Vec::new(), previous: None },
            gateway: Gateway::default(),
            edge: Edge { allow: private_networks(), tls: Tls::Off, certificate: None, certificate_key: None },
            ports: Ports {
                api: 11434,
                lan_grafana: 3000,
                lan_prometheus: 9090,
                engine: 11435,
                gateway: 11436,
                grafana: 13000,
                prometheus: 19090,
                node_exporter: 19100,
                macmon: 19101,
                alertmanager: 19093,
            },
            monitoring: Monitoring {
                retention: Duration::from_secs(15 * 24 * 60 * 60),
                scrape_interval: Duration::from_secs(5),
                alertmanager_version: None,
            },
            alerts: Alerts::default(),
            images: BTreeMap::new(),
            backup: Backup::default(),
            sandbox: Sandbox {
                time_to_first_token: Duration::from_millis(50),
                time_per_output_token: Duration::from_millis(5),
                load: Duration::from_millis(200),
                memory_bytes: None,
                max_queue: 512,
                scenarios: None,
            },
        }
    }
}

/// Networks that are nobody's on the internet: private ranges, loopback, link-local.
fn private_networks() -> Vec<IpNet> {
    let v4 = |a, b, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length));
    let v6 = |first, last, length| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last), length));
    vec![
        v4(192, 168, 16),
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(127, 0, 8),
        v6(0, 1, 128),
        v6(0xfc00, 0, 7),
        v6(0xfe80, 0, 10),
    ]
}

/// The machine that is brought to serving.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Name or address; `localhost` is this machine, without ssh.
    pub address: String,
    /// The user to log in as; ssh's own choice when absent.
    pub user: Option<String>,
    /// The port of sshd; ssh's own choice when absent.
    pub port: Option<u16>,
    /// Where everything of ours lives on the host. `None`: `~/frontier-llm-stack`, and `.sandbox` for a sandbox.
    pub root: Option<PathBuf>,
    /// Where release files of projects on GitHub come from: a URL without a `/` at its end.
    pub github: String,
}

/// Who starts the components; see [`RuntimeChoice::Auto`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// By what the host is; never the sandbox once a `stack.toml` exists.
    Auto,
    /// This one.
    Fixed(Runtime),
}

/// The engine and how it serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Who starts the components.
    pub runtime: RuntimeChoice,
    /// Ollama's version, as in `0.32.15`; `None`: the one this program was tested with.
    pub version: Option<String>,
    /// The model store; a leading `~` is the home folder on the host.
    pub models_path: PathBuf,
    /// Hard limit where the runtime can enforce one, in bytes.
    pub memory_limit_bytes: u64,
    /// What the runtime sets aside, in bytes.
    pub memory_reservation_bytes: u64,
    /// How long a model stays loaded after its last request; `None`: for ever.
    pub keep_alive: Option<Duration>,
    /// Requests served at once by one model.
    pub num_parallel: u32,
    /// Models resident at once; 0: the engine decides.
    pub max_loaded_models: u32,
    /// Tokens of context; 0: the engine decides by memory.
    pub context_length: u32,
    /// Type of the key/value cache.
    pub kv_cache_type: KvCacheType,
    /// Flash attention; `None`: the engine decides.
    pub flash_attention: Option<bool>,
}

/// Type of the key/value cache (`OLLAMA_KV_CACHE_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvCacheType {
    /// 16 bit floats.
    F16,
    /// 8 bit, about half the memory of f16.
    Q8_0,
    /// 4 bit, about a quarter.
    Q4_0,
}

/// The models that a deploy makes sure of.
#[derive(Debug, Clone, PartialEq)]
pub struct Models {
    /// The model that verbs mean when none is named.
    pub default: String,
    /// Models that are in memory from the engine's start on; empty: each is loaded when it is first asked.
    pub warm: Vec<String>,
    /// The default before this one, which `model upgrade` goes back to or removes.
    pub previous: Option<String>,
}

/// The only LAN listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// Networks whose clients get an answer; everyone else gets 403.
    pub allow: Vec<IpNet>,
    /// Whose certificate it shows, if it speaks TLS.
    pub tls: Tls,
    /// For [`Tls::Files`]: the chain, on the host.
    pub certificate: Option<PathBuf>,
    /// For [`Tls::Files`]: its key, on the host.
    pub certificate_key: Option<PathBuf>,
}

/// Whether the edge speaks TLS to the LAN. To its own host it speaks plainly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// It does not.
    Off,
    /// With a certificate of the host's own authority, which clients are told to trust.
    Internal,
    /// With one that was got elsewhere.
    Files,
}

/// TCP ports. 0 means "any free one, chosen once and kept".
#[derive(Debug, Clone, PartialEq)]
pub struct Ports {
    /// Where clients find Ollama's API: the edge, and in the sandbox the gateway itself.
    pub api: u16,
    /// Grafana on the LAN, through the edge.
    pub lan_grafana: u16,
    /// Prometheus on the LAN, through the edge.
    pub lan_prometheus: u16,
    /// The engine, on loopback.
    pub engine: u16,
    /// The gateway, on loopback, where there is an edge.
    pub gateway: u16,
    /// Grafana, on loopback.
    pub grafana: u16,
    /// Prometheus, on loopback.
    pub prometheus: u16,
    /// node_exporter, on loopback.
    pub node_exporter: u16,
    /// macmon, on loopback of a Mac.
    pub macmon: u16,
    /// Alertmanager, on loopback.
    pub alertmanager: u16,
}

/// Prometheus.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitoring {
    /// How long samples are kept.
    pub retention: Duration,
    /// How often every target is scraped.
    pub scrape_interval: Duration,
    /// Alertmanager's version, which a deploy brings to a native stack; `None`: what the host has, or one that is known.
    pub alertmanager_version: Option<String>,
}

/// A container image reference that names exactly one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(pub String);

/// How the stand-in engine behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// From request to first token.
    pub time_to_first_token: Duration,
    /// Between two tokens.
    pub time_per_output_token: Duration,
    /// To load a model.
    pub load: Duration,
    /// Memory for models, in bytes; `None`: no limit.
    pub memory_bytes: Option<u64>,
    /// Requests that may wait for a model to come into memory.
    pub max_queue: u32,
    /// The file beside `stack.toml` that says what it answers to what; `None`: synthetic text to everything.
    pub scenarios: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "stack.toml";

    /// Table, key and value of every line of the annotated reference, whether commented out or not.
    fn example_keys() -> Vec<(String, String)> {
        let mut table = String::new();
        let mut keys = Vec::new();
        for line in EXAMPLE.lines() {
            if let Some(name) = line.strip_prefix('[') {
                table = name.trim_end_matches(']').to_owned();
            } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
                keys.push((table.clone(), key.to_owned()));
            }
        }
        keys
    }

    #[test]
    fn the_example_is_the_defaults() {
        assert_eq!(
            Settings::parse(EXAMPLE, Path::new(FILE)).map_err(|invalid| invalid.render(false)),
            Ok(Settings::default())
        );
        assert_eq!(Settings::parse("", Path::new(FILE)), Ok(Settings::default()));
    }

    #[test]
    fn the_example_has_every_key_and_no_other() {
        let known: Vec<_> =
            read::read("").1.known.iter().map(|(table, key)| ((*table).to_owned(), (*key).to_owned())).collect();
        assert_eq!(example_keys(), known);
    }

    #[test]
    fn what_the_example_comments_out_is_valid_too() {
        let is_setting = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let lines = EXAMPLE.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let settings = Settings::parse(&text, Path::new(FILE)).map_err(|invalid| invalid.render(false)).unwrap();
        assert_eq!(settings.images.len(), Component::ALL.len() - 1);
        assert!(settings.host.user.is_some() && settings.host.port.is_some() && settings.engine.version.is_some());
        assert!(settings.sandbox.memory_bytes.is_some() && settings.sandbox.scenarios.is_some());
        assert_eq!(settings.host.root, Some(PathBuf::from("~/frontier-llm-stack")));
    }

    #[test]
    fn the_example_says_why_before_every_key() {
        let lines: Vec<_> = EXAMPLE.lines().collect();
        for (before, line) in
            lines.iter().zip(&lines[1..]).filter(|(_, line)| !line.starts_with('#') && line.contains(" = "))
        {
            assert!(before.starts_with("# "), "{line}");
        }
    }

    #[test]
    fn names_a_file_that_it_cannot_read() {
        let error = Settings::load(Path::new("/nowhere/stack.toml")).expect_err("missing");
        assert_eq!(error.to_string(), "cannot read /nowhere/stack.toml");
        assert!(
            matches!(&error, LoadError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
        );
        assert!(matches!(Settings::load(Path::new("/")), Err(LoadError::Unreadable { .. })));
    }

    #[test]
    fn loads_what_it_parses() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        std::fs::write(&file, "[host]\naddress = \"studio.local\"\n").unwrap();
        assert_eq!(Settings::load(&file).unwrap().host.address, "studio.local");
        std::fs::write(&file, "[host]\naddress = 7\n").unwrap();
        assert!(matches!(Settings::load(&file), Err(LoadError::Invalid(invalid)) if invalid.file == file));
    }

    #[test]
    fn without_a_file_it_is_the_sandbox() {
        assert_eq!(Settings::sandbox().engine.runtime, RuntimeChoice::Fixed(Runtime::Sandbox));
        assert_eq!(Settings::default().engine.runtime, RuntimeChoice::Auto);
    }
}
