//! What a person asks of components by hand, and the end of it all.

use std::{collections::BTreeSet, fs};

use super::{
    Follow, lock, observe,
    starter::{Asked, starter},
};
use crate::{
    component::{Component, Runtime},
    durable,
    failure::{Class, Failure},
    layout::Root,
    observed::{Desired, State},
    protocol::Action,
    release::Release,
    supervise,
};

/// Starts, stops or restarts by hand, and returns when it is done.
pub(super) fn control(
    root: &Root,
    action: Action,
    components: &BTreeSet<Component>,
    follow: &mut Follow<'_>,
) -> Result<(), Failure> {
    let release = deployed(root)?;
    if let Some(unknown) = components.iter().find(|component| release.service(**component).is_none()) {
        let absent = release.content.absent.iter().find(|absent| absent.component == *unknown);
        let reason = absent.map(|absent| absent.reason.clone());
        return Err(Failure::new(Class::Nothing, format!("the {unknown} is not part of this stack"))
            .hint(reason.unwrap_or_else(|| "`cargo xtask status` lists what is".to_owned())));
    }
    let lock = lock(root, &format!("{action:?}").to_lowercase())?;
    let starter = starter(root, release.content.runtime, Some(&lock));
    // What cannot stay up gets a new try, told from the old ones by its number.
    let sick = |component: &Component| {
        let status = observe::status(root).ok().flatten();
        status.is_some_and(|it| it.components.get(component).is_some_and(|it| it.state == State::Unhealthy))
    };
    let whole = components.is_empty();
    let named: BTreeSet<Component> = match whole {
        true => release.content.services.iter().map(|service| service.component).collect(),
        false => components.clone(),
    };
    let revision = change(root, |desired| match action {
        Action::Stop if whole => desired.halted = true,
        Action::Stop => desired.stopped.extend(&named),
        Action::Start | Action::Restart => {
            if std::mem::take(&mut desired.halted) {
                // Of a stack that was stopped as a whole, only what is named starts.
                desired.stopped.extend(release.content.services.iter().map(|service| service.component));
            }
            desired.stopped.retain(|component| !named.contains(component));
            for component in named.iter().filter(|component| action == Action::Restart || sick(component)) {
                *desired.restarts.entry(*component).or_default() += 1;
            }
        }
    })?;
    if action == Action::Stop && whole {
        return starter.halt(follow);
    }
    starter.control(&Asked { action, named: &named, release: &release, revision }, follow)
}

/// Ends everything and removes what a deploy brought.
pub(super) fn uninstall(root: &Root, data: bool, follow: &mut Follow<'_>) -> Result<(), Failure> {
    if !root.state().exists() {
        return Err(Failure::new(Class::Nothing, format!("nothing is deployed in {}", root.path().display())));
    }
    let lock = lock(root, "uninstall")?;
    change(root, |desired| desired.halted = true)?;
    let releases = observe::releases(root)?.0;
    // Where no release is left to say who would have started it, our supervisor is the one that could still run.
    let runtime = releases.first().map_or(Runtime::Sandbox, |release| release.content.runtime);
    let starter = starter(root, runtime, Some(&lock));
    starter.halt(follow)?;
    starter.erase(&releases, data)?;
    let mut gone = vec![root.current(), root.releases(), root.bin(), root.logs(), root.state(), root.live()];
    gone.extend(data.then(|| root.data()));
    gone.iter().try_for_each(|path| durable::remove(path))?;
    // Fails where something is left, the data above all; then the folder has a reason to stay.
    let _ = fs::remove_dir(root.data());
    let _ = fs::remove_dir(root.path());
    Ok(())
}

/// The release that is deployed, for verbs that mean one.
pub(super) fn deployed(root: &Root) -> Result<Release, Failure> {
    supervise::read_release(root)?.ok_or_else(|| {
        Failure::new(Class::Nothing, format!("nothing is deployed in {}", root.path().display()))
            .hint("`cargo xtask deploy` brings up a stack")
    })
}

/// Changes what a person wants; answers the revision that says so.
pub(super) fn change(root: &Root, change: impl FnOnce(&mut Desired)) -> Result<u64, Failure> {
    let before = supervise::read_desired(root)?;
    let mut desired = before.clone();
    change(&mut desired);
    if desired != before {
        desired.revision += 1;
        durable::write_json(&root.desired(), &desired)?;
    }
    Ok(desired.revision)
}
