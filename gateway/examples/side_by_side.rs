//! The gateway's figures of docs/performance.md, beside nginx as a plain proxy and beside no proxy at all.
//!
//! `cargo run --release -p gateway --example side_by_side`. It needs Linux, nginx and taskset, and two cores: clients and
//! the synthetic engine share the first, what is measured has the second for itself. All take turns, round after round,
//! so that a busy moment hits all of them; figures are medians. Latency is open-loop: from the moment at which a request
//! was due, so that one that waits for a slow one before it is not forgotten.
//!
//! Given the path of a `litellm` (`pip install 'litellm[proxy]'`), it measures that one as well: it is what people put
//! before a model to count and to ask for keys. It speaks OpenAI's dialect, and answers whole.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement that cannot go on has failed")]

use std::{
    env, fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time,
};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
/// Requests a second of the open loop: below what the slowest can do, so that queues do not grow.
const RATE: u64 = 1000;
const STREAMS: usize = 1000;
const TOKEN_INTERVAL: Duration = Duration::from_millis(50);

const TOKEN: &str = "{\"model\":\"m:1\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\",\
                     \"message\":{\"role\":\"assistant\",\"content\":\" token\"},\"done\":false}\n";
const WHOLE: &str = "{\"id\":\"1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\
                     \"message\":{\"role\":\"assistant\",\"content\":\" token\"},\"finish_reason\":\"stop\"}],\
                     \"usage\":{\"prompt_tokens\":26,\"completion_tokens\":1,\"total_tokens\":27}}";
const FINAL: &str = "{\"model\":\"m:1\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\",\
                     \"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\
                     \"total_duration\":50000000,\"load_duration\":1000000,\"prompt_eval_count\":26,\
                     \"prompt_eval_duration\":20000000,\"eval_count\":1,\"eval_duration\":9000000}\n";

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let one_thread = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["engine", listen] => one_thread().block_on(engine(listen.parse().unwrap())),
        ["gateway", listen, upstream] => {
            let options = gateway::Options::new(listen.parse().unwrap(), upstream.parse().unwrap());
            gateway::serve(gateway::Options { slots: 4096, queue: 4096, ..options }).unwrap();
        }
        ["litellm", program] => one_thread().block_on(measure(Some(program))),
        _ => one_thread().block_on(measure(None)),
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Answers at once, or with a token every now and then for as long as somebody listens.
async fn engine(listen: SocketAddr) {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let listener = TcpListener::bind(listen).await.unwrap();
    let answer: Arc<str> = format!("{HEAD}{}{}0\r\n\r\n", chunk(TOKEN), chunk(FINAL)).into();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut read = Vec::new();
            loop {
                read.clear();
                while !is_request(&read) {
                    if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                if read.starts_with(b"GET") {
                    let _ = stream.write_all(json("{\"models\":[{\"name\":\"m:1\"}]}").as_bytes()).await;
                } else if read.starts_with(b"POST /v1/") {
                    let _ = stream.write_all(json(WHOLE).as_bytes()).await;
                } else if read.ends_with(b"\"for ever\"}") {
                    let _ = stream.write_all(HEAD.as_bytes()).await;
                    let mut ticks = time::interval(TOKEN_INTERVAL);
                    let token = chunk(TOKEN);
                    while stream.write_all(token.as_bytes()).await.is_ok() {
                        ticks.tick().await;
                    }
                } else {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
    }
}

fn json(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

/// A GET, or a POST with a body that ends as all of ours do. What comes by LiteLLM has its own words.
fn is_request(read: &[u8]) -> bool {
    if read.starts_with(b"POST /v1/") {
        return memchr::memmem::find(read, b"\r\n\r\n{").is_some() && read.ends_with(b"}");
    }
    read.ends_with(if read.starts_with(b"GET") { b"\r\n\r\n" } else { b"\"}" })
}

fn request(prompt: &str) -> Vec<u8> {
    post("/api/chat", &format!("{{\"model\":\"m:1\",\"prompt\":\"{prompt}\"}}"))
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Something that stands where clients ask.
struct Server {
    name: &'static str,
    address: SocketAddr,
    child: Child,
    request: Arc<[u8]>,
    /// With what an answer ends.
    end: &'static [u8],
}

impl Server {
    fn start(name: &'static str, core: &str, address: SocketAddr, command: &[&str]) -> Self {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", core]).args(command).stdout(Stdio::null()).stderr(Stdio::null());
        let child = pinned.spawn().unwrap();
        Server { name, address, child, request: request("hi").into(), end: b"0\r\n\r\n" }
    }

    /// LiteLLM, with one model that the engine has.
    fn litellm(program: &str, folder: &Path, address: SocketAddr, engine: SocketAddr) -> Self {
        let config = folder.join("litellm.yaml");
        let model = format!("{{ model: openai/m, api_base: \"http://{engine}/v1\", api_key: none }}");
        // Nobody needs a key here, as at the others.
        let open = "general_settings: { dangerously_permit_weak_or_unset_master_key: true }";
        let model = format!("model_list:\n  - model_name: m\n    litellm_params: {model}\n{open}\n");
        fs::write(&config, model).unwrap();
        let (config, port) = (config.display().to_string(), address.port().to_string());
        let command = [program, "--config", &config, "--host", "127.0.0.1", "--port", &port, "--telemetry", "False"];
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let mut server = Server::start("LiteLLM", "1", address, &command);
        (server.request, server.end) = (post("/v1/chat/completions", body).into(), b"}");
        server
    }

    /// The process and its children.
    fn processes(&self) -> Vec<String> {
        let pid = self.child.id().to_string();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_whitespace().map(str::to_owned);
        std::iter::once(pid).chain(children).collect()
    }

    /// Seconds of processor time so far.
    fn cpu_s(&self) -> f64 {
        let ticks = |pid: &String| -> f64 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<f64>().ok()).sum()
        };
        // A tick is a hundredth of a second on every Linux that people run.
        self.processes().iter().map(ticks).sum::<f64>() / 100.0
    }

    fn resident_mib(&self) -> f64 {
        let kib = |pid: &String| -> f64 {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
        };
        self.processes().iter().map(kib).sum::<f64>() / 1024.0
    }

    async fn is_up(&mut self) {
        while TcpStream::connect(self.address).await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "{} has ended before it answered", self.name);
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    end: &'static [u8],
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::with_capacity(4096), end: server.end }
    }

    async fn ask(&mut self, request: &[u8]) {
        self.read.clear();
        self.stream.write_all(request).await.unwrap();
        while !self.read.ends_with(self.end) {
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "closed");
        }
    }
}

/// Requests a second over so many connections, each asking again when it has its answer; and processor time of each.
async fn closed_loop(server: &Server, connections: usize) -> (f64, f64) {
    let request = &server.request;
    let count = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = Client::connect(server).await;
        client.ask(request).await;
        clients.push(client);
    }
    let (began, cpu_s) = (Instant::now(), server.cpu_s());
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let (request, count) = (Arc::clone(request), Arc::clone(&count));
        tasks.spawn(async move {
            while began.elapsed() < ROUND {
                client.ask(&request).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    let count = count.load(Ordering::Relaxed) as f64;
    (count / began.elapsed().as_secs_f64(), (server.cpu_s() - cpu_s) / count * 1e6)
}

/// p50 and p99 in milliseconds of requests that come at a rate, whether or not the ones before are answered.
async fn open_loop(server: &Server) -> (f64, f64) {
    const CONNECTIONS: usize = 32;
    let mut tasks = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let (sender, mut due) = mpsc::unbounded_channel::<Instant>();
        let (mut client, request) = (Client::connect(server).await, Arc::clone(&server.request));
        senders.push(sender);
        tasks.spawn(async move {
            let mut took = Vec::new();
            while let Some(due) = due.recv().await {
                client.ask(&request).await;
                took.push(due.elapsed().as_secs_f64() * 1e3);
            }
            took
        });
    }
    // A thread's clock: the runtime's goes by whole milliseconds, which is more than a request takes.
    let clock = thread::spawn(move || {
        let began = Instant::now();
        for (number, sender) in (0..RATE * ROUND.as_secs()).zip(senders.iter().cycle()) {
            let due = began + Duration::from_secs(number) / RATE as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            sender.send(due).unwrap();
        }
    });
    let mut took = tasks.join_all().await.concat();
    clock.join().unwrap();
    took.sort_by(f64::total_cmp);
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Memory in MiB with a thousand streams open, and processor time in microseconds of each token.
async fn streams(server: &Server) -> (f64, f64) {
    let request: Arc<[u8]> = request("for ever").into();
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..STREAMS {
        let mut client = Client::connect(server).await;
        client.stream.write_all(&request).await.unwrap();
        let count = Arc::clone(&count);
        tasks.spawn(async move {
            loop {
                client.read.clear();
                let bytes = client.stream.read_buf(&mut client.read).await.unwrap();
                assert!(bytes > 0, "closed");
                count.fetch_add((bytes / TOKEN.len()) as u64, Ordering::Relaxed);
            }
        });
    }
    time::sleep(ROUND).await;
    let (before, cpu_s) = (count.load(Ordering::Relaxed), server.cpu_s());
    time::sleep(ROUND).await;
    let tokens = (count.load(Ordering::Relaxed) - before) as f64;
    let figures = (server.resident_mib(), (server.cpu_s() - cpu_s) / tokens * 1e6);
    tasks.shutdown().await;
    figures
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn nginx(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
    let path = folder.join("nginx.conf");
    let folder = folder.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
         fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         keepalive_requests 100000000;\n\
         upstream engine {{ server {upstream}; keepalive 1024; keepalive_requests 100000000; }}\n\
         server {{ listen {listen} backlog=4096; location / {{ proxy_pass http://engine; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_buffering off; }} }} }}\n"
    );
    fs::write(&path, config).unwrap();
    path.display().to_string()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure(litellm: Option<&str>) {
    let pinned =
        Command::new("taskset").args(["-pc", "0", &std::process::id().to_string()]).stdout(Stdio::null()).status();
    assert!(pinned.unwrap().success(), "taskset pins the clients");
    let own = env::current_exe().unwrap().display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let addresses = [free_address().await, free_address().await, free_address().await];
    let [engine, _, gateway_at] = addresses.map(|address| address.to_string());
    let config = nginx(folder.path(), addresses[1], addresses[0]);
    let mut servers = [
        Server::start("direct", "0", addresses[0], &[&own, "engine", &engine]),
        Server::start("nginx", "1", addresses[1], &["nginx", "-c", &config]),
        Server::start("gateway", "1", addresses[2], &[&own, "gateway", &gateway_at, &engine]),
    ];
    let mut litellm = match litellm {
        Some(program) => Some(Server::litellm(program, folder.path(), free_address().await, addresses[0])),
        None => None,
    };
    for server in servers.iter_mut().chain(&mut litellm) {
        server.is_up().await;
    }
    let mut litellm_figures = (Vec::new(), Vec::new());
    let mut rows: Vec<(&str, [Vec<f64>; 3])> = Vec::new();
    let mut note = |name: &'static str, at: usize, value: f64| {
        if rows.iter().all(|(known, _)| *known != name) {
            rows.push((name, Default::default()));
        }
        let row = rows.iter_mut().find(|(known, _)| *known == name).unwrap();
        row.1[at].push(value);
    };
    for round in 1..=ROUNDS {
        for (at, server) in servers.iter().enumerate() {
            eprintln!("round {round} of {ROUNDS}: {}", server.name);
            for (connections, rate, cpu) in [
                (1, "requests/s, 1 connection", ""),
                (64, "requests/s, 64 connections", "CPU µs a request, 64 connections"),
                (1000, "requests/s, 1000 connections", ""),
            ] {
                let (per_s, cpu_us) = closed_loop(server, connections).await;
                note(rate, at, per_s);
                if !cpu.is_empty() {
                    note(cpu, at, cpu_us);
                }
            }
            let (p50, p99) = open_loop(server).await;
            note("latency p50 ms, 1000 requests/s open-loop", at, p50);
            note("latency p99 ms, 1000 requests/s open-loop", at, p99);
            let (mib, token_us) = streams(server).await;
            note("MiB with 1000 streams open", at, mib);
            note("CPU µs a token streamed", at, token_us);
        }
        if let Some(server) = &litellm {
            eprintln!("round {round} of {ROUNDS}: {}", server.name);
            let (per_s, cpu_us) = closed_loop(server, 64).await;
            litellm_figures.0.push(per_s);
            litellm_figures.1.push(cpu_us);
        }
    }
    println!("| what | direct | nginx | gateway | gateway / nginx |");
    println!("|---|---|---|---|---|");
    let mut gateway_figures = (0.0, 0.0);
    for (name, values) in rows {
        let ratios = values[2].iter().zip(&values[1]).map(|(gateway, nginx)| gateway / nginx).collect();
        let [direct, nginx, gateway] = values.map(median);
        match name {
            "requests/s, 64 connections" => gateway_figures.0 = gateway,
            "CPU µs a request, 64 connections" => gateway_figures.1 = gateway,
            _ => {}
        }
        println!("| {name} | {direct:.2} | {nginx:.2} | {gateway:.2} | {:.2} |", median(ratios));
    }
    if litellm.is_some() {
        let (per_s, cpu_us) = (median(litellm_figures.0), median(litellm_figures.1));
        println!("\n| 64 connections | LiteLLM | gateway / LiteLLM |");
        println!("|---|---|---|");
        println!("| requests/s | {per_s:.2} | {:.2} |", gateway_figures.0 / per_s);
        println!("| CPU µs a request | {cpu_us:.2} | {:.4} |", gateway_figures.1 / cpu_us);
    }
}
