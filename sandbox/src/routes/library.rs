//! What changes the store without the network: `copy`, `delete`, blobs, and `push`, which has nowhere to go.
//!
//! Invariant: statuses and words are Ollama's; a blob is there under its digest only if it is what the digest says.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use wire::ollama::{CopyRequest, NameRequest, PullProgress};

use super::pull::{Lines, told};
use super::{Refusal, parse_name, read};
use crate::Engine;
use crate::name::Name;
use crate::store::StoreError;

pub(super) async fn copy(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<StatusCode, Refusal> {
    let request: CopyRequest = read(&body)?;
    let parse = |what: &str, name: &str| {
        Name::parse(name).ok_or_else(|| Refusal::bad_request(format!("{what} {name:?} is invalid")))
    };
    let source = parse("source", &request.source)?;
    let destination = parse("destination", &request.destination)?;
    match engine.store.copy(&source, &destination)? {
        Some(()) => Ok(StatusCode::OK),
        // In double quotes, here only.
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("model {:?} not found", request.source))),
    }
}

pub(super) async fn delete(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<StatusCode, Refusal> {
    let request: NameRequest = read(&body)?;
    let spelled = if request.model.is_empty() { request.name } else { request.model };
    if spelled.trim().is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    let name = parse_name(&spelled).ok_or_else(|| Refusal::bad_request(format!("name {spelled:?} is invalid")))?;
    engine.store.delete(&name)?.map(|()| StatusCode::OK).ok_or_else(|| Refusal::no_such_model(&spelled))
}

/// Goes as far as Ollama without an account goes: to the registry's refusal.
pub(super) async fn push(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Response, Refusal> {
    let request: NameRequest = read(&body)?;
    let spelled = if request.model.is_empty() { request.name } else { request.model };
    if spelled.is_empty() {
        return Err(Refusal::bad_request("model is required"));
    }
    let status = |status: &str| Ok(PullProgress { status: status.to_owned(), ..PullProgress::default() });
    let held = Name::parse(&spelled).map(|name| engine.store.find(&name)).transpose()?.flatten();
    let lines: Vec<Result<PullProgress, (StatusCode, String)>> = match held {
        Some(entry) => {
            let error = "the sandbox has no registry to push to: \
                         you are not authorized to push to this namespace, create the model under a namespace you own";
            let pushing = |digest: &str| status(&format!("pushing {}", &digest["sha256:".len()..][..12]));
            let first = entry.layers.first().map(|layer| pushing(&layer.digest));
            let mut lines = vec![status("retrieving manifest")];
            lines.extend(first);
            lines.push(Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_owned())));
            lines
        }
        None => {
            let path = Name::parse(&spelled).map(|name| name.path().display().to_string()).unwrap_or(spelled);
            let error = format!("open manifests/{path}: no such file or directory");
            vec![
                status("retrieving manifest"),
                status("couldn't retrieve manifest"),
                Err((StatusCode::INTERNAL_SERVER_ERROR, error)),
            ]
        }
    };
    told(Lines::from(lines), request.stream.unwrap_or(true)).await
}

/// A digest as a path spells it; Ollama takes both of its own spellings.
fn parse_digest(digest: &str) -> Result<String, Refusal> {
    let hex = digest.strip_prefix("sha256").and_then(|rest| rest.strip_prefix([':', '-']));
    match hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(hex) => Ok(format!("sha256:{hex}")),
        None => Err(Refusal::bad_request("invalid digest format")),
    }
}

pub(super) async fn has_blob(
    State(engine): State<Arc<Engine>>,
    Path(digest): Path<String>,
) -> Result<StatusCode, Refusal> {
    let known = parse_digest(&digest)?;
    if engine.store.has_blob(&known) {
        Ok(StatusCode::OK)
    } else {
        Err(Refusal::new(StatusCode::NOT_FOUND, format!("blob {digest:?} not found")))
    }
}

/// Takes a body of any size. Writing blocks, for a piece at a time.
pub(super) async fn put_blob(
    State(engine): State<Arc<Engine>>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<Response, Refusal> {
    let expected = parse_digest(&digest)?;
    let mut pieces = body.into_data_stream();
    if engine.store.has_blob(&expected) {
        // Read all the same: a client that still sends takes a closed connection for a failure.
        while let Some(Ok(_)) = pieces.next().await {}
        return Ok(StatusCode::OK.into_response());
    }
    let mut incoming = engine.store.incoming()?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        incoming.write(&piece)?;
    }
    match incoming.finish(&expected) {
        Ok(()) => Ok(StatusCode::CREATED.into_response()),
        Err(error @ StoreError::Mismatch { .. }) => Err(Refusal::bad_request(error.to_string())),
        Err(error) => Err(error.into()),
    }
}
