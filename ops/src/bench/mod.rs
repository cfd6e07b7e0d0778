//! Measures a served model, so that the numbers can be believed.
//!
//! [`measure`] asks the engine what it is, plans the runs into the time that there is, and has each carried out; the
//! rest of the folder is a page for each idea. What is measured and how stands in `docs/bench.md`.
//!
//! Invariant: durations come from a clock that only goes forward, nothing is measured before the model is in memory
//! (but for a cold start), and a run that was broken off is kept and says so.

mod client;
pub mod compare;
pub mod endpoint;
pub mod limit;
pub mod load;
pub mod plot;
pub mod prompt;
pub mod record;
pub mod report;
pub mod statistic;
pub mod store;
pub mod stream;
pub mod table;

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use stack::failure::{Class, Failure};

pub use client::Patience;

use crate::hardware::Hardware;
use endpoint::{Endpoint, Model};
use load::{Arrival, Came, Load, Progress, Spacing};
use prompt::Prompts;
use record::{Label, Objectives, Record, Run};
use stream::Api;

/// The version of every file written here.
pub const SCHEMA: u32 = 1;

/// The scenario for which the model is unloaded.
pub const COLD_START: &str = "cold start";

/// What the default run may take.
pub const BUDGET: Duration = Duration::from_secs(5 * 60);

/// Requests of a scenario, unless time runs out: what a p90 needs.
const REQUESTS: usize = 10;

/// What is under way when a run's time is over may take this long to end.
const GRACE: Duration = Duration::from_secs(60);

/// Prompts of different runs are this far apart, those of the warm-up further: none is asked twice.
const PROMPTS_APART: usize = 1 << 24;

/// The wall clock may drift from the other by this much, milliseconds.
const CLOCK_STEP_MS: f64 = 500.0;

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
#[derive(Debug, Clone, PartialEq)]
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
    /// Of prompts, arrivals and the sampler.
    pub seed: u64,
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

/// Measures one model. `tell` is asked several times a second and ends everything by saying false; what came until then
/// is the outcome.
///
/// # Errors
///
/// If the endpoint cannot be asked or the model cannot be had.
pub fn measure(
    asked: &str,
    default: &str,
    options: &Options,
    tell: &mut dyn FnMut(Event<'_>) -> bool,
) -> Result<Outcome, Failure> {
    let (mut outcome, clock) = begin(asked, default, options)?;
    let name = outcome.model.name.clone();
    let scenarios = scenarios(options);
    let budget = Instant::now() + BUDGET;
    let total = scenarios.len();
    let mut is_warm = false;
    for (index, scenario) in scenarios.into_iter().enumerate() {
        let goes_on = match scenario.is_cold {
            true => cool(options, &outcome, tell)?,
            false => is_warm || warm(&scenario, options, &mut outcome, tell)?,
        };
        is_warm = !scenario.is_cold;
        if !goes_on {
            outcome.broken_off = Some("interrupted".to_owned());
            break;
        }
        let share = budget.saturating_duration_since(Instant::now()) / (total - index) as u32;
        let load =
            options.load(&name, outcome.model.context_length, &scenario, index, scenario.duration.unwrap_or(share));
        let (came, is_interrupted) = carry_out(&load, &scenario.label, tell)?;
        keep(&mut outcome, scenario.label, came);
        if let Some(run) = outcome.runs.last() {
            tell(Event::Ran(run));
            let is_silent = run.ttft_ms.n == 0 && run.errors > 0;
            if is_silent && options.endpoint.version().is_err() {
                outcome.broken_off = Some("the engine stopped answering".to_owned());
                break;
            }
        }
        if is_interrupted {
            outcome.broken_off = Some("interrupted".to_owned());
            break;
        }
    }
    outcome.warnings.extend(clock.step());
    Ok(outcome)
}

/// Asks what there is, before anything is measured.
fn begin(asked: &str, default: &str, options: &Options) -> Result<(Outcome, Clock), Failure> {
    let endpoint = &options.endpoint;
    let version = endpoint.version()?;
    let model = match endpoint.installed()? {
        Some(installed) => endpoint.describe(endpoint::resolve(asked, default, &installed)?)?,
        None if options.api == Api::OpenAi => Model { name: asked.to_owned(), ..Model::default() },
        None => {
            return Err(Failure::new(Class::Failed, format!("{} does not speak Ollama's API", endpoint.authority()))
                .hint("measure what it does speak with --api openai"));
        }
    };
    let clock = Clock { wall: Utc::now(), monotonic: Instant::now() };
    let engine = Engine {
        is_synthetic: version.as_ref().is_some_and(|version| version.ends_with("-sandbox")),
        version,
        endpoint: endpoint.authority().to_owned(),
        api: options.api,
        slots: options.slots,
    };
    let mut warnings = Vec::new();
    if engine.is_synthetic {
        warnings
            .push("the engine is the sandbox's stand-in: its speed is what stack.toml says, not a model's".to_owned());
    }
    let outcome = Outcome {
        schema: SCHEMA,
        program: concat!("xtask ", env!("CARGO_PKG_VERSION")).to_owned(),
        began: clock.wall.to_rfc3339_opts(SecondsFormat::Secs, true),
        model,
        engine,
        host: if endpoint.is_here() { options.hardware.clone() } else { Hardware::default() },
        seed: options.seed,
        objectives: options.objectives,
        warnings,
        ..Outcome::default()
    };
    Ok((outcome, clock))
}

/// A run to be made.
#[derive(Debug, Clone)]
struct Scenario {
    label: Label,
    prompts: Prompts,
    arrival: Arrival,
    requests: usize,
    duration: Option<Duration>,
    is_cold: bool,
}

/// The runs, in order: a cold start, each of the guide's tasks alone, then more at a time up to the engine's slots; or a
/// load of one's own.
fn scenarios(options: &Options) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let guide = prompt::guide();
    let single = |name: &str, prompts: &Prompts, requests| Scenario {
        label: Label { scenario: name.to_owned(), concurrency: 1, ..Label::default() },
        prompts: prompts.clone(),
        arrival: Arrival::Concurrent(1),
        requests,
        duration: None,
        is_cold: false,
    };
    let concurrent = |name: &str, prompts: &Prompts, at_a_time: usize| {
        let label = Label {
            scenario: name.to_owned(),
            concurrency: at_a_time,
            is_queueing: at_a_time > options.slots,
            ..Label::default()
        };
        let requests = REQUESTS.max(4 * at_a_time);
        Scenario { label, arrival: Arrival::Concurrent(at_a_time), ..single(name, prompts, requests) }
    };
    if options.is_cold {
        let prompts = Prompts::Listed(vec![guide[0].1.clone()]);
        scenarios.push(Scenario { is_cold: true, ..single(COLD_START, &prompts, 1) });
    }
    let Some(own) = &options.own else {
        let each = guide.iter().map(|(name, prompt)| single(name, &Prompts::Listed(vec![prompt.clone()]), REQUESTS));
        scenarios.extend(each);
        let mixed = Prompts::Listed(guide.into_iter().map(|(_, prompt)| prompt).collect());
        scenarios.extend(ladder(options.slots).map(|at_a_time| concurrent("mixed", &mixed, at_a_time)));
        return scenarios;
    };
    let limited = |scenario: Scenario| Scenario {
        requests: own.requests.unwrap_or(if own.duration.is_some() { usize::MAX } else { scenario.requests }),
        duration: own.duration.or(own.requests.map(|_| Duration::MAX / 4)),
        ..scenario
    };
    match own.rate {
        Some((rate, spacing)) => {
            let label = Label { rate_per_second: Some(rate), ..concurrent(&own.name, &own.prompts, 0).label };
            let by_rate = Scenario {
                label,
                arrival: Arrival::Rate(rate, spacing),
                ..single(&own.name, &own.prompts, usize::MAX)
            };
            scenarios.push(limited(by_rate));
        }
        None => scenarios.extend(own.concurrency.iter().map(|it| limited(concurrent(&own.name, &own.prompts, *it)))),
    }
    scenarios
}

/// 2, 4, 8, … and the slots themselves.
fn ladder(slots: usize) -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(2), |it| Some(it * 2)).take_while(move |it| *it < slots);
    doubled.chain((slots > 1).then_some(slots))
}

impl Options {
    fn load(
        &self,
        model: &str,
        context_length: Option<u32>,
        scenario: &Scenario,
        index: usize,
        duration: Duration,
    ) -> Load {
        Load {
            endpoint: self.endpoint.clone(),
            api: self.api,
            model: model.to_owned(),
            context_length,
            prompts: scenario.prompts.clone(),
            arrival: scenario.arrival,
            requests: scenario.requests,
            duration,
            grace: GRACE,
            patience: self.patience,
            seed: self.seed,
            first_prompt: index * PROMPTS_APART,
        }
    }
}

/// Has the model out of memory; false if that was interrupted.
fn cool(options: &Options, outcome: &Outcome, tell: &mut dyn FnMut(Event<'_>) -> bool) -> Result<bool, Failure> {
    let goes_on = tell(Event::Preparing("unloading the model"));
    if outcome.engine.version.is_some() {
        options.endpoint.unload(&outcome.model.name)?;
    }
    Ok(goes_on)
}

/// Has the model in memory, and the first requests done; false if that was interrupted.
fn warm(
    scenario: &Scenario,
    options: &Options,
    outcome: &mut Outcome,
    tell: &mut dyn FnMut(Event<'_>) -> bool,
) -> Result<bool, Failure> {
    if !tell(Event::Preparing("loading the model")) {
        return Ok(false);
    }
    let name = outcome.model.name.clone();
    if outcome.engine.version.is_some()
        && let Some(memory) = options.endpoint.load(&name)?
    {
        outcome.model.is_in(&memory);
    }
    if options.warm_up == 0 {
        return Ok(true);
    }
    let first = Scenario { requests: options.warm_up, arrival: Arrival::Concurrent(1), ..scenario.clone() };
    // Far behind every prompt that is measured.
    let load = options.load(&name, outcome.model.context_length, &first, 1 << 20, BUDGET);
    let label = Label { scenario: "warm-up".to_owned(), concurrency: 1, ..Label::default() };
    let (_, is_interrupted) = carry_out(&load, &label, tell)?;
    Ok(!is_interrupted)
}

fn carry_out(load: &Load, label: &Label, tell: &mut dyn FnMut(Event<'_>) -> bool) -> Result<(Came, bool), Failure> {
    let mut is_interrupted = false;
    let mut look = |progress: Progress| {
        let event = Event::Running { label, progress, requests: load.requests, duration: load.duration };
        is_interrupted |= !tell(event);
        !is_interrupted
    };
    let came =
        load.run(&mut look).map_err(|error| Failure::new(Class::Failed, "cannot send requests").because(&error))?;
    Ok((came, is_interrupted))
}

/// Sums a run up, and puts its records with the others.
fn keep(outcome: &mut Outcome, mut label: Label, came: Came) {
    if label.rate_per_second.is_some() {
        label.concurrency = came.peak;
        label.is_queueing = came.peak > outcome.engine.slots;
    }
    let mut run = Run::of(label, &came.records, &outcome.objectives);
    if !outcome.engine.is_synthetic {
        limit::judge(&mut run, &outcome.model, &outcome.host);
    }
    let index = outcome.runs.len();
    outcome.records.extend(came.records.into_iter().map(|record| Record { run: index, ..record }));
    outcome.runs.push(run);
}

/// Both clocks at one moment.
struct Clock {
    wall: DateTime<Utc>,
    monotonic: Instant,
}

impl Clock {
    /// What to say if the wall clock was set meanwhile. The durations are right all the same.
    fn step(&self) -> Option<String> {
        let wall = (Utc::now() - self.wall).num_milliseconds() as f64;
        let step = wall - self.monotonic.elapsed().as_secs_f64() * 1e3;
        (step.abs() > CLOCK_STEP_MS)
            .then(|| format!("the wall clock was set by {:.1} s meanwhile; no duration here rests on it", step / 1e3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(slots: usize, own: Option<Own>) -> Options {
        Options {
            endpoint: Endpoint::parse("127.0.0.1:1", None).unwrap(),
            api: Api::Native,
            is_cold: false,
            own,
            slots,
            hardware: Hardware::default(),
            warm_up: 1,
            objectives: Objectives::default(),
            seed: 1,
            patience: Patience::default(),
        }
    }

    fn plan(options: &Options) -> Vec<String> {
        let word = |it: Scenario| {
            let queueing = if it.label.is_queueing { " queueing" } else { "" };
            format!("{} × {} at {}{queueing}", it.label.scenario, it.requests, it.label.concurrency)
        };
        scenarios(options).into_iter().map(word).collect()
    }

    #[test]
    fn the_default_run_goes_up_to_the_slots_and_no_further() {
        assert_eq!(plan(&options(1, None)).len(), 6);
        let cold = Options { is_cold: true, ..options(6, None) };
        assert_eq!(
            plan(&cold),
            [
                "cold start × 1 at 1",
                "simple × 10 at 1",
                "code generation × 10 at 1",
                "explanation × 10 at 1",
                "refactoring × 10 at 1",
                "debugging × 10 at 1",
                "long context × 10 at 1",
                "mixed × 10 at 2",
                "mixed × 16 at 4",
                "mixed × 24 at 6",
            ]
        );
    }

    #[test]
    fn more_than_the_slots_is_called_queueing() {
        let own = Own {
            name: "synthetic".to_owned(),
            prompts: Prompts::Synthetic { input_tokens: 9, output_tokens: 9 },
            concurrency: vec![2, 8],
            rate: None,
            requests: Some(5),
            duration: None,
        };
        assert_eq!(plan(&options(2, Some(own))), ["synthetic × 5 at 2", "synthetic × 5 at 8 queueing"]);
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let now = Clock { wall: Utc::now(), monotonic: Instant::now() };
        assert_eq!(now.step(), None);
        let set = Clock { wall: Utc::now() - chrono::TimeDelta::seconds(90), ..now };
        assert!(set.step().unwrap().starts_with("the wall clock was set by 90.0 s"));
    }
}
