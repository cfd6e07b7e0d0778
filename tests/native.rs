//! The native runtime: components that are programs of the host's own, and a service of the system that has them run.
//!
//! The Mac is a stand-in behind a real sshd; nginx, Prometheus, the exporter, the supervisor and the gateway are real, and
//! what its launchd loads really runs.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    far::Far,
    mac::{HERE, stand_in},
    stage::{Job, Stage, lacks, take_ports, until},
};

/// What stands for Ollama's program: the same words and variables, over the stand-in engine.
const ENGINE: &str = r#"#!/bin/sh
here=$(dirname "$0")
case $1 in
    serve)
        [ -e "$here/sick" ] && { echo "ollama: this build is sick" >&2; exit 1; }
        export OLLAMA_MAX_QUEUE=512
        pace=0
        [ -e "$here/slow" ] && pace=200
        exec 'XTASK' host engine --seed qwen2.5-coder:32b-instruct-q8_0 --time-to-first-token-ms 1 \
            --time-per-output-token-ms $pace --load-ms 0 $(cat "$here/narrow" 2>/dev/null)
        ;;
    list) exec curl -fsS "http://$OLLAMA_HOST/api/tags" ;;
esac
exit 1
"#;

/// What stands for Grafana's program: the stand-in of the container tests.
const GRAFANA: &str = r#"#!/bin/sh
case "$*" in "server --homepath="*) ;; *) echo "stand-in grafana: $*" >&2; exit 64;; esac
file=${GF_SECURITY_ADMIN_PASSWORD#'$__file{'}
mkdir -p "$GF_PATHS_DATA"
VERSION=12 GF_SECURITY_ADMIN_PASSWORD__FILE=${file%'}'} exec python3 -u 'TOOLS/grafana.py'
"#;

/// A host with what it has in front of the LAN, and a mirror of Ollama's releases.
pub(crate) struct Native<S> {
    // Dropped first: it works in the stage's folder.
    _mirror: Job,
    pub(crate) stage: S,
    pub(crate) api: u16,
    _guard: TcpListener,
}

impl<S> Deref for Native<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stage
    }
}

/// A Mac behind sshd that has our program already, since none can be built for it here. `None`: a part is lacking.
pub(crate) fn mac() -> Option<Native<Far>> {
    let parts = ["nginx", "prometheus", "promtool", "alertmanager", "amtool", "node_exporter", "python3"];
    if parts.into_iter().any(lacks) {
        return None;
    }
    let mut far = Far::new()?;
    stand_in(&far, "mac");
    let home = far.path("home");
    fs::create_dir_all(&home).unwrap();
    far.log_in_with(&format!("HOME={} /bin/sh", home.display()));
    let native = Native::new(far, "ollama-darwin.tgz", "ollama", "address = \"far\"\n");
    let tools = native.path("tools").display().to_string();
    for script in ["grafana.py", "macmon.py"] {
        crate::stage::copy(&Path::new(HERE).join("images").join(script), &native.path("tools").join(script));
    }
    let macmon = format!("#!/bin/sh\nexec python3 -u '{tools}/macmon.py' \"$@\"\n");
    for (name, text) in [("grafana", GRAFANA.replace("TOOLS", &tools)), ("macmon", macmon)] {
        let formula = format!("state/formulas/{name}");
        native.write(&formula, &text);
        make_executable(&native.path(&formula));
    }
    native.has_program();
    Some(native)
}

impl Native<Far> {
    /// From now on one is somebody else on the Mac than root.
    pub(crate) fn log_in_as_nobody(&mut self) {
        let home = self.path("home");
        self.stage.log_in_as(65534);
        self.stage.log_in_with(&format!("HOME={} /bin/sh", home.display()));
    }
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl<S: Deref<Target = Stage>> Native<S> {
    /// `asset` is Ollama's file for the system, and `program` its program in there.
    fn new(stage: S, asset: &str, program: &str, host: &str) -> Self {
        let (more, guard) = take_ports();
        let [_, gateway, grafana, lan_grafana, lan_prometheus, macmon] = more;
        let [api, engine, prometheus, node_exporter, alertmanager] = *stage.ports() else {
            panic!("a stage has five ports")
        };
        let root = stage.root().display().to_string();
        let mirror = stage.start_shell(&format!("mkdir -p mirror && exec python3 -u -c '{MIRROR}'"));
        let port = until("the mirror listens", || mirror.stdout().trim().parse::<u16>().ok());
        stage.write(
            "stack.toml",
            &format!(
                "[host]\n{host}root = \"{root}\"\ngithub = \"http://127.0.0.1:{port}\"\n\n[engine]\nruntime = \"native\"\nversion = \
                 \"0.40.0\"\nkeep_alive = \"5m\"\n\n[ports]\napi = {api}\nengine = {engine}\ngateway = {gateway}\nprometheus = {prometheus}\ngrafana = \
                 {grafana}\nnode_exporter = {node_exporter}\nmacmon = {macmon}\nalertmanager = {alertmanager}\nlan_grafana = {lan_grafana}\nlan_prometheus = \
                 {lan_prometheus}\n\n[monitoring]\nretention = \"15d\"\nscrape_interval = \"1s\"\n"
            ),
        );
        let native = Native { _mirror: mirror, stage, api, _guard: guard };
        native.publish("0.40.0", asset, program, &[]);
        native
    }

    /// Puts a release of the engine on the mirror, beside its digests.
    pub(crate) fn publish(&self, version: &str, asset: &str, program: &str, more: &[&str]) {
        let folder = format!("mirror/ollama/ollama/releases/download/v{version}");
        let engine = ENGINE.replace("XTASK", &self.stage.program().display().to_string());
        self.write(&format!("{folder}/unpacked/{program}"), &engine);
        make_executable(&self.path(&format!("{folder}/unpacked/{program}")));
        let beside = Path::new(program).parent().unwrap().join("libmlx.metallib").display().to_string();
        for name in [&beside].into_iter().map(String::as_str).chain(more.iter().copied()) {
            // To the stand-in, `narrow` is what its GPU holds.
            let text = if name == "narrow" { "--memory-bytes 1024" } else { "a library" };
            self.write(&format!("{folder}/unpacked/{name}"), text);
        }
        let flag = if asset.ends_with("zst") { "--zstd" } else { "-z" };
        let pack =
            format!("cd {folder} && tar -c {flag} -f {asset} -C unpacked . && sha256sum ./{asset} > sha256sum.txt");
        self.stage.shell(&pack).exits(0);
    }

    /// Puts a release of Alertmanager on the mirror, beside its digest as `filter` has it: this machine's own under another version.
    fn publish_alertmanager(&self, version: &str, filter: &str) {
        let whole = format!("alertmanager-{version}.darwin-arm64");
        let folder = format!("mirror/prometheus/alertmanager/releases/download/v{version}");
        for (name, real) in [("alertmanager", "prometheus-alertmanager"), ("amtool", "amtool")] {
            let program = format!("{folder}/{whole}/{name}");
            let here = "PATH=/usr/local/bin:/usr/bin";
            self.write(
                &program,
                &format!("#!/bin/sh\n{here} exec $({here}; command -v {name} || command -v {real}) \"$@\"\n"),
            );
            make_executable(&self.path(&program));
        }
        let pack = format!(
            "cd {folder} && tar -czf {whole}.tar.gz {whole} && sha256sum {whole}.tar.gz | {filter} > sha256sums.txt"
        );
        self.stage.shell(&pack).exits(0);
    }

    /// Puts our program where a deploy would, under its identity.
    fn has_program(&self) {
        self.write(
            "here.toml",
            &format!("[host]\nroot = \"{}/nowhere\"\n[engine]\nruntime = \"sandbox\"\n", self.path("").display()),
        );
        let plan = self.ok("--settings here.toml deploy --dry-run --json").json();
        let bin = self.root().join("bin");
        fs::create_dir_all(&bin).unwrap();
        crate::stage::copy(self.stage.program(), &bin.join("xtask"));
        fs::write(bin.join("xtask.id"), plan["release"]["program"].as_str().unwrap()).unwrap();
    }

    /// What root was asked for since the last time, in the stand-ins' words.
    pub(crate) fn asked_of_root(&self) -> String {
        let log = fs::read_to_string(self.path("state/root.log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("state/root.log"));
        let changes = fs::read_to_string(self.path("state/launchctl.log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("state/launchctl.log"));
        let changes = changes.lines().filter(|line| !line.starts_with("print "));
        log + &changes.map(|line| format!("{line}\n")).collect::<String>()
    }

    fn engine_program(&self) -> String {
        let engine = self.component("engine");
        let link = fs::read_to_string(format!("/proc/{}/environ", engine.pid)).unwrap();
        assert!(link.contains("OLLAMA_NO_CLOUD=1"), "{link}");
        let status: Value =
            serde_json::from_slice(&fs::read(self.root().join("current/release.json")).unwrap()).unwrap();
        status["tarballs"][0]["version"].as_str().unwrap().to_owned()
    }

    fn brought(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("programs")).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Through the edge, as a client of the LAN.
    fn api(&self, path: &str) -> (u16, String) {
        let mut answer = reqwest::blocking::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap()
            .get(format!("http://127.0.0.1:{}{path}", self.api))
            .send()
            .unwrap();
        let mut text = String::new();
        let status = answer.status().as_u16();
        answer.read_to_string(&mut text).unwrap();
        (status, text)
    }
}

/// Serves `mirror/` on a port of its own, which it prints.
const MIRROR: &str = r#"
import functools, http.server
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="mirror")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_port)
server.serve_forever()
"#;

/// What `tune` has root load, so that the limit outlives a restart.
const GPU_LIMIT: &str = "<plist version=\"1.0\"><dict><key>Label</key><string>dev.frontier-llm.gpu-limit</string>\
    <key>ProgramArguments</key><array><string>/usr/sbin/sysctl</string><string>iogpu.wired_limit_mb=MIB</string></array>\
    </dict></plist>";

/// Where the stand-in's launchd has what it loaded.
pub(crate) fn plist(stage: &Stage) -> PathBuf {
    let entries = fs::read_dir(stage.path("state/Library/LaunchDaemons")).into_iter().flatten();
    entries.map(|it| it.unwrap().path()).next().unwrap()
}

#[test]
fn a_mac_serves_natively_and_root_is_asked_once() {
    let Some(mac) = mac() else { return };
    let first = mac.ok("deploy");
    assert!(first.stderr.contains("native on far"), "{}", first.stderr);
    for words in
        ["brew install grafana macmon", "fetch ollama 0.40.0", "make up the secret", "bootstrap system", "memory_limit"]
    {
        assert!(first.stderr.contains(words), "no {words:?} in\n{}", first.stderr);
    }
    mac.is_settled();
    for part in ["engine", "gateway", "edge", "prometheus", "alertmanager", "grafana", "node-exporter", "macmon"] {
        assert_eq!(mac.part(part)["state"], "healthy", "{part}");
    }
    // `ollama list` on the host asks here.
    assert!(mac.api("/api/tags").1.contains("qwen2.5-coder:32b-instruct-q8_0"));
    assert!(mac.root().join("programs/ollama-0.40.0/libmlx.metallib").exists(), "the whole of it was unpacked");
    assert!(fs::read_to_string(plist(&mac)).unwrap().contains("--stay"));
    let proof = mac.run("verify").stdout;
    // From here nobody knows the name that ssh is told.
    let fails = proof.lines().filter(|line| line.starts_with("FAIL") && !line.contains("from this machine"));
    assert_eq!((fails.count(), proof.matches("PASS").count() > 12), (0, true), "{proof}");
    until("Prometheus has what macmon tells", || {
        (mac.run("monitor query macmon_gpu_power_watts --json").code == Some(0)).then_some(())
    });
    mac.asked_of_root();
    let before = mac.components();
    mac.ok("deploy").says("nothing to do");
    mac.ok("status");
    mac.ok("logs engine");
    assert_eq!((mac.asked_of_root().as_str(), mac.replaced_since(&before)), ("", vec![]));
}

#[test]
fn alertmanager_is_brought_as_a_release_of_its_own() {
    let Some(mac) = mac() else { return };
    let settings = fs::read_to_string(mac.path("stack.toml")).unwrap();
    mac.write("stack.toml", &format!("{settings}alertmanager_version = \"0.50.0\"\n"));
    mac.publish_alertmanager("0.50.0", "cat");
    mac.ok("deploy")
        .says("fetch alertmanager 0.50.0 from http://127.0.0.1:")
        .says("(the release's own sha256sums.txt)")
        .says("check alertmanager: ")
        .says("programs/alertmanager-0.50.0/alertmanager-0.50.0.darwin-arm64/amtool check-config");
    mac.is_settled();
    assert_eq!((mac.part("alertmanager")["state"].as_str(), mac.brought().len()), (Some("healthy"), 2));
    mac.asked_of_root();
    mac.ok("deploy").says("nothing to do");
    // One that is not what its release says is not unpacked, and the other serves on.
    let before = mac.components();
    mac.set("alertmanager_version", "\"0.50.1\"");
    mac.publish_alertmanager("0.50.1", "sed s/^......../00000000/");
    mac.run("deploy").exits(1).says("is not what it should be");
    assert_eq!((mac.replaced_since(&before), mac.brought().len()), (vec![], 2));
    mac.publish_alertmanager("0.50.1", "cat");
    mac.ok("deploy").says("restart alertmanager");
    mac.ok("rollback").says("restart alertmanager");
    mac.is_settled();
    assert_eq!(mac.asked_of_root(), "");
}

#[test]
fn a_macmon_that_would_listen_for_everybody_is_left_out() {
    let Some(mac) = mac() else { return };
    mac.script("macmon", "[ \"$*\" = --version ] && echo macmon 0.7.2");
    mac.ok("deploy");
    mac.is_settled();
    let part = mac.part("macmon");
    assert_eq!(part["state"], "absent");
    assert!(
        part["detail"].as_str().unwrap().contains("0.7.2 cannot be kept to loopback; `brew upgrade macmon`"),
        "{part}"
    );
}

#[test]
fn a_change_reloads_the_edge_and_needs_no_root() {
    let Some(mac) = mac() else { return };
    mac.ok("deploy");
    mac.asked_of_root();
    let before = mac.components();
    mac.write(
        "local/nginx/mine.conf",
        &format!("server {{ listen 127.0.0.1:{}; return 200 mine; }}\n", mac.api + 7000),
    );
    mac.ok("deploy").says("reload edge");
    assert_eq!(mac.replaced_since(&before), [""; 0]);
    let mine = mac.shell(&format!("curl -fsS http://127.0.0.1:{}/", mac.api + 7000)).exits(0);
    assert_eq!(mine.stdout, "mine");
    mac.write("local/nginx/mine.conf", "server { listen nonsense; }\n");
    let now = mac.current();
    mac.run("deploy").exits(4).says("do not pass").says("nonsense");
    assert_eq!((mac.current(), mac.asked_of_root().as_str()), (now, ""));
    fs::remove_file(mac.path("local/nginx/mine.conf")).unwrap();
    mac.set("retention", "\"20d\"");
    mac.ok("deploy").says("restart prometheus");
    assert_eq!(mac.replaced_since(&before), ["prometheus"]);
    mac.is_settled();
}

#[test]
fn an_engine_goes_up_a_version_and_back() {
    let Some(mac) = mac() else { return };
    mac.ok("deploy");
    mac.asked_of_root();
    mac.set("version", "\"0.40.1\"");
    mac.publish("0.40.1", "ollama-darwin.tgz", "ollama", &[]);
    mac.ok("deploy").says("fetch ollama 0.40.1").says("restart engine");
    assert_eq!((mac.engine_program().as_str(), mac.brought().len()), ("0.40.1", 2));
    mac.ok("rollback").says("restart engine");
    assert_eq!(mac.engine_program(), "0.40.0");
    // One that does not run is taken back by itself, and swept when nobody goes back to it.
    mac.set("version", "\"0.41.0\"");
    mac.publish("0.41.0", "ollama-darwin.tgz", "ollama", &["sick"]);
    mac.run("deploy").exits(4).says("this build is sick");
    assert_eq!(mac.engine_program(), "0.40.0");
    mac.set("version", "\"0.40.0\"");
    mac.ok("deploy");
    mac.is_settled();
    assert_eq!(mac.asked_of_root(), "");
}

#[test]
fn an_engine_that_is_not_what_it_should_be_is_not_unpacked() {
    let Some(mac) = mac() else { return };
    // The digest of this version is pinned in the program, and what the mirror has is another.
    mac.set("version", "\"0.32.15\"");
    mac.publish("0.32.15", "ollama-darwin.tgz", "ollama", &[]);
    mac.run("deploy").exits(1).says("is not what it should be").says("9ab0ac4747946620");
    assert_eq!((mac.brought(), mac.current()), (vec![], None));
    mac.set("version", "\"0.99.0\"");
    mac.run("deploy").exits(1).says("404").says("`github` under [host]");
    assert!(!mac.path("state/launchctl.log").exists() || mac.asked_of_root().is_empty());
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_its_first_byte() {
    let Some(mac) = mac() else { return };
    mac.ok("deploy");
    let too_large = "qwen3-coder:480b";
    mac.run(&format!("model pull {too_large}")).exits(7).says("it does not fit: it needs").says("--force");
    assert!(!mac.ok("model list").stdout.contains(too_large));
    mac.ok(&format!("model pull {too_large} --force")).says(&format!("{too_large} answers"));
    assert!(mac.ok("model list").stdout.contains(too_large));
}

#[test]
fn what_was_stopped_starts_again_without_root_and_a_supervisor_that_dies_is_replaced() {
    let Some(mac) = mac() else { return };
    mac.ok("deploy");
    mac.asked_of_root();
    let supervisor = mac.supervisor();
    mac.ok("stop");
    assert!(mac.components().is_empty());
    assert!(supervisor.runs(), "launchd would have it back in ten seconds, over and over");
    mac.ok("start");
    mac.is_settled();
    let before = mac.components();
    supervisor.kill();
    until("launchd has another", || (mac.supervisor() != supervisor && mac.supervisor().runs()).then_some(()));
    mac.ok("deploy");
    assert_eq!(mac.replaced_since(&before), [""; 0]);
    assert_eq!(mac.asked_of_root(), "");
}

#[test]
fn an_uninstall_takes_the_service_away() {
    let Some(mac) = mac() else { return };
    mac.ok("deploy");
    mac.asked_of_root();
    let supervisor = mac.supervisor();
    mac.ok("uninstall --data --yes").says("nothing is left");
    assert!(mac.asked_of_root().contains("bootout system/frontier-llm-"));
    assert!(!supervisor.runs() && mac.processes().is_empty() && !mac.root().exists());
}

#[test]
fn launchd_that_loads_without_starting_or_will_not_load_is_seen() {
    let Some(mac) = mac() else { return };
    mac.write("state/launchctl.broken", "5");
    mac.run("deploy").exits(4).says("Bootstrap failed: 5").says("bootout");
    assert!(mac.current().is_none() && mac.processes().is_empty());
    mac.write("state/launchctl.broken", "125");
    mac.run("deploy").exits(4).says("Bootstrap failed: 125").says("no such domain");
    fs::remove_file(mac.path("state/launchctl.broken")).unwrap();
    mac.write("state/launchctl.lazy", "");
    mac.ok("deploy").says("kickstart");
    mac.is_settled();
    // What somebody has ended by hand comes back with the next deploy.
    let label = plist(&mac).file_stem().unwrap().to_str().unwrap().to_owned();
    mac.shell(&format!("launchctl bootout system/{label}")).exits(0);
    mac.ok("deploy").says("have the system run");
    mac.is_settled();
}

#[test]
fn models_that_are_there_are_used_and_other_engines_are_named() {
    let Some(mac) = mac() else { return };
    let home = mac.path("home");
    fs::create_dir_all(home.join(".ollama/models/manifests/registry.ollama.ai")).unwrap();
    fs::create_dir_all(home.join("Library/LaunchAgents")).unwrap();
    fs::write(home.join("Library/LaunchAgents/homebrew.mxcl.ollama.plist"), "").unwrap();
    mac.write("state/firewall.on", "");
    let listener = TcpListener::bind(("127.0.0.1", mac.api)).unwrap();
    mac.run("deploy").exits(1).says("is taken by").says("brew services stop ollama");
    drop(listener);
    let done = mac.ok("deploy").says("are used as they are").says("brew services stop ollama").says("let nginx in");
    assert!(done.stderr.contains(".ollama/models"), "{}", done.stderr);
    let environ = fs::read_to_string(format!("/proc/{}/environ", mac.component("engine").pid)).unwrap();
    assert!(environ.contains(&format!("OLLAMA_MODELS={}/.ollama/models\0", home.display())), "{environ}");
    assert!(mac.asked_of_root().contains("firewall --add"));
    mac.ok("deploy").says("nothing to do");
}

/// A Linux host on which systemd is process 1, as far as its own programs tell; with none, a container.
fn linux(systemd: bool) -> Option<Native<Box<Stage>>> {
    if ["nginx", "prometheus", "promtool", "alertmanager", "amtool", "node_exporter", "python3", "zstd"]
        .into_iter()
        .any(lacks)
    {
        return None;
    }
    let stage = Box::new(Stage::new());
    match systemd {
        true => stand_in(&stage, "systemd"),
        false => stage.script("systemctl", "echo 'System has not been booted with systemd as init system' >&2; exit 1"),
    }
    let machine = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let home = stage.path("home");
    fs::create_dir_all(&home).unwrap();
    Some(Native::new(stage, &format!("ollama-linux-{machine}.tar.zst"), "bin/ollama", ""))
}

#[test]
fn a_linux_host_serves_natively_under_a_unit_of_systemd() {
    let Some(linux) = linux(true) else { return };
    linux.ok("deploy").says("as root: install").says("systemctl enable frontier-llm-");
    linux.is_settled();
    assert!(linux.part("grafana")["detail"].as_str().unwrap().contains("not installed"));
    assert!(linux.api("/api/tags").1.contains("qwen2.5-coder:32b-instruct-q8_0"));
    let units = linux.path("state/etc/systemd/system");
    let unit = fs::read_dir(&units).unwrap().next().unwrap().unwrap().path();
    if !lacks("systemd-analyze") {
        let said = linux.shell(&format!("systemd-analyze verify '{}' 2>&1", unit.display()));
        assert!(said.code == Some(0) && !said.stdout.contains(unit.file_name().unwrap().to_str().unwrap()), "{said:?}");
    }
    let _ = fs::remove_file(linux.path("state/root.log"));
    let before = linux.components();
    linux.ok("deploy").says("nothing to do");
    linux.ok("stop");
    linux.ok("start");
    linux.set("keep_alive", "\"7m\"");
    linux.ok("deploy").says("restart engine");
    assert!(linux.replaced_since(&before).contains(&"engine".to_owned()));
    linux.is_settled();
    assert!(!linux.path("state/root.log").exists(), "root was asked once");
    linux.ok("uninstall --data --yes");
    assert!(linux.processes().is_empty() && !unit.exists());
}

#[test]
fn where_nothing_starts_services_the_stack_runs_and_says_so() {
    let Some(linux) = linux(false) else { return };
    let said = linux.ok("deploy").says("nothing that we know starts services here").says("host supervise --root=");
    assert!(!said.stderr.contains("as root"), "{}", said.stderr);
    linux.is_settled();
    linux.ok("stop");
    linux.ok("deploy");
    linux.is_settled();
}

#[test]
fn after_a_restart_a_deploy_says_once_what_did_not_come_back() {
    let Some(mac) = mac() else { return };
    mac.ok("deploy");
    let checks = |line: &str| mac.run(line).json()["checks"].as_array().unwrap().clone();
    let result = |name: &str| {
        let checks = checks("verify --reboot --json");
        let found = checks.iter().find(|it| it["name"].as_str().unwrap().contains(name)).unwrap();
        (found["result"].as_str().unwrap().to_owned(), found["detail"].as_str().unwrap().to_owned())
    };
    assert_eq!(result("the stack starts").0, "pass");
    assert!(!mac.ok("deploy").stderr.contains("started anew"));
    // The machine started a moment ago, and the engine after it; it falls asleep, as the recorded one does.
    mac.shell("touch -d '1 minute ago' root/state/history.json").exits(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    mac.write("state/boottime", &(now - 30).to_string());
    mac.ok("restart engine");
    mac.ok("deploy").says("started anew").says("it does not sleep: no, after 1 min");
    assert_eq!(result("the engine came up").0, "pass");
    assert_eq!(result("does not sleep").0, "fail");
    mac.run("verify --reboot").exits(1);
    mac.write("state/pmset.sleep", "0");
    assert!(mac.ok("verify --reboot").stdout.contains("PASS  it does not sleep"));
    assert!(!mac.ok("deploy").stderr.contains("started anew"), "it was asked");
    // A limit that was to stay and is not in force.
    assert_eq!(result("GPU memory limit").0, "skip");
    let daemon = mac.path("state/Library/LaunchDaemons/gpu-limit.plist").display().to_string();
    let limit = GPU_LIMIT.replace("MIB", "4096");
    fs::write(&daemon, limit).unwrap();
    mac.shell(&format!("printf '{daemon}' > state/launchd/dev.frontier-llm.gpu-limit.path")).exits(0);
    assert_eq!(
        result("GPU memory limit"),
        ("fail".to_owned(), "0 MiB, and 4096 were meant to stay: `cargo xtask tune`".to_owned())
    );
    mac.write("state/iogpu.wired_limit_mb", "4096");
    assert_eq!(result("GPU memory limit").0, "pass");
    fs::remove_file(daemon).unwrap();
    // A service that is not loaded.
    let label = plist(&mac).file_stem().unwrap().to_str().unwrap().to_owned();
    mac.shell(&format!("launchctl bootout system/{label}")).exits(0);
    assert_eq!(result("the stack starts").0, "fail");
    let engine = result("the engine came up");
    assert_eq!(engine.0, "fail", "{engine:?}");
}
