//! A Mac, as far as one can be had here: stand-ins for its tools, first on PATH, that answer with recorded output, keep
//! state, and fail loudly on what they do not know (`mac/`).

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
};

use serde_json::Value;

use crate::stage::{Stage, system as system_program};

pub(crate) const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests");

/// A stage that takes itself for a Mac.
pub(crate) fn mac() -> Stage {
    let stage = Stage::new();
    stand_in(&stage, "mac");
    stage
}

const SMALL: &str = "qwen2.5-coder:7b-instruct-q4_K_M";

/// Another default model. Whether one fits the disk is asked of the real one, which may have room for a small one only.
fn has_default(stage: &Stage, model: &str) {
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    let settings = settings.split("\n[models]").next().unwrap();
    stage.write("stack.toml", &format!("{settings}\n[models]\ndefault = \"{model}\"\n"));
}

/// Puts the tools of a system first on PATH; what they change is below `state`. They are copies, for whoever the test goes on
/// as: the checkout may be in a folder that is closed to others.
pub(crate) fn stand_in(stage: &Stage, system: &str) {
    fs::create_dir_all(stage.path("state")).unwrap();
    let tools = stage.path("tools").display().to_string();
    fs::create_dir_all(&tools).unwrap();
    for part in [system, "keep.py", "fixtures/macos"] {
        system_program("cp", &["-R", &format!("{HERE}/{part}"), &tools]);
    }
    let (state, bin) = (stage.path("state").display().to_string(), stage.path("bin").display().to_string());
    for tool in fs::read_dir(format!("{HERE}/{system}")).unwrap() {
        let name = tool.unwrap().file_name().into_string().unwrap();
        let places = format!("STAND_IN_STATE='{state}' STAND_IN_BIN='{bin}' STAND_IN_FIXTURES='{tools}/macos'");
        stage.script(&name, &format!("{places} exec '{tools}/{system}/{name}' \"$@\""));
    }
}

/// `preflight --json` by the name of the check.
fn check(stage: &Stage, name: &str) -> Value {
    let checks = stage.run("preflight --json").json();
    let found = checks["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name} in {checks:#}")).clone()
}

#[test]
fn preflight_judges_a_mac_by_what_its_tools_say() {
    let stage = mac();
    has_default(&stage, SMALL);
    let said = stage.ok("preflight").stdout;
    assert!(said.contains("PASS  processor           Apple M2 Ultra, 24 cores"), "{said}");
    assert!(said.contains("PASS  GPU                 Apple M2 Max, 30 cores, Metal 4"), "{said}");
    assert!(said.contains("PASS  memory              64.0 GiB"), "{said}");
    assert!(said.contains("WARN  sleep               after 1 min"), "{said}");
    assert!(said.contains("WARN  power failure       the machine does not tell"), "{said}");
    assert!(said.contains("WARN  FileVault           on"), "{said}");
    assert!(said.contains("PASS  firewall            off"), "{said}");
    assert!(!said.contains("Ollama service"), "{said}");
    assert!(said.contains("PASS  default model       qwen2.5-coder:7b-instruct-q4_K_M, "), "{said}");
    assert!(said.contains("WARN  upgrade model       qwen3:235b-a22b-q4_K_M, "), "{said}");
    assert!(!stage.root().exists(), "preflight changes nothing");
}

#[test]
fn preflight_sees_what_has_changed() {
    let stage = mac();
    has_default(&stage, SMALL);
    stage.write("state/pmset.sleep", "0");
    stage.write("state/iogpu.wired_limit_mb", "49152");
    stage.write("state/brew.services", "ollama started me ~/Library/LaunchAgents/homebrew.mxcl.ollama.plist\n");
    stage.write("state/firewall.on", "");
    assert_eq!(check(&stage, "sleep")["result"], "pass");
    assert_eq!(check(&stage, "firewall")["detail"], "on: it has to let nginx in");
    assert_eq!(check(&stage, "GPU memory limit")["detail"], "48.0 GiB by hand, until the next restart");
    assert_eq!(check(&stage, "Ollama service")["fix"], "brew services stop ollama");
    // Docker without a screen, and a model that is too large.
    assert_eq!(check(&stage, "default model")["result"], "pass");
    has_default(&stage, "qwen3:235b");
    assert_eq!(check(&stage, "default model")["result"], "fail");
    stage.script("docker", "echo 'cannot connect' >&2; exit 1");
    stage.script("colima", "exit 0");
    stage.write(".docker/config.json", "{\"credsStore\": \"osxkeychain\"}");
    let docker = check(&stage, "Docker");
    assert_eq!(docker["result"], "warn");
    for words in ["Colima is installed, and does not run", "locked over ssh"] {
        assert!(docker["detail"].as_str().unwrap().contains(words), "{docker}");
    }
    stage.script("sw_vers", "echo 13.6");
    let old = check(&stage, "system");
    assert_eq!(
        (&old["result"], old["detail"].as_str().unwrap()),
        (&"fail".into(), "macOS 13.6: Ollama runs on macOS 14 and later")
    );
    stage.run("preflight").exits(1).says("checks failed");
}

#[test]
fn preflight_tells_a_port_that_clients_look_at_from_one_that_can_be_another() {
    let stage = Stage::new();
    let [api, engine] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let port = |of: &TcpListener| of.local_addr().unwrap().port();
    stage.write(
        "stack.toml",
        &format!(
            "[host]\nroot = {:?}\n[engine]\nruntime = \"docker\"\n[ports]\napi = {}\nengine = {}\n[models]\ndefault = {SMALL:?}\n",
            stage.root(),
            port(&api),
            port(&engine)
        ),
    );
    // It only looks: nothing is built for a container that is not to be.
    stage.script("cargo", "echo 'nobody builds anything' >&2; exit 1");
    let checks = stage.run("preflight --json").exits(1).json();
    let ports: Vec<&Value> = checks["checks"].as_array().unwrap().iter().filter(|it| it["name"] == "ports").collect();
    let said = |at: usize| ports[at]["detail"].as_str().unwrap().to_owned();
    assert_eq!((&ports[0]["result"], &ports[1]["result"]), (&"fail".into(), &"warn".into()), "{ports:#?}");
    assert!(said(0).starts_with(&format!("{}, where clients look, is taken by ", port(&api))), "{ports:#?}");
    assert!(said(1).starts_with(&format!("{} is taken by ", port(&engine))) && said(1).contains("the engine gets "));
}
