//! Backup: what a stack has, saved, proven and brought back, by the real binary.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    far::Far,
    stage::{Ran, Stage, is_lacking, lacks, until},
};

const MODEL: &str = "manifests/registry.ollama.ai/library/qwen2.5-coder/32b-instruct-q8_0";

fn store(stage: &Stage) -> PathBuf {
    stage.root().join("data/models")
}

fn blobs(stage: &Stage) -> Vec<PathBuf> {
    let found = fs::read_dir(store(stage).join("blobs")).unwrap();
    let mut found: Vec<_> = found.map(|it| it.unwrap().path()).filter(|it| it.is_file()).collect();
    found.sort_by_key(|it| fs::metadata(it).unwrap().len());
    found
}

fn incomplete(ran: &Ran) -> Vec<String> {
    let lacking = ran.json()["incomplete"].as_array().unwrap().clone();
    lacking.iter().map(|it| format!("{}/{}", it["source"].as_str().unwrap(), it["path"].as_str().unwrap())).collect()
}

/// Below a folder: path to content.
fn read(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(read(&entry).into_iter().map(|(path, it)| (folder.join(path), it))),
            false => found.push((entry.clone(), fs::read(entry).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_stack_is_saved_proven_and_brought_back() {
    let stage = Stage::deployed();
    stage.shell("printf hunter2 | $XTASK secret set x").exits(0);
    stage.ok("key add me");
    stage.write(".aider.conf.yml", "model: x\n");
    let dry = stage.ok("backup --dry-run --json").json();
    assert!(!stage.root().join("backups").exists(), "a dry run makes nothing");
    assert_eq!(dry["exists"], false);
    let names: Vec<_> = dry["sources"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    let expected = ["agents", "models", "prometheus", "secrets", "settings"];
    assert_eq!(
        names,
        expected.into_iter().filter(|it| *it != "prometheus" || !lacks("prometheus")).collect::<Vec<_>>()
    );

    let first = stage.ok("backup --json --tag first").json();
    assert!(
        first["bytes_read"].as_u64().unwrap() >= first["bytes"].as_u64().unwrap() && first["files"].as_u64() > Some(7)
    );
    let again = stage.ok("backup --json").json();
    assert!(again["bytes_read"].as_u64() < first["bytes_read"].as_u64(), "what is committed is not read again");
    let listed = stage.ok("backup list --json").json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["tag"], "first");
    assert_eq!(stage.ok("backup verify --json").json()["damage"], serde_json::json!([]));
    assert_eq!(stage.ok("backup drill --json").json()["failed"], serde_json::json!([]));
    let left = fs::read_dir(stage.root().join("data")).unwrap().map(|it| it.unwrap().file_name());
    assert!(left.into_iter().all(|it| !it.to_string_lossy().starts_with(".drill")), "a drill leaves nothing");

    // Everything but the backups is lost.
    let before = read(&store(&stage));
    let keys = fs::read(stage.root().join("state/gateway/keys.json")).unwrap();
    fs::remove_dir_all(store(&stage)).unwrap();
    for lost in ["secrets", "gateway"] {
        fs::remove_dir_all(stage.root().join("state").join(lost)).unwrap();
    }
    stage.run("backup restore latest").exits(7);
    assert!(!store(&stage).exists(), "nothing is written in place unasked");
    for source in ["models", "secrets", "agents"] {
        stage.ok(&format!("backup restore latest --source {source} --yes"));
    }
    assert!(read(&store(&stage)) == before);
    assert_eq!(stage.ok("status --secrets --json").json(), serde_json::json!({ "x": "hunter2" }));
    assert_eq!(fs::read(stage.root().join("state/gateway/keys.json")).unwrap(), keys);
    stage.ok("verify");
    assert_eq!(stage.ok("backup prune --json").json()["keep"].as_array().unwrap().len(), 2);
}

#[test]
fn it_runs_from_cron_which_gives_it_next_to_nothing() {
    let stage = Stage::new();
    stage.write("some/deep/file", "content");
    let cron = |line: &str| stage.shell(&format!("cd / && env -i PATH=/usr/bin:/bin $XTASK backup {line}"));
    let (from, to) = (stage.path("some").display().to_string(), stage.path("to").display().to_string());
    let ran = cron(&format!("--source-dir {from} --repository {to} --dry-run")).exits(0);
    assert_eq!(ran.stderr, "");
    assert!(!stage.path("to").exists());
    let saved = cron(&format!("--source-dir {from} --repository {to} --json")).exits(0);
    assert_eq!(saved.stderr, "", "cron mails what is said");
    assert_eq!((&saved.json()["files"], &saved.json()["bytes"]), (&Value::from(1), &Value::from(7)));
    cron(&format!("restore latest --repository {to} --to {}", stage.path("back").display())).exits(0);
    assert_eq!(fs::read_to_string(stage.path("back/some/deep/file")).unwrap(), "content");
    for line in ["list", "show latest --files", "verify", "drill", "diff latest latest"] {
        cron(&format!("{line} --repository {to}")).exits(0);
    }
}

#[test]
fn what_a_model_lacks_is_named_and_the_rest_is_saved() {
    let stage = Stage::deployed();
    let blob = blobs(&stage).remove(0);
    let was = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    stage.run("backup --dry-run").exits(5).says("which is not there");
    let ran = stage.run("backup --json").exits(5);
    assert_eq!(incomplete(&ran), [format!("models/{MODEL}")]);
    assert!(ran.json()["files"].as_u64().unwrap() > 0, "the settings are saved");

    let mut wrong = was.clone();
    wrong[0] ^= 1;
    fs::write(&blob, wrong).unwrap();
    let ran = stage.run("backup --json").exits(5);
    let name = blob.file_name().unwrap().to_str().unwrap();
    assert_eq!(incomplete(&ran), [format!("models/blobs/{name}"), format!("models/{MODEL}")]);

    fs::write(&blob, was).unwrap();
    stage.ok("backup");
}

#[test]
fn a_run_says_who_is_in_its_way_and_what_is_not_there() {
    let stage = Stage::deployed();
    for verb in ["list", "show latest", "verify", "drill", "prune", "restore latest --yes", "diff a b"] {
        stage.run(&format!("backup {verb}")).exits(10).says("there is no repository here");
    }
    stage.ok("backup");
    let lock = File::open(stage.root().join("backups/lock")).unwrap();
    lock.lock().unwrap();
    for verb in ["", "verify", "prune", "drill"] {
        stage.run(&format!("backup {verb}")).exits(11).says("another run holds");
    }
    stage.ok("backup --dry-run");
    drop(lock);
    stage.run("backup show 1999").exits(10);

    // The disk is not mounted: what stands in its place is not it.
    fs::rename(stage.root().join("backups"), stage.path("unmounted")).unwrap();
    for line in ["backup", "backup --dry-run"] {
        stage.run(line).exits(10).says("is not at");
    }
    assert!(!stage.root().join("backups").exists());
    stage.ok("backup --new");
    Stage::new().run("backup").exits(10).says("nothing is deployed");
}

#[test]
fn a_damaged_repository_is_told_and_healed() {
    let stage = Stage::deployed();
    stage.ok("backup");
    let pack = fs::read_dir(stage.root().join("backups/packs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[20] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let found = stage.run("backup verify --json").exits(1).json();
    assert_eq!(found["damage"][0]["snapshots"].as_array().unwrap().len(), 1, "{found}");
    stage.ok("backup");
    stage.ok("backup verify");
}

#[test]
fn a_whole_host_comes_back_on_a_new_machine_from_the_disk_alone() {
    let old = Stage::deployed();
    old.shell("printf hunter2 | $XTASK secret set x").exits(0);
    // What `edge.tls` makes, and clients were told to trust.
    let authority = ["authority.json", "authority.key", "authority.pem"].map(|it| format!("state/tls/{it}"));
    for path in &authority {
        fs::create_dir_all(old.root().join("state/tls")).unwrap();
        fs::write(old.root().join(path), path).unwrap();
        fs::set_permissions(old.root().join(path), fs::Permissions::from_mode(0o600)).unwrap();
    }
    old.ok("backup");
    let new = Stage::new();
    // The new machine has the program and the disk.
    let stack_toml = fs::read_to_string(new.path("stack.toml")).unwrap();
    fs::remove_file(new.path("stack.toml")).unwrap();
    let disk = old.root().join("backups").display().to_string();
    new.ok(&format!("backup restore latest --repository {disk} --source settings --to found"));
    let settings = fs::read_to_string(new.path("found/settings/stack.toml")).unwrap();
    assert_eq!(settings, fs::read_to_string(old.path("stack.toml")).unwrap());
    // Its ports and its root are its own: on one machine there can be one stack of each.
    new.write("stack.toml", &stack_toml);
    new.ok(&format!("backup restore latest --repository {disk} --source secrets --yes"));
    for path in &authority {
        assert_eq!(fs::read_to_string(new.root().join(path)).unwrap(), *path);
        assert_eq!(fs::metadata(new.root().join(path)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    new.ok("deploy");
    fs::remove_dir_all(store(&new)).unwrap();
    if !lacks("prometheus") {
        new.ok("stop prometheus");
    }
    new.ok(&format!("backup restore latest --repository {disk} --yes"));
    new.ok("start");
    assert_eq!(new.ok("status --secrets --json").json(), serde_json::json!({ "x": "hunter2" }));
    new.is_healthy();
    new.ok("verify");
}

/// A host that is reached over ssh: its files, its repository, its schedule; the words and the progress are here.
#[test]
fn another_host_is_saved_there_and_followed_here() {
    let Some(far) = Far::deployed() else { return };
    with_cron(&far);
    let jobs = || far.ok("job list --json").json().as_array().unwrap().len();
    let as_job = |line: &str| {
        let before = jobs();
        let ran = far.start_with("TERM=dumb", line).finish();
        assert_eq!(jobs(), before + 1, "`{line}` is a job");
        ran
    };
    let before = jobs();
    let dry = far.ok("backup --dry-run --json").json();
    assert_eq!((&dry["exists"], jobs()), (&json!(false), before), "what only looks is no job");
    let saved = as_job("backup --json --tag first").exits(0).says("saving");
    assert_eq!(saved.json()["incomplete"], json!([]));
    assert!(far.root().join("backups/format.json").exists());
    let listed = far.ok("backup list --json").json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["tag"]), (1, &json!("first")));
    assert!(far.ok("backup show latest --files").stdout.contains("models/"));
    assert_eq!(far.ok("backup diff latest latest --json").json(), json!([]));
    let verified = as_job("backup verify --json").exits(0).says("verifying");
    assert_eq!(verified.json()["damage"], json!([]));
    assert_eq!(as_job("backup drill --json").exits(0).json()["failed"], json!([]));

    let models = read(&store(&far));
    fs::remove_dir_all(store(&far)).unwrap();
    as_job("backup restore latest --source models").exits(7).says("--yes");
    as_job("backup restore latest --source models --yes").exits(0).says("restoring");
    assert!(read(&store(&far)) == models);
    fs::remove_file(blobs(&far).remove(0)).unwrap();
    as_job("backup").exits(5).says("which is not there");
    assert_eq!(as_job("backup prune --json").exits(0).json()["keep"].as_array().unwrap().len(), 2);

    assert_eq!(as_job("backup schedule --at 03:30 --json").exits(0).json()["by"], "cron");
    assert!(fs::read_to_string(far.path("table")).unwrap().contains("30 3 * * * "));
    let said = far.ok("status").stdout;
    assert!(said.contains("incomplete; drill of") && said.contains("runs daily at 03:30 by cron"), "{said}");
    as_job("backup schedule --remove").exits(0);
}

/// Where `STACK_TESTS_OLLAMA_BIN` names the program. Of this store it can run the one model that has weights, random ones.
#[test]
fn a_real_ollama_serves_what_was_restored() {
    let Some(ollama) = env::var_os("STACK_TESTS_OLLAMA_BIN") else {
        is_lacking("ollama");
        return;
    };
    let stage = Stage::deployed();
    let client = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().unwrap();
    let post = |port: u16, path: &str, body: Vec<u8>| {
        let answer = client.post(format!("http://127.0.0.1:{port}{path}")).body(body).send().unwrap();
        answer.error_for_status().unwrap().text().unwrap()
    };
    let weights = sandbox::tiny_model(sandbox::Tiny::Writer);
    fs::write(stage.path("tiny.gguf"), &weights).unwrap();
    let digest = format!("sha256:{}", &stage.shell("sha256sum tiny.gguf").stdout[..64]);
    let port = stage.ports()[1];
    post(port, &format!("/api/blobs/{digest}"), weights);
    let create = json!({ "model": "tiny", "files": { "tiny.gguf": digest }, "stream": false });
    post(port, "/api/create", create.to_string().into());
    stage.ok("backup");
    stage.ok("backup restore latest --source models --to restored");

    // It takes the place of the stand-in.
    stage.ok("stop");
    let serve =
        format!("OLLAMA_HOST=127.0.0.1:{port} OLLAMA_MODELS=restored/models exec '{}' serve", ollama.to_string_lossy());
    let _ollama = stage.start_shell(&serve);
    let tags = || client.get(format!("http://127.0.0.1:{port}/api/tags")).send().ok()?.json::<Value>().ok();
    let tags = until("Ollama answers", tags);
    let mut names: Vec<&str> = tags["models"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["qwen2.5-coder:32b-instruct-q8_0", "tiny:latest"]);
    // The model leaves at once: its runner is a process that would outlive an Ollama that is killed.
    let ask = json!({ "model": "tiny", "prompt": "hello", "stream": false, "keep_alive": 0, "options": { "num_predict": 3 } });
    let answer: Value = serde_json::from_str(&post(port, "/api/generate", ask.to_string().into())).unwrap();
    assert_eq!(answer["eval_count"], 3, "{answer}");
    let loaded = || client.get(format!("http://127.0.0.1:{port}/api/ps")).send().ok()?.json::<Value>().ok();
    until("the runner has gone", || loaded().filter(|it| it["models"] == json!([])));
}

#[test]
fn a_model_is_carried_to_a_machine_without_internet() {
    let stage = Stage::deployed();
    let before = read(&store(&stage));
    stage.ok("backup export qwen2.5-coder:32b-instruct-q8_0 model.tar");
    stage.run("backup export qwen2.5-coder:32b-instruct-q8_0 model.tar").exits(2).says("is there already");
    stage.run("backup export nobody:knows other.tar").exits(10).says("there is no model");
    fs::remove_dir_all(store(&stage)).unwrap();
    let whole = fs::read(stage.path("model.tar")).unwrap();
    // A flipped bit in a blob's content: 512 bytes of header, then the content.
    let mut wrong = whole.clone();
    wrong[520] ^= 1;
    fs::write(stage.path("wrong.tar"), wrong).unwrap();
    stage.run("backup import wrong.tar").exits(1).says("does not have its digest");
    fs::write(stage.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    stage.run("backup import cut.tar").exits(1);
    assert!(!store(&stage).join(MODEL).exists(), "a model that is not whole has no manifest");
    stage.ok("backup import model.tar");
    assert!(read(&store(&stage)) == before);
    stage.ok("verify");
}

/// A crontab of the stage's own, and no systemd.
pub(crate) fn with_cron(stage: &Stage) {
    let programs = [
        ("systemctl", "echo offline; exit 1"),
        (
            "crontab",
            "cd \"$HOME\"; case $1 in -l) cat table 2>/dev/null || { echo no crontab for me >&2; exit 1; } ;; -) cat >table ;; esac",
        ),
    ];
    for (name, script) in programs {
        stage.script(name, script);
    }
}

#[test]
fn it_is_scheduled_once_and_what_is_scheduled_works() {
    let stage = Stage::deployed();
    with_cron(&stage);
    stage.write("table", "0 5 * * * theirs\n");
    stage.ok("backup schedule --repository elsewhere");
    let table = || fs::read_to_string(stage.path("table")).unwrap();
    let named = format!("--repository {}", stage.path("elsewhere").display());
    assert_eq!(table().lines().filter(|line| line.contains(&named)).count(), 2, "{}", table());
    stage.ok("backup schedule");
    let shown = stage.ok("backup schedule --at 03:30 --json").json();
    assert_eq!(shown["by"], "cron");
    let table = table();
    let ours: Vec<&str> = table.lines().filter(|line| line.contains("bin/xtask")).collect();
    assert_eq!(ours.len(), 2, "{table}");
    assert!(ours[0].starts_with("30 3 * * * ") && ours[1].starts_with("30 9 * * 0 "), "{table}");
    // As cron would: the line without its five fields, and next to no environment.
    for line in ours {
        let line = line.splitn(6, ' ').nth(5).unwrap().replace('\'', "'\\''");
        stage.shell(&format!("cd / && env -i HOME=\"$HOME\" PATH=/usr/bin:/bin /bin/sh -c '{line}'")).exits(0);
    }
    let log = fs::read_to_string(stage.root().join("logs/backup.log")).unwrap();
    assert!(log.contains("saved ") && log.contains("came back"), "{log}");
    let said = stage.ok("status").stdout;
    assert!(said.contains("whole; drill of") && said.contains("runs daily at 03:30 by cron"), "{said}");
    let checks = stage.ok("verify --json").json();
    let whole =
        checks["checks"].as_array().unwrap().iter().find(|it| it["name"] == "the last backup is whole").unwrap();
    assert_eq!(whole["result"], "pass");
    stage.ok("backup schedule --remove");
    assert_eq!(fs::read_to_string(stage.path("table")).unwrap(), "0 5 * * * theirs\n");
    assert!(!stage.ok("status").stdout.contains("by cron"));
}

#[test]
fn what_a_backup_measures_reaches_prometheus() {
    if ["prometheus", "node_exporter"].into_iter().any(lacks) {
        return;
    }
    let stage = Stage::deployed();
    stage.ok("backup");
    let (_, metrics) = stage.get("node-exporter", "/metrics").unwrap();
    assert!(metrics.contains("\nllm_backup_last_run_complete 1\n"), "{metrics}");
    // Prometheus has samples by now; they are saved, and nothing of the snapshot is left with it.
    until("Prometheus has samples to save", || {
        let saved = stage.ok("backup --json --source prometheus").json();
        (saved["files"].as_u64() > Some(0)).then_some(())
    });
    let left = fs::read_dir(stage.root().join("data/prometheus/snapshots")).into_iter().flatten().count();
    assert_eq!(left, 0);
    stage.ok("backup drill");
    stage.run("backup restore latest --yes").exits(7).says("prometheus runs");
    stage.ok("stop prometheus");
    stage.ok("backup restore latest --yes");
    stage.ok("start prometheus");
    stage.await_state("prometheus", "healthy");
}
