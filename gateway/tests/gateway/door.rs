//! Keys, turns, and what settings have the gateway add.

use std::{fs, io, sync::Arc};

use bytes::Bytes;
use gateway::{Options, key::KeyFile};
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, body::Incoming};
use tokio::sync::{Mutex, Semaphore, mpsc};

use crate::support::{ANYWHERE, AnyBody, Engine, Gateway, chunks, ndjson, next, soon, text, until, whole};

fn ask(path: &str, headers: &[(&str, &str)], body: &str) -> Request<AnyBody> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(whole(body.to_owned())).unwrap()
}

/// An engine that answers with the body that it got.
async fn echo() -> Engine {
    Engine::start(|request: Request<Incoming>| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        ndjson(whole(body))
    })
    .await
}

/// An engine whose every answer takes a permit.
async fn engine_that_waits_for(turns: &Arc<Semaphore>) -> Engine {
    let turns = Arc::clone(turns);
    Engine::start(move |_| {
        let turns = Arc::clone(&turns);
        async move {
            turns.acquire().await.unwrap().forget();
            ndjson(whole("{}\n"))
        }
    })
    .await
}

#[tokio::test]
async fn who_has_no_key_gets_each_apis_own_401() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let mut file = KeyFile::default();
    let key = file.add("laptop", String::new()).unwrap().unwrap();
    fs::write(&keys, file.render()).unwrap();
    let engine = echo().await;
    let gateway = Gateway::with(Options { keys: Some(keys), ..Options::new(ANYWHERE, engine.address) }).await;
    let lan = ("x-forwarded-for", "192.168.1.9");
    for (path, shape) in [
        ("/api/chat", "{\"error\":\"an API key is needed"),
        ("/v1/chat/completions", "{\"error\":{\"code\":\"invalid_api_key\""),
        ("/v1/messages", "{\"error\":{\"message\":\"an API key is needed"),
        ("/metrics", "{\"error\":\"an API key is needed"),
    ] {
        let response = if path == "/metrics" {
            gateway.send(Request::get(path).header(lan.0, lan.1).body(whole("")).unwrap()).await
        } else {
            gateway.send(ask(path, &[lan], "{}")).await
        };
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let body = text(response).await;
        assert!(body.starts_with(shape), "{path}: {body}");
    }
    // The host itself needs none, and a key opens as soon as the file was read.
    assert_eq!(gateway.post("/api/chat", "{}").await.0, StatusCode::OK);
    let bearer = format!("Bearer {key}");
    for header in [("authorization", bearer.as_str()), ("x-api-key", key.as_str())] {
        until("the key is known", || async {
            gateway.send(ask("/api/chat", &[lan, header], "{}")).await.status() == StatusCode::OK
        })
        .await;
    }
}

#[tokio::test]
async fn a_key_revoked_while_it_streams_lets_the_stream_end_and_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let mut file = KeyFile::default();
    let key = file.add("laptop", String::new()).unwrap().unwrap();
    fs::write(&keys, file.render()).unwrap();
    let (senders, mut given) = mpsc::channel::<mpsc::Sender<io::Result<Bytes>>>(10_000);
    let engine = Engine::start(move |_| {
        let senders = senders.clone();
        async move {
            let (sender, body) = chunks();
            senders.send(sender).await.unwrap();
            ndjson(body)
        }
    })
    .await;
    let gateway = Gateway::with(Options {
        keys: Some(keys.clone()),
        keys_on_loopback: true,
        ..Options::new(ANYWHERE, engine.address)
    })
    .await;
    let header = [("x-api-key", key.as_str())];
    let refused = || async { gateway.send(ask("/api/chat", &header, "{}")).await.status() == StatusCode::UNAUTHORIZED };
    until("the key is known", || async { !refused().await }).await;
    while given.try_recv().is_ok() {}
    let (mut body, sender) =
        tokio::join!(async { gateway.send(ask("/api/chat", &header, "{}")).await.into_body() }, async {
            given.recv().await.unwrap()
        });
    sender.send(Ok("{\"a\":1}\n".into())).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "{\"a\":1}\n");

    file.revoke("laptop");
    fs::write(&keys, file.render()).unwrap();
    until("the key is revoked", refused).await;
    sender.send(Ok("{\"done\":true}\n".into())).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "{\"done\":true}\n");
    drop(sender);
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn whose_key_is_revoked_while_he_waits_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let mut file = KeyFile::default();
    let [laptop, desktop] = ["laptop", "desktop"].map(|name| file.add(name, String::new()).unwrap().unwrap());
    fs::write(&keys, file.render()).unwrap();
    let turns = Arc::new(Semaphore::new(0));
    let engine = engine_that_waits_for(&turns).await;
    let options =
        Options { keys: Some(keys.clone()), keys_on_loopback: true, ..Options::new(ANYWHERE, engine.address) };
    let gateway = Arc::new(Gateway::with(Options { slots: 1, queue: 10, ..options }).await);
    let status = |key: &str| {
        let (gateway, key) = (Arc::clone(&gateway), key.to_owned());
        async move { gateway.send(ask("/api/chat", &[("x-api-key", &key)], "{}")).await.status() }
    };
    let tags = |key: &str| {
        let (gateway, key) = (Arc::clone(&gateway), key.to_owned());
        async move { gateway.send(ask("/api/tags", &[("x-api-key", &key)], "")).await.status() }
    };
    until("the keys are known", || async { tags(&laptop).await == StatusCode::OK }).await;
    let first = tokio::spawn(status(&desktop));
    until("one is served", || async { gateway.value("ollama_requests_in_flight").await == Some(1.0) }).await;
    let second = tokio::spawn(status(&laptop));
    until("one waits", || async { gateway.value("ollama_requests_waiting").await == Some(1.0) }).await;
    file.revoke("laptop");
    fs::write(&keys, file.render()).unwrap();
    until("the key is revoked", || async { tags(&laptop).await == StatusCode::UNAUTHORIZED }).await;
    turns.add_permits(2);
    assert_eq!(soon("the first", first).await.unwrap(), StatusCode::OK);
    assert_eq!(soon("the second", second).await.unwrap(), StatusCode::UNAUTHORIZED);
    assert_eq!(turns.available_permits(), 1, "the engine was asked once");
}

#[tokio::test]
async fn a_greedy_client_delays_a_polite_one_by_one_turn_at_most() {
    let served = Arc::new(Mutex::new(Vec::new()));
    let turns = Arc::new(Semaphore::new(0));
    let engine = {
        let (served, turns) = (Arc::clone(&served), Arc::clone(&turns));
        Engine::start(move |request: Request<Incoming>| {
            let (served, turns) = (Arc::clone(&served), Arc::clone(&turns));
            async move {
                let who = request.headers()["x-who"].to_str().unwrap().to_owned();
                served.lock().await.push(who);
                turns.acquire().await.unwrap().forget();
                ndjson(whole("{\"done\":true}\n"))
            }
        })
        .await
    };
    let options = Options { slots: 1, queue: 300, ..Options::new(ANYWHERE, engine.address) };
    let gateway = Arc::new(Gateway::with(options).await);
    until("the model is known", || async { gateway.value("ollama_up").await == Some(1.0) }).await;
    let mut clients = tokio::task::JoinSet::new();
    let mut start = |who: &'static str, address: &'static str| {
        let gateway = Arc::clone(&gateway);
        clients.spawn(async move {
            let headers = [("x-forwarded-for", address), ("x-who", who)];
            let response = gateway.send(ask("/api/chat", &headers, "{\"model\":\"m:1\"}")).await;
            assert_eq!(response.status(), StatusCode::OK);
            text(response).await
        });
    };
    for _ in 0..100 {
        start("greedy", "192.168.1.1");
    }
    until("99 wait", || async { gateway.value("ollama_requests_waiting").await == Some(99.0) }).await;
    start("polite", "192.168.1.2");
    until("100 wait", || async { gateway.value("ollama_requests_waiting").await == Some(100.0) }).await;
    turns.add_permits(101);
    soon("everyone", clients.join_all()).await;
    let served = served.lock().await;
    let place = served.iter().position(|who| who == "polite").unwrap();
    assert!(place <= 2, "{place} greedy requests came first");
    assert_eq!(served.len(), 101);
}

#[tokio::test]
async fn who_asks_for_one_model_does_not_wait_for_another() {
    let turns = Arc::new(Semaphore::new(0));
    let engine = {
        let turns = Arc::clone(&turns);
        Engine::start(move |request: Request<Incoming>| {
            let turns = Arc::clone(&turns);
            async move {
                if request.into_body().collect().await.unwrap().to_bytes().starts_with(b"{\"model\":\"m:1\"") {
                    turns.acquire().await.unwrap().forget();
                }
                ndjson(whole("{\"done\":true}\n"))
            }
        })
        .await
    };
    let options = Options { slots: 1, queue: 10, ..Options::new(ANYWHERE, engine.address) };
    let gateway = Arc::new(Gateway::with(options).await);
    until("the model is known", || async { gateway.value("ollama_up").await == Some(1.0) }).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let gateway = Arc::clone(&gateway);
        waiting.spawn(async move { gateway.post("/api/chat", "{\"model\":\"m:1\"}").await.0 });
    }
    until("one waits", || async { gateway.value("ollama_requests_waiting").await == Some(1.0) }).await;
    assert_eq!(gateway.post("/api/chat", "{\"model\":\"m:2\"}").await.0, StatusCode::OK);
    turns.add_permits(2);
    assert!(soon("both", waiting.join_all()).await.iter().all(|status| *status == StatusCode::OK));
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let turns = Arc::new(Semaphore::new(0));
    let engine = engine_that_waits_for(&turns).await;
    let options = Options { slots: 1, queue: 2, ..Options::new(ANYWHERE, engine.address) };
    let gateway = Arc::new(Gateway::with(options).await);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let gateway = Arc::clone(&gateway);
        waiting.spawn(async move { gateway.post("/v1/messages", "{}").await.0 });
    }
    until("one waits", || async { gateway.value("ollama_requests_waiting").await == Some(1.0) }).await;
    let response = gateway.send(ask("/v1/messages", &[], "{}")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.headers()["x-queue-position"], "2");
    assert!(text(response).await.contains("\"rate_limit_error\""));
    // Another client has room of its own; what is no inference needs no turn.
    let gateway_of_other = Arc::clone(&gateway);
    waiting.spawn(async move {
        gateway_of_other.send(ask("/v1/messages", &[("x-forwarded-for", "10.0.0.1")], "{}")).await.status()
    });
    until("two wait", || async { gateway.value("ollama_requests_waiting").await == Some(2.0) }).await;
    let response = gateway.send(ask("/api/chat", &[("x-forwarded-for", "10.0.0.2")], "{}")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    turns.add_permits(4);
    assert!(soon("everyone", waiting.join_all()).await.iter().all(|status| *status == StatusCode::OK));
}

#[tokio::test]
async fn what_settings_ask_for_is_added_and_the_clients_word_holds() {
    let engine = echo().await;
    let options = Options { ask_for_usage: true, refuse_truncation: true, ..Options::new(ANYWHERE, engine.address) };
    let gateway = Gateway::with(options).await;
    for (path, sent, arrived) in [
        ("/api/chat", "{\"model\":\"m:1\"}", "{\"truncate\":false,\"model\":\"m:1\"}"),
        ("/api/generate", " {\"truncate\":true}", " {\"truncate\":true}"),
        ("/api/chat", "{}", "{}"),
        ("/api/chat", "", ""),
        ("/api/show", "{\"model\":\"m:1\"}", "{\"model\":\"m:1\"}"),
        (
            "/v1/chat/completions",
            "{\"model\":\"m:1\"}",
            "{\"stream_options\":{\"include_usage\":true},\"model\":\"m:1\"}",
        ),
        ("/v1/messages", "{\"model\":\"m:1\"}", "{\"model\":\"m:1\"}"),
    ] {
        assert_eq!(gateway.post(path, sent).await, (StatusCode::OK, arrived.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_usage_chunk_that_nobody_asked_for_is_counted_and_taken_out() {
    let engine = Engine::start(|request: Request<Incoming>| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert!(body.windows(20).any(|found| found == b"\"include_usage\":true}"[..20].as_ref()));
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
                      data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":2}}\n\n\
                      data: [DONE]\n\n";
        hyper::Response::builder().header("content-type", "text/event-stream").body(whole(stream)).unwrap()
    })
    .await;
    let gateway = Gateway::with(Options { ask_for_usage: true, ..Options::new(ANYWHERE, engine.address) }).await;
    until("the engine is up", || async { gateway.value("ollama_up").await == Some(1.0) }).await;
    let (_, quiet) = gateway.post("/v1/chat/completions", "{\"model\":\"m:1\",\"stream\":true}").await;
    assert_eq!(quiet, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n");
    let asked = "{\"model\":\"m:1\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}";
    let (_, loud) = gateway.post("/v1/chat/completions", asked).await;
    assert!(loud.contains("\"usage\""), "{loud}");
    until("both are counted", || async {
        gateway.value("ollama_generated_tokens_total{model=\"m:1\"}").await == Some(4.0)
    })
    .await;
    assert_eq!(gateway.value("ollama_prompt_tokens_total{model=\"m:1\"}").await, Some(22.0));
}
