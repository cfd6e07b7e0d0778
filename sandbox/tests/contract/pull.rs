//! Pulling: the order of its lines, what it leaves behind, how it fails.

use serde_json::json;

use super::*;

#[tokio::test]
async fn tells_its_progress_and_leaves_a_model() {
    let sandbox = Sandbox::with(|options| options.seed.clear()).await;
    assert_eq!(sandbox.get("/api/tags").await, json!({"models": []}));
    let (status, lines) = sandbox.stream("/api/pull", json!({"model": "qwen3:8b"})).await;
    assert_eq!(status, StatusCode::OK);

    let says = |line: &Value| line["status"].as_str().unwrap().to_owned();
    assert_eq!(says(&lines[0]), "pulling manifest");
    let ends = lines[lines.len() - 3..].iter().map(says).collect::<Vec<_>>();
    assert_eq!(ends, ["verifying sha256 digest", "writing manifest", "success"]);
    let blobs = &lines[1..lines.len() - 3];
    for line in blobs {
        let digest = line["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        assert_eq!(says(line), format!("pulling {}", &digest[..12]));
        assert!(line["completed"].as_u64().unwrap_or(0) <= line["total"].as_u64().unwrap());
    }
    // The model comes first, and in several pieces; the last line of each blob has all of it.
    let model: Vec<&Value> = blobs.iter().take_while(|line| line["digest"] == blobs[0]["digest"]).collect();
    assert!(model.len() > 2, "{model:?}");
    assert_eq!(model[0].get("completed"), None);
    assert_eq!(model[model.len() - 1]["completed"], model[0]["total"]);

    assert_eq!(sandbox.get("/api/tags").await["models"][0]["name"], "qwen3:8b");
}

#[tokio::test]
async fn pulling_what_is_there_moves_nothing() {
    let sandbox = Sandbox::start().await;
    let before = sandbox.get("/api/tags").await;
    let (_, lines) = sandbox.stream("/api/pull", json!({"model": DEFAULT_MODEL})).await;
    let blobs: Vec<&Value> = lines.iter().filter(|line| line.get("digest").is_some()).collect();
    assert_eq!(blobs.len(), 4, "one line for each blob");
    assert!(blobs.iter().all(|line| line["completed"] == line["total"]));
    assert_eq!(sandbox.get("/api/tags").await, before);
}

#[tokio::test]
async fn answers_once_when_not_streamed() {
    let sandbox = Sandbox::start().await;
    let answer = sandbox.post("/api/pull", json!({"name": "gpt-oss:20b", "stream": false})).await;
    assert_eq!(answer, (StatusCode::OK, json!({"status": "success"})));
}

#[tokio::test]
async fn an_unknown_model_fails_inside_the_stream() {
    let sandbox = Sandbox::start().await;
    let error = json!({"error": "pull model manifest: file does not exist"});
    for model in ["no-such-model", "hf.co/someone/something"] {
        let (status, lines) = sandbox.stream("/api/pull", json!({"model": model})).await;
        assert_eq!((status, lines), (StatusCode::OK, vec![json!({"status": "pulling manifest"}), error.clone()]));
        let answer = sandbox.post("/api/pull", json!({"model": model, "stream": false})).await;
        assert_eq!(answer, (StatusCode::INTERNAL_SERVER_ERROR, error.clone()));
    }
}

#[tokio::test]
async fn many_pulls_of_one_model_at_once_all_succeed() {
    let sandbox = Sandbox::with(|options| options.seed.clear()).await;
    let pull = || sandbox.post("/api/pull", json!({"model": "qwen3", "stream": false}));
    let done = (StatusCode::OK, json!({"status": "success"}));
    let (a, b, c) = tokio::join!(pull(), pull(), pull());
    assert_eq!([&a, &b, &c], [&done; 3]);
    assert_eq!(sandbox.post("/api/show", json!({"model": "qwen3"})).await.0, StatusCode::OK);
}
