//! How long the stand-in pretends to work, and when each token is due.
//!
//! What measures an engine is measured against this, so it must not drift: every due time is computed from the start
//! of the request, never from the token before, and what an answer declares is the schedule, not what a busy machine
//! made of it.
//!
//! Invariant: token `i` is due at `began + load + prefill + i × time_per_output_token`, and an answer of `n` tokens
//! ends when token `n` would have been due. Prefill is `time_to_first_token`, less the share of the prompt that is in
//! the cache. So `eval_count / eval_duration` is exactly one token per `time_per_output_token`, and load + prompt +
//! eval is exactly the answer's time in its slot. Stalls that a scenario asks for move all that follows, and count as
//! prefill before the first token and as generation after it.

use std::time::Duration;

use tokio::time::Instant;
use wire::ollama::Metrics;

/// The pace of the stand-in, the same for every model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From having a slot and a loaded model to the first token, if nothing of the prompt is in the cache.
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

/// Tokens of a prompt, and how many of them need no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PromptTokens {
    pub(crate) all: u32,
    /// At most all but one: the last is always evaluated, or there would be nothing to go on from.
    pub(crate) cached: u32,
}

/// The due times of one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// When the request had its slot.
    began: Instant,
    /// What it then still waited for the model.
    load: Duration,
    /// Until the first token.
    prefill: Duration,
    per_token: Duration,
    prompt: PromptTokens,
    /// Of the stalls so far.
    stalled: Duration,
}

impl Schedule {
    /// For a request that had its slot at `began` and a model that is in memory from `ready_at` on.
    pub(crate) fn new(began: Instant, ready_at: Instant, timing: Timing, prompt: PromptTokens) -> Self {
        let evaluated = prompt.all - prompt.cached;
        let prefill = match prompt.cached {
            0 => timing.time_to_first_token,
            _ => timing.time_to_first_token.mul_f64(f64::from(evaluated) / f64::from(prompt.all)),
        };
        Self {
            began,
            load: ready_at.saturating_duration_since(began),
            prefill,
            per_token: timing.time_per_output_token,
            prompt,
            stalled: Duration::ZERO,
        }
    }

    /// When token `index` is due, the first being 0.
    pub(crate) fn due(&self, index: u32) -> Instant {
        self.began + self.load + self.prefill + self.stalled + self.per_token * index
    }

    /// Moves all that follows `told` tokens by `wait`.
    pub(crate) fn stall(&mut self, told: u32, wait: Duration) {
        if told == 0 {
            self.prefill += wait;
        } else {
            self.stalled += wait;
        }
    }

    /// What an answer of `tokens` declares. `arrived` is when the request came, before any wait.
    pub(crate) fn metrics(&self, arrived: Instant, tokens: u32) -> Metrics {
        Metrics {
            total_duration: nonzero_ns(arrived.elapsed()),
            load_duration: nonzero_ns(self.load),
            prompt_eval_count: nonzero(self.prompt.all),
            prompt_eval_duration: nonzero_ns(self.prefill),
            eval_count: nonzero(tokens),
            eval_duration: nonzero_ns(self.per_token * tokens + self.stalled),
        }
    }
}

/// Go's `omitempty`: zero is not said.
pub(crate) fn nonzero(count: u32) -> Option<u64> {
    (count > 0).then(|| count.into())
}

pub(crate) fn nonzero_ns(duration: Duration) -> Option<u64> {
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
        Schedule::new(began, began + Duration::from_millis(load_ms), timing, PromptTokens { all: 10, cached: 0 })
    }

    #[test]
    fn the_thousandth_token_is_due_to_the_nanosecond() {
        let schedule = schedule(50);
        assert_eq!(schedule.due(1000) - schedule.began, Duration::from_millis(50 + 100 + 7000));
    }

    #[test]
    fn the_declared_parts_fill_the_time_in_the_slot() {
        let schedule = schedule(50);
        let metrics = schedule.metrics(schedule.began, 20);
        let parts = [metrics.load_duration, metrics.prompt_eval_duration, metrics.eval_duration];
        let sum: u64 = parts.into_iter().flatten().sum();
        assert_eq!(u128::from(sum), (schedule.due(20) - schedule.began).as_nanos());
    }

    #[test]
    fn a_loaded_model_declares_no_load() {
        assert_eq!(schedule(0).metrics(Instant::now(), 0).load_duration, None);
    }

    #[test]
    fn what_is_cached_takes_no_time_and_is_counted_all_the_same() {
        let cold = schedule(0);
        let warm = Schedule::new(
            cold.began,
            cold.began,
            Timing { time_to_first_token: Duration::from_millis(100), ..Timing::default() },
            PromptTokens { all: 10, cached: 9 },
        );
        assert_eq!(warm.due(0) - warm.began, Duration::from_millis(10));
        let metrics = warm.metrics(warm.began, 0);
        assert_eq!((metrics.prompt_eval_count, metrics.prompt_eval_duration), (Some(10), Some(10_000_000)));
    }

    #[test]
    fn a_stall_moves_all_that_follows_and_is_declared() {
        let mut schedule = schedule(0);
        schedule.stall(3, Duration::from_secs(1));
        assert_eq!(schedule.due(3) - schedule.began, Duration::from_millis(100 + 3 * 7 + 1000));
        assert_eq!(schedule.metrics(schedule.began, 4).eval_duration, Some(1_028_000_000));
    }
}
