//! A keeper: the thread that has one component run as its target says.
//!
//! Invariant: it starts a process only when none holds the component's lock, and signals only the process that does.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use chrono::Utc;
use reqwest::blocking::Client;
use rustix::process::Signal;

use super::{Board, Record, log};
use crate::{
    component::Component,
    declare, durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    observed::{Running, State},
    process::{self, Command, Identity},
    release::{Launch, Release, ReleaseId, Service},
};

/// How long a probe may take.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks at whether the process lives; a look costs one read of /proc.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two probes of a component that is not healthy yet.
const PROBE_EVERY_STARTING: Duration = Duration::from_millis(25);
/// Between two probes of a healthy component.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Probes in a row that must succeed, with the process alive in between, before it counts as healthy: so that a
/// stranger on the port is not taken for a component that is about to die of that.
const PROBES_TO_BE_HEALTHY: u32 = 2;
/// Probes in a row that may fail before a healthy component counts as unhealthy.
const PROBES_TO_BE_UNHEALTHY: u32 = 3;
/// A process that has not answered for so long is hung, and replaced.
const HUNG_AFTER: Duration = Duration::from_secs(15);
/// As long as that at its start, when it may have much to read.
const HUNG_AFTER_START: Duration = Duration::from_secs(120);
/// The pause before the first restart; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A component that was healthy for so long has its failures forgotten.
const CALM_AFTER: Duration = Duration::from_secs(60);
/// Ended by itself so often without calm in between, it cannot stay up.
const FAILURES_TO_BE_UNHEALTHY: u32 = 3;
/// How long a component may take to read its files again.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what was killed may take to be gone.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// Between two looks at the size of the log.
const ROTATE_EVERY: Duration = Duration::from_secs(5);

/// What a component is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) release: ReleaseId,
    pub(super) service: Service,
    pub(super) fingerprint: String,
    pub(super) config: String,
    pub(super) asked_restarts: u64,
}

pub(super) struct Keeper {
    component: Component,
    root: Root,
    client: Client,
    board: Board,
    inbox: Receiver<Option<Target>>,
    target: Option<Target>,
    process: Option<Process>,
    failures: u32,
    /// Not before then is the component started again.
    start_at: Instant,
    rotated_at: Instant,
}

/// A process of the component, ours by birth or adopted.
struct Process {
    record: Record,
    /// Probes in a row that went as the last one did.
    good: u32,
    bad: u32,
    healthy_since: Option<Instant>,
    /// The start, or the last time it answered.
    answered_at: Instant,
    probe_at: Instant,
    /// The config that it would not take, and why: not tried again.
    refused: Option<(String, String)>,
}

impl Process {
    fn new(record: Record) -> Self {
        let now = Instant::now();
        Process { record, good: 0, bad: 0, healthy_since: None, answered_at: now, probe_at: now, refused: None }
    }
}

/// A keeper at work.
pub(super) struct Handle {
    targets: Sender<Option<Target>>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// `None`: it is not to run.
    pub(super) fn aim(&self, target: Option<Target>) {
        let _ = self.targets.send(target);
    }

    /// Waits until its last target is reached, or a first try made; what runs then goes on without it.
    pub(super) fn end(self) {
        drop(self.targets);
        if self.thread.join().is_err() {
            ::log::error!("a keeper has panicked");
        }
    }
}

impl Keeper {
    pub(super) fn spawn(component: Component, root: Root, client: Client, board: Board) -> Handle {
        let (targets, inbox) = channel();
        let now = Instant::now();
        let (target, process) = (None, None);
        let keeper = Keeper {
            component,
            root,
            client,
            board,
            inbox,
            target,
            process,
            failures: 0,
            start_at: now,
            rotated_at: now,
        };
        Handle { targets, thread: thread::spawn(move || keeper.run()) }
    }

    fn run(mut self) {
        self.adopt();
        let mut pause = Duration::MAX;
        loop {
            match self.inbox.recv_timeout(pause) {
                Ok(target) => self.aim(target),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            pause = self.step();
        }
    }

    /// Finds the process that a former supervisor left. If it has ended since, what it has left itself is ended too.
    fn adopt(&mut self) {
        let path = self.root.component_record(self.component);
        // A process that has the lock and no record yet is between the two: it takes a moment.
        for _ in 0..200 {
            if !process::is_locked(&self.root.component_lock(self.component)) {
                return;
            }
            let record: Option<Record> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match record {
                Some(record) if record.identity.is_alive() => {
                    ::log::info!("{}: adopted pid {}", self.component, record.identity.pid);
                    self.process = Some(Process::new(record));
                    return;
                }
                Some(record) => drop(record.identity.end_group()),
                None => {}
            }
            thread::sleep(Duration::from_millis(10));
        }
        ::log::error!("{}: its lock is held by a process that has no record", self.component);
    }

    /// A new target; what is wanted anew gets a new chance.
    fn aim(&mut self, target: Option<Target>) {
        let key = |target: &Option<Target>| target.as_ref().map(|it| (it.fingerprint.clone(), it.asked_restarts));
        if key(&target) != key(&self.target) {
            self.failures = 0;
            self.start_at = Instant::now();
        }
        self.target = target;
    }

    /// Does what is next, and says after what pause to look again.
    fn step(&mut self) -> Duration {
        self.rotate();
        let ended = self.process.as_ref().and_then(|process| process.record.identity.ended());
        if let Some(how) = ended {
            self.lost(&how);
        }
        match (&self.process, self.target.clone()) {
            (None, None) => self.idle(),
            (None, Some(target)) => self.start(&target),
            (Some(_), None) => self.stop_then_look(),
            (Some(process), Some(target)) => {
                let record = &process.record;
                if (&record.fingerprint, record.asked_restarts) != (&target.fingerprint, target.asked_restarts) {
                    return self.stop_then_look();
                }
                let refused = process.refused.as_ref().is_some_and(|(config, _)| *config == target.config);
                if record.config != target.config && !refused {
                    self.reload(&target);
                }
                self.probe(&target.service)
            }
        }
    }

    fn idle(&mut self) -> Duration {
        self.board.write(self.component, None);
        Duration::MAX
    }

    fn stop_then_look(&mut self) -> Duration {
        let grace_s = self.target.as_ref().map_or(15, |target| target.service.stop_grace_s);
        ::log::info!("{}: stopping", self.component);
        self.stop(Duration::from_secs(grace_s));
        Duration::ZERO
    }

    fn start(&mut self, target: &Target) -> Duration {
        let wait = self.start_at.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            return wait.min(LOOK_EVERY);
        }
        let ready = |need: &Component| {
            self.board.read(|components| components.get(need).is_some_and(|it| it.state == State::Healthy))
        };
        if let Some(need) = target.service.needs.iter().find(|need| !ready(need)) {
            self.report(State::Starting, Some(format!("waits for the {need}")));
            return PROBE_EVERY_STARTING;
        }
        match self.spawn_process(target) {
            Ok(identity) => {
                ::log::info!("{}: started pid {}", self.component, identity.pid);
                self.process = Some(Process::new(Record {
                    identity,
                    fingerprint: target.fingerprint.clone(),
                    config: target.config.clone(),
                    asked_restarts: target.asked_restarts,
                }));
                self.report(self.state_of_start(), None);
                PROBE_EVERY_STARTING
            }
            Err(failure) => {
                let causes = failure.causes.first().cloned().unwrap_or_default();
                self.failed(format!("{failure}: {causes}"));
                LOOK_EVERY
            }
        }
    }

    /// Starts our own program, which is given the lock, leaves the record and becomes the component; see
    /// [`run_component`].
    fn spawn_process(&self, target: &Target) -> Result<Identity, Failure> {
        let lock_path = self.root.component_lock(self.component);
        let lock = process::lock_within(&lock_path, Duration::from_secs(1)).doing("cannot lock", &lock_path)?;
        let lock = lock.ok_or_else(|| {
            Failure::new(Class::Locked, format!("the {} runs already: {} is held", self.component, lock_path.display()))
        })?;
        let path = self.root.log(self.component);
        let log = log::open(&path).doing("cannot write", &path)?;
        let program = self.root.current().join("bin/xtask");
        let args = [
            "host".to_owned(),
            "run".to_owned(),
            self.component.to_string(),
            format!("--root={}", self.root.path().display()),
            format!("--release={}", target.release),
            format!("--asked-restarts={}", target.asked_restarts),
        ];
        let command = Command { program, args: args.to_vec(), env: BTreeMap::new() };
        let pid = process::spawn_group(&command, lock, log).doing("cannot start", &command.program)?;
        Ok(Identity::of_child(pid))
    }

    /// The process ended, and nobody asked it to.
    fn lost(&mut self, how: &str) {
        self.stop(Duration::ZERO);
        let said = process::last_words(&self.root.log(self.component));
        self.failed(said.map_or_else(|| how.to_owned(), |said| format!("{how}: {said}")));
    }

    fn failed(&mut self, detail: String) {
        ::log::warn!("{}: {detail}", self.component);
        self.failures += 1;
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.failures - 1)).min(LONGEST_PAUSE);
        self.start_at = Instant::now() + pause;
        self.report(self.state_of_start(), Some(detail));
    }

    fn state_of_start(&self) -> State {
        if self.failures < FAILURES_TO_BE_UNHEALTHY { State::Starting } else { State::Unhealthy }
    }

    /// Asks the whole group to end, and after the grace makes it. Returns when nothing of it is left.
    fn stop(&mut self, grace: Duration) {
        let Some(process) = self.process.take() else { return };
        let (identity, lock) = (&process.record.identity, self.root.component_lock(self.component));
        let deadline = Instant::now() + grace;
        let (mut asked, mut ended_at) = (false, None);
        loop {
            if identity.ended().is_some() {
                let gone = identity.end_group() && !process::is_locked(&lock);
                // Where nobody reaps orphans, the killed ones stay on the list; they do no harm.
                if gone || ended_at.get_or_insert_with(Instant::now).elapsed() > GONE_AFTER {
                    return;
                }
            } else if Instant::now() >= deadline {
                identity.signal_group(Signal::KILL);
            } else if !asked {
                // nginx cuts what it serves on TERM, and lets it finish on QUIT.
                let end = if self.component == Component::Edge { Signal::QUIT } else { Signal::TERM };
                identity.signal_group(end);
                asked = true;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn reload(&mut self, target: &Target) {
        let service = &target.service;
        let refused = match (&service.reload_path, &service.config_path) {
            (Some(path), _) => self.post_reload(service, path),
            (None, Some(path)) => self.signal_reload(service, path, &target.config),
            (None, None) => return,
        };
        let Some(process) = &mut self.process else { return };
        match refused {
            None => {
                ::log::info!("{}: reloaded", self.component);
                process.record.config.clone_from(&target.config);
                process.refused = None;
            }
            Some(detail) => {
                ::log::warn!("{}: {detail}", self.component);
                // It may have taken a part of them: what it runs now is none that we know.
                process.record.config = "refused".to_owned();
                process.refused = Some((target.config.clone(), detail));
            }
        }
        process.probe_at = Instant::now();
        if let Err(failure) = durable::write_volatile_json(&self.root.component_record(self.component), &process.record)
        {
            ::log::error!("{}: {failure}", self.component);
        }
    }

    /// Has it read its files again by a request; why it would not, if so.
    fn post_reload(&self, service: &Service, path: &str) -> Option<String> {
        let answer = self.client.post(service.url(path)).timeout(Duration::from_secs(30)).send();
        match answer.map(|answer| (answer.status(), answer.text().unwrap_or_default())) {
            Ok((status, _)) if status.is_success() => None,
            Ok((status, text)) => Some(format!("it refused its new files ({status}): {}", text.trim())),
            Err(error) => Some(format!("it did not answer the reload: {}", root_cause(&error))),
        }
    }

    /// Has it read its files again by a signal, and waits until it tells the name of these.
    fn signal_reload(&self, service: &Service, path: &str, config: &str) -> Option<String> {
        self.process.as_ref()?.record.identity.signal(Signal::HUP);
        let deadline = Instant::now() + RELOAD_TIMEOUT;
        loop {
            let answer = self.client.get(service.url(path)).send().and_then(reqwest::blocking::Response::text);
            match answer {
                Ok(text) if declare::told(&text).as_deref() == Some(config) => return None,
                _ if Instant::now() < deadline => thread::sleep(PROBE_EVERY_STARTING),
                Ok(_) => {
                    let said = process::last_words(&self.root.log(self.component)).unwrap_or_default();
                    return Some(format!("it goes on with its old files: {said}"));
                }
                Err(error) => return Some(format!("it did not answer after the reload: {}", root_cause(&error))),
            }
        }
    }

    /// Asks the component whether it can serve, when that is due.
    fn probe(&mut self, service: &Service) -> Duration {
        let Some(process) = &mut self.process else { return Duration::ZERO };
        let now = Instant::now();
        if now < process.probe_at {
            return (process.probe_at - now).min(LOOK_EVERY);
        }
        let answer = self.client.get(service.url(&service.ready_path)).send().and_then(|it| it.error_for_status());
        let now = Instant::now();
        match answer {
            Ok(_) => {
                (process.good, process.bad, process.answered_at) = (process.good + 1, 0, now);
                if process.good >= PROBES_TO_BE_HEALTHY && process.record.identity.is_alive() {
                    let since = *process.healthy_since.get_or_insert(now);
                    process.probe_at = now + PROBE_EVERY;
                    if now - since > CALM_AFTER {
                        self.failures = 0;
                    }
                    match process.refused.clone() {
                        Some((_, detail)) => self.report(State::Unhealthy, Some(detail)),
                        None => self.report(State::Healthy, None),
                    }
                } else {
                    process.probe_at = now + PROBE_EVERY_STARTING;
                }
            }
            Err(error) => {
                (process.good, process.bad) = (0, process.bad + 1);
                let was_healthy = process.healthy_since.is_some();
                process.probe_at = now + if was_healthy { PROBE_EVERY } else { PROBE_EVERY_STARTING };
                let silent = now - process.answered_at;
                let (bad, why) = (process.bad, root_cause(&error));
                if silent > if was_healthy { HUNG_AFTER } else { HUNG_AFTER_START } {
                    self.stop(Duration::from_secs(1));
                    self.failed(format!("did not answer for {} s and was ended: {why}", silent.as_secs()));
                } else if was_healthy && bad >= PROBES_TO_BE_UNHEALTHY {
                    self.report(State::Unhealthy, Some(format!("does not answer: {why}")));
                }
            }
        }
        PROBE_EVERY_STARTING
    }

    /// Writes to the board what has changed.
    fn report(&self, state: State, detail: Option<String>) {
        let before = self.board.read(|components| components.get(&self.component).cloned());
        let since = before.as_ref().filter(|it| it.state == state).map_or_else(Utc::now, |it| it.since);
        let mut running = Running { state, since, detail, failures: self.failures, ..Running::default() };
        // Without a process it is what it tries to be that is in this state.
        if let Some(target) = &self.target {
            running.fingerprint.clone_from(&target.fingerprint);
            running.config.clone_from(&target.config);
            running.asked_restarts = target.asked_restarts;
        }
        if let Some(Process { record, refused, .. }) = &self.process {
            running.fingerprint.clone_from(&record.fingerprint);
            running.config.clone_from(refused.as_ref().map_or(&record.config, |(config, _)| config));
            running.asked_restarts = record.asked_restarts;
            running.identity = Some(record.identity.clone());
        }
        if before.as_ref() != Some(&running) {
            self.board.write(self.component, Some(running));
        }
    }

    fn rotate(&mut self) {
        if self.rotated_at.elapsed() >= ROTATE_EVERY {
            self.rotated_at = Instant::now();
            let path = self.root.log(self.component);
            if let (true, Err(error)) = (path.exists(), log::rotate(&path)) {
                ::log::warn!("{}: cannot rotate {}: {error}", self.component, path.display());
            }
        }
    }
}

/// Leaves a component's record, and becomes it. The lock rides on standard input.
///
/// # Errors
/// The component runs already, or cannot be started. On success it does not return.
pub fn run_component(
    root: &Root,
    component: Component,
    release: &ReleaseId,
    asked_restarts: u64,
) -> Result<std::convert::Infallible, Failure> {
    let lock = root.component_lock(component);
    if !process::hold_on_stdin(&lock).doing("cannot lock", &lock)? {
        return Err(Failure::new(Class::Locked, format!("the {component} runs already: {} is held", lock.display())));
    }
    let folder = root.release(release);
    let release = Release::read(&folder)
        .ok_or_else(|| Failure::new(Class::Failed, format!("{} is no release", folder.display())))?;
    let service = release
        .service(component)
        .ok_or_else(|| Failure::new(Class::Failed, format!("release {} has no {component}", release.id)))?;
    let identity = Identity::own().doing("cannot identify", Path::new("this process"))?;
    let (fingerprint, config) = (release.fingerprint(service), release.config_fingerprint(service));
    let record = Record { identity, fingerprint, config, asked_restarts };
    durable::write_volatile_json(&root.component_record(component), &record)?;
    let Launch::Process { command, .. } = &service.launch else {
        return Err(Failure::new(Class::Failed, format!("the {component} of release {} is a container", release.id)));
    };
    let error = process::become_program(command);
    Err(error).doing("cannot run", &command.program)
}

/// reqwest's own message only says that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
