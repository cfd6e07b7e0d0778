//! What an apply did, line by line, flushed before it is done.
//!
//! A line is written before a step and after it, so that after a crash the last line tells how far it came and what
//! would undo it. Invariant: an apply whose `begin` has no `end` behind it was cut off.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    component::Component,
    durable,
    observed::Interrupted,
    plan::{Plan, Step},
    process::Command,
    release::ReleaseId,
};

/// A journal that has grown beyond this is begun anew by the next apply.
const LIMIT_BYTES: u64 = 256 * 1024;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
enum Entry {
    Begin { at: DateTime<Utc>, from: Option<ReleaseId>, to: ReleaseId },
    Step { at: DateTime<Utc>, step: Step, undo: Undo },
    Done { at: DateTime<Utc> },
    Undone { at: DateTime<Utc> },
    End { at: DateTime<Utc>, outcome: String },
}

/// What puts back what a step changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub(super) enum Undo {
    /// It changed nothing that runs.
    Nothing,
    /// Have root run these.
    AsRoot { commands: Vec<Command> },
    /// Remove the release's folder.
    Unstage { release: ReleaseId },
    /// Put the program of this release back; none: there was no program.
    Program { release: Option<ReleaseId> },
    /// Have nothing run, as before.
    Halt,
    /// Have this component not run, as before.
    Stop { component: Component },
    /// Point `current` back and have the supervisor run that; none: nothing ran.
    Switch { to: Option<ReleaseId> },
}

/// The journal of one apply; open as long as that runs.
pub(super) struct Journal {
    file: File,
    undo: Vec<Undo>,
}

impl Journal {
    pub(super) fn begin(path: &Path, plan: &Plan) -> io::Result<Journal> {
        if fs::metadata(path).is_ok_and(|meta| meta.len() > LIMIT_BYTES) {
            durable::write(path, b"")?;
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        // The cut line that a crash may have left must not swallow ours.
        file.write_all(b"\n")?;
        let mut journal = Journal { file, undo: Vec::new() };
        journal.write(&Entry::Begin { at: Utc::now(), from: plan.base.clone(), to: plan.release.id.clone() })?;
        Ok(journal)
    }

    pub(super) fn step(&mut self, step: &Step, undo: Undo) -> io::Result<()> {
        if undo != Undo::Nothing {
            self.undo.push(undo.clone());
        }
        self.write(&Entry::Step { at: Utc::now(), step: step.clone(), undo })
    }

    pub(super) fn done(&mut self) -> io::Result<()> {
        self.write(&Entry::Done { at: Utc::now() })
    }

    /// What to undo, the latest first.
    pub(super) fn undo(&self) -> Vec<Undo> {
        self.undo.iter().rev().cloned().collect()
    }

    pub(super) fn undone(&mut self) -> io::Result<()> {
        self.write(&Entry::Undone { at: Utc::now() })
    }

    pub(super) fn end(mut self, outcome: &str) -> io::Result<()> {
        self.write(&Entry::End { at: Utc::now(), outcome: outcome.to_owned() })
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

/// The apply that was cut off, if the last one was. Lines that a crash cut are passed over: what they would have
/// announced did not happen.
pub(super) fn interrupted(path: &Path) -> io::Result<Option<Interrupted>> {
    let Some(text) = durable::read_if_any(path)? else { return Ok(None) };
    let mut interrupted = None;
    for line in text.split(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Entry::Begin { at, to, .. }) => interrupted = Some(Interrupted { began: at, to, step: None }),
            Ok(Entry::Step { step, .. }) => {
                if let Some(interrupted) = &mut interrupted {
                    interrupted.step = Some(step.to_string());
                }
            }
            Ok(Entry::End { .. }) => interrupted = None,
            Ok(Entry::Done { .. } | Entry::Undone { .. }) | Err(_) => {}
        }
    }
    Ok(interrupted)
}
