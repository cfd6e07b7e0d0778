//! Components that our supervisor starts: it is told what a person wants, and sees by itself which release is current.
//!
//! Invariant: nothing here starts a component; it waits until the supervisor has.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Follow,
    control::change,
    logs, observe,
    starter::{Asked, Starter},
    wait_for,
};
use crate::{
    component::Component,
    declare::service::by_hand,
    durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    observed::{Desired, Init, Running, State},
    plan::Step,
    process,
    protocol::{Action, Event, LogQuery},
    release::Release,
    supervise::{self, Start, Status, read_desired},
};

/// How long a supervisor may take to write its first status.
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the system may take to start one anew; launchd waits for ten seconds between two starts.
const SYSTEM_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a supervisor may take to become the release's program.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a component may take to get where a step wants it.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long components may take to do what was asked; longer than any grace.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(90);

/// What is over sooner needs no words; also how often an objection is asked for.
const TELL_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Supervised<'a> {
    pub(super) root: &'a Root,
    /// What has the supervisor run; `None`: we do.
    pub(super) init: Option<Init>,
}

impl Starter for Supervised<'_> {
    fn step(&self, step: &Step, release: &Release, follow: &mut Follow<'_>) -> Result<(), Failure> {
        match step {
            Step::Supervise { .. } => self.supervise(release, follow),
            Step::Start { component, .. } => {
                change(self.root, |desired| desired.stopped.retain(|stopped| stopped != component))?;
                self.await_component(*component, release, follow, |running| running.identity.is_some())
            }
            Step::Restart { component, ask, .. } => self.restart(*component, *ask, release, follow),
            Step::Reload { component } => {
                let config = fingerprints(release, *component)?.1;
                self.await_component(*component, release, follow, |running| running.config == config)
            }
            Step::Stop { component } => self.await_gone(*component, release, follow),
            step => Err(Failure::new(Class::Failed, format!("a supervisor cannot: {step}"))),
        }
    }

    fn gate(&self, release: &Release, timeout: Duration, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let desired = read_desired(self.root)?;
        if desired.halted {
            return Ok(());
        }
        self.await_status(timeout, follow, |status| {
            if status.release.as_ref() != Some(&release.id) {
                return Ok(None);
            }
            let mut meant =
                release.content.services.iter().filter(|service| !desired.stopped.contains(&service.component));
            let healthy = meant.all(|service| {
                status.components.get(&service.component).is_some_and(|running| {
                    running.state == State::Healthy
                        && running.fingerprint == release.fingerprint(service)
                        && running.config == release.config_fingerprint(service)
                })
            });
            if !healthy {
                fail_if_sick(status, release, &desired)?;
            }
            Ok(healthy.then_some(()))
        })
    }

    /// The supervisor sees by itself what is current.
    fn put_back(&self, _: &Release, to: Option<&Release>, follow: &mut Follow<'_>) -> Result<(), Failure> {
        if to.is_none() {
            change(self.root, |desired| desired.halted = true)?;
            self.halt(follow)?;
            // Before it may run again: a supervisor that the system has run is there still.
            durable::remove(&self.root.current())?;
            change(self.root, |desired| desired.halted = false)?;
        }
        Ok(())
    }

    fn control(&self, asked: &Asked<'_>, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let desired = read_desired(self.root)?;
        self.await_status(CONTROL_TIMEOUT, follow, |status| {
            let restarts = |component: &Component| desired.restarts.get(component).copied().unwrap_or_default();
            let is_so = |component: &Component| match (asked.action, status.components.get(component)) {
                (Action::Stop, running) => running.is_none_or(|it| it.identity.is_none()),
                (_, Some(it)) => it.state == State::Healthy && it.asked_restarts == restarts(component),
                (_, None) => false,
            };
            if asked.action != Action::Stop {
                fail_if_sick(status, asked.release, &desired)?;
            }
            Ok((status.revision >= asked.revision && asked.named.iter().all(is_so)).then_some(()))
        })
    }

    /// Components that a killed supervisor left are stopped by a new one. One that the system has run stays.
    fn halt(&self, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let root = self.root;
        let runs = || Component::ALL.into_iter().any(|component| process::is_locked(&root.component_lock(component)));
        let supervised = || process::is_locked(&root.supervisor_lock());
        if !supervised() && !runs() {
            return Ok(());
        }
        let revision = read_desired(root)?.revision;
        let seen = || Ok::<_, Failure>(observe::status(root)?.is_some_and(|status| status.revision >= revision));
        let is_done = || match self.init {
            None => Ok(!supervised() && !runs()),
            Some(_) => Ok::<_, Failure>(!runs() && (!supervised() || seen()?)),
        };
        if is_done()? {
            return Ok(());
        }
        follow(Event::Waiting { detail: "every component to stop".to_owned() })?;
        let done = wait_for(CONTROL_TIMEOUT, || {
            if runs() && root.program().exists() {
                self.ensure_supervisor()?;
            }
            Ok(is_done()?.then_some(()))
        })?;
        done.ok_or_else(|| {
            Failure::new(Class::Failed, "some components do not stop").hint("`cargo xtask status` shows which")
        })
    }

    fn logs(&self, query: &LogQuery, follow: &mut Follow<'_>) -> Result<(), Failure> {
        logs::logs(self.root, query, follow)
    }

    fn forget(&self, _: &Release) {}

    fn erase(&self, _: &[Release], _: bool) -> Result<(), Failure> {
        Ok(())
    }
}

impl Supervised<'_> {
    /// A supervisor becomes the release's program by itself. One that does not, being of a version that cannot read
    /// what we write, is ended: that costs nothing, its successor adopts what runs.
    fn supervise(&self, release: &Release, follow: &mut Follow<'_>) -> Result<(), Failure> {
        change(self.root, |desired| desired.halted = false)?;
        let (id, program) = (&release.id, &release.content.program);
        let mut follows = |timeout| {
            self.await_status(timeout, follow, |status| {
                let is_so = status.release.as_ref() == Some(id) && status.supervisor.program == *program;
                Ok(is_so.then_some(()))
            })
        };
        match (follows(FOLLOW_TIMEOUT), observe::supervisor(self.root)?) {
            (Err(failure), Some(old)) if failure.class == Class::Failed && old.program != *program => {
                old.identity.kill();
                wait_for_lock(self.root)?;
                follows(STEP_TIMEOUT)
            }
            (followed, _) => followed,
        }
    }

    fn restart(
        &self,
        component: Component,
        ask: bool,
        release: &Release,
        follow: &mut Follow<'_>,
    ) -> Result<(), Failure> {
        if ask {
            change(self.root, |desired| *desired.restarts.entry(component).or_default() += 1)?;
        }
        let asked = read_desired(self.root)?.restarts.get(&component).copied().unwrap_or_default();
        let fingerprint = fingerprints(release, component)?.0;
        self.await_component(component, release, follow, |running| {
            running.identity.is_some() && running.fingerprint == fingerprint && running.asked_restarts == asked
        })
    }

    fn await_component(
        &self,
        component: Component,
        release: &Release,
        follow: &mut Follow<'_>,
        is_so: impl Fn(&Running) -> bool,
    ) -> Result<(), Failure> {
        let desired = read_desired(self.root)?;
        self.await_status(STEP_TIMEOUT, follow, |status| {
            if status.release.as_ref() != Some(&release.id) {
                return Ok(None);
            }
            let reached = status.components.get(&component).is_some_and(&is_so);
            if !reached {
                fail_if_sick(status, release, &desired)?;
            }
            Ok(reached.then_some(()))
        })
    }

    fn await_gone(&self, component: Component, release: &Release, follow: &mut Follow<'_>) -> Result<(), Failure> {
        self.await_status(STEP_TIMEOUT, follow, |status| {
            let gone = status.components.get(&component).is_none_or(|running| running.identity.is_none());
            Ok((gone && status.release.as_ref() == Some(&release.id)).then_some(()))
        })
    }

    /// Looks at the supervisor's status until `look` has an answer or the time is over; a supervisor that has ended
    /// meanwhile gets a successor. Whoever follows hears what it waits for, and can object.
    fn await_status<T>(
        &self,
        timeout: Duration,
        follow: &mut Follow<'_>,
        mut look: impl FnMut(&Status) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let (mut waits, mut told_at) = (String::new(), begun);
        let found = wait_for(timeout, || {
            self.ensure_supervisor()?;
            let Some(status) = observe::status(self.root)? else { return Ok(None) };
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

    /// Starts a supervisor if none runs, or waits until the system has; one that runs sees by itself what has changed.
    fn ensure_supervisor(&self) -> Result<(), Failure> {
        let Some(init) = self.init else { return start_supervisor(self.root) };
        let is_up = || process::is_locked(&self.root.supervisor_lock());
        wait_for(SYSTEM_TIMEOUT, || Ok(is_up().then_some(())))?.ok_or_else(|| {
            let log = self.root.supervisor_log();
            let said = process::last_words(&log).unwrap_or_else(|| "it has printed nothing".to_owned());
            Failure::new(Class::Failed, format!("the system does not have service {} run", self.root.service()))
                .because(&io::Error::other(said))
                .hint(format!(
                    "`{}`, then the same command again; its log is {}",
                    by_hand(init, self.root),
                    log.display()
                ))
        })
    }
}

fn fingerprints(release: &Release, component: Component) -> Result<(String, String), Failure> {
    let service = release
        .service(component)
        .ok_or_else(|| Failure::new(Class::Failed, format!("release {} has no {component}", release.id)))?;
    Ok((release.fingerprint(service), release.config_fingerprint(service)))
}

/// Starts a supervisor of our own if none runs.
fn start_supervisor(root: &Root) -> Result<(), Failure> {
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
    let command = supervise::command(root, &Start::default());
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
fn wait_for_lock(root: &Root) -> Result<(), Failure> {
    let gone = wait_for(SUPERVISOR_TIMEOUT, || Ok((!process::is_locked(&root.supervisor_lock())).then_some(())))?;
    gone.ok_or_else(|| Failure::new(Class::Failed, "the old supervisor does not end"))
}

fn sick_supervisor(log: &Path, how: &str) -> Failure {
    let said = process::last_words(log).unwrap_or_default();
    Failure::new(Class::Failed, "the supervisor cannot start")
        .because(&io::Error::other(format!("{how}: {said}")))
        .hint(format!("its log is {}", log.display()))
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
fn fail_if_sick(status: &Status, release: &Release, desired: &Desired) -> Result<(), Failure> {
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
