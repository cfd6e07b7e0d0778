//! Whom the contract's claims are made of: the stand-in, or a real Ollama.

use serde_json::json;

use super::*;

/// Who is asked.
pub(crate) struct Target {
    pub(crate) base: String,
    pub(crate) model: String,
    /// One that makes vectors.
    pub(crate) embedder: Option<String>,
    pub(crate) client: Client,
    _sandbox: Option<Sandbox>,
}

impl Target {
    pub(crate) async fn stand_in() -> Self {
        // Not at once: real engines declare some time for each part.
        let ms = Duration::from_millis(1);
        let timing = Timing { time_to_first_token: ms, time_per_output_token: ms, load: ms };
        let sandbox = Sandbox::with(|options| {
            options.timing = timing;
            options.seed.push("nomic-embed-text".to_owned());
        })
        .await;
        Self {
            base: format!("http://{}", sandbox.address),
            model: default_model(),
            embedder: Some("nomic-embed-text".to_owned()),
            client: Client::new(),
            _sandbox: Some(sandbox),
        }
    }

    pub(crate) fn real() -> Option<Self> {
        let base = std::env::var("STACK_TESTS_OLLAMA").ok().filter(|base| !base.is_empty());
        let required = std::env::var("STACK_TESTS_REQUIRE").unwrap_or_default();
        let is_required = required.split([',', ' ']).any(|part| part == "ollama");
        let Some(base) = base else {
            assert!(!is_required, "STACK_TESTS_REQUIRE names ollama: set STACK_TESTS_OLLAMA to its address");
            eprintln!("not run against a real Ollama: STACK_TESTS_OLLAMA is not set");
            return None;
        };
        let model = std::env::var("STACK_TESTS_OLLAMA_MODEL").expect("STACK_TESTS_OLLAMA_MODEL names no model");
        let embedder = std::env::var("STACK_TESTS_OLLAMA_EMBEDDER").ok();
        Some(Self {
            base: base.trim_end_matches('/').to_owned(),
            model,
            embedder,
            client: Client::new(),
            _sandbox: None,
        })
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let request = self.client.request(method, format!("{}{path}", self.base)).timeout(PATIENCE);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.send(Method::POST, path, Some(body)).await;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn lines(&self, path: &str, body: Value) -> Vec<Value> {
        let response = self.send(Method::POST, path, Some(body)).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        response.text().await.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Events as `(name, data)`; those of OpenAI's chat have no name, and `[DONE]` is no JSON.
    pub(crate) async fn events(&self, path: &str, body: Value) -> Vec<(String, Value)> {
        let response = self.send(Method::POST, path, Some(body)).await;
        assert_eq!(response.status().as_u16(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let text = response.text().await.unwrap();
        let event = |event: &str| {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let data = field("data: ");
            (field("event: ").to_owned(), serde_json::from_str(data).unwrap_or_else(|_| json!(data)))
        };
        text.split("\n\n").filter(|part| !part.is_empty()).map(event).collect()
    }

    pub(crate) fn ask(&self, more: Value) -> Value {
        let mut ask = json!({"model": self.model});
        ask.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        ask
    }

    pub(crate) async fn delete(&self, model: &str) -> u16 {
        self.send(Method::DELETE, "/api/delete", Some(json!({"model": model}))).await.status().as_u16()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let tags: Value = self.send(Method::GET, "/api/tags", None).await.json().await.unwrap();
        tags["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    }
}
