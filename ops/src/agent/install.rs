//! Putting an agent onto this machine, by the package manager that its makers mean, without root.
//!
//! Programs end up in `~/.local/bin`, where uv and pipx put them too. Invariant: an agent counts as installed when it
//! tells its version, never because an installer was content.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use stack::{
    failure::{Class, Doing, Failure},
    process::{self, Command, Ended},
};

use super::{ANSWER_TIMEOUT, Agent, Package, failed, place::Place};

/// A slow line, and an index that builds wheels.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Which version is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The one that was tested with this program.
    Known,
    /// The newest, at one's own risk.
    Latest,
}

/// An agent that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// What is run.
    pub program: PathBuf,
    /// As it says itself.
    pub version: String,
}

/// Objects when the user has had enough.
pub(super) type Check<'a> = dyn FnMut() -> Result<(), Failure> + 'a;

/// The agent's program and version, if it is on this machine and runs.
pub fn installed(agent: &Agent, place: &Place) -> Option<Installed> {
    let name = agent.package.program()?;
    let program = find(place, name)?;
    let said = answer(&program, &["--version"])?;
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|it: char| it.is_ascii_digit());
    let version = said.split_whitespace().find(is_version)?.to_owned();
    Some(Installed { program, version })
}

/// Installs an agent, and tells what is being done.
pub fn install(
    agent: &Agent,
    place: &Place,
    version: Version,
    tell: &mut dyn FnMut(&str),
    check: &mut Check<'_>,
) -> Result<Installed, Failure> {
    let steps = match &agent.package {
        Package::User { hint } => {
            return Err(Failure::new(Class::Refused, format!("{} is installed by its user", agent.title)).hint(*hint));
        }
        Package::Python { package, version: known, python, program } => {
            let wanted = wanted(package, "==", known, version);
            by_python(place, &wanted, *python, program)?
        }
        Package::Node { package, version: known, node, .. } => {
            by_npm(place, &wanted(package, "@", known, version), *node)?
        }
    };
    let log = place.record(agent.name, "install.log");
    fs::create_dir_all(log.parent().unwrap_or(&log)).doing("cannot write", &log)?;
    let output = File::create(&log).doing("cannot write", &log)?;
    for step in &steps.commands {
        tell(&step.to_string());
        match process::run_tool(step, &place.home, &output, INSTALL_TIMEOUT, check)? {
            Ended::Well => {}
            ended => return Err(lament(agent, &log, &ended)),
        }
    }
    if let Some((link, target)) = &steps.link {
        let linked = fs::create_dir_all(place.bin()).and_then(|()| {
            let _ = fs::remove_file(link);
            symlink(target, link)
        });
        linked.doing("cannot write", link)?;
    }
    installed(agent, place).ok_or_else(|| {
        failed(format!("{} was installed and does not tell its version", agent.title))
            .hint(format!("what the installer said: {}", log.display()))
    })
}

/// Commands, and a name for what they leave behind.
struct Steps {
    commands: Vec<Command>,
    link: Option<(PathBuf, PathBuf)>,
}

fn wanted(package: &str, sign: &str, known: &str, version: Version) -> String {
    match version {
        Version::Known => format!("{package}{sign}{known}"),
        Version::Latest if sign == "@" => format!("{package}@latest"),
        Version::Latest => package.to_owned(),
    }
}

fn command(program: PathBuf, args: &[&str]) -> Command {
    Command { program, args: args.iter().map(|&arg| arg.to_owned()).collect(), env: Default::default() }
}

/// uv brings a Python of its own, pipx and a virtual environment need one that fits.
fn by_python(place: &Place, wanted: &str, range: [(u32, u32); 2], program: &str) -> Result<Steps, Failure> {
    let newest = format!("{}.{}", range[1].0, range[1].1 - 1);
    if let Some(uv) = find(place, "uv") {
        let install = command(uv, &["tool", "install", "--force", "--python", &newest, "--with", "pip", wanted]);
        return Ok(Steps { commands: vec![install], link: None });
    }
    let Some(python) = python(range) else {
        let [from, to] = range.map(|(major, minor)| format!("{major}.{minor}"));
        return Err(failed(format!("there is no Python from {from} to below {to}"))
            .hint("install uv, which brings one: https://docs.astral.sh/uv; then run the same command again"));
    };
    let python_name = python.display().to_string();
    if let Some(pipx) = find(place, "pipx") {
        let install = command(pipx, &["install", "--force", "--python", &python_name, wanted]);
        return Ok(Steps { commands: vec![install], link: None });
    }
    let folder = place.home.join(".local/share/frontier-llm-stack/agents").join(program);
    let bin = folder.join("bin");
    let make = command(python, &["-m", "venv", "--clear", &folder.display().to_string()]);
    let fill = command(bin.join("python"), &["-m", "pip", "install", "--disable-pip-version-check", wanted]);
    Ok(Steps { commands: vec![make, fill], link: Some((place.bin().join(program), bin.join(program))) })
}

/// A tool that may stand where its own installer puts it, which an ssh login does not have on PATH.
fn find(place: &Place, name: &str) -> Option<PathBuf> {
    let own = place.bin().join(name);
    if own.exists() { Some(own) } else { process::find(name) }
}

/// A Python that runs and is within the range, the newest first.
fn python(range: [(u32, u32); 2]) -> Option<PathBuf> {
    let names = (range[0].1..range[1].1).rev().map(|minor| format!("python{}.{minor}", range[0].0));
    names.chain(["python3".to_owned()]).filter_map(|name| process::find(&name)).find(|program| {
        let said = answer(program, &["-c", "import sys; print(*sys.version_info[:2])"]).unwrap_or_default();
        let numbers: Vec<u32> = said.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        matches!(numbers[..], [major, minor] if range[0] <= (major, minor) && (major, minor) < range[1])
    })
}

/// npm's own global folder often belongs to root; `~/.local` is the user's.
fn by_npm(place: &Place, wanted: &str, least: u32) -> Result<Steps, Failure> {
    let found = process::find("node").and_then(|node| {
        let said = answer(&node, &["--version"])?;
        said.trim().trim_start_matches('v').split('.').next()?.parse::<u32>().ok()
    });
    let npm = process::find("npm");
    let (Some(npm), Some(_)) = (npm, found.filter(|&major| major >= least)) else {
        let what =
            found.map_or_else(|| "there is no Node.js".to_owned(), |major| format!("Node.js {major} is too old"));
        return Err(
            failed(what).hint(format!("install Node.js {least} or later with npm: https://nodejs.org/en/download"))
        );
    };
    let prefix = place.home.join(".local").display().to_string();
    let install = command(
        npm,
        &["install", "--global", "--prefix", &prefix, "--no-fund", "--no-audit", "--loglevel=warn", wanted],
    );
    Ok(Steps { commands: vec![install], link: None })
}

/// What installers say when there is no way to the index, in lower case.
const OFFLINE: [&str; 12] = [
    "name resolution",
    "enotfound",
    "eai_again",
    "econnrefused",
    "econnreset",
    "etimedout",
    "newconnectionerror",
    "dns error",
    "failed to establish a new connection",
    "connection refused",
    "network is unreachable",
    "error sending request",
];

fn lament(agent: &Agent, log: &Path, ended: &Ended) -> Failure {
    let said = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lower = said.to_ascii_lowercase();
    let is_offline = OFFLINE.iter().any(|words| lower.contains(words));
    let message = match (is_offline, ended) {
        (true, _) => format!("cannot install {}: the package index cannot be reached", agent.title),
        (_, Ended::OutOfTime) => {
            format!("{} was not installed within {} minutes", agent.title, INSTALL_TIMEOUT.as_secs() / 60)
        }
        _ => format!("cannot install {}", agent.title),
    };
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(5)..].join("\n");
    let hint = match is_offline {
        true => "look after this machine's way to the internet, or point the package manager at a mirror, and run the same command again".to_owned(),
        false => format!("what the installer said: {}", log.display()),
    };
    failed(message).because(&std::io::Error::other(tail)).hint(hint)
}

/// What a program says, if it says it soon and ends well.
pub(super) fn answer(program: &Path, args: &[&str]) -> Option<String> {
    let mut output = tempfile::tempfile().ok()?;
    let asked = command(program.to_owned(), args);
    let ended = process::run_tool(&asked, Path::new("/"), &output, ANSWER_TIMEOUT, &mut || Ok(())).ok()?;
    let mut said = String::new();
    std::io::Seek::rewind(&mut output).ok()?;
    std::io::Read::read_to_string(&mut output, &mut said).ok()?;
    (ended == Ended::Well).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_out_of_reach_is_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "npm error code EAI_AGAIN\nnpm error syscall getaddrinfo\n").unwrap();
        let failure = lament(&super::super::qwen::QWEN, &log, &Ended::Badly("exited with status 1".into()));
        assert_eq!(failure.message, "cannot install Qwen Code: the package index cannot be reached");
        fs::write(&log, "npm error 404 no such version\n").unwrap();
        let failure = lament(&super::super::qwen::QWEN, &log, &Ended::Badly("exited with status 1".into()));
        assert_eq!(failure.message, "cannot install Qwen Code");
    }

    #[test]
    fn versions_are_pinned_unless_it_is_said_otherwise() {
        assert_eq!(wanted("aider-chat", "==", "1.2", Version::Known), "aider-chat==1.2");
        assert_eq!(wanted("aider-chat", "==", "1.2", Version::Latest), "aider-chat");
        assert_eq!(wanted("@a/b", "@", "1.2", Version::Latest), "@a/b@latest");
    }
}
