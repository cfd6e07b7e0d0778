//! Another machine, over the user's own OpenSSH.
//!
//! One session carries everything: what the host is, the program if it lacks it, requests, events, replies. The program
//! there is known by its identity; what was shipped is hashed before it runs. Invariant: nothing counts as an answer
//! that did not come whole: every reply ends with the nonce that this connection began with.

mod share;
mod words;

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Class, Doing, Failure},
    host::Follow,
    protocol::{Event, PROTOCOL, Reply, Request},
    release::sha256_hex,
    transport::Transport,
};

const BOOTSTRAP: &str = include_str!("bootstrap.sh");

/// Never interactive, noticed soon when the other side is gone. Everything else is the user's ssh configuration: keys,
/// agents, jump hosts, known hosts.
const OPTIONS: [&str; 9] = [
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
];

/// A line longer than this is noise, not an answer.
const LINE_LIMIT: u64 = 64 * 1024 * 1024;

/// Where to, and what has to be there.
#[derive(Debug, Clone)]
pub struct Target {
    /// A name that ssh knows, or an address.
    pub address: String,
    /// ssh's own choice when absent.
    pub user: Option<String>,
    /// ssh's own choice when absent.
    pub port: Option<u16>,
    /// The stack's root there; a leading `~/` is the home folder on the host.
    pub root: String,
    /// The identity of the program that has to answer; `None` takes any that speaks the protocol.
    pub program: Option<String>,
}

/// What a host says that lacks the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// What `uname -s` says: `Linux`, `Darwin`.
    pub name: String,
    /// What `uname -m` says: `x86_64`, `arm64`.
    pub machine: String,
    /// Whether it has cargo, and so can build the program by itself.
    pub cargo: bool,
}

/// What to send to a host that lacks the program.
#[derive(Debug)]
pub enum Shipment {
    /// The program.
    Program(Vec<u8>),
    /// What to build it from there.
    Sources {
        /// A workspace as a compressed tar.
        archive: Vec<u8>,
        /// What cargo calls the host.
        triple: &'static str,
    },
}

/// Who has what a host lacks.
pub trait Supplier {
    /// What to send to such a system.
    ///
    /// # Errors
    /// There is nothing to be had for it.
    fn supply(&mut self, system: &System) -> Result<Shipment, Failure>;

    /// What the build there says.
    fn building(&mut self, words: &str);
}

impl System {
    /// This machine.
    ///
    /// # Errors
    /// There is no `uname`.
    pub fn here() -> Result<System, Failure> {
        let ask = |what| crate::process::uname(what).doing("cannot run", Path::new("uname"));
        Ok(System { name: ask('s')?, machine: ask('m')?, cargo: false })
    }
}

/// The first line of the program on the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) hello: String,
    pub(crate) protocol: u32,
    pub(crate) program: String,
}

/// A line of an exchange, from the host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Frame {
    Event(Event),
    /// The last one: the nonce says that it is whole and ours.
    End {
        nonce: String,
        answer: Result<Reply, Failure>,
    },
}

/// A session with the program on a host.
pub struct Ssh {
    address: String,
    nonce: String,
    ssh: duct::Handle,
    stdin: Option<PipeWriter>,
    stdout: BufReader<PipeReader>,
    stderr: Arc<File>,
}

impl Ssh {
    /// Connects. Where the wanted program is missing, the supplier has it, or what it is built from there.
    ///
    /// # Errors
    /// In the words of what a person meets first: the name, the route, the port, the key, the host's key.
    pub fn connect(target: &Target, supplier: &mut dyn Supplier) -> Result<Ssh, Failure> {
        let mut ssh = Ssh::start(target)?;
        let wanted = target.program.as_deref().unwrap_or("any");
        ssh.send(&format!("{} {wanted} {}", ssh.nonce, target.root))?;
        let need = format!("need {} ", ssh.nonce);
        let first = ssh.line_that(|line| line.starts_with(&need) || line.contains("\"hello\""))?;
        let hello = match first.strip_prefix(&need) {
            None => first,
            Some(told) if target.program.is_none() => return Err(nothing_there(&target.address, told)),
            Some(told) => {
                let mut words = told.split(' ').map(str::to_owned);
                let mut word = || words.next().unwrap_or_default();
                let system = System { name: word(), machine: word(), cargo: word() == "cargo" };
                ssh.ship(&supplier.supply(&system)?)?;
                let building = format!("building {} ", ssh.nonce);
                ssh.line_that(|line| {
                    line.strip_prefix(&building).into_iter().for_each(|words| supplier.building(words.trim()));
                    line.contains("\"hello\"") || line.starts_with("damaged ")
                })?
            }
        };
        ssh.check(&hello)?;
        Ok(ssh)
    }

    fn start(target: &Target) -> Result<Ssh, Failure> {
        let pipe = || io::pipe().doing("cannot make", Path::new("a pipe"));
        let ((stdin_reader, stdin), (stdout, stdout_writer)) = (pipe()?, pipe()?);
        let stderr = Arc::new(tempfile::tempfile().doing("cannot make", Path::new("a temporary file"))?);
        let copy = stderr.try_clone().doing("cannot copy", Path::new("a descriptor"))?;
        let ssh = duct::cmd("ssh", arguments(target))
            .stdin_file(stdin_reader)
            .stdout_file(stdout_writer)
            .stderr_file(copy)
            .unchecked()
            .start()
            .doing("cannot run", Path::new("ssh"))?;
        Ok(Ssh {
            address: target.address.clone(),
            nonce: nonce(),
            ssh,
            stdin: Some(stdin),
            stdout: BufReader::new(stdout),
            stderr,
        })
    }

    /// Sends it as plain bytes between two words of the shell on the other side.
    fn ship(&mut self, shipment: &Shipment) -> Result<(), Failure> {
        let (kind, bytes, triple) = match shipment {
            Shipment::Program(bytes) => ("program", bytes, ""),
            Shipment::Sources { archive, triple } => ("sources", archive, *triple),
        };
        self.send(&format!("{kind} {} {} {triple}", bytes.len(), sha256_hex(bytes)))?;
        let ready = format!("ready {}", self.nonce);
        self.line_that(|line| line == ready)?;
        let sent = self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(bytes).and_then(|()| stdin.flush()));
        sent.map_err(|_| self.lost())
    }

    fn check(&mut self, hello: &str) -> Result<(), Failure> {
        if hello.starts_with("damaged ") {
            return Err(Failure::new(Class::Unreachable, format!("the program arrived damaged on {}", self.address))
                .hint("run the same command again"));
        }
        let hello: Hello = serde_json::from_str(hello).map_err(|error| {
            Failure::new(Class::Unreachable, format!("cannot understand what {} says", self.address)).because(&error)
        })?;
        if hello.hello != self.nonce {
            return Err(Failure::new(Class::Unreachable, format!("{} answers somebody else's question", self.address)));
        }
        if hello.protocol != PROTOCOL {
            let (there, here) = (hello.protocol, PROTOCOL);
            let message = format!("the program on {} speaks protocol {there}, this one {here}", self.address);
            return Err(Failure::new(Class::Unreachable, message)
                .hint("`cargo xtask deploy` replaces the program there; use the checkout that it was deployed from to only look"));
        }
        Ok(())
    }

    fn send(&mut self, line: &str) -> Result<(), Failure> {
        let sent = self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(format!("{line}\n").as_bytes()));
        sent.map_err(|_| self.lost())
    }

    /// The next line of which `wanted` is true; what login scripts print before is passed over.
    fn line_that(&mut self, mut wanted: impl FnMut(&str) -> bool) -> Result<String, Failure> {
        loop {
            let line = self.line()?;
            if wanted(&line) {
                return Ok(line);
            }
        }
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.stdout).take(LINE_LIMIT).read_until(b'\n', &mut line);
        match read {
            Ok(_) if line.last() == Some(&b'\n') => {
                line.pop();
                Ok(String::from_utf8_lossy(&line).into_owned())
            }
            // Cut: half a line is no line.
            _ => Err(self.lost()),
        }
    }

    /// The connection is gone: says why, by what ssh said last.
    fn lost(&mut self) -> Failure {
        self.stdin = None;
        let _ = self.ssh.wait_timeout(std::time::Duration::from_secs(2));
        let code = self.ssh.try_wait().ok().flatten().and_then(|output| output.status.code());
        words::failure(&self.address, code, &self.said())
    }

    fn said(&self) -> String {
        let mut text = Vec::new();
        let mut file = &*self.stderr;
        let read = io::Seek::rewind(&mut file).and_then(|()| file.read_to_end(&mut text));
        if read.is_err() { String::new() } else { String::from_utf8_lossy(&text).trim().to_owned() }
    }
}

impl Transport for Ssh {
    fn call(&mut self, request: Request, follow: &mut Follow<'_>) -> Result<Reply, Failure> {
        let json = serde_json::to_string(&request)
            .map_err(|error| Failure::new(Class::Failed, "cannot send the request").because(&error))?;
        self.send(&json)?;
        loop {
            let line = self.line()?;
            let frame: Frame = serde_json::from_str(&line).map_err(|error| {
                Failure::new(Class::Unreachable, format!("cannot understand what {} says", self.address))
                    .because(&error)
            })?;
            match frame {
                Frame::Event(event) => follow(event)?,
                Frame::End { nonce, answer } if nonce == self.nonce => return answer,
                Frame::End { .. } => {
                    return Err(Failure::new(
                        Class::Unreachable,
                        format!("{} answers somebody else's question", self.address),
                    ));
                }
            }
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // The program there ends when nobody speaks to it any more, and ssh with it.
        self.stdin = None;
        if !matches!(self.ssh.wait_timeout(std::time::Duration::from_secs(2)), Ok(Some(_))) {
            let _ = self.ssh.kill();
        }
    }
}

/// To whoever only looks at a host that has no program. `told` is what it says of itself.
fn nothing_there(address: &str, told: &str) -> Failure {
    let (words, hint) = match told.ends_with(" building") {
        true => (", which is building the program", "`cargo xtask deploy` follows the build, and goes on from there"),
        false => ("", "`cargo xtask deploy` brings up a stack there"),
    };
    Failure::new(Class::Nothing, format!("nothing is deployed on {address}{words}")).hint(hint)
}

/// Where ssh is told to go. Behind `--` nothing is an option, whatever a setting says.
fn destination(target: &Target) -> Vec<String> {
    let port = target.port.map(|port| format!("-p{port}"));
    let user = target.user.as_ref().map(|user| format!("-l{user}"));
    port.into_iter().chain(user).chain(["--".to_owned(), target.address.clone()]).collect()
}

fn arguments(target: &Target) -> Vec<String> {
    let destination = destination(target);
    let mut arguments: Vec<String> = OPTIONS.iter().map(|option| (*option).to_owned()).collect();
    arguments.extend(share::options(&destination));
    arguments.extend(destination);
    arguments.push(format!("exec /bin/sh -c '{}'", bootstrap()));
    arguments
}

/// The script as one line.
fn bootstrap() -> String {
    let lines = BOOTSTRAP.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.collect::<Vec<_>>().join(" ")
}

/// Nobody has to be unable to guess it: it tells answers apart.
fn nonce() -> String {
    use std::hash::{BuildHasher, RandomState};
    let mut nonce = String::new();
    let _ = write!(nonce, "{:016x}", RandomState::new().hash_one(std::process::id()));
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_survives_every_login_shell() {
        let line = bootstrap();
        assert!(!line.contains(['\'', '\\', '!', '\n']));
    }

    #[test]
    fn no_setting_becomes_an_option_of_ssh() {
        let target = Target {
            address: "-oProxyCommand=x".into(),
            user: Some("me".into()),
            port: Some(2222),
            root: "~/stack".into(),
            program: None,
        };
        assert_eq!(destination(&target), ["-p2222", "-lme", "--", "-oProxyCommand=x"]);
    }
}
