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

use super::{Backup, Volume, Watch, class};

/// Files that are written at the same time.
pub(super) const WORKERS: usize = 2;

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
    /// A volume of Docker's, which no container must use meanwhile.
    Volume {
        /// The volume.
        volume: Volume,
        /// Whose it is, if it is the stack's.
        component: Option<Component>,
    },
    /// Nowhere by itself: what a deploy puts in place is deployed, not restored.
    ByHand,
}

impl Target {
    /// The folder, if there is one.
    pub(super) fn folder(&self) -> Option<&PathBuf> {
        match self {
            Target::Folder(folder) | Target::Component { folder, .. } => Some(folder),
            Target::Volume { .. } | Target::ByHand => None,
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
    /// By source: the volume that it goes to.
    pub volumes: BTreeMap<String, Volume>,
    /// Sources that stay out, and why.
    pub left_out: Vec<(String, String)>,
    /// Files and bytes.
    pub plan: RestorePlan,
    options: RestoreOptions,
}

impl Planned {
    /// By source: the folder that it goes to.
    pub fn targets(&self) -> &BTreeMap<String, PathBuf> {
        &self.options.targets
    }
}

/// Where one source goes.
enum Place {
    Folder(PathBuf),
    Volume(Volume),
    /// Nowhere, and why.
    Nowhere(String),
}

impl Backup {
    /// What a restore would do. Reads no content and writes nothing.
    pub fn plan_back(&self, back: &Back) -> Result<Planned, Failure> {
        let repository = self.open(None)?;
        let id = repository.find(&back.id).map_err(|error| self.failure("cannot find the snapshot in", &error))?;
        let snapshot = repository.snapshot(&id).map_err(|error| self.failure("cannot read", &error))?;
        let options = RestoreOptions { targets: BTreeMap::new(), glob: back.glob.clone(), workers: WORKERS };
        let (volumes, left_out, plan) = (BTreeMap::new(), Vec::new(), RestorePlan::default());
        let mut planned = Planned { id, volumes, left_out, plan, options };
        for name in names(&snapshot, back.source.as_deref())? {
            match self.place(name, back.to.as_deref())? {
                Place::Folder(folder) => drop(planned.options.targets.insert(name.clone(), folder)),
                Place::Volume(volume) => drop(planned.volumes.insert(name.clone(), volume)),
                Place::Nowhere(why) => planned.left_out.push((name.clone(), why)),
            }
        }
        let failed = |error| failure(&planned.id, &error);
        planned.plan = repository.plan_restore(&planned.id, &planned.options).map_err(failed)?;
        // What is in a volume already does not show from outside.
        for name in planned.volumes.keys() {
            let whole = repository.plan_whole(&planned.id, name, back.glob.as_deref()).map_err(failed)?;
            planned.plan.files += whole.files;
            planned.plan.bytes += whole.bytes;
        }
        Ok(planned)
    }

    /// Does it.
    pub fn bring_back(&self, planned: &Planned, watch: &Watch) -> Result<Restored, Failure> {
        for (name, folder) in planned.targets() {
            let own = self.parts.iter().find(|it| it.source.name() == name && it.target.folder() == Some(folder));
            if let Some(Target::Component { component: Component::Grafana, .. }) = own.map(|it| &it.target) {
                clear_beside(folder);
            }
        }
        let repository = self.open(Some(watch))?;
        let restored = repository.restore(&planned.id, &planned.options);
        let mut restored = restored.map_err(|error| failure(&planned.id, &error))?;
        for (name, volume) in &planned.volumes {
            let glob = planned.options.glob.as_deref();
            let more = volume.bring_back(&self.repository, &planned.id, name, glob, watch)?;
            restored.files += more.files;
            restored.bytes += more.bytes;
            restored.unchanged += more.unchanged;
            restored.failed.extend(more.failed);
        }
        Ok(restored)
    }

    fn place(&self, name: &str, to: Option<&Path>) -> Result<Place, Failure> {
        if let Some(to) = to {
            return Ok(Place::Folder(to.join(name)));
        }
        let part = self.parts.iter().find(|it| it.source.name() == name);
        match part.map(|it| &it.target) {
            Some(Target::Component { component, runs: true, .. }) => Err(Failure::new(
                Class::Refused,
                format!("{component} runs, and would go on writing to what comes back"),
            )
            .hint(format!("`cargo xtask stop {component}`, restore, `cargo xtask start {component}`"))),
            Some(Target::Folder(folder) | Target::Component { folder, .. }) => Ok(Place::Folder(folder.clone())),
            Some(Target::Volume { volume, component }) => match volume.user()? {
                None => Ok(Place::Volume(volume.clone())),
                Some(user) => {
                    let message = format!("container {user} runs, and would go on writing to what comes back");
                    Err(Failure::new(Class::Refused, message).hint(component.map_or_else(
                        || format!("`docker stop {user}`, restore, `docker start {user}`"),
                        |it| format!("`cargo xtask stop {it}`, restore, `cargo xtask start {it}`"),
                    )))
                }
            },
            Some(Target::ByHand) => Ok(Place::Nowhere(format!(
                "is deployed, not restored: take it with `backup restore {{ID}} --source {name} --to FOLDER`"
            ))),
            None => Ok(Place::Nowhere("has no place in this stack: name one with --to".to_owned())),
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
        let sources = names(&snapshot, source)?;
        let targets = sources.into_iter().map(|name| (name.clone(), folder.join(name))).collect();
        let options = RestoreOptions { targets, glob: None, workers: WORKERS };
        repository.drill(id, &options).map_err(|error| failure(id, &error))
    }
}

/// The sources of a snapshot, or the one of them that is wanted.
fn names<'s>(snapshot: &'s Snapshot, wanted: Option<&str>) -> Result<Vec<&'s String>, Failure> {
    let mut names: Vec<&String> = snapshot.sources.keys().collect();
    if let Some(wanted) = wanted {
        let all = names.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
        names.retain(|it| *it == wanted);
        if names.is_empty() {
            return Err(Failure::new(Class::Settings, format!("the snapshot has no source `{wanted}`"))
                .hint(format!("it has {all}")));
        }
    }
    Ok(names)
}

/// Removes what belongs to the database that is there, and not to the one that comes.
pub(super) fn clear_beside(folder: &Path) {
    BESIDE.iter().for_each(|name| drop(fs::remove_file(folder.join(name))));
}

/// A restore that went wrong, in the words of the host.
pub(super) fn failure(id: &str, error: &RestoreError) -> Failure {
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
