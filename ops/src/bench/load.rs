//! Sends requests, at a time or at a rate, and keeps what came.
//!
//! With a rate the schedule is computed before the first request and never waits for an answer: a server that pauses
//! finds the requests of its pause waiting, as real users would be.
//!
//! Invariant: every request that began is one record, however it ended.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    runtime,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    client::{Client, Patience, Sent},
    endpoint::Endpoint,
    prompt::Prompts,
    record::Record,
    stream::{Api, Reader},
};

/// How often someone is asked whether to go on, and told how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A worker that was refused takes a breath: an endpoint that is gone would be asked thousands of times a second.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// More requests than this are a mistake in writing, and all of the schedule is in memory.
const MOST_REQUESTS: usize = 1_000_000;

/// Of every request: the likeliest token each time.
pub(super) const TEMPERATURE: f64 = 0.0;

/// When requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// So many at a time: the next when one is answered.
    Concurrent(usize),
    /// So many a second, whatever becomes of them.
    Rate(f64, Spacing),
}

/// How requests of a rate are spaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// Evenly.
    Constant,
    /// By chance, as independent users come.
    #[default]
    Poisson,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub endpoint: Endpoint,
    /// In which API.
    pub api: Api,
    /// As the engine lists it.
    pub model: String,
    /// Named in every request, so that none reloads the model: what it was loaded with.
    pub context_length: Option<u32>,
    /// Named where the model can.
    pub think: Option<bool>,
    /// What is asked.
    pub prompts: Prompts,
    /// When.
    pub arrival: Arrival,
    /// How many at most.
    pub requests: usize,
    /// No request begins after this.
    pub duration: Duration,
    /// What then still runs may take this long.
    pub grace: Duration,
    /// How long nothing may come.
    pub patience: Patience,
    /// Of prompts, arrivals and the model's sampler.
    pub seed: u64,
    /// Of the first prompt: no two runs of a result share one.
    pub first_prompt: usize,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Requests that have ended.
    pub ended: usize,
    /// Of these failed.
    pub errors: usize,
    /// Since the run's start.
    pub elapsed: Duration,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Came {
    /// In the order in which they ended.
    pub records: Vec<Record>,
    /// Most requests at a time.
    pub peak: usize,
}

impl Load {
    /// When each request of a rate is due, from the run's start.
    fn schedule(&self) -> Vec<Duration> {
        let Arrival::Rate(rate, spacing) = self.arrival else { return Vec::new() };
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut due = 0.0;
        let mut times = Vec::new();
        while times.len() < self.requests.min(MOST_REQUESTS) && due < self.duration.as_secs_f64() {
            times.push(Duration::from_secs_f64(due));
            due = match spacing {
                Spacing::Constant => times.len() as f64 / rate,
                // Exponential gaps; the logarithm's argument is in (0, 1].
                Spacing::Poisson => due - (1.0 - random.f64()).ln() / rate,
            };
        }
        times
    }

    fn body(&self, index: usize) -> (Bytes, u32) {
        let prompt = self.prompts.make(self.first_prompt + index, self.seed);
        let messages = json!([{ "role": "user", "content": prompt.text }]);
        let body = match self.api {
            Api::Native => {
                let mut options =
                    json!({ "num_predict": prompt.output_tokens, "seed": self.seed, "temperature": TEMPERATURE });
                if let Some(context) = self.context_length {
                    options["num_ctx"] = context.into();
                }
                let mut body = json!({ "model": self.model, "messages": messages, "stream": true, "options": options });
                if let Some(think) = self.think {
                    body["think"] = think.into();
                }
                body
            }
            Api::OpenAi => json!({
                "model": self.model, "messages": messages, "stream": true, "stream_options": { "include_usage": true },
                // `max_completion_tokens` is not read by Ollama.
                "max_tokens": prompt.output_tokens, "seed": self.seed, "temperature": TEMPERATURE,
            }),
        };
        (body.to_string().into(), prompt.output_tokens)
    }

    fn path(&self) -> &'static str {
        match self.api {
            Api::Native => "/api/chat",
            Api::OpenAi => "/v1/chat/completions",
        }
    }

    /// Carries it out, on a runtime of its own on this thread. `look` is told how far it is several times a second, and
    /// ends the run by saying false: what is under way is then cut off.
    ///
    /// # Errors
    ///
    /// If the system gives no runtime.
    pub fn run(&self, look: &mut dyn FnMut(Progress) -> bool) -> io::Result<Came> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(self.drive(look)))
    }

    async fn drive(&self, look: &mut dyn FnMut(Progress) -> bool) -> Came {
        let client = Client::new(self.endpoint.clone(), self.patience);
        if let Arrival::Concurrent(concurrency) = self.arrival {
            client.warm(concurrency.min(self.requests)).await;
        }
        let (ending, ended) = watch::channel(false);
        let (told, mut records) = mpsc::unbounded_channel();
        let began = Instant::now();
        let run = Arc::new(Running {
            load: self.clone(),
            client,
            began,
            ended,
            told,
            next: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            is_ending: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        match self.arrival {
            Arrival::Concurrent(concurrency) => {
                (0..concurrency.min(self.requests)).for_each(|_| drop(tasks.spawn(Arc::clone(&run).work())));
            }
            Arrival::Rate(..) => drop(tasks.spawn(Arc::clone(&run).follow(self.schedule()))),
        }
        let mut came = Came::default();
        let mut progress = Progress::default();
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    progress.elapsed = began.elapsed();
                    let is_over = progress.elapsed > self.duration + self.grace;
                    if !look(progress) || is_over {
                        run.is_ending.store(true, Ordering::Relaxed);
                        ending.send_replace(true);
                    }
                }
                Some(record) = records.recv() => {
                    let record: Record = record;
                    progress.ended += 1;
                    progress.errors += usize::from(record.error.is_some() && !record.is_cut);
                    came.records.push(record);
                }
                finished = tasks.join_next() => if finished.is_none() { break },
            }
        }
        while let Ok(record) = records.try_recv() {
            came.records.push(record);
        }
        came.peak = run.peak.load(Ordering::Relaxed);
        came
    }
}

/// A run under way.
struct Running {
    load: Load,
    client: Client,
    began: Instant,
    /// True: enough.
    ended: watch::Receiver<bool>,
    told: mpsc::UnboundedSender<Record>,
    next: AtomicUsize,
    active: AtomicUsize,
    peak: AtomicUsize,
    is_ending: AtomicBool,
}

impl Running {
    /// One of those who ask at a time.
    async fn work(self: Arc<Self>) {
        while !self.is_ending.load(Ordering::Relaxed) && self.began.elapsed() < self.load.duration {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.load.requests {
                return;
            }
            if !self.ask(index, None).await {
                sleep(AFTER_ERROR).await;
            }
        }
    }

    /// Begins each request when it is due.
    async fn follow(self: Arc<Self>, schedule: Vec<Duration>) {
        let mut asking = JoinSet::new();
        let mut ended = self.ended.clone();
        for (index, due) in schedule.into_iter().enumerate() {
            tokio::select! {
                () = sleep_until(self.began + due) => {}
                _ = ended.wait_for(|ended| *ended) => break,
            }
            let run = Arc::clone(&self);
            asking.spawn(async move { run.ask(index, Some(due)).await });
            // Those that have ended would pile up otherwise.
            while asking.try_join_next().is_some() {}
        }
        while asking.join_next().await.is_some() {}
    }

    /// One request; whether a whole answer came.
    async fn ask(&self, index: usize, due: Option<Duration>) -> bool {
        let active = self.active.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(active, Ordering::Relaxed);
        let (body, target_tokens) = self.load.body(index);
        let began = self.began.into_std();
        let mut sent: Option<Sent> = None;
        let attempted = began.elapsed();
        let mut reader = Reader::new(self.load.api);
        let mut ended = self.ended.clone();
        let asked = tokio::select! {
            asked = self.client.ask(self.load.path(), body, &mut sent, &mut reader) => Some(asked),
            _ = ended.wait_for(|ended| *ended) => None,
        };
        let sent = sent.map_or(attempted, |sent| sent.at.saturating_duration_since(began));
        let closed = began.elapsed().saturating_sub(sent);
        let mut record = match asked {
            Some(Ok(())) => Record::of(reader.finish(closed), sent, closed, target_tokens),
            Some(Err(error)) => {
                let seen = reader.abandon();
                Record { error: Some(error), ..Record::of(seen, sent, closed, target_tokens) }
            }
            None => Record { is_cut: true, ..Record::of(reader.abandon(), sent, closed, target_tokens) },
        };
        record.scheduled_ms = due.map(|due| due.as_micros() as f64 / 1e3);
        let is_whole = record.is_whole();
        self.active.fetch_sub(1, Ordering::Relaxed);
        // Nobody listens any more only if the run itself was dropped.
        let _ = self.told.send(record);
        is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(arrival: Arrival) -> Load {
        Load {
            endpoint: Endpoint::parse("127.0.0.1:1", None).unwrap(),
            api: Api::Native,
            model: "m".to_owned(),
            context_length: None,
            think: None,
            prompts: Prompts::Synthetic { input_tokens: 20, output_tokens: 8 },
            arrival,
            requests: 10_000,
            duration: Duration::from_secs(100),
            grace: Duration::ZERO,
            patience: Patience::default(),
            seed: 1,
            first_prompt: 0,
        }
    }

    #[test]
    fn a_schedule_keeps_its_rate_and_its_seed() {
        let constant = load(Arrival::Rate(50.0, Spacing::Constant)).schedule();
        assert_eq!(
            (constant.len(), constant[1], constant[4999]),
            (5000, Duration::from_millis(20), Duration::from_millis(99_980))
        );
        let poisson = load(Arrival::Rate(50.0, Spacing::Poisson));
        let schedule = poisson.schedule();
        // The count of a Poisson process of 5000 deviates by 71.
        assert!((4700..5300).contains(&schedule.len()), "{}", schedule.len());
        assert_eq!(schedule, poisson.schedule());
        // Exponential gaps: their deviation is their mean.
        let gaps: Vec<f64> = schedule.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let (mean, deviation) =
            (super::super::statistic::mean(&gaps).unwrap(), super::super::statistic::deviation(&gaps).unwrap());
        assert!((deviation / mean - 1.0).abs() < 0.1, "{deviation} / {mean}");
    }

    #[test]
    fn requests_pin_what_would_change_the_answer() {
        let pinned = Load { context_length: Some(4096), think: Some(true), ..load(Arrival::Concurrent(1)) };
        let body: serde_json::Value = serde_json::from_slice(&pinned.body(0).0).unwrap();
        assert_eq!(body["think"], true);
        assert_eq!(body["options"], json!({ "num_predict": 8, "seed": 1, "temperature": 0.0, "num_ctx": 4096 }));
        assert_ne!(pinned.body(0).0, pinned.body(1).0);
    }

    #[test]
    fn an_endpoint_that_is_gone_is_an_error_a_request() {
        let gone = Load { requests: 3, ..load(Arrival::Concurrent(2)) };
        let came = gone.run(&mut |_| true).unwrap();
        assert_eq!(came.records.len(), 3);
        assert!(
            came.records.iter().all(|it| it.error.as_ref().is_some_and(|error| error.starts_with("cannot connect")))
        );
    }
}
