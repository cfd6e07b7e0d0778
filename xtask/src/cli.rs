//! The command line, all of it: every verb, every flag, every word of help.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use stack::{
    component::{Component, Runtime},
    settings::value,
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
    /// Save the stack, and bring it back
    Backup(Backup),
    /// Stop the stack and remove it from the host; data stays unless asked
    Uninstall(Uninstall),
    /// Keep values on the host that nobody else is to see
    #[command(subcommand)]
    Secret(Secret),
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
    /// engine, gateway, edge, prometheus, alertmanager, grafana, node-exporter [default: all]
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
    /// engine, gateway, edge, prometheus, alertmanager, grafana, node-exporter [default: the whole stack]
    #[arg(value_name = "COMPONENT")]
    pub(crate) components: Vec<Component>,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
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
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Backup {
    #[command(subcommand)]
    pub(crate) verb: Option<BackupVerb>,
    /// The folder that holds the snapshots [default: backup.repository in stack.toml]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) repository: Option<PathBuf>,
    /// Save this folder instead of the stack
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "repository")]
    pub(crate) source_dir: Option<PathBuf>,
    /// Show what would be saved and pruned, and whether it could be; reads no contents, writes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only this source: models, prometheus, grafana, agents, settings, secrets, or a folder of backup.folders
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// What you call the snapshot
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Write to a network file system, which may lose what it said it has
    #[arg(long)]
    pub(crate) network: bool,
    /// Begin a repository anew where the last one has gone for good
    #[arg(long)]
    pub(crate) new: bool,
    /// {"snapshot","files","bytes","bytes_read","bytes_written","seconds","incomplete":[{"source","path","reason"}]}; with
    /// --dry-run {"repository","exists","free_bytes","sources":[{"name","files","bytes","new_files","new_bytes"}],
    /// "incomplete","prune":{"keep","forget","files","bytes"}?}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupVerb {
    /// Show the snapshots, the oldest first
    List {
        /// [{"id","time","host","tag"?,"files","bytes","incomplete","verified"}]
        #[arg(long)]
        json: bool,
    },
    /// Show a snapshot: its sources, what it lacks, what is in it
    Show {
        /// How its id begins, or latest
        id: String,
        /// Every file, too
        #[arg(long)]
        files: bool,
        /// {"id","time","host","tag"?,"sources":{NAME:{"tree","files","bytes"}},"incomplete"?,"entries"?:{NAME:[…]}}
        #[arg(long)]
        json: bool,
    },
    /// Show what differs between two snapshots
    Diff {
        /// The one before
        first: String,
        /// The one after
        second: String,
        /// [{"source","path","change":"added|removed|content|attributes","size"}]
        #[arg(long)]
        json: bool,
    },
    /// Read the repository; what is damaged is named, and saved anew by the next backup
    Verify {
        /// How much of the data: all, a part such as 2/7, a percentage such as 5%, or 0
        #[arg(long, value_name = "HOW_MUCH", default_value = "all", value_parser = ops::backup::parse_reading)]
        read: ::backup::Reading,
        /// Stop reading after so long, as in 30m
        #[arg(long, value_name = "TIME", value_parser = value::period)]
        max_duration: Option<std::time::Duration>,
        /// {"snapshots","units","bytes_read","finished","damage":[{"path","object"?,"ranges","what","snapshots"}]}
        #[arg(long)]
        json: bool,
    },
    /// Bring a snapshot back, to a folder or in place
    Restore {
        /// How its id begins, or latest
        id: String,
        /// Only this source of it
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// Only what matches: `*` within a part of a path, `**` over parts, without a `/` at any depth
        #[arg(long, value_name = "GLOB")]
        path: Option<String>,
        /// Below this folder, each source in one of its own; without it, in place
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        to: Option<PathBuf>,
        /// Show what would be written, and stop
        #[arg(long)]
        dry_run: bool,
        /// In place: write over what is there
        #[arg(long, short)]
        yes: bool,
        /// {"snapshot","files","bytes","unchanged","seconds","failed":[{"source","path","reason"}]}
        #[arg(long)]
        json: bool,
    },
    /// Restore a snapshot to a temporary place, read it all back, and remember how that went
    Drill {
        /// How its id begins, or latest
        #[arg(default_value = "latest")]
        id: String,
        /// Only this source of it
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// As restore does
        #[arg(long)]
        json: bool,
    },
    /// Forget the snapshots that the policy does not keep, and what only they hold
    Prune {
        /// Show what would go, and stop
        #[arg(long)]
        dry_run: bool,
        /// These go, too, whatever the policy says, and even if they cannot be read
        #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
        forget: Vec<String>,
        /// {"keep":["ID"],"forget":["ID"],"files","bytes"}
        #[arg(long)]
        json: bool,
    },
    /// Write one model to a file, for a machine without internet
    Export {
        /// As Ollama names it
        #[arg(value_parser = value::model)]
        model: String,
        /// A file that is not there yet
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Have the host back up each day, prune, and hold a drill each Sunday
    Schedule {
        /// On the host's clock [default: backup.at in stack.toml]
        #[arg(long, value_name = "HH:MM", value_parser = stack::settings::time_of_day)]
        at: Option<stack::settings::TimeOfDay>,
        /// No longer
        #[arg(long, conflicts_with = "at")]
        remove: bool,
        /// {"by":"launchd|systemd|cron","next","next_drill"?,"last"?}
        #[arg(long)]
        json: bool,
    },
    /// Take models from such a file, every digest checked
    Import {
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// Remove the data too: models and samples
    #[arg(long)]
    pub(crate) data: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
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

/// These arguments are written by `stack`, never by people.
#[derive(Debug, Subcommand)]
pub(crate) enum HostVerb {
    /// Keep the current release running
    Supervise {
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        expected: Option<String>,
    },
    /// Answer a client over a connection
    Serve {
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        nonce: String,
    },
    /// Carry out a job
    Job {
        id: String,
        #[arg(long)]
        root: PathBuf,
    },
    /// Become a component
    Run {
        component: Component,
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        release: String,
        #[arg(long)]
        asked_restarts: u64,
    },
    /// The stand-in engine; Ollama's own variables say where and how it serves
    Engine {
        #[arg(long, env = "OLLAMA_HOST")]
        listen: std::net::SocketAddr,
        #[arg(long, env = "OLLAMA_MODELS")]
        models: PathBuf,
        #[arg(long, env = "OLLAMA_KEEP_ALIVE", value_parser = value::keep_alive)]
        keep_alive: KeepAlive,
        #[arg(long, env = "OLLAMA_NUM_PARALLEL")]
        num_parallel: u32,
        #[arg(long, env = "OLLAMA_MAX_LOADED_MODELS")]
        max_loaded_models: u32,
        #[arg(long, env = "OLLAMA_CONTEXT_LENGTH")]
        context_length: u32,
        #[arg(long, env = "OLLAMA_MAX_QUEUE")]
        max_queue: u32,
        #[arg(long, default_value_t = 0)]
        memory_bytes: u64,
        #[arg(long)]
        seed: Vec<String>,
        #[arg(long)]
        time_to_first_token_ms: u64,
        #[arg(long)]
        time_per_output_token_ms: u64,
        #[arg(long)]
        load_ms: u64,
        #[arg(long)]
        scenarios: Option<PathBuf>,
    },
    /// The gateway
    Gateway {
        #[arg(long)]
        listen: std::net::SocketAddr,
        #[arg(long)]
        upstream: std::net::SocketAddr,
    },
}

/// An alias, because clap reads a plain `Option` as "may be missing".
pub(crate) type KeepAlive = std::option::Option<std::time::Duration>;

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
