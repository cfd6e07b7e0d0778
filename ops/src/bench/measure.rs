//! Measures one model: asks the engine what it is, and has each run carried out in the time that there is.
//!
//! Invariant: durations come from a clock that only goes forward, nothing is measured before the model is in memory (but
//! for a cold start), and a run that was broken off is kept and says so.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use stack::failure::{Class, Failure};

use super::{
    Engine, Event, Options, Outcome, Pinned, SCHEMA, endpoint,
    endpoint::Model,
    limit,
    load::{Arrival, Came, Load, Progress, TEMPERATURE},
    record::{Label, Record, Run},
    scenario::{Scenario, scenarios},
    stream::Api,
};
use crate::hardware::Hardware;

/// What the default run may take.
const BUDGET: Duration = Duration::from_secs(5 * 60);

/// What is under way when a run's time is over may take this long to end.
const GRACE: Duration = Duration::from_secs(60);

/// Prompts of different runs are this far apart, those of the warm-up further: none is asked twice.
const PROMPTS_APART: usize = 1 << 24;

/// The wall clock may drift from the other by this much, milliseconds.
const CLOCK_STEP_MS: f64 = 500.0;

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
        let load = options.load(&outcome, &scenario, index, scenario.duration.unwrap_or(share));
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
    let think = (model.thinks && options.api == Api::Native).then_some(true);
    let outcome = Outcome {
        schema: SCHEMA,
        program: concat!("xtask ", env!("CARGO_PKG_VERSION")).to_owned(),
        began: clock.wall.to_rfc3339_opts(SecondsFormat::Secs, true),
        model,
        engine,
        host: if endpoint.is_here() { options.hardware.clone() } else { Hardware::default() },
        pinned: Pinned { seed: options.seed, temperature: TEMPERATURE, think, ..Pinned::default() },
        objectives: options.objectives,
        warnings,
        ..Outcome::default()
    };
    Ok((outcome, clock))
}

impl Options {
    fn load(&self, outcome: &Outcome, scenario: &Scenario, index: usize, duration: Duration) -> Load {
        Load {
            endpoint: self.endpoint.clone(),
            api: self.api,
            model: outcome.model.name.clone(),
            context_length: outcome.pinned.num_ctx,
            think: outcome.pinned.think,
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
        outcome.pinned.num_ctx = outcome.model.context_length.filter(|_| options.api == Api::Native);
    }
    if options.warm_up == 0 {
        return Ok(true);
    }
    let first = Scenario { requests: options.warm_up, arrival: Arrival::Concurrent(1), ..scenario.clone() };
    // Far behind every prompt that is measured.
    let load = options.load(outcome, &first, 1 << 20, BUDGET);
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

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let now = Clock { wall: Utc::now(), monotonic: Instant::now() };
        assert_eq!(now.step(), None);
        let set = Clock { wall: Utc::now() - chrono::TimeDelta::seconds(90), ..now };
        assert!(set.step().unwrap().starts_with("the wall clock was set by 90.0 s"));
    }
}
