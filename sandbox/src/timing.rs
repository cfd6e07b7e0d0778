//! How long the stand-in pretends to work, and when each token is due.
//!
//! What measures an engine is measured against this, so it must not drift: every due time is computed from the start
//! of the request, never from the token before, and what an answer declares is the schedule, not what a busy machine
//! made of it.
//!
//! Invariant: token `i` is due at `began + load + time_to_first_token + i × time_per_output_token`, and an answer of
//! `n` tokens ends when token `n` would have been due. So `eval_count / eval_duration` is exactly one token per
//! `time_per_output_token`, and load + prompt + eval is exactly the answer's time in its slot.

use std::time::Duration;

use tokio::time::Instant;
use wire::ollama::Metrics;

/// The pace of the stand-in, the same for every model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From having a slot and a loaded model to the first token.
    pub time_to_first_token: Duration,
    /// Between tokens.
    pub time_per_output_token: Duration,
    /// Bringing a model into memory.
    pub load: Duration,
}

impl Default for Timing {
    /// Of a good desktop machine, except that loading takes no patience.
    fn default() -> Self {
        Self {
            time_to_first_token: Duration::from_millis(120),
            time_per_output_token: Duration::from_millis(15),
            load: Duration::from_millis(400),
        }
    }
}

/// The due times of one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// When the request had its slot.
    began: Instant,
    /// What it then still waited for the model.
    load: Duration,
    timing: Timing,
}

impl Schedule {
    /// For a request that had its slot at `began` and a model that is in memory from `ready_at` on.
    pub(crate) fn new(began: Instant, ready_at: Instant, timing: Timing) -> Self {
        Self { began, load: ready_at.saturating_duration_since(began), timing }
    }

    /// When token `index` is due, the first being 0.
    pub(crate) fn due(&self, index: u32) -> Instant {
        self.began + self.load + self.timing.time_to_first_token + self.timing.time_per_output_token * index
    }

    /// What an answer of `tokens` declares. `arrived` is when the request came, before any wait.
    pub(crate) fn metrics(&self, arrived: Instant, prompt_tokens: u32, tokens: u32) -> Metrics {
        Metrics {
            total_duration: nonzero_ns(arrived.elapsed()),
            load_duration: nonzero_ns(self.load),
            prompt_eval_count: nonzero(prompt_tokens),
            prompt_eval_duration: nonzero_ns(self.timing.time_to_first_token),
            eval_count: nonzero(tokens),
            eval_duration: nonzero_ns(self.timing.time_per_output_token * tokens),
        }
    }
}

/// Go's `omitempty`: zero is not said.
fn nonzero(count: u32) -> Option<u64> {
    (count > 0).then(|| count.into())
}

fn nonzero_ns(duration: Duration) -> Option<u64> {
    u64::try_from(duration.as_nanos()).ok().filter(|ns| *ns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(load_ms: u64) -> Schedule {
        let timing = Timing {
            time_to_first_token: Duration::from_millis(100),
            time_per_output_token: Duration::from_millis(7),
            load: Duration::from_millis(50),
        };
        let began = Instant::now();
        Schedule::new(began, began + Duration::from_millis(load_ms), timing)
    }

    #[test]
    fn the_thousandth_token_is_due_to_the_nanosecond() {
        let schedule = schedule(50);
        assert_eq!(schedule.due(1000) - schedule.began, Duration::from_millis(50 + 100 + 7000));
    }

    #[test]
    fn the_declared_parts_fill_the_time_in_the_slot() {
        let schedule = schedule(50);
        let metrics = schedule.metrics(schedule.began, 3, 20);
        let parts = [metrics.load_duration, metrics.prompt_eval_duration, metrics.eval_duration];
        let sum: u64 = parts.into_iter().flatten().sum();
        assert_eq!(u128::from(sum), (schedule.due(20) - schedule.began).as_nanos());
    }

    #[test]
    fn a_loaded_model_declares_no_load() {
        assert_eq!(schedule(0).metrics(Instant::now(), 0, 0).load_duration, None);
    }
}
