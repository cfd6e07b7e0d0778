//! Ports: who has them, and which ones are given.

use std::net::{Ipv4Addr, TcpListener};

use crate::stage::Stage;

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

#[test]
fn a_free_port_is_taken_as_it_is_asked_for() {
    let stage = Stage::deployed();
    assert_eq!(stage.part("gateway")["url"], url(stage.ports()[0]));
    assert_eq!(stage.part("engine")["url"], url(stage.ports()[1]));
}

#[test]
fn a_taken_port_is_passed_over_and_its_holder_named() {
    let stage = Stage::new();
    let wanted = stage.ports()[0];
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).unwrap();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let holder = format!("port {wanted} is taken by {} (pid {})", name.trim(), std::process::id());
    stage.ok("deploy").says(&holder).says("the gateway listens on");
    let chosen = stage.part("gateway")["url"].clone();
    assert!(!stage.ports().iter().any(|port| chosen == url(*port)), "{chosen} is another component's");
    stage.ok("verify");

    // Clients know it by now: it is kept, also when the one that was wanted can be had.
    for _ in 0..2 {
        stage.ok("deploy").says("as declared, nothing to do");
        assert_eq!(stage.part("gateway")["url"], chosen);
    }
    drop(stranger);
    stage.ok("deploy").says("as declared, nothing to do");
    stage.set("time_to_first_token", "\"7ms\"");
    stage.ok("deploy");
    assert_eq!(stage.part("gateway")["url"], chosen);
}

#[test]
fn port_0_is_any_free_one_chosen_once() {
    let stage = Stage::new();
    for key in ["api", "engine", "prometheus", "node_exporter", "alertmanager"] {
        stage.set(key, "0");
    }
    stage.ok("deploy");
    let chosen = stage.status();
    stage.ok("stop");
    stage.ok("deploy");
    assert_eq!(stage.status(), chosen);
}
