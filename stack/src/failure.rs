//! An error that can cross the wire.
//!
//! What fails on a host is reported here, so the host's operations share this one plain shape instead of an enum each:
//! what failed, why, and the next command. Invariant: `class` alone decides the exit code.

use std::{error::Error, fmt, io, path::Path};

use serde::{Deserialize, Serialize};

/// What kind of failure; each has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It was tried and failed.
    Failed,
    /// The settings or the arguments cannot be meant.
    Settings,
    /// The host did not answer.
    Unreachable,
    /// It will not be tried: rights are missing, or the host changed since the plan.
    Refused,
    /// There is nothing to act on.
    Nothing,
    /// Another run holds the lock.
    Locked,
    /// Whoever asked for it has had enough.
    Interrupted,
}

/// What failed, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub class: Class,
    /// What failed: a lowercase fragment.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// The next command to run, or what to change.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a cause or a hint yet.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Failure { class, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// Adds the cause with everything below it.
    pub fn because(mut self, cause: &dyn Error) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// Says what was being done when the system said no.
pub trait Doing<T> {
    /// `doing` is a fragment such as `cannot write`; the path ends the message.
    fn doing(self, doing: &str, path: &Path) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &str, path: &Path) -> Result<T, Failure> {
        self.map_err(|error| {
            let failure = Failure::new(Class::Failed, format!("{doing} {}", path.display())).because(&error);
            match io_hint(error.kind()) {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })
    }
}

fn io_hint(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space on that disk, or set `host.root` to another one, and run the same command again")
        }
        io::ErrorKind::PermissionDenied => {
            Some("give your user the right to write there, or set `host.root` elsewhere")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("set `host.root` to a folder on a disk that can be written"),
        _ => None,
    }
}
