//! What a client asks of a host, and what comes back.
//!
//! Every exchange is one [`Request`], any number of [`Event`]s, and one `Result<`[`Reply`]`, `[`Failure`]`>`; all of it is
//! JSON. Invariant: a reply answers its request's kind, whatever carried the two.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    component::Component,
    failure::Failure,
    observed::{Observed, Question},
    plan::{Plan, Step},
    process::Command,
    release::{Contents, ReleaseId},
    secret::Secret,
};

/// Grows when a client and a host of before and after could misunderstand each other.
pub(crate) const PROTOCOL: u32 = 2;

/// What a client asks of a host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// What is the host, and what has it? Answered by [`Reply::Observed`].
    Observe(Question),
    /// Carry out a plan; its files come along. Answered by [`Reply::Ended`].
    Apply {
        /// The plan.
        plan: Box<Plan>,
        /// The bytes of its release's files.
        contents: Contents,
    },
    /// Run our own program there with these words. Answered by [`Reply::Ended`].
    Run {
        /// What stands behind the program's name.
        args: Vec<String>,
        /// As a job, which goes on without the client: for what takes long or changes something.
        as_job: bool,
    },
    /// Have root run commands that belong to no release. Answered by [`Reply::Done`].
    AsRoot {
        /// The verb that wants it.
        what: String,
        /// In order; each may be run again.
        commands: Vec<Command>,
    },
    /// Start, stop or restart by hand. Answered by [`Reply::Done`].
    Control {
        /// What to do.
        action: Action,
        /// To which components; none means the whole stack.
        components: BTreeSet<Component>,
    },
    /// Send what components printed. Lines come as events; answered by [`Reply::Done`].
    Logs(LogQuery),
    /// Take this as what sudo asks for, as long as this connection and the jobs that it starts last. Answered by
    /// [`Reply::Done`].
    Authorize {
        /// Kept in memory only.
        password: Secret,
    },
    /// Which secrets does the host keep? Answered by [`Reply::Secrets`].
    Secrets {
        /// Their values too.
        reveal: bool,
    },
    /// Keep a secret. Answered by [`Reply::Done`].
    SetSecret {
        /// See [`crate::secret::name`].
        name: String,
        /// The value.
        value: Secret,
    },
    /// Forget a secret. Answered by [`Reply::Done`].
    RemoveSecret {
        /// Its name.
        name: String,
    },
    /// Which jobs does the host remember? Answered by [`Reply::Jobs`].
    Jobs,
    /// Tell what a job did and does. Answered by [`Reply::Ended`].
    Attach {
        /// Its name.
        job: String,
    },
    /// Ask a job to stop and put back what it changed. Answered by [`Reply::Done`].
    Cancel {
        /// Its name.
        job: String,
    },
    /// Stop everything and remove what a deploy brought. Answered by [`Reply::Done`].
    Uninstall {
        /// The data too: models, samples.
        data: bool,
    },
}

/// What a person does to components by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Have them run.
    Start,
    /// Have them not run, until started again or deployed.
    Stop,
    /// Have them stop and start.
    Restart,
}

/// Which lines of which logs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogQuery {
    /// Of these components; none means all.
    pub components: BTreeSet<Component>,
    /// Printed at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Go on with what is printed from now on, until told to stop.
    pub follow: bool,
}

/// What happens on the way to a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What follows is done by this job, with or without us.
    Job {
        /// Its name.
        id: String,
    },
    /// A step of a plan begins.
    Begin {
        /// From 1.
        number: usize,
        /// The step.
        step: Step,
    },
    /// The step that began last has ended well.
    End {
        /// From 1.
        number: usize,
        /// In seconds.
        seconds: f64,
    },
    /// The step that began last has failed, and the previous release is being put back.
    RollingBack {
        /// The release that is put back; none: nothing ran before.
        to: Option<ReleaseId>,
        /// Why.
        cause: Failure,
    },
    /// What the job that just goes on waits for.
    Waiting {
        /// In words.
        detail: String,
    },
    /// Nothing has happened: a moment at which whoever follows can object.
    Idle,
    /// A line that a component printed.
    Line {
        /// Which one.
        component: Component,
        /// Without its end.
        text: String,
    },
    /// A verb that runs on the host printed this.
    Output {
        /// Where.
        stream: Stream,
        /// What.
        bytes: Bytes,
    },
    /// How far a verb that runs on the host is.
    Progress(Progress),
}

/// Where a verb prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output: data.
    Out,
    /// Standard error: talk.
    Err,
}

/// Bytes, which travel as text wherever they are text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Raw(Vec<u8>),
}

impl Bytes {
    /// Of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_owned()),
            Err(_) => Bytes::Raw(bytes.to_owned()),
        }
    }

    /// As they were.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Text(text) => text.as_bytes(),
            Bytes::Raw(bytes) => bytes,
        }
    }
}

/// Set where whoever listens takes [`Progress`] as data instead of a drawing.
pub const PROGRESS_VARIABLE: &str = "STACK_PROGRESS";

/// How far long work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in a few words.
    pub what: String,
    /// Of `total_bytes`.
    pub done_bytes: u64,
    /// `None`: not known yet.
    pub total_bytes: Option<u64>,
}

impl Progress {
    /// ASCII's record separator tells it from talk; see RFC 7464.
    const MARK: char = '\u{1e}';

    /// As a line of standard error, without its end.
    pub fn line(&self) -> String {
        format!("{}{}", Self::MARK, serde_json::json!(self))
    }

    pub(crate) fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(line).ok()?.strip_prefix(Self::MARK)?).ok()
    }

    /// Between 0 and 100, where the total is known.
    pub fn percent(&self) -> Option<u64> {
        let total = self.total_bytes.filter(|total| *total > 0)?;
        Some((u128::from(self.done_bytes.min(total)) * 100 / u128::from(total)) as u64)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.percent() {
            Some(percent) => write!(f, "{}: {percent} %", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What a request is answered with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Observe`].
    Observed(Box<Observed>),
    /// To [`Request::Apply`], [`Request::Run`] and [`Request::Attach`].
    Ended(Ended),
    /// To [`Request::Secrets`]: by name, with values if they were asked for.
    Secrets(BTreeMap<String, Option<Secret>>),
    /// To [`Request::Jobs`].
    Jobs(Vec<Job>),
    /// To everything that has nothing to tell.
    Done,
}

/// How something that a job can do has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// An apply, once it had begun.
    Applied(Outcome),
    /// A verb, with this exit code.
    Ran(u8),
}

/// A job that a host remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name, which begins with the time at which it began, in UTC.
    pub id: String,
    /// The verb that it is.
    pub verb: String,
    /// How it is.
    pub state: JobState,
    /// What it is at, or why it failed.
    pub detail: Option<String>,
}

/// How a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its process runs.
    Running,
    /// It ended well.
    Done,
    /// It ended, and put back what it changed if it could.
    Failed,
    /// Its process is gone without a word.
    Killed,
}

/// How an apply ended, once it had begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The host is as planned.
    Done,
    /// A step failed, and the host is as it was before.
    RolledBack {
        /// The release that serves again; none: nothing runs, as before.
        to: Option<ReleaseId>,
        /// Why.
        cause: Failure,
    },
    /// A step failed, and so did the way back.
    RollbackFailed {
        /// Why the step failed.
        cause: Failure,
        /// Why the way back failed.
        rollback: Failure,
    },
}
