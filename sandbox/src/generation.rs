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
use crate::text::Prompt;
use crate::timing::{Schedule, Timing};

/// An answer in the making.
pub(crate) struct Generation {
    /// Until the end is told.
    slot: Option<Slot>,
    schedule: Schedule,
    arrived: Instant,
    prompt_tokens: u32,
    rest: vec::IntoIter<String>,
    told: u32,
    reason: DoneReason,
}

/// What a generation yields.
#[derive(Debug)]
pub(crate) enum Event {
    /// Text of one token, never empty.
    Token(String),
    /// The answer is complete.
    End(End),
}

/// How an answer ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) reason: DoneReason,
    pub(crate) metrics: Metrics,
}

/// Where an answer must stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Tokens of the context. A prompt that does not fit is cut to half of it without a word, as Ollama does.
    pub(crate) context_length: u32,
    /// Most tokens to generate; negative or absent: until the text ends.
    pub(crate) num_predict: Option<i64>,
}

impl Generation {
    /// Starts answering `prompt` in `slot`, for a request that came at `arrived`.
    pub(crate) fn new(slot: Slot, prompt: &Prompt, bounds: Bounds, timing: Timing, arrived: Instant) -> Self {
        let mut tokens = prompt.reply();
        let most = bounds.num_predict.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let reason = if most < tokens.len() { DoneReason::Length } else { DoneReason::Stop };
        tokens.truncate(most);
        let prompt_tokens = prompt.tokens();
        Self {
            schedule: Schedule::new(slot.began, slot.ready_at, timing),
            slot: Some(slot),
            arrived,
            prompt_tokens: if prompt_tokens < bounds.context_length {
                prompt_tokens
            } else {
                bounds.context_length / 2
            },
            rest: tokens.into_iter(),
            told: 0,
            reason,
        }
    }

    /// The next event, when it is due; `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.slot.as_ref()?;
        sleep_until(self.schedule.due(self.told)).await;
        if let Some(token) = self.rest.next() {
            self.told += 1;
            return Some(Event::Token(token));
        }
        self.slot = None;
        let metrics = self.schedule.metrics(self.arrived, self.prompt_tokens, self.told);
        Some(Event::End(End { reason: self.reason, metrics }))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.slot.is_some() {
            log::info!("the client left after {} tokens", self.told);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;
    use wire::ollama::{KeepAlive, Message};

    use super::*;
    use crate::residency::{Limits, Residency, Wanted};

    const TIMING: Timing = Timing {
        time_to_first_token: Duration::from_millis(120),
        time_per_output_token: Duration::from_millis(15),
        load: Duration::from_millis(400),
    };

    async fn generation(bounds: Bounds) -> Generation {
        let house = Residency::new(Limits { capacity: 1, slots: 1, keep_alive: KeepAlive::Forever });
        let wanted = Wanted { model: "m".to_owned(), context_length: 4096, load: TIMING.load, keep_alive: None };
        let slot = house.enter(wanted).await.slot().await;
        let message = Message { role: "user".to_owned(), content: "x".repeat(400), ..Message::default() };
        let prompt = Prompt::new("m".to_owned(), vec![message], None);
        Generation::new(slot, &prompt, bounds, TIMING, Instant::now())
    }

    async fn drain(mut generation: Generation) -> (u32, End) {
        let mut tokens = 0;
        loop {
            match generation.next().await {
                Some(Event::Token(_)) => tokens += 1,
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
        let mut generation = generation(Bounds { context_length: 4096, num_predict: Some(10) }).await;
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
        let (tokens, end) = drain(generation(Bounds { context_length: 4096, num_predict: Some(7) }).await).await;
        assert_eq!((tokens, end.reason), (7, DoneReason::Length));
        assert_eq!(end.metrics.eval_count, Some(7));
        assert_eq!(end.metrics.eval_duration, Some(7 * 15_000_000));
        assert_eq!(end.metrics.total_duration, Some(began.elapsed().as_nanos() as u64));
        assert_eq!(end.metrics.queue_duration(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_a_prompt_that_overflows_to_half_the_context() {
        let (_, fits) = drain(generation(Bounds { context_length: 105, num_predict: Some(0) }).await).await;
        assert_eq!(fits.metrics.prompt_eval_count, Some(104));
        let (tokens, cut) = drain(generation(Bounds { context_length: 104, num_predict: Some(0) }).await).await;
        assert_eq!((tokens, cut.metrics.prompt_eval_count, cut.metrics.eval_count), (0, Some(52), None));
    }
}
