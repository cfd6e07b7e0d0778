//! The host's side: it answers requests about one root.
//!
//! On the client's own machine this runs in process; over ssh the same code runs in the program that was shipped there.
//! Invariant: whatever changes a host does so under `state/apply.lock`.

mod apply;
mod ask;
mod certificate;
mod control;
mod docker;
mod job;
mod journal;
mod logs;
mod machine;
mod native;
mod observe;
mod port;
mod root;
mod secrets;
mod serve;
mod starter;
mod supervised;
mod tarball;
mod verb;
mod version;

pub use ask::probe;
pub use job::run as run_job;
pub(crate) use machine::memory_free_percent;
pub use serve::serve;

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use chrono::{SecondsFormat, Utc};

use crate::{
    failure::{Class, Doing, Failure},
    layout::Root,
    process,
    protocol::{Ended, Event, Reply, Request},
    secret::Secret,
};

/// Between two looks at the supervisor's status file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Gets every event as it happens. An error is an objection: the job stops at the next point at which it can, and
/// puts back what it changed.
pub type Follow<'a> = dyn FnMut(Event) -> Result<(), Failure> + 'a;

/// What answers for one root.
#[derive(Debug, Clone)]
pub struct Host {
    /// The folder that holds the stack.
    pub root: Root,
    /// Our program, which a deploy installs.
    pub program: PathBuf,
    /// Its identity.
    pub program_id: String,
    /// What sudo asks for here, where a person gave it; see [`Request::Authorize`].
    pub password: Option<Secret>,
}

impl Host {
    /// Answers one request.
    ///
    /// # Errors
    /// In the words of the operation, with what to do next.
    pub fn answer(&mut self, request: Request, follow: &mut Follow<'_>) -> Result<Reply, Failure> {
        match request {
            Request::Authorize { password } => {
                self.password = Some(password);
                Ok(Reply::Done)
            }
            Request::Observe(question) => Ok(Reply::Observed(Box::new(observe::observe(&self.root, &question)?))),
            Request::Apply { plan, contents } => {
                apply::apply(self, &plan, &contents, follow).map(|outcome| Reply::Ended(Ended::Applied(outcome)))
            }
            Request::Run { args, .. } => {
                let nothing = File::open("/dev/null").doing("cannot open", Path::new("/dev/null"))?;
                verb::run(&self.root, &args, nothing, follow).map(|code| Reply::Ended(Ended::Ran(code)))
            }
            Request::AsRoot { what, commands } => root::run(self, &what, &commands, follow).map(|()| Reply::Done),
            Request::Control { action, components } => {
                control::control(&self.root, action, &components, follow).map(|()| Reply::Done)
            }
            Request::Logs(query) => {
                let release = control::deployed(&self.root)?;
                starter::starter(&self.root, Some(&release), None).logs(&query, follow).map(|()| Reply::Done)
            }
            Request::Secrets { reveal } => Ok(Reply::Secrets(secrets::list(&self.root, reveal)?)),
            Request::SetSecret { name, value } => secrets::set(&self.root, &name, &value).map(|()| Reply::Done),
            Request::RemoveSecret { name } => secrets::remove(&self.root, &name).map(|()| Reply::Done),
            Request::Jobs => Ok(Reply::Jobs(job::list(&self.root)?)),
            Request::Attach { job } => job::attach(&self.root, &job, follow).map(Reply::Ended),
            Request::Cancel { job } => job::cancel(&self.root, &job).map(|()| Reply::Done),
            Request::Uninstall { data } => {
                control::uninstall(&self.root, data, self.password.as_ref(), follow).map(|()| Reply::Done)
            }
        }
    }
}

/// Takes the lock of a host, and says in it who has it.
fn lock(root: &Root, doing: &str) -> Result<File, Failure> {
    let path = root.apply_lock();
    let Some(mut file) = process::lock_within(&path, Duration::from_millis(100)).doing("cannot lock", &path)? else {
        let holder = fs::read_to_string(&path).unwrap_or_default();
        let holder = if holder.is_empty() { "somebody" } else { holder.trim() };
        return Err(Failure::new(Class::Locked, format!("{} is being changed by {holder}", root.path().display()))
            .hint("wait for it to end and run the same command again; a lock dies with its holder, there is none to remove"));
    };
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let holder = format!("`{doing}` (pid {}, since {now})", std::process::id());
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(holder.as_bytes())
    };
    write(&mut file).doing("cannot write", &path)?;
    Ok(file)
}

/// Looks until `look` has an answer, or fails, or the time is over.
fn wait_for<T>(timeout: Duration, mut look: impl FnMut() -> Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Reads what a file has from an offset on.
fn read_from(file: &mut File, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(std::io::SeekFrom::Start(offset))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
