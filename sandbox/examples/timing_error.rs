//! How far the stand-in's tokens come from when they are due, seen by clients on the same machine.
//!
//! A client takes a token's due time from the moment it sent its request, so the error holds everything: connecting,
//! HTTP, the scheduler, and the client's own lateness. `cargo run --release -p sandbox --example timing_error`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on has nothing to say")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use reqwest::Client;
use sandbox::{DEFAULT_MODEL, Options, Server, Timing};
use serde_json::json;

const TIMING: Timing = Timing {
    time_to_first_token: Duration::from_millis(200),
    time_per_output_token: Duration::from_millis(50),
    load: Duration::ZERO,
};
const TOKENS: u32 = 60;

/// All clients come within this time.
const ARRIVALS: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() {
    println!("| streams | n | p50 | p99 | largest |\n|---|---|---|---|---|");
    for streams in [1, 128, 1000] {
        let mut errors = measure(streams).await;
        errors.sort();
        let at = |share: f64| ms(errors[((errors.len() - 1) as f64 * share) as usize]);
        println!("| {streams} | {} | {} | {} | {} |", errors.len(), at(0.5), at(0.99), at(1.0));
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// The lateness of every token of every stream.
async fn measure(streams: u32) -> Vec<Duration> {
    let dir = tempfile::TempDir::new().unwrap();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = Options { listen, timing: TIMING, num_parallel: streams, ..Options::new(dir.path().join("models")) };
    let server = Server::bind(options).await.unwrap();
    let url = format!("http://{}/api/generate", server.address());
    let running = tokio::spawn(server.run(std::future::pending()));
    let client = Client::new();
    client.post(&url).json(&json!({"model": DEFAULT_MODEL})).send().await.unwrap();
    // Real clients do not all come in the same instant.
    let apart = ARRIVALS / streams;
    let clients = (0..streams).map(|index| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move {
            tokio::time::sleep(apart * index).await;
            stream(&client, &url, index).await
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut errors = Vec::new();
    for client in clients {
        errors.extend(client.await.unwrap());
    }
    running.abort();
    errors
}

async fn stream(client: &Client, url: &str, index: u32) -> Vec<Duration> {
    // No two prompts share a beginning: the cache would shorten the wait for the first token.
    let options = json!({"num_predict": TOKENS});
    let ask = json!({"model": DEFAULT_MODEL, "system": format!("{index}"), "prompt": "go", "options": options});
    let sent = Instant::now();
    let mut response = client.post(url).json(&ask).send().await.unwrap();
    let mut errors = Vec::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        for _ in chunk.iter().filter(|byte| **byte == b'\n') {
            let due = TIMING.time_to_first_token + TIMING.time_per_output_token * errors.len() as u32;
            errors.push(sent.elapsed().saturating_sub(due));
        }
    }
    errors
}
