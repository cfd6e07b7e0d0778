//! The supervisor from outside: have it run, tell it what a person wants, wait until it is so.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::{Follow, lock, observe, wait_for};
use crate::{
    component::Component,
    durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    observed::{Desired, State},
    process,
    protocol::{Action, Event},
    release::Release,
    supervise::{self, Status},
};

/// How long a supervisor may take to write its first status.
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(10);

/// How long components may take to do what was asked; longer than any grace.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(90);

/// What is over sooner needs no words; also how often an objection is asked for.
const TELL_AFTER: Duration = Duration::from_secs(1);

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
    let _lock = lock(root, &format!("{action:?}").to_lowercase())?;
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
        return halt(root, follow);
    }
    ensure_supervisor(root)?;
    let desired = supervise::read_desired(root)?;
    await_status(root, CONTROL_TIMEOUT, follow, |status| {
        let asked = |component: &Component| desired.restarts.get(component).copied().unwrap_or_default();
        let is_so = |component: &Component| match (action, status.components.get(component)) {
            (Action::Stop, running) => running.is_none_or(|it| it.identity.is_none()),
            (_, Some(it)) => it.state == State::Healthy && it.asked_restarts == asked(component),
            (_, None) => false,
        };
        if action != Action::Stop {
            fail_if_sick(status, &release, &desired)?;
        }
        Ok((status.revision >= revision && named.iter().all(is_so)).then_some(()))
    })
}

/// Ends everything and removes what a deploy brought.
pub(super) fn uninstall(root: &Root, data: bool, follow: &mut Follow<'_>) -> Result<(), Failure> {
    if !root.state().exists() {
        return Err(Failure::new(Class::Nothing, format!("nothing is deployed in {}", root.path().display())));
    }
    let _lock = lock(root, "uninstall")?;
    change(root, |desired| desired.halted = true)?;
    halt(root, follow)?;
    let mut gone = vec![root.current(), root.releases(), root.bin(), root.logs(), root.state()];
    gone.extend(data.then(|| root.data()));
    gone.iter().try_for_each(|path| durable::remove(path))?;
    // Fails where something is left, the data above all; then the folder has a reason to stay.
    let _ = fs::remove_dir(root.data());
    let _ = fs::remove_dir(root.path());
    Ok(())
}

/// The release that is deployed, for verbs that mean one.
fn deployed(root: &Root) -> Result<Release, Failure> {
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

/// Starts a supervisor if none runs; one that runs sees by itself what has changed.
pub(super) fn ensure_supervisor(root: &Root) -> Result<(), Failure> {
    let lock_path = root.supervisor_lock();
    if process::is_locked(&lock_path) {
        return Ok(());
    }
    let Some(lock) = process::lock_within(&lock_path, Duration::from_secs(1)).doing("cannot lock", &lock_path)? else {
        // Somebody else has just started one.
        return Ok(());
    };
    let log_path = root.supervisor_log();
    let log = fs::File::options().create(true).append(true).open(&log_path).doing("cannot write", &log_path)?;
    let command = supervise::command(root, None);
    let pid = process::spawn_holding(&command, lock, log).doing("cannot start", &command.program)?;
    let child = process::Identity::of_child(pid);
    let up = wait_for(SUPERVISOR_TIMEOUT, || match child.ended() {
        // Told to have nothing run, it is done as soon as that is so.
        Some(_) if supervise::read_desired(root)?.halted => Ok(Some(())),
        Some(how) => Err(sick_supervisor(&log_path, &how)),
        None => Ok(observe::supervisor(root)?.filter(|supervisor| supervisor.identity.pid == pid).map(|_| ())),
    })?;
    up.ok_or_else(|| sick_supervisor(&log_path, "it wrote no status"))
}

/// Waits until the supervisor that was just ended is gone.
pub(super) fn wait_for_lock(root: &Root) -> Result<(), Failure> {
    let gone = wait_for(SUPERVISOR_TIMEOUT, || Ok((!process::is_locked(&root.supervisor_lock())).then_some(())))?;
    gone.ok_or_else(|| Failure::new(Class::Failed, "the old supervisor does not end"))
}

fn sick_supervisor(log: &Path, how: &str) -> Failure {
    let said = process::last_words(log).unwrap_or_default();
    Failure::new(Class::Failed, "the supervisor cannot start")
        .because(&io::Error::other(format!("{how}: {said}")))
        .hint(format!("its log is {}", log.display()))
}

/// Waits until nothing runs any more; `desired` must say so already. Components that a killed supervisor left are
/// stopped by a new one.
pub(super) fn halt(root: &Root, follow: &mut Follow<'_>) -> Result<(), Failure> {
    let runs = || Component::ALL.into_iter().any(|component| process::is_locked(&root.component_lock(component)));
    let supervised = || process::is_locked(&root.supervisor_lock());
    if !supervised() && !runs() {
        return Ok(());
    }
    follow(Event::Waiting { detail: "every component to stop".to_owned() })?;
    if root.program().exists() {
        ensure_supervisor(root)?;
    }
    wait_for(CONTROL_TIMEOUT, || Ok((!supervised() && !runs()).then_some(())))?.ok_or_else(|| {
        Failure::new(Class::Failed, "some components do not stop").hint("`cargo xtask status` shows which")
    })
}

/// Looks at the supervisor's status until `look` has an answer or the time is over. Whoever follows hears what it waits
/// for, and can object.
pub(super) fn await_status<T>(
    root: &Root,
    timeout: Duration,
    follow: &mut Follow<'_>,
    mut look: impl FnMut(&Status) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let begun = Instant::now();
    let (mut waits, mut told_at) = (String::new(), begun);
    let found = wait_for(timeout, || {
        let Some(status) = observe::status(root)? else { return Ok(None) };
        let found = look(&status)?;
        let now = describe(&status);
        if found.is_none() && (now != waits && begun.elapsed() > TELL_AFTER || told_at.elapsed() > TELL_AFTER) {
            follow(Event::Waiting { detail: now.clone() })?;
            (waits, told_at) = (now, Instant::now());
        }
        Ok(found)
    })?;
    found.ok_or_else(|| {
        Failure::new(Class::Failed, format!("not healthy after {} s", timeout.as_secs()))
            .because(&io::Error::other(waits))
            .hint("`cargo xtask logs` shows what the components say")
    })
}

fn describe(status: &Status) -> String {
    let waits = status.components.iter().filter(|(_, running)| running.state != State::Healthy);
    let waits = waits.map(|(component, running)| {
        format!("{component}: {}", running.detail.as_deref().unwrap_or("does not answer yet"))
    });
    let waits: Vec<String> = waits.collect();
    if waits.is_empty() { "the supervisor to see what changed".to_owned() } else { waits.join("; ") }
}

/// There is no use in waiting for a component that cannot stay up, once it is the declared one: what is on its way out
/// may be as sick as it likes.
pub(super) fn fail_if_sick(status: &Status, release: &Release, desired: &Desired) -> Result<(), Failure> {
    for service in &release.content.services {
        let component = service.component;
        let Some(running) = status.components.get(&component).filter(|it| it.state == State::Unhealthy) else {
            continue;
        };
        let asked = desired.restarts.get(&component).copied().unwrap_or_default();
        let declared = (release.fingerprint(service), release.config_fingerprint(service), asked);
        if (&running.fingerprint, &running.config, running.asked_restarts) == (&declared.0, &declared.1, declared.2) {
            return Err(Failure::new(Class::Failed, format!("the {component} is not healthy"))
                .because(&io::Error::other(running.detail.clone().unwrap_or_default()))
                .hint(format!("`cargo xtask logs {component}` shows what it says")));
        }
    }
    Ok(())
}
