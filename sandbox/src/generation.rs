//! One answer in the making: tokens, each when it is due, then the end.
//!
//! Nobody drives it but the reader: it is polled by the response body, so a client that leaves drops it, and with it
//! the slot. There is no task to cancel.
//!
//! Invariant: it yields as many tokens as it declares, then one end, then nothing; the slot is given back before the
//! end is told, so that whoever has read the end finds the engine as the end left it.

use std::vec;

use tokio::time::{Instant, sleep_until};
use wire::ollama::{DoneReason, Metrics};

use crate::residency::Slot;
use crate::script::{Saying, Script, Step};
use crate::timing::{PromptTokens, Schedule, Timing};

/// An answer in the making.
pub(crate) struct Generation {
    /// Until the end is told.
    slot: Option<Slot>,
    schedule: Schedule,
    arrived: Instant,
    rest: vec::IntoIter<Step>,
    /// Tokens.
    told: u32,
    reason: DoneReason,
}

/// What a generation yields.
#[derive(Debug)]
pub(crate) enum Event {
    /// A part of the answer. An error or a death is the last.
    Say(Saying),
    /// The answer is complete.
    End(End),
}

/// How an answer ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) reason: DoneReason,
    pub(crate) metrics: Metrics,
}

impl Generation {
    /// Starts playing `script` in `slot`, for a request that came at `arrived`.
    pub(crate) fn new(slot: Slot, script: Script, prompt: PromptTokens, timing: Timing, arrived: Instant) -> Self {
        Self {
            schedule: Schedule::new(slot.began, slot.ready_at, timing, prompt),
            slot: Some(slot),
            arrived,
            rest: script.steps.into_iter(),
            told: 0,
            reason: script.reason,
        }
    }

    /// The next event, when it is due; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.slot.as_ref()?;
        let Some(step) = self.rest.next() else {
            sleep_until(self.schedule.due(self.told)).await;
            self.slot = None;
            let metrics = self.schedule.metrics(self.arrived, self.told);
            return Some(Event::End(End { reason: self.reason, metrics }));
        };
        self.schedule.stall(self.told, step.wait);
        // The last of a step's tokens completes it; a fault comes in the place of the next token.
        let last = self.told + step.tokens.max(1) - 1 + step.held_for;
        sleep_until(self.schedule.due(last)).await;
        self.told += step.tokens;
        if matches!(step.saying, Saying::Error(_) | Saying::Death) {
            self.slot = None;
        }
        Some(Event::Say(step.saying))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;
    use wire::ollama::KeepAlive;

    use super::*;
    use crate::residency::{Limits, Residency, Wanted};

    const TIMING: Timing = Timing {
        time_to_first_token: Duration::from_millis(120),
        time_per_output_token: Duration::from_millis(15),
        load: Duration::from_millis(400),
    };

    async fn generation(change: impl FnOnce(&mut Script)) -> Generation {
        let house = Residency::new(Limits {
            capacity: 1,
            memory_bytes: u64::MAX,
            slots: 1,
            queue: usize::MAX,
            keep_alive: KeepAlive::Forever,
        });
        let wanted =
            Wanted { model: "m".to_owned(), size_bytes: 1, context_length: 4096, load: TIMING.load, keep_alive: None };
        let slot = house.enter(wanted).await.unwrap().slot().await;
        let mut script = Script::new(Vec::new(), vec!["x".to_owned(); 10], Vec::new());
        change(&mut script);
        Generation::new(slot, script, PromptTokens { all: 100, cached: 0 }, TIMING, Instant::now())
    }

    async fn drain(mut generation: Generation) -> (u32, End) {
        let mut tokens = 0;
        loop {
            match generation.next().await {
                Some(Event::Say(_)) => tokens += 1,
                Some(Event::End(end)) => {
                    assert!(generation.next().await.is_none(), "something came after the end");
                    return (tokens, end);
                }
                None => panic!("no end came"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_when_due_even_if_the_reader_was_late() {
        let began = Instant::now();
        let mut generation = generation(|_| {}).await;
        generation.next().await;
        assert_eq!(began.elapsed(), Duration::from_millis(400 + 120));
        // A reader who sleeps through tokens gets them at once, and the one after when it was always due.
        advance(Duration::from_millis(52)).await;
        for _ in 0..3 {
            generation.next().await;
        }
        assert_eq!(began.elapsed(), Duration::from_millis(520 + 52));
        generation.next().await;
        assert_eq!(began.elapsed(), Duration::from_millis(520 + 4 * 15));
    }

    #[tokio::test(start_paused = true)]
    async fn declares_the_tokens_that_it_told_and_the_time_that_it_took() {
        let began = Instant::now();
        let (tokens, end) = drain(generation(|script| script.limit(7)).await).await;
        assert_eq!((tokens, end.reason), (7, DoneReason::Length));
        assert_eq!(end.metrics.eval_count, Some(7));
        assert_eq!(end.metrics.eval_duration, Some(7 * 15_000_000));
        assert_eq!(end.metrics.total_duration, Some(began.elapsed().as_nanos() as u64));
        assert_eq!(end.metrics.queue_duration(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_comes_when_its_last_token_is_due() {
        let began = Instant::now();
        let mut generation = generation(|script| script.burst(4)).await;
        for _ in 0..4 {
            generation.next().await;
            assert_eq!(began.elapsed(), Duration::from_millis(520 + 3 * 15));
        }
        generation.next().await;
        assert_eq!(began.elapsed(), Duration::from_millis(520 + 7 * 15));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_comes_after_an_error() {
        let mut generation = generation(|script| script.insert(0, Saying::Error("no".to_owned()))).await;
        assert!(matches!(generation.next().await, Some(Event::Say(Saying::Error(_)))));
        assert!(generation.next().await.is_none());
    }
}
