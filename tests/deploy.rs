//! Deploys that go well: what they bring, what they say, and what they leave alone.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::stage::{Stage, among_own_mounts, lacks, system, until};

/// The keys of an object, in alphabetical order.
fn keys(value: &Value) -> Vec<&str> {
    let keys: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.into_iter().collect()
}

#[test]
fn a_first_deploy_brings_up_the_whole_stack() {
    let stage = Stage::new();
    let table = stage.ok("deploy").says("try:  cargo xtask verify").stdout;
    stage.is_settled();
    for (part, line) in stage.status()["components"].as_array().unwrap().iter().zip(table.lines()) {
        assert!(line.contains(part["name"].as_str().unwrap()), "{line}");
        assert!(line.contains(part["url"].as_str().unwrap_or_default()), "{line}");
    }
    assert_eq!(stage.get("gateway", "/api/version").unwrap().0, 200);
}

#[test]
fn status_json_has_the_documented_shape() {
    let stage = Stage::deployed();
    let status = stage.ok("status --json").json();
    assert_eq!(keys(&status), ["components", "host", "release", "runtime"]);
    assert_eq!((&status["host"], &status["runtime"]), (&"localhost".into(), &"sandbox".into()));
    assert_eq!(status["release"], stage.current().unwrap());
    let parts = status["components"].as_array().unwrap();
    let names: Vec<&str> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["engine", "gateway", "edge", "prometheus", "alertmanager", "grafana", "node-exporter"]);
    for part in parts {
        match part["state"].as_str().unwrap() {
            "absent" => assert_eq!(keys(part), ["detail", "name", "state"]),
            // Alertmanager says that it tells nobody.
            state if part["name"] == "alertmanager" => {
                assert_eq!((state, keys(part)), ("healthy", vec!["detail", "name", "state", "url"]));
            }
            state => assert_eq!((state, keys(part)), ("healthy", vec!["name", "state", "url"])),
        }
    }
}

#[test]
fn deploy_json_has_an_event_a_line_and_the_outcome_last() {
    let stage = Stage::new();
    let mut events = stage.ok("deploy --json").json_lines();
    let last = events.pop().unwrap();
    assert_eq!(keys(&last), ["changed", "outcome", "release", "seconds"]);
    assert_eq!((&last["outcome"], &last["release"]), (&"done".into(), &stage.current().unwrap().into()));
    assert!(last["seconds"].as_f64().unwrap() > 0.0);
    let begun = |event: &&Value| event["event"] == "begin";
    let looks = |event: &&Value| event["step"]["step"] == "check" || event["step"]["step"] == "gate";
    let changes = events.iter().filter(begun).filter(|event| !looks(event)).count();
    assert_eq!(last["changed"], changes);
    let numbers: Vec<_> = events.iter().filter(|event| event["event"] != "waiting").map(|it| &it["number"]).collect();
    let expected: Vec<_> = (1..=numbers.len() / 2).flat_map(|number| [number, number]).collect();
    assert_eq!(numbers, expected, "{events:?}");
}

#[test]
fn a_second_deploy_changes_nothing() {
    let stage = Stage::deployed();
    let before = (stage.deployment(), stage.components(), stage.supervisor());
    let again = stage.ok("deploy --json").json_lines();
    assert_eq!((again.len(), &again[0]["outcome"], &again[0]["changed"]), (1, &"done".into(), &0.into()));
    stage.ok("deploy").says("as declared, nothing to do");
    assert_eq!(before, (stage.deployment(), stage.components(), stage.supervisor()));
}

#[test]
fn the_plan_for_what_was_just_applied_is_empty() {
    let stage = Stage::deployed();
    assert!(stage.ok("deploy --dry-run").stdout.ends_with("runs as declared: nothing to do\n"));
    assert_eq!(stage.ok("deploy --dry-run --json").json()["steps"], Value::Array(Vec::new()));
}

#[test]
fn a_dry_run_changes_nothing_on_disk_and_starts_nothing() {
    let stage = Stage::new();
    let plan = stage.ok("deploy --dry-run").stdout;
    assert!(plan.contains("1. install program") && plan.contains("+++ b/prometheus/prometheus.yml"), "{plan}");
    assert!(!stage.root().exists());

    stage.ok("deploy");
    let before = (stage.deployment(), stage.components());
    stage.set("scrape_interval", "\"7s\"");
    let plan = stage.ok("deploy --dry-run").stdout;
    assert!(plan.contains("-  scrape_interval: 1s\n+  scrape_interval: 7s\n"), "{plan}");
    assert_eq!(before, (stage.deployment(), stage.components()));
    assert_eq!(stage.processes().len(), before.1.len() + 1);
}

#[test]
fn verify_passes_on_what_was_deployed() {
    let stage = Stage::deployed();
    let checks = stage.ok("verify --json --junit junit.xml").json();
    assert_eq!(keys(&checks), ["checks"]);
    let checks = checks["checks"].as_array().unwrap();
    for check in checks {
        assert_eq!(keys(check), ["detail", "name", "result", "seconds"]);
        assert!(check["result"] == "pass" || check["result"] == "skip", "{check}");
    }
    let of =
        |name: &str| &checks.iter().find(|check| check["name"].as_str().unwrap().contains(name)).unwrap()["result"];
    for name in ["engine is healthy", "gateway is healthy", "version", "answers", "metrics move"] {
        assert_eq!(of(name), "pass", "{name}");
    }
    assert_eq!(of("grafana is healthy"), "skip");
    is_junit(&fs::read_to_string(stage.path("junit.xml")).unwrap(), checks.len(), 0);
}

#[test]
fn verify_fails_on_a_stack_that_does_not_answer() {
    let stage = Stage::deployed();
    stage.ok("stop engine");
    let ran = stage.run("verify --junit junit.xml").exits(1).says("checks failed");
    assert!(ran.stdout.contains("FAIL  engine is healthy"), "{}", ran.stdout);
    let failures = ran.stdout.lines().filter(|line| line.starts_with("FAIL")).count();
    is_junit(&fs::read_to_string(stage.path("junit.xml")).unwrap(), ran.stdout.lines().count(), failures);
}

/// Every element is closed by the one that opened it, every attribute has its quotes, and the sums are right.
fn is_junit(xml: &str, tests: usize, failures: usize) {
    let mut open = Vec::new();
    let body = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").expect(xml);
    for tag in body.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect(xml);
        assert!(!text.contains('"') && tag.matches('"').count() % 2 == 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{xml}"),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(xml.contains(&format!("tests=\"{tests}\" failures=\"{failures}\"")), "{xml}");
    assert_eq!((xml.matches("<testcase ").count(), xml.matches("<failure ").count()), (tests, failures));
}

#[test]
fn a_changed_setting_restarts_only_what_it_is_about() {
    let stage = Stage::deployed();
    let before = stage.components();
    stage.set("time_to_first_token", "\"7ms\"");
    stage.ok("deploy").says("restart engine");
    assert_eq!(stage.replaced_since(&before), ["engine"]);
    let engine = fs::read(format!("/proc/{}/cmdline", stage.component("engine").pid)).unwrap();
    assert!(String::from_utf8(engine).unwrap().contains("--time-to-first-token-ms\x007\0"));
    stage.is_settled();
}

#[test]
fn a_rule_of_ones_own_is_in_force_in_the_same_prometheus() {
    if lacks("prometheus") {
        return;
    }
    let stage = Stage::deployed();
    let before = stage.components();
    stage.write("local/rules/mine.yml", &rules("1"));
    stage.ok("deploy").says("reload prometheus");
    assert_eq!(stage.replaced_since(&before), Vec::<String>::new());
    let (_, rules) = stage.get("prometheus", "/api/v1/rules").unwrap();
    assert!(rules.contains("\"name\":\"mine:answer\""), "{rules}");
    stage.is_settled();
}

#[test]
fn a_rule_that_does_not_parse_touches_nothing_that_runs() {
    if lacks("promtool") {
        return;
    }
    let stage = Stage::deployed();
    let before = (stage.deployment(), stage.components());
    stage.write("local/rules/mine.yml", &rules("sum("));
    stage.run("deploy").exits(4).says("mine.yml").says("parse error").says("nothing that runs was touched");
    assert_eq!(before, (stage.deployment(), stage.components()));
    stage.is_settled();
}

#[test]
fn a_dashboard_that_grafana_would_refuse_is_refused() {
    let stage = Stage::new();
    stage.write("local/dashboards/mine.json", r#"{"title": "Mine", "elements": {}, "layout": {}}"#);
    stage.run("deploy").exits(2).says("mine.json").says("newer schema").says("export it as Classic");
    assert!(!stage.root().exists());
}

fn rules(expression: &str) -> String {
    format!("groups:\n  - name: mine\n    rules:\n      - record: mine:answer\n        expr: {expression}\n")
}

#[test]
fn a_program_that_is_not_installed_is_named_with_what_brings_it() {
    among_own_mounts(|| {
        let stage = Stage::new();
        stage.fake("node_exporter", "");
        stage.ok("deploy");
        let before = stage.components();
        fs::remove_dir_all(stage.path("bin")).unwrap();
        for name in ["prometheus", "promtool", "node_exporter", "prometheus-node-exporter", "prometheus-alertmanager"] {
            for place in ["/usr/bin", "/usr/local/bin"].map(|folder| format!("{folder}/{name}")) {
                if fs::exists(&place).unwrap() {
                    system("mount", &["--bind", "/dev/null", &place]);
                }
            }
        }
        stage.ok("deploy").says("stop node-exporter (the release does without it)");
        for (name, package) in [("prometheus", "prometheus"), ("node-exporter", "prometheus-node-exporter")] {
            let part = stage.part(name);
            let detail = format!("not installed; `apt-get install {package}` brings it, then deploy again");
            assert_eq!((&part["state"], &part["detail"]), (&"absent".into(), &detail.into()));
            assert!(before.get(name).is_none_or(|process| !process.runs()));
        }
        stage.is_settled();
        stage.ok("verify");
    });
}

#[test]
fn init_writes_settings_that_deploy_takes_and_never_over_others() {
    let stage = Stage::new();
    let init = "--settings new/stack.toml init --runtime sandbox";
    fs::create_dir(stage.path("new")).unwrap();
    stage.ok(init).says("next: cargo xtask deploy --dry-run");
    stage.ok("--settings new/stack.toml deploy --dry-run");
    let written = fs::read_to_string(stage.path("new/stack.toml")).unwrap();
    stage.run(init).exits(7).says("new/stack.toml exists already");
    assert_eq!(written, fs::read_to_string(stage.path("new/stack.toml")).unwrap());
}

#[test]
fn init_takes_over_an_old_env_file_and_says_what_it_leaves() {
    let stage = Stage::new();
    stage.write("old.env", "OLLAMA_NUM_PARALLEL=4\nGRAFANA_ADMIN_PASSWORD=hunter2\n");
    stage.ok("--settings new.toml init studio.local --user me --from-env old.env").says("GRAFANA_ADMIN_PASSWORD");
    let written = fs::read_to_string(stage.path("new.toml")).unwrap();
    for line in ["address = \"studio.local\"", "user = \"me\"", "num_parallel = 4  # OLLAMA_NUM_PARALLEL"] {
        assert!(written.lines().any(|it| it == line), "{written}");
    }
    assert!(!written.contains("hunter2"));
}

#[test]
fn stacks_side_by_side_do_not_disturb_each_other() {
    let (one, other) = (Stage::deployed(), Stage::deployed());
    let before = (other.components(), other.supervisor());
    one.supervisor().kill();
    one.component("engine").kill();
    one.ok("deploy");
    one.ok("restart");
    one.ok("stop");
    one.ok("uninstall --data --yes");
    assert_eq!(before, (other.components(), other.supervisor()));
    other.is_settled();
}

#[test]
fn what_clients_get_through_the_gateway_is_metered() {
    let stage = Stage::deployed();
    let served = || stage.get("gateway", "/metrics").unwrap().1;
    assert!(served().contains("ollama_up 1"));
    stage.ok("verify");
    until("an answer is counted", || served().contains("ollama_requests_total{").then_some(()));
}
