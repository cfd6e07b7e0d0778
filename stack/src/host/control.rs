//! What a person asks of components by hand, and the end of it all.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    Follow, lock, native, observe,
    root::Way,
    starter::{Asked, starter},
};
use crate::{
    component::Component,
    declare::service,
    durable,
    failure::{Class, Failure},
    layout::Root,
    observed::{Desired, Init, State},
    protocol::Action,
    release::Release,
    secret::Secret,
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
    let starter = starter(root, Some(&release), Some(&lock));
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
pub(super) fn uninstall(
    root: &Root,
    data: bool,
    password: Option<&Secret>,
    follow: &mut Follow<'_>,
) -> Result<(), Failure> {
    if !root.state().exists() {
        return Err(Failure::new(Class::Nothing, format!("nothing is deployed in {}", root.path().display())));
    }
    let lock = lock(root, "uninstall")?;
    let releases = observe::releases(root)?.0;
    let service = releases.iter().find_map(|release| release.content.init).filter(|init| is_served(*init, root));
    let commands = service.map(|init| service::remove(init, root)).unwrap_or_default();
    let way = Way::find(&commands.iter().collect::<Vec<_>>(), password)?;
    change(root, |desired| desired.halted = true)?;
    let starter = starter(root, releases.first(), Some(&lock));
    starter.halt(follow)?;
    commands.iter().try_for_each(|command| way.run(command, &lock, follow))?;
    starter.erase(&releases, data)?;
    let mut gone =
        vec![root.current(), root.releases(), root.programs(), root.bin(), root.logs(), root.state(), root.live()];
    gone.extend(data.then(|| root.data()));
    gone.iter().try_for_each(|path| durable::remove(path))?;
    // Fails where something is left, the data above all; then the folder has a reason to stay.
    let _ = fs::remove_dir(root.data());
    let _ = fs::remove_dir(root.path());
    Ok(())
}

/// Whether the system knows our service, or would at its next start.
fn is_served(init: Init, root: &Root) -> bool {
    native::service(init, root).is_some() || Path::new(&service::place(init, root)).exists()
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
