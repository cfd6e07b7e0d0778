//! `POST /api/pull`: a model comes from the registry that is not there into a store that is.
//!
//! Invariant: a pull that fails after its first line says so inside the stream, under status 200; one that is not
//! streamed answers 500. A client that leaves ends the pull, and pulling again finishes it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures_util::stream;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use wire::ollama::{ErrorBody, PullProgress, PullRequest};

use super::{Refusal, json, line, ndjson, read, with_causes};
use crate::Engine;
use crate::name::Name;
use crate::store::StoreError;

type Progress = Result<PullProgress, StoreError>;

pub(super) async fn pull(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: PullRequest = read(&body)?;
    let spelled = if request.model.is_empty() { &request.name } else { &request.model };
    let name = Name::parse(spelled).ok_or_else(|| Refusal::bad_request("invalid model name"))?;
    log::info!("pulling {name}");
    let mut progress = start(engine, name);
    if request.is_streamed() {
        let lines = stream::unfold(progress, |mut progress| async {
            let bytes = match progress.recv().await? {
                Ok(progress) => line(&progress),
                Err(error) => line(&ErrorBody { error: with_causes(&error) }),
            };
            Some((Ok::<_, Infallible>(bytes), progress))
        });
        return Ok(ndjson(Body::from_stream(lines)));
    }
    let mut last = PullProgress::default();
    while let Some(progress) = progress.recv().await {
        last = progress?;
    }
    Ok(json(&last))
}

/// Pulls on a thread of its own, for the store blocks. The channel has no bound, so that a client who reads slowly
/// holds up nobody: a pull is some twenty lines.
fn start(engine: Arc<Engine>, name: Name) -> UnboundedReceiver<Progress> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = engine.store.pull(&name, |progress| sender.send(Ok(progress)).is_ok()) {
            log::warn!("pull of {name}: {}", with_causes(&error));
            // Who has left does not hear it.
            let _ = sender.send(Err(error));
        }
    });
    receiver
}
