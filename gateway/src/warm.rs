//! Has models in memory from the engine's start on, so that nobody waits for the first answer.
//!
//! A model is asked for once after each start of the engine, as soon as the engine has it. What becomes of it later is
//! other people's business: asked for again and again, it would push out what they use. Invariant: no poll waits for a
//! load.

use std::{
    mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, header::HOST};
use tokio::{task::JoinSet, time};
use wire::ollama::{GenerateRequest, KeepAlive, Tags};

use crate::upstream::Upstream;

/// A large model is read from a slow disk.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// More than an answer without a text has.
const LIMIT_BYTES: usize = 1024 * 1024;

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// What is to be in memory, and how far that is.
pub(crate) struct Warm {
    upstream: Arc<Upstream>,
    wanted: Vec<String>,
    /// Not asked for since the engine's start.
    due: Vec<String>,
    loads: JoinSet<()>,
}

impl Warm {
    pub(crate) fn new(upstream: SocketAddr, wanted: Vec<String>) -> Self {
        Warm { upstream: Upstream::at(upstream), wanted, due: Vec::new(), loads: JoinSet::new() }
    }

    /// The engine has started: nothing is in its memory.
    pub(crate) fn begin(&mut self) {
        self.due.clone_from(&self.wanted);
    }

    /// Asks for what is due and on the engine's disk, one after the other.
    pub(crate) fn load(&mut self, tags: &Tags) {
        while self.loads.try_join_next().is_some() {}
        let is_held = |name: &String| tags.models.iter().any(|model| is_same(&model.name, name));
        let (held, due): (Vec<_>, Vec<_>) = mem::take(&mut self.due).into_iter().partition(is_held);
        self.due = due;
        if held.is_empty() {
            return;
        }
        let upstream = Arc::clone(&self.upstream);
        self.loads.spawn(async move {
            for model in held {
                let begun = Instant::now();
                match time::timeout(TIMEOUT, ask(&upstream, &model)).await.unwrap_or_else(|late| Err(late.into())) {
                    Ok(()) => log::info!("{model} is in memory after {:.1} s", begun.elapsed().as_secs_f64()),
                    Err(reason) => log::warn!("{model} cannot be had in memory: {reason}"),
                }
            }
        });
    }
}

/// The engine lists every model with its tag; people leave out `latest`.
fn is_same(listed: &str, name: &str) -> bool {
    listed.eq_ignore_ascii_case(name) || listed.eq_ignore_ascii_case(&format!("{name}:latest"))
}

async fn ask(upstream: &Arc<Upstream>, model: &str) -> Result<(), Reason> {
    let load = GenerateRequest {
        model: model.to_owned(),
        stream: Some(false),
        keep_alive: Some(KeepAlive::Forever),
        ..GenerateRequest::default()
    };
    let body = Full::from(serde_json::to_vec(&load)?);
    let response = upstream.send(Request::post("/api/generate").header(HOST, upstream.host()).body(body)?).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIMIT_BYTES).collect().await?.to_bytes();
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tag_is_latest() {
        assert!(is_same("a:latest", "a") && is_same("A:7b", "a:7b"));
        assert!(!is_same("a:7b", "a"));
    }
}
