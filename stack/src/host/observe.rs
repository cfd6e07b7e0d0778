//! Looking at the host. Nothing here changes anything, but that a host with secrets gets a key to make digests of them with, and
//! that what programs say of their version is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    net::{IpAddr, Ipv6Addr, TcpListener},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use walkdir::WalkDir;

use super::{certificate, docker, journal, machine, native, port, secrets, version};
use crate::{
    backup::Backups,
    component::{Component, Runtime},
    durable,
    failure::{Doing, Failure},
    layout::Root,
    observed::{Account, Desired, Observed, PortFact, Question, Running, State, Supervisor},
    process,
    release::{Contents, Release, ReleaseId, sha256_hex},
    supervise::{Record, Status},
};

/// Answers a question.
pub(super) fn observe(root: &Root, question: &Question) -> Result<Observed, Failure> {
    let (releases, leftovers) = releases(root)?;
    let current = current(root)?;
    let manifest = current.as_ref().and_then(|id| releases.iter().find(|release| release.id == *id));
    let desired: Desired = durable::read_json(&root.desired())?.unwrap_or_default();
    let contained = manifest.is_some_and(|release| release.content.runtime == Runtime::Docker);
    let (components, docker) = if contained || question.images.is_some() {
        let manifest = manifest.filter(|_| contained);
        // An engine that does not answer is a fact, not a fault.
        let (found, silent) = match docker::containers(root, manifest) {
            Ok(found) => (found, None),
            Err(failure) => (docker::Containers::default(), Some(failure.causes.join(": "))),
        };
        let docker = docker::facts(root, question, manifest, found.remnants, silent)?;
        (if contained { found.components } else { components(root)? }, Some(docker))
    } else {
        (components(root)?, None)
    };
    let programs: BTreeMap<String, Option<PathBuf>> =
        question.programs.iter().filter_map(|names| Some((names.first()?.clone(), find(names)))).collect();
    let system = process::uname('s').doing("cannot run", Path::new("uname"))?;
    let booted = machine::booted(&system);
    Ok(Observed {
        restarted: booted.is_some_and(|booted| restarted(root, booted)),
        booted,
        native: (question.native && (system == "Darwin" || question.images.is_none()))
            .then(|| native::facts(&system, root)),
        facts: question.facts.as_ref().map(|models| machine::machine(&system, root, models)),
        system,
        machine: process::uname('m').doing("cannot run", Path::new("uname"))?,
        clock: Utc::now(),
        reached_at: std::env::var("SSH_CONNECTION").ok().as_deref().and_then(reached_at),
        root: root.path().to_owned(),
        program: read_text(&root.program_id())?.filter(|_| root.program().exists()),
        damaged: manifest.map(|release| damaged(root, release)).unwrap_or_default(),
        contents: manifest.filter(|_| question.contents).map(|it| contents(root, it)).unwrap_or_default(),
        certificate: certificate::read(root)?,
        offered: question.certificate_files.as_ref().and_then(certificate::offered),
        account: account(),
        ipv6: TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok(),
        taken: taken(question, root, &components),
        docker,
        secrets: secrets::digests(root)?,
        ports: ports(question, manifest, &components)?,
        history: durable::read_json(&root.history())?.unwrap_or_default(),
        interrupted: journal::interrupted(&root.journal()).doing("cannot read", &root.journal())?,
        supervisor: supervisor(root)?,
        backups: Backups::read(root)?,
        versions: version::versions(
            root,
            question.versions.iter().filter_map(|name| Some((name, programs.get(name)?.as_ref()?))),
        ),
        programs,
        current,
        releases,
        leftovers,
        desired,
        components,
    })
}

/// Whether the machine was started after the current release came to be, and after somebody last asked how it came back.
fn restarted(root: &Root, booted: DateTime<Utc>) -> bool {
    let written = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok().map(DateTime::<Utc>::from);
    let deployed = written(root.history()).is_some_and(|at| at < booted);
    deployed && written(root.reboot()).is_none_or(|asked| asked < booted)
}

/// The third of what sshd tells: client and its port, server and its port.
fn reached_at(connection: &str) -> Option<IpAddr> {
    let address = connection.split(' ').nth(2)?.parse().ok()?;
    let is_of_one_link = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    (!is_of_one_link).then_some(address)
}

/// The supervisor, known by its lock; the status file alone may be a dead one's.
pub(super) fn supervisor(root: &Root) -> Result<Option<Supervisor>, Failure> {
    if !process::is_locked(&root.supervisor_lock()) {
        return Ok(None);
    }
    Ok(status(root)?.map(|status| status.supervisor))
}

/// What the supervisor wrote last, whether it still runs or not.
pub(super) fn status(root: &Root) -> Result<Option<Status>, Failure> {
    durable::read_json(&root.status())
}

/// Where `current` points; `None` before the first deploy.
pub(super) fn current(root: &Root) -> Result<Option<ReleaseId>, Failure> {
    match fs::read_link(root.current()) {
        Ok(target) => {
            let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
            Ok(name.map(ReleaseId::from_folder_name))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("cannot read", &root.current()),
    }
}

fn read_text(path: &Path) -> Result<Option<String>, Failure> {
    let bytes = durable::read_if_any(path).doing("cannot read", path)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// The releases, and beside them and the program what a deploy that was killed has left.
pub(super) fn releases(root: &Root) -> Result<(Vec<Release>, Vec<String>), Failure> {
    let (mut releases, mut leftovers) = (Vec::new(), Vec::new());
    for folder in [root.releases(), root.bin()] {
        if !folder.exists() {
            continue;
        }
        for entry in WalkDir::new(&folder).min_depth(1).max_depth(1).sort_by_file_name() {
            let entry = entry.map_err(io::Error::from).doing("cannot list", &folder)?;
            let is_known = [root.program(), root.program_id()].iter().any(|path| path == entry.path());
            match Release::read(entry.path()) {
                Some(release) => releases.push(release),
                None if is_known => {}
                None => {
                    leftovers.extend(entry.path().strip_prefix(root.path()).ok().map(|it| it.display().to_string()))
                }
            }
        }
    }
    Ok((releases, leftovers))
}

fn damaged(root: &Root, release: &Release) -> Vec<String> {
    let folder = root.release(&release.id);
    let intact = |path: &str, digest: &str| fs::read(folder.join(path)).is_ok_and(|bytes| sha256_hex(&bytes) == digest);
    let files = release.content.files.iter().filter(|(path, digest)| !intact(path, digest));
    let mut damaged: Vec<String> = files.map(|(path, _)| path.clone()).collect();
    if !folder.join("bin/xtask").exists() {
        damaged.push("bin/xtask".to_owned());
    }
    damaged
}

fn contents(root: &Root, release: &Release) -> Contents {
    let folder = root.release(&release.id);
    let read = |path: &String| Some((path.clone(), fs::read_to_string(folder.join(path)).ok()?));
    release.content.files.keys().filter_map(read).collect()
}

/// What the supervisor last wrote, corrected by what the locks say now.
fn components(root: &Root) -> Result<BTreeMap<Component, Running>, Failure> {
    let supervised = process::is_locked(&root.supervisor_lock());
    let mut components = status(root)?.map(|status| status.components).unwrap_or_default();
    for component in Component::ALL {
        let lives = process::is_locked(&root.component_lock(component));
        match components.get_mut(&component) {
            _ if supervised => {}
            Some(running) if !lives => (running.state, running.identity) = (State::Stopped, None),
            Some(running) => running.detail = Some("it runs, but no supervisor keeps it".to_owned()),
            None if lives => {
                if let Some(record) = durable::read_json::<Record>(&root.component_record(component))? {
                    components.insert(component, record.unsupervised());
                }
            }
            None => {}
        }
    }
    Ok(components)
}

fn account() -> Account {
    let ids = format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Account { ids, home: env::home_dir().unwrap_or_default() }
}

/// Who has the ports that are to be had as they are. Those that our own edge listens on are had.
fn taken(question: &Question, root: &Root, components: &BTreeMap<Component, Running>) -> BTreeMap<u16, String> {
    let edge_runs = components.get(&Component::Edge).is_some_and(Running::runs);
    let read = |folder: PathBuf| fs::read_to_string(folder.join("nginx/servers.conf")).unwrap_or_default();
    let servers = [root.live(), root.current()].map(read);
    let listened = |line: &str| line.trim().strip_prefix("listen ")?.split([' ', ';']).next()?.parse().ok();
    let ports: BTreeSet<u16> = servers.iter().flat_map(|text| text.lines().filter_map(listened)).collect();
    let ours = |port: &u16| edge_runs && ports.contains(port);
    let ports = question.fixed_ports.iter().filter(|port| !ours(port) && !port::is_free(**port));
    ports.map(|port| (*port, port::holder(*port))).collect()
}

/// Only the ports of components that do not run are tried: what runs has its port.
fn ports(
    question: &Question,
    current: Option<&Release>,
    components: &BTreeMap<Component, Running>,
) -> Result<BTreeMap<Component, PortFact>, Failure> {
    let runs = |component: &Component| components.get(component).is_some_and(Running::runs);
    let had = |component: &Component, wanted: u16| {
        let port = current?.content.ports.get(component).filter(|port| port.wanted == wanted)?;
        (runs(component) || port::is_free(port.chosen)).then_some(port.chosen)
    };
    let mut taken: Vec<u16> = question.ports.values().copied().filter(|port| *port != 0).collect();
    let mut facts = BTreeMap::new();
    for (component, wanted) in &question.ports {
        let fact = if let Some(free) = had(component, *wanted) {
            PortFact { wanted: *wanted, holder: None, free }
        } else {
            let others: Vec<u16> = taken.iter().copied().filter(|port| port != wanted).collect();
            let free = port::next_free(*wanted, &others).doing("cannot find", Path::new("a free port"))?;
            let holder = (*wanted != 0 && free != *wanted).then(|| port::holder(*wanted));
            PortFact { wanted: *wanted, holder, free }
        };
        taken.push(fact.free);
        facts.insert(*component, fact);
    }
    Ok(facts)
}

fn find(names: &[String]) -> Option<PathBuf> {
    names.iter().find_map(|name| process::find(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_reached_where_the_connection_came_in() {
        let reached = |connection| reached_at(connection).map(|address| address.to_string());
        assert_eq!(reached("10.0.0.7 50122 10.0.0.2 22").as_deref(), Some("10.0.0.2"));
        assert_eq!(reached("fd00::7 50122 fd00::2 22").as_deref(), Some("fd00::2"));
        for other in ["fe80::7%en0 50122 fe80::2%en0 22", "fe80::7 50122 fe80::2 22", "UNKNOWN", ""] {
            assert_eq!(reached(other), None, "{other}");
        }
    }
}
