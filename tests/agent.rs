//! Coding agents, the real ones among them, against the sandbox's engine behind the gateway.
//!
//! What the engine says is written down in `config/agents/sandbox.toml`: that proves the way there and back, and no model.

use std::{env, fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;

use crate::{
    far::Far,
    stage::{Job, Ran, Stage, among_own_mounts, is_lacking, lacks, real_agent, system, until},
};

const MODEL: &str = "qwen2.5-coder:32b-instruct-q8_0";

/// An engine that plays written replies, and a gateway before it that wants a key.
struct Played<'a> {
    stage: &'a Stage,
    key: String,
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
        let key = stage.ok("key add agents").stdout.trim().to_owned();
        let line = format!(
            "host gateway --listen 127.0.0.1:{api} --upstream 127.0.0.1:{engine} --slots 4 --queue 512 --keys-on-loopback --keys {}",
            stage.root().join("state/gateway/keys.json").display()
        );
        let gateway_job = stage.start(&line);
        let url = format!("http://127.0.0.1:{api}/healthz");
        until("the gateway answers", || reqwest::blocking::get(&url).ok().filter(|it| it.status().is_success()));
        Played { stage, key, _engine: engine_job, _gateway: gateway_job }
    }

    fn configure(&self, agent: &str, more: &str) -> Ran {
        self.stage.shell(&format!("echo {} | $XTASK agent configure {agent} --key {more}", self.key)).exits(0)
    }

    fn run(&self, agent: &str, more: &str) -> Ran {
        let job = self.stage.start(&format!("agent test {agent} --json {more}"));
        job.finish_within(std::time::Duration::from_secs(300))
    }

    /// The last test of an agent, as it is told in JSON.
    fn test(&self, agent: &str, code: i32, more: &str) -> Value {
        self.run(agent, more).exits(code).json()
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
    if lacks("python3") {
        return;
    }
    let stage = Stage::new();
    pretend(&stage, "true");
    stage.ok("agent configure aider");
    let cause = |test: &Value| test["outcome"]["diagnosis"]["cause"].as_str().unwrap_or("none").to_owned();
    let down = stage.run("agent test aider --json").exits(1).json();
    assert_eq!(cause(&down), "endpoint");
    let played = Played::new(&stage, &written_replies());
    assert_eq!(cause(&played.test("aider", 1, "")), "key");
    played.configure("aider", "");
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
        played.configure(agent, &format!("--model {model}"));
        let tested = played.test(agent, 0, "--deadline 4m");
        assert_eq!(tested["outcome"]["result"], "pass", "{tested}");
        assert_eq!((&tested["model"], &tested["wiring_only"]), (&model.into(), &true.into()));
    }
    stage.ok("key revoke agents");
    // The gateway reads its keys anew once a second, which the fastest of them is ahead of.
    let refused = || Some(played.run(agent, "").json()).filter(|it| it["outcome"]["diagnosis"]["cause"] == "key");
    until("the key is refused", refused);
    stage.ok(&format!("agent unconfigure {agent}"));
}

/// The guide's Flask application: what the judge says of a right one, which the real Aider wrote down, and of wrong ones.
#[test]
fn the_workflow_is_judged_by_what_the_application_does() {
    let (Some(program), Some(python)) = (real_agent("aider"), env::var_os("STACK_TESTS_PYTHON")) else {
        is_lacking("python-clients");
        return;
    };
    let stage = Stage::new();
    stage.script("python3", &format!("exec '{}' \"$@\"", python.display()));
    symlink(program, stage.path("bin/aider")).unwrap();
    let played = Played::new(&stage, &written_replies());
    played.configure("aider", "");
    let tested = played.test("aider", 0, "--task workflow --deadline 4m");
    assert_eq!(tested["outcome"]["result"], "pass", "{tested}");

    let right = app(&written_replies());
    for (old, new, says) in [
        ("check_password_hash(row[0], password)", "True", "/login with a wrong password answers 200, not 401"),
        ("\"users.db\"", "\"users.txt\"", "there is no SQLite database"),
        ("if \"username\" not in session", "if False", "/me without a login answers 500, not 401"),
        ("import sqlite3", "import sqlite4", "No module named 'sqlite4'"),
    ] {
        assert!(right.contains(old), "{old}");
        stage.write("app.py", &right.replace(old, new));
        fs::remove_file(stage.path("bin/aider")).unwrap();
        pretend(&stage, &format!("cp '{}' app.py", stage.path("app.py").display()));
        let tested = played.test("aider", 1, "--task workflow");
        let detail = tested["outcome"]["diagnosis"]["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(says), "{tested}");
    }
}

/// The application among the written replies.
fn app(replies: &Path) -> String {
    let replies: toml::Table = fs::read_to_string(replies).unwrap().parse().unwrap();
    let texts = replies["reply"].as_array().unwrap().iter().filter_map(|reply| reply.get("text")?.as_str());
    let text = texts.into_iter().find(|text| text.contains("Flask")).unwrap();
    text.split("=======\n").nth(1).unwrap().split(">>>>>>> REPLACE").next().unwrap().to_owned()
}

/// An installer that puts down an agent, and writes down how it was called.
const INSTALLER: &str = r#"
echo "$(basename "$0") $*" >> "$HOME/installer.log"
mkdir -p "$HOME/.local/bin"
printf '#!/bin/sh\necho aider 0.86.2\n' > "$HOME/.local/bin/aider"
chmod +x "$HOME/.local/bin/aider"
"#;

#[test]
fn aider_is_installed_by_uv_else_by_pipx_and_without_an_index_it_is_said() {
    if lacks("python3") {
        return;
    }
    let stage = Stage::new();
    let log = |stage: &Stage| fs::read_to_string(stage.path("installer.log")).unwrap();
    // Debian's Python serves where nothing else is.
    stage.script("pipx", INSTALLER);
    stage.ok("agent install aider");
    assert!(log(&stage).starts_with("pipx install --force --python /"), "{}", log(&stage));
    assert!(log(&stage).contains(" aider-chat==0.86.2\n"));
    stage.script("uv", INSTALLER);
    stage.ok("agent install aider --latest");
    let last = log(&stage).lines().last().unwrap().to_owned();
    assert_eq!(last, "uv tool install --force --python 3.12 --with pip aider-chat");
    for name in ["pipx", "uv"] {
        fs::remove_file(stage.path(&format!("bin/{name}"))).unwrap();
    }
    let offline = "PIP_INDEX_URL=http://127.0.0.1:9/ PIP_RETRIES=1 $XTASK agent install aider";
    stage.shell(offline).exits(1).says("the package index cannot be reached");
}

#[test]
fn an_agent_is_installed_on_the_host_where_that_is_asked_for() {
    let Some(far) = Far::deployed() else { return };
    far.script("uv", INSTALLER);
    // A login has a PATH of its own: there uv stands where its own installer puts it.
    fs::create_dir_all(far.path(".local/bin")).unwrap();
    fs::rename(far.path("bin/uv"), far.path(".local/bin/uv")).unwrap();
    far.ok("agent install aider --on host").says("Aider 0.86.2 is ");
    assert!(fs::read_to_string(far.path("installer.log")).unwrap().contains("uv tool install"));
    assert!(far.ok("job list").stdout.contains("agent install aider"));
    let listed = far.ok("agent list --on host --json").json();
    assert_eq!(listed[0]["installed"]["version"], "0.86.2", "{listed}");
}

#[test]
fn a_home_that_cannot_be_written_is_named_and_left_as_it_is() {
    among_own_mounts(|| {
        let stage = Stage::new();
        let home = stage.path("home");
        fs::create_dir_all(&home).unwrap();
        let home = home.to_str().unwrap();
        system("mount", &["--bind", home, home]);
        system("mount", &["-o", "remount,bind,ro", home]);
        let ran = stage.shell(&format!("HOME={home} $XTASK agent configure aider"));
        system("umount", &[home]);
        ran.exits(1).says("cannot write").says(home).says("Read-only file system");
        assert_eq!(fs::read_dir(stage.path("home")).unwrap().count(), 0);
    });
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
