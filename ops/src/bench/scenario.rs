//! The runs of a measurement: the guide's tasks and more at a time, or a load of one's own.
//!
//! Invariant: pure.

use std::time::Duration;

use super::{
    COLD_START, Options,
    load::Arrival,
    prompt::{self, Prompts},
    record::Label,
};

/// Requests of a scenario, unless time runs out: what a p90 needs.
const REQUESTS: usize = 10;

/// A run to be made.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) label: Label,
    pub(super) prompts: Prompts,
    pub(super) arrival: Arrival,
    pub(super) requests: usize,
    pub(super) duration: Option<Duration>,
    pub(super) is_cold: bool,
}

/// The runs, in order: a cold start, each of the guide's tasks alone, then more at a time up to the engine's slots; or a
/// load of one's own.
pub(super) fn scenarios(options: &Options) -> Vec<Scenario> {
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

#[cfg(test)]
mod tests {
    use super::{
        super::{Own, Patience, endpoint::Endpoint, record::Objectives, stream::Api},
        *,
    };
    use crate::hardware::Hardware;

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
}
