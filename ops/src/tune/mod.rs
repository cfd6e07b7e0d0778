//! What a machine is set to so that it serves: no sleep, and a GPU that may hold the model.
//!
//! To look is apart from to decide, and what is decided is data: changes for a person, commands for root. What was before is
//! written down by the first of the commands, so that `--revert` knows it also where they were run by hand. Invariant: what
//! is as it should be is no change, and what the system does not tell is not touched.

mod linux;
pub(crate) mod mac;
mod propose;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use stack::{
    failure::{Class, Failure},
    layout::Root,
    observed::Observed,
    process::{self, Command},
    settings::Settings,
};

use crate::model::{
    engine::Engine,
    fit::{self, Host, Serving},
    subject::{self, Subject},
};

pub use self::propose::Proposal;

/// What is to be done to a machine; the shape of `tune --json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// What will be otherwise.
    pub changes: Vec<Change>,
    /// What the settings could say, by the memory that there is.
    pub proposals: Vec<Proposal>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What root has to do for the changes, in order. Each may be run again.
    pub commands: Vec<Command>,
    /// Whether the engine sees it only when it starts anew.
    pub restarts_engine: bool,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is about.
    pub what: String,
    /// How it is.
    pub before: String,
    /// How it will be.
    pub after: String,
    /// What for.
    pub why: String,
}

impl Tuning {
    /// What raises the GPU's limit, without which the model does not fit.
    pub fn raise(&self) -> Option<&Change> {
        self.changes.iter().find(|change| change.what == mac::LIMIT && change.after != mac::OWN)
    }
}

impl Change {
    fn new(what: impl Into<String>, before: impl ToString, after: impl ToString, why: impl Into<String>) -> Self {
        Change { what: what.into(), before: before.to_string(), after: after.to_string(), why: why.into() }
    }
}

/// How a machine is set, as far as it is tuned; `state/tune.json` is the first one there was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Seen {
    /// By source of power, as pmset calls it; settings by name. Macs.
    power: BTreeMap<String, BTreeMap<String, u32>>,
    /// `iogpu.wired_limit_mb`; 0: the system's own policy. Macs.
    gpu_limit_mib: Option<u64>,
    /// The same, as our daemon sets it at each start. Macs.
    daemon_limit_mib: Option<u64>,
    /// Whether systemd lets the machine sleep. Linux.
    sleeps: Option<bool>,
    /// How readily the kernel swaps. Linux.
    swappiness: Option<u32>,
}

/// What a model needs of a machine.
struct Need {
    subject: Subject,
    host: Host,
    serving: Serving,
    /// Weights, cache and buffers.
    bytes: Option<u64>,
}

impl Need {
    fn of(observed: &Observed, settings: &Settings) -> Result<Need, Failure> {
        let subject = subject::find(&settings.models.default, Engine::of(observed).ok().as_ref())?;
        let host = subject::observed_host("", observed, settings)?;
        let serving = Serving::of(&settings.engine, subject.context);
        let mut need = Need { subject, host, serving, bytes: None };
        need.bytes = need.at(&serving);
        Ok(need)
    }

    /// What it takes to serve it so.
    fn at(&self, serving: &Serving) -> Option<u64> {
        fit::fit(self.subject.attention.as_ref(), &self.subject.sizes, &self.host, serving).first()?.total_bytes
    }
}

/// What is to be done to the machine under a stack. `observed` has its facts.
///
/// # Errors
/// Of class `Refused`: the model does not fit, whatever the limit; the hint says what would.
pub fn tune(observed: &Observed, settings: &Settings) -> Result<Tuning, Failure> {
    let need = Need::of(observed, settings)?;
    let seen = look(observed);
    let mut tuning = match observed.system.as_str() {
        "Darwin" => mac::tune(&seen, before(&record(observed))?.as_ref(), observed, &need)?,
        _ => linux::tune(&seen),
    };
    tuning.proposals = propose::propose(&need, tuning_limit(&seen, &tuning, &need), &settings.engine);
    let record = record(observed);
    if !tuning.changes.is_empty() && !record.exists() {
        let text = serde_json::to_string(&seen).unwrap_or_default();
        tuning.commands.insert(0, write(&record, &text));
    }
    Ok(tuning)
}

/// What the GPU may hold once it is tuned.
fn tuning_limit(seen: &Seen, tuning: &Tuning, need: &Need) -> Option<u64> {
    let raised = tuning.changes.iter().any(|change| change.what == mac::LIMIT);
    match (raised, need.bytes) {
        (true, Some(bytes)) => Some(mac::with_room(bytes)),
        _ => seen.gpu_limit_mib.filter(|mib| *mib > 0).map(|mib| mib << 20).or(need.host.gpu_limit_bytes),
    }
}

/// What brings the machine back to how it was before the first [`tune`].
///
/// # Errors
/// Of class `Nothing`: it was never tuned.
pub fn revert(observed: &Observed) -> Result<Tuning, Failure> {
    let path = record(observed);
    let nothing = || Failure::new(Class::Nothing, "this machine was not tuned: there is nothing to revert");
    let before = before(&path)?.ok_or_else(nothing)?;
    let seen = look(observed);
    let mut tuning = match observed.system.as_str() {
        "Darwin" => mac::revert(&seen, &before),
        _ => linux::revert(&seen, &before),
    };
    tuning.commands.push(command("rm", &["-f", &path.display().to_string()]));
    Ok(tuning)
}

/// How the machine was before it was first tuned.
fn before(path: &Path) -> Result<Option<Seen>, Failure> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::new(Class::Failed, format!("{} cannot be understood", path.display())).because(&error)
    })
}

fn look(observed: &Observed) -> Seen {
    match observed.system.as_str() {
        "Darwin" => mac::look(observed),
        _ => linux::look(observed),
    }
}

/// Where it is written down how the machine was.
fn record(observed: &Observed) -> PathBuf {
    Root::new(observed.root.clone()).tuned()
}

/// A command by its name, wherever the host has it.
fn command(program: &str, args: &[&str]) -> Command {
    let program = process::find(program).unwrap_or_else(|| PathBuf::from(program));
    Command { program, args: args.iter().map(|arg| (*arg).to_owned()).collect(), env: [].into() }
}

/// Writes a file. A person who runs this by hand needs nothing but what it shows.
fn write(path: &Path, text: &str) -> Command {
    command("sh", &["-c", "printf '%s\\n' \"$2\" > \"$1\"", "sh", &path.display().to_string(), text])
}

/// What a system's tool says, whatever it ends with.
fn said(program: &str, args: &[&str]) -> Option<String> {
    process::find(program)?;
    Some(process::ask(&command(program, args), "").ok()?.stdout)
}
