//! Where everything of ours lives on a host. Nothing else in the program spells these names.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{
    component::Component,
    release::{ReleaseId, sha256_hex},
};

/// A path in which a leading `~` stands for the home folder on this machine; `None`: nobody knows which that is.
pub fn expand(path: &Path) -> Option<PathBuf> {
    match path.strip_prefix("~") {
        Ok(below) => Some(env::home_dir()?.join(below)),
        Err(_) => Some(path.to_owned()),
    }
}

/// The folder that holds the whole stack on a host; an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// `path` must be absolute: components get paths below it in their arguments.
    pub fn new(path: PathBuf) -> Self {
        debug_assert!(path.is_absolute());
        Root(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    /// The program at a stable path, for cron and for macOS privacy grants.
    pub fn program(&self) -> PathBuf {
        self.bin().join("xtask")
    }

    /// Where our program is built, if this host has to.
    pub(crate) fn build(&self) -> PathBuf {
        self.0.join("build")
    }

    /// The identity of that program.
    pub(crate) fn program_id(&self) -> PathBuf {
        self.bin().join("xtask.id")
    }

    /// Whether that program is this one.
    pub fn has_program(&self, id: &str) -> bool {
        self.program().exists() && std::fs::read_to_string(self.program_id()).is_ok_and(|found| found.trim() == id)
    }

    /// All releases.
    pub(crate) fn releases(&self) -> PathBuf {
        self.0.join("releases")
    }

    /// One release.
    pub(crate) fn release(&self, id: &ReleaseId) -> PathBuf {
        self.releases().join(id.as_str())
    }

    /// The symbolic link to the release that is to run.
    pub(crate) fn current(&self) -> PathBuf {
        self.0.join("current")
    }

    /// What the user wrote for the current release, or `None` where nothing is deployed.
    pub fn source(&self) -> Option<PathBuf> {
        // Resolved now, so that it stays whole while a deploy switches releases.
        let release = self.current().canonicalize().ok()?;
        Some(release.join("source"))
    }

    /// The files that containers see: the current release's, in folders that stay, since a mount holds on to its folder.
    pub(crate) fn live(&self) -> PathBuf {
        self.0.join("live")
    }

    /// What Compose and Docker know this root's containers and volumes by.
    pub(crate) fn project(&self) -> String {
        format!("stack-{}", &sha256_hex(self.0.as_os_str().as_encoded_bytes())[..8])
    }

    /// What Docker knows a volume of this root's by, which `compose.yaml` calls `name`.
    pub fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project())
    }

    /// The image that this root makes of a program. Other roots on the machine have their own: an uninstall takes it along.
    pub fn own_image(&self, program: &str) -> String {
        format!("{}-gateway:{program}", self.project())
    }

    /// What the system's service manager knows this root's supervisor by.
    pub(crate) fn service(&self) -> String {
        format!("frontier-llm-{}-stack", &sha256_hex(self.0.as_os_str().as_encoded_bytes())[..8])
    }

    /// Releases of others' programs by name and version, as they were unpacked.
    pub(crate) fn programs(&self) -> PathBuf {
        self.0.join("programs")
    }

    /// What is known of this host, and who runs on it.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// What of [`Root::state`] cannot be made anew, and is for its owner's eyes only.
    pub fn confidential(&self) -> [PathBuf; 5] {
        let authority = |name| self.authority().join(name);
        let [facts, key, certificate] = ["authority.json", "authority.key", "authority.pem"].map(authority);
        let below = |path: PathBuf| path.strip_prefix(self.state()).unwrap_or(&path).to_owned();
        [self.secrets(), self.keys(), facts, key, certificate].map(below)
    }

    /// What an apply did, line by line.
    pub(crate) fn journal(&self) -> PathBuf {
        self.state().join("journal.jsonl")
    }

    /// The releases that passed their gate, the newest last.
    pub(crate) fn history(&self) -> PathBuf {
        self.state().join("history.json")
    }

    /// Written when somebody has asked how the host came back after a restart.
    pub fn reboot(&self) -> PathBuf {
        self.state().join("reboot")
    }

    /// What programs said of their version.
    pub(crate) fn versions(&self) -> PathBuf {
        self.state().join("versions.json")
    }

    /// Held by whoever changes this host.
    pub(crate) fn apply_lock(&self) -> PathBuf {
        self.state().join("apply.lock")
    }

    /// What the user stopped or asked to restart.
    pub(crate) fn desired(&self) -> PathBuf {
        self.state().join("desired.json")
    }

    /// The API keys that the gateway knows, as hashes.
    pub fn keys(&self) -> PathBuf {
        self.state().join("gateway/keys.json")
    }

    /// What the supervisor sees.
    pub(crate) fn status(&self) -> PathBuf {
        self.state().join("status.json")
    }

    /// Held by the supervisor.
    pub(crate) fn supervisor_lock(&self) -> PathBuf {
        self.state().join("supervisor.lock")
    }

    /// What says of running components which processes they are; nginx keeps its own there too.
    pub(crate) fn run(&self) -> PathBuf {
        self.state().join("run")
    }

    /// Held by a running component and everything that it starts.
    pub(crate) fn component_lock(&self, component: Component) -> PathBuf {
        self.run().join(format!("{component}.lock"))
    }

    /// Which process a component is.
    pub(crate) fn component_record(&self, component: Component) -> PathBuf {
        self.run().join(format!("{component}.json"))
    }

    /// What components and scheduled runs printed.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// What a component printed.
    pub(crate) fn log(&self, component: Component) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    /// What the supervisor printed.
    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.logs().join("supervisor.log")
    }

    /// What outlives every release: models, samples.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// How backups went.
    pub(crate) fn backups(&self) -> PathBuf {
        self.state().join("backup.json")
    }

    /// What node_exporter reads beside what it measures itself.
    pub fn textfile(&self) -> PathBuf {
        self.data().join("textfile")
    }

    /// How the machine was set before it was tuned.
    pub fn tuned(&self) -> PathBuf {
        self.state().join("tune.json")
    }

    /// The host's own authority, for nobody else's eyes.
    pub fn authority(&self) -> PathBuf {
        self.state().join("tls")
    }

    /// What the edge shows: certificate and key.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.authority().join("edge")
    }

    pub(crate) fn jobs(&self) -> PathBuf {
        self.state().join("jobs")
    }

    /// Values that only their owner can read.
    pub fn secrets(&self) -> PathBuf {
        self.state().join("secrets")
    }

    /// What digests of secrets are made with.
    pub fn secret_key(&self) -> PathBuf {
        self.state().join("secret.key")
    }

    /// Everything about one job.
    pub(crate) fn job(&self, id: &str) -> PathBuf {
        self.jobs().join(id)
    }

    /// The folders that must exist before anything else.
    pub(crate) fn skeleton(&self) -> [PathBuf; 9] {
        let (state, textfile) = (self.state(), self.textfile());
        let (run, gateway) = (self.run(), state.join("gateway"));
        [self.bin(), self.releases(), state, run, gateway, self.logs(), self.data(), textfile, self.certificate()]
    }
}
