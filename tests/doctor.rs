//! What is wrong is provoked, and found.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
};

use serde_json::{Value, json};

use crate::{
    far::Far,
    mac::mac,
    native,
    stage::{Ran, Stage, lacks, lacks_root, system, until},
};

const MODEL: &str = "qwen2.5-coder:32b-instruct-q8_0";

/// Names of what is found, whatever else is.
fn findings(stage: &Stage) -> Vec<String> {
    ids(&stage.run("doctor --json").exits(1))
}

fn ids(ran: &Ran) -> Vec<String> {
    let findings = ran.json()["findings"].as_array().unwrap().clone();
    for finding in &findings {
        for key in ["symptom", "evidence", "why", "fix"] {
            assert!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {finding:#}");
        }
    }
    findings.iter().map(|finding| finding["id"].as_str().unwrap().to_owned()).collect()
}

fn is_well(stage: &Stage) {
    assert_eq!(stage.ok("doctor").stdout, "localhost is healthy\n");
}

/// A sandbox whose engine answers like this.
fn answering(reply: &str) -> Stage {
    let stage = Stage::new();
    add(&stage, "scenarios = \"sick.toml\"");
    stage.write("sick.toml", &format!("[[reply]]\n{reply}\n"));
    stage.ok("deploy");
    stage
}

/// Adds a line to the settings' last table, the sandbox's.
fn add(stage: &Stage, line: &str) {
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &format!("{settings}{line}\n"));
}

fn blobs(stage: &Stage) -> Vec<PathBuf> {
    let folder = stage.root().join("data/models/blobs");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn ask(stage: &Stage, options: &Value) {
    let url = stage.part("gateway")["url"].as_str().unwrap().to_owned() + "/api/generate";
    let ask = json!({"model": MODEL, "prompt": "hi", "stream": false, "options": options});
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    assert!(client.post(url).json(&ask).send().unwrap().status().is_success());
}

#[test]
fn nothing_deployed_is_nothing_to_judge() {
    Stage::new().run("doctor").exits(10).says("nothing is deployed").says("preflight");
}

#[test]
fn healthy_is_one_line_and_what_is_stopped_is_found() {
    let stage = Stage::deployed();
    is_well(&stage);
    assert_eq!(stage.ok("doctor --json").json(), json!({"findings": [], "fixed": []}));
    stage.ok("stop gateway");
    assert_eq!(findings(&stage), ["gateway-stopped"]);
    let said = stage.run("doctor --fix").exits(1).stdout;
    assert!(said.contains("fix:   cargo xtask start gateway"), "what a person has stopped stays so: {said}");
    stage.ok("start gateway");
    is_well(&stage);
}

#[test]
fn what_cannot_stay_up_is_found_and_restarted() {
    let stage = Stage::new();
    // Well until it is sick, and then until somebody asks for a restart.
    stage.fake("node_exporter", "[ -e sick ] && ! grep -q node-exporter root/state/desired.json && exit 1");
    stage.ok("deploy");
    stage.write("sick", "");
    stage.component("node-exporter").kill();
    stage.await_state("node-exporter", "unhealthy");
    assert_eq!(findings(&stage), ["node-exporter-sick"]);
    stage.ok("doctor --fix").says("fixed: restarted the node-exporter");
    is_well(&stage);
}

#[test]
fn a_dead_supervisor_and_changed_files_are_found_and_mended() {
    let stage = Stage::deployed();
    stage.supervisor().kill();
    let file = stage.root().join("current/prometheus/prometheus.yml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n# by hand\n")).unwrap();
    assert_eq!(findings(&stage), ["files-changed", "no-supervisor"]);
    stage.ok("doctor --fix").says("fixed: brought the host back to its release");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    stage.is_settled();
    is_well(&stage);
}

#[test]
fn a_deploy_that_was_cut_off_is_found_and_ended() {
    let stage = Stage::deployed();
    let journal = stage.root().join("state/journal.jsonl");
    let current = stage.current().unwrap();
    let begin = json!({"entry": "begin", "at": "2026-11-26T02:00:00Z", "from": current, "to": current});
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, format!("{text}{begin}\n")).unwrap();
    assert_eq!(findings(&stage), ["deploy-cut-off"]);
    stage.ok("doctor --fix").says("fixed: brought the host back");
    is_well(&stage);
}

#[test]
fn a_host_is_asked_where_it_is() {
    let Some(far) = Far::deployed() else { return };
    assert_eq!(far.ok("doctor").stdout, "far is healthy\n");
    far.ok("stop gateway");
    assert_eq!(ids(&far.run("doctor --json").exits(1)), ["gateway-stopped"]);
    far.run("doctor --report here.md").exits(1).says("wrote here.md");
    assert!(fs::read_to_string(far.path("here.md")).unwrap().contains("gateway-stopped"));
    far.ok("start gateway");
    far.ok("tune --dry-run");
    far.ok("harden");
    assert!(far.run("harden --audit --json").json()["findings"].is_array());
}

#[test]
fn fix_deploys_nothing_that_was_not_deployed() {
    let stage = Stage::deployed();
    stage.supervisor().kill();
    stage.set("time_to_first_token", "\"9ms\"");
    stage.run("doctor --fix").exits(1).says("not what was deployed last").says("cargo xtask deploy");
}

#[test]
fn why_a_model_does_not_load_is_told_by_the_engines_words() {
    for (words, id) in [
        ("model requires more system memory (22.9 GiB) than is available (15.5 GiB)", "memory"),
        ("kIOGPUCommandBufferCallbackErrorOutOfMemory", "gpu-limit"),
        ("write: no space left on device", "disk"),
        ("llama runner process has terminated", "model-fails"),
    ] {
        let stage = answering(&format!("status = 500\nerror = \"{words}\""));
        assert_eq!(findings(&stage), [id], "{words}");
    }
}

#[test]
fn a_blob_that_rots_is_found_by_its_digest() {
    let stage = answering("status = 500\nerror = \"llama runner process has terminated\"");
    let largest = blobs(&stage).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&largest, bytes).unwrap();
    let said = stage.run("doctor").exits(1).stdout;
    assert!(said.contains("does not have the digest that it is named by"), "{said}");
    assert_eq!(findings(&stage), ["corrupt-blob"]);
}

#[test]
fn a_model_that_is_not_here_is_told_from_one_that_came_in_part() {
    let stage = Stage::deployed();
    stage.ok(&format!("model remove {MODEL} --yes"));
    assert_eq!(findings(&stage), ["model-absent"]);
    let name = format!("data/models/blobs/sha256-{}-partial", "ab".repeat(32));
    fs::create_dir_all(stage.root().join("data/models/blobs")).unwrap();
    fs::write(stage.root().join(name), "half").unwrap();
    assert_eq!(findings(&stage), ["partial-pull"]);
    assert!(stage.run("doctor").stdout.contains(&format!("cargo xtask model pull {MODEL}")));
}

#[test]
fn a_model_that_spills_and_one_that_is_loaded_for_every_request_are_found() {
    let stage = Stage::new();
    add(&stage, "memory = \"1K\"");
    stage.set("load", "\"600ms\"");
    stage.ok("deploy");
    assert_eq!(findings(&stage), ["on-cpu"]);
    (0..6).for_each(|at| ask(&stage, &json!({"num_ctx": 2048 + 1024 * (at % 2)})));
    assert_eq!(findings(&stage), ["on-cpu", "reloaded"]);
}

#[test]
fn a_backup_that_failed_is_found() {
    let stage = Stage::deployed();
    let run =
        json!({"began": "2026-11-01T02:00:00Z", "seconds": 1.0, "result": "failed", "detail": "the disk is gone"});
    fs::write(stage.root().join("state/backup.json"), json!({"last": run}).to_string()).unwrap();
    assert_eq!(findings(&stage), ["backup-stale"]);
    assert!(stage.run("doctor").stdout.contains("the disk is gone"));
}

#[test]
fn metrics_that_cannot_be_read_are_found() {
    if lacks("node_exporter") {
        return;
    }
    let stage = Stage::deployed();
    fs::write(stage.root().join("data/textfile/mine.prom"), "this is no metric\n").unwrap();
    assert_eq!(findings(&stage), ["textfile-broken"]);
}

#[test]
fn a_target_that_tells_nothing_is_found() {
    if lacks("prometheus") {
        return;
    }
    let stage = Stage::new();
    // It answers its probe, and what Prometheus wants of it with nonsense.
    stage.fake("node_exporter", "export STAGE_SAYS=nonsense{");
    stage.ok("deploy");
    let found = until("Prometheus has scraped", || {
        let ran = stage.run("doctor --json");
        Some(ids(&ran)).filter(|ids| !ids.is_empty())
    });
    assert_eq!(found, ["metrics-missing"]);
}

#[test]
fn a_mac_that_is_hot_or_swaps_is_found() {
    let stage = mac();
    stage.ok("deploy");
    is_well(&stage);
    stage.write("state/pmset.speed", "60");
    stage.write("state/memory_pressure.percent", "4");
    assert_eq!(findings(&stage), ["thermal", "swap"]);
    let said = stage.run("doctor").exits(1).stdout;
    assert!(said.contains("CPU_Speed_Limit = 60") && said.contains("5.4 GB are swapped out"), "{said}");
}

#[test]
fn a_report_has_what_a_colleague_needs_and_no_secret() {
    let stage = Stage::deployed();
    stage.shell("printf open-sesame | $XTASK secret set token").exits(0);
    add(&stage, "# my note: open-sesame");
    stage.ok("stop engine");
    stage.run("doctor --report page.md").exits(1).says("wrote page.md");
    let page = fs::read_to_string(stage.path("page.md")).unwrap();
    for part in [
        "## Versions",
        "- runtime: sandbox",
        "engine-stopped",
        "\"memory_bytes\"",
        "[sandbox]",
        "Last lines of the engine",
    ] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    assert!(page.contains("# my note: [redacted]") && !page.contains("sesame"), "{page}");
}

#[test]
fn the_list_for_macs_runs_on_macs() {
    let stage = mac();
    let said = stage.ok("doctor --self-check").stdout;
    assert!(said.contains("System-wide memory free percentage: 88%"), "{said}");
    assert!(said.contains("expected: ") && said.contains("got: "), "{said}");
    Stage::new().run("doctor --self-check").exits(10).says("this is for Macs");
}

/// A stack elsewhere, which ssh does not reach.
fn elsewhere(address: &str, port: u16) -> Stage {
    let stage = Stage::new();
    stage.script("ssh", "exit 255");
    stage.write(
        "stack.toml",
        &format!("[host]\naddress = \"{address}\"\n[engine]\nruntime = \"docker\"\n[ports]\napi = {port}\n"),
    );
    stage
}

#[test]
fn the_hop_that_fails_is_told_also_when_ssh_does_not_get_there() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let stage = elsewhere("127.0.0.1", closed);
    let ran = stage.run("doctor").exits(3);
    assert!(ran.stdout.contains("cannot be reached from here: listener"), "{ran:?}");
    assert_eq!(ids(&elsewhere("no-such-host.invalid", closed).run("doctor --json").exits(3)), ["unreachable-name"]);
}

/// Listens, fills its own queue, and prints its port.
const FULL: &str = r#"
import signal, socket
full = socket.socket()
full.bind(("127.0.0.1", 0))
full.listen(0)
queue = [socket.socket() for _ in range(8)]
for one in queue:
    one.setblocking(False)
    one.connect_ex(full.getsockname())
print(full.getsockname()[1])
signal.pause()
"#;

#[test]
fn a_port_that_is_dropped_while_sshd_answers_is_a_firewalls() {
    if lacks("python3") {
        return;
    }
    // Whoever comes when nobody else fits into the queue is not answered, like behind a firewall that drops.
    let here = Stage::new();
    here.write("full.py", FULL);
    let queue = here.start_shell("exec python3 -u full.py");
    let port = until("the queue is full", || queue.stdout().trim().parse().ok());
    let sshd = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stage = elsewhere("127.0.0.1", port);
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    let ssh_port = sshd.local_addr().unwrap().port();
    stage.write("stack.toml", &settings.replace("[engine]", &format!("port = {ssh_port}\n[engine]")));
    assert_eq!(ids(&stage.run("doctor --json").exits(3)), ["unreachable-firewall"]);
    drop(sshd);
    assert_eq!(ids(&stage.run("doctor --json").exits(3)), ["unreachable-host"]);
}

#[test]
fn what_a_native_engine_suffers_from_is_found() {
    let Some(mac) = native::mac() else { return };
    mac.ok("deploy");
    assert_eq!(mac.ok("doctor").stdout, "far is healthy\n");
    mac.write("state/brew.services", "ollama started me ~/Library/LaunchAgents/homebrew.mxcl.ollama.plist\n");
    assert_eq!(findings(&mac), ["second-engine"]);
    fs::remove_file(mac.path("state/brew.services")).unwrap();
    // From here the way leads to an edge with nobody behind it.
    mac.ok("stop gateway");
    assert_eq!(findings(&mac), ["gateway-stopped", "unreachable-engine"]);
    mac.ok("start gateway");
    // Five tokens a second, where 800 GB/s would read the model more often.
    mac.set("version", "\"0.40.1\"");
    mac.publish("0.40.1", "ollama-darwin.tgz", "ollama", &["slow"]);
    mac.ok("deploy");
    assert_eq!(findings(&mac), ["below-bandwidth"]);
    // A GPU that holds a part of it only: with less context all of it would fit.
    let settings = fs::read_to_string(mac.path("stack.toml")).unwrap();
    mac.write("stack.toml", &settings.replace("[engine]\n", "[engine]\nnum_parallel = 8\n"));
    mac.set("version", "\"0.40.2\"");
    mac.publish("0.40.2", "ollama-darwin.tgz", "ollama", &["narrow"]);
    mac.ok("deploy");
    assert_eq!(findings(&mac), ["context-too-large"]);
}

#[test]
fn a_network_that_swallows_everything_is_told_from_one_that_leads_nowhere() {
    if lacks_root() || lacks("ip") {
        return;
    }
    crate::stage::alone(&["unshare", "--net"], || {
        let stage = elsewhere("10.9.0.2", 11434);
        assert_eq!(ids(&stage.run("doctor --json").exits(3)), ["unreachable-route"]);
        // What goes into it is gone.
        for words in [
            "link add hole type veth peer name other",
            "link set other up",
            "link set hole up",
            "address add 10.9.0.1/24 dev hole",
            "neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev hole",
        ] {
            system("ip", &words.split(' ').collect::<Vec<_>>());
        }
        assert_eq!(ids(&stage.run("doctor --json").exits(3)), ["unreachable-host"]);
    });
}
