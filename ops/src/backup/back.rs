//! Bringing a snapshot back: to where its sources were, or to a folder.
//!
//! Invariant: nothing is written over in place under a program that may be writing there too.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use backup::{Repository, RestoreError, RestoreOptions, RestorePlan, Restored, Snapshot};
use stack::{
    component::Component,
    failure::{Class, Failure},
};

use super::{Backup, Watch, class};

/// Files that are written at the same time.
const WORKERS: usize = 2;

/// What a database of Grafana's may have beside it, which belongs to that one and to no other.
const BESIDE: [&str; 3] = ["grafana.db-wal", "grafana.db-journal", "grafana.db-shm"];

/// Where a source goes back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A folder that may be written to at any time.
    Folder(PathBuf),
    /// A folder that belongs to a component, which must not run meanwhile.
    Component {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        component: Component,
        /// Whether it runs.
        runs: bool,
    },
    /// Nowhere by itself: what a deploy puts in place is deployed, not restored.
    ByHand,
}

impl Target {
    /// The folder, if there is one.
    pub(super) fn folder(&self) -> Option<&PathBuf> {
        match self {
            Target::Folder(folder) | Target::Component { folder, .. } => Some(folder),
            Target::ByHand => None,
        }
    }
}

/// What is to come back.
#[derive(Debug, Clone, Default)]
pub struct Back {
    /// How the snapshot's id begins, or `latest`.
    pub id: String,
    /// One source of it; all if none is named.
    pub source: Option<String>,
    /// Only paths that match.
    pub glob: Option<String>,
    /// Below this folder, each source in a folder of its own; in place if none is named.
    pub to: Option<PathBuf>,
}

/// What a restore is going to do.
#[derive(Debug)]
pub struct Planned {
    /// The snapshot's id.
    pub id: String,
    /// By source: where it goes to.
    pub targets: BTreeMap<String, PathBuf>,
    /// Sources that stay out, and why.
    pub left_out: Vec<(String, String)>,
    /// Files and bytes.
    pub plan: RestorePlan,
    options: RestoreOptions,
}

/// Sources and their folders; sources that have none, and why.
type Placed = (BTreeMap<String, PathBuf>, Vec<(String, String)>);

impl Backup {
    /// What a restore would do. Reads no content and writes nothing.
    pub fn plan_back(&self, back: &Back) -> Result<Planned, Failure> {
        let repository = self.open(None)?;
        let id = repository.find(&back.id).map_err(|error| self.failure("cannot find the snapshot in", &error))?;
        let snapshot = repository.snapshot(&id).map_err(|error| self.failure("cannot read", &error))?;
        let (targets, left_out) = self.targets(back, &snapshot)?;
        let options = RestoreOptions { targets, glob: back.glob.clone(), workers: WORKERS };
        let plan = repository.plan_restore(&id, &options).map_err(|error| self.restore_failure(&id, &error))?;
        Ok(Planned { id, targets: options.targets.clone(), left_out, plan, options })
    }

    /// Does it.
    pub fn bring_back(&self, planned: &Planned, watch: &Watch) -> Result<Restored, Failure> {
        for (name, folder) in &planned.targets {
            let own = self.parts.iter().find(|it| it.source.name() == name && it.target.folder() == Some(folder));
            if let Some(Target::Component { component: Component::Grafana, .. }) = own.map(|it| &it.target) {
                BESIDE.iter().for_each(|name| drop(fs::remove_file(folder.join(name))));
            }
        }
        let repository = self.open(Some(watch))?;
        repository.restore(&planned.id, &planned.options).map_err(|error| self.restore_failure(&planned.id, &error))
    }

    fn targets(&self, back: &Back, snapshot: &Snapshot) -> Result<Placed, Failure> {
        let mut names: Vec<&String> = snapshot.sources.keys().collect();
        if let Some(wanted) = &back.source {
            let all = names.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
            names.retain(|it| *it == wanted);
            if names.is_empty() {
                return Err(Failure::new(Class::Settings, format!("the snapshot has no source `{wanted}`"))
                    .hint(format!("it has {all}")));
            }
        }
        let mut targets = BTreeMap::new();
        let mut left_out = Vec::new();
        for name in names {
            match &back.to {
                Some(to) => {
                    targets.insert(name.clone(), to.join(name));
                }
                None => match self.place(name)? {
                    Ok(folder) => {
                        targets.insert(name.clone(), folder);
                    }
                    Err(why) => left_out.push((name.clone(), why)),
                },
            }
        }
        Ok((targets, left_out))
    }

    /// Where a source goes in place, or why it goes nowhere.
    fn place(&self, name: &str) -> Result<Result<PathBuf, String>, Failure> {
        let part = self.parts.iter().find(|it| it.source.name() == name);
        match part.map(|it| &it.target) {
            Some(Target::Folder(folder)) => Ok(Ok(folder.clone())),
            Some(Target::Component { component, runs: true, .. }) => Err(Failure::new(
                Class::Refused,
                format!("{component} runs, and would go on writing to what comes back"),
            )
            .hint(format!("`cargo xtask stop {component}`, restore, `cargo xtask start {component}`"))),
            Some(Target::Component { folder, .. }) => Ok(Ok(folder.clone())),
            Some(Target::ByHand) => Ok(Err(format!(
                "is deployed, not restored: take it with `backup restore {{ID}} --source {name} --to FOLDER`"
            ))),
            None => Ok(Err("has no place in this stack: name one with --to".to_owned())),
        }
    }

    fn restore_failure(&self, id: &str, error: &RestoreError) -> Failure {
        let class = match error {
            RestoreError::Store(error) => class(error),
            RestoreError::NoSource(_) => Class::Settings,
            RestoreError::Refused { .. } => Class::Refused,
            RestoreError::Target { .. } => Class::Failed,
        };
        let failure = Failure::new(class, format!("cannot restore {id}")).because(error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Restores a snapshot to a folder that is gone afterwards, and reads all of it back.
    pub(super) fn try_out(
        &self,
        repository: &Repository,
        id: &str,
        source: Option<&str>,
        folder: &Path,
    ) -> Result<Restored, Failure> {
        let snapshot = repository.snapshot(id).map_err(|error| self.failure("cannot read", &error))?;
        let back = Back { source: source.map(str::to_owned), to: Some(folder.to_owned()), ..Back::default() };
        let (targets, _) = self.targets(&back, &snapshot)?;
        let options = RestoreOptions { targets, glob: None, workers: WORKERS };
        repository.drill(id, &options).map_err(|error| self.restore_failure(id, &error))
    }
}
