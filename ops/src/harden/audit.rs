//! What an attacker finds from here. The attacks are harmless: they ask, and never change anything.
//!
//! Invariant: a finding is an answer that should not have been given.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use stack::{
    component::Component,
    failure::{Class, Failure},
    process,
};

use super::tls;
use crate::doctor::Finding;

/// On a LAN whoever listens takes a connection within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Passwords that a program is delivered with.
const DEFAULT_PASSWORDS: [&str; 3] = ["admin", "prom-operator", "grafana"];

/// Each way to write what the edge is to stop.
const CLOSED_PATHS: [&str; 5] = [
    "/api/v1/admin/tsdb/delete_series",
    "//api/v1/admin/tsdb/delete_series",
    "/api/v1/%61dmin/tsdb/delete_series",
    "/x/../api/v1/admin/tsdb/delete_series",
    "/-/reload",
];

/// What is attacked.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host.
    pub address: IpAddr,
    /// By which name clients come, where that is known.
    pub name: Option<String>,
    /// What it lets be reached, by design.
    pub doors: BTreeMap<Component, u16>,
    /// Whether the doors are to speak TLS alone.
    pub tls: bool,
    /// Whom clients are to trust, where that is the host's own authority.
    pub authority: Option<String>,
    /// What it does not, and whose that is.
    pub inner: BTreeMap<u16, String>,
}

/// An answer over HTTP: status, headers and body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

/// Tries the doors, and whether there are others.
///
/// # Errors
/// There is nothing to attack with.
pub fn attack(target: &Target) -> Result<Vec<Finding>, Failure> {
    if process::find("curl").is_none() {
        return Err(Failure::new(Class::Refused, "there is no curl here, which asks the questions")
            .hint("install curl, or run this on another machine"));
    }
    let mut findings = back_doors(target);
    let door = |component| target.doors.get(&component).copied();
    for port in target.doors.values() {
        findings.extend(tells_versions(target, *port));
        findings.extend(tls::findings(target, *port));
    }
    findings.extend(door(Component::Prometheus).and_then(|port| admin_api(target, port)));
    findings.extend(door(Component::Grafana).and_then(|port| grafana(target, port)));
    Ok(findings)
}

fn url(target: &Target, port: u16, path: &str) -> String {
    let scheme = if target.tls && target.doors.values().any(|door| *door == port) { "https" } else { "http" };
    format!("{scheme}://{}{path}", SocketAddr::new(target.address, port))
}

/// Asks as it stands: paths are not tidied up first.
pub(super) fn ask(url: &str, args: &[&str]) -> Option<Answer> {
    let fixed = ["-s", "-k", "-i", "-g", "--noproxy", "*", "--max-time", "5", "--path-as-is"];
    let words: Vec<&str> = fixed.into_iter().chain(args.iter().copied()).chain(["--", url]).collect();
    let text = process::look_up("curl", &words)?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, text })
}

/// Ports that are open and should not be, all tried at once.
fn back_doors(target: &Target) -> Vec<Finding> {
    let is_open = |port: u16| TcpStream::connect_timeout(&SocketAddr::new(target.address, port), PATIENCE).is_ok();
    let open: Vec<(u16, &String)> = thread::scope(|scope| {
        let tries: Vec<_> =
            target.inner.iter().map(|(port, whose)| (*port, whose, scope.spawn(move || is_open(*port)))).collect();
        tries
            .into_iter()
            .filter_map(|(port, whose, it)| it.join().is_ok_and(|is| is).then_some((port, whose)))
            .collect()
    });
    open.into_iter().map(|(port, whose)| back_door(target, port, whose)).collect()
}

fn back_door(target: &Target, port: u16, whose: &str) -> Finding {
    let at = SocketAddr::new(target.address, port);
    let is_engine =
        ask(&url(target, port, "/api/tags"), &[]).filter(|it| it.status == 200 && it.text.contains("\"models\""));
    match is_engine {
        Some(_) => Finding::new("engine-exposed", "the engine can be reached past the gateway and the edge")
            .seen(format!("{at} lists models to whoever asks"))
            .because("no key, no allowlist, no metering: anybody on the network may use, pull and delete models")
            .fix("stop the engine that listens there: another Ollama, with OLLAMA_HOST set; `cargo xtask doctor` names it"),
        None => Finding::new("port-open", format!("port {port} is open, and nothing says that it should be"))
            .seen(format!("{at} takes connections; it is where {whose} listens"))
            .because("what is behind the edge is guarded by the edge alone")
            .fix("have it listen on 127.0.0.1; `cargo xtask status` shows whether it is one of the stack's"),
    }
}

fn tells_versions(target: &Target, port: u16) -> Option<Finding> {
    let answer = ask(&url(target, port, "/no-such-page"), &[])?;
    let server = answer.text.lines().find(|line| line.to_ascii_lowercase().starts_with("server:"))?;
    server.contains('/').then(|| {
        Finding::new("version-told", "the edge tells its version")
            .seen(format!("port {port}: {}", server.trim()))
            .because("whoever looks for a known fault need not try")
            .fix("cargo xtask deploy; a file of your own in local/nginx may have switched server_tokens on")
    })
}

fn admin_api(target: &Target, port: u16) -> Option<Finding> {
    let reached = CLOSED_PATHS.into_iter().find_map(|path| {
        let answer = ask(&url(target, port, path), &["-X", if path == "/-/reload" { "GET" } else { "POST" }])?;
        // Prometheus' own: no series named, or only POST will do. The edge's are 403, and 404 of what is no path of its.
        matches!(answer.status, 200 | 204 | 400 | 405).then_some((path, answer.status))
    });
    reached.map(|(path, status)| {
        Finding::new("admin-api", "Prometheus' admin API can be reached")
            .seen(format!("{} answers {status}", url(target, port, path)))
            .because("whoever reaches it may delete samples, and stop or reload Prometheus")
            .fix("cargo xtask deploy; a file of your own in local/nginx may have opened it")
    })
}

fn grafana(target: &Target, port: u16) -> Option<Finding> {
    let org = url(target, port, "/api/org");
    let password = DEFAULT_PASSWORDS
        .into_iter()
        .find(|password| ask(&org, &["-u", &format!("admin:{password}")]).is_some_and(|answer| answer.status == 200));
    if let Some(password) = password {
        return Some(
            Finding::new("default-password", "Grafana lets everybody in as its admin")
                .seen(format!("admin with the password {password:?}"))
                .because("it is the password that it is delivered with")
                .fix("cargo xtask secret remove grafana-admin-password, then cargo xtask deploy, which makes one up"),
        );
    }
    ask(&org, &[]).filter(|answer| answer.status == 200).map(|_| {
        Finding::new("anonymous", "Grafana shows itself to whoever asks")
            .seen(format!("{org} answers 200 without a login"))
            .because("dashboards tell who works when, and on what")
            .fix("cargo xtask deploy; GF_AUTH_ANONYMOUS_ENABLED was set by hand")
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;
    use crate::parts::lacks;

    /// Answers every request by its first line; runs until the test ends.
    pub(in crate::harden) fn server(answer: fn(&str) -> &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let _ = write!(stream, "HTTP/1.1 {}\r\nconnection: close\r\n", answer(&request));
            }
        });
        port
    }

    fn found(doors: &[(Component, u16)], inner: &[u16]) -> Vec<String> {
        let target = Target {
            address: "127.0.0.1".parse().unwrap(),
            name: None,
            doors: doors.iter().copied().collect(),
            tls: false,
            authority: None,
            inner: inner.iter().map(|port| (*port, "somebody".to_owned())).collect(),
        };
        attack(&target).unwrap().into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn doors_that_are_not_declared_are_found_and_the_engine_behind_one_is_named() {
        if lacks("curl") {
            return;
        }
        let engine = server(|_| "200 OK\r\n\r\n{\"models\":[]}");
        let other = server(|_| "404 Not Found\r\n");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut found = found(&[], &[engine, other, closed]);
        found.sort();
        assert_eq!(found, ["engine-exposed", "port-open"]);
    }

    #[test]
    fn a_server_that_tells_its_version_is_found() {
        if lacks("curl") {
            return;
        }
        let told = server(|_| "404 Not Found\r\nServer: nginx/1.22.1\r\n");
        let untold = server(|_| "404 Not Found\r\nServer: nginx\r\n");
        assert_eq!(found(&[(Component::Gateway, told)], &[]), ["version-told"]);
        assert_eq!(found(&[(Component::Gateway, untold)], &[]), [""; 0]);
    }

    #[test]
    fn an_admin_api_that_only_one_spelling_reaches_is_found() {
        if lacks("curl") {
            return;
        }
        let guarded = server(|_| "403 Forbidden\r\n");
        assert_eq!(found(&[(Component::Prometheus, guarded)], &[]), [""; 0]);
        let leaky =
            server(|request| if request.contains("%61dmin") { "400 Bad Request\r\n" } else { "403 Forbidden\r\n" });
        assert_eq!(found(&[(Component::Prometheus, leaky)], &[]), ["admin-api"]);
        let open =
            server(|request| if request.contains("/-/reload") { "405 Method Not Allowed\r\n" } else { "403 No\r\n" });
        assert_eq!(found(&[(Component::Prometheus, open)], &[]), ["admin-api"]);
    }

    #[test]
    fn a_password_that_grafana_is_delivered_with_is_found_and_so_is_none_at_all() {
        if lacks("curl") {
            return;
        }
        // `admin:admin` in Base64.
        let delivered = server(|request| match request.contains("Basic YWRtaW46YWRtaW4=") {
            true => "200 OK\r\n",
            false => "401 Unauthorized\r\n",
        });
        assert_eq!(found(&[(Component::Grafana, delivered)], &[]), ["default-password"]);
        let anonymous = server(|request| if request.contains("Basic ") { "401 No\r\n" } else { "200 OK\r\n" });
        assert_eq!(found(&[(Component::Grafana, anonymous)], &[]), ["anonymous"]);
        let guarded = server(|_| "401 Unauthorized\r\n");
        assert_eq!(found(&[(Component::Grafana, guarded)], &[]), [""; 0]);
    }
}
