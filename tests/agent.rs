//! Coding agents, the real ones among them, against the sandbox's engine behind the gateway.
//!
//! What the engine says is written down in `config/agents/sandbox.toml`: that proves the way there and back, and no model.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;

use crate::stage::{Job, Stage, real_agent, until};

const MODEL: &str = "qwen2.5-coder:32b-instruct-q8_0";

/// An engine that plays written replies, and the gateway before it.
struct Played<'a> {
    stage: &'a Stage,
    _engine: Job,
    _gateway: Job,
}

impl<'a> Played<'a> {
    fn new(stage: &'a Stage, scenarios: &Path) -> Self {
        let [api, engine, ..] = stage.ports() else { unreachable!() };
        let line = format!(
            "host engine --listen 127.0.0.1:{engine} --models {} --keep-alive 5m --num-parallel 4 --max-loaded-models 2 \
             --context-length 32768 --max-queue 512 --seed {MODEL} --seed qwen3:8b --time-to-first-token-ms 1 --time-per-output-token-ms 0 \
             --load-ms 0 --scenarios {}",
            stage.path("models").display(),
            scenarios.display()
        );
        let engine_job = stage.start(&line);
        let line = format!("host gateway --listen 127.0.0.1:{api} --upstream 127.0.0.1:{engine} --slots 4 --queue 512");
        let gateway_job = stage.start(&line);
        let url = format!("http://127.0.0.1:{api}/api/version");
        until("the gateway answers", || reqwest::blocking::get(&url).ok().filter(|it| it.status().is_success()));
        Played { stage, _engine: engine_job, _gateway: gateway_job }
    }

    /// The last test of an agent, as it is told in JSON.
    fn test(&self, agent: &str, code: i32, more: &str) -> Value {
        let job = self.stage.start(&format!("agent test {agent} --json {more}"));
        job.finish_within(std::time::Duration::from_secs(300)).exits(code).json()
    }
}

fn written_replies() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("config/agents/sandbox.toml")
}

/// An agent that does as told where the real one would ask a model.
fn pretend(stage: &Stage, script: &str) {
    stage.script("aider", &format!("case \"$*\" in --version) echo aider 0.86.2; exit;; esac\n{script}"));
}

#[test]
fn settings_are_merged_shown_and_put_back() {
    let stage = Stage::new();
    let old = "# mine\ndark-mode: true   # night\nopenai-api-key: sk-old\n";
    stage.write(".aider.conf.yml", old);
    let shown = stage.ok("agent configure aider --dry-run").stdout;
    assert!(shown.contains("+model: ollama_chat/") && shown.contains("dark-mode"), "{shown}");
    assert!(!shown.contains("sk-old"), "{shown}");
    assert_eq!(fs::read_to_string(stage.path(".aider.conf.yml")).unwrap(), old);
    let ran = stage.shell("echo sk-new | $XTASK agent configure aider --key").exits(0);
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("sk-new"), "{ran:?}");
    let merged = fs::read_to_string(stage.path(".aider.conf.yml")).unwrap();
    assert!(merged.starts_with(old) && merged.contains("OLLAMA_API_KEY=sk-new"), "{merged}");
    stage.ok("agent configure aider --model qwen3:8b");
    let merged = fs::read_to_string(stage.path(".aider.conf.yml")).unwrap();
    assert!(merged.contains("ollama_chat/qwen3:8b") && merged.contains("OLLAMA_API_KEY=sk-new"), "{merged}");
    stage.ok("agent unconfigure aider");
    assert_eq!(fs::read_to_string(stage.path(".aider.conf.yml")).unwrap(), old);
    stage.run("agent unconfigure aider").exits(10);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let stage = Stage::new();
    stage.run("agent configure aidr").exits(2).says("did you mean aider?");
    stage.run("agent configure cursor").exits(7).says("public HTTPS URL");
    stage.run("agent install continue").exits(7);
    stage.run("agent test aider").exits(10).says("not configured");
    stage.write(".aider.conf.yml", "model: [x\n");
    stage.run("agent configure aider").exits(2).says("is left as it is");
    assert_eq!(fs::read_to_string(stage.path(".aider.conf.yml")).unwrap(), "model: [x\n");
}

#[test]
fn a_model_that_lies_hangs_or_is_not_there_is_diagnosed() {
    let stage = Stage::new();
    pretend(&stage, "true");
    stage.ok("agent configure aider");
    let cause = |test: &Value| test["outcome"]["diagnosis"]["cause"].as_str().unwrap_or("none").to_owned();
    let down = stage.run("agent test aider --json").exits(1).json();
    assert_eq!(cause(&down), "endpoint");
    let played = Played::new(&stage, &written_replies());
    pretend(&stage, "echo I have written factorial.py for you");
    let lying = played.test("aider", 1, "");
    assert_eq!((cause(&lying).as_str(), &lying["wiring_only"]), ("no_edit", &Value::Bool(true)));
    pretend(&stage, "echo 'def factorial(n): return 120' > factorial.py");
    let wrong = played.test("aider", 1, "");
    assert_eq!(wrong["outcome"]["diagnosis"]["detail"], "factorial(0) is 120, not 1");
    pretend(&stage, "sleep 1000 & sleep 1000");
    assert_eq!(cause(&played.test("aider", 1, "--deadline 1s")), "deadline");
    pretend(&stage, "echo 'the prompt exceeds the context length'; exit 3");
    assert_eq!(cause(&played.test("aider", 1, "")), "context");
    stage.ok("agent configure aider --model nobodys:7b");
    assert_eq!(cause(&played.test("aider", 1, "")), "model");
    stage.ok("agent configure aider");
    pretend(&stage, "printf 'import math\\ndef factorial(n): return math.factorial(n)\\n' > factorial.py; exit 1");
    assert_eq!(played.test("aider", 0, "")["outcome"]["result"], "pass", "what it exits with says nothing");
    assert!(stage.ok("agent list").stdout.contains("passed with"), "the list tells how it went");
}

/// The real one: configured, tested, switched to another model, and put back.
fn works(agent: &str) {
    let Some(program) = real_agent(agent) else { return };
    let stage = Stage::new();
    fs::create_dir_all(stage.path("bin")).unwrap();
    // Some run on a Node.js that stands beside them.
    for name in [agent, "node"] {
        let _ = symlink(program.with_file_name(name), stage.path(&format!("bin/{name}")));
    }
    let played = Played::new(&stage, &written_replies());
    for model in [MODEL, "qwen3:8b"] {
        stage.ok(&format!("agent configure {agent} --model {model}"));
        let tested = played.test(agent, 0, "--deadline 4m");
        assert_eq!(tested["outcome"]["result"], "pass", "{tested}");
        assert_eq!((&tested["model"], &tested["wiring_only"]), (&model.into(), &true.into()));
    }
    stage.ok(&format!("agent unconfigure {agent}"));
}

#[test]
fn aider_works() {
    works("aider");
}

#[test]
fn opencode_works() {
    works("opencode");
}

#[test]
fn qwen_code_works() {
    works("qwen");
}

#[test]
fn claude_code_works() {
    works("claude");
}
