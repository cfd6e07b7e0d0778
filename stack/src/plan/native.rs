//! What it takes to have a release run as programs of the host's own, beside what the supervisor does.

use super::Step;
use crate::{
    component::Component,
    declare::service,
    layout::Root,
    observed::{Observed, Running, SystemService},
    process::Command,
    release::{Release, Tarball, sha256_hex},
};

/// What the release needs of others' programs and the host does not have yet.
pub(super) fn fetch(release: &Release, observed: &Observed) -> Vec<Step> {
    let programs = observed.native.as_ref().map(|native| &native.programs);
    let missing = |tarball: &&Tarball| programs.is_none_or(|programs| !programs.contains(&tarball.folder()));
    release.content.tarballs.iter().filter(missing).cloned().map(Step::Fetch).collect()
}

/// The firewall's leave for nginx, by the path that its links lead to, which every version has anew.
pub(super) fn open(release: &Release, observed: &Observed) -> Option<Step> {
    let firewall = observed.native.as_ref()?.firewall.as_ref().filter(|firewall| !firewall.admits)?;
    release.service(Component::Edge)?;
    let command = |flag: &str| Command {
        program: firewall.tool.clone(),
        args: vec![flag.to_owned(), firewall.nginx.display().to_string()],
        env: [].into(),
    };
    let commands = vec![command("--add"), command("--unblockapp")];
    Some(Step::AsRoot { what: "have the firewall let nginx in".to_owned(), commands })
}

/// The service that has the system run our supervisor, if it is not there as declared.
pub(super) fn serve(release: &Release, observed: &Observed) -> Option<Step> {
    let init = release.content.init?;
    let known = observed.native.as_ref().and_then(|native| native.service.as_ref());
    let root = Root::new(observed.root.clone());
    let file = service::file(init, &root);
    let is_declared = |definition: &str| release.content.files.get(&file) == Some(&sha256_hex(definition.as_bytes()));
    // Where somebody has loaded it by hand before anything was deployed, it runs as soon as there is something to run.
    let will_run = |service: &SystemService| service.runs || observed.current.is_none();
    if known.is_some_and(|service| will_run(service) && is_declared(&service.definition)) {
        return None;
    }
    let staged = root.release(&release.id).join(&file);
    let commands = service::install(init, &root, &staged, known.is_some());
    // What served before is served by it again.
    let undo = if known.is_none() && observed.current.is_none() { service::remove(init, &root) } else { Vec::new() };
    let runs = |component: &Component| observed.components.get(component).is_some_and(Running::runs);
    let stops = Component::ALL.into_iter().filter(|it| known.is_some_and(|service| service.runs) && runs(it)).collect();
    Some(Step::Serve { service: root.service(), commands, undo, stops })
}

/// What root will have to do for a release of which only an outline is known.
pub(super) fn foreseen(release: &Release, observed: &Observed) -> Vec<Step> {
    open(release, observed).into_iter().chain(serve(release, observed)).collect()
}

/// Others' programs that no kept release runs, and what is left of downloads.
pub(super) fn unneeded<'a>(kept: impl Iterator<Item = &'a Release>, observed: &Observed) -> Vec<String> {
    let used: Vec<String> = kept.flat_map(|it| &it.content.tarballs).map(Tarball::folder).collect();
    let programs = observed.native.iter().flat_map(|native| &native.programs);
    programs.filter(|name| !used.contains(name)).map(|name| format!("programs/{name}")).collect()
}
