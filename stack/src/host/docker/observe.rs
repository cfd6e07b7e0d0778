//! What there is of this root's containers, and whether Docker can be used at all.

use std::{collections::BTreeMap, fs, io, path::Path};

use chrono::Utc;
use walkdir::WalkDir;

use super::{SEEN, ask, tell, text};
use crate::{
    component::Component,
    declare::told,
    failure::{Doing, Failure},
    host::ask as http,
    layout::Root,
    observed::{Docker, Engine, Question, Running, State},
    process,
    release::{Release, Service, sha256_hex},
};

/// What `docker ps` is asked for, a container a line.
const FORMAT: &str = "{{.ID}}\t{{.Names}}\t{{.State}}\t{{.Status}}\t{{.Label \"com.docker.compose.service\"}}\t\
                      {{.Label \"frontier-llm-stack.fingerprint\"}}\t{{.Label \"frontier-llm-stack.image\"}}";

/// A container of this root.
pub(super) struct Found {
    pub(super) id: String,
    /// None: it is a remnant.
    pub(super) component: Option<Component>,
    /// `running`, `exited`, `restarting`, `created`.
    state: String,
    /// In Docker's words: `Up 3 seconds (healthy)`.
    status: String,
    fingerprint: String,
    image: String,
}

/// All containers of a project. Those that have not the name which Compose gives in the end are remnants of a recreation.
pub(super) fn list(project: &str) -> Result<Vec<Found>, Failure> {
    let filter = format!("label=com.docker.compose.project={project}");
    let text = tell(&["ps", "--all", "--no-trunc", "--filter", &filter, "--format", FORMAT])?;
    let containers = text.lines().filter_map(|line| {
        let mut fields = line.split('\t').map(str::to_owned);
        let [id, name, state, status, service, fingerprint, image] =
            std::array::from_fn(|_| fields.next().unwrap_or_default());
        let is_whole = name == format!("{project}-{service}-1");
        // The guide's names, which `Component` takes.
        let component = service.parse().ok().filter(|_| is_whole);
        (!id.is_empty()).then_some(Found { id, component, state, status, fingerprint, image })
    });
    Ok(containers.collect())
}

/// Components that have a container, and containers that no component has.
#[derive(Default)]
pub(in crate::host) struct Containers {
    pub(in crate::host) components: BTreeMap<Component, Running>,
    pub(in crate::host) remnants: Vec<String>,
}

/// How the containers of a root are, compared with the release that is to run.
pub(in crate::host) fn containers(root: &Root, release: Option<&Release>) -> Result<Containers, Failure> {
    let mut containers = Containers::default();
    for found in list(&root.project())? {
        let Some(component) = found.component else {
            containers.remnants.push(found.id);
            continue;
        };
        let service = release.and_then(|release| Some((release, release.service(component)?)));
        containers.components.insert(component, running(found, service));
    }
    Ok(containers)
}

fn running(found: Found, declared: Option<(&Release, &Service)>) -> Running {
    let runs = found.state == "running" || found.state == "restarting";
    let (state, detail) = state(&found, declared.map(|(_, service)| service));
    let config = declared.and_then(|(release, service)| match service.config_path {
        Some(_) if found.state == "running" => config(service),
        Some(_) => None,
        // Files of those that do not reload are a part of what they were made from.
        None if found.fingerprint == release.fingerprint(service) => Some(release.config_fingerprint(service)),
        None => None,
    });
    Running {
        state,
        identity: None,
        container: runs.then_some(found.id),
        image: Some(found.image),
        fingerprint: found.fingerprint,
        config: config.unwrap_or_default(),
        asked_restarts: 0,
        failures: 0,
        since: Utc::now(),
        detail,
    }
}

/// Docker's health checks come every ten seconds; before the first one, we ask ourselves.
fn state(found: &Found, service: Option<&Service>) -> (State, Option<String>) {
    let said = |state| {
        let words = last_words(&found.id);
        (state, Some(format!("{}: {words}", found.status).trim_end_matches([':', ' ']).to_owned()))
    };
    match found.state.as_str() {
        "running" if found.status.contains("(healthy)") => (State::Healthy, None),
        "running" if found.status.contains("(unhealthy)") => said(State::Unhealthy),
        "running" => match service.map(|service| http::get(&service.url(&service.ready_path))) {
            Some(Ok(_)) => (State::Healthy, None),
            Some(Err(why)) => (State::Starting, Some(format!("does not answer yet: {why}"))),
            None => (State::Starting, None),
        },
        "restarting" => said(State::Unhealthy),
        _ => said(State::Stopped),
    }
}

/// The name of the files that a component says it runs.
pub(super) fn config(service: &Service) -> Option<String> {
    told(&http::get(&service.url(service.config_path.as_ref()?)).ok()?)
}

/// The last thing that a container printed.
pub(super) fn last_words(id: &str) -> String {
    let Ok(command) = super::command(&["logs", "--tail=5", id]) else { return String::new() };
    let said = process::said(&command, super::ASK_TIMEOUT).unwrap_or_default();
    said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// What a plan has to know of Docker. Where a release runs on it, its containers answer for it being there.
pub(in crate::host) fn facts(
    root: &Root,
    question: &Question,
    current: Option<&Release>,
    remnants: Vec<String>,
    silent: Option<String>,
) -> Result<Docker, Failure> {
    let pinned = |image: &str| {
        let containers = current.into_iter().flat_map(|release| &release.content.services);
        containers.filter_map(Service::container).any(|container| container.image == image)
    };
    let engine = match (process::find("docker"), silent) {
        (None, _) => Engine::Absent,
        (Some(_), Some(said)) => Engine::Silent(said),
        (Some(_), None) if current.is_some() => Engine::Answers { version: String::new(), compose: None },
        (Some(_), None) => engine()?,
    };
    let mut images = BTreeMap::new();
    if matches!(engine, Engine::Answers { .. }) {
        let own = question.own_image.iter().map(|program| root.own_image(program));
        for image in question.images.iter().flatten().cloned().chain(own).filter(|image| !pinned(image)) {
            if let Ok(id) = ask(&["image", "inspect", "--format={{.Id}}", &image])? {
                images.insert(image, id);
            }
        }
    }
    let misplaced = current.map(|release| is_misplaced(root, release)).transpose()?.unwrap_or(false);
    Ok(Docker { engine, images, remnants, misplaced })
}

fn engine() -> Result<Engine, Failure> {
    let version = match ask(&["version", "--format={{.Server.Version}}"])? {
        Ok(version) => version,
        Err(said) => return Ok(Engine::Silent(said)),
    };
    let compose = ask(&["compose", "version", "--short"])?.ok();
    Ok(Engine::Answers {
        version,
        compose: compose.filter(|version| !version.trim_start_matches('v').starts_with("1.")),
    })
}

/// The files of a release that containers see.
pub(super) fn seen(release: &Release) -> impl Iterator<Item = &String> {
    release.content.files.keys().filter(|name| SEEN.iter().any(|folder| name.starts_with(&format!("{folder}/"))))
}

/// Files that containers see and that are not of a release.
pub(super) fn strangers(live: &Path, release: &Release) -> Result<Vec<std::path::PathBuf>, Failure> {
    let mut strangers = Vec::new();
    if !live.exists() {
        return Ok(strangers);
    }
    for entry in WalkDir::new(live) {
        let entry = entry.map_err(io::Error::from).doing("cannot list", live)?;
        let name = entry.path().strip_prefix(live).map(text).unwrap_or_default();
        if !entry.file_type().is_dir() && !release.content.files.contains_key(&name) {
            strangers.push(entry.into_path());
        }
    }
    Ok(strangers)
}

fn is_misplaced(root: &Root, release: &Release) -> Result<bool, Failure> {
    let live = root.live();
    let as_declared = |name: &String| {
        let digest = release.content.files.get(name);
        fs::read(live.join(name)).is_ok_and(|bytes| digest == Some(&sha256_hex(&bytes)))
    };
    Ok(!seen(release).all(as_declared) || !strangers(&live, release)?.is_empty())
}
