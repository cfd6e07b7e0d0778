//! The bench against servers whose truth is known: the stand-in engine on its exact clock, and one of raw bytes.
//!
//! Invariant: nothing here rests on the machine being quick: a busy one makes answers later, never earlier, so what is
//! claimed of times is that they are not below the truth, and in which order they stand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread::{self, JoinHandle},
    time::Duration,
};

use ops::bench::{
    Event, Options, Outcome, Own, Patience,
    endpoint::Endpoint,
    load::Spacing,
    measure,
    prompt::Prompts,
    record::{Objectives, Record},
    stream::Api,
};
use ops::hardware::Hardware;
use stack::failure::Class;
use tempfile::TempDir;
use tokio::sync::oneshot;

const MODEL: &str = "llama3.2:3b";

/// A stand-in engine of its own, on a thread; gone when dropped.
struct Engine {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Engine {
    fn new(scenarios: &str, slots: u32) -> Engine {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("scenarios.toml");
        std::fs::write(&file, scenarios).unwrap();
        let options = sandbox::Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: vec![MODEL.to_owned()],
            timing: sandbox::Timing {
                time_to_first_token: Duration::from_millis(40),
                time_per_output_token: Duration::from_millis(2),
                load: Duration::from_millis(30),
            },
            num_parallel: slots,
            scenarios: Some(file),
            ..sandbox::Options::new(folder.path().join("models"))
        };
        let (told, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = sandbox::Server::bind(options).await.unwrap();
                told.send(server.address()).unwrap();
                // At once, with whatever is under way: as a process that is killed.
                tokio::select! {
                    _ = server.run(std::future::pending()) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Engine { address: address.recv().unwrap(), stop: Some(stop), thread: Some(thread), _folder: folder }
    }

    fn kill(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn options(address: SocketAddr, requests: usize) -> Options {
    Options {
        endpoint: Endpoint::parse(&address.to_string(), None).unwrap(),
        api: Api::Native,
        is_cold: false,
        own: Some(Own {
            name: "test".to_owned(),
            prompts: Prompts::Synthetic { input_tokens: 30, output_tokens: 20 },
            concurrency: vec![1],
            rate: None,
            requests: Some(requests),
            duration: None,
        }),
        slots: 1,
        hardware: Hardware::default(),
        warm_up: 0,
        objectives: Objectives::default(),
        seed: 7,
        patience: Patience::default(),
    }
}

fn ask(options: &Options) -> Outcome {
    measure(MODEL, MODEL, options, &mut |_| true).unwrap()
}

#[test]
fn what_is_measured_is_what_the_engine_did() {
    let engine = Engine::new("", 4);
    let mut four = options(engine.address, 24);
    four.own.as_mut().unwrap().concurrency = vec![4];
    (four.slots, four.warm_up, four.is_cold) = (4, 1, true);
    let outcome = ask(&four);
    let [cold, warm] = &outcome.runs[..] else { panic!("a cold start and a run") };
    assert!(cold.ttft_ms.mean.unwrap() >= 70.0 && cold.load_ms.mean == Some(30.0), "{cold:?}");
    assert_eq!((warm.requests, warm.errors, warm.cut, warm.ttft_ms.n), (24, 0, 0, 24));
    assert!(warm.ttft_ms.p50.unwrap() >= 40.0 && warm.ttft_ms.p99.is_none(), "{warm:?}");
    assert_eq!(warm.decode_tokens_per_second, Some(500.0));
    for record in outcome.records.iter().filter(|it| it.run == 1) {
        let tokens = record.output_tokens.unwrap() as usize;
        assert_eq!(record.chunks_ms.len(), tokens);
        assert!(record.e2e_ms.unwrap() >= 40.0 + 2.0 * (tokens - 1) as f64, "{record:?}");
        assert_eq!(record.server.unwrap().load_ms, 0.0, "no request reloads the model");
        assert_eq!(record.server.unwrap().prompt_ms, 40.0, "no prompt was in the cache");
    }
    assert_eq!(outcome.model.context_length, Some(32_768));
    assert_eq!(outcome.model.name, MODEL);
    assert!(outcome.model.digest.is_some() && outcome.model.resident_bytes.is_some());
    assert!(outcome.engine.is_synthetic && outcome.warnings[0].contains("stand-in"));
}

#[test]
fn openai_is_measured_by_the_same_definitions() {
    let engine = Engine::new("[[reply]]\nthinking = 'a b c'\ntext = 'd e f g'\n", 1);
    let outcome = ask(&Options { api: Api::OpenAi, ..options(engine.address, 3) });
    for record in &outcome.records {
        assert_eq!((record.output_tokens, record.error.as_deref()), (Some(7), None));
        assert!(record.ttfo_ms.unwrap() - record.ttft_ms.unwrap() >= 0.0 && record.chunks_ms.len() == 7);
    }
    assert_eq!((outcome.runs[0].ttft_ms.n, outcome.runs[0].decode_tokens_per_second), (3, None));
}

#[test]
fn thinking_counts_as_tokens_and_not_as_output() {
    let engine = Engine::new("[[reply]]\nthinking = 'one two three four five'\ntext = 'six seven'\n", 1);
    let outcome = ask(&options(engine.address, 5));
    for record in &outcome.records {
        assert_eq!((record.chunks_ms.len(), record.output_tokens), (7, Some(7)));
        assert_eq!(record.ttfo_ms, Some(record.chunks_ms[5]));
        assert_eq!(record.ttft_ms, Some(record.chunks_ms[0]));
    }
}

#[test]
fn bursts_do_not_change_the_time_a_token() {
    let engine = Engine::new("[[reply]]\nburst = 10\n", 1);
    let outcome = ask(&options(engine.address, 5));
    for record in outcome.records.iter().filter(|it| it.output_tokens == Some(20)) {
        // Two groups of ten: the first is told when its last token is made, the second ten tokens later.
        assert!(record.ttft_ms.unwrap() >= 40.0 + 9.0 * 2.0);
        assert!(record.e2e_ms.unwrap() >= 40.0 + 19.0 * 2.0);
        let by_definition = (record.e2e_ms.unwrap() - record.ttft_ms.unwrap()) / 19.0;
        assert_eq!(record.itl_ms(), Some(by_definition));
    }
}

#[test]
fn every_failure_is_counted_under_its_name() {
    let engine = Engine::new(
        "[[reply]]\ntimes = 2\nstatus = 503\nerror = 'server busy'\n\
         [[reply]]\ntimes = 1\nerror_after = 3\nerror = 'out of memory'\n\
         [[reply]]\ntimes = 1\ndie_after = 4\n\
         [[reply]]\ntimes = 1\nmalformed_after = 2\n\
         [[reply]]\ntimes = 1\nstall_after = 5\nstall_ms = 600000\n",
        1,
    );
    let patience = Patience { stall: Duration::from_millis(700), ..Patience::default() };
    let outcome = ask(&Options { patience, ..options(engine.address, 9) });
    let run = &outcome.runs[0];
    assert_eq!((run.requests, run.errors, run.cut, run.ttft_ms.n), (9, 6, 0, 3), "{run:?}");
    let named =
        |start: &str| run.error_counts.iter().filter(|it| it.0.starts_with(start)).map(|it| *it.1).sum::<usize>();
    for (start, count) in [
        ("503: server busy", 2),
        ("out of memory", 1),
        ("the connection ended in the middle", 1),
        ("a line that is no chunk", 1),
        ("nothing came for 0.7 s", 1),
    ] {
        assert_eq!(named(start), count, "{start}: {:?}", run.error_counts);
    }
    let partial =
        |start: &str| outcome.records.iter().find(|it| it.error.as_ref().is_some_and(|it| it.starts_with(start)));
    assert_eq!(partial("out of memory").unwrap().chunks_ms.len(), 3, "what came is kept");
    assert_eq!(partial("nothing came").unwrap().chunks_ms.len(), 5);
}

#[test]
fn a_pause_of_the_server_is_in_the_response_latency() {
    // One slot, 20 requests a second; the first answer stalls for 2 s and holds up all that come meanwhile.
    let engine = Engine::new("[[reply]]\ntimes = 1\nstall_ms = 2000\n[[reply]]\ntime_to_first_token_ms = 1\n", 1);
    let mut open = options(engine.address, 120);
    let own = open.own.as_mut().unwrap();
    own.rate = Some((20.0, Spacing::Constant));
    own.prompts = Prompts::Synthetic { input_tokens: 30, output_tokens: 3 };
    let outcome = ask(&open);
    let run = &outcome.runs[0];
    assert_eq!((run.requests, run.errors), (120, 0));
    assert!(run.response_ms.unwrap().p99.unwrap() > 1500.0, "{:?}", run.response_ms);
    let waited = |it: &&Record| it.response_ms().unwrap() > 500.0;
    assert!(outcome.records.iter().filter(waited).count() >= 25, "requests did not wait for answers to be sent");
    assert!(run.label.is_queueing && run.label.concurrency >= 25, "{:?}", run.label);
}

#[test]
fn an_interrupted_run_keeps_what_came() {
    let engine = Engine::new("", 1);
    let mut stop_after_three = |event: Event<'_>| match event {
        Event::Running { progress, .. } => progress.ended < 3,
        _ => true,
    };
    let outcome = measure(MODEL, MODEL, &options(engine.address, 1000), &mut stop_after_three).unwrap();
    assert_eq!(outcome.broken_off.as_deref(), Some("interrupted"));
    let run = &outcome.runs[0];
    assert!(run.ttft_ms.n >= 3 && run.errors == 0 && run.requests < 1000, "{run:?}");
    assert_eq!(run.requests, run.ttft_ms.n + run.cut);
}

#[test]
fn an_engine_that_dies_in_the_middle_leaves_a_partial_result() {
    let mut engine = Engine::new("", 1);
    let options = options(engine.address, 8);
    let mut kill_after_three = |event: Event<'_>| {
        if matches!(event, Event::Running { progress, .. } if progress.ended >= 3) {
            engine.kill();
        }
        true
    };
    let mut twice = options.clone();
    twice.own.as_mut().unwrap().concurrency = vec![1, 1, 1];
    let outcome = measure(MODEL, MODEL, &twice, &mut kill_after_three).unwrap();
    assert_eq!(outcome.broken_off.as_deref(), Some("the engine stopped answering"));
    assert_eq!(outcome.runs.len(), 2, "the third run has nobody to ask");
    assert!(outcome.runs[0].ttft_ms.n >= 3 && outcome.runs[1].errors == 8, "{:?}", outcome.runs);
    let down = measure(MODEL, MODEL, &options, &mut |_| true).unwrap_err();
    assert_eq!(down.class, Class::Unreachable);
}

#[test]
fn an_absent_model_offers_the_pull() {
    let engine = Engine::new("", 1);
    let absent = measure("nobody:7b", MODEL, &options(engine.address, 1), &mut |_| true).unwrap_err();
    assert_eq!(
        (absent.class, absent.hint.as_deref()),
        (Class::Nothing, Some("pull it: cargo xtask model pull nobody:7b"))
    );
    assert_eq!(measure("llama3.2", "x:1", &options(engine.address, 1), &mut |_| true).unwrap().model.name, MODEL);
}

/// Answers every connection with these pieces, each a write of its own, the way between them as long as a client takes
/// to see them apart.
fn raw(pieces: &'static [&'static str], connections: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten().take(connections) {
            let mut stream = stream;
            let mut request = [0; 4096];
            // The first bytes are the request's head, which is all that tells the paths apart.
            let read = stream.read(&mut request).unwrap_or(0);
            let head = String::from_utf8_lossy(&request[..read]).into_owned();
            let _ = stream.set_nodelay(true);
            if !head.contains("/v1/chat/completions") {
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
            for piece in pieces {
                let _ = stream.write_all(piece.as_bytes());
                thread::sleep(Duration::from_millis(30));
            }
        }
    });
    address
}

#[test]
fn many_events_in_a_read_and_one_over_many_reads_are_told_apart() {
    let address = raw(
        &[
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: {\"cho",
            "ices\":[{\"delta\":{\"con",
            "tent\":\"c\"}}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
        ],
        20,
    );
    let outcome = ask(&Options { api: Api::OpenAi, ..options(address, 2) });
    assert_eq!(outcome.engine.version, None);
    let record = &outcome.records[0];
    assert_eq!((record.error.as_deref(), record.output_tokens), (None, Some(3)));
    let [a, b, c] = record.chunks_ms[..] else { panic!("three chunks: {record:?}") };
    assert_eq!(a, b, "one read, one moment");
    assert!(
        a >= 30.0 && c - b >= 60.0,
        "the empty first chunk is no token, and a cut one comes with its end: {record:?}"
    );
}
