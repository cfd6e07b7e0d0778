//! Long work on a host: detached from whoever asked, written down as it goes, followed from anywhere.
//!
//! A job is a folder in `state/jobs`: `request.json`, `events.jsonl`, and a lock that its process holds. Invariant: the last
//! line of `events.jsonl` is the outcome, or the job still runs, or it was killed; the lock tells the latter two apart.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use super::{Host, apply, read_from, verb};
use crate::{
    durable,
    failure::{Class, Doing, Failure},
    host::Follow,
    layout::Root,
    plan::Plan,
    process::{self, Command},
    protocol::{Ended, Event, Job, JobState, Outcome},
    release::Contents,
};

/// Between two looks for new events.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the list of jobs calls a build of our own program.
const BUILD: &str = "build the program";

/// Jobs that a host remembers.
const KEPT: usize = 20;

/// What a job is to do.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Carry out a plan.
    Apply { plan: Box<Plan>, contents: Contents },
    /// Run our own program with these words.
    Run { args: Vec<String> },
}

impl Order {
    /// As a person would have typed it.
    fn verb(&self) -> String {
        match self {
            Order::Apply { .. } => "deploy".to_owned(),
            Order::Run { args } => args.join(" "),
        }
    }
}

/// A line of `events.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Event(Event),
    Result(Result<Ended, Failure>),
}

/// Starts work that needs nobody; answers its name.
pub(super) fn start(host: &Host, order: &Order) -> Result<String, Failure> {
    let root = &host.root;
    sweep(root)?;
    let id = format!("{}-{}", Utc::now().format("%Y%m%d-%H%M%S%3f"), std::process::id());
    let folder = root.job(&id);
    fs::create_dir_all(&folder).doing("cannot create", &folder)?;
    durable::write_json(&folder.join("request.json"), order)?;
    let lock_path = folder.join("lock");
    let lock = process::lock_within(&lock_path, Duration::from_secs(1)).doing("cannot lock", &lock_path)?;
    let lock = lock.ok_or_else(|| Failure::new(Class::Locked, format!("job {id} runs already")))?;
    let log_path = folder.join("log");
    let log = File::options().create(true).append(true).open(&log_path).doing("cannot write", &log_path)?;
    let program = std::env::current_exe().doing("cannot find", std::path::Path::new("this program's own file"))?;
    let args = ["host", "job", &id].map(str::to_owned).into_iter().chain([format!("--root={}", root.path().display())]);
    let command = Command { program, args: args.collect(), env: [].into() };
    let started = match &host.password {
        Some(password) => process::spawn_whispering(&command, lock, log, password),
        None => process::spawn_holding(&command, lock, log),
    };
    started.doing("cannot start", &command.program)?;
    Ok(id)
}

/// Carries out a job; what its process does.
///
/// # Errors
/// There is no such job, or nobody could write down what it does.
pub fn run(mut host: Host, id: &str) -> Result<(), Failure> {
    process::leave_session();
    host.password = process::whispered().doing("cannot read", Path::new("the password"))?;
    let folder = host.root.job(id);
    let order = order(&folder)?.ok_or_else(|| unknown(&host.root, id))?;
    let path = folder.join("events.jsonl");
    let mut events = File::options().create(true).append(true).open(&path).doing("cannot write", &path)?;
    let mut write = |line: &Line| {
        let mut text = serde_json::to_vec(line).map_err(std::io::Error::from).doing("cannot write", &path)?;
        text.push(b'\n');
        events.write_all(&text).doing("cannot write", &path)
    };
    let cancelled = folder.join("cancel");
    let mut follow = |event| {
        if event != Event::Idle {
            write(&Line::Event(event))?;
        }
        match cancelled.exists() {
            true => Err(Failure::new(Class::Interrupted, "cancelled")),
            false => Ok(()),
        }
    };
    let result = match &order {
        Order::Apply { plan, contents } => apply::apply(&host, plan, contents, &mut follow).map(Ended::Applied),
        Order::Run { args } => process::held_lock()
            .doing("cannot hand on", &folder.join("lock"))
            .and_then(|lock| verb::run(&host.root, args, lock, &mut follow).map(Ended::Ran)),
    };
    write(&Line::Result(result))
}

fn order(folder: &Path) -> Result<Option<Order>, Failure> {
    durable::read_json(&folder.join("request.json"))
}

/// Tells what a job did and does, from its first event to its end.
pub(super) fn attach(root: &Root, id: &str, follow: &mut Follow<'_>) -> Result<Ended, Failure> {
    let folder = root.job(id);
    if !folder.exists() {
        return Err(unknown(root, id));
    }
    follow(Event::Job { id: id.to_owned() })?;
    let path = folder.join("events.jsonl");
    let (mut offset, mut partial) = (0, Vec::new());
    loop {
        // Asked before reading: what a process wrote before it ended is read all the same.
        let runs = process::is_locked(&folder.join("lock"));
        if let Ok(mut file) = File::open(&path) {
            let bytes = read_from(&mut file, offset).doing("cannot read", &path)?;
            offset += bytes.len() as u64;
            partial.extend(bytes);
        }
        while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Line::Event(event)) => follow(event)?,
                Ok(Line::Result(result)) => return result,
                Err(_) => {}
            }
        }
        if !runs {
            let verb = order(&folder)?.map(|order| order.verb()).unwrap_or_default();
            return Err(Failure::new(Class::Failed, format!("job {id} was killed"))
                .hint(format!("`cargo xtask {verb}` goes on from what is there")));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// All jobs that the host remembers, the newest last; behind them what a client that is gone or going has it build.
pub(super) fn list(root: &Root) -> Result<Vec<Job>, Failure> {
    let mut jobs: Vec<Job> = folders(&root.jobs())?.iter().map(|folder| look(folder)).collect::<Result<_, _>>()?;
    jobs.extend(folders(&root.build())?.iter().map(|folder| look_at_build(folder)));
    Ok(jobs)
}

/// Asks a job to stop where it can, and to put back what it changed.
pub(super) fn cancel(root: &Root, id: &str) -> Result<(), Failure> {
    let folder = root.job(id);
    if !folder.exists() {
        return Err(unknown(root, id));
    }
    if !process::is_locked(&folder.join("lock")) {
        return Err(Failure::new(Class::Nothing, format!("job {id} has ended already")));
    }
    let path = folder.join("cancel");
    File::create(&path).map(|_| ()).doing("cannot write", &path)
}

fn look(folder: &Path) -> Result<Job, Failure> {
    let runs = process::is_locked(&folder.join("lock"));
    let text = durable::read_if_any(&folder.join("events.jsonl")).doing("cannot read", folder)?.unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    let (mut state, mut detail) = (if runs { JobState::Running } else { JobState::Killed }, None);
    for line in lines {
        match line {
            Line::Event(Event::Begin { step, .. }) => detail = Some(step.to_string()),
            Line::Event(Event::Progress(progress)) => detail = Some(progress.to_string()),
            Line::Event(_) => {}
            Line::Result(Ok(Ended::Applied(Outcome::Done) | Ended::Ran(0))) => (state, detail) = (JobState::Done, None),
            Line::Result(Ok(Ended::Ran(code))) => {
                (state, detail) = (JobState::Failed, Some(format!("exit code {code}")))
            }
            Line::Result(Ok(Ended::Applied(
                Outcome::RolledBack { cause, .. } | Outcome::RollbackFailed { cause, .. },
            ))) => (state, detail) = (JobState::Failed, Some(cause.message)),
            Line::Result(Err(failure)) => (state, detail) = (JobState::Failed, Some(failure.message)),
        }
    }
    let id = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let verb = order(folder)?.map(|order| order.verb()).unwrap_or_default();
    Ok(Job { id, verb, state, detail })
}

/// A build of our own program, which `ssh/bootstrap.sh` begins where there is no program yet that could.
fn look_at_build(folder: &Path) -> Job {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let runs = || read("pid").and_then(|pid| pid.trim().parse().ok()).is_some_and(process::exists);
    let state = match read("ended").as_deref().map(str::trim) {
        Some("0") => JobState::Done,
        Some(_) => JobState::Failed,
        None if runs() => JobState::Running,
        None => JobState::Killed,
    };
    let id = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Job { id, verb: BUILD.to_owned(), state, detail: process::last_words(&folder.join("log")) }
}

fn folders(of: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !of.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(of).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut folders: Vec<PathBuf> = entries.doing("cannot list", of)?;
    folders.sort();
    Ok(folders)
}

fn sweep(root: &Root) -> Result<(), Failure> {
    let folders = folders(&root.jobs())?;
    let old = folders.len().saturating_sub(KEPT);
    let ended = folders.iter().take(old).filter(|folder| !process::is_locked(&folder.join("lock")));
    ended.into_iter().try_for_each(|folder| durable::remove(folder))
}

fn unknown(root: &Root, id: &str) -> Failure {
    if root.build().join(id).exists() {
        return Failure::new(Class::Nothing, format!("{id} builds the program, for whoever deploys"))
            .hint("`cargo xtask deploy` follows it, and goes on from there");
    }
    Failure::new(Class::Nothing, format!("there is no job {id}"))
        .hint("`cargo xtask job list` shows those that there are")
}
