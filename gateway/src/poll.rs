//! Asks the engine, every two seconds, whether it is there and which models it has.
//!
//! Invariant: the gateway's own health never depends on the answer; `ollama_up` is 0 until the first one.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Uri, header::HOST};
use tokio::time::{self, MissedTickBehavior};
use wire::ollama::Tags;

use crate::{
    metrics::Metrics,
    upstream::{self, Client, Upstream},
};

const INTERVAL: Duration = Duration::from_secs(2);

/// The engine lists its models from disk, while it computes, in milliseconds: this long means that it hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Some ten thousand models.
const LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Why a poll got no answer.
type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Polls at once, and then for as long as it is not dropped.
pub(crate) async fn run(upstream: SocketAddr, metrics: Arc<Metrics>) -> Infallible {
    // Connections of its own: a poll says nothing about the pool of the proxy, nor waits for it.
    let client = upstream::client();
    let upstream = Upstream::at(upstream);
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_up = None;
    loop {
        ticks.tick().await;
        let answer = match time::timeout(TIMEOUT, ask(&client, &upstream)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(elapsed.into()),
        };
        let is_up = answer.is_ok();
        if was_up.replace(is_up) != Some(is_up) {
            match &answer {
                Ok(_) => log::info!("the engine answers"),
                Err(reason) => log::warn!("the engine does not answer: {reason}"),
            }
        }
        // Without an answer the last one stands: the models are still on the engine's disk.
        if let Ok(tags) = answer {
            metrics.know_models(tags.models.into_iter().map(|model| model.name));
        }
        metrics.up.set(is_up.into());
    }
}

async fn ask(client: &Client<Empty<Bytes>>, upstream: &Upstream) -> Result<Tags, Reason> {
    let uri = upstream.uri(&Uri::from_static("/api/tags")).ok_or("its address is no address")?;
    let request = Request::get(uri).header(HOST, upstream.host()).body(Empty::new())?;
    let response = client.request(request).await?;
    if !response.status().is_success() {
        return Err(format!("/api/tags gives {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), LIMIT_BYTES).collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}
