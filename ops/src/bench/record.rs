//! One request as it was, and what many of them say together.
//!
//! Invariant: every request that was sent is counted once: it was answered, failed, or was cut off by the end of the
//! run. Only whole answers enter a distribution. Definitions and schema: `docs/bench.md`.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    statistic::{Distribution, mean, median},
    stream::Seen,
};

/// Server and client may differ by this much before it is worth a word.
const TOLERATED: f64 = 0.05;

/// Answers this far from the length asked for make another workload.
const LENGTH: std::ops::RangeInclusive<f64> = 0.9..=1.1;

/// One request; a line of `records.jsonl`. Milliseconds; moments of an answer count from `sent_ms`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which run of the result it belongs to.
    pub run: usize,
    /// When it was due, from the run's start: with a rate only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scheduled_ms: Option<f64>,
    /// When it was written, from the run's start; when it should have been, if it never was.
    pub sent_ms: f64,
    /// First chunk that said, thought or called something.
    pub ttft_ms: Option<f64>,
    /// First chunk that said something.
    pub ttfo_ms: Option<f64>,
    /// Last chunk that said, thought or called something.
    pub e2e_ms: Option<f64>,
    /// The end of the stream, or of the attempt.
    pub closed_ms: f64,
    /// Every chunk that said, thought or called something.
    pub chunks_ms: Vec<f64>,
    /// As the engine counts them.
    pub output_tokens: Option<u64>,
    /// As the engine counts them.
    pub prompt_tokens: Option<u64>,
    /// Asked for.
    pub target_tokens: u32,
    /// By the engine's clock; the native API only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<Server>,
    /// Why it ended.
    pub done_reason: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The run ended before the answer did.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_cut: bool,
}

/// An answer by the engine's own clock, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Everything, the wait for a slot included.
    pub total_ms: f64,
    /// Until the model was in memory.
    pub load_ms: f64,
    /// The prompt.
    pub prompt_ms: f64,
    /// The answer.
    pub eval_ms: f64,
    /// What the parts leave of the total: the wait for a slot.
    pub queue_ms: f64,
}

impl Record {
    /// From what was seen of an answer.
    pub fn of(seen: Seen, sent: Duration, closed: Duration, target_tokens: u32) -> Record {
        let ns = |value: Option<u64>| value.unwrap_or(0) as f64 / 1e6;
        let server = seen.metrics.filter(|it| it.total_duration.is_some()).map(|it| Server {
            total_ms: ns(it.total_duration),
            load_ms: ns(it.load_duration),
            prompt_ms: ns(it.prompt_eval_duration),
            eval_ms: ns(it.eval_duration),
            queue_ms: ns(it.queue_duration()),
        });
        Record {
            sent_ms: ms(sent),
            ttft_ms: seen.chunks.first().copied().map(ms),
            ttfo_ms: seen.output.map(ms),
            e2e_ms: seen.chunks.last().copied().map(ms),
            closed_ms: ms(closed),
            chunks_ms: seen.chunks.into_iter().map(ms).collect(),
            output_tokens: seen.output_tokens,
            prompt_tokens: seen.prompt_tokens,
            target_tokens,
            server,
            done_reason: seen.done_reason,
            error: seen.error,
            ..Record::default()
        }
    }

    /// Whether a whole answer came.
    pub fn is_whole(&self) -> bool {
        self.error.is_none() && !self.is_cut
    }

    /// Milliseconds a token: (last − first) / (n − 1), by the engine's count of tokens.
    pub fn itl_ms(&self) -> Option<f64> {
        let gaps = self.output_tokens?.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((self.e2e_ms? - self.ttft_ms?) / gaps as f64)
    }

    /// From when it was due to the last chunk; without a rate the same as E2E.
    pub fn response_ms(&self) -> Option<f64> {
        Some(self.e2e_ms? + self.sent_ms - self.scheduled_ms.unwrap_or(self.sent_ms))
    }

    fn is_off_length(&self) -> bool {
        let share = |tokens: u64| tokens as f64 / f64::from(self.target_tokens);
        self.output_tokens.is_some_and(|tokens| !LENGTH.contains(&share(tokens)))
    }

    fn server_rate(&self) -> Option<f64> {
        let eval_ms = self.server?.eval_ms;
        (eval_ms > 0.0).then_some(self.output_tokens? as f64 / eval_ms * 1e3)
    }
}

/// To the microsecond: more is noise, and makes the file three times as long.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// What an answer has to keep to be good; absent is no wish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Objectives {
    /// Longest time to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Longest time a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itl_ms: Option<f64>,
    /// Longest time to the last token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e2e_ms: Option<f64>,
}

impl Objectives {
    /// Whether there is no wish at all.
    pub fn are_none(&self) -> bool {
        *self == Objectives::default()
    }

    fn are_met(&self, record: &Record) -> bool {
        let keeps =
            |limit: Option<f64>, value: Option<f64>| limit.is_none_or(|limit| value.is_some_and(|it| it <= limit));
        record.is_whole()
            && keeps(self.ttft_ms, record.ttft_ms)
            && keeps(self.itl_ms, record.itl_ms())
            && keeps(self.e2e_ms, record.e2e_ms)
    }
}

/// What a run was to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// What was asked.
    pub scenario: String,
    /// Requests at a time; with a rate, the most that there were.
    pub concurrency: usize,
    /// Requests a second, if they came by a schedule of their own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate_per_second: Option<f64>,
    /// More requests at a time than the engine has slots: the rest waits.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_queueing: bool,
}

/// What the requests of a run say together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What it was to be.
    #[serde(flatten)]
    pub label: Label,
    /// Sent.
    pub requests: usize,
    /// Of these failed.
    pub errors: usize,
    /// Of these cut off by the end of the run.
    pub cut: usize,
    /// From the first send to the last end.
    pub window_s: f64,
    /// Time to the first token.
    pub ttft_ms: Distribution,
    /// Time to the first output.
    pub ttfo_ms: Distribution,
    /// Time a token.
    pub itl_ms: Distribution,
    /// Time to the last token.
    pub e2e_ms: Distribution,
    /// From when it was due to the last token: with a rate only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub response_ms: Option<Distribution>,
    /// Waiting for a slot, by the engine's clock.
    pub queue_ms: Distribution,
    /// Until the model was in memory, by the engine's clock.
    pub load_ms: Distribution,
    /// Of whole answers, over the window.
    pub output_tokens_per_second: f64,
    /// Whole answers, over the window.
    pub requests_per_second: f64,
    /// Answers that met every objective, over the window.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goodput_per_second: Option<f64>,
    /// Tokens a second of one stream by the engine's clock, the median.
    pub decode_tokens_per_second: Option<f64>,
    /// Prompt tokens a second by the engine's clock, the median. Every prompt was new.
    pub prefill_tokens_per_second: Option<f64>,
    /// How near one stream came to what the memory's bandwidth allows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_percent: Option<f64>,
    /// Tokens of a prompt, the mean.
    pub prompt_tokens: Option<f64>,
    /// Tokens of an answer, the mean.
    pub output_tokens: Option<f64>,
    /// Answers more than 10 % off the length asked for: too many of them are another workload than the one meant.
    pub off_length: usize,
    /// How often answers ended for which reason.
    pub done_reasons: BTreeMap<String, usize>,
    /// How often which error came.
    pub error_counts: BTreeMap<String, usize>,
    /// What a reader has to know.
    pub warnings: Vec<String>,
}

impl Run {
    /// Sums up the records of one run.
    pub fn of(label: Label, records: &[Record], objectives: &Objectives) -> Run {
        let whole: Vec<&Record> = records.iter().filter(|it| it.is_whole()).collect();
        let distribution = |value: &dyn Fn(&Record) -> Option<f64>| {
            Distribution::of(whole.iter().filter_map(|it| value(it)).collect())
        };
        let window_s = window_ms(records) / 1e3;
        let per_second = |count: f64| if window_s > 0.0 { count / window_s } else { 0.0 };
        let tokens: Vec<f64> = whole.iter().filter_map(|it| Some(it.output_tokens? as f64)).collect();
        let prompts: Vec<f64> = whole.iter().filter_map(|it| Some(it.prompt_tokens? as f64)).collect();
        let prefill = |it: &&Record| {
            let prompt_ms = it.server?.prompt_ms;
            (prompt_ms > 0.0).then_some(it.prompt_tokens? as f64 / prompt_ms * 1e3)
        };
        Run {
            requests: records.len(),
            errors: records.iter().filter(|it| it.error.is_some() && !it.is_cut).count(),
            cut: records.iter().filter(|it| it.is_cut).count(),
            window_s,
            ttft_ms: distribution(&|it| it.ttft_ms),
            ttfo_ms: distribution(&|it| it.ttfo_ms),
            itl_ms: distribution(&Record::itl_ms),
            e2e_ms: distribution(&|it| it.e2e_ms),
            response_ms: label.rate_per_second.map(|_| distribution(&Record::response_ms)),
            queue_ms: distribution(&|it| Some(it.server?.queue_ms)),
            load_ms: distribution(&|it| Some(it.server?.load_ms)),
            output_tokens_per_second: per_second(tokens.iter().sum()),
            requests_per_second: per_second(whole.len() as f64),
            goodput_per_second: (!objectives.are_none())
                .then(|| per_second(records.iter().filter(|it| objectives.are_met(it)).count() as f64)),
            decode_tokens_per_second: median(whole.iter().filter_map(|it| it.server_rate()).collect()),
            prefill_tokens_per_second: median(whole.iter().filter_map(prefill).collect()),
            limit_percent: None,
            prompt_tokens: mean(&prompts),
            output_tokens: mean(&tokens),
            off_length: whole.iter().filter(|it| it.is_off_length()).count(),
            done_reasons: count(whole.iter().filter_map(|it| it.done_reason.as_ref())),
            error_counts: count(records.iter().filter(|it| !it.is_cut).filter_map(|it| it.error.as_ref())),
            warnings: warnings(&label, &whole),
            label,
        }
    }

    /// The metrics that a comparison is about, each with whether less of it is better.
    pub fn metrics(&self) -> [(&'static str, Option<f64>, bool); 3] {
        let rate = (self.output_tokens_per_second > 0.0).then_some(self.output_tokens_per_second);
        [("TTFT p50", self.ttft_ms.p50, true), ("ITL p50", self.itl_ms.p50, true), ("tokens/s", rate, false)]
    }
}

fn window_ms(records: &[Record]) -> f64 {
    let counted = || records.iter().filter(|it| !it.is_cut);
    let first = counted().map(|it| it.sent_ms).fold(f64::INFINITY, f64::min);
    let last = counted().map(|it| it.sent_ms + it.closed_ms).fold(0.0, f64::max);
    (last - first).max(0.0)
}

fn count<'a>(words: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    words.fold(BTreeMap::new(), |mut counts, word| {
        *counts.entry(word.clone()).or_default() += 1;
        counts
    })
}

fn warnings(label: &Label, whole: &[&Record]) -> Vec<String> {
    let mut warnings = Vec::new();
    let rates = |it: &&Record| Some((1e3 / it.itl_ms().filter(|itl| *itl > 0.0)?, it.server_rate()?));
    let pairs: Vec<(f64, f64)> = whole.iter().filter_map(rates).collect();
    let (client, server) = (pairs.iter().map(|it| it.0).collect(), pairs.iter().map(|it| it.1).collect());
    if let (Some(client), Some(server)) = (median(client), median(server))
        && (client / server - 1.0).abs() > TOLERATED
    {
        warnings.push(format!(
            "tokens came at {client:.1} a second, the engine says {server:.1}: something between it and this program \
             holds them back or bundles them, or this machine is too busy to measure"
        ));
    }
    let totals = |it: &&Record| Some((it.closed_ms, it.server?.total_ms));
    let pairs: Vec<(f64, f64)> = whole.iter().filter_map(totals).collect();
    let (client, server) = (pairs.iter().map(|it| it.0).collect(), pairs.iter().map(|it| it.1).collect());
    if let (Some(client), Some(server)) = (median(client), median(server))
        && (client / server - 1.0).abs() > TOLERATED
    {
        warnings.push(format!("an answer took {client:.0} ms from here, the engine says {server:.0} ms"));
    }
    if whole.iter().any(|it| it.output_tokens.is_none()) {
        warnings.push("the endpoint counts no tokens: there is no ITL and no rate of tokens".to_owned());
    }
    if label.is_queueing {
        warnings.push("more requests at a time than the engine has slots: TTFT is queueing".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sent: f64, ttft: f64, itl: f64, tokens: u64) -> Record {
        let e2e = ttft + itl * (tokens - 1) as f64;
        Record {
            sent_ms: sent,
            ttft_ms: Some(ttft),
            ttfo_ms: Some(ttft),
            e2e_ms: Some(e2e),
            closed_ms: e2e + itl,
            output_tokens: Some(tokens),
            target_tokens: tokens as u32,
            server: Some(Server {
                total_ms: e2e + itl,
                eval_ms: itl * tokens as f64,
                prompt_ms: ttft,
                ..Server::default()
            }),
            ..Record::default()
        }
    }

    #[test]
    fn itl_is_by_tokens_not_by_chunks() {
        let mut it = record(0.0, 200.0, 20.0, 11);
        it.chunks_ms = vec![200.0, 400.0];
        assert_eq!(it.itl_ms(), Some(20.0));
        it.output_tokens = Some(1);
        assert_eq!(it.itl_ms(), None, "one token has no gap");
    }

    #[test]
    fn failures_are_counted_and_enter_no_distribution() {
        let failed = Record { error: Some("503: busy".into()), ttft_ms: Some(1.0), ..record(0.0, 1.0, 1.0, 2) };
        let cut = Record { is_cut: true, ..record(0.0, 2.0, 1.0, 2) };
        let records = [record(0.0, 100.0, 10.0, 11), record(500.0, 300.0, 10.0, 11), failed, cut];
        let objectives = Objectives { ttft_ms: Some(250.0), ..Objectives::default() };
        let run = Run::of(Label::default(), &records, &objectives);
        assert_eq!((run.requests, run.errors, run.cut, run.ttft_ms.n), (4, 1, 1, 2));
        assert_eq!((run.ttft_ms.p50, run.window_s), (Some(200.0), 0.91));
        assert_eq!(run.error_counts, BTreeMap::from([("503: busy".to_owned(), 1)]));
        assert!((run.output_tokens_per_second - 22.0 / 0.91).abs() < 1e-9);
        assert!((run.goodput_per_second.unwrap() - 1.0 / 0.91).abs() < 1e-9, "neither failures nor late ones are good");
        assert_eq!(run.warnings, [""; 0]);
    }

    #[test]
    fn a_disagreement_with_the_engines_clock_is_said() {
        let mut late = record(0.0, 100.0, 20.0, 11);
        late.server = Some(Server { total_ms: 320.0, eval_ms: 110.0, ..Server::default() });
        let run = Run::of(Label::default(), &[late], &Objectives::default());
        assert_eq!(run.warnings.len(), 1, "{:?}", run.warnings);
        assert!(run.warnings[0].starts_with("tokens came at 50.0 a second, the engine says 100.0"));
    }

    #[test]
    fn response_latency_counts_from_the_schedule() {
        let late = Record { scheduled_ms: Some(100.0), ..record(2100.0, 50.0, 10.0, 2) };
        assert_eq!((late.e2e_ms, late.response_ms()), (Some(60.0), Some(2060.0)));
    }

    #[test]
    fn nothing_of_nothing_is_no_rate() {
        let run = Run::of(Label::default(), &[], &Objectives::default());
        assert_eq!((run.window_s, run.output_tokens_per_second, run.ttft_ms.mean), (0.0, 0.0, None));
    }
}
