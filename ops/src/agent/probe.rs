//! Whether an endpoint would answer an agent: asked before an agent wastes minutes on finding out.

use std::time::Duration;

use reqwest::{
    StatusCode,
    blocking::{Client, RequestBuilder, Response},
};
use serde_json::{Value, json};

use super::{Target, diagnose::Diagnosis};
use crate::https::{self, Trust};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What an endpoint says of itself and of a model.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The engine's version.
    pub version: String,
}

impl Probe {
    /// Whether the engine is the stand-in, whose answers prove no model.
    pub fn is_sandbox(&self) -> bool {
        self.version.contains("sandbox")
    }
}

/// Asks for the engine's version and for the model, with the key that the agent would send.
///
/// # Errors
/// What keeps an agent from working here.
pub fn probe(target: &Target) -> Result<Probe, Diagnosis> {
    if target.endpoint.starts_with("https:") {
        return probe_https(target);
    }
    let client = Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap_or_default();
    let url = |path: &str| format!("{}{path}", target.endpoint);
    let version = json_of(ask(target, client.get(url("/api/version")))?);
    let show = client.post(url("/api/show")).json(&json!({ "model": target.model }));
    let shown = ask(target, show)?;
    match shown.status() {
        StatusCode::NOT_FOUND => return Err(Diagnosis::Model { model: target.model.clone() }),
        status if !status.is_success() => {
            let said = json_of(shown)["error"].as_str().unwrap_or_default().to_owned();
            return Err(Diagnosis::Endpoint { detail: format!("{}: {status} {said}", url("/api/show")) });
        }
        _ => {}
    }
    match version["version"].as_str() {
        Some(version) => Ok(Probe { version: version.to_owned() }),
        None => Err(Diagnosis::Endpoint { detail: format!("{} is no Ollama", target.endpoint) }),
    }
}

/// A key is not sent: that one is asked for is an answer, and it would stand among curl's arguments.
fn probe_https(target: &Target) -> Result<Probe, Diagnosis> {
    let url = format!("{}/api/version", target.endpoint);
    let (status, body) = https::get(&url, Trust::System).map_err(|detail| Diagnosis::Endpoint { detail })?;
    let version = serde_json::from_str::<Value>(&body).ok().and_then(|it| Some(it["version"].as_str()?.to_owned()));
    match (status, version) {
        (200, Some(version)) => Ok(Probe { version }),
        (401 | 403, _) => {
            let detail = format!("{} answers {status}", target.endpoint);
            Err(Diagnosis::Key { detail, given: target.key.is_some() })
        }
        _ => Err(Diagnosis::Endpoint { detail: format!("{url} answers {status}") }),
    }
}

fn ask(target: &Target, request: RequestBuilder) -> Result<Response, Diagnosis> {
    let request = match &target.key {
        Some(key) => request.bearer_auth(key.reveal()),
        None => request,
    };
    let answer = request.send().map_err(|error| Diagnosis::Endpoint { detail: chain(&error) })?;
    match answer.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Diagnosis::Key {
            detail: format!("{} answers {}", target.endpoint, answer.status()),
            given: target.key.is_some(),
        }),
        _ => Ok(answer),
    }
}

fn json_of(answer: Response) -> Value {
    answer.json().unwrap_or_default()
}

fn chain(error: &dyn std::error::Error) -> String {
    let below = std::iter::successors(error.source(), |error| error.source());
    below.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}
