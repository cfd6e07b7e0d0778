//! The command line, all of it: every verb, every flag, every word of help.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use stack::{
    component::{Component, Runtime},
    settings::{KvCacheType, value},
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

/// Measure how fast models answer: the guide's six tasks one at a time, then as many at a time as the engine has slots;
/// five minutes at most. With a load of your own, only that.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) verb: Option<BenchVerb>,
    /// Models; a base such as qwen2.5-coder is enough [default: the one that deploy pulls]
    #[arg(value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// Begin with a cold start: the model is unloaded for it
    #[arg(long)]
    pub(crate) cold: bool,
    /// Measure blocks, and compare them with those of `bench baseline set NAME`; exit 1 if something got worse
    #[arg(long, value_name = "NAME", conflicts_with = "cold")]
    pub(crate) baseline: Option<String>,
    /// Changes below this share are none
    #[arg(long, value_name = "PERCENT", default_value_t = ops::bench::compare::TOLERANCE_PERCENT, requires = "baseline")]
    pub(crate) tolerance: f64,
    /// {"schema":1,"model","engine","host","runs":[{"scenario","concurrency","requests","errors","window_s","ttft_ms":{"n",
    /// "p50","p90","p95","p99","mean"},"ttfo_ms","itl_ms","e2e_ms","queue_ms","output_tokens_per_second",
    /// "requests_per_second","goodput_per_second"?,"limit_percent"?}]}; of several models, a line each
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: BenchLoad,
}

/// Where to measure, and a load of one's own.
#[derive(Debug, Args)]
pub(crate) struct BenchLoad {
    /// Requests at a time; several numbers are a run each
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: Vec<u16>,
    /// Requests a second, whatever becomes of them
    #[arg(long, value_name = "R", value_parser = rate, conflicts_with = "concurrency")]
    pub(crate) rate: Option<f64>,
    /// How requests of a rate are spaced: constant, poisson
    #[arg(long, value_name = "HOW", default_value = "poisson", value_parser = spacing)]
    pub(crate) arrival: ops::bench::load::Spacing,
    /// For how long: 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    pub(crate) duration: Option<std::time::Duration>,
    /// How many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests: Option<u32>,
    /// What to ask: a JSON object a line, {"prompt","output_tokens"?}
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "input_tokens")]
    pub(crate) prompts: Option<PathBuf>,
    /// Ask synthetic prompts of about this many tokens, each of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) input_tokens: Option<u32>,
    /// Ask for answers of this many tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) output_tokens: Option<u32>,
    /// Count the answers that keep all of these: ttft=500ms,itl=50ms,e2e=10s
    #[arg(long, value_name = "LIMITS", value_parser = objectives)]
    pub(crate) slo: Option<ops::bench::record::Objectives>,
    /// native, or openai: engines that speak /v1/chat/completions
    #[arg(long, default_value = "native", value_parser = api)]
    pub(crate) api: ops::bench::stream::Api,
    /// Where [default: this stack's own API]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// A file that holds an API key; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
    /// Of prompts, arrivals and the model's sampler
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Requests before the first that counts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) warmup: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// Show the results that are kept
    List {
        /// [{"id","began","model","runs","answered","broken_off"?}]
        #[arg(long)]
        json: bool,
    },
    /// Show a result
    Show {
        /// As `bench list` shows it [default: the last]
        id: Option<String>,
        /// As bench does
        #[arg(long)]
        json: bool,
    },
    /// Write a result's report anew, and say where it is
    Report {
        /// As `bench list` shows it [default: the last]
        id: Option<String>,
    },
    /// Find out which of two is faster: blocks of requests to both, in turns; exit 1 if B is worse
    Compare(Box<BenchCompare>),
    /// Keep blocks to compare with later
    #[command(subcommand)]
    Baseline(BaselineVerb),
}

#[derive(Debug, Args)]
pub(crate) struct BenchCompare {
    /// What A and B are: endpoint, model
    #[arg(value_parser = ["endpoint", "model"], hide_possible_values = true)]
    pub(crate) what: String,
    /// What is there
    pub(crate) a: String,
    /// What is to be judged
    pub(crate) b: String,
    /// The model that both endpoints are asked for [default: the one that deploy pulls]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Blocks of each
    #[arg(long, value_name = "N", default_value_t = ops::bench::compare::BLOCKS)]
    pub(crate) blocks: usize,
    /// Changes below this share are none
    #[arg(long, value_name = "PERCENT", default_value_t = ops::bench::compare::TOLERANCE_PERCENT)]
    pub(crate) tolerance: f64,
    /// {"schema":1,"a","b","blocks","is_paired","tolerance_percent","findings":[{"metric","a","b","change_percent",
    /// "interval_percent","adjusted_p","verdict":"better|same|worse|undecidable","blocks_more"?}],"errors","warnings"}
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: BenchLoad,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaselineVerb {
    /// Measure blocks now, and keep them
    Set {
        /// Letters, digits, dots, - and _
        name: String,
        /// As bench takes it [default: the one that deploy pulls]
        model: Option<String>,
        /// How many
        #[arg(long, value_name = "N", default_value_t = ops::bench::compare::BLOCKS)]
        blocks: usize,
        #[command(flatten)]
        load: Box<BenchLoad>,
    },
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
pub(crate) enum Model {
    /// Tell what fits the host, before the first byte is pulled
    Fit(ModelFit),
    /// Bring a model to the host, as a job that goes on without you; what came is kept
    Pull {
        /// As Ollama names it, or hf.co/USER/REPO:QUANT
        #[arg(value_parser = value::model)]
        name: String,
        /// Although it does not fit
        #[arg(long)]
        force: bool,
    },
    /// Show the models of the host, and what of them is in memory
    List {
        /// [{"name","bytes","parameters","quantization","modified","digest","default","resident"?}]
        #[arg(long)]
        json: bool,
    },
    /// Show what a model is and how it answers
    Show {
        /// As `model list` shows it
        #[arg(value_parser = value::model)]
        name: String,
        /// What the engine's /api/show answers
        #[arg(long)]
        json: bool,
    },
    /// Remove a model from the host
    Remove {
        /// As `model list` shows it
        #[arg(value_parser = value::model)]
        name: String,
        /// Although it is the default
        #[arg(long, short)]
        yes: bool,
    },
    /// Have a model answer one prompt
    Run(ModelRun),
    /// Have a model in memory, for as long as the engine is set to keep it
    Preload {
        /// As `model list` shows it [default: models.default]
        #[arg(value_parser = value::model)]
        name: Option<String>,
    },
    /// Have a model out of memory
    Unload {
        /// As `model list` shows it [default: models.default]
        #[arg(value_parser = value::model)]
        name: Option<String>,
    },
    /// Have models in memory until they are unloaded, and show how long each took
    Warm {
        /// As `model list` shows them [default: models.default]
        #[arg(value_parser = value::model)]
        names: Vec<String>,
    },
    /// Make the models of config/models and local/models whose Modelfile or base has changed
    Apply {
        /// {"NAME":{"result":"made|unchanged|skipped","base"?}}
        #[arg(long)]
        json: bool,
    },
    /// Make a model out of published weights, or of GGUF shards, with llama.cpp's tools
    Convert(ModelConvert),
    /// Make another model the default: fit, pull, compare, switch; the old one is kept
    Upgrade(ModelUpgrade),
}

#[derive(Debug, Args)]
pub(crate) struct ModelFit {
    /// As Ollama names it, or a .gguf file of the host [default: models.default]
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Tokens a slot [default: engine.context_length]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// Slots [default: engine.num_parallel]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) parallel: Option<u32>,
    /// Type of the key/value cache: f16, q8_0, q4_0 [default: engine.kv_cache_type]
    #[arg(long, value_parser = value::kv_cache_type)]
    pub(crate) kv: Option<KvCacheType>,
    /// Of a machine that you do not have: 192G
    #[arg(long, value_parser = value::size, requires = "chip")]
    pub(crate) memory: Option<u64>,
    /// Of a machine that you do not have: "Apple M2 Ultra"; NVIDIA's memory is the card's
    #[arg(long, requires = "memory")]
    pub(crate) chip: Option<String>,
    /// {"model","host":{…},"context","rows":[{"quantization","bytes","kv_bytes","total_bytes",
    /// "verdict":"fits|fits_with_limit|fits_with_context|does_not_fit|unknown","needs"?,"tokens_per_second_limit"?}]}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelRun {
    /// What to answer
    pub(crate) prompt: String,
    /// As `model list` shows it [default: models.default]
    #[arg(long, value_parser = value::model)]
    pub(crate) model: Option<String>,
    /// Tokens at most
    #[arg(long, value_name = "TOKENS")]
    pub(crate) limit: Option<u32>,
    /// {"model","text","load_seconds","tokens_per_second"?}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelConvert {
    /// USER/REPO of the hub, hf.co/USER/REPO with ready GGUF files, or a folder of the host
    pub(crate) source: String,
    /// As llama.cpp spells it: Q5_K_M
    #[arg(long)]
    pub(crate) quant: String,
    /// What the model is to be called: qwen3:235b-q5_k_m
    #[arg(long, value_parser = value::model)]
    pub(crate) name: String,
    /// What the model is told before every conversation
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Show the plan with the bytes of each stage, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelUpgrade {
    /// The new default [default: a newer version of the one there is]
    #[arg(value_parser = value::model, conflicts_with_all = ["revert", "prune"])]
    pub(crate) name: Option<String>,
    /// Go back to the default before
    #[arg(long, conflicts_with = "prune")]
    pub(crate) revert: bool,
    /// Remove the default before, for good
    #[arg(long)]
    pub(crate) prune: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
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
pub(crate) enum Agent {
    /// Show the agents: what they are good and bad at, installed, configured, tested
    List {
        /// [{"name","title","good_at","bad_at","refused"?,"installed"?,"configured"?,"tested"}]
        #[arg(long)]
        json: bool,
    },
    /// Install an agent on this machine, into ~/.local/bin, without root
    Install {
        /// aider, opencode, qwen, claude, continue, cursor
        #[arg(value_parser = agent)]
        name: &'static ops::agent::Agent,
        /// The newest version instead of the one that was tested
        #[arg(long)]
        latest: bool,
    },
    /// Have an agent use this stack: its own settings files, merged with what stands there
    Configure(Configure),
    /// Take out of an agent's settings what configure put in
    Unconfigure {
        /// aider, opencode, qwen, claude, continue
        #[arg(value_parser = agent)]
        name: &'static ops::agent::Agent,
        /// Show what would change, and stop
        #[arg(long)]
        dry_run: bool,
    },
    /// Have an agent write code in a throwaway repository, and judge it by running the code
    Test(AgentTest),
}

#[derive(Debug, Args)]
pub(crate) struct Configure {
    /// aider, opencode, qwen, claude, continue
    #[arg(value_parser = agent)]
    pub(crate) name: &'static ops::agent::Agent,
    /// Another model than the default of stack.toml
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Another endpoint than the stack's
    #[arg(long, value_name = "URL", value_parser = endpoint, value_hint = ValueHint::Url)]
    pub(crate) endpoint: Option<String>,
    /// Take an API key, typed when asked or piped in
    #[arg(long)]
    pub(crate) key: bool,
    /// Show what would change, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentTest {
    /// aider, opencode, qwen, claude
    #[arg(value_parser = agent)]
    pub(crate) name: &'static ops::agent::Agent,
    /// factorial: one function; workflow: a Flask application with users in a database
    #[arg(long, value_parser = task, default_value = "factorial")]
    pub(crate) task: ops::agent::Task,
    /// Give up after this: 90s, 20m [default: 10m, workflow 40m]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    pub(crate) deadline: Option<std::time::Duration>,
    /// {"version","endpoint","model","at","seconds","wiring_only","outcome":{"result":"pass|fail","diagnosis"?,"transcript"?}}
    #[arg(long)]
    pub(crate) json: bool,
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
        #[arg(long)]
        keys: Option<PathBuf>,
        #[arg(long)]
        keys_on_loopback: bool,
        #[arg(long)]
        behind_edge: bool,
        #[arg(long, default_value_t)]
        slots: usize,
        #[arg(long, default_value_t)]
        queue: usize,
        #[arg(long)]
        ask_for_usage: bool,
        #[arg(long)]
        refuse_truncation: bool,
    },
    /// Ask whether a URL answers: the health check of a container that has nothing but this program
    Probe { url: String },
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

fn rate(text: &str) -> Result<f64, String> {
    let wanted = || "a number of requests a second above 0, such as 0.5".to_owned();
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or_else(wanted)
}

fn spacing(name: &str) -> Result<ops::bench::load::Spacing, String> {
    match name {
        "constant" => Ok(ops::bench::load::Spacing::Constant),
        "poisson" => Ok(ops::bench::load::Spacing::Poisson),
        _ => Err("there are constant, poisson".to_owned()),
    }
}

fn api(name: &str) -> Result<ops::bench::stream::Api, String> {
    match name {
        "native" => Ok(ops::bench::stream::Api::Native),
        "openai" => Ok(ops::bench::stream::Api::OpenAi),
        _ => Err("there are native, openai".to_owned()),
    }
}

/// `ttft=500ms,itl=50ms`.
fn objectives(text: &str) -> Result<ops::bench::record::Objectives, String> {
    let mut objectives = ops::bench::record::Objectives::default();
    for part in text.split(',') {
        let (name, limit) = part.split_once('=').ok_or_else(|| format!("{part:?} is no limit such as ttft=500ms"))?;
        let limit = Some(value::duration(limit).map_err(|wrong| wrong.to_string())?.as_secs_f64() * 1e3);
        match name {
            "ttft" => objectives.ttft_ms = limit,
            "itl" => objectives.itl_ms = limit,
            "e2e" => objectives.e2e_ms = limit,
            _ => return Err(format!("{name:?} cannot be limited; there are ttft, itl, e2e")),
        }
    }
    Ok(objectives)
}

fn agent(name: &str) -> Result<&'static ops::agent::Agent, String> {
    ops::agent::find(name).ok_or_else(|| {
        let names: Vec<&str> = ops::agent::ALL.iter().map(|agent| agent.name).collect();
        match ops::agent::like(name) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", names.join(", ")),
        }
    })
}

fn task(name: &str) -> Result<ops::agent::Task, String> {
    let found = [ops::agent::Task::Factorial, ops::agent::Task::Workflow].into_iter().find(|task| task.name() == name);
    found.ok_or_else(|| "there are factorial, workflow".to_owned())
}

fn endpoint(url: &str) -> Result<String, String> {
    let is_url = ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|it| !it.is_empty()));
    match is_url {
        true => Ok(url.trim_end_matches('/').trim_end_matches("/v1").to_owned()),
        false => Err("write it as in http://studio.local:11434".to_owned()),
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
