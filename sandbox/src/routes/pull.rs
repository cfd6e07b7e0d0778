//! `POST /api/pull`: a model comes from the registry that is not there into a store that is. And how everything that
//! takes a while tells its progress: `create` and `push` too.
//!
//! Invariant: work that fails after its first line says so inside the stream, under status 200; work that fails in the
//! place of the first line, or is not streamed, has a status. A client that leaves ends a pull, and pulling again
//! finishes it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::stream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use wire::ollama::{ErrorBody, PullProgress, PullRequest};

use super::{Refusal, json, line, ndjson, parse_name, read, with_causes};
use crate::Engine;
use crate::name::Name;
use crate::store::StoreError;

/// A line of progress, or why there are no more and the status that it has if it is the first.
pub(super) type Line = Result<PullProgress, (StatusCode, String)>;

/// Progress as it comes. The channel has no bound, so that a client who reads slowly holds up nobody: it is some
/// twenty lines.
pub(super) struct Lines(UnboundedReceiver<Line>);

/// Where work tells its progress.
#[derive(Clone)]
pub(super) struct Tell(UnboundedSender<Line>);

impl Tell {
    /// False if nobody listens any more.
    pub(super) fn progress(&self, progress: PullProgress) -> bool {
        self.0.send(Ok(progress)).is_ok()
    }

    pub(super) fn status(&self, status: impl Into<String>) {
        self.progress(PullProgress { status: status.into(), ..PullProgress::default() });
    }
}

impl From<Vec<Line>> for Lines {
    fn from(lines: Vec<Line>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        for line in lines {
            // The receiver is right here.
            let _ = sender.send(line);
        }
        Self(receiver)
    }
}

impl Lines {
    /// Does `work` on a thread of its own, for the store blocks.
    pub(super) fn of(work: impl FnOnce(&Tell) -> Result<(), Refusal> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::task::spawn_blocking(move || {
            let tell = Tell(sender);
            if let Err(refusal) = work(&tell) {
                // Who has left does not hear it.
                let _ = tell.0.send(Err((refusal.status, refusal.error)));
            }
        });
        Self(receiver)
    }
}

/// The answer that tells `lines`, one by one or the last only.
pub(super) async fn told(mut lines: Lines, is_streamed: bool) -> Result<Response, Refusal> {
    if !is_streamed {
        let mut last = PullProgress::default();
        while let Some(line) = lines.0.recv().await {
            last = line.map_err(|(status, error)| Refusal::new(status, error))?;
        }
        return Ok(json(&last));
    }
    let first = match lines.0.recv().await {
        Some(Err((status, error))) => return Err(Refusal::new(status, error)),
        Some(Ok(first)) => line(&first),
        None => Vec::new(),
    };
    let rest = stream::unfold((Some(first), lines), |(first, mut lines)| async {
        let bytes = match first {
            Some(first) => first,
            None => match lines.0.recv().await? {
                Ok(progress) => line(&progress),
                Err((_, error)) => line(&ErrorBody { error }),
            },
        };
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), (None, lines)))
    });
    Ok(ndjson(Body::from_stream(rest)))
}

pub(super) async fn pull(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: PullRequest = read(&body)?;
    let spelled = if request.model.is_empty() { &request.name } else { &request.model };
    let name = parse_name(spelled).ok_or_else(|| Refusal::bad_request("invalid model name"))?;
    let is_streamed = request.is_streamed();
    told(Lines::of(move |tell| bring(&engine, &name, tell).map_err(Refusal::from)), is_streamed).await
}

/// Pulls, and says so.
pub(super) fn bring(engine: &Engine, name: &Name, tell: &Tell) -> Result<(), StoreError> {
    log::info!("pulling {name}");
    let result = engine.store.pull(name, |progress| tell.progress(progress));
    if let Err(error) = &result {
        log::warn!("pull of {name}: {}", with_causes(error));
    }
    result
}
