//! How well a stack is closed, as it says itself and as an attacker finds it.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
};

use serde_json::{Value, json};

use crate::{
    mac::mac,
    stage::{Stage, lacks},
};

#[test]
fn a_sandbox_is_closed_and_says_why() {
    let stage = Stage::new();
    stage.run("harden").exits(10).says("nothing is deployed");
    stage.ok("deploy");
    let said = stage.ok("harden").stdout;
    assert!(said.contains("closed  listeners") && said.contains("there is no edge"), "{said}");
    assert_eq!(stage.ok("harden --json").json()["measures"][0]["hardened"], true);
}

/// What an attack finds, by its name; this machine may have ports of its own that are open.
fn found(stage: &Stage, id: &str) -> Vec<Value> {
    let findings = stage.run("harden --audit --json").json()["findings"].as_array().unwrap().clone();
    findings.into_iter().filter(|finding| finding["id"] == id).collect()
}

#[test]
fn an_attack_finds_secrets_that_others_can_read() {
    if lacks("curl") {
        return;
    }
    let stage = Stage::deployed();
    stage.shell("printf open-sesame | $XTASK secret set token").exits(0);
    assert_eq!(found(&stage, "readable-secret"), [json!(null); 0]);
    let open = |path: &str, mode| {
        fs::set_permissions(stage.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    open("root/state/secrets/token", 0o644);
    assert_eq!(found(&stage, "readable-secret"), [json!(null); 0], "the folders above keep others out");
    for folder in ["", "root", "root/state", "root/state/secrets"] {
        open(folder, 0o755);
    }
    // The token; what makes digests of it stays closed.
    assert_eq!(found(&stage, "readable-secret").len(), 1);
    open("root/state/secret.key", 0o644);
    assert_eq!(found(&stage, "readable-secret").len(), 2);
    assert!(stage.run("harden --audit").exits(1).stdout.contains("chmod go="), "the way back is told");
}

#[test]
fn an_attack_finds_a_port_that_nothing_declares() {
    let stage = Stage::deployed();
    // Where the sandbox's engine has its port on loopback, another one listens for everybody.
    let port = stage.ports()[1];
    let address = stage.run("preflight --json").json()["checks"].as_array().unwrap().iter().find_map(|check| {
        (check["name"] == "LAN address" && check["result"] == "pass")
            .then(|| check["detail"].as_str().unwrap().to_owned())
    });
    let Some(address) = address.and_then(|it| it.parse::<Ipv4Addr>().ok()) else { return };
    let _other = TcpListener::bind((address, port)).unwrap();
    let findings = found(&stage, "port-open");
    let at = format!("{address}:{port}");
    assert!(findings.iter().any(|it| it["evidence"].as_str().unwrap().contains(&at)), "{findings:#?}");
}

#[test]
fn networks_of_a_macs_own_are_seen() {
    let stage = mac();
    stage.ok("deploy");
    // Offered only where there is an edge; that they are read is what counts here.
    let report = stage.ok("doctor --report -").stdout;
    assert!(report.contains("\"2001:db8:1:2::/64\""), "{report}");
}
