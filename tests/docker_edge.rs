//! The edge in a container as other machines meet it: clients in network namespaces, inside and outside of the allowlist,
//! plainly and by TLS.

#![expect(clippy::disallowed_methods, reason = "what is tested has to be started from outside")]

use std::{fs, process::Command};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    docker::Contained,
    stage::{is_lacking, lacks},
};

#[test]
fn only_the_allowed_are_answered_and_with_tls_in_nothing_else() {
    let Some(stack) = Contained::deployed() else { return };
    for port in [stack.api, stack.lan_grafana, stack.lan_prometheus] {
        assert_ne!(stack.http(port, "/").0, 403, "loopback on {port}");
    }
    for path in ["/-/reload", "/%2d/quit", "//-/reload", "/api/v1/admin/tsdb/snapshot"] {
        assert_eq!(stack.http(stack.lan_prometheus, path).0, 403, "{path}");
    }
    assert_eq!(stack.http(stack.lan_prometheus, "/-/ready").0, 200);
    let Some(net) = Neighbours::new() else { return };
    for (place, address, code) in [
        ("in", "10.91.0.1", "200"),
        ("in", "[fd91::1]", "200"),
        ("out", "10.92.0.1", "403"),
        ("out", "[fd92::1]", "403"),
    ] {
        let url = format!("http://{address}:{}/api/version", stack.api);
        assert_eq!(net.curl(place, &url), code, "from {place} to {address}");
    }
    for port in [stack.lan_grafana, stack.lan_prometheus] {
        assert_eq!(net.curl("out", &format!("http://10.92.0.1:{port}/-/ready")), "403");
    }
    // What stands behind the edge is on loopback.
    assert_eq!(net.curl("in", &format!("http://10.91.0.1:{}/", stack.prometheus)), "000");
    if !lacks("openssl") {
        with_its_own_authority(&stack, &net);
        with_files(&stack, &net);
    }
}

/// Deploys with these lines below `[edge]`, beside its networks.
fn edge(stack: &Contained, lines: &str, words: &str) {
    let text = fs::read_to_string(stack.path("stack.toml")).unwrap();
    let is_kept = |line: &&str| !line.starts_with("tls = ");
    let text: String = text.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
    stack.write("stack.toml", &text.replace("[edge]\n", &format!("[edge]\n{lines}\n")));
    stack.ok("deploy").says(words);
    stack.is_healthy();
}

fn with_its_own_authority(stack: &Contained, net: &Neighbours) {
    edge(stack, "tls = \"internal\"", "make a certificate for localhost");
    let authority = format!("--cacert {}", stack.root().join("state/tls/authority.pem").display());
    let by_name =
        |address: &str| format!("--resolve localhost:{0}:{address} https://localhost:{0}/api/version", stack.api);
    let named = by_name("10.91.0.1");
    assert_eq!(net.curl("in", &format!("http://10.91.0.1:{}/api/version", stack.api)), "308");
    assert_eq!(net.curl("in", &named), "000", "nobody trusts it yet");
    assert_eq!(net.curl("in", &format!("{authority} {named}")), "200");
    assert_eq!(net.curl("in", &format!("{authority} {}", by_name("[fd91::1]"))), "200");
    let old = "-k --tls-max 1.1 --tlsv1.0 --ciphers DEFAULT:@SECLEVEL=0";
    assert_eq!(net.curl("in", &format!("{old} {named}")), "000");
    assert_eq!(net.curl("out", &format!("{authority} {}", by_name("10.92.0.1"))), "403");
    for port in [stack.lan_grafana, stack.lan_prometheus] {
        assert_eq!(net.curl("in", &format!("http://10.91.0.1:{port}/")), "308", "{port}");
        assert_ne!(net.curl("in", &format!("-k https://10.91.0.1:{port}/")), "000", "{port}");
    }
    assert_eq!(stack.http(stack.api, "/api/version").0, 200, "the host is answered as before");
    // Its end comes near: a deploy has the same authority make another, and the edge shows it.
    let shown = || {
        let pem =
            stack.shell(&format!("openssl s_client -connect 10.91.0.1:{} </dev/null 2>/dev/null", stack.api)).stdout;
        pem.split("-----").nth(2).expect("a certificate").to_owned()
    };
    let (first, file) = (shown(), stack.root().join("state/tls/edge.json"));
    let mut facts: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    facts["expires"] = json!(Utc::now() + TimeDelta::days(20));
    fs::write(&file, facts.to_string()).unwrap();
    stack.ok("deploy").says("make a certificate for localhost").says("edge");
    assert_ne!(shown(), first);
    assert_eq!(net.curl("in", &format!("{authority} {named}")), "200");
    stack.ok("deploy").says("nothing to do");
}

fn with_files(stack: &Contained, net: &Neighbours) {
    let request = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 90 -subj /CN=studio.lan -addext \
                   subjectAltName=DNS:studio.lan";
    stack.shell(&format!("openssl {request} 2>&1")).exits(0);
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| stack.path(name).display().to_string());
    edge(stack, &format!("tls = \"files\"\ncertificate = {certificate:?}\ncertificate_key = {key:?}"), "take over");
    let named = format!("--resolve studio.lan:{0}:10.91.0.1 https://studio.lan:{0}/api/version", stack.api);
    assert_eq!(net.curl("in", &named), "000");
    assert_eq!(net.curl("in", &format!("--cacert {certificate} {named}")), "200");
    assert_eq!(stack.http(stack.api, "/api/version").0, 200);
}

/// Two network namespaces, each with its own cable to this one: a network inside of the allowlist, and one outside.
struct Neighbours {
    names: [(&'static str, String); 2],
}

impl Neighbours {
    fn new() -> Option<Self> {
        let ip = |line: &str| {
            let done = Command::new("ip").args(line.split_whitespace()).output();
            done.is_ok_and(|done| done.status.success())
        };
        let id = std::process::id() % 10_000;
        let net = Neighbours { names: [("in", format!("sin{id}")), ("out", format!("sout{id}"))] };
        for ((_, name), number) in net.names.iter().zip([91, 92]) {
            let made = ip(&format!("netns add {name}"))
                && ip(&format!("link add {name} type veth peer name peer0 netns {name}"))
                && ip(&format!("addr add 10.{number}.0.1/24 dev {name}"))
                && ip(&format!("-6 addr add fd{number}::1/64 dev {name} nodad"))
                && ip(&format!("link set {name} up"))
                && ip(&format!("-n {name} addr add 10.{number}.0.2/24 dev peer0"))
                && ip(&format!("-n {name} -6 addr add fd{number}::2/64 dev peer0 nodad"))
                && ip(&format!("-n {name} link set peer0 up"));
            if !made {
                is_lacking("netns");
                return None;
            }
        }
        Some(net)
    }

    /// The status of an answer; 000: there is none.
    fn curl(&self, place: &str, words: &str) -> String {
        let name = &self.names.iter().find(|(known, _)| *known == place).unwrap().1;
        let fixed = format!("netns exec {name} curl -g -s --noproxy * -m 5 -o /dev/null -w %{{http_code}} {words}");
        let done = Command::new("ip").args(fixed.split(' ')).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for (_, name) in &self.names {
            let _ = Command::new("ip").args(["link", "del", name]).output();
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
