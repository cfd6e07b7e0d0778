//! What a host is and has: facts, without judgement.
//!
//! Invariant: everything the planner may base a decision on is in here, and nothing else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    backup::Backups,
    component::Component,
    machine::Machine,
    process::Identity,
    release::{Contents, Release, ReleaseId},
};

/// What the planner wants to know beyond what every observation tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Is this port free, and if not, which one is? 0 asks for any.
    pub ports: BTreeMap<Component, u16>,
    /// Where are these programs? Each list holds the names that one program goes by.
    pub programs: BTreeSet<Vec<String>>,
    /// Which of them are to tell their version?
    #[serde(default)]
    pub versions: BTreeSet<String>,
    /// Whether the current release's files are to be sent along, for a diff.
    pub contents: bool,
    /// Ports that are to be had as they are, or not at all.
    pub fixed_ports: BTreeSet<u16>,
    /// The images of a stack in containers; `None`: Docker is not needed.
    pub images: Option<BTreeSet<String>>,
    /// The program whose image is to be looked for, where the stack makes one of it.
    pub own_image: Option<String>,
    /// Whether the components may be programs of the host's own: then what [`Native`] tells is wanted. Where Docker is asked
    /// about as well, a Mac alone tells it.
    #[serde(default)]
    pub native: bool,
    /// A certificate and its key that were got elsewhere, if the edge is to show them.
    #[serde(default)]
    pub certificate_files: Option<[PathBuf; 2]>,
    /// What is the machine? Asked with the folder of the models, which may begin with `~`.
    #[serde(default)]
    pub facts: Option<PathBuf>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// `uname -s`: `Linux`, `Darwin`.
    pub system: String,
    /// `uname -m`: `x86_64`, `arm64`.
    pub machine: String,
    /// What time it is there.
    pub clock: DateTime<Utc>,
    /// The address at which whoever asks has reached it; `None` without a connection, and where the address is good for
    /// one link only.
    pub reached_at: Option<IpAddr>,
    /// The root, absolute.
    pub root: PathBuf,
    /// Who we are there.
    pub account: Account,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Identity of the program at the root's stable path.
    pub program: Option<String>,
    /// The release that is to run.
    pub current: Option<ReleaseId>,
    /// All releases on the host whose manifest can be read.
    pub releases: Vec<Release>,
    /// Paths below the root that are no part of a release or program: what something that was cut short has left.
    pub leftovers: Vec<String>,
    /// Files of the current release that are not as its manifest says.
    pub damaged: Vec<String>,
    /// Releases that passed their gate, the newest last.
    pub history: Vec<ReleaseId>,
    /// An apply that began and did not end.
    pub interrupted: Option<Interrupted>,
    /// The supervisor, if one runs.
    pub supervisor: Option<Supervisor>,
    /// What was stopped or asked to restart by hand.
    pub desired: Desired,
    /// The components that have a process, or had one when the supervisor last looked.
    pub components: BTreeMap<Component, Running>,
    /// How backups went.
    pub backups: Backups,
    /// Answers by the component that asked.
    pub ports: BTreeMap<Component, PortFact>,
    /// Answers by the program's first name; `None`: not found.
    pub programs: BTreeMap<String, Option<PathBuf>>,
    /// Answers by the program's first name, as `2.42.0`.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// Of the ports that are to be had as they are: who has those that cannot be had.
    pub taken: BTreeMap<u16, String>,
    /// Docker, if it was asked about or the current release needs it.
    pub docker: Option<Docker>,
    /// What matters where components are programs of the host's own, if it was asked about.
    #[serde(default)]
    pub native: Option<Native>,
    /// The secrets that the host keeps: by name, a digest of each under a key that never leaves it.
    pub secrets: BTreeMap<String, String>,
    /// The certificate that the edge has.
    #[serde(default)]
    pub certificate: Option<Certificate>,
    /// What the files that were asked about hold, by digest; `None`: they cannot be read.
    #[serde(default)]
    pub offered: Option<String>,
    /// The current release's files, if asked for.
    pub contents: Contents,
    /// When the machine was started.
    #[serde(default)]
    pub booted: Option<DateTime<Utc>>,
    /// Whether that was after the current release came to be, and nobody has asked since how it came back.
    #[serde(default)]
    pub restarted: bool,
    /// The machine, if asked for.
    #[serde(default)]
    pub facts: Option<Machine>,
}

impl Observed {
    /// The manifest of the release that is to run.
    pub fn current_release(&self) -> Option<&Release> {
        self.release(self.current.as_ref()?)
    }

    /// The manifest of a release on this host.
    pub fn release(&self, id: &ReleaseId) -> Option<&Release> {
        self.releases.iter().find(|release| release.id == *id)
    }

    /// The release to go back to when `to` turns out sick.
    pub fn last_good_before(&self, to: &ReleaseId) -> Option<&ReleaseId> {
        self.history.iter().rev().find(|id| *id != to && self.release(id).is_some())
    }
}

/// The certificate that the edge shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Of the certificate and its key.
    pub digest: String,
    /// What it was made for; none if it was got elsewhere.
    pub names: Vec<String>,
    /// When it ends, where that is known.
    pub expires: Option<DateTime<Utc>>,
    /// Whether the host's own authority made it.
    pub internal: bool,
    /// That authority, by its certificate's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// A user of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// User and group, as `1000:1000`.
    pub ids: String,
    /// Where `~` is.
    pub home: PathBuf,
}

impl Account {
    /// Whether it may do everything.
    pub fn is_root(&self) -> bool {
        self.ids.starts_with("0:")
    }
}

/// What a host has of Docker, and what Docker has of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Docker {
    /// Whether it can be used.
    pub engine: Engine,
    /// Ids by reference, of those images that were asked about and are there.
    pub images: BTreeMap<String, String>,
    /// Containers of this stack that are no component's: what a recreation that was cut off has left.
    pub remnants: Vec<String>,
    /// Whether containers see other files than the current release has.
    pub misplaced: bool,
}

/// Whether Docker can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// There is no `docker` program.
    Absent,
    /// It is there, and the engine does not answer: in Docker's words.
    Silent(String),
    /// It answers.
    Answers {
        /// The engine's version, as in `20.10.24`; empty where it was not asked, since a stack runs on it.
        version: String,
        /// The version of Compose, if there is a second one.
        compose: Option<String>,
    },
}

/// What a host has for components that are programs of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Native {
    /// What runs things from the machine's start on; `None`: nothing that we know.
    pub init: Option<Init>,
    /// The name of the user that we are.
    pub user: String,
    /// The service that has our supervisor run, if it is known there.
    pub service: Option<SystemService>,
    /// Releases of others' programs that are there, by folder, and what a download that was cut off has left.
    #[serde(default)]
    pub programs: BTreeSet<String>,
    /// Folders that hold models, of those that engines use by default.
    pub stores: BTreeSet<PathBuf>,
    /// What starts an engine of its own.
    pub rivals: BTreeSet<PathBuf>,
    /// macOS' application firewall, where it is on.
    pub firewall: Option<Firewall>,
}

/// What runs things from the machine's start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// macOS'.
    Launchd,
    /// That of most Linux systems, where it is process 1.
    Systemd,
}

/// A service as its manager knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemService {
    /// The text of its definition.
    pub definition: String,
    /// Whether it runs now.
    pub runs: bool,
}

/// What macOS' application firewall, which is on, does about nginx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// The firewall's own tool.
    pub tool: PathBuf,
    /// nginx, where its links lead to.
    pub nginx: PathBuf,
    /// Whether connections to that are let in.
    pub admits: bool,
}

/// An apply that began and did not end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// When it began.
    pub began: DateTime<Utc>,
    /// The release it was going to.
    pub to: ReleaseId,
    /// The last step that it is known to have begun.
    pub step: Option<String>,
}

/// The supervisor that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervisor {
    /// Its process.
    pub identity: Identity,
    /// Identity of the program it runs.
    pub program: String,
}

/// What a person asked of the supervisor beyond the release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Grows with every change, so that one can wait until the supervisor has seen it.
    pub revision: u64,
    /// Nothing is to run, the supervisor neither.
    pub halted: bool,
    /// Components that are not to run.
    pub stopped: BTreeSet<Component>,
    /// How often each component was asked to restart.
    pub restarts: BTreeMap<Component, u64>,
}

/// What a component is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs and answers.
    Healthy,
    /// It runs, or waits for what it needs, and does not answer yet.
    #[default]
    Starting,
    /// It does not answer any more, or cannot stay up.
    Unhealthy,
    /// It does not run, and is not meant to.
    Stopped,
    /// This release does without it.
    Absent,
}

/// A component as the supervisor sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What it is doing.
    pub state: State,
    /// Its process, where the supervisor keeps it.
    pub identity: Option<Identity>,
    /// Its container, where Docker does, as long as that runs.
    pub container: Option<String>,
    /// The image that its container was made of, whether it runs or not.
    pub image: Option<String>,
    /// [`Release::fingerprint`] of what was started, or is tried to be.
    pub fingerprint: String,
    /// [`Release::config_fingerprint`] of what it last read, or was to read.
    pub config: String,
    /// How often it was asked to restart when it was started.
    pub asked_restarts: u64,
    /// How often it ended by itself since it was last changed on purpose.
    pub failures: u32,
    /// Since when it is in this state.
    pub since: DateTime<Utc>,
    /// What went wrong, or what it waits for.
    pub detail: Option<String>,
}

impl Running {
    /// Whether there is something that runs, in whatever state.
    pub fn runs(&self) -> bool {
        self.identity.is_some() || self.container.is_some()
    }
}

/// Whether a port can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFact {
    /// The port that was asked about.
    pub wanted: u16,
    /// Who listens there, unless it is free or ours.
    pub holder: Option<String>,
    /// The wanted port if it can be had, else the next one that can.
    pub free: u16,
}
