//! A full house over HTTP: who waits for room, who is refused, who makes room.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::time::timeout;

use super::*;

/// Long enough for an answer that could come to have come; see `inference.rs`.
const A_WHILE: Duration = Duration::from_millis(300);

const OTHER: &str = "llama3.1:8b";

/// One model in memory, one request in the queue beside the one that is looked at.
async fn small() -> Sandbox {
    Sandbox::with(|options| {
        options.timing = STUCK;
        options.seed.push(OTHER.to_owned());
        options.max_loaded_models = 1;
        options.max_queue = 1;
    })
    .await
}

fn ask(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stream": true})
}

#[tokio::test]
async fn a_full_queue_refuses_in_each_api_and_lets_in_whom_it_kept() {
    let error = "server busy, please try again.  maximum pending requests exceeded";
    let openai = json!({"error": {"message": error, "type": "api_error", "param": null, "code": null}});
    let shapes = [
        ("/api/chat", "", json!({"error": error})),
        ("/v1/chat/completions", "", openai),
        ("/v1/messages", "/error", json!({"type": "overloaded_error", "message": error})),
    ];
    for (path, place, refused) in shapes {
        let sandbox = small().await;
        let mut holder = sandbox.send(Method::POST, path, Some(&ask(DEFAULT_MODEL))).await;
        holder.chunk().await.unwrap();
        let body = ask(OTHER);
        let mut requests: FuturesUnordered<_> = (0..5).map(|_| sandbox.send(Method::POST, path, Some(&body))).collect();
        for _ in 0..3 {
            let response = timeout(PATIENCE, requests.next()).await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert_eq!(response.json::<Value>().await.unwrap().pointer(place), Some(&refused), "{path}");
        }
        assert!(timeout(A_WHILE, requests.next()).await.is_err(), "{path}: nobody has made room");
        drop(holder);
        // One slot: the second is answered once the first has left.
        for _ in 0..2 {
            let response = timeout(PATIENCE, requests.next()).await.expect("nobody let it in").unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{path}");
        }
        assert_eq!(sandbox.loaded().await, [OTHER], "{path}");
    }
}

#[tokio::test]
async fn a_full_queue_does_not_refuse_those_who_want_what_is_there() {
    let sandbox = small().await;
    let mut holder = sandbox.send(Method::POST, "/api/chat", Some(&ask(DEFAULT_MODEL))).await;
    holder.chunk().await.unwrap();
    let body = ask(OTHER);
    let mut others: FuturesUnordered<_> =
        (0..3).map(|_| sandbox.send(Method::POST, "/api/chat", Some(&body))).collect();
    let refused = timeout(PATIENCE, others.next()).await.unwrap().unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "the queue is full");
    let load = sandbox.post("/api/chat", json!({"model": DEFAULT_MODEL})).await;
    assert_eq!((load.0, &load.1["done_reason"]), (StatusCode::OK, &json!("load")));
}

#[tokio::test]
async fn a_full_memory_sends_away_the_longest_idle() {
    let sizes = Sandbox::with(|options| options.seed = vec![default_model(), OTHER.to_owned()]).await;
    let tags = sizes.get("/api/tags").await;
    let both: u64 = tags["models"].as_array().unwrap().iter().map(|model| model["size"].as_u64().unwrap()).sum();
    let sandbox = Sandbox::with(|options| {
        options.seed = vec![default_model(), OTHER.to_owned(), "qwen3:8b".to_owned()];
        options.memory_bytes = both + 4096;
    })
    .await;
    for model in [DEFAULT_MODEL, OTHER, DEFAULT_MODEL] {
        sandbox.post("/api/generate", json!({"model": model})).await;
    }
    assert_eq!(sandbox.loaded().await.len(), 2);
    sandbox.post("/api/generate", json!({"model": "qwen3:8b"})).await;
    assert!(!sandbox.loaded().await.contains(&OTHER.to_owned()));
    assert!(sandbox.loaded().await.contains(&"qwen3:8b".to_owned()));
}
