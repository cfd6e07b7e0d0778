//! A machine is tuned, read back, and set back to how it was.

use std::fs;

use serde_json::{Value, json};

use crate::{
    mac::mac,
    stage::{Stage, lacks},
};

const GIB: u64 = 1 << 30;

/// A Mac with so much memory that runs a sandbox, whose settings want a model that is too large for the system's own limit.
fn studio(memory_bytes: u64, model: &str) -> Stage {
    let stage = mac();
    // Whoever is not root gets there as a person whom sudo asks for nothing.
    stage.script("sudo", "[ \"$1\" = -n ] && shift; [ \"$1\" = -- ] && shift; exec \"$@\"");
    stage.write("state/hw.memsize", &memory_bytes.to_string());
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &format!("{settings}\n[models]\ndefault = \"{model}\"\n"));
    stage.ok("deploy");
    stage
}

fn state(stage: &Stage, name: &str) -> Option<String> {
    fs::read_to_string(stage.path(&format!("state/{name}"))).ok().map(|text| text.trim().to_owned())
}

fn changes(tuning: &Value) -> Vec<&str> {
    tuning["changes"].as_array().unwrap().iter().map(|it| it["what"].as_str().unwrap()).collect()
}

const LARGE: &str = "qwen3:235b-a22b-q5_K_M";
const DAEMON: &str = "Library/LaunchDaemons/dev.frontier-llm.gpu-limit.plist";
const LOADED: &str = "launchd/dev.frontier-llm.gpu-limit.path";

#[test]
fn a_mac_is_kept_awake_and_its_gpu_may_hold_the_model() {
    if lacks("python3") {
        return;
    }
    let stage = studio(192 * GIB, LARGE);
    stage.write("state/pmset.autorestart", "0");
    let shown = stage.ok("tune --dry-run").stdout;
    assert!(shown.contains("sleep             1 → 0"), "{shown}");
    assert!(shown.contains("GPU memory limit  the system's own → 1"), "{shown}");
    assert_eq!((state(&stage, "pmset.sleep"), state(&stage, LOADED)), (None, None), "a dry run changes nothing");

    let ran = stage.ok("tune --json").says("done, and read back").json();
    assert_eq!(changes(&ran), ["sleep", "disksleep", "autorestart", "GPU memory limit"]);
    let value = |name| state(&stage, name).unwrap_or_default();
    assert_eq!([value("pmset.sleep"), value("pmset.disksleep"), value("pmset.autorestart")], ["0", "0", "1"]);
    let mib: u64 = value("iogpu.wired_limit_mb").parse().unwrap();
    assert!((160 << 10..=176 << 10).contains(&mib), "{mib}");
    assert!(value(DAEMON).contains(&format!("<string>iogpu.wired_limit_mb={mib}</string>")), "it outlives a restart");
    // At the next start launchd does what it does when it loads.
    stage.write("state/iogpu.wired_limit_mb", "0");
    stage.shell("launchctl bootout system/dev.frontier-llm.gpu-limit").exits(0);
    stage.shell(&format!("launchctl bootstrap system /{DAEMON}")).exits(0);
    assert_eq!(value("iogpu.wired_limit_mb"), mib.to_string());

    let again = stage.ok("tune");
    assert!(again.stdout.starts_with("nothing to change\n"), "{again:?}");
    let ran = stage.ok("tune --revert --json").says("as it was before").json();
    assert_eq!(changes(&ran), ["sleep", "disksleep", "autorestart", "GPU memory limit"]);
    assert_eq!([value("pmset.sleep"), value("pmset.disksleep"), value("pmset.autorestart")], ["1", "10", "0"]);
    assert_eq!((value("iogpu.wired_limit_mb").as_str(), state(&stage, LOADED)), ("0", None));
    stage.run("tune --revert").exits(10).says("nothing to revert");
}

#[test]
fn a_limit_that_leaves_the_system_too_little_is_refused_with_what_would_fit() {
    let stage = studio(64 * GIB, "qwen2.5-coder:32b-instruct-q8_0");
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &settings.replace("[engine]\n", "[engine]\nnum_parallel = 3\n"));
    stage.run("tune").exits(7).says("the system needs 16 GiB").says("context_length = ");
    assert_eq!(state(&stage, "pmset.sleep"), None, "nothing was changed");
    stage.set("default", "\"qwen3:235b-a22b-q8_0\"");
    stage.run("tune").exits(7).says("no context makes it fit");
}

#[test]
fn what_the_system_does_not_keep_is_said() {
    if lacks("python3") {
        return;
    }
    let stage = studio(192 * GIB, LARGE);
    stage.write("state/iogpu.is_stuck", "");
    stage.run("tune").exits(1).says("did not keep it: GPU memory limit is the system's own");
}

#[test]
fn without_a_way_to_root_the_commands_are_told_and_are_enough() {
    if lacks("python3") {
        return;
    }
    let stage = studio(192 * GIB, LARGE);
    stage.script("sudo", "echo 'sudo: a password is required' >&2; exit 1");
    if rustix::process::geteuid().is_root() {
        let ran = stage.shell("chown -R 65534:65534 . && chmod -R a+rX . && exec setpriv --reuid=65534 --regid=65534 --clear-groups $XTASK tune");
        let ran = ran.exits(7).says("sudo wants a password").says("pmset -a sleep 0");
        by_hand(&stage, &ran.stderr);
    } else {
        let ran = stage.run("tune").exits(7).says("sudo wants a password").says("pmset -a sleep 0");
        by_hand(&stage, &ran.stderr);
    }
}

/// Does as a person does who reads what is to be typed.
fn by_hand(stage: &Stage, said: &str) {
    stage.script("sudo", "exec \"$@\"");
    let (_, typed) = said.split_once(":\n  sudo ").unwrap();
    stage.shell(&format!("set -e\nsudo {typed}")).exits(0);
    assert!(stage.ok("tune").stdout.starts_with("nothing to change\n"));
    stage.ok("tune --revert").says("as it was before");
    assert_eq!(state(stage, "pmset.sleep").as_deref(), Some("1"));
}

#[test]
fn what_the_memory_allows_is_proposed_and_nobodys_settings_are_changed() {
    let stage = studio(192 * GIB, "qwen2.5-coder:32b-instruct-q8_0");
    let before = fs::read_to_string(stage.path("stack.toml")).unwrap();
    let tuning = stage.ok("tune --dry-run --json").json();
    assert_eq!(tuning["proposals"][0]["key"], "num_parallel");
    assert_eq!(tuning["proposals"][0]["proposed"], "4");
    assert_eq!(fs::read_to_string(stage.path("stack.toml")).unwrap(), before);
}

#[test]
fn on_linux_systemd_is_kept_from_sleeping() {
    let stage = Stage::new();
    stage.script("sudo", "[ \"$1\" = -n ] && shift; [ \"$1\" = -- ] && shift; exec \"$@\"");
    // systemctl(1): `is-enabled` prints a line a unit, and fails where one is masked.
    let folder = stage.path("");
    stage.script(
        "systemctl",
        &format!(
            "cd '{}'\ncase $1 in\n is-system-running) echo degraded; exit 1;;\n is-enabled) shift; for unit; do [ -e masked ] && \
             echo masked || echo static; done; [ ! -e masked ];;\n mask) touch masked;;\n unmask) rm masked;;\n *) exit 64;;\nesac",
            folder.display()
        ),
    );
    stage.run("tune").exits(10).says("nothing is deployed");
    stage.ok("deploy");
    assert_eq!(changes(&stage.ok("tune --json").says("done, and read back").json()), ["sleep"]);
    assert!(stage.path("masked").exists());
    assert_eq!(stage.ok("tune --json").json()["commands"], json!([]));
    assert!(stage.ok("verify --reboot").stdout.contains("never: systemd does not let it"));
    stage.ok("tune --revert");
    assert!(!stage.path("masked").exists());
    stage.script("systemctl", "echo offline; exit 1");
    stage.ok("tune").says("systemd does not run this machine");
}
