//! The docker runtime on a real engine, with images that `tests/images/build` makes from Debian packages.

#![expect(clippy::disallowed_methods, reason = "what is tested has to be started from outside")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::Deref,
    path::Path,
    process::Command,
    sync::{
        OnceLock,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    far::Far,
    stage::{Stage, WITH_A_BUILD, is_lacking, take_ports, until},
};

/// What `docker` says; fails the test if it says no.
fn docker(args: &[&str]) -> String {
    let done = Command::new("docker").args(args).output().unwrap();
    assert!(done.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// Whether there is no engine or no Compose to test with. With them come the images.
fn lacks_docker() -> bool {
    let answers = |args: &[&str]| Command::new("docker").args(args).output().is_ok_and(|done| done.status.success());
    if (!answers(&["info"]) && is_lacking("docker")) || (!answers(&["compose", "version"]) && is_lacking("compose")) {
        return true;
    }
    build_images();
    false
}

/// What has a stage's components be containers, with as many ports more.
fn settings(stage: &Stage) -> (String, [u16; 6], TcpListener) {
    let (more, guard) = take_ports();
    let [_, gateway, grafana, lan_grafana, lan_prometheus, _] = more;
    let [api, engine, prometheus, node_exporter, alertmanager] = *stage.ports() else {
        panic!("a stage has five ports")
    };
    let folder = stage.path("").display().to_string();
    let settings = format!(
        "[host]\nroot = \"{folder}root\"\n\n[engine]\nruntime = \"docker\"\nmodels_path = \"{folder}models\"\nmemory_limit = \
         \"2G\"\nnum_parallel = 4\n\n[edge]\nallow = [\"127.0.0.0/8\", \"::1\", \"10.91.0.0/24\", \"fd91::/64\"]\n\n[ports]\napi = {api}\nengine = \
         {engine}\ngateway = {gateway}\nprometheus = {prometheus}\ngrafana = {grafana}\nnode_exporter = \
         {node_exporter}\nalertmanager = {alertmanager}\nlan_grafana = {lan_grafana}\nlan_prometheus = {lan_prometheus}\n\n[monitoring]\nscrape_interval = \
         \"1s\"\n\n[alerts]\nwebhook = \"http://127.0.0.1:9/\"\n\n[images]\nengine = \"stack-test-engine:1\"\nedge = \"stack-test-nginx:1\"\nprometheus = \
         \"stack-test-prometheus:1\"\nalertmanager = \"stack-test-alertmanager:1\"\ngrafana = \"stack-test-grafana:12\"\nnode-exporter = \"stack-test-node-exporter:1\"\n"
    );
    (settings, more, guard)
}

/// A stage whose components are containers.
pub(crate) struct Contained {
    stage: Stage,
    pub(crate) api: u16,
    pub(crate) lan_grafana: u16,
    pub(crate) lan_prometheus: u16,
    pub(crate) prometheus: u16,
    grafana: u16,
    _guard: TcpListener,
}

/// A generation that somebody reads.
struct Stream {
    heard: Receiver<()>,
    thread: JoinHandle<usize>,
}

impl Stream {
    /// Lines come that had not come yet.
    fn goes_on(&self) {
        self.heard.try_iter().for_each(drop);
        self.heard.recv_timeout(Duration::from_secs(30)).expect("the stream goes on");
    }

    /// How many lines came, once it has ended.
    fn lines(self) -> usize {
        self.heard.iter().for_each(drop);
        self.thread.join().unwrap()
    }
}

impl Deref for Contained {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Contained {
    /// None, where there is no engine or no Compose to test with.
    fn new() -> Option<Self> {
        if lacks_docker() {
            return None;
        }
        let stage = Stage::new();
        let (settings, ports, guard) = settings(&stage);
        stage.write("stack.toml", &settings);
        let [_, _, grafana, lan_grafana, lan_prometheus, _] = ports;
        let [api, _, prometheus, ..] = *stage.ports() else { panic!("a stage has five ports") };
        let contained = Contained { stage, api, lan_grafana, lan_prometheus, prometheus, grafana, _guard: guard };
        contained.wrappers();
        Some(contained)
    }

    /// A first release runs.
    pub(crate) fn deployed() -> Option<Self> {
        let contained = Contained::new()?;
        contained.start("deploy").finish_within(WITH_A_BUILD).exits(0);
        Some(contained)
    }

    /// A `cargo` with the developer's own environment, and a `docker` that writes down what it is asked.
    fn wrappers(&self) {
        let variables = ["HOME", "PATH", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR"];
        let set = variables.iter().filter_map(|name| Some(format!("{name}='{}'", env::var(name).ok()?)));
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        self.script("cargo", &format!("cd '{workspace}' && {} exec cargo \"$@\"", set.collect::<Vec<_>>().join(" ")));
        let log = self.path("docker.log").display().to_string();
        self.script("docker", &format!("echo \"$*\" >> '{log}'\nexec $(PATH=${{PATH#*:}} command -v docker) \"$@\""));
    }

    /// What Docker was asked while `act` went on.
    fn asked(&self, act: impl FnOnce()) -> Vec<String> {
        let _ = fs::remove_file(self.path("docker.log"));
        act();
        let log = fs::read_to_string(self.path("docker.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Containers of this stage: service and id, of those that run.
    fn containers(&self, filter: &str) -> Vec<(String, String)> {
        let format =
            "{{.Label \"com.docker.compose.project.working_dir\"}}\t{{.Label \"com.docker.compose.service\"}}\t{{.ID}}";
        let all = docker(&["ps", "--all", "--no-trunc", filter, "--format", format]);
        let root = self.root().display().to_string();
        let ours = all.lines().filter(|line| line.starts_with(&root));
        let mut found: Vec<(String, String)> = ours
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                (fields[1].to_owned(), fields[2].to_owned())
            })
            .collect();
        found.sort();
        found
    }

    fn running(&self) -> Vec<(String, String)> {
        self.containers("--filter=status=running")
    }

    fn container(&self, service: &str) -> String {
        self.running().into_iter().find(|(name, _)| name == service).expect(service).1
    }

    /// The services whose container is not the one they had.
    fn replaced_since(&self, before: &[(String, String)]) -> Vec<String> {
        let is_new = |found: &(String, String)| !before.contains(found);
        self.running().into_iter().filter(is_new).map(|(service, _)| service).collect()
    }

    pub(crate) fn http(&self, port: u16, path: &str) -> (u16, String) {
        let client = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{port}{path}")).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    }

    /// A generation of so many tokens through the edge, 20 ms each.
    fn stream(&self, tokens: u32) -> Stream {
        let port = self.api;
        let (sender, heard) = mpsc::channel();
        let thread = thread::spawn(move || {
            let body = format!(
                "{{\"model\":\"qwen2.5-coder:32b-instruct-q8_0\",\"prompt\":\"a long story\",\"options\":{{\"num_predict\":{tokens}}}}}"
            );
            let client = reqwest::blocking::Client::builder().no_proxy().timeout(None).build().unwrap();
            let answer = client.post(format!("http://127.0.0.1:{port}/api/generate")).body(body).send().unwrap();
            let mut lines = 0;
            for line in BufReader::new(answer).lines() {
                let line = line.expect("the stream was cut");
                lines += 1;
                // Nobody wants the rest.
                let is_heard = sender.send(()).is_ok();
                if !is_heard || line.contains("\"done\":true") {
                    return lines;
                }
            }
            panic!("the stream ended without its last line after {lines} lines");
        });
        let stream = Stream { heard, thread };
        stream.goes_on();
        stream
    }

    /// Asks Grafana as its admin.
    fn grafana(&self) -> serde_json::Value {
        let password = self.ok("status --secrets --json").json()["grafana-admin-password"].as_str().unwrap().to_owned();
        let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/api/state", self.grafana);
        let answer = client.get(url).basic_auth("admin", Some(password)).send().unwrap();
        serde_json::from_str(&answer.error_for_status().unwrap().text().unwrap()).unwrap()
    }

    fn note_in_grafana(&self, note: &'static str) {
        let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/note", self.grafana);
        client.post(url).body(note).send().unwrap().error_for_status().unwrap();
    }
}

impl Drop for Contained {
    /// Nothing of this stage outlives it, however the test went.
    fn drop(&mut self) {
        if self.root().exists() {
            self.run("uninstall --data --yes");
        }
        let left = self.containers("--filter=status=running");
        for (_, id) in self.containers("--no-trunc") {
            let _ = Command::new("docker").args(["rm", "--force", "--volumes", &id]).output();
        }
        assert!(thread::panicking() || left.is_empty(), "{left:?} outlived their stage");
    }
}

fn build_images() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/images/build");
        let done = Command::new(script).arg(env!("CARGO_BIN_EXE_xtask")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    });
}

#[test]
fn a_stack_in_containers_lives_its_whole_life() {
    let Some(stack) = Contained::deployed() else { return };
    stack.is_healthy();
    let services: Vec<String> = stack.running().into_iter().map(|(service, _)| service).collect();
    assert_eq!(services, ["alertmanager", "gateway", "grafana", "nginx", "node-exporter", "ollama", "prometheus"]);
    stack.ok("verify");
    // By the door that clients use, too.
    until("the edge is probed", || {
        let query = "/api/v1/query?query=up%7Bjob%3D%22edge%22%7D%3D%3D1";
        stack.http(stack.prometheus, query).1.contains("\"job\":\"edge\"").then_some(())
    });

    // As declared, it costs one look at the engine, and none at Compose.
    let asked = stack.asked(|| drop(stack.ok("deploy").says("nothing to do")));
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked.iter().all(|line| line.starts_with("ps ")), "{asked:?}");

    assert!(stack.ok("logs gateway").stdout.contains("gateway listens on"));
    let before = stack.running();
    stack.ok("stop prometheus");
    assert_eq!(stack.part("prometheus")["state"], "stopped");
    stack.ok("start prometheus");
    stack.is_healthy();
    stack.ok("stop");
    assert_eq!(stack.running(), []);
    stack.ok("start");
    stack.is_healthy();
    assert_eq!(stack.running(), before);
    let volumes = || docker(&["volume", "ls", "--quiet"]);
    let project = fs::read_to_string(stack.root().join("current/.env")).unwrap();
    let project = project
        .lines()
        .find_map(|line| line.strip_prefix("STACK_PROJECT='"))
        .unwrap()
        .trim_end_matches('\'')
        .to_owned();
    stack.ok("uninstall --yes");
    assert_eq!(stack.containers("--no-trunc"), []);
    assert!(volumes().contains(&format!("{project}_grafana")));
    stack.ok("deploy");
    stack.ok("uninstall --data --yes");
    assert!(!volumes().contains(&project), "{}", volumes());
}

#[test]
fn changed_files_are_what_runs_and_no_stream_is_cut() {
    let Some(stack) = Contained::deployed() else { return };
    // Longer than the three deploys take, however busy the machine is.
    let (before, stream) = (stack.running(), stack.stream(30_000));
    stack.write("local/nginx/mine.conf", "server_names_hash_bucket_size 128;\n");
    stack.set("allow", "[\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    stack.ok("deploy").says("reload edge");
    stack.write("local/rules/mine.yml", "groups: [{ name: mine, rules: [{ record: one, expr: vector(1) }] }]\n");
    stack.ok("deploy").says("reload prometheus");
    stack.set("webhook", "\"http://127.0.0.1:9/other\"");
    stack.ok("deploy").says("reload alertmanager");
    stream.goes_on();
    assert_eq!(stack.replaced_since(&before), Vec::<String>::new());
    assert!(stack.http(stack.prometheus, "/api/v1/rules").1.contains("\"mine\""));
    // A file that its own program would refuse never gets there.
    stack.write("local/nginx/mine.conf", "no_such_directive;\n");
    stack.run("deploy").exits(4).says("no_such_directive").says("nothing that runs was touched");
    assert_eq!(stack.replaced_since(&before), Vec::<String>::new());
    stack.is_healthy();
}

#[test]
fn a_sick_image_never_stays() {
    let Some(stack) = Contained::deployed() else { return };
    let (before, release) = (stack.running(), stack.current());
    stack.set_image("engine", "stack-test-engine:sick");
    stack.run("deploy").exits(4).says("the engine is not healthy").says("it hurts").says("rolled back");
    assert_eq!((stack.current(), stack.replaced_since(&before)), (release, vec!["ollama".to_owned()]));
    stack.is_healthy();
    stack.ok("verify");
}

#[test]
fn data_that_another_image_has_migrated_is_put_back() {
    let Some(stack) = Contained::deployed() else { return };
    stack.note_in_grafana("before");
    stack.set_image("grafana", "stack-test-grafana:13");
    // A sick thirteenth: it migrates the database and then falls over.
    let volume = stack.volume("grafana");
    docker(&[
        "run",
        "--rm",
        "--user=0",
        "--entrypoint=touch",
        &format!("--volume={volume}:/data"),
        "stack-test-tools:1",
        "/data/sick",
    ]);
    stack.run("deploy").exits(4).says("the grafana is not healthy").says("rolled back");
    let state = stack.grafana();
    assert_eq!((&state["version"], &state["note"]), (&12.into(), &"before".into()));
    docker(&[
        "run",
        "--rm",
        "--user=0",
        "--entrypoint=rm",
        &format!("--volume={volume}:/data"),
        "stack-test-tools:1",
        "/data/sick",
    ]);
    stack.ok("deploy").says("copy its volume");
    stack.note_in_grafana("after");
    assert_eq!(stack.grafana()["version"], 13);
    stack.ok("rollback").says("put back its volume");
    let state = stack.grafana();
    assert_eq!((&state["version"], &state["note"]), (&12.into(), &"before".into()));
    stack.is_healthy();
}

#[test]
fn a_changed_secret_reaches_the_one_that_uses_it_and_no_other() {
    let Some(stack) = Contained::deployed() else { return };
    stack.note_in_grafana("mine");
    let before = stack.running();
    stack.shell("printf open-sesame | $XTASK secret set grafana-admin-password").exits(0);
    stack.ok("deploy").says("bring up grafana (its image, environment or secret changed)");
    assert_eq!(stack.replaced_since(&before), ["grafana"]);
    // It logs in with what the host keeps.
    assert_eq!(stack.grafana()["note"], "mine");
    stack.ok("deploy").says("nothing to do");
    let found = stack.shell("grep -rl open-sesame root --exclude-dir=secrets");
    assert_eq!((found.code, found.stdout.as_str()), (Some(1), ""), "it is written down nowhere else");
}

#[test]
fn another_machine_is_reached_at_the_doors_that_its_edge_opens() {
    if lacks_docker() {
        return;
    }
    let Some(far) = Far::new() else { return };
    let (settings, [_, _, _, lan_grafana, lan_prometheus, _], _guard) = settings(&far);
    far.write("stack.toml", &settings.replace("[host]\n", "[host]\naddress = \"far\"\n"));
    let told = far.start("deploy").finish_within(WITH_A_BUILD).exits(0);
    let api = far.ports()[0];
    let doors = [("gateway", api), ("grafana", lan_grafana), ("prometheus", lan_prometheus)];
    for (component, port) in doors {
        let url = format!("http://127.0.0.1:{port}");
        assert_eq!(far.part(component)["lan_url"], url, "where sshd was reached");
        assert!(told.stdout.contains(&format!("PASS  {component} answers from here")), "{}", told.stdout);
    }
    assert!(told.stderr.contains(&format!("curl http://127.0.0.1:{api}/api/generate")), "{}", told.stderr);
    assert!(!told.stderr.contains("ssh -N -L"), "{}", told.stderr);
    assert_eq!(far.sessions(|| drop(far.ok("deploy").says("nothing to do"))), 1);
}

#[test]
fn a_compose_that_was_killed_in_the_middle_is_gone_on_with() {
    let Some(stack) = Contained::deployed() else { return };
    // A recreation, cut off when the new container is there and the old one is about to go.
    stack.set("num_parallel", "2");
    let folder = stack.path("").display().to_string();
    stack.script(
        "docker",
        &format!(
            "real=$(PATH=${{PATH#*:}} command -v docker)\ncase \" $* \" in *' up '*) \"$real\" \"$@\" & up=$!\n\
             while kill -0 $up 2>/dev/null; do \"$real\" ps -a --filter status=created --format '{{{{.Names}}}}' | grep -q _stack- && \
             kill -9 $up; done; touch '{folder}cut'; exit 137;; esac\nexec \"$real\" \"$@\""
        ),
    );
    let job = stack.start("deploy");
    until("Compose is cut off", || fs::exists(stack.path("cut")).unwrap().then_some(()));
    job.kill();
    stack.wrappers();
    stack.ok("deploy");
    stack.is_healthy();
    assert_eq!(stack.containers("--no-trunc"), stack.running(), "remnants");
    assert!(stack.journal_is_closed());
}

/// The whole of it is 3 GiB and two minutes; by itself a part, so that it can be run every time.
#[test]
fn large_uploads_and_slow_streams_take_no_memory() {
    let whole = env::var_os("STACK_TESTS_WHOLE").is_some();
    let (mebibytes, tokens) = if whole { (3 * 1024, 6000) } else { (256, 250) };
    let Some(stack) = Contained::deployed() else { return };
    let (before, stream) = (stack.peak_memory(), stack.stream(tokens));
    let begun = Instant::now();
    upload(stack.api, mebibytes);
    let took = begun.elapsed();
    assert_eq!(stream.lines(), tokens as usize + 1);
    let after = stack.peak_memory();
    eprintln!("{mebibytes} MiB up in {took:.1?}; {tokens} tokens; peak KiB before {before:?}, after {after:?}");
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        assert!(after - before < 48 * 1024, "{name}: from {before} to {after} KiB");
    }
}

/// Sends a blob of zeros in chunks, as Ollama's own client does, without saying how long it will be.
fn upload(port: u16, mebibytes: usize) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let digest = "0".repeat(64);
    let head = format!(
        "POST /api/blobs/sha256:{digest} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut chunk = b"100000\r\n".to_vec();
    chunk.resize(chunk.len() + (1 << 20), 0);
    chunk.extend(b"\r\n");
    (0..mebibytes).for_each(|_| stream.write_all(&chunk).unwrap());
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    // All of it has gone through: only at its end can the digest turn out wrong.
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("digest"), "{answer}");
}

impl Contained {
    fn set_image(&self, component: &str, image: &str) {
        let text = fs::read_to_string(self.path("stack.toml")).unwrap();
        let (settings, images) = text.split_once("[images]\n").unwrap();
        let lines = images.lines().map(|line| match line.starts_with(&format!("{component} = ")) {
            true => format!("{component} = \"{image}\"\n"),
            false => format!("{line}\n"),
        });
        self.write("stack.toml", &format!("{settings}[images]\n{}", lines.collect::<String>()));
    }

    fn volume(&self, name: &str) -> String {
        let format = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}} {{end}}{{end}}";
        docker(&["inspect", "--format", format, &self.container(name)])
    }

    /// The most memory that the edge and the gateway ever had, in KiB, all their processes together.
    fn peak_memory(&self) -> Vec<(String, u64)> {
        ["nginx", "gateway"]
            .map(|service| {
                let pids = docker(&["top", &self.container(service), "-eo", "pid"]);
                let peaks = pids.lines().skip(1).map(|pid| {
                    let status =
                        fs::read_to_string(Path::new("/proc").join(pid.trim()).join("status")).unwrap_or_default();
                    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                    peak.map_or(0, |peak| peak.trim().trim_end_matches(" kB").trim().parse().unwrap())
                });
                (service.to_owned(), peaks.sum())
            })
            .into()
    }
}

/// A volume that no stack has made.
struct Volume(String);

impl Volume {
    /// Runs a shell line among what it holds.
    fn shell(&self, line: &str) -> String {
        let mount = format!("--volume={}:/v", self.0);
        docker(&["run", "--rm", "--network=none", "--workdir=/v", &mount, "stack-test-tools:1", "/bin/sh", "-ec", line])
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["volume", "rm", "--force", &self.0]).output();
    }
}

#[test]
fn what_is_in_volumes_is_saved_and_comes_back() {
    let Some(stack) = Contained::deployed() else { return };
    let [mine, prometheus] = ["grafana", "prometheus"].map(|it| stack.volume(it));
    let (mine, prometheus) = (Volume(mine.replace("_grafana", "-mine")), prometheus);
    docker(&["volume", "create", &mine.0]);
    mine.shell("mkdir -m 750 deep; head -c 3000000 /dev/urandom > deep/large; echo text > small; ln small again; ln -s small link; mkfifo pipe; \
                chown 4711:4712 small; chmod 640 small");
    let looks = "cd /v; find . -mindepth 1 ! -name pipe -printf '%p %y %m %U:%G %T@ %l %n\n' | sort; cat small deep/large | sha256sum";
    let before = mine.shell(looks);
    let text = fs::read_to_string(stack.path("stack.toml")).unwrap();
    let repository = stack.path("backups");
    stack.write(
        "stack.toml",
        &format!("{text}\n[backup]\nrepository = \"{}\"\nvolumes = [\"{}\"]\n", repository.display(), mine.0),
    );
    stack.note_in_grafana("before");
    until("Prometheus has samples", || {
        stack.http(stack.prometheus, "/api/v1/query?query=up").1.contains("\"value\"").then_some(())
    });

    let dry = stack.run("backup --dry-run --json").exits(5).json();
    let files = |of: &serde_json::Value, name: &str| {
        let found = of["sources"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone();
        (found["files"].as_u64().unwrap(), found["new_files"].as_u64().unwrap())
    };
    assert_eq!(files(&dry, &mine.0), (2, 2));
    assert!(files(&dry, "grafana").0 > 0 && files(&dry, "prometheus").0 > 0, "{dry}");
    assert!(!repository.exists(), "a dry run makes nothing");
    // A pipe is left out, and named.
    let saved = stack.run("backup --json").exits(5).json();
    assert_eq!(saved["incomplete"].as_array().unwrap().len(), 1, "{saved}");
    assert_eq!(
        (&saved["incomplete"][0]["source"], &saved["incomplete"][0]["path"]),
        (&mine.0.as_str().into(), &"pipe".into())
    );
    let containers = docker(&["ps", "--all", "--format={{.Names}}"]);
    assert!(!containers.contains(&format!("{prometheus}-")) && !containers.contains(&mine.0), "{containers}");
    let left = docker(&[
        "run",
        "--rm",
        "--user=0",
        "--entrypoint=ls",
        &format!("--volume={prometheus}:/v"),
        "stack-test-tools:1",
        "/v/snapshots",
    ]);
    assert_eq!(left, "", "nothing of the snapshot is left with Prometheus");
    stack.ok("backup drill");
    let again = stack.run(&format!("backup --json --source {}", mine.0)).exits(5).json();
    assert!(again["bytes_written"].as_u64() < Some(10_000), "what is in it already is not written again: {again}");

    stack.note_in_grafana("after");
    mine.shell("rm -rf deep again; echo other > small");
    let first = stack.ok("backup list --json").json()[0]["id"].as_str().unwrap().to_owned();
    stack.run(&format!("backup restore {first} --yes")).exits(7).says("runs, and would go on writing");
    stack.ok("stop prometheus grafana");
    let planned = stack.ok(&format!("backup restore {first} --dry-run --json")).json();
    assert_eq!(planned["volumes"]["prometheus"], prometheus);
    stack.ok(&format!("backup restore {first} --yes"));
    stack.ok("start");
    stack.is_healthy();
    assert_eq!(stack.grafana()["note"], "before");
    assert_eq!(mine.shell(looks), before);
}

/// What a person does who wants no tool of ours.
#[test]
fn the_compose_files_work_by_hand() {
    if !Command::new("docker").args(["compose", "version"]).output().is_ok_and(|done| done.status.success())
        && is_lacking("compose")
    {
        return;
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/compose");
    for overlay in [None, Some("compose.nvidia.yaml"), Some("compose.mac.yaml")] {
        let mut args = vec!["compose".to_owned(), format!("--file={folder}/compose.yaml")];
        args.extend(overlay.map(|name| format!("--file={folder}/{name}")));
        args.extend(["config", "--services"].map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let services = docker(&args);
        for name in ["ollama", "gateway", "nginx", "prometheus", "grafana", "node-exporter"] {
            assert!(services.lines().any(|it| it == name), "{name} in {services}");
        }
    }
}
