//! Asks the engine, every two seconds, whether it is there, which models it has, and which are in memory.
//!
//! Invariant: the gateway's own health never depends on the answer; `ollama_up` is 0 until the first one.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, header::HOST};
use serde::de::DeserializeOwned;
use tokio::time::{self, MissedTickBehavior};
use wire::ollama::{Ps, Tags};

use crate::{metrics::Metrics, upstream::Upstream, warm::Warm};

const INTERVAL: Duration = Duration::from_secs(2);

/// The engine lists its models from disk, while it computes, in milliseconds: this long means that it hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Some ten thousand models.
const LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Why a poll got no answer.
type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Polls at once, and then for as long as it is not dropped.
pub(crate) async fn run(upstream: SocketAddr, metrics: Arc<Metrics>, mut warm: Warm) -> Infallible {
    // Connections of its own: a poll says nothing about the pool of the proxy, nor waits for it.
    let upstream = Upstream::at(upstream);
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut was_up, mut opened) = (None, 0);
    loop {
        ticks.tick().await;
        let answer = match time::timeout(TIMEOUT, look(&upstream)).await {
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
        // Without an answer the last one stands: the models are still on the engine's disk, and not in its memory.
        match answer {
            Ok((tags, ps)) => {
                // An engine that started anew has closed the connection, also where it was back before this looked.
                if opened != upstream.opened() {
                    opened = upstream.opened();
                    warm.begin();
                }
                warm.load(&tags);
                metrics.know_models(tags.models.into_iter().map(|model| model.name));
                metrics.know_loaded(&ps.models);
            }
            Err(_) => metrics.know_loaded(&[]),
        }
        metrics.up.set(is_up.into());
    }
}

async fn look(upstream: &Arc<Upstream>) -> Result<(Tags, Ps), Reason> {
    Ok((ask(upstream, "/api/tags").await?, ask(upstream, "/api/ps").await?))
}

async fn ask<T: DeserializeOwned>(upstream: &Arc<Upstream>, path: &'static str) -> Result<T, Reason> {
    let request = Request::get(path).header(HOST, upstream.host()).body(Empty::<Bytes>::new())?;
    let response = upstream.send(request).await?;
    if !response.status().is_success() {
        return Err(format!("{path} gives {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), LIMIT_BYTES).collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}
