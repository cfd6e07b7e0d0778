//! `bench` and below.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use stack::settings::value;

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
    /// Show the results and comparisons that are kept
    List {
        /// `[{"id","began","model","runs","answered","broken_off"?}]`; of a comparison {"id","ended","a","b","verdicts"}
        #[arg(long)]
        json: bool,
    },
    /// Show a result or a comparison
    Show {
        /// As `bench list` shows it [default: the last]
        id: Option<String>,
        /// As bench does
        #[arg(long)]
        json: bool,
    },
    /// Write a report anew, and say where it is
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
