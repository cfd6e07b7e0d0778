//! The way from a client to the engine, hop by hop: name, route, local network privacy, firewall, listener, allowlist, engine.
//!
//! Invariant: only the first hop that fails is a finding, since all behind it cannot be seen from here.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use stack::process;

use super::Finding;
use crate::https::{self, Trust};

/// A host on a LAN answers within milliseconds, over a VPN within a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the edge says to whoever is in none of its networks.
const OUTSIDER: &str = "not in edge.allow";

/// Where to, and from where.
#[derive(Debug, Clone)]
pub struct Way {
    /// The name or address in the settings.
    pub host: String,
    /// What the edge listens at.
    pub port: u16,
    /// By TLS.
    pub tls: bool,
    /// sshd's port, by which a host that is gone is told from a port that is.
    pub ssh_port: u16,
    /// What `uname -s` says here.
    pub system: String,
    /// The terminal that we run in, as it calls itself.
    pub terminal: String,
}

/// How far one comes.
#[derive(Debug)]
enum Reached {
    /// Nobody knows the name.
    NoName(String),
    /// Nobody took the connection.
    Nobody { at: SocketAddr, error: io::Error, ssh_answers: bool },
    /// Somebody did, and said this to our address.
    Answer { at: SocketAddr, from: Option<IpAddr>, answer: Result<(u16, String), String> },
}

/// Goes the way, and tells where it ends before the engine; an answer of the engine is none.
pub fn walk(way: &Way) -> Option<Finding> {
    judge(way, &go(way))
}

fn go(way: &Way) -> Reached {
    let name = resolved_by_ssh(&way.host).unwrap_or_else(|| way.host.clone());
    let addresses: Vec<SocketAddr> = match (name.as_str(), way.port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Reached::NoName(format!("{name}: {error}")),
    };
    let mut failed = None;
    for at in addresses {
        match TcpStream::connect_timeout(&at, PATIENCE) {
            Ok(stream) => {
                let from = stream.local_addr().ok().map(|address| address.ip());
                return Reached::Answer { at, from, answer: ask(way, &name, at, stream) };
            }
            Err(error) => failed = Some((at, error)),
        }
    }
    let Some((at, error)) = failed else { return Reached::NoName(format!("{name} has no address")) };
    let ssh = SocketAddr::new(at.ip(), way.ssh_port);
    Reached::Nobody { at, error, ssh_answers: TcpStream::connect_timeout(&ssh, PATIENCE).is_ok() }
}

/// What `~/.ssh/config` calls a host; to everything else that is no name.
fn resolved_by_ssh(host: &str) -> Option<String> {
    let text = process::look_up("ssh", &["-G", host])?;
    text.lines().find_map(|line| line.strip_prefix("hostname ")).map(str::to_owned)
}

/// Status and body. TLS is spoken by the system's own curl, since this program does not.
fn ask(way: &Way, name: &str, at: SocketAddr, mut stream: TcpStream) -> Result<(u16, String), String> {
    if way.tls {
        let url = format!("https://{}/api/version", SocketAddr::new(at.ip(), way.port));
        return https::get(&url, Trust::Anybody);
    }
    let request = format!("GET /api/version HTTP/1.1\r\nHost: {name}:{}\r\nConnection: close\r\n\r\n", way.port);
    let mut read = || -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        (&stream).take(64 * 1024).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = read().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("what came back is no HTTP")?;
    Ok((status, text.into_owned()))
}

fn judge(way: &Way, reached: &Reached) -> Option<Finding> {
    match reached {
        Reached::NoName(why) => Some(
            found("name", way, why)
                .because("nobody on this network knows the name: it is misspelt, or the host is off, which its `.local` name goes with")
                .fix("write the host's address at `address` under [host] in stack.toml, or a name into ~/.ssh/config"),
        ),
        Reached::Nobody { at, error, ssh_answers } => Some(nobody(way, *at, error, *ssh_answers)),
        Reached::Answer { at, from, answer } => answered(way, *at, *from, answer),
    }
}

fn found(hop: &str, way: &Way, seen: &str) -> Finding {
    Finding::new(
        &format!("unreachable-{}", hop.replace(' ', "-")),
        format!("the engine on {} cannot be reached from here: {hop}", way.host),
    )
    .seen(seen)
}

fn nobody(way: &Way, at: SocketAddr, error: &io::Error, ssh_answers: bool) -> Finding {
    let seen = format!("{at}: {error}");
    let no_route = matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable);
    // TN3179: command-line tools are exempt in Terminal and over ssh, and in no other terminal.
    let is_private = no_route && way.system == "Darwin" && !["Apple_Terminal", ""].contains(&way.terminal.as_str());
    match error.kind() {
        _ if is_private => found("local network privacy", way, &format!("{seen}, in {}", way.terminal))
            .because("macOS hides the local network from programs that nobody has allowed, and says that there is no route")
            .fix("System Settings → Privacy & Security → Local Network: allow your terminal; or run this in Terminal"),
        _ if no_route => found("route", way, &seen)
            .because("this machine is on no network that leads there: another Wi-Fi, or a VPN that is off")
            .fix("join the host's network, or its VPN"),
        io::ErrorKind::ConnectionRefused => found("listener", way, &seen)
            .because(format!("the host is there, and nothing listens at port {}: the edge is down, or has another port", way.port))
            .fix("cargo xtask status; then cargo xtask start, or cargo xtask deploy"),
        _ if ssh_answers => found("firewall", way, &format!("{seen}, while sshd answers"))
            .because(format!("something on the way drops what goes to port {}", way.port))
            .fix(format!(
                "on the host: `sudo ufw allow {}/tcp`; on a Mac, `sudo /usr/libexec/ApplicationFirewall/socketfilterfw --listapps` \
                 shows whether nginx may be reached",
                way.port
            )),
        _ => found("host", way, &format!("{seen}, and sshd at port {} does not answer either", way.ssh_port))
            .because("it is off, asleep, or not on this network")
            .fix("start or wake it; `cargo xtask tune` keeps it from sleeping"),
    }
}

fn answered(
    way: &Way,
    at: SocketAddr,
    from: Option<IpAddr>,
    answer: &Result<(u16, String), String>,
) -> Option<Finding> {
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(why) => {
            return Some(
                found("listener", way, &format!("{at}: {why}"))
                    .because("what listens there is not our edge, or it was cut off")
                    .fix("cargo xtask status tells who has the ports"),
            );
        }
    };
    let seen = format!("{at} answers {status}");
    match status {
        403 if body.contains(OUTSIDER) => {
            let us = from.map(|address| address.to_string()).unwrap_or_default();
            Some(
                found("allowlist", way, &format!("{seen} to {us}"))
                    .because("this machine's address is in none of the networks that the edge serves")
                    .fix(format!(
                        "add \"{us}\", or its network, to `allow` under [edge] in stack.toml, then cargo xtask deploy"
                    )),
            )
        }
        // That it asks for a key is an answer.
        200..=299 | 401 => None,
        502..=504 => Some(
            found("engine", way, &seen)
                .because("the edge is there, and the gateway or the engine behind it is not")
                .fix("cargo xtask doctor --fix, or cargo xtask restart engine gateway"),
        ),
        _ => Some(
            found("listener", way, &seen)
                .because("what listens there does not speak Ollama's API")
                .fix("cargo xtask status tells who has the ports"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn way(host: &str, port: u16) -> Way {
        let empty = String::new;
        Way { host: host.to_owned(), port, tls: false, ssh_port: 1, system: "Linux".to_owned(), terminal: empty() }
    }

    /// What is found of a listener that answers one request so.
    fn answers(answer: &'static str) -> Option<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        });
        let finding = walk(&way("127.0.0.1", port));
        server.join().unwrap();
        finding.map(|finding| finding.id)
    }

    #[test]
    fn the_hop_that_fails_is_the_one_that_is_told() {
        assert_eq!(answers("HTTP/1.1 200 OK\r\n\r\n{}"), None);
        assert_eq!(answers("HTTP/1.1 401 Unauthorized\r\n\r\n"), None);
        assert_eq!(answers("HTTP/1.1 502 Bad Gateway\r\n\r\n").as_deref(), Some("unreachable-engine"));
        let outsider = "HTTP/1.1 403 Forbidden\r\n\r\n{\"error\":\"this address is not in edge.allow\"}\n";
        assert_eq!(answers(outsider).as_deref(), Some("unreachable-allowlist"));
        assert_eq!(answers("HTTP/1.1 404 Not Found\r\n\r\n").as_deref(), Some("unreachable-listener"));
        assert_eq!(answers("SSH-2.0-x\r\n").as_deref(), Some("unreachable-listener"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(walk(&way("127.0.0.1", closed)).unwrap().id, "unreachable-listener");
        assert_eq!(walk(&way("no-such-host.invalid", 1)).unwrap().id, "unreachable-name");
    }

    #[test]
    fn what_a_kernel_says_of_a_way_that_leads_nowhere_is_understood() {
        let id = |way: &Way, kind, ssh_answers| {
            let at = "192.168.1.9:11434".parse().unwrap();
            judge(way, &Reached::Nobody { at, error: io::Error::from(kind), ssh_answers }).unwrap().id
        };
        let linux = way("studio", 11434);
        let mac = |terminal: &str| Way { system: "Darwin".to_owned(), terminal: terminal.to_owned(), ..linux.clone() };
        assert_eq!(id(&linux, io::ErrorKind::HostUnreachable, false), "unreachable-route");
        assert_eq!(id(&linux, io::ErrorKind::NetworkUnreachable, false), "unreachable-route");
        assert_eq!(id(&mac("ghostty"), io::ErrorKind::HostUnreachable, false), "unreachable-local-network-privacy");
        assert_eq!(id(&mac("Apple_Terminal"), io::ErrorKind::HostUnreachable, false), "unreachable-route");
        assert_eq!(id(&linux, io::ErrorKind::TimedOut, true), "unreachable-firewall");
        assert_eq!(id(&linux, io::ErrorKind::TimedOut, false), "unreachable-host");
    }
}
