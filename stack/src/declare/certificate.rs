//! The certificate that the edge shows: whether there is one that will do, and what has to be done for one.

use std::path::PathBuf;

use chrono::TimeDelta;

use super::Host;
use crate::{
    failure::{Class, Failure},
    plan::Step,
    settings::{Settings, Tls},
};

/// A certificate that ends sooner is renewed. Deploys come more often than this, and an alert says so if they do not.
const RENEW_BEFORE: TimeDelta = TimeDelta::days(30);

/// The digest of the certificate that the edge is to show, and the step that brings it.
pub(super) struct Wanted {
    pub(super) digest: Option<String>,
    pub(super) first: Option<Step>,
}

/// The files to ask about.
pub(super) fn files(settings: &Settings) -> Option<[PathBuf; 2]> {
    let edge = &settings.edge;
    let files = [edge.certificate.clone()?, edge.certificate_key.clone()?];
    (edge.tls == Tls::Files).then_some(files)
}

pub(super) fn wanted(host: &Host<'_>) -> Result<Wanted, Failure> {
    let observed = host.observed;
    let has = observed.certificate.as_ref();
    let digest = has.map(|it| it.digest.clone());
    let step = match host.settings.edge.tls {
        Tls::Off => return Ok(Wanted { digest: None, first: None }),
        Tls::Files => {
            let Some(offered) = &observed.offered else {
                return Err(Failure::new(
                    Class::Settings,
                    "the edge's certificate or its key cannot be read on the host",
                )
                .hint("`certificate` and `certificate_key` under [edge] are paths there, which your user can read"));
            };
            let is_it = has.is_some_and(|it| !it.internal && it.digest == *offered);
            (!is_it).then(|| Step::Certify { names: Vec::new(), files: files(host.settings) })
        }
        Tls::Internal => {
            let names = names(host);
            let is_good = has.is_some_and(|it| {
                let ends_soon = it.expires.is_none_or(|expires| expires - observed.clock < RENEW_BEFORE);
                it.internal && !ends_soon && names.iter().all(|name| it.names.contains(name))
            });
            (!is_good).then(|| {
                // What it was good for it stays good for: hosts have several addresses.
                let known = has.filter(|it| it.internal).map(|it| it.names.clone()).unwrap_or_default();
                let more = known.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>();
                Step::Certify { names: names.into_iter().chain(more).collect(), files: None }
            })
        }
    };
    Ok(Wanted { digest, first: step })
}

/// By what clients know the host.
fn names(host: &Host<'_>) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), host.settings.host.address.clone()];
    names.extend(host.observed.reached_at.map(|address| address.to_string()));
    names.dedup();
    names
}
