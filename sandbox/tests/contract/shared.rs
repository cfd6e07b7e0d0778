//! The contract itself: claims that the stand-in and a real Ollama must both keep, in the same words.
//!
//! Against the stand-in they always run. Against a real engine they run if `STACK_TESTS_OLLAMA` is its address and
//! `STACK_TESTS_OLLAMA_MODEL` a model that it has, which may be ever so small. Models that a claim makes start with
//! `contract-`, and go again. `STACK_TESTS_OLLAMA_EMBEDDER` may name a model that makes vectors.
//!
//! No claim looks at what a model says, only at what the engine makes of it.

use sandbox::{Tiny, tiny_model};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{target::Target, *};

/// Every key of an object, sorted.
fn keys(value: &Value) -> Vec<String> {
    let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys
}

/// A limit of `most` tokens was kept, and said in the first of `words` if it was reached. A model of random weights may
/// end before it by itself, which the second word says.
fn ended_within(most: u64, tokens: &Value, reason: &Value, words: [&str; 2]) {
    let tokens = tokens.as_u64().unwrap();
    assert!((1..=most).contains(&tokens), "{tokens} of {most}");
    let word = if tokens == most { words[0] } else { words[1] };
    assert_eq!(reason, word, "after {tokens} of {most}");
}

fn messages() -> Value {
    json!([{"role": "user", "content": "hello there"}])
}

macro_rules! claims {
    ($($claim:ident,)*) => {
        mod stand_in {
            $(#[tokio::test] async fn $claim() {
                super::$claim(&super::Target::stand_in().await).await;
            })*
        }

        mod real {
            $(#[tokio::test] async fn $claim() {
                if let Some(target) = super::Target::real() {
                    super::$claim(&target).await;
                }
            })*
        }
    };
}

claims! {
    health_and_status,
    tags_and_show_have_their_fields,
    refuses_what_is_no_request,
    takes_names_as_people_spell_them,
    refuses_unknown_models_in_each_routes_words,
    generate_streams_and_ends_with_counters,
    chat_streams_and_ends_with_counters,
    stops_at_num_predict,
    loads_and_unloads,
    ps_tells_what_is_loaded,
    a_format_must_be_one,
    refuses_thinking_tools_and_insert_of_a_model_that_cannot,
    refuses_a_prompt_that_must_not_be_cut,
    cuts_a_long_prompt_without_a_word,
    a_repeated_prompt_is_counted_in_full,
    blobs_are_checked,
    creates_from_a_model,
    creates_from_a_file,
    create_refuses_bad_requests,
    copies_and_deletes,
    embeds,
    a_model_that_writes_makes_no_vectors,
    pushes_nothing_that_is_not_there,
    openai_lists_models,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_errors,
    responses,
    anthropic_messages,
    anthropic_errors,
}

async fn health_and_status(t: &Target) {
    for path in ["/", "/api/version", "/api/tags"] {
        assert_eq!(t.send(Method::HEAD, path, None).await.status().as_u16(), 200, "{path}");
    }
    let version: Value = t.send(Method::GET, "/api/version", None).await.json().await.unwrap();
    assert!(version["version"].is_string());
    let status: Value = t.send(Method::GET, "/api/status", None).await.json().await.unwrap();
    assert_eq!(keys(&status["cloud"]), ["disabled", "source"]);
    let response = t.send(Method::GET, "/api/nothing", None).await;
    assert_eq!(response.status().as_u16(), 404);
    assert_eq!(response.text().await.unwrap(), "404 page not found");
    assert_eq!(t.send(Method::GET, "/api/generate", None).await.status().as_u16(), 405);
}

async fn tags_and_show_have_their_fields(t: &Target) {
    let tags: Value = t.send(Method::GET, "/api/tags", None).await.json().await.unwrap();
    let model = tags["models"].as_array().unwrap().iter().find(|model| {
        let name = model["name"].as_str().unwrap();
        name == t.model || name == format!("{}:latest", t.model)
    });
    let model = model.expect("the model is not listed");
    assert_eq!(keys(model), ["capabilities", "details", "digest", "model", "modified_at", "name", "size"]);
    let details = ["context_length", "embedding_length", "families", "family", "format", "parameter_size"];
    let labels = keys(&model["details"]);
    assert!(details.iter().all(|key| labels.iter().any(|label| label == key)), "{labels:?}");
    assert_eq!(model["digest"].as_str().unwrap().len(), 64);

    let (status, show) = t.post("/api/show", t.ask(json!({}))).await;
    assert_eq!(status, 200);
    for key in ["modelfile", "template", "details", "model_info", "tensors", "capabilities", "modified_at"] {
        assert!(show.get(key).is_some(), "{key}");
    }
    let info = &show["model_info"];
    let architecture = info["general.architecture"].as_str().unwrap();
    assert!(info["general.parameter_count"].is_u64());
    assert!(info[format!("{architecture}.context_length")].is_u64());
    assert!(info.get("general.name").is_none());
    assert_eq!(keys(&show["tensors"][0]), ["name", "shape", "type"]);
    let modelfile = show["modelfile"].as_str().unwrap();
    assert!(modelfile.starts_with("# Modelfile generated by \"ollama show\"\n# To build a new Modelfile"));
    assert!(modelfile.contains("\nFROM /") && modelfile.contains("\nTEMPLATE "), "{modelfile}");
}

async fn refuses_what_is_no_request(t: &Target) {
    for path in ["generate", "chat", "embed", "embeddings", "pull", "push", "show", "create", "copy"] {
        let path = format!("/api/{path}");
        let response = t.send(Method::POST, &path, None).await;
        assert_eq!(response.status().as_u16(), 400, "{path}");
        assert_eq!(response.json::<Value>().await.unwrap(), json!({"error": "missing request body"}), "{path}");
        assert_eq!(t.post(&path, json!("text")).await.0, 400, "{path}");
        assert_eq!(t.post(&path, json!([t.model])).await.0, 400, "{path}");
    }
    assert_eq!(t.post("/api/chat", json!({})).await, (400, json!({"error": "model is required"})));
    assert_eq!(t.post("/api/show", json!({})).await, (400, json!({"error": "model is required"})));
    assert_eq!(t.post("/api/embed", json!({})).await, (404, json!({"error": "model '' not found"})));
    let response = t.send(Method::DELETE, "/api/delete", Some(json!({}))).await;
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"error": "model is required"}));
}

async fn takes_names_as_people_spell_them(t: &Target) {
    for name in [format!(" {} ", t.model), t.model.to_uppercase()] {
        assert_eq!(t.post("/api/show", json!({"model": name})).await.0, 200, "{name}");
    }
    if t.model.contains(':') {
        assert_eq!(t.post("/api/show", json!({"model": format!("{}:local", t.model)})).await.0, 200);
    }
}

async fn refuses_unknown_models_in_each_routes_words(t: &Target) {
    let ask = json!({"model": "contract-none", "prompt": "a", "messages": messages(), "input": "a"});
    let not_found = |error: &str| (404, json!({"error": error}));
    for path in ["/api/generate", "/api/chat"] {
        assert_eq!(t.post(path, ask.clone()).await, not_found("model 'contract-none' not found"), "{path}");
    }
    let pull_it = not_found("model \"contract-none\" not found, try pulling it first");
    assert_eq!(t.post("/api/embed", ask.clone()).await, pull_it);
    assert_eq!(t.post("/api/embeddings", ask.clone()).await, pull_it);
    assert_eq!(t.post("/api/show", ask.clone()).await, not_found("model 'contract-none:latest' not found"));
    let response = t.send(Method::DELETE, "/api/delete", Some(ask)).await;
    assert_eq!(response.status().as_u16(), 404);
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"error": "model 'contract-none' not found"}));
    let copy = json!({"source": "contract-none", "destination": "contract-other"});
    assert_eq!(t.post("/api/copy", copy).await, not_found("model \"contract-none\" not found"));
}

fn has_counters(last: &Value) {
    assert_eq!(last["done"], true);
    for key in ["total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"] {
        assert!(last[key].as_u64().is_some_and(|count| count > 0), "{key} of {last}");
    }
}

async fn generate_streams_and_ends_with_counters(t: &Target) {
    let ask = t.ask(json!({"prompt": "hello there", "options": {"num_predict": 8, "seed": 1}}));
    let lines = t.lines("/api/generate", ask.clone()).await;
    let (last, rest) = lines.split_last().unwrap();
    assert!(!rest.is_empty());
    assert!(rest.iter().all(|line| keys(line) == ["created_at", "done", "model", "response"]), "{rest:?}");
    assert!(lines.iter().all(|line| line["model"] == json!(t.model)));
    has_counters(last);
    let mut whole = ask;
    whole["stream"] = json!(false);
    let (status, whole) = t.post("/api/generate", whole).await;
    assert_eq!(status, 200);
    has_counters(&whole);
}

async fn chat_streams_and_ends_with_counters(t: &Target) {
    let ask = t.ask(json!({"messages": messages(), "options": {"num_predict": 8}}));
    let lines = t.lines("/api/chat", ask.clone()).await;
    let (last, rest) = lines.split_last().unwrap();
    assert!(rest.iter().all(|line| keys(line) == ["created_at", "done", "message", "model"]), "{rest:?}");
    assert!(lines.iter().all(|line| line["message"]["role"] == "assistant"));
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    has_counters(last);
}

async fn stops_at_num_predict(t: &Target) {
    let ask = t.ask(json!({"prompt": "count", "stream": false, "options": {"num_predict": 3, "seed": 3}}));
    let (_, answer) = t.post("/api/generate", ask).await;
    ended_within(3, &answer["eval_count"], &answer["done_reason"], ["length", "stop"]);
}

async fn loads_and_unloads(t: &Target) {
    for path in ["/api/generate", "/api/chat"] {
        let (status, load) = t.post(path, t.ask(json!({}))).await;
        assert_eq!((status, &load["done_reason"], &load["done"]), (200, &json!("load"), &json!(true)), "{path}");
        assert!(load.get("eval_count").is_none());
        let (status, unload) = t.post(path, t.ask(json!({"keep_alive": 0}))).await;
        assert_eq!((status, &unload["done_reason"]), (200, &json!("unload")), "{path}");
    }
}

async fn ps_tells_what_is_loaded(t: &Target) {
    // Under a name of its own, that nothing else loads or unloads.
    let made = t.post("/api/copy", json!({"source": t.model, "destination": "contract-ps"})).await;
    assert_eq!(made.0, 200);
    t.post("/api/generate", json!({"model": "contract-ps", "keep_alive": -1, "options": {"num_ctx": 512}})).await;
    let ps: Value = t.send(Method::GET, "/api/ps", None).await.json().await.unwrap();
    let model = &ps["models"][0];
    let expected = ["context_length", "details", "digest", "expires_at", "model", "name", "size", "size_vram"];
    assert_eq!(keys(model), expected);
    t.post("/api/generate", json!({"model": "contract-ps", "keep_alive": 0})).await;
    t.delete("contract-ps").await;
}

async fn a_format_must_be_one(t: &Target) {
    let ask = t.ask(json!({"prompt": "a", "format": "xml", "stream": false}));
    let (status, error) = t.post("/api/generate", ask).await;
    let expected = "invalid format: \"\\\"xml\\\"\"; expected \"json\" or a valid JSON Schema object";
    assert_eq!((status, error), (500, json!({"error": expected})));
}

async fn refuses_thinking_tools_and_insert_of_a_model_that_cannot(t: &Target) {
    let made = json!({"model": "contract-plain", "from": t.model, "template": "{{ .Prompt }}", "stream": false});
    assert_eq!(t.post("/api/create", made).await, (200, json!({"status": "success"})));
    let ask = |more: Value| {
        let mut ask = json!({"model": "contract-plain"});
        ask.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        ask
    };
    let refused = |error: &str| (400, json!({"error": error}));
    let full = "registry.ollama.ai/library/contract-plain:latest";
    let thinking = ask(json!({"messages": messages(), "think": true}));
    let answer = t.post("/api/chat", thinking).await;
    assert_eq!(answer, refused("\"contract-plain\" does not support thinking"));
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let answer = t.post("/api/chat", ask(json!({"messages": messages(), "tools": tools}))).await;
    assert_eq!(answer, refused(&format!("{full} does not support tools")));
    let answer = t.post("/api/generate", ask(json!({"prompt": "a", "suffix": "b"}))).await;
    assert_eq!(answer, refused(&format!("{full} does not support insert")));
    t.delete("contract-plain").await;
}

fn long() -> String {
    "many words that fill a context ".repeat(200)
}

async fn refuses_a_prompt_that_must_not_be_cut(t: &Target) {
    let ask = json!({"prompt": long(), "truncate": false, "stream": false, "options": {"num_ctx": 256}});
    let (status, error) = t.post("/api/generate", t.ask(ask)).await;
    assert_eq!(status, 400);
    // The runner's own words, JSON within a string.
    let error: Value = serde_json::from_str(error["error"].as_str().unwrap()).unwrap();
    assert_eq!(error["error"]["type"], "exceed_context_size_error");
    assert_eq!(error["error"]["n_ctx"], 256);
}

async fn cuts_a_long_prompt_without_a_word(t: &Target) {
    let ask = json!({"prompt": long(), "stream": false, "options": {"num_ctx": 256, "num_predict": 2}});
    let (status, answer) = t.post("/api/generate", t.ask(ask)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["prompt_eval_count"].as_u64().unwrap() <= 256, "{answer}");
}

async fn a_repeated_prompt_is_counted_in_full(t: &Target) {
    let ask = t.ask(json!({"prompt": "the same words again", "stream": false, "options": {"num_predict": 2}}));
    let (_, first) = t.post("/api/generate", ask.clone()).await;
    let (_, second) = t.post("/api/generate", ask).await;
    assert_eq!(first["prompt_eval_count"], second["prompt_eval_count"]);
}

fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

async fn blobs_are_checked(t: &Target) {
    let content = format!("contract {}", t.base).into_bytes();
    let path = |digest: &str| format!("{}/api/blobs/{digest}", t.base);
    let put = async |digest: &str, content: &[u8]| {
        let response = t.client.post(path(digest)).body(content.to_vec()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let digest = digest(&content);
    let missing = t.client.head(path(&digest)).send().await.unwrap().status().as_u16();
    assert!(missing == 404 || missing == 200, "{missing}");
    let (status, _) = put(&digest, &content).await;
    assert!(status == 201 || (missing == 200 && status == 200), "{status}");
    assert_eq!(put(&digest, &content).await, (200, String::new()));
    let large = vec![b'x'; 300_000];
    assert_eq!(put(&digest, &large).await.0, 200, "what is there is not looked at, and read all the same");
    assert_eq!(t.client.head(path(&digest)).send().await.unwrap().status().as_u16(), 200);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let other = format!("other than {digest}").into_bytes();
    let (status, error) = put(&wrong, &other).await;
    let got = self::digest(&other);
    let expected = json!({"error": format!("digest mismatch, expected \"{wrong}\", got \"{got}\"")});
    assert_eq!((status, serde_json::from_str::<Value>(&error).unwrap()), (400, expected));
    let (status, error) = put("sha256:12", b"a").await;
    let expected = json!({"error": "invalid digest format"});
    assert_eq!((status, serde_json::from_str::<Value>(&error).unwrap()), (400, expected));
}

async fn creates_from_a_model(t: &Target) {
    let made = json!({
        "model": "contract-made",
        "from": t.model,
        "system": "Be brief.",
        "template": "{{ .System }} {{ .Prompt }}",
        "parameters": {"num_ctx": 512, "stop": ["END", "a b "]},
        "license": ["first", "second"],
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
    });
    let lines = t.lines("/api/create", made).await;
    let says: Vec<&str> = lines.iter().map(|line| line["status"].as_str().unwrap()).collect();
    assert!(says[0].starts_with("using existing layer sha256:"), "{says:?}");
    assert_eq!(says[says.len() - 2..], ["writing manifest", "success"]);
    let (_, show) = t.post("/api/show", json!({"model": "contract-made"})).await;
    assert_eq!((&show["system"], &show["license"]), (&json!("Be brief."), &json!("first\nsecond")));
    assert_eq!(show["template"], "{{ .System }} {{ .Prompt }}");
    assert_eq!(show["messages"][1], json!({"role": "assistant", "content": "ho"}));
    let modelfile = show["modelfile"].as_str().unwrap();
    for line in [
        "SYSTEM Be brief.",
        "PARAMETER num_ctx 512",
        "PARAMETER stop END",
        "PARAMETER stop \"a b \"",
        "LICENSE first",
        "MESSAGE user hi",
    ] {
        assert!(modelfile.lines().any(|found| found == line), "{line} in {modelfile}");
    }
    let parameters = show["parameters"].as_str().unwrap();
    assert!(parameters.lines().any(|line| line == "stop                           \"END\""), "{parameters}");
    assert!(parameters.lines().any(|line| line == "num_ctx                        512"), "{parameters}");
    assert_eq!(t.delete("contract-made").await, 200);
}

/// One whose `general.file_type` is 0, F32, which Ollama takes for none.
async fn creates_from_a_file(t: &Target) {
    let content = tiny_model(Tiny::Writer);
    let digest = digest(&content);
    let put = t.client.post(format!("{}/api/blobs/{digest}", t.base)).body(content).send().await.unwrap();
    assert!(put.status().is_success(), "{}", put.status());
    let smaller = json!({"model": "contract-file", "files": {"tiny.gguf": digest}, "quantize": "q8_0"});
    let refused = t.lines("/api/create", smaller).await.pop().unwrap();
    assert_eq!(refused, json!({"error": "quantization is only supported for F16, BF16 and F32 models"}));
    let made = json!({"model": "contract-file", "files": {"tiny.gguf": digest}, "parameters": {"num_ctx": 512}});
    let lines = t.lines("/api/create", made).await;
    let says: Vec<&str> = lines.iter().map(|line| line["status"].as_str().unwrap()).collect();
    assert_eq!(says[0], "parsing GGUF");
    assert_eq!(says[says.len() - 2..], ["writing manifest", "success"]);
    let (_, show) = t.post("/api/show", json!({"model": "contract-file"})).await;
    let details = &show["details"];
    assert_eq!((&details["format"], &details["family"]), (&json!("gguf"), &json!("llama")));
    assert_eq!((&details["quantization_level"], &details["parameter_size"]), (&json!("unknown"), &json!("1.44M")));
    assert_eq!(show["model_info"]["llama.block_count"], 2);
    assert_eq!(show["model_info"]["general.parameter_count"], 1_443_584);
    let ask = json!({"model": "contract-file", "prompt": "hello", "stream": false, "options": {"num_predict": 3}});
    let (status, answer) = t.post("/api/generate", ask).await;
    assert_eq!((status, &answer["eval_count"], &answer["done_reason"]), (200, &json!(3), &json!("length")));
    assert_eq!(t.delete("contract-file").await, 200);
}

async fn create_refuses_bad_requests(t: &Target) {
    let cases = [
        (json!({"model": "contract-bad", "from": ""}), 400, "neither 'from' or 'files' was specified"),
        (json!({"model": "", "from": t.model}), 400, "invalid model name"),
        (json!({"model": "contract-bad", "files": {}}), 400, "unknown type"),
        (json!({"model": "contract-bad", "files": {"../a.gguf": "sha256:1"}}), 400, "file path must be relative"),
        (json!({"model": "contract-bad", "files": {"a.gguf": ""}}), 400, "invalid digest format"),
        (
            json!({"model": "contract-bad", "from": t.model, "quantize": "q5_K_M"}),
            500,
            "unsupported quantization type Q5_K_M - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0",
        ),
    ];
    for (mut body, status, error) in cases {
        body["stream"] = json!(false);
        assert_eq!(t.post("/api/create", body.clone()).await, (status, json!({"error": error})), "{body}");
    }
}

async fn copies_and_deletes(t: &Target) {
    let copy = json!({"source": t.model, "destination": "contract-copy:v1"});
    assert_eq!(t.post("/api/copy", copy).await.0, 200);
    assert!(t.names().await.iter().any(|name| name == "contract-copy:v1"));
    assert_eq!(t.delete("contract-copy:v1").await, 200);
    assert!(!t.names().await.iter().any(|name| name == "contract-copy:v1"));
    assert_eq!(t.delete("contract-copy:v1").await, 404);
    // The blobs are another model's, too.
    assert_eq!(t.post("/api/show", t.ask(json!({}))).await.0, 200);
    let (status, error) = t.post("/api/copy", json!({"source": "a:b:c/", "destination": "x"})).await;
    assert_eq!((status, error), (400, json!({"error": "source \"a:b:c/\" is invalid"})));
}

async fn embeds(t: &Target) {
    let Some(embedder) = &t.embedder else { return };
    let ask = json!({"model": embedder, "input": ["one", "two"], "dimensions": 8});
    let (status, answer) = t.post("/api/embed", ask).await;
    assert_eq!(status, 200, "{answer}");
    let embeddings = answer["embeddings"].as_array().unwrap();
    assert_eq!(embeddings.len(), 2);
    for embedding in embeddings {
        let numbers: Vec<f64> = embedding.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
        assert_eq!(numbers.len(), 8);
        assert!((numbers.iter().map(|n| n * n).sum::<f64>() - 1.0).abs() < 1e-3);
    }
    assert!(answer["prompt_eval_count"].as_u64().unwrap() > 0);
    let (_, answer) = t.post("/api/embed", t.ask(json!({"input": []}))).await;
    assert_eq!(answer["embeddings"], json!([]));
    let (status, error) = t.post("/api/embed", t.ask(json!({"input": [1]}))).await;
    assert_eq!((status, error), (400, json!({"error": "invalid input type"})));
    let (_, answer) = t.post("/api/embeddings", json!({"model": embedder, "prompt": "one"})).await;
    assert!(answer["embedding"].as_array().unwrap().len() > 8);
    assert_eq!(t.post("/api/embeddings", t.ask(json!({}))).await, (200, json!({"embedding": []})));
}

async fn pushes_nothing_that_is_not_there(t: &Target) {
    let lines = t.lines("/api/push", json!({"model": "contract-none"})).await;
    assert_eq!(lines[0], json!({"status": "retrieving manifest"}));
    assert_eq!(lines[1], json!({"status": "couldn't retrieve manifest"}));
    assert!(lines[2]["error"].is_string());
    assert_eq!(t.post("/api/push", json!({"model": "contract-none", "stream": false})).await.0, 500);
}

async fn openai_lists_models(t: &Target) {
    let list: Value = t.send(Method::GET, "/v1/models", None).await.json().await.unwrap();
    assert_eq!(list["object"], "list");
    assert_eq!(keys(&list["data"][0]), ["created", "id", "object", "owned_by"]);
    let model: Value = t.send(Method::GET, &format!("/v1/models/{}", t.model), None).await.json().await.unwrap();
    assert_eq!((&model["id"], &model["owned_by"]), (&json!(t.model), &json!("library")));
    let response = t.send(Method::GET, "/v1/models/contract-none", None).await;
    assert_eq!(response.status().as_u16(), 404);
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    let message = "model 'contract-none:latest' not found";
    assert_eq!(error, json!({"message": message, "type": "not_found_error", "param": null, "code": null}));
}

async fn openai_chat(t: &Target) {
    let ask = t.ask(json!({"messages": messages(), "max_tokens": 4, "temperature": 0}));
    let (status, answer) = t.post("/v1/chat/completions", ask.clone()).await;
    assert_eq!(status, 200);
    assert_eq!(keys(&answer), ["choices", "created", "id", "model", "object", "system_fingerprint", "usage"]);
    assert_eq!(keys(&answer["choices"][0]), ["finish_reason", "index", "message"]);
    let reason = &answer["choices"][0]["finish_reason"];
    ended_within(4, &answer["usage"]["completion_tokens"], reason, ["length", "stop"]);

    let mut stream = ask;
    stream["stream"] = json!(true);
    stream["stream_options"] = json!({"include_usage": true});
    let events = t.events("/v1/chat/completions", stream).await;
    let chunks: Vec<&Value> = events.iter().map(|(_, data)| data).collect();
    let [first, .., finish, usage, done] = chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    assert_eq!((&finish["choices"][0]["delta"], &usage["choices"]), (&json!({}), &json!([])));
    let reason = &finish["choices"][0]["finish_reason"];
    ended_within(4, &usage["usage"]["completion_tokens"], reason, ["length", "stop"]);
    assert_eq!(done, "[DONE]");
    assert!(chunks[..chunks.len() - 2].iter().all(|chunk| chunk.get("usage").is_none()));
}

async fn openai_completions(t: &Target) {
    let ask = t.ask(json!({"prompt": "hello", "max_tokens": 4, "temperature": 0}));
    let (status, answer) = t.post("/v1/completions", ask.clone()).await;
    assert_eq!((status, &answer["object"]), (200, &json!("text_completion")));
    assert_eq!(keys(&answer["choices"][0]), ["finish_reason", "index", "text"]);
    let mut stream = ask;
    stream["stream"] = json!(true);
    stream["stream_options"] = json!({"include_usage": true});
    let events = t.events("/v1/completions", stream).await;
    let (_, first) = &events[0];
    assert_eq!(first["usage"], json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}));
    let reason = &events[events.len() - 3].1["choices"][0]["finish_reason"];
    ended_within(4, &events[events.len() - 2].1["usage"]["completion_tokens"], reason, ["length", "stop"]);
    assert_eq!(events[events.len() - 1].1, "[DONE]");
}

async fn a_model_that_writes_makes_no_vectors(t: &Target) {
    let error = "This server does not support embeddings. Start it with `--embeddings`";
    let refused = |status: u16| (status, json!({"error": error}));
    assert_eq!(t.post("/api/embed", t.ask(json!({"input": "one"}))).await, refused(501));
    assert_eq!(t.post("/api/embeddings", t.ask(json!({"prompt": "one"}))).await, refused(500));
}

async fn openai_embeddings(t: &Target) {
    let Some(embedder) = &t.embedder else { return };
    let (status, answer) = t.post("/v1/embeddings", json!({"model": embedder, "input": "one"})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(keys(&answer), ["data", "model", "object", "usage"]);
    let width = answer["data"][0]["embedding"].as_array().unwrap().len();
    let ask = json!({"model": embedder, "input": ["one"], "encoding_format": "base64"});
    let (_, answer) = t.post("/v1/embeddings", ask).await;
    assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), (width * 4).div_ceil(3) * 4);
    let (status, error) = t.post("/v1/embeddings", t.ask(json!({}))).await;
    assert_eq!((status, &error["error"]["message"]), (400, &json!("invalid input")));
}

async fn openai_errors(t: &Target) {
    let error =
        |kind: &str, message: &str| json!({"error": {"message": message, "type": kind, "param": null, "code": null}});
    let path = "/v1/chat/completions";
    let answer = t.post(path, json!({"model": "contract-none", "messages": messages()})).await;
    assert_eq!(answer, (404, error("not_found_error", "model 'contract-none' not found")));
    let answer = t.post(path, t.ask(json!({"messages": []}))).await;
    assert_eq!(answer, (400, error("invalid_request_error", "[] is too short - 'messages'")));
    let response = t.send(Method::POST, path, None).await;
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(response.json::<Value>().await.unwrap(), error("invalid_request_error", "EOF"));
}

async fn responses(t: &Target) {
    let ask = t.ask(json!({"input": "hello", "max_output_tokens": 4, "temperature": 0}));
    let (status, answer) = t.post("/v1/responses", ask.clone()).await;
    assert_eq!((status, &answer["object"], &answer["status"]), (200, &json!("response"), &json!("completed")));
    let item = answer["output"].as_array().unwrap().last().unwrap();
    assert_eq!(keys(item), ["content", "id", "role", "status", "type"]);
    ended_within(4, &answer["usage"]["output_tokens"], &answer["status"], ["completed", "completed"]);
    let mut stream = ask;
    stream["stream"] = json!(true);
    let events = t.events("/v1/responses", stream).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",]
    );
    assert_eq!(
        names[names.len() - 4..],
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",]
    );
    for (number, (name, data)) in events.iter().enumerate() {
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(number)));
    }
    let last = &events.last().unwrap().1["response"];
    assert_eq!(keys(last), keys(&answer));
}

async fn anthropic_messages(t: &Target) {
    let ask = t.ask(json!({"messages": messages(), "max_tokens": 4, "temperature": 0}));
    let (status, answer) = t.post("/v1/messages", ask.clone()).await;
    assert_eq!(status, 200);
    assert_eq!(keys(&answer), ["content", "id", "model", "role", "stop_reason", "type", "usage"]);
    ended_within(4, &answer["usage"]["output_tokens"], &answer["stop_reason"], ["max_tokens", "end_turn"]);
    let mut stream = ask;
    stream["stream"] = json!(true);
    let events = t.events("/v1/messages", stream).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let delta = &events[events.len() - 2].1;
    let reason = &delta["delta"]["stop_reason"];
    ended_within(4, &delta["usage"]["output_tokens"], reason, ["max_tokens", "end_turn"]);
    let start = &events[0].1["message"];
    assert_eq!(keys(start), ["content", "id", "model", "role", "type", "usage"]);
}

async fn anthropic_errors(t: &Target) {
    let cases = [
        (json!({"max_tokens": 1, "messages": messages()}), 400, "invalid_request_error", "model is required"),
        (
            t.ask(json!({"messages": messages()})),
            400,
            "invalid_request_error",
            "max_tokens is required and must be positive",
        ),
        (t.ask(json!({"max_tokens": 1})), 400, "invalid_request_error", "messages is required"),
        (
            json!({"model": "contract-none", "max_tokens": 1, "messages": messages()}),
            404,
            "not_found_error",
            "model 'contract-none' not found",
        ),
    ];
    for (body, status, kind, message) in cases {
        let (got, answer) = t.post("/v1/messages", body).await;
        assert_eq!((got, &answer["type"]), (status, &json!("error")));
        assert_eq!(answer["error"], json!({"type": kind, "message": message}));
    }
}
