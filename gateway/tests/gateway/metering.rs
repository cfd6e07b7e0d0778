//! What is counted, and under which labels.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::{Request, Response, StatusCode, body::Incoming};
use tokio::task::JoinSet;

use crate::support::{Engine, Gateway, Raw, ndjson, until, whole};

/// An engine that gives what the request's body begs for: a status, or an error inside a stream.
async fn obedient() -> Engine {
    Engine::start(|request: Request<Incoming>| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asks = |what: &str| body.windows(what.len()).any(|found| found == what.as_bytes());
        let stream = match asks("fail inside") {
            true => "{\"done\":false}\n{\"error\":\"llama runner process has terminated\"}\n",
            false => "{\"done\":false}\n{\"done\":true}\n",
        };
        let mut response = ndjson(whole(stream));
        for status in [StatusCode::NOT_FOUND, StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
            if asks(status.as_str()) {
                response = Response::builder().status(status).body(whole("{\"error\":\"as asked\"}")).unwrap();
            }
        }
        response
    })
    .await
}

#[tokio::test]
async fn one_in_a_hundred_of_ten_thousand_is_counted_exactly() {
    const CLIENTS: usize = 20;
    const ROUNDS: usize = 500;
    let engine = obedient().await;
    let gateway = Arc::new(Gateway::before(&engine).await);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let gateway = Arc::clone(&gateway);
        clients.spawn(async move {
            // Request after request on one connection, as the edge and agents ask.
            let mut client = Raw::connect(&gateway).await;
            for round in 0..ROUNDS {
                let (wish, end) = if round % 100 == 0 { ("404", "asked\"}") } else { ("", "\"done\":true}\n") };
                let body = format!("{{\"prompt\":\"{wish}\",\"model\":\"m:1\"}}");
                let head = format!("POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
                client.write(head + &body).await;
                client.read_until(end).await;
            }
        });
    }
    clients.join_all().await;
    gateway
        .counts(&[
            "{model=\"m:1\",endpoint=\"generate\",outcome=\"error\",code=\"404\"} 100",
            "{model=\"m:1\",endpoint=\"generate\",outcome=\"ok\",code=\"200\"} 9900",
        ])
        .await;
    let labels = "{model=\"m:1\",endpoint=\"generate\",outcome=\"ok\"}";
    assert_eq!(gateway.value(&format!("ollama_request_duration_seconds_count{labels}")).await, Some(9900.0));
}

#[tokio::test]
async fn an_error_inside_a_stream_is_an_error() {
    let engine = obedient().await;
    let gateway = Gateway::before(&engine).await;
    let (status, body) = gateway.post("/api/chat", "{\"model\":\"m:1\",\"prompt\":\"fail inside\"}").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.ends_with("has terminated\"}\n"), "{body}");
    gateway.counts(&["{model=\"m:1\",endpoint=\"chat\",outcome=\"error\",code=\"200\"} 1"]).await;
}

#[tokio::test]
async fn being_turned_away_is_not_an_error() {
    let engine = obedient().await;
    let gateway = Gateway::before(&engine).await;
    for wish in ["429", "503", "503"] {
        gateway.post("/v1/chat/completions", &format!("{{\"model\":\"m:1\",\"wish\":{wish}}}")).await;
    }
    gateway
        .counts(&[
            "{model=\"m:1\",endpoint=\"openai_chat\",outcome=\"rejected\",code=\"429\"} 1",
            "{model=\"m:1\",endpoint=\"openai_chat\",outcome=\"rejected\",code=\"503\"} 2",
        ])
        .await;
}

#[tokio::test]
async fn only_a_model_that_the_engine_has_is_a_label() {
    let engine = obedient().await;
    let gateway = Gateway::before(&engine).await;
    for model in ["m:1", "m", "M:1", "\\\"} 1", "x".repeat(100_000).as_str()] {
        gateway.post("/api/chat", &format!("{{\"options\":{{\"model\":\"m:1\"}},\"model\":\"{model}\"}}")).await;
    }
    gateway.post("/api/chat", "not json").await;
    gateway.post("/api/blobs/sha256:00", "{\"model\":\"m:1\"}").await;
    gateway.get("/any/path").await;
    gateway
        .counts(&[
            "{model=\"m:1\",endpoint=\"chat\",outcome=\"ok\",code=\"200\"} 1",
            "{model=\"none\",endpoint=\"blobs\",outcome=\"ok\",code=\"200\"} 1",
            "{model=\"none\",endpoint=\"other\",outcome=\"ok\",code=\"200\"} 1",
            "{model=\"other\",endpoint=\"chat\",outcome=\"ok\",code=\"200\"} 5",
        ])
        .await;
}

#[tokio::test]
async fn a_model_that_the_engine_has_begins_at_zero() {
    let engine = obedient().await;
    let gateway = Gateway::before(&engine).await;
    for labels in ["outcome=\"ok\",code=\"200\"", "outcome=\"rejected\",code=\"503\""] {
        let series = format!("ollama_requests_total{{model=\"m:1\",endpoint=\"chat\",{labels}}}");
        until(&series, || async { gateway.value(&series).await == Some(0.0) }).await;
    }
}

#[tokio::test]
async fn an_engine_that_is_gone_is_an_error_of_the_model_that_was_asked_for() {
    let engine = obedient().await;
    let gateway = Gateway::before(&engine).await;
    drop(engine);
    until("the engine is down", || async { gateway.value("ollama_up").await == Some(0.0) }).await;
    gateway.post("/api/chat", "{\"model\":\"m:1\"}").await;
    // There was no connection to pass the body on to, so the gateway never read which model it names.
    gateway.counts(&["{model=\"m:1\",endpoint=\"chat\",outcome=\"error\",code=\"502\"} 1"]).await;
}

#[tokio::test]
async fn the_gateways_own_paths_are_not_counted() {
    let engine = obedient().await;
    let gateway = Gateway::before(&engine).await;
    gateway.get("/healthz").await;
    gateway.get("/metrics").await;
    gateway.counts(&[]).await;
}
