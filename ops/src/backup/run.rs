//! A run: preflight, save, prune, and a note of how it went.
//!
//! Invariant: a run that began is written down however it ends, unless it is killed or was only told to wait.

use std::time::{Duration, Instant};

use backup::{PruneError, PrunePlan, Repository, SaveOptions, Saved, source::Source};
use chrono::{DateTime, Utc};
use stack::{
    backup::{Backups, Outcome, Run},
    failure::{Class, Failure},
};

use super::{Allowed, Backup, Preflight, Watch, class, watched};

/// How long what was pruned can still be had back, by hand, from the trash.
const GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How something is saved.
#[derive(Debug, Clone, Default)]
pub struct SaveRequest {
    /// What a person calls the snapshot.
    pub tag: Option<String>,
    /// What is done only when it was asked for.
    pub allowed: Allowed,
}

/// What a run did.
#[derive(Debug)]
pub struct Ran {
    /// The snapshot, and what it cost.
    pub saved: Saved,
    /// How long it took.
    pub took: Duration,
    /// What was pruned, or why nothing was; `None`: it was not to be.
    pub pruned: Option<Result<PrunePlan, Failure>>,
}

impl Ran {
    /// Files of all sources, and their length.
    pub fn totals(&self) -> (u64, u64) {
        let sources = self.saved.snapshot.sources.values();
        sources.fold((0, 0), |(files, bytes), it| (files + it.files, bytes + it.bytes))
    }
}

impl Backup {
    /// Saves. `begin` is told what the preflight found, before the first byte.
    pub fn save(&self, request: &SaveRequest, begin: impl FnOnce(&Preflight) -> Watch) -> Result<Ran, Failure> {
        let (time, began) = (Utc::now(), Instant::now());
        let ran = self.try_save(request, time, began, begin);
        if let Some(run) = note(time, began, &ran) {
            self.write_down(|backups| {
                if run.result != Outcome::Failed {
                    backups.repository = Some(self.repository.clone());
                }
                if run.result == Outcome::Done {
                    backups.complete = Some(run.clone());
                }
                backups.last = Some(run);
            })?;
        }
        ran
    }

    fn try_save(
        &self,
        request: &SaveRequest,
        time: DateTime<Utc>,
        began: Instant,
        begin: impl FnOnce(&Preflight) -> Watch,
    ) -> Result<Ran, Failure> {
        let found = self.preflight(request.allowed)?;
        let watch = begin(&found);
        if let Some(refusal) = found.refusal {
            return Err(refusal);
        }
        let repository = Repository::at_or_new(&self.repository);
        let repository = watched(repository.map_err(|error| self.failure("cannot open", &error))?, Some(&watch));
        let sources: Vec<&dyn Source> = self.sources().collect();
        let options = SaveOptions { tag: request.tag.clone(), ..SaveOptions::new(time, &self.host) };
        let saved =
            repository.save(&sources, &options).map_err(|error| self.failure("nothing was saved in", &error))?;
        let pruned = self.prunes.then(|| prune(self, &[]));
        Ok(Ran { saved, took: began.elapsed(), pruned })
    }

    /// Changes what is written down about this host's backups.
    pub(super) fn write_down(&self, change: impl FnOnce(&mut Backups)) -> Result<(), Failure> {
        let Some(stack) = &self.stack else { return Ok(()) };
        let mut backups = Backups::read(&stack.root).unwrap_or_default();
        change(&mut backups);
        backups.write(&stack.root)
    }
}

/// What is to be remembered of a run.
fn note(began: DateTime<Utc>, since: Instant, ran: &Result<Ran, Failure>) -> Option<Run> {
    let mut run = Run {
        began,
        seconds: since.elapsed().as_secs_f64(),
        result: Outcome::Done,
        snapshot: None,
        bytes: 0,
        bytes_written: 0,
        detail: None,
    };
    match ran {
        Err(failure) if matches!(failure.class, Class::Locked | Class::Interrupted) => return None,
        Err(failure) => {
            run.result = Outcome::Failed;
            run.detail = Some(failure.message.clone());
        }
        Ok(ran) => {
            let lacking = &ran.saved.snapshot.incomplete;
            if let Some(first) = lacking.first() {
                run.result = Outcome::Incomplete;
                run.detail = Some(format!("{} things are missing, the first: {}", lacking.len(), problem(first)));
            }
            run.snapshot = Some(ran.saved.id.clone());
            (run.bytes, run.bytes_written) = (ran.totals().1, ran.saved.bytes_written);
        }
    }
    Some(run)
}

/// Something that could not be saved or brought back, in a line.
pub(super) fn problem(problem: &backup::Problem) -> String {
    let backup::Problem { source, path, reason } = problem;
    if path.is_empty() { format!("{source}: {reason}") } else { format!("{source}: {path} {reason}") }
}

/// Forgets what the policy does not keep, and the snapshots that are named.
pub fn prune(backup: &Backup, forget: &[String]) -> Result<PrunePlan, Failure> {
    let repository = backup.open(None)?;
    let now = Utc::now();
    if !forget.is_empty() {
        repository.forget(forget, now).map_err(|error| prune_failure(backup, &error))?;
    }
    repository.prune(&backup.keep, now, GRACE).map_err(|error| prune_failure(backup, &error))
}

impl Backup {
    /// What [`prune`] would do.
    pub fn plan_prune(&self) -> Result<PrunePlan, Failure> {
        self.open(None)?.plan_prune(&self.keep).map_err(|error| prune_failure(self, &error))
    }
}

fn prune_failure(backup: &Backup, error: &PruneError) -> Failure {
    let class = match error {
        PruneError::Empty => Class::Settings,
        PruneError::Verified { .. } => Class::Refused,
        PruneError::Unreadable { .. } => Class::Failed,
        PruneError::Store(error) => class(error),
    };
    let failure = Failure::new(class, format!("nothing was pruned in {}", backup.repository.display())).because(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
