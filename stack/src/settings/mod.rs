//! What the user declares: `stack.toml`, checked.
//!
//! Two shapes on purpose. `read` walks the file with its spans and collects every fault; [`Settings`] is what is left
//! when there is none: typed, complete, without spans. Invariant: a `Settings` value is valid.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

use crate::component::Component;

/// The checked settings of one stack. `Default` is what an empty `stack.toml` means.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The machine that is brought to serving.
    pub host: Host,
    /// The engine and how it serves.
    pub engine: Engine,
    /// The models that a deploy makes sure of.
    pub models: Models,
    /// The only LAN listener.
    pub edge: Edge,
    /// Where each component listens.
    pub ports: Ports,
    /// Prometheus.
    pub monitoring: Monitoring,
    /// Container images by component, each with a tag or a digest.
    pub images: BTreeMap<Component, Image>,
    /// How fast the stand-in engine pretends to be.
    pub sandbox: Sandbox,
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
}

/// Who starts the components; see [`RuntimeChoice::Auto`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// By what the host is; never the sandbox once a `stack.toml` exists.
    Auto,
    /// This one.
    Fixed(crate::component::Runtime),
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
}

/// The only LAN listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// Networks whose clients get an answer; everyone else gets 403.
    pub allow: Vec<IpNet>,
}

/// TCP ports. 0 means "any free one, chosen once and kept".
#[derive(Debug, Clone, PartialEq)]
pub struct Ports {
    /// Where clients find Ollama's API: the edge, and in the sandbox the gateway itself.
    pub api: u16,
    /// The engine, on loopback.
    pub engine: u16,
    /// Prometheus, on loopback.
    pub prometheus: u16,
    /// node_exporter, on loopback.
    pub node_exporter: u16,
}

/// Prometheus.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitoring {
    /// How long samples are kept.
    pub retention: Duration,
    /// How often every target is scraped.
    pub scrape_interval: Duration,
}

/// A container image reference that names exactly one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(pub String);

/// How fast the stand-in engine pretends to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// From request to first token.
    pub time_to_first_token: Duration,
    /// Between two tokens.
    pub time_per_output_token: Duration,
    /// To load a model.
    pub load: Duration,
}
