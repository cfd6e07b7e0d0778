//! The command line, all of it: every verb, every flag, every word of help. Verbs that have verbs of their own are a file each.

mod agent;
mod backup;
mod bench;
mod host;
mod model;
mod monitor;

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use stack::{
    component::{Component, Runtime},
    settings::value,
};

pub(crate) use self::{
    agent::{Agent, AgentTest, Configure, Side},
    backup::{Backup, BackupVerb, RootPart},
    bench::{BaselineVerb, Bench, BenchCompare, BenchLoad, BenchVerb},
    host::HostVerb,
    model::{Model, ModelConvert, ModelFit, ModelRun, ModelUpgrade},
    monitor::{Monitor, Perf},
};

/// The same for every verb.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    usage or settings
  3    host unreachable
  4    failed, rolled back
  5    backup saved, but a source was incomplete
  6    failed, rollback failed too
  7    refused: needs root, or the host changed since the plan
  10   nothing to act on
  11   locked by another run
  130  interrupted";

/// Run a private coding LLM on your own hardware.
///
/// Without a stack.toml every verb acts on the embedded sandbox: the whole stack on this machine, with a stand-in engine
/// that answers Ollama's API with synthetic text.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Settings file [default: stack.toml beside Cargo.toml]
    #[arg(long, global = true, value_name = "FILE", env = "STACK_SETTINGS", hide_env_values = true)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) settings: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a first stack.toml
    Init(Init),
    /// Judge the machine before anything is put on it
    Preflight(Preflight),
    /// Bring the host to what stack.toml declares
    Deploy(Deploy),
    /// Show what runs, where, and how it is
    Status(Status),
    /// Show what components printed
    Logs(Logs),
    /// Start components, or the whole stack
    Start(Named),
    /// Stop components, or the whole stack, until they are started again
    Stop(Named),
    /// Restart components, or the whole stack
    Restart(Named),
    /// Go back to the release that was healthy before this one
    Rollback(Rollback),
    /// Prove that the stack works: every component, a model's answer, metrics
    Verify(Verify),
    /// Find what is wrong, why, and what mends it
    Doctor(Doctor),
    /// Show how well the stack is closed, or attack it from here
    Harden(Harden),
    /// Set the machine so that it serves: no sleep, and a GPU that may hold the model
    Tune(Tune),
    /// Look at the stack over time: what is scraped, what fires, who is told
    #[command(subcommand)]
    Monitor(Monitor),
    /// Show what each component takes of the machine, and how requests go
    Perf(Perf),
    /// Measure how fast models answer
    Bench(Box<Bench>),
    /// Save the stack, and bring it back
    Backup(Backup),
    /// Stop the stack and remove it from the host; data stays unless asked
    Uninstall(Uninstall),
    /// Know, bring, change and remove models
    #[command(subcommand)]
    Model(Model),
    /// Keep values on the host that nobody else is to see
    #[command(subcommand)]
    Secret(Secret),
    /// Make API keys for clients, list and revoke them
    #[command(subcommand)]
    Key(Key),
    /// Install coding agents, have them use this stack, and prove that they edit code
    #[command(subcommand)]
    Agent(Agent),
    /// Follow, list or cancel long work on the host
    #[command(subcommand)]
    Job(Job),
    /// Print a completion script for a shell
    Completions(Completions),
    /// What runs on the host: not for people
    #[command(subcommand, hide = true)]
    Host(HostVerb),
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The host: a name that ssh knows, or an address [default: this machine]
    #[arg(value_parser = value::address)]
    pub(crate) address: Option<String>,
    /// The user to log in as
    #[arg(long, value_parser = value::user)]
    pub(crate) user: Option<String>,
    /// Who starts the components: native, docker, sandbox
    #[arg(long, value_parser = runtime)]
    pub(crate) runtime: Option<Runtime>,
    /// Take over the settings of the old guide's .env
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from_env: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Preflight {
    /// {"checks":[{"name","result":"pass|warn|fail","detail","fix"?}]}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Show the plan and what would change in files, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before components that serve are restarted
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Ask for your password on the host where something needs root and sudo wants one; or pipe it in
    #[arg(long)]
    pub(crate) ask_sudo: bool,
    /// One JSON event a line; the last is {"outcome","changed","release","seconds"}, where outcome is done, rolled_back,
    /// rollback_failed, refused, or failed with nothing changed
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// {"host","runtime","release","components":[{"name","state","url"?,"detail"?}],
    /// "backup":{"began","seconds","result":"done|incomplete|failed","snapshot"?,"bytes","bytes_written","detail"?}?}
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again whenever it changes, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Show the host's secrets instead: {"NAME":"VALUE"} with --json
    #[arg(long, conflicts_with = "watch")]
    pub(crate) secrets: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// engine, gateway, edge, prometheus, alertmanager, grafana, node-exporter, macmon [default: all]
    #[arg(value_name = "COMPONENT")]
    pub(crate) components: Vec<Component>,
    /// Go on with what is printed from now on, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Not older than this: 10m, 2h, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// engine, gateway, edge, prometheus, alertmanager, grafana, node-exporter, macmon [default: the whole stack]
    #[arg(value_name = "COMPONENT")]
    pub(crate) components: Vec<Component>,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Ask for your password on the host where something needs root and sudo wants one; or pipe it in
    #[arg(long)]
    pub(crate) ask_sudo: bool,
    /// As deploy does
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// {"checks":[{"name","result":"pass|fail|skip","detail","seconds"}]}
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the checks as JUnit XML, for CI
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) junit: Option<PathBuf>,
    /// Ask instead how the host came back after its last start: the stack, the GPU limit, schedules, sleep
    #[arg(long)]
    pub(crate) reboot: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Restart services and write our own files anew where that mends it; never touches data
    #[arg(long)]
    pub(crate) fix: bool,
    /// Write a page for a colleague: versions, facts, settings, findings, no secrets; - is stdout
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "json")]
    pub(crate) report: Option<PathBuf>,
    /// On a real Mac: run what could not be tried without one, and print what to report
    #[arg(long, conflicts_with_all = ["fix", "report", "json"])]
    pub(crate) self_check: bool,
    /// {"findings":[{"id","symptom","evidence","why","fix","repair"?}],"fixed":["WHAT"]}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Harden {
    /// Try it instead, from here: ports, the engine, default passwords, readable secrets, admin APIs
    #[arg(long)]
    pub(crate) audit: bool,
    /// Print the certificate of the host's own authority, for clients to trust
    #[arg(long, conflicts_with_all = ["audit", "json"])]
    pub(crate) ca: bool,
    /// {"measures":[{"what","hardened","detail","setting"?}]}, and with --audit
    /// {"findings":[{"id","symptom","evidence","why","fix"}]}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tune {
    /// For another model than the default
    #[arg(long, value_name = "NAME", value_parser = value::model, conflicts_with = "revert")]
    pub(crate) model: Option<String>,
    /// Show what would change, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Set the machine back to how it was before it was tuned
    #[arg(long)]
    pub(crate) revert: bool,
    /// Ask for your password on the host if sudo wants one; or pipe it in
    #[arg(long)]
    pub(crate) ask_sudo: bool,
    /// {"changes":[{"what","before","after","why"}],"proposals":[{"key","now","proposed","why"}],"notes":["TEXT"],
    /// "commands":[{"program","args"}],"restarts_engine":false}, before it is done
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// Remove the data too: models and samples
    #[arg(long)]
    pub(crate) data: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Ask for your password on the host, where sudo wants one
    #[arg(long)]
    pub(crate) ask_sudo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// bash, elvish, fish, powershell, zsh
    #[arg(hide_possible_values = true)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Keep a value, typed when asked or piped in
    Set {
        /// Lower-case letters, digits, - and _
        #[arg(value_parser = stack::secret::name)]
        name: String,
    },
    /// Show the names; `status --secrets` shows the values
    List {
        /// ["NAME"]
        #[arg(long)]
        json: bool,
    },
    /// Forget a value
    Remove {
        /// As `secret list` shows it
        #[arg(value_parser = stack::secret::name)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print it, this once
    Add {
        /// Who it is for: lower-case letters, digits, - and _
        #[arg(value_parser = stack::secret::name)]
        name: String,
    },
    /// Show whose keys there are
    List {
        /// [{"name","sha256","created"}]
        #[arg(long)]
        json: bool,
    },
    /// Refuse a key from now on
    Revoke {
        /// As `key list` shows it
        #[arg(value_parser = stack::secret::name)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Show the jobs that the host remembers
    List {
        /// [{"id","state":"running|done|failed|killed","detail"?}]
        #[arg(long)]
        json: bool,
    },
    /// Show what a job did and does, until it ends
    Attach {
        /// As `job list` shows it
        id: String,
        /// As deploy does
        #[arg(long)]
        json: bool,
    },
    /// Ask a job to stop and put back what it changed
    Cancel {
        /// As `job list` shows it
        id: String,
    },
}

fn runtime(name: &str) -> Result<Runtime, String> {
    match name {
        "native" => Ok(Runtime::Native),
        "docker" => Ok(Runtime::Docker),
        "sandbox" => Ok(Runtime::Sandbox),
        _ => Err("there are native, docker, sandbox".to_owned()),
    }
}

/// The whole command line, with the exit codes in every help.
pub(crate) fn command() -> clap::Command {
    Cli::command()
        .after_help(EXIT_CODES)
        .mut_subcommands(|verb| verb.after_help(EXIT_CODES).mut_subcommands(|verb| verb.after_help(EXIT_CODES)))
}

/// Parses this process's arguments. Ends the process with help or a usage error.
pub(crate) fn parse() -> Cli {
    let matches = command().get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}
