//! Scenarios from a file: what tests of agents, gateway and bench play against.

use serde_json::json;

use super::*;

async fn play(file: &str) -> Sandbox {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("scenarios.toml");
    std::fs::write(&path, file).unwrap();
    let sandbox = Sandbox::with(|options| options.scenarios = Some(path)).await;
    drop(dir);
    sandbox
}

fn chat(content: &str) -> Value {
    json!({"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": content}]})
}

const AGENT: &str = r#"
[[reply]]
contains = "fix the bug"
thinking = "I must look first."
text = "Let me look. "
calls = [{ name = "read_file", arguments = { path = "src/lib.rs" } }]

[[reply]]
role = "tool"
text = "It is fixed."
"#;

#[tokio::test]
async fn an_agent_is_told_what_to_call_in_every_api() {
    let sandbox = play(AGENT).await;
    let mut ask = chat("please fix the bug");
    ask["stream"] = json!(false);
    let (_, answer) = sandbox.post("/api/chat", ask).await;
    assert_eq!(answer["message"]["content"], "Let me look. ");
    assert_eq!(answer["message"]["thinking"], "I must look first.");
    let call = &answer["message"]["tool_calls"][0];
    let function = json!({"index": 0, "name": "read_file", "arguments": {"path": "src/lib.rs"}});
    assert_eq!(call["function"], function);
    assert_eq!(answer["done_reason"], "stop");

    let (_, answer) = sandbox.post("/v1/chat/completions", chat("please fix the bug")).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "read_file", "arguments": "{\"path\":\"src/lib.rs\"}"}));

    let mut ask = chat("please fix the bug");
    ask["max_tokens"] = json!(100);
    let (_, answer) = sandbox.post("/v1/messages", ask).await;
    assert_eq!(answer["stop_reason"], "tool_use");
    let kinds: Vec<&Value> = answer["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);
    assert_eq!(answer["content"][2]["input"], json!({"path": "src/lib.rs"}));

    let mut ask = chat("please fix the bug");
    ask["messages"].as_array_mut().unwrap().push(json!({"role": "tool", "content": "fn main() {}"}));
    let (_, lines) = sandbox.stream("/api/chat", ask).await;
    let text: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, "It is fixed.");
}

#[tokio::test]
async fn an_error_inside_a_stream_comes_under_200_and_in_its_place_with_a_status() {
    let sandbox = play("[[reply]]\ntext = ['a', 'b', 'c']\nerror_after = 2\nerror = 'out of memory'\n").await;
    let (status, lines) = sandbox.stream("/api/chat", chat("hi")).await;
    assert_eq!((status, lines.len()), (StatusCode::OK, 3));
    assert_eq!(lines[2], json!({"error": "out of memory"}));
    let mut whole = chat("hi");
    whole["stream"] = json!(false);
    let error = json!({"error": "out of memory"});
    assert_eq!(sandbox.post("/api/chat", whole).await, (StatusCode::INTERNAL_SERVER_ERROR, error));
    // OpenAI's API loses the error, as Ollama's does: the stream just ends.
    let mut ask = chat("hi");
    ask["stream"] = json!(true);
    let response = sandbox.send(Method::POST, "/v1/chat/completions", Some(&ask)).await;
    let text = response.text().await.unwrap();
    assert!(!text.contains("[DONE]") && !text.contains("out of memory"), "{text}");
}

#[tokio::test]
async fn a_death_in_the_middle_cuts_the_connection_in_a_chunk() {
    let sandbox = play("[[reply]]\ntext = ['a', 'b', 'c']\ndie_after = 1\ntime_to_first_token_ms = 20\ntime_per_output_token_ms = 20\n").await;
    let mut response = sandbox.send(Method::POST, "/api/chat", Some(&chat("hi"))).await;
    let mut text = Vec::new();
    let error = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => text.extend_from_slice(&chunk),
            Ok(None) => panic!("the body ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(error.is_body() || error.is_decode() || error.is_request(), "{error:?}");
    assert!(!text.ends_with(b"\n"));
}

#[tokio::test]
async fn refusals_malformed_lines_and_turns() {
    let sandbox = play(
        "[[reply]]\ntimes = 1\nstatus = 503\nerror = 'busy'\n\
         [[reply]]\ntext = ['a', 'b']\nmalformed_after = 1\n",
    )
    .await;
    let busy = json!({"error": "busy"});
    assert_eq!(sandbox.post("/api/chat", chat("hi")).await, (StatusCode::SERVICE_UNAVAILABLE, busy));
    let text = sandbox.send(Method::POST, "/api/chat", Some(&chat("hi"))).await.text().await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(serde_json::from_str::<Value>(lines[1]).is_err());
}

#[tokio::test]
async fn a_pull_that_was_cut_goes_on_where_it_was() {
    let sandbox = play("[pull]\nerror_after_pieces = 2\n").await;
    let (_, lines) = sandbox.stream("/api/pull", json!({"model": "llama3.1:8b"})).await;
    let cut = lines[lines.len() - 2]["completed"].as_u64().unwrap();
    assert_eq!(lines.last().unwrap(), &json!({"error": "unexpected EOF"}));
    let (_, lines) = sandbox.stream("/api/pull", json!({"model": "llama3.1:8b"})).await;
    assert_eq!(lines[1]["completed"], cut, "what was there is not brought again");
    let mut tries = 0;
    while sandbox.post("/api/pull", json!({"model": "llama3.1:8b", "stream": false})).await.0 != StatusCode::OK {
        tries += 1;
        assert!(tries < 5, "it never finished");
    }
    assert_eq!(sandbox.post("/api/show", json!({"model": "llama3.1:8b"})).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_misspelled_scenario_does_not_start() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("s.toml");
    std::fs::write(&path, "[[reply]]\nstal_ms = 1\n").unwrap();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = Options { listen, scenarios: Some(path), ..Options::new(dir.path().join("models")) };
    assert!(matches!(Server::bind(options).await, Err(sandbox::Error::Scenario(_))));
}
