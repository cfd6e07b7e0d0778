//! Watching: alerts that arrive, dashboards that show something, and the verbs that ask.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    receiver,
    stage::{Stage, is_lacking, lacks, until},
};

const MODEL: &str = "qwen2.5-coder:32b-instruct-q8_0";

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config");

/// Whatever a person sees is drawn of this.
const PARTS: [&str; 5] = ["prometheus", "promtool", "alertmanager", "amtool", "node_exporter"];

fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(format!("{CONFIG}/grafana/dashboards")).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
    };
    files.map(read).collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter()
}

fn expressions(panel: &Value) -> impl Iterator<Item = &str> {
    panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].as_str().unwrap())
}

/// Traffic of every kind that a panel shows.
fn use_it(stage: &Stage) {
    let url = stage.part("gateway")["url"].as_str().unwrap().to_owned();
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    for (path, stream) in [("/api/generate", true), ("/api/generate", false), ("/api/chat", true)] {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": MODEL, "prompt": "hi", "messages": messages, "stream": stream});
        assert!(client.post(format!("{url}{path}")).json(&body).send().unwrap().text().unwrap().contains("done"));
    }
}

#[test]
fn every_panel_of_every_dashboard_has_rows() {
    if PARTS.into_iter().any(lacks) {
        return;
    }
    let stage = Stage::new();
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    // What takes no time has no rate.
    let settings = settings.replace("token = \"0ms\"", "token = \"2ms\"").replace("load = \"0ms\"", "load = \"20ms\"");
    stage.write("stack.toml", &settings);
    stage.ok("deploy");
    stage.ok("backup");
    stage.ok("backup drill");
    // What a Mac's supervisor writes here, with what a Mac's node_exporter has and Linux' has not.
    let mac = ["llm_host_memory_free_ratio 0.88", "macmon_gpu_active_ratio 0.5", "macmon_gpu_temp_celsius 45"];
    let mac = [mac.join("\n"), "macmon_sys_power_watts 40\nmacmon_gpu_power_watts 12\n".to_owned()].join("\n");
    fs::write(stage.root().join("data/textfile/mac.prom"), mac).unwrap();
    until("the gateway is scraped before there is traffic", || {
        (stage.run("monitor query ollama_up --json").code == Some(0)).then_some(())
    });
    let mut left: BTreeSet<String> =
        dashboards().iter().flat_map(|(_, it)| panels(it)).flat_map(expressions).map(str::to_owned).collect();
    assert!(left.len() > 50, "{left:?}");
    until("every panel has rows", || {
        // Rates need things to go on.
        use_it(&stage);
        left.retain(|expression| {
            let expression = expression.replace("$__rate_interval", "30s");
            let (status, answer) = ask(&stage, &expression);
            assert!(status == 200, "{expression}: {answer}");
            answer["data"]["result"].as_array().unwrap().is_empty()
        });
        if !left.is_empty() {
            eprintln!("without rows yet: {left:#?}");
        }
        left.is_empty().then_some(())
    });
}

fn ask(stage: &Stage, expression: &str) -> (u16, Value) {
    let url = stage.part("prometheus")["url"].as_str().unwrap().to_owned();
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let url = reqwest::Url::parse_with_params(&format!("{url}/api/v1/query"), [("query", expression)]).unwrap();
    let answer = client.get(url).send().unwrap();
    (answer.status().as_u16(), answer.json().unwrap())
}

#[test]
fn a_dashboard_says_what_it_shows() {
    let uids = ["stack-backups", "stack-host", "stack-models", "stack-overview"];
    let found = dashboards();
    let mut found_uids: Vec<&str> = found.iter().map(|(_, it)| it["uid"].as_str().unwrap()).collect();
    found_uids.sort_unstable();
    assert_eq!(found_uids, uids);
    for (name, dashboard) in &found {
        // Grafana's file provider takes the plain model, without another Grafana's number.
        assert!(dashboard["id"].is_null() && dashboard.get("dashboard").is_none(), "{name}");
        let ids: BTreeSet<u64> = panels(dashboard).map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels(dashboard).count(), "{name}");
        for panel in panels(dashboard) {
            let title = panel["title"].as_str().unwrap();
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(panel["description"].as_str().unwrap().len() > 10, "{name}: {title} has no description");
            assert!(!defaults["unit"].as_str().unwrap().is_empty(), "{name}: {title} has no unit");
            assert!(!defaults["thresholds"]["steps"].as_array().unwrap().is_empty(), "{name}: {title}");
            let sources = panel["targets"].as_array().unwrap().iter().map(|it| &it["datasource"]["uid"]);
            assert!(sources.chain([&panel["datasource"]["uid"]]).all(|uid| uid == "prometheus"), "{name}: {title}");
            for expression in expressions(panel) {
                assert!(
                    !expression.contains("rate(") || expression.contains("$__rate_interval"),
                    "{name}: {expression}"
                );
            }
        }
    }
}

#[test]
fn an_alert_goes_the_whole_way_to_people() {
    if PARTS.into_iter().any(lacks) {
        return;
    }
    let stage = Stage::deployed();
    let detail = |stage: &Stage| stage.part("alertmanager")["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail(&stage).contains("nothing is set under [alerts]"));
    stage.run("monitor alerts --test").exits(10).says("nobody is told of alerts");

    let (url, taken) = receiver::hook("200 OK");
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    let with = |lines: &str| stage.write("stack.toml", &format!("{settings}\n[alerts]\n{lines}"));
    with(&format!("webhook = \"{url}\"\nslack = \"#alerts\"\n"));
    stage.shell("printf hunter2 | $XTASK secret set webhook-token").exits(0);
    let before = stage.components();
    stage.ok("deploy").says("reload alertmanager");
    assert_eq!(stage.replaced_since(&before), Vec::<String>::new(), "who is told changes without a restart");
    assert!(detail(&stage).contains("secret set slack-url"), "{}", detail(&stage));

    with(&format!("webhook = \"{url}\"\n"));
    stage.ok("deploy");
    assert_eq!(detail(&stage), "");
    let said = stage.ok("monitor alerts --test").stdout;
    for station in [
        "PASS  Prometheus has the metric",
        "PASS  the rule fires",
        "PASS  Alertmanager has the alert",
        "PASS  webhook takes it",
    ] {
        assert!(said.contains(station), "{said}");
    }
    let (head, body) = taken.iter().find(|(_, body)| body["commonLabels"]["alertname"] == "AlertTest").unwrap();
    assert!(head.contains("Bearer hunter2"), "{head}");
    assert_eq!(body["commonAnnotations"]["summary"], "A test of the alerts");
    assert!(!stage.root().join("data/textfile/alert-test.prom").exists());
    let config = fs::read_to_string(stage.root().join("current/alertmanager/alertmanager.yml")).unwrap();
    assert!(!config.contains("hunter2"));

    // Again at once: it is another alert. And one that is not taken is said to be lost.
    let (url, _taken) = receiver::hook("404 Not Found");
    with(&format!("webhook = \"{url}\"\n"));
    stage.ok("deploy");
    let checks = stage.run("monitor alerts --test --json").exits(1).json();
    let last = checks["checks"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["name"], &last["result"]), (&json!("webhook takes it"), &json!("fail")));
    assert!(last["detail"].as_str().unwrap().contains("logs alertmanager"), "{last}");
}

/// Alertmanager counts what it sends by kind, and the watchdog is told within the same seconds.
#[test]
fn a_watchdog_that_takes_its_ping_is_not_taken_for_people() {
    if PARTS.into_iter().any(lacks) {
        return;
    }
    let stage = Stage::new();
    let (watchdog, pings) = receiver::hook("200 OK");
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    // Nobody listens at port 1.
    let alerts = format!("[alerts]\nwebhook = \"http://127.0.0.1:1/dead\"\nwatchdog = \"{watchdog}\"\n");
    stage.write("stack.toml", &format!("{settings}\n{alerts}"));
    stage.ok("deploy");
    let url = format!("{}/api/v2/alerts", stage.part("alertmanager")["url"].as_str().unwrap());
    let over = AtomicBool::new(false);
    let said = thread::scope(|scope| {
        scope.spawn(|| {
            let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
            // Each in a group of its own, which is told at once: in life there is one, once a minute.
            for number in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                let bark = json!([{"labels": {"alertname": "Watchdog", "model": number.to_string()}}]);
                let _ = client.post(&url).json(&bark).send();
                thread::sleep(Duration::from_secs(1));
            }
        });
        let ran = stage.run("monitor alerts --test");
        over.store(true, Ordering::Relaxed);
        ran.exits(1).stdout
    });
    assert!(said.contains("FAIL  webhook takes it") && said.contains("0 of 1 delivered"), "{said}");
    let (head, body) = pings.try_recv().expect("the watchdog is asked all the time");
    assert!(head.starts_with("POST /hook ") && body.to_string().contains("Watchdog"), "{head}{body}");
}

/// Each way by a receiver that speaks its protocol, each secret where that protocol wants it.
#[test]
fn mail_slack_ntfy_and_a_webhook_each_take_an_alert_with_their_secret() {
    if PARTS.into_iter().any(lacks) {
        return;
    }
    let stage = Stage::deployed();
    let (smtp, mails) = receiver::mail();
    let (slack_url, slack) = receiver::hook("200 OK");
    let (ntfy_url, ntfy) = receiver::hook("200 OK");
    let (webhook_url, webhook) = receiver::hook("200 OK");
    for (name, secret) in [
        ("smtp-password", "for-mail"),
        ("slack-url", slack_url.as_str()),
        ("ntfy-token", "for-ntfy"),
        ("webhook-token", "for-webhook"),
    ] {
        stage.shell(&format!("printf %s {secret} | $XTASK secret set {name}")).exits(0);
    }
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    let ways = format!(
        "email = \"me@example.com\"\nsmtp = \"{smtp}\"\nsmtp_user = \"me\"\nslack = \"#alerts\"\n\
         ntfy = \"{ntfy_url}\"\nwebhook = \"{webhook_url}\"\n"
    );
    stage.write("stack.toml", &format!("{settings}\n[alerts]\n{ways}"));
    stage.ok("deploy");
    let said = stage.ok("monitor alerts --test").stdout;
    for way in ["email takes it", "slack takes it", "ntfy and webhook take it"] {
        assert!(said.contains(&format!("PASS  {way}")), "{said}");
    }

    let mail = mails.iter().find(|mail| mail.contains("AlertTest")).unwrap();
    // Base64 of an empty name, the user and the password, each behind a zero.
    assert!(mail.contains("AUTH PLAIN AG1lAGZvci1tYWls"), "{mail}");
    assert!(mail.contains("RCPT TO:<me@example.com>"), "{mail}");
    let is_test = |text: &Value| text.to_string().contains("A test of the alerts");
    let (_, said) = slack.iter().find(|(_, body)| is_test(body)).unwrap();
    assert_eq!((&said["channel"], &said["attachments"][0]["title"]), (&json!("#alerts"), &json!("AlertTest: firing")));
    let link = said["attachments"][0]["title_link"].as_str().unwrap();
    assert!(link.contains("/graph?g0.expr="), "it leads to Prometheus, which the edge lets be reached: {link}");
    let (head, _) = ntfy.iter().find(|(_, body)| is_test(body)).unwrap();
    assert!(head.starts_with("POST /hook?template=alertmanager ") && head.contains("Bearer for-ntfy"), "{head}");
    let (head, _) = webhook.iter().find(|(_, body)| is_test(body)).unwrap();
    assert!(head.starts_with("POST /hook ") && head.contains("Bearer for-webhook"), "{head}");
    let config = fs::read_to_string(stage.root().join("current/alertmanager/alertmanager.yml")).unwrap();
    for secret in ["for-mail", "for-ntfy", "for-webhook", slack_url.as_str()] {
        assert!(!config.contains(secret), "{config}");
    }
}

#[test]
fn an_alertmanager_that_would_not_take_its_files_never_gets_them() {
    if PARTS.into_iter().any(lacks) {
        return;
    }
    let stage = Stage::deployed();
    let (current, before) = (stage.current(), stage.components());
    stage.script("amtool", "echo this will not do; exit 1");
    stage.set("retention", "\"14d\"");
    stage.run("deploy --yes").exits(4).says("this will not do");
    assert_eq!((stage.current(), stage.replaced_since(&before)), (current, Vec::new()));
}

#[test]
fn monitor_tells_what_is_scraped_and_what_is_not() {
    if PARTS.into_iter().any(lacks) {
        return;
    }
    let stage = Stage::deployed();
    let jobs = ["alertmanager", "node", "ollama", "prometheus"];
    let status = until("all is scraped", || {
        let status = stage.run("monitor status --json").json();
        let up = status["targets"].as_array()?.iter().filter(|target| target["up"] == true).count();
        (up == jobs.len()).then_some(status)
    });
    assert!(status["rules"].as_u64().unwrap() >= 20 && status["silences"] == json!([]), "{status}");
    assert!(status["note"].as_str().unwrap().contains("nothing is set under [alerts]"));
    // Other alerts may be right about this machine: it was booted, or its disk is full.
    let words = stage.run("monitor status").stdout;
    assert!(words.starts_with("targets   4 of 4 up: ") && words.contains("\nsilences  none\n"), "{words}");

    let url = stage.part("alertmanager")["url"].as_str().unwrap().to_owned();
    let silence = json!({"matchers": [{"name": "alertname", "value": "Hot", "isRegex": false}], "createdBy": "me",
                         "comment": "summer", "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2100-01-01T00:00:00Z"});
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    assert!(client.post(format!("{url}/api/v2/silences")).json(&silence).send().unwrap().status().is_success());
    assert!(
        stage.run("monitor status").stdout.contains("silences  alertname=Hot until 2100-01-01 00:00 UTC (me: summer)")
    );

    // An alert that is silenced is said to be.
    let mut silence = silence;
    silence["matchers"][0]["value"] = json!("Mine");
    assert!(client.post(format!("{url}/api/v2/silences")).json(&silence).send().unwrap().status().is_success());
    let rule = json!({"alert": "Mine", "expr": "vector(1)", "labels": {"severity": "info"}, "annotations": {"summary": "So it is"}});
    let rules = json!({"groups": [{"name": "mine", "rules": [rule]}]});
    fs::create_dir_all(stage.path("local/rules")).unwrap();
    stage.write("local/rules/mine.yml", &rules.to_string());
    stage.ok("deploy");
    until("the alert fires", || stage.ok("monitor alerts").stdout.contains(" UTC, silenced): So it is").then_some(()));

    stage.ok("stop node-exporter");
    let words = until("the exporter is missed", || {
        let ran = stage.run("monitor status");
        ran.stdout.contains("node down: ").then(|| ran.exits(1).stdout)
    });
    assert!(words.starts_with("targets   3 of 4 up: "), "{words}");

    stage.components()["alertmanager"].signal(Signal::STOP);
    let words = stage.run("monitor status").exits(1).stdout;
    assert!(
        words.starts_with("targets   ") && words.contains("nobody is told: Alertmanager does not answer"),
        "{words}"
    );
}

#[test]
fn queries_are_tables_and_lines_and_perf_has_them_all() {
    if PARTS.into_iter().any(lacks) {
        return;
    }
    let stage = Stage::deployed();
    until("the gateway is scraped", || (stage.run("monitor query up{job=\"ollama\"}").code == Some(0)).then_some(()));
    let table = stage.ok("monitor query ollama_up").stdout;
    assert!(table.starts_with("ollama_up{") && table.ends_with("}  1\n"), "{table}");
    let line = stage.ok("monitor query vector(7) --range 5m").stdout;
    assert!(line.contains("▁▁▁") && line.ends_with("7 (7 to 7)\n"), "{line}");
    assert_eq!(stage.ok("monitor query \"abc\"").stdout, "abc\n");
    stage.run("monitor query no_such_metric").exits(10).says("no rows");
    stage.run("monitor query sum(").exits(2).says("Prometheus cannot answer that").says("parse error");
    use_it(&stage);
    let perf = stage.ok("perf --json").json();
    for component in ["engine", "gateway", "prometheus", "alertmanager", "node-exporter"] {
        assert!(perf["components"][component]["memory_bytes"].as_u64().unwrap() > 1 << 20, "{perf}");
    }
    let words = stage.ok("perf").stdout;
    assert!(words.contains("component") && words.contains("requests in flight: ollama_requests_in_flight"), "{words}");
    // Loopback is here; whatever opens addresses is told this one.
    stage.script("open", "exit 1");
    stage.script("xdg-open", &format!("echo \"$1\" > {}", stage.path("opened").display()));
    let url = stage.ok("monitor open").stdout;
    assert_eq!(
        (fs::read_to_string(stage.path("opened")).unwrap(), url.trim()),
        (url.clone(), stage.part("prometheus")["url"].as_str().unwrap())
    );
    stage.run("monitor open grafana").exits(10).says("there is no grafana");
    stage.write("mine.json", "{\"title\": \"Mine\", \"panels\": []}");
    stage.run("monitor import mine.json").exits(10).says("there is no grafana");
    stage.write("mine.json", "{\"panels\": []}");
    stage.run("monitor import mine.json").exits(2).says("no \"title\"");
}

/// The guide's query has rows as it is written, on a Prometheus of 3.5 or later; `STACK_TESTS_PROMETHEUS` is one.
#[test]
fn a_newer_prometheus_has_native_histograms_beside_the_classic_ones() {
    let Some(prometheus) = env::var_os("STACK_TESTS_PROMETHEUS").map(PathBuf::from).filter(|it| it.exists()) else {
        is_lacking("prometheus-3");
        return;
    };
    let stage = Stage::new();
    stage.script("prometheus", &format!("exec {} \"$@\"", Path::new(&prometheus).display()));
    // Debian's knows less than what it is to check.
    stage.script("promtool", "exit 0");
    stage.ok("deploy");
    until("both have rows", || {
        use_it(&stage);
        let guide = stage.run("monitor query rate(ollama_request_duration_seconds[5m])");
        let classic = stage.run("monitor query rate(ollama_request_duration_seconds_count[5m])");
        (guide.stdout.contains("count ") && classic.code == Some(0)).then_some(())
    });
}
