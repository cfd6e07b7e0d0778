//! Statuses and bodies that do not depend on a model.

use std::error::Error as _;

use serde_json::json;

use super::*;

#[tokio::test]
async fn says_that_ollama_is_running() {
    let sandbox = Sandbox::start().await;
    let response = sandbox.send(Method::GET, "/", None).await;
    assert_eq!((response.status(), response.text().await.unwrap().as_str()), (StatusCode::OK, "Ollama is running"));
    assert_eq!(sandbox.get("/api/version").await, json!({"version": "0.33.0-sandbox"}));
}

#[tokio::test]
async fn health_can_be_asked_without_a_body() {
    let sandbox = Sandbox::start().await;
    for path in ["/", "/api/version", "/api/tags"] {
        let response = sandbox.send(Method::HEAD, path, None).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(response.bytes().await.unwrap().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn answers_unknown_paths_and_methods_as_gin_does() {
    let sandbox = Sandbox::start().await;
    let response = sandbox.send(Method::GET, "/api/nothing", None).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.text().await.unwrap(), "404 page not found");
    for (method, path) in [(Method::GET, "/api/generate"), (Method::DELETE, "/api/tags"), (Method::HEAD, "/api/ps")] {
        let response = sandbox.send(method, path, None).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[tokio::test]
async fn refuses_a_foreign_host_on_loopback() {
    let sandbox = Sandbox::start().await;
    let ask = async |host: &str| {
        let url = format!("http://{}/api/version", sandbox.address);
        let response = sandbox.client.get(url).header("host", host).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    };
    for host in ["llm.example.com", "llm.example.com:11434", "8.8.8.8"] {
        assert_eq!(ask(host).await, (StatusCode::FORBIDDEN, String::new()), "{host}");
    }
    for host in ["localhost:11434", "127.0.0.1", "[::1]:80", "studio.local", "192.168.1.20"] {
        assert_eq!(ask(host).await.0, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn takes_any_host_when_it_listens_for_all() {
    let sandbox = Sandbox::with(|options| options.listen = "0.0.0.0:0".parse().unwrap()).await;
    let url = format!("http://127.0.0.1:{}/", sandbox.address.port());
    let response = sandbox.client.get(url).header("host", "llm.example.com").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn refuses_no_body_and_bad_json() {
    let sandbox = Sandbox::start().await;
    for path in ["/api/generate", "/api/chat", "/api/show", "/api/pull"] {
        let send = async |body: &'static str| {
            let url = format!("http://{}{path}", sandbox.address);
            let response = sandbox.client.post(url).body(body).send().await.unwrap();
            (response.status(), response.json::<Value>().await.unwrap())
        };
        assert_eq!(send(" \n").await, (StatusCode::BAD_REQUEST, json!({"error": "missing request body"})), "{path}");
        let (status, body) = send("{\"model\": ").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(body["error"].is_string(), "{path}: {body}");
    }
}

#[tokio::test]
async fn refuses_an_unknown_model() {
    let sandbox = Sandbox::start().await;
    // A short name means the tag `latest`, which is not here.
    let request = json!({"model": "qwen2.5-coder", "prompt": "hi", "messages": [{"role": "user", "content": "hi"}]});
    let refused = |name| (StatusCode::NOT_FOUND, json!({"error": format!("model '{name}' not found")}));
    assert_eq!(sandbox.post("/api/generate", request.clone()).await, refused("qwen2.5-coder"));
    assert_eq!(sandbox.post("/api/chat", request.clone()).await, refused("qwen2.5-coder"));
    assert_eq!(sandbox.post("/api/show", request).await, refused("qwen2.5-coder:latest"));
}

#[tokio::test]
async fn refuses_what_is_no_model_name() {
    let sandbox = Sandbox::start().await;
    let bad = |error: &str| (StatusCode::BAD_REQUEST, json!({"error": error}));
    for path in ["/api/generate", "/api/chat", "/api/show", "/api/pull"] {
        let answer = sandbox.post(path, json!({"model": "../../etc/passwd"})).await;
        assert_eq!(answer, bad("invalid model name"), "{path}");
    }
    assert_eq!(sandbox.post("/api/chat", json!({})).await, bad("model is required"));
    assert_eq!(sandbox.post("/api/show", json!({})).await, bad("model is required"));
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_the_reason() {
    let sandbox = Sandbox::start().await;
    let options = Options { listen: sandbox.address, seed: Vec::new(), ..Options::new(sandbox.models.clone()) };
    let error = Server::bind(options).await.err().unwrap();
    assert_eq!(error.to_string(), format!("cannot listen on {}", sandbox.address));
    assert!(error.source().unwrap().to_string().contains("in use"), "{:?}", error.source());
    assert!(error.hint().unwrap().contains(&sandbox.address.port().to_string()));
}

#[tokio::test]
async fn refuses_a_seed_that_is_no_name_or_no_model() {
    let bind = async |seed: &str| {
        let dir = TempDir::new().unwrap();
        let options = Options { seed: vec![seed.to_owned()], ..Options::new(dir.path().to_owned()) };
        Server::bind(options).await.err().unwrap().to_string()
    };
    assert_eq!(bind("a b").await, "\"a b\" is not a model name");
    assert_eq!(bind("no-such-model").await, "cannot seed no-such-model");
}
