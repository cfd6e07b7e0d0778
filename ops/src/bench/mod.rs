//! Measures a served model, so that the numbers can be believed.
//!
//! Here stands what is asked for and what comes of it; [`measure()`] brings it about, and the rest of the folder is a page for
//! each idea. What is measured and how stands in `docs/bench.md`.
//!
//! Invariant: an [`Outcome`] says all that has to be known to believe it: what was asked, of whom, and how it ended.

mod client;
pub mod compare;
pub mod endpoint;
pub mod limit;
pub mod load;
mod measure;
pub mod plot;
pub mod prompt;
pub mod record;
pub mod report;
mod scenario;
pub mod statistic;
pub mod store;
pub mod stream;
pub mod table;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use client::Patience;
pub use measure::measure;

use crate::hardware::Hardware;
use endpoint::{Endpoint, Model};
use load::{Progress, Spacing};
use prompt::Prompts;
use record::{Label, Objectives, Record, Run};
use stream::Api;

/// The version of every file written here.
pub const SCHEMA: u32 = 1;

/// The scenario for which the model is unloaded.
pub const COLD_START: &str = "cold start";

/// What to measure, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub endpoint: Endpoint,
    /// In which API.
    pub api: Api,
    /// Begin with a cold start: the model is unloaded for it.
    pub is_cold: bool,
    /// A load of one's own in place of the default runs.
    pub own: Option<Own>,
    /// Requests that one model of this engine answers at a time.
    pub slots: usize,
    /// This machine, which counts if the endpoint is on it.
    pub hardware: Hardware,
    /// Requests before the first that counts.
    pub warm_up: usize,
    /// What answers have to keep.
    pub objectives: Objectives,
    /// Of prompts, arrivals and the sampler.
    pub seed: u64,
    /// How long nothing may come.
    pub patience: Patience,
}

/// A load of one's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// How it is called.
    pub name: String,
    /// What is asked.
    pub prompts: Prompts,
    /// Requests at a time, a run each; not with a rate.
    pub concurrency: Vec<usize>,
    /// Requests a second.
    pub rate: Option<(f64, Spacing)>,
    /// How many at most, in each run.
    pub requests: Option<usize>,
    /// For how long, each run.
    pub duration: Option<Duration>,
}

/// `8 × explanation (128 tokens), 2 at a time`.
impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(requests) = self.requests {
            write!(f, "{requests} × ")?;
        }
        write!(f, "{} ({})", self.name, self.prompts)?;
        match self.rate {
            Some((rate, Spacing::Constant)) => write!(f, ", {rate} a second, evenly")?,
            Some((rate, Spacing::Poisson)) => write!(f, ", {rate} a second, by chance")?,
            None => {
                let several: Vec<String> = self.concurrency.iter().map(usize::to_string).collect();
                write!(f, ", {} at a time", several.join(", "))?;
            }
        }
        self.duration.map_or(Ok(()), |duration| write!(f, ", for {} s", duration.as_secs_f64()))
    }
}

/// The engine that was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// As it says; none where it is no Ollama.
    pub version: Option<String>,
    /// `host:port`.
    pub endpoint: String,
    /// In which API.
    pub api: Api,
    /// Requests that one model answers at a time.
    pub slots: usize,
    /// It says itself that it is a stand-in: its speed is made up.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_synthetic: bool,
}

/// What requests named, beside the prompt and the tokens of the answer, and what they left to model and engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pinned {
    /// Of prompts, arrivals and the sampler.
    pub seed: u64,
    /// Of the sampler.
    pub temperature: f64,
    /// Tokens of context; what the model was loaded with. Absent where it cannot be named.
    pub num_ctx: Option<u32>,
    /// Whether to think aloud; absent for a model that cannot.
    pub think: Option<bool>,
    /// How long the model stays in memory; absent: as the engine is set.
    pub keep_alive: Option<String>,
}

/// All that came of measuring one model: what `--json` prints and `result.json` holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Program that measured.
    pub program: String,
    /// By the wall clock; nothing is computed from it.
    pub began: String,
    /// What was measured.
    pub model: Model,
    /// Who answered.
    pub engine: Engine,
    /// What it ran on; empty where the endpoint is another machine.
    pub host: Hardware,
    /// What every request named.
    pub pinned: Pinned,
    /// What answers had to keep.
    pub objectives: Objectives,
    /// In the order in which they were made.
    pub runs: Vec<Run>,
    /// Why it ended before its time; none if it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub broken_off: Option<String>,
    /// What a reader has to know.
    pub warnings: Vec<String>,
    /// Every request; in a file of their own.
    #[serde(skip)]
    pub records: Vec<Record>,
}

impl Outcome {
    /// Whole answers.
    pub fn answered(&self) -> usize {
        self.runs.iter().map(|run| run.ttft_ms.n).sum()
    }
}

/// What is told while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A model is being loaded, or unloaded for a cold start.
    Preparing(&'a str),
    /// A run goes on.
    Running {
        /// Which one.
        label: &'a Label,
        /// How far.
        progress: Progress,
        /// How far it is to get, at most.
        requests: usize,
        /// How long it may take.
        duration: Duration,
    },
    /// A run is over.
    Ran(&'a Run),
}
