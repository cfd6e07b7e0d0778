//! A hub of models on loopback: as much of huggingface.co as our verbs, and its own client, ask.
//!
//! Shapes: the list of files from <https://huggingface.co/docs/hub/api> and `list_repo_tree` of `huggingface_hub`; redirects
//! and their headers from `get_hf_file_metadata` in its `file_download.py`; whoever is not logged in hears 401 of what is not
//! there. What it redirects to is storage that knows byte ranges.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What goes wrong, once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Refused with this status.
    Status(&'static str),
    /// The connection ends after so many bytes.
    Cut(usize),
    /// After so many bytes nothing comes any more.
    Stall(usize),
    /// A byte is another.
    Spoilt,
}

#[derive(Default)]
struct State {
    /// By `USER/REPO/PATH`.
    files: BTreeMap<String, Vec<u8>>,
    /// What is asked of everyone. Storage has never heard of it, and refuses it.
    token: Option<&'static str>,
    /// For the next request whose target has this word.
    faults: Vec<(&'static str, Fault)>,
    asked: Vec<String>,
}

/// The hub. It ends with the test binary.
pub(crate) struct Hub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

/// A revision, as all are.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Hub {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hub = Hub { url: url.clone(), state: Arc::default() };
        let state = hub.state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, url) = (state.clone(), url.clone());
                thread::spawn(move || drop(serve(&stream, &state, &url)));
            }
        });
        hub
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Publishes a file as `USER/REPO/PATH`.
    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        self.state().files.insert(path.to_owned(), bytes.to_owned());
    }

    /// Nobody sees anything without this token.
    pub(crate) fn lock(&self, token: &'static str) {
        self.state().token = Some(token);
    }

    pub(crate) fn fail(&self, word: &'static str, fault: Fault) {
        self.state().faults.push((word, fault));
    }

    /// What was asked since the last time: method, target, range.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What git does not keep itself.
fn is_large(path: &str) -> bool {
    [".gguf", ".safetensors", ".model"].iter().any(|ending| path.ends_with(ending))
}

struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: &'static str, headers: String, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, headers, body: body.into() }
    }

    fn json(value: &Value) -> Self {
        Answer::new("200 OK", "content-type: application/json\r\n".to_owned(), value.to_string())
    }

    fn refusal(status: &'static str, why: &str) -> Self {
        Answer { status, ..Answer::json(&json!({"error": why})) }
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>, url: &str) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut head)? > 2 {}
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |wanted: &str| {
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers.find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then_some(value))
    };
    let ranged = header("range").and_then(|value| value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let (mut answer, fault) = {
        let mut state = state.lock().unwrap();
        state.asked.push(format!("{method} {target} {}", ranged.unwrap_or(0)));
        let at = state.faults.iter().position(|(word, _)| method == "GET" && target.contains(word));
        let answer = match state.token {
            Some(_) if target.starts_with("/storage/") && token.is_some() => {
                Answer::refusal("400 Bad Request", "signed twice")
            }
            Some(wanted) if !target.starts_with("/storage/") && token != Some(wanted) => {
                Answer::refusal("401 Unauthorized", "Invalid username or password.")
            }
            _ => answer(&state, target, ranged, url),
        };
        (answer, at.map(|at| state.faults.remove(at).1))
    };
    let mut sent = answer.body.len();
    match fault {
        Some(Fault::Status(status)) => {
            answer = Answer::refusal(status, "as the test has it");
            sent = answer.body.len();
        }
        Some(Fault::Cut(bytes) | Fault::Stall(bytes)) => sent = bytes.min(sent),
        Some(Fault::Spoilt) => *answer.body.last_mut().unwrap() ^= 1,
        None => {}
    }
    let Answer { status, headers, body } = answer;
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    if method != "HEAD" {
        stream.write_all(&body[..sent])?;
    }
    if let Some(Fault::Stall(_)) = fault {
        // Until the other side has had enough.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let _ = stream.read(&mut [0])?;
    }
    Ok(())
}

fn answer(state: &State, target: &str, ranged: Option<usize>, url: &str) -> Answer {
    let path = target.split('?').next().unwrap_or_default();
    if let Some(digest_asked) = path.strip_prefix("/storage/") {
        let found = state.files.values().find(|bytes| digest(bytes) == digest_asked);
        return found.map_or_else(|| Answer::refusal("404 Not Found", "no such blob"), |bytes| range(bytes, ranged));
    }
    if let Some(asked) = path.strip_prefix("/api/models/") {
        let parts: Vec<&str> = asked.splitn(4, '/').collect();
        let [user, repository, what, _] = parts[..] else { return Answer::refusal("404 Not Found", "no such route") };
        let below = format!("{user}/{repository}/");
        let files: Vec<(&str, &Vec<u8>)> =
            state.files.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(&below)?, bytes))).collect();
        if files.is_empty() {
            return Answer::refusal("401 Unauthorized", "Invalid username or password.");
        }
        return Answer::json(&match what {
            "tree" => files.iter().map(|(path, bytes)| listed(path, bytes)).collect(),
            _ => {
                let siblings: Vec<Value> = files.iter().map(|(path, _)| json!({"rfilename": path})).collect();
                json!({"id": below.trim_end_matches('/'), "sha": COMMIT, "siblings": siblings})
            }
        });
    }
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(5, '/').collect();
    let [user, repository, "resolve", _, file] = parts[..] else {
        return Answer::refusal("404 Not Found", "no such route");
    };
    let Some(bytes) = state.files.get(&format!("{user}/{repository}/{file}")) else {
        return Answer::refusal("404 Not Found", "Entry not found");
    };
    let (etag, size) = (digest(bytes), bytes.len());
    if !is_large(file) {
        return Answer::new("200 OK", format!("x-repo-commit: {COMMIT}\r\netag: \"{etag}\"\r\n"), bytes.as_slice());
    }
    // Of another name, as storage is: what lets into the hub is not sent on to it.
    let url = if state.token.is_some() { url.replace("127.0.0.1", "localhost") } else { url.to_owned() };
    let headers = format!(
        "location: {url}/storage/{etag}\r\nx-repo-commit: {COMMIT}\r\nx-linked-size: {size}\r\nx-linked-etag: \"{etag}\"\r\n"
    );
    Answer::new("302 Found", headers, format!("Found. Redirecting to {url}/storage/{etag}"))
}

/// What is called huge is said to be.
fn listed(path: &str, bytes: &[u8]) -> Value {
    let size = if path.contains("Huge") { 1 << 50 } else { bytes.len() };
    let mut file = json!({"type": "file", "oid": &digest(bytes)[..40], "size": size, "path": path});
    if is_large(path) {
        file["lfs"] = json!({"oid": digest(bytes), "size": size, "pointerSize": 135});
    }
    file
}

fn range(bytes: &[u8], from: Option<usize>) -> Answer {
    let whole = bytes.len();
    match from {
        None => Answer::new("200 OK", "accept-ranges: bytes\r\n".to_owned(), bytes),
        Some(from) if from < whole => Answer::new(
            "206 Partial Content",
            format!("content-range: bytes {from}-{}/{whole}\r\n", whole - 1),
            &bytes[from..],
        ),
        Some(_) => Answer::new("416 Range Not Satisfiable", format!("content-range: bytes */{whole}\r\n"), ""),
    }
}
