//! Answers, slots, and what stays in memory.

use std::time::Instant;

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::*;

/// Long enough for a request that could get through to have done so. Only claims that something does *not* happen wait
/// it out, so a slow machine can make them pass, never fail.
const A_WHILE: Duration = Duration::from_millis(300);

fn generate() -> Value {
    json!({"model": DEFAULT_MODEL, "prompt": "write a haiku"})
}

fn chat() -> Value {
    json!({"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "write a haiku"}]})
}

fn with(mut request: Value, more: Value) -> Value {
    request.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    request
}

#[tokio::test]
async fn a_stream_has_a_line_for_each_token_and_one_that_ends_it() {
    let sandbox = Sandbox::start().await;
    for (path, request, text) in [("/api/generate", generate(), "/response"), ("/api/chat", chat(), "/message/content")]
    {
        let (status, lines) = sandbox.stream(path, request.clone()).await;
        assert_eq!(status, StatusCode::OK);
        let (last, tokens) = lines.split_last().unwrap();
        let texts: Vec<&str> = tokens.iter().map(|line| line.pointer(text).unwrap().as_str().unwrap()).collect();
        assert!(texts.iter().all(|text| !text.is_empty()));
        assert!(texts.concat().starts_with("[sandbox] synthetic reply to "));
        assert!(tokens.iter().all(|line| line["done"] == false && line.get("eval_count").is_none()));
        assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
        assert_eq!(last.pointer(text).unwrap(), "");
        assert_eq!(last["eval_count"], tokens.len());
        assert_eq!(last["prompt_eval_count"], 13usize.div_ceil(4) + 4);

        let (_, whole) = sandbox.post(path, with(request, json!({"stream": false}))).await;
        assert_eq!(whole.pointer(text).unwrap(), &texts.concat(), "the same words when not streamed");
        assert_eq!((&whole["done"], &whole["eval_count"]), (&json!(true), &last["eval_count"]));
    }
}

#[tokio::test]
async fn stops_at_num_predict_and_says_so() {
    let sandbox = Sandbox::start().await;
    let (_, lines) = sandbox.stream("/api/chat", with(chat(), json!({"options": {"num_predict": 3}}))).await;
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[3]["done_reason"], &lines[3]["eval_count"]), (&json!("length"), &json!(3)));
}

#[tokio::test]
async fn declares_the_pace_that_it_was_given_and_keeps_it() {
    let ms = Duration::from_millis;
    let timing = Timing { load: ms(30), time_to_first_token: ms(20), time_per_output_token: ms(4) };
    let sandbox = Sandbox::with(|options| options.timing = timing).await;
    let asked = Instant::now();
    let (_, lines) = sandbox.stream("/api/generate", with(generate(), json!({"options": {"num_predict": 10}}))).await;
    assert!(asked.elapsed() >= ms(30 + 20 + 10 * 4), "{:?}", asked.elapsed());
    let last = &lines[10];
    assert_eq!(last["load_duration"], 30_000_000);
    assert_eq!(last["prompt_eval_duration"], 20_000_000);
    assert_eq!(last["eval_duration"], 40_000_000);
    assert!(last["total_duration"].as_u64().unwrap() >= 90_000_000);
}

#[tokio::test]
async fn loads_and_unloads_without_a_prompt() {
    let sandbox = Sandbox::start().await;
    for path in ["/api/generate", "/api/chat"] {
        let (status, loaded) = sandbox.post(path, json!({"model": DEFAULT_MODEL})).await;
        assert_eq!((status, &loaded["done_reason"]), (StatusCode::OK, &json!("load")));
        assert_eq!(sandbox.loaded().await, [default_model()]);
        let (status, unloaded) = sandbox.post(path, json!({"model": DEFAULT_MODEL, "keep_alive": 0})).await;
        assert_eq!((status, &unloaded["done_reason"]), (StatusCode::OK, &json!("unload")));
        assert!(sandbox.loaded().await.is_empty());
    }
}

#[tokio::test]
async fn an_answer_with_keep_alive_zero_leaves_nothing_in_memory() {
    let sandbox = Sandbox::start().await;
    sandbox.stream("/api/generate", with(generate(), json!({"keep_alive": "0s"}))).await;
    assert!(sandbox.loaded().await.is_empty());
}

#[tokio::test]
async fn ps_tells_the_context_and_when_the_model_leaves() {
    let sandbox = Sandbox::with(|options| options.keep_alive = None).await;
    let load = |more| with(json!({"model": DEFAULT_MODEL}), more);
    sandbox.post("/api/generate", load(json!({"options": {"num_ctx": 8192}}))).await;
    let ps = sandbox.get("/api/ps").await;
    let model = &ps["models"][0];
    assert_eq!(model["context_length"], 8192);
    assert_eq!(model["size"], model["size_vram"]);
    assert_eq!(model["digest"], sandbox.get("/api/tags").await["models"][0]["digest"]);
    assert!(model["expires_at"].as_str().unwrap().starts_with("23"), "forever: {model}");

    // A context beyond what the model was trained for is cut, and loads the model again.
    sandbox.post("/api/generate", load(json!({"options": {"num_ctx": 1_000_000}, "keep_alive": "1h"}))).await;
    let ps = sandbox.get("/api/ps").await;
    assert_eq!(ps["models"].as_array().unwrap().len(), 1);
    assert_eq!(ps["models"][0]["context_length"], 32768);
    assert!(ps["models"][0]["expires_at"].as_str().unwrap().starts_with("20"), "{ps}");
}

#[tokio::test]
async fn a_model_leaves_when_its_time_is_over() {
    let sandbox = Sandbox::start().await;
    sandbox.post("/api/generate", json!({"model": DEFAULT_MODEL, "keep_alive": 0.05})).await;
    let gone = async {
        while !sandbox.loaded().await.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it stayed");
}

#[tokio::test]
async fn refuses_what_the_model_cannot_do() {
    let sandbox = Sandbox::with(|options| options.seed = vec!["llama3.1:8b".to_owned()]).await;
    let request = json!({"model": "llama3.1:8b", "prompt": "a", "suffix": "b"});
    let refused = json!({"error": "registry.ollama.ai/library/llama3.1:8b does not support insert"});
    assert_eq!(sandbox.post("/api/generate", request).await, (StatusCode::BAD_REQUEST, refused));
    let request = json!({"model": "llama3.1:8b", "prompt": "a", "think": "high"});
    let refused = json!({"error": "\"llama3.1:8b\" does not support thinking"});
    assert_eq!(sandbox.post("/api/generate", request).await, (StatusCode::BAD_REQUEST, refused));
}

/// Starts an answer and waits for its first token.
async fn first_token(sandbox: &Sandbox) -> Response {
    let mut response = sandbox.send(Method::POST, "/api/generate", Some(&generate())).await;
    assert!(response.chunk().await.unwrap().is_some());
    response
}

#[tokio::test]
async fn one_slot_answers_one_at_a_time_and_two_slots_two() {
    for (num_parallel, both) in [(1, false), (2, true)] {
        let sandbox = Sandbox::with(|options| {
            options.timing = STUCK;
            options.num_parallel = num_parallel;
        })
        .await;
        let _first = first_token(&sandbox).await;
        let second = if both {
            timeout(PATIENCE, first_token(&sandbox)).await.is_ok()
        } else {
            timeout(A_WHILE, first_token(&sandbox)).await.is_ok()
        };
        assert_eq!(second, both, "with {num_parallel} slots");
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot() {
    let sandbox = Sandbox::with(|options| options.timing = STUCK).await;
    let holder = first_token(&sandbox).await;
    // One who gives up waiting must not be handed the slot afterwards.
    assert!(timeout(A_WHILE, first_token(&sandbox)).await.is_err());
    drop(holder);
    timeout(PATIENCE, first_token(&sandbox)).await.expect("the slot was not freed");
}

#[tokio::test]
async fn the_wait_for_a_slot_is_in_the_total_and_in_no_part() {
    let ttft = Duration::from_millis(100);
    let sandbox = Sandbox::with(|options| options.timing = Timing { time_to_first_token: ttft, ..INSTANT }).await;
    // Prompts that share nothing, or the cache would answer for one.
    let ask = async |prompt: &str| {
        let more = json!({"system": prompt, "prompt": prompt, "stream": false, "options": {"num_predict": 1}});
        let request = with(generate(), more);
        let (_, answer) = sandbox.post("/api/generate", request).await;
        serde_json::from_value::<wire::ollama::GenerateChunk>(answer).unwrap().metrics
    };
    let (a, b) = tokio::join!(ask("one"), ask("two"));
    let ttft = ttft.as_nanos() as u64;
    assert_eq!((a.prompt_eval_duration, b.prompt_eval_duration), (Some(ttft), Some(ttft)));
    let (first, second) = if a.total_duration < b.total_duration { (a, b) } else { (b, a) };
    assert!(second.total_duration.unwrap() > first.total_duration.unwrap());
    // They arrive at almost the same time; half is far from both none and all.
    assert!(second.queue_duration().unwrap() > ttft / 2, "{second:?}");
}
