//! A release: everything that decides what runs, under a name made from its content.
//!
//! Invariant: two releases with one id are one and the same; whatever would make a component run differently (program,
//! arguments, environment, a file or secret it reads) is part of the id. Of secrets there are digests alone: a release goes
//! with the values that its host has.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    component::{Component, Runtime},
    layout::Root,
    observed::Init,
    process::Command,
};

/// The file in a release's folder that says what it is.
pub(crate) const MANIFEST: &str = "release.json";

/// Content hash of a release: 16 hex digits of SHA-256, which is plenty among the few that a host keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseId(String);

impl ReleaseId {
    /// From the name of a release's folder, which says nothing about whether there is one.
    pub fn from_folder_name(name: String) -> Self {
        ReleaseId(name)
    }

    /// As hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The manifest of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Hash of everything below.
    pub id: ReleaseId,
    /// Everything else.
    #[serde(flatten)]
    pub content: Content,
}

/// What a release consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Who starts the components.
    pub runtime: Runtime,
    /// Identity of our own program, which is the gateway, the supervisor and the stand-in.
    pub program: String,
    /// Releases of others' programs that we bring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tarballs: Vec<Tarball>,
    /// Who has the system run our supervisor; `None`: a deploy starts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// What runs, in starting order.
    pub services: Vec<Service>,
    /// What does not run here, and why.
    pub absent: Vec<Absent>,
    /// Which port each component got.
    pub ports: BTreeMap<Component, Port>,
    /// At which port of the LAN the edge lets a component be reached; those that are not named listen on loopback only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub doors: BTreeMap<Component, u16>,
    /// The files of the release by path below its folder: SHA-256 of the content, in hex.
    pub files: BTreeMap<String, String>,
}

/// A release of others' programs, to be fetched and unpacked whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tarball {
    /// Whose it is, as `ollama`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it is.
    pub url: String,
    /// What it has to be. `None`: what the release itself says.
    pub sha256: Option<String>,
    /// Where the release says that.
    pub sums: String,
    /// The program within it.
    pub program: String,
}

impl Tarball {
    /// The name of its folder, among others of its kind.
    pub(crate) fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Where its program is on a host.
    pub(crate) fn path(&self, root: &Root) -> PathBuf {
        root.programs().join(self.folder()).join(&self.program)
    }
}

/// A component as it is to run on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Which one.
    pub component: Component,
    /// How it is started.
    pub launch: Launch,
    /// Where it answers on the host itself.
    pub listen: SocketAddr,
    /// The path that answers 200 when it can serve.
    pub ready_path: String,
    /// Components that must be able to serve before this one starts.
    pub needs: Vec<Component>,
    /// The files of the release that it reads: names, or folders with a trailing `/`.
    pub reads: Vec<String>,
    /// The path that a POST makes read them again. Without one, and without `config_path`, it is restarted.
    pub reload_path: Option<String>,
    /// The path that tells which files are in force, by their [`Release::config_fingerprint`]; SIGHUP has it read them again.
    pub config_path: Option<String>,
    /// The name by which its files call themselves; `None`: one is made of their content.
    pub config: Option<String>,
    /// The host's secrets that it reads when it starts, by name: the digest of what each is. One that it reads afresh by
    /// itself is none of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// How long it may take to stop, in seconds, before it is killed.
    pub stop_grace_s: u64,
    /// What a person should know of it although it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How a component is started, and so by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launch {
    /// As a process of our supervisor.
    Process {
        /// What to run.
        command: Command,
        /// Whether it is our own program, so that a new one means a restart.
        own_program: bool,
    },
    /// By Compose.
    Container(Container),
}

/// A service of `compose.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name there.
    pub service: String,
    /// The image as the settings name it.
    pub image: String,
    /// The id that was found for it.
    pub image_id: String,
    /// Hash of what Compose reads about it.
    pub definition: String,
    /// The volume whose data another image may change for good.
    pub migrates: Option<String>,
    /// Folders of the host that it is given and that have to be there.
    pub folders: Vec<PathBuf>,
}

/// A component that this release does without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Which one.
    pub component: Component,
    /// Why, and what would bring it.
    pub reason: String,
}

/// A port that was asked for, and the one that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// From the settings; 0 is any.
    pub wanted: u16,
    /// What the component listens on, as long as `wanted` stays the same.
    pub chosen: u16,
}

/// The bytes of a release's files by path. They travel apart from plans and manifests.
pub type Contents = BTreeMap<String, String>;

impl Content {
    /// How the LAN's doors are spoken to.
    pub fn scheme(&self) -> &'static str {
        if self.files.contains_key("nginx/tls.conf") { "https" } else { "http" }
    }
}

impl Release {
    /// Names the content by its hash.
    pub fn new(content: Content) -> Self {
        Release { id: ReleaseId(digest_of(&content)), content }
    }

    /// Reads the manifest in a release's folder; `None` if the folder is no release.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let release: Release = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        (folder.file_name()?.to_str()? == release.id.as_str()).then_some(release)
    }

    /// The service of a component, if the release has one.
    pub fn service(&self, component: Component) -> Option<&Service> {
        self.content.services.iter().find(|service| service.component == component)
    }

    /// Where the engine keeps its models, if it is a process.
    pub fn models(&self) -> Option<&Path> {
        let Launch::Process { command, .. } = &self.service(Component::Engine)?.launch else { return None };
        command.env.get("OLLAMA_MODELS").map(Path::new)
    }

    /// Everything of which a change means a restart, as one hash.
    pub fn fingerprint(&self, service: &Service) -> String {
        let files = (!service.reloads()).then(|| self.files_of(service));
        match &service.launch {
            Launch::Process { command, own_program } => {
                let program = own_program.then_some(&self.content.program);
                digest_of(&(command, service.listen, program, files, &service.secrets))
            }
            Launch::Container(container) => {
                digest_of(&(&container.image_id, &container.definition, files, &service.secrets))
            }
        }
    }

    /// Everything of which a change means a reload, as one hash.
    pub fn config_fingerprint(&self, service: &Service) -> String {
        service.config.clone().unwrap_or_else(|| digest_of(&self.files_of(service)))
    }

    fn files_of(&self, service: &Service) -> Vec<(&String, &String)> {
        let reads = |path: &str| {
            service.reads.iter().any(|read| path == read || (read.ends_with('/') && path.starts_with(read.as_str())))
        };
        self.content.files.iter().filter(|(path, _)| reads(path)).collect()
    }
}

impl Service {
    /// A URL on this service, for the host itself.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Whether it reads changed files without a restart.
    pub fn reloads(&self) -> bool {
        self.reload_path.is_some() || self.config_path.is_some()
    }

    /// What it is started with, where that is ours to know.
    pub fn args(&self) -> &[String] {
        match &self.launch {
            Launch::Process { command, .. } => &command.args,
            Launch::Container(_) => &[],
        }
    }

    /// What Compose knows it as, where Compose starts it.
    pub fn container(&self) -> Option<&Container> {
        match &self.launch {
            Launch::Container(container) => Some(container),
            Launch::Process { .. } => None,
        }
    }
}

/// SHA-256 in hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hash of a value's JSON: maps are ordered and structs keep their order, so equal values give equal text.
pub(crate) fn digest_of(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).expect("our own types are JSON");
    sha256_hex(&json)[..16].to_owned()
}
