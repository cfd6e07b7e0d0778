//! The gateway of a real stack: what it counts against what the engine did, keys by verb, and its alerts.

use std::{env, fs, path::Path};

use serde_json::{Value, json};

use crate::stage::{Stage, is_lacking, lacks, system, until};

const MODEL: &str = "qwen2.5-coder:32b-instruct-q8_0";

/// Asks, and gives the whole answer.
fn ask(stage: &Stage, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, String) {
    let url = stage.part("gateway")["url"].as_str().unwrap().to_owned();
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let mut request = client.post(url + path).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().unwrap();
    (response.status().as_u16(), response.text().unwrap())
}

/// Puts lines under a table of the settings.
fn set(stage: &Stage, table: &str, lines: &str) {
    let text = fs::read_to_string(stage.path("stack.toml")).unwrap();
    let header = format!("[{table}]\n");
    let text = match text.contains(&header) {
        true => text.replace(&header, &format!("{header}{lines}\n")),
        false => format!("{text}{header}{lines}\n"),
    };
    stage.write("stack.toml", &text);
}

/// The sum of all series of a name whose labels have these words.
fn metric(stage: &Stage, name: &str, labels: &str) -> f64 {
    let (_, text) = stage.get("gateway", "/metrics").unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    lines.filter(|line| line.contains(labels)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn what_is_counted_is_what_the_engine_did() {
    const ANSWERS: u32 = 4;
    let stage = Stage::new();
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    // What takes no time is told by nobody.
    stage.write("stack.toml", &settings.replace("time_per_output_token = \"0ms\"", "time_per_output_token = \"3ms\""));
    stage.ok("deploy");
    let label = format!("model=\"{MODEL}\"");
    until("the gateway knows the model", || {
        (stage.get("gateway", "/metrics").ok()?.1.contains(&format!("ollama_generated_tokens_total{{{label}}} 0")))
            .then_some(())
    });
    let (mut prompt, mut tokens, mut per_token_s, mut load_s, mut before_s) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for number in 0..ANSWERS {
        // Streamed and not, in turns.
        let body = json!({"model": MODEL, "prompt": format!("count {number}"), "stream": number % 2 == 0});
        let (status, answer) = ask(&stage, "/api/generate", &[], &body);
        assert_eq!(status, 200, "{answer}");
        let last: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
        let told = |name: &str| last[name].as_f64().unwrap_or_default();
        prompt += told("prompt_eval_count");
        tokens += told("eval_count");
        per_token_s += told("eval_duration") / told("eval_count") / 1e9;
        load_s += told("load_duration") / 1e9;
        if number % 2 == 0 {
            before_s += (told("load_duration") + told("prompt_eval_duration")) / 1e9;
        }
    }
    until("all is counted", || {
        (metric(&stage, "ollama_requests_total", "endpoint=\"generate\",outcome=\"ok\"") >= ANSWERS.into())
            .then_some(())
    });
    let is_near = |name: &str, expected: f64| {
        let found = metric(&stage, name, &label);
        assert!((found - expected).abs() < 1e-6, "{name}: {found} where the engine tells {expected}");
    };
    is_near("ollama_prompt_tokens_total", prompt);
    is_near("ollama_generated_tokens_total", tokens);
    is_near("ollama_time_per_output_token_seconds_sum", per_token_s);
    is_near("ollama_time_per_output_token_seconds_count", ANSWERS.into());
    is_near("ollama_load_duration_seconds_sum", load_s);
    // Only a stream has a first token, and it comes after what the engine does before.
    is_near("ollama_time_to_first_token_seconds_count", (ANSWERS / 2).into());
    let first_token_s = metric(&stage, "ollama_time_to_first_token_seconds_sum", &label);
    assert!(first_token_s >= before_s && before_s > 0.0, "{first_token_s} where the engine tells {before_s}");
}

#[test]
fn every_dialect_is_counted_streaming_or_not() {
    let stage = Stage::deployed();
    let messages = json!([{"role": "user", "content": "hello"}]);
    for (path, endpoint) in
        [("/api/chat", "chat"), ("/v1/chat/completions", "openai_chat"), ("/v1/messages", "anthropic_messages")]
    {
        for stream in [true, false] {
            let before = metric(&stage, "ollama_generated_tokens_total", "");
            let body = json!({"model": MODEL, "messages": messages, "max_tokens": 64, "stream": stream,
                              "stream_options": {"include_usage": true}});
            let (status, answer) = ask(&stage, path, &[], &body);
            assert_eq!(status, 200, "{path}: {answer}");
            until("its tokens are counted", || {
                (metric(&stage, "ollama_generated_tokens_total", "") > before).then_some(())
            });
        }
        let labels = format!("endpoint=\"{endpoint}\"");
        assert!((metric(&stage, "ollama_time_to_first_token_seconds_count", &labels) - 1.0).abs() < 0.1, "{path}");
    }
}

#[test]
fn a_cut_prompt_is_noticed_and_refused_where_settings_say_so() {
    let stage = Stage::new();
    set(&stage, "engine", "context_length = 2048");
    stage.ok("deploy");
    let long = json!({"model": MODEL, "prompt": "a rather ordinary sentence of English words. ".repeat(2000), "stream": false});
    let (status, answer) = ask(&stage, "/api/generate", &[], &long);
    assert_eq!(status, 200, "{answer}");
    until("the cut is counted", || (metric(&stage, "ollama_prompt_truncated_total", "") > 0.0).then_some(()));
    set(&stage, "gateway", "refuse_truncation = true");
    stage.ok("deploy --yes");
    let (status, answer) = ask(&stage, "/api/generate", &[], &long);
    assert_eq!(status, 400, "{answer}");
}

#[test]
fn a_key_opens_until_it_is_revoked() {
    let stage = Stage::new();
    set(&stage, "gateway", "keys = true\nkeys_on_loopback = true");
    stage.ok("deploy");
    // Nobody has a key yet, and all the same it is measured.
    let verified = stage.run("verify").exits(0).stdout;
    assert!(verified.contains("wants a key of the host's own clients too"), "{verified}");
    if !lacks("prometheus") {
        let scraped = verified.lines().find(|line| line.contains("Prometheus scrapes the gateway"));
        assert!(scraped.is_some_and(|line| line.starts_with("PASS")), "{verified}");
    }
    stage.run("key list").exits(0).says("there are no keys");
    let said = stage.ok("key add laptop");
    let key = said.stdout.trim().to_owned();
    let show = || ask(&stage, "/api/show", &[("x-api-key", key.as_str())], &json!({"model": MODEL})).0;
    until("the key opens", || (show() == 200).then_some(()));
    assert_eq!(ask(&stage, "/api/show", &[], &json!({"model": MODEL})).0, 401);
    assert!(!fs::read_to_string(stage.root().join("state/gateway/keys.json")).unwrap().contains(&key));
    assert!(stage.ok("key list").stdout.starts_with("laptop"));
    stage.run("key add laptop").exits(7).says("cargo xtask key revoke laptop");
    stage.ok("key revoke laptop");
    until("the key is refused", || (show() == 401).then_some(()));
    stage.run("key revoke laptop").exits(10);
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    if lacks("promtool") {
        return;
    }
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/prometheus");
    for file in ["gateway.yml", "host.yml"] {
        system("promtool", &["check", "rules", &format!("{config}/rules/{file}")]);
        system("promtool", &["test", "rules", &format!("{config}/tests/{file}")]);
        // An alert without a test of either kind is a hope, or a nuisance. The watchdog is never quiet.
        let rules = fs::read_to_string(format!("{config}/rules/{file}")).unwrap();
        let tests = fs::read_to_string(format!("{config}/tests/{file}")).unwrap();
        for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
            let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
            let expects = |samples| tests.split("- expr: ").any(|it| it.contains(&firing) && it.contains(samples));
            assert!(expects("exp_samples: [{"), "{alert} has no test in which it fires");
            assert!(expects("exp_samples: []") || alert == "Watchdog", "{alert} has no test in which it stays quiet");
        }
    }
}

/// What the real Python clients make of the stand-in, they make of it behind the gateway: streaming or not.
#[test]
fn the_python_clients_notice_no_gateway() {
    let Some(python) = env::var_os("STACK_TESTS_PYTHON").filter(|python| !python.is_empty()) else {
        is_lacking("python-clients");
        return;
    };
    let stage = Stage::new();
    let [api, engine, ..] = stage.ports() else { unreachable!() };
    let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/../sandbox/tests/clients");
    let _engine = stage.start(&format!(
        "host engine --listen 127.0.0.1:{engine} --models {} --keep-alive 5m --num-parallel 4 --max-loaded-models 3 --context-length \
         32768 --max-queue 512 --seed qwen3:8b --seed nomic-embed-text --time-to-first-token-ms 1 --time-per-output-token-ms 1 --load-ms 1 \
         --scenarios {clients}/scenarios.toml",
        stage.path("models").display()
    ));
    let line = format!(
        "host gateway --listen 127.0.0.1:{api} --upstream 127.0.0.1:{engine} --slots 12 --queue 512 --ask-for-usage"
    );
    let _gateway = stage.start(&line);
    let url = format!("http://127.0.0.1:{api}");
    let metrics = || reqwest::blocking::get(format!("{url}/metrics")).ok()?.text().ok();
    until("the gateway sees the engine", || metrics().filter(|text| text.contains("\nollama_up 1\n")));
    for client in ["ollama", "openai", "anthropic"] {
        stage.start_program(Path::new(&python), &format!("{clients}/check.py {client} {url}")).finish().exits(0);
    }
    for endpoint in ["chat", "generate", "openai_chat", "anthropic_messages"] {
        let counted =
            format!("ollama_requests_total{{model=\"qwen3:8b\",endpoint=\"{endpoint}\",outcome=\"ok\",code=\"200\"}} ");
        let text = metrics().unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&counted))
            .unwrap_or_else(|| panic!("{counted} is not in {text}"));
        assert!(line.parse::<f64>().unwrap() > 0.0, "{counted}{line}");
    }
}
