//! The supervisor: one small process that has a host run its current release.
//!
//! It is level-triggered. What should be stands in files (`current`, `state/desired.json`); it looks at them twenty times
//! a second, and its keepers, one thread a component, bring their component there. Nobody has to wake it, so no wake-up
//! can be lost, and no signal can meet it between two programs. It keeps nothing in memory that it could not find again:
//! killed, it leaves its components running, and the next one adopts them by their locks.
//! Invariant: at most one supervisor and at most one process group per component run on a root, by construction: each
//! holds a lock from before its first act to its last.

mod keeper;
mod log;
mod mac;

pub use keeper::run_component;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use chrono::Utc;
use keeper::{Keeper, Target};
use reqwest::blocking::Client;
use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    component::Component,
    durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    observed::{Desired, Running, State, Supervisor},
    process::{self, Command, Identity},
    release::{MANIFEST, Release, ReleaseId},
};

/// Between two looks at the files that say what should be.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the supervisor tells everyone, in `state/status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Who wrote it.
    pub(crate) supervisor: Supervisor,
    /// The release that it last saw as current.
    pub(crate) release: Option<ReleaseId>,
    /// The revision of [`Desired`] that it last saw.
    pub(crate) revision: u64,
    /// Every component that it keeps.
    pub(crate) components: BTreeMap<Component, Running>,
}

/// Which process a component is, in `state/run/`. Written by the process itself, under its lock, before it becomes the
/// component: so there is no moment in which a component runs and nobody could find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) identity: Identity,
    pub(crate) fingerprint: String,
    pub(crate) config: String,
    pub(crate) asked_restarts: u64,
}

impl Record {
    /// What is known of a component that no supervisor ever saw.
    pub(crate) fn unsupervised(self) -> Running {
        Running {
            state: State::Starting,
            identity: Some(self.identity),
            container: None,
            image: None,
            fingerprint: self.fingerprint,
            config: self.config,
            asked_restarts: self.asked_restarts,
            failures: 0,
            since: Utc::now(),
            detail: Some("it runs, but no supervisor keeps it".to_owned()),
        }
    }
}

/// What keepers tell: the state of all components, and that it changed.
#[derive(Clone)]
struct Board {
    components: Arc<Mutex<BTreeMap<Component, Running>>>,
    changed: Sender<Event>,
}

impl Board {
    fn read<T>(&self, look: impl FnOnce(&BTreeMap<Component, Running>) -> T) -> T {
        look(&self.components.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, component: Component, running: Option<Running>) {
        let mut components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        match running {
            Some(running) => components.insert(component, running),
            None => components.remove(&component),
        };
        drop(components);
        let _ = self.changed.send(Event::Changed);
    }
}

enum Event {
    /// Stop everything and end.
    Terminate,
    /// A keeper wrote to the board.
    Changed,
}

/// How a supervisor was started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The identity that whoever started it as another program's successor wanted it to have.
    pub expected: Option<String>,
    /// Whether the system has it run: then it stays when everything else was stopped, since only root could start it again.
    pub stays: bool,
}

/// Keeps the current release of `root` running until told to stop. `program` is the identity of this program.
///
/// # Errors
/// Another supervisor runs on this root, or its files cannot be written.
pub fn supervise(root: Root, program: String, start: Start) -> Result<(), Failure> {
    process::leave_session();
    let lock = root.supervisor_lock();
    if !process::hold_on_stdin(&lock).doing("cannot lock", &lock)? {
        return Err(Failure::new(Class::Locked, "another supervisor runs on this root"));
    }
    let (sender, events) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM]).doing("cannot listen for signals in", root.path())?;
    let terminate = sender.clone();
    thread::spawn(move || signals.forever().for_each(|_| drop(terminate.send(Event::Terminate))));
    let identity = Identity::own().doing("cannot identify", Path::new("this process"))?;
    let client = Client::builder()
        .no_proxy()
        .timeout(keeper::PROBE_TIMEOUT)
        .build()
        .map_err(|error| Failure::new(Class::Failed, "cannot prepare health probes").because(&error))?;
    mac::watch(&root);
    let board = Board { components: Arc::default(), changed: sender };
    Main { supervisor: Supervisor { identity, program }, start, root, client, board, keepers: BTreeMap::new() }
        .run(&events)
}

/// The main thread: gives the keepers their targets and writes down what they tell.
struct Main {
    root: Root,
    supervisor: Supervisor,
    start: Start,
    client: Client,
    board: Board,
    keepers: BTreeMap<Component, keeper::Handle>,
}

/// The two files that say what should be, as they were when last looked at.
#[derive(PartialEq)]
struct Seen {
    current: Option<PathBuf>,
    desired: Option<Vec<u8>>,
}

impl Seen {
    fn look(root: &Root) -> Self {
        Seen { current: fs::read_link(root.current()).ok(), desired: fs::read(root.desired()).ok() }
    }
}

/// What is to be.
struct Declared {
    release: Option<Release>,
    desired: Desired,
}

impl Main {
    fn run(mut self, events: &Receiver<Event>) -> Result<(), Failure> {
        ::log::info!("supervising {} as {}", self.root.path().display(), self.supervisor.program);
        let mut seen = Seen::look(&self.root);
        let mut declared = self.reconcile()?;
        loop {
            self.tell(&declared);
            if declared.desired.halted && !self.start.stays && self.nothing_runs() {
                self.end_keepers();
                ::log::info!("stopped by hand");
                return Ok(());
            }
            // Until a keeper tells something, somebody wants us to end, or the files say something else.
            let event = loop {
                match events.recv_timeout(LOOK_EVERY) {
                    Ok(event) => break Some(event),
                    Err(RecvTimeoutError::Disconnected) => break Some(Event::Terminate),
                    Err(RecvTimeoutError::Timeout) if Seen::look(&self.root) != seen => break None,
                    Err(RecvTimeoutError::Timeout) => {}
                }
            };
            if matches!(event, Some(Event::Terminate)) {
                self.terminate(&declared);
                return Ok(());
            }
            let now = Seen::look(&self.root);
            if now != seen {
                seen = now;
                match self.reconcile() {
                    Ok(news) => declared = news,
                    // What runs goes on running until the files make sense again.
                    Err(failure) => ::log::error!("{failure}: {}", failure.causes.join(": ")),
                }
            }
        }
    }

    /// Reads what should be, and tells every keeper its part.
    fn reconcile(&mut self) -> Result<Declared, Failure> {
        let declared = Declared { release: read_release(&self.root)?, desired: read_desired(&self.root)? };
        if let Some(release) = &declared.release {
            self.follow_program(release, &declared);
        }
        for component in Component::ALL {
            let target = declared.target(component);
            let lives = process::is_locked(&self.root.component_lock(component));
            if target.is_none() && !lives && !self.keepers.contains_key(&component) {
                continue;
            }
            let keeper = self.keepers.entry(component).or_insert_with(|| {
                Keeper::spawn(component, self.root.clone(), self.client.clone(), self.board.clone())
            });
            keeper.aim(target);
        }
        Ok(declared)
    }

    /// A release is kept by its own program: if that is not this one, become it. The components stay our children and
    /// the lock stays ours; the new program adopts the former like after a crash.
    fn follow_program(&self, release: &Release, declared: &Declared) {
        let wanted = &release.content.program;
        // Started as that program and turned out to be another: a second try would go round in circles.
        let tried = self.start.expected.as_ref() == Some(wanted);
        if *wanted == self.supervisor.program || tried {
            return;
        }
        self.tell(declared);
        let error =
            process::become_program(&command(&self.root, &Start { expected: Some(wanted.clone()), ..self.start }));
        ::log::error!("cannot become program {wanted}: {error}");
    }

    fn terminate(mut self, declared: &Declared) {
        ::log::info!("asked to end: stopping every component");
        self.keepers.values().for_each(|keeper| keeper.aim(None));
        self.end_keepers();
        self.tell(declared);
    }

    /// Before we end: a keeper may be about to start what it had not yet heard is not to run.
    fn end_keepers(&mut self) {
        std::mem::take(&mut self.keepers).into_values().for_each(keeper::Handle::end);
    }

    fn nothing_runs(&self) -> bool {
        let idle = self.board.read(|components| components.values().all(|running| running.identity.is_none()));
        idle && Component::ALL.iter().all(|component| !process::is_locked(&self.root.component_lock(*component)))
    }

    /// Writes down what is. A full disk must not end what keeps the stack running, so a failure is no more than logged.
    fn tell(&self, declared: &Declared) {
        let status = Status {
            supervisor: self.supervisor.clone(),
            release: declared.release.as_ref().map(|release| release.id.clone()),
            revision: declared.desired.revision,
            components: self.board.read(Clone::clone),
        };
        if let Err(failure) = durable::write_volatile_json(&self.root.status(), &status) {
            ::log::error!("{failure}: {}", failure.causes.join(": "));
        }
        if let Err(error) = log::rotate(&self.root.supervisor_log()) {
            ::log::warn!("cannot rotate the supervisor's own log: {error}");
        }
    }
}

impl Declared {
    fn target(&self, component: Component) -> Option<Target> {
        let release = self.release.as_ref()?;
        let service = release.service(component)?;
        let meant = !self.desired.halted && !self.desired.stopped.contains(&component);
        meant.then(|| Target {
            fingerprint: release.fingerprint(service),
            config: release.config_fingerprint(service),
            asked_restarts: self.desired.restarts.get(&component).copied().unwrap_or_default(),
            release: release.id.clone(),
            service: service.clone(),
        })
    }
}

/// What starts a supervisor on `root`.
pub(crate) fn command(root: &Root, start: &Start) -> Command {
    let mut args: Vec<String> = ["host", "supervise", "--root"].map(str::to_owned).to_vec();
    args.push(root.path().display().to_string());
    args.extend(start.expected.as_ref().map(|id| format!("--expected={id}")));
    args.extend(start.stays.then(|| "--stay".to_owned()));
    Command { program: root.program(), args, env: BTreeMap::new() }
}

/// The manifest that `current` points to; `None` when nothing is current, which is not the same as a release that is
/// gone from under it.
pub(crate) fn read_release(root: &Root) -> Result<Option<Release>, Failure> {
    let current = root.current();
    let release = durable::read_json(&current.join(MANIFEST))?;
    match fs::symlink_metadata(&current) {
        Ok(_) if release.is_none() => {
            Err(Failure::new(Class::Failed, format!("{} points to no release", current.display()))
                .hint("`cargo xtask deploy` stages it again"))
        }
        _ => Ok(release),
    }
}

/// What a person wants beyond the release.
pub(crate) fn read_desired(root: &Root) -> Result<Desired, Failure> {
    Ok(durable::read_json(&root.desired())?.unwrap_or_default())
}
