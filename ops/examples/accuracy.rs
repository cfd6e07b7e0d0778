//! How right and how dear a measurement is: this bench and its peers against an engine whose truth is known.
//!
//! The stand-in engine runs in a process of its own and answers every request with 64 tokens, the first after 200 ms, one
//! each 20 ms. A bare reader, which stamps bytes and understands nothing, shows what the machine itself adds. What a token
//! costs is the processor time of a long run less that of a short one, so that nobody pays for starting.
//!
//! `cargo run -p ops --example accuracy [-- AIPERF GUIDELLM TOKENIZER]`: the peers' programs and a tokenizer's
//! folder, for both of them; without, only this bench is measured. Needs `/usr/bin/time`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot go on has nothing to say"
)]
#![expect(clippy::disallowed_methods, reason = "what is compared has to be started from outside")]

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ops::bench::{
    Options, Own, Patience, endpoint::Endpoint, measure, prompt::Prompts, record::Objectives, statistic::median,
    stream::Api,
};
use ops::hardware::Hardware;
use serde_json::Value;

const MODEL: &str = "llama3.2:3b";
const TTFT: Duration = Duration::from_millis(200);
const ITL: Duration = Duration::from_millis(20);
const TOKENS: u32 = 64;

/// What a tool said of a run, and what the run took.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    ttft_ms: f64,
    itl_ms: f64,
    errors: f64,
    processor_s: f64,
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("engine") => return engine(Path::new(&args[1])),
        Some("ours") => return ours(&args[1], api(&args[2]), args[3].parse().unwrap(), args[4].parse().unwrap()),
        _ => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::start(folder.path());
    let bench = Bench { address: engine.address.clone(), folder: folder.path().to_owned(), peers: args };
    println!("truth: TTFT {} ms, ITL {} ms, {TOKENS} tokens", TTFT.as_millis(), ITL.as_millis());
    println!("\n| streams | who | TTFT p50 off by | ITL p50 off by | errors |\n|---|---|---|---|---|");
    for (streams, requests) in [(1, 12), (128, 512)] {
        let (ttft, itl) = bare(&engine.address, streams);
        row(streams, "the machine itself (a bare reader)", &Said { ttft_ms: ttft, itl_ms: itl, ..Said::default() });
        for who in bench.tools() {
            match bench.run(who, streams, requests) {
                Some(said) => row(streams, who, &said),
                None => println!("| {streams} | {who} | failed | | |"),
            }
        }
    }
    let held = bench.run("ours, native", 1000, 2000).unwrap_or_default();
    row(1000, "ours, native", &held);
    println!("\n| who | processor time a token, 128 streams | of ours |\n|---|---|---|");
    let mut first = None;
    for who in bench.tools() {
        let (Some(short), Some(long)) = (bench.run(who, 128, 256), bench.run(who, 128, 1280)) else { continue };
        let token = (long.processor_s - short.processor_s) / f64::from(1024 * TOKENS) * 1e6;
        let ours = *first.get_or_insert(token);
        println!("| {who} | {token:.1} µs | {:.1} × |", token / ours);
    }
}

fn row(streams: u32, who: &str, said: &Said) {
    let (ttft, itl) = (said.ttft_ms - TTFT.as_secs_f64() * 1e3, said.itl_ms - ITL.as_secs_f64() * 1e3);
    println!("| {streams} | {who} | {ttft:+.2} ms | {itl:+.3} ms | {} |", said.errors);
}

fn api(name: &str) -> Api {
    if name == "openai" { Api::OpenAi } else { Api::Native }
}

/// The engine's process: writes where it listens, and runs until it is killed.
fn engine(folder: &Path) {
    let text = vec!["word"; TOKENS as usize].join(" ");
    fs::write(folder.join("scenarios.toml"), format!("[[reply]]\ntext = \"{text}\"\n")).unwrap();
    let options = sandbox::Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        seed: vec![MODEL.to_owned()],
        timing: sandbox::Timing { time_to_first_token: TTFT, time_per_output_token: ITL, load: Duration::ZERO },
        num_parallel: 2000,
        max_queue: 4000,
        keep_alive: None,
        scenarios: Some(folder.join("scenarios.toml")),
        ..sandbox::Options::new(folder.join("models"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = sandbox::Server::bind(options).await.unwrap();
        fs::write(folder.join("address.new"), server.address().to_string()).unwrap();
        fs::rename(folder.join("address.new"), folder.join("address")).unwrap();
        server.run(std::future::pending()).await.unwrap();
    });
}

struct Engine {
    child: Child,
    address: String,
}

impl Engine {
    fn start(folder: &Path) -> Engine {
        let child = Command::new(env::current_exe().unwrap()).arg("engine").arg(folder).spawn().unwrap();
        let address = loop {
            if let Ok(address) = fs::read_to_string(folder.join("address")) {
                break address;
            }
            thread::sleep(Duration::from_millis(10));
        };
        Engine { child, address }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Medians of a client that only stamps reads: a thread a stream, two requests each.
fn bare(address: &str, streams: u32) -> (f64, f64) {
    let ask = |index: u32| {
        let body = format!(
            "{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"[{index}-{streams}] go\"}}],\"options\":{{\"num_predict\":{TOKENS}}}}}"
        );
        let head = format!(
            "POST /api/chat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 16 * 1024];
        let sent = Instant::now();
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut moments = Vec::new();
        loop {
            let read = stream.read(&mut buffer).unwrap();
            let at = sent.elapsed();
            if read == 0 {
                break;
            }
            // A text that is said; nothing else has this.
            let said = buffer[..read].windows(8).filter(|it| *it == b"\"content").count();
            moments.extend(std::iter::repeat_n(at, said));
        }
        // The last line's content is empty.
        let tokens = &moments[..moments.len() - 1];
        let gap = (tokens[tokens.len() - 1] - tokens[0]).as_secs_f64() * 1e3 / (tokens.len() - 1) as f64;
        (tokens[0].as_secs_f64() * 1e3, gap)
    };
    let took: Vec<(f64, f64)> = thread::scope(|scope| {
        let each = (0..streams).map(|index| scope.spawn(move || [ask(index * 2), ask(index * 2 + 1)]));
        let each: Vec<_> = each.collect();
        each.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    (median(took.iter().map(|it| it.0).collect()).unwrap(), median(took.iter().map(|it| it.1).collect()).unwrap())
}

/// This bench's process: one run, told as JSON.
fn ours(address: &str, api: Api, streams: usize, requests: usize) {
    let own = Own {
        name: "accuracy".to_owned(),
        prompts: Prompts::Synthetic { input_tokens: 64, output_tokens: TOKENS },
        concurrency: vec![streams],
        rate: None,
        requests: Some(requests),
        duration: None,
    };
    let options = Options {
        endpoint: Endpoint::parse(address, None).unwrap(),
        api,
        is_cold: false,
        own: Some(own),
        slots: 2000,
        hardware: Hardware::default(),
        warm_up: 1,
        objectives: Objectives::default(),
        seed: u64::from(std::process::id()),
        patience: Patience::default(),
    };
    let outcome = measure(MODEL, MODEL, &options, &mut |_| true).unwrap();
    println!("{}", serde_json::to_string(&outcome.runs[0]).unwrap());
}

struct Bench {
    address: String,
    folder: PathBuf,
    peers: Vec<String>,
}

impl Bench {
    fn tools(&self) -> Vec<&'static str> {
        let peers = if self.peers.len() == 3 { vec!["aiperf", "guidellm"] } else { Vec::new() };
        [vec!["ours, native", "ours, openai"], peers].concat()
    }

    /// None if the tool failed; what it said is then on stderr.
    fn run(&self, who: &str, streams: u32, requests: u32) -> Option<Said> {
        let out = self.folder.join(format!("{}-{streams}-{requests}", who.replace([',', ' '], "")));
        fs::create_dir_all(&out).unwrap();
        let itself = env::current_exe().unwrap().display().to_string();
        let Bench { address, peers, .. } = self;
        let place = out.display();
        let line = match who {
            "ours, native" => format!("{itself} ours {address} native {streams} {requests} > {place}/said"),
            "ours, openai" => format!("{itself} ours {address} openai {streams} {requests} > {place}/said"),
            "aiperf" => format!(
                "{} profile --model {MODEL} --url http://{address} --endpoint-type chat --streaming --concurrency {streams} \
                 --request-count {requests} --warmup-request-count 1 --isl 64 --osl {TOKENS} --use-legacy-max-tokens \
                 --use-server-token-count --tokenizer {} --ui none --artifact-dir {place}",
                peers[0], peers[2]
            ),
            _ => format!(
                "{} run --backend kind=openai_http,target=http://{address},model={MODEL},validate_backend=false --profile kind=concurrent,streams={streams} \
                 --constraint kind=max_requests,count={requests} --tokenizer kind=hf_auto,model={} \
                 --data kind=synthetic_text,prompt_tokens=64,output_tokens={TOKENS} --output kind=json,path={place}/said.json \
                 --disable-console --disable-console-interactive",
                peers[1], peers[2]
            ),
        };
        let processor_s = timed(&line, &out)?;
        let said: Value = serde_json::from_str(&fs::read_to_string(file(who, &out)).ok()?).ok()?;
        let said = match who {
            "aiperf" => Said {
                ttft_ms: said["time_to_first_token"]["p50"].as_f64()?,
                itl_ms: said["inter_token_latency"]["p50"].as_f64()?,
                errors: said["error_request_count"]["avg"].as_f64().unwrap_or(0.0),
                processor_s,
            },
            "guidellm" => {
                let metrics = &said["benchmarks"][0]["metrics"];
                let p50 = |name: &str| metrics[name]["successful"]["percentiles"]["p50"].as_f64();
                Said {
                    ttft_ms: p50("time_to_first_token_ms")?,
                    itl_ms: p50("inter_token_latency_ms")?,
                    errors: metrics["request_totals"]["errored"].as_f64().unwrap_or(0.0),
                    processor_s,
                }
            }
            _ => Said {
                ttft_ms: said["ttft_ms"]["p50"].as_f64()?,
                itl_ms: said["itl_ms"]["p50"].as_f64()?,
                errors: said["errors"].as_f64()?,
                processor_s,
            },
        };
        Some(said)
    }
}

fn file(who: &str, out: &Path) -> PathBuf {
    out.join(match who {
        "aiperf" => "profile_export_aiperf.json",
        "guidellm" => "said.json",
        _ => "said",
    })
}

/// Seconds of processor that a shell line took, with all that it started.
fn timed(line: &str, out: &Path) -> Option<f64> {
    let (report, log) = (out.join("time"), fs::File::create(out.join("log")).unwrap());
    let status = Command::new("/usr/bin/time")
        .args(["-f", "%U %S", "-o"])
        .arg(&report)
        .args(["sh", "-c", line])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status()
        .unwrap();
    if !status.success() {
        let log = fs::read_to_string(out.join("log")).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(8).collect();
        eprintln!("failed: {line}\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
        return None;
    }
    let text = fs::read_to_string(&report).ok()?;
    Some(text.lines().last()?.split(' ').filter_map(|it| it.parse::<f64>().ok()).sum())
}
