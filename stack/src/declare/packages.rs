//! What brings Docker and its Compose to a Linux that lacks them, as commands for root.

use super::Host;
use crate::{observed::Engine, plan::Step, process::Command};

/// Docker's own release of Compose, for where the distribution has none of version 2, as Debian 12 has not.
const COMPOSE_VERSION: &str = "2.40.3";

/// The SHA-256 of its program, by machine, as the release tells them.
const COMPOSE_PROGRAMS: [(&str, &str); 2] = [
    ("x86_64", "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"),
    ("aarch64", "d26373b19e89160546d15407516cc59f453030d9bc5b43ba7faf16f7b4980137"),
];

/// One of the folders in which Docker looks for its plugins: the one for what no package brought.
const PLUGINS: &str = "/usr/local/lib/docker/cli-plugins";

/// The steps, none where nothing is lacking or where we do not know what would bring it. One at a time: what the second
/// has to do is known when the first is done.
pub(super) fn steps(host: &Host<'_>) -> Vec<Step> {
    match host.observed.docker.as_ref().map(|docker| &docker.engine) {
        Some(Engine::Absent) => docker(host),
        Some(Engine::Answers { compose: None, version }) if !version.is_empty() => compose(host),
        _ => None,
    }
    .into_iter()
    .collect()
}

/// Docker, what the guide has installed with it, and what fetches Compose. Its mirror is apt's own affair.
fn docker(host: &Host<'_>) -> Option<Step> {
    let apt = host.program("apt-get")?.display().to_string();
    let packages = ["docker.io", "jq", "git", "curl", "ca-certificates"];
    let install = [&["install", "-q", "-y", "--no-install-recommends"], &packages[..]].concat();
    let commands = vec![command(&apt, &["update", "-q"]), command(&apt, &install)];
    Some(Step::AsRoot { what: "install Docker".to_owned(), commands })
}

/// Compose, which is in its place only once it is known to be what it should be.
fn compose(host: &Host<'_>) -> Option<Step> {
    let curl = host.program("curl")?.display().to_string();
    let (machine, sha256) = COMPOSE_PROGRAMS.iter().find(|(machine, _)| *machine == host.observed.machine)?;
    let from = &host.settings.host.github;
    let url = format!("{from}/docker/compose/releases/download/v{COMPOSE_VERSION}/docker-compose-linux-{machine}");
    let (part, program) = (format!("{PLUGINS}/docker-compose.part"), format!("{PLUGINS}/docker-compose"));
    let check = format!("echo '{sha256}  {part}' | sha256sum -c -");
    let commands = vec![
        command("/bin/mkdir", &["-p", PLUGINS]),
        command(&curl, &["-fsSL", "--retry", "3", "-o", &part, &url]),
        command("/bin/sh", &["-c", &check]),
        command("/bin/chmod", &["755", &part]),
        command("/bin/mv", &[&part, &program]),
    ];
    Some(Step::AsRoot { what: format!("install Compose {COMPOSE_VERSION}"), commands })
}

fn command(program: &str, args: &[&str]) -> Command {
    Command { program: program.into(), args: args.iter().map(|arg| (*arg).to_owned()).collect(), env: [].into() }
}
