//! How backups went: a small file on the host, for whoever looks at it later.
//!
//! Invariant: a run that is not written down here is one that was killed; what it did is safe all the same.

use std::{fmt::Write as _, path::PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    failure::{Doing, Failure},
    layout::Root,
};

/// How backups went on this host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backups {
    /// The last run.
    pub last: Option<Run>,
    /// The last run that saved everything.
    pub complete: Option<Run>,
    /// The last drill.
    pub drill: Option<Run>,
    /// Where the last snapshot was written to.
    pub repository: Option<PathBuf>,
    /// When it runs by itself, in words; `None`: never.
    pub scheduled: Option<String>,
}

/// A run of something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began.
    pub began: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// How it ended.
    pub result: Outcome,
    /// What it saved, or brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Length of all that the snapshot has.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes that were written.
    #[serde(default)]
    pub bytes_written: u64,
    /// What is missing, or what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was done.
    Done,
    /// Saved, but something is missing.
    Incomplete,
    /// Not done.
    Failed,
}

/// A scheduled backup that is this much older was missed.
const MISSED_AFTER: TimeDelta = TimeDelta::hours(26);

impl Backups {
    /// Why the last backup is not as it should be, if so.
    pub fn fault(&self, now: DateTime<Utc>) -> Option<String> {
        let last = self.last.as_ref()?;
        let detail = last.detail.as_deref().unwrap_or_default();
        match (last.result, &self.complete, &self.scheduled) {
            (Outcome::Failed, ..) => Some(format!("the last backup failed: {detail}")),
            (Outcome::Incomplete, ..) => Some(format!("the last backup is incomplete: {detail}")),
            (Outcome::Done, Some(complete), Some(when)) if now - complete.began > MISSED_AFTER => {
                Some(format!("the last backup is from {}, though it is to run {when}", day(complete)))
            }
            _ => match &self.drill {
                Some(drill) if drill.result != Outcome::Done => {
                    Some(format!("the last drill failed: {}", drill.detail.as_deref().unwrap_or_default()))
                }
                _ => None,
            },
        }
    }

    /// The last backup in a line.
    pub fn words(&self) -> Option<String> {
        let last = self.last.as_ref()?;
        let result = match last.result {
            Outcome::Done => "whole",
            Outcome::Incomplete => "incomplete",
            Outcome::Failed => "failed",
        };
        let drill = self.drill.as_ref().map(|drill| {
            let result = if drill.result == Outcome::Done { "came back" } else { "failed" };
            format!("; drill of {}: {result}", day(drill))
        });
        let scheduled = self.scheduled.as_deref().map_or("not scheduled".to_owned(), |when| format!("runs {when}"));
        Some(format!("{}: {result}{}; {scheduled}", day(last), drill.unwrap_or_default()))
    }

    /// What is written down at a root; nothing where nothing is.
    pub fn read(root: &Root) -> Result<Self, Failure> {
        Ok(durable::read_json(&root.backups())?.unwrap_or_default())
    }

    /// Writes it down, for people and, in the way of a textfile collector, for node_exporter.
    pub fn write(&self, root: &Root) -> Result<(), Failure> {
        durable::write_json(&root.backups(), self)?;
        let metrics = root.textfile().join("backup.prom");
        std::fs::create_dir_all(root.textfile()).doing("cannot make", &root.textfile())?;
        durable::write(&metrics, self.metrics().as_bytes()).doing("cannot write", &metrics)
    }

    /// Prometheus' text format.
    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            if let Some(value) = value {
                // Writing to a string does not fail.
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
            }
        };
        let (last, complete, drill) = (self.last.as_ref(), self.complete.as_ref(), self.drill.as_ref());
        let done = |run: &Run| f64::from(u8::from(run.result == Outcome::Done));
        let time = |run: &Run| run.began.timestamp() as f64;
        gauge("llm_backup_last_run_timestamp_seconds", "When the last backup began.", last.map(time));
        gauge("llm_backup_last_run_complete", "Whether the last backup saved everything.", last.map(done));
        gauge("llm_backup_last_run_duration_seconds", "How long the last backup took.", last.map(|it| it.seconds));
        gauge("llm_backup_last_run_bytes", "Length of all that the last backup saved.", last.map(|it| it.bytes as f64));
        let written = last.map(|it| it.bytes_written as f64);
        gauge("llm_backup_last_run_written_bytes", "What the last backup added to the repository.", written);
        let help = "When the last backup that saved everything began.";
        gauge("llm_backup_last_complete_timestamp_seconds", help, complete.map(time));
        gauge("llm_backup_drill_timestamp_seconds", "When the last drill began.", drill.map(time));
        gauge("llm_backup_drill_success", "Whether the last drill brought everything back.", drill.map(done));
        gauge("llm_backup_drill_duration_seconds", "How long the last drill took.", drill.map(|it| it.seconds));
        text
    }
}

/// When a run began, on this machine's clock.
fn day(run: &Run) -> String {
    run.began.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_collector_what_is_known_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path().to_owned());
        std::fs::create_dir_all(folder.path().join("state")).unwrap();
        assert_eq!(Backups::read(&root).unwrap(), Backups::default());
        let run = Run {
            began: DateTime::from_timestamp(1_795_000_000, 0).unwrap(),
            seconds: 1.5,
            result: Outcome::Incomplete,
            snapshot: Some("20261118T110640Z-2b2044ba".to_owned()),
            bytes: 10,
            bytes_written: 3,
            detail: Some("models: gone".to_owned()),
        };
        let backups = Backups { last: Some(run), ..Backups::default() };
        backups.write(&root).unwrap();
        assert_eq!(Backups::read(&root).unwrap(), backups);
        let metrics = std::fs::read_to_string(root.textfile().join("backup.prom")).unwrap();
        let values: Vec<_> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                "llm_backup_last_run_timestamp_seconds 1795000000",
                "llm_backup_last_run_complete 0",
                "llm_backup_last_run_duration_seconds 1.5",
                "llm_backup_last_run_bytes 10",
                "llm_backup_last_run_written_bytes 3",
            ]
        );
    }

    #[test]
    fn a_backup_that_is_missed_or_did_not_come_back_is_a_fault() {
        let now = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let run = |hours, result| Run {
            began: now - TimeDelta::hours(hours),
            seconds: 1.0,
            result,
            snapshot: None,
            bytes: 0,
            bytes_written: 0,
            detail: Some("why".to_owned()),
        };
        let with = |hours, result, scheduled: bool| Backups {
            last: Some(run(hours, result)),
            complete: Some(run(hours, result)),
            scheduled: scheduled.then(|| "daily".to_owned()),
            ..Backups::default()
        };
        assert_eq!(Backups::default().fault(now), None, "none yet is no fault");
        assert_eq!(with(1000, Outcome::Done, false).fault(now), None);
        assert_eq!(with(25, Outcome::Done, true).fault(now), None);
        assert!(with(27, Outcome::Done, true).fault(now).unwrap().contains("daily"));
        assert!(with(1, Outcome::Incomplete, true).fault(now).unwrap().contains("incomplete: why"));
        let failed = Backups { drill: Some(run(1, Outcome::Failed)), ..with(1, Outcome::Done, true) };
        assert!(failed.fault(now).unwrap().contains("drill failed"));
    }
}
