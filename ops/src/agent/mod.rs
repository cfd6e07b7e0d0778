//! Coding agents: which there are, what each needs to work with this stack, and the proof that it does.
//!
//! An agent is data, a file each: how it is installed, what goes into its own settings, how it is run without a
//! terminal. Invariant: nothing here knows an agent by name but its own file and the list below.

mod aider;
mod claude;
mod configure;
mod continue_dev;
mod cursor;
mod diagnose;
mod install;
mod judge;
pub mod merge;
mod opencode;
mod place;
mod probe;
mod qwen;
mod task;
mod test;

use std::{collections::BTreeMap, time::Duration};

use stack::failure::{Class, Failure};

use self::merge::{Edit, Format};
pub use self::{
    configure::{
        Asked, Change, Configured, configure, configured, plan_configure, plan_unconfigure, refresh, unconfigure,
    },
    diagnose::Diagnosis,
    install::{Installed, Version, install, installed},
    place::Place,
    probe::{Probe, probe},
    task::Task,
    test::{Options, Outcome, Tested, test, tested},
};
pub use stack::secret::Secret;

/// One coding agent.
#[derive(Debug)]
pub struct Agent {
    /// As it is typed.
    pub name: &'static str,
    /// As it calls itself.
    pub title: &'static str,
    /// What people like it for.
    pub good_at: &'static str,
    /// What they do not.
    pub bad_at: &'static str,
    /// How it gets onto a machine.
    pub(crate) package: Package,
    /// What goes into its settings; `None`: they cannot be made to work, and why.
    pub(crate) settings: Result<fn(&Target) -> Vec<File>, &'static str>,
    /// How it is asked for one thing; `None`: it has no life outside of an editor.
    pub(crate) run: Option<fn(&Target, &Ask<'_>) -> Run>,
    /// What its own instructions take, in tokens: below this nothing useful fits.
    pub(crate) least_context: u32,
}

impl Agent {
    /// Why it cannot work with this stack, if it cannot.
    pub fn refusal(&self) -> Option<&'static str> {
        self.settings.as_ref().err().copied()
    }

    /// Whether it can be asked for something without a person at an editor.
    pub fn can_be_tested(&self) -> bool {
        self.run.is_some()
    }

    /// Where its user gets it, if nobody else can install it.
    pub fn by_its_user(&self) -> Option<&'static str> {
        match self.package {
            Package::User { hint } => Some(hint),
            _ => None,
        }
    }
}

/// How an agent gets onto a machine.
#[derive(Debug)]
pub(crate) enum Package {
    /// From PyPI, for a Python that it supports: at least the first, below the second.
    Python { package: &'static str, version: &'static str, program: &'static str, python: [(u32, u32); 2] },
    /// From npm, for this Node or a later one.
    Node { package: &'static str, version: &'static str, program: &'static str, node: u32 },
    /// By its user; where to look.
    User { hint: &'static str },
}

impl Package {
    fn program(&self) -> Option<&'static str> {
        match self {
            Package::Python { program, .. } | Package::Node { program, .. } => Some(program),
            Package::User { .. } => None,
        }
    }
}

/// What an agent is to work with.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port`, without a slash at the end.
    pub endpoint: String,
    /// As the engine calls it.
    pub model: String,
    /// Tokens of context that the engine serves.
    pub context: u32,
    /// For a gateway that wants one.
    pub key: Option<Secret>,
}

impl Target {
    /// What an agent sends where no key is needed but some text has to be.
    fn key(&self) -> &str {
        self.key.as_ref().map_or("none", Secret::reveal)
    }
}

/// One of an agent's settings files and what goes into it.
#[derive(Debug)]
pub(crate) struct File {
    /// Below the home folder.
    pub(crate) path: &'static str,
    pub(crate) format: Format,
    pub(crate) edits: Vec<Edit>,
}

/// What an agent is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) prompt: &'a str,
    /// Files that it will write, below the folder that it works in.
    pub(crate) files: &'a [&'a str],
}

/// Arguments and variables of a run without a terminal.
pub(crate) struct Run {
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Run {
    fn new(args: &[&str]) -> Run {
        Run { args: args.iter().map(|&arg| arg.to_owned()).collect(), env: BTreeMap::new() }
    }

    fn env(mut self, name: &str, value: &str) -> Run {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// All of them, the guide's own choice first.
pub const ALL: [&Agent; 6] =
    [&aider::AIDER, &opencode::OPENCODE, &qwen::QWEN, &claude::CLAUDE, &continue_dev::CONTINUE, &cursor::CURSOR];

/// The agent that is called so.
pub fn find(name: &str) -> Option<&'static Agent> {
    ALL.into_iter().find(|agent| agent.name == name)
}

/// The name that was probably meant.
pub fn like(name: &str) -> Option<&'static str> {
    let near = ALL.into_iter().map(|agent| (strsim::jaro_winkler(name, agent.name), agent.name));
    near.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Time for what is asked of a package index or an agent's `--version`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

fn failed(message: impl Into<String>) -> Failure {
    Failure::new(Class::Failed, message)
}
