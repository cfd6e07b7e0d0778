//! What it takes to have a release run in containers.
//!
//! Containers are made anew only for another image, environment or secret; for other files they are told to read them again.

use super::{Raised, Step};
use crate::{
    component::Component,
    observed::{Observed, State},
    release::{Release, Service},
};

/// The steps behind the switch, but for the gate.
pub(super) fn run(release: &Release, observed: &Observed, switched: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let docker = observed.docker.as_ref();
    if let Some(remnants) = docker.map(|docker| &docker.remnants).filter(|remnants| !remnants.is_empty()) {
        steps.push(Step::Clear { containers: remnants.clone() });
    }
    // A deploy has made them before; on the way back one may have been removed meanwhile.
    let missing = crate::declare::docker::SECRETS.iter().filter(|name| !observed.secrets.contains_key(**name));
    steps.extend(missing.map(|name| Step::Generate { secret: (*name).to_owned() }));
    if switched || docker.is_none_or(|docker| docker.misplaced) {
        steps.push(Step::Place { release: release.id.clone() });
    }
    let services = &release.content.services;
    let raised: Vec<Raised> = services.iter().filter_map(|service| raise(release, service, observed)).collect();
    for service in services.iter().filter(|service| raised.iter().any(|it| it.component == service.component)) {
        steps.extend(keep(release, service, observed));
    }
    let reloaded = services.iter().filter(|service| {
        let running = observed.components.get(&service.component);
        let is_raised = raised.iter().any(|it| it.component == service.component);
        !is_raised && running.is_some_and(|it| it.config != release.config_fingerprint(service))
    });
    let reloads: Vec<Step> = reloaded.map(|service| Step::Reload { component: service.component }).collect();
    if !raised.is_empty() {
        steps.push(Step::Up { components: raised });
    }
    steps.extend(reloads);
    let gone =
        |component: &Component| observed.components.contains_key(component) && release.service(*component).is_none();
    steps.extend(Component::ALL.into_iter().filter(gone).map(|component| Step::Stop { component }));
    steps
}

/// Why a component's container has to be made anew, or made at all.
fn raise(release: &Release, service: &Service, observed: &Observed) -> Option<Raised> {
    let component = service.component;
    let running = observed.components.get(&component).filter(|running| running.runs());
    let why = match running {
        _ if observed.desired.stopped.contains(&component) || observed.desired.halted => "it was stopped by hand",
        None => "it does not run",
        Some(running) if running.fingerprint != release.fingerprint(service) => {
            "its image, environment or secret changed"
        }
        Some(running) if running.state == State::Unhealthy => running.detail.as_deref().unwrap_or("it does not answer"),
        Some(_) => return None,
    };
    Some(Raised { component, why: why.to_owned(), serves: running.is_some() })
}

/// A copy of what another image may change for good, before it does.
fn keep(release: &Release, service: &Service, observed: &Observed) -> Option<Step> {
    let container = service.container()?;
    let volume = container.migrates.clone()?;
    let image = observed.components.get(&service.component)?.image.as_ref()?;
    (*image != container.image_id).then(|| Step::Keep {
        component: service.component,
        volume,
        image: image.clone(),
        release: release.id.clone(),
    })
}

/// The way back for data: what `from` may have changed is put back for `to`, where another image reads it.
pub(crate) fn put_back(from: &Release, to: &Release) -> Vec<Step> {
    let changed = |service: &Service| {
        let (now, then) = (from.service(service.component)?.container()?, service.container()?);
        let volume = then.migrates.clone().filter(|_| now.image_id != then.image_id)?;
        let (component, image, release) = (service.component, then.image_id.clone(), from.id.clone());
        Some(Step::PutBack { component, volume, image, release })
    };
    to.content.services.iter().filter_map(changed).collect()
}
