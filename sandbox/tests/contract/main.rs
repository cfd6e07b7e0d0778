//! What a client of Ollama may rely on, claimed over HTTP against the stand-in on a port of its own.
//!
//! No claim rests on the machine being quick: what must not happen yet is kept from happening by an hour-long token,
//! what must happen is waited for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inference;
mod protocol;
mod pull;
mod queue;
mod scenario;
mod shared;
mod shutdown;
mod store;
mod target;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use sandbox::{DEFAULT_MODEL, Options, Server, Timing};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Long enough that a machine under load gets there, short enough to end a test that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pace that no test waits for.
const INSTANT: Timing =
    Timing { time_to_first_token: Duration::ZERO, time_per_output_token: Duration::ZERO, load: Duration::ZERO };

/// The first token at once, the second never: a request that holds its slot until it is dropped.
const STUCK: Timing = Timing { time_per_output_token: Duration::from_secs(3600), ..INSTANT };

/// A running stand-in. Dropping it stops it and removes its store.
struct Sandbox {
    address: SocketAddr,
    models: PathBuf,
    client: Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), sandbox::Error>>,
    _dir: TempDir,
}

impl Sandbox {
    /// With the default model, at once.
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = TempDir::new().unwrap();
        let models = dir.path().join("models");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut options = Options { listen, timing: INSTANT, ..Options::new(models.clone()) };
        change(&mut options);
        let server = Server::bind(options).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { address, models, client: Client::new(), stop, running, _dir: dir }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let request = self.client.request(method, format!("http://{}{path}", self.address)).timeout(PATIENCE);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, None).await.json().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.send(Method::POST, path, Some(&body)).await;
        (response.status(), response.json().await.unwrap())
    }

    /// The status and every line of a streamed answer.
    async fn stream(&self, path: &str, body: Value) -> (StatusCode, Vec<Value>) {
        let response = self.send(Method::POST, path, Some(&body)).await;
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(text.ends_with('\n'), "the last line is cut: {text:?}");
        (status, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Names in `/api/ps`.
    async fn loaded(&self) -> Vec<String> {
        let ps = self.get("/api/ps").await;
        ps["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn default_model() -> String {
    DEFAULT_MODEL.to_owned()
}
