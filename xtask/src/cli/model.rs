//! `model` and below.

use clap::{Args, Subcommand};
use stack::settings::{KvCacheType, value};

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
        /// [{"name","bytes","parameters","quantization","context","modified","digest","default","resident"?}]
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
        /// As `model list` shows them [default: models.warm, else models.default]
        #[arg(value_parser = value::model)]
        names: Vec<String>,
    },
    /// Make the models of config/models and local/models whose Modelfile or base has changed
    Apply {
        /// {"NAME":{"result":"made|unchanged|skipped","base"?}}
        #[arg(long)]
        json: bool,
    },
    /// Make a model out of published weights, with llama.cpp's tools
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
    /// USER/REPO of the hub, or a folder of the host
    pub(crate) source: String,
    /// As llama.cpp spells it: Q5_K_M
    #[arg(long)]
    pub(crate) quant: String,
    /// What the model is to be called [default: as its source, with the quantisation as the tag]
    #[arg(long, value_parser = value::model)]
    pub(crate) name: Option<String>,
    /// What the model is told before every conversation [default: that of config/convert.Modelfile]
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Remove what is in between, once the model has answered; on a terminal that is asked
    #[arg(long)]
    pub(crate) prune: bool,
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
