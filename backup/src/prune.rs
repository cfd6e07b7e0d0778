//! Forgetting snapshots, and what only they named.
//!
//! Invariant: what any snapshot that stays names is never touched; if one snapshot cannot be read, nothing is.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::time::Duration;

use chrono::{DateTime, Local, Utc};

use crate::digest::Digest;
use crate::disk::Lock;
use crate::failure::{Doing, StoreError};
use crate::index::{Index, Location};
use crate::keep::KeepPolicy;
use crate::repository::Repository;

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The policy would keep nothing.
    #[error("the policy keeps nothing")]
    Empty,
    /// A snapshot was to be forgotten that is the newest of which it is known that it is whole.
    #[error("snapshot {id} is the newest one that was verified, and stays")]
    Verified {
        /// The snapshot.
        id: String,
    },
    /// A snapshot cannot be read, so what it names is not known.
    #[error("snapshot {id} cannot be read, so nothing is deleted")]
    Unreadable {
        /// The snapshot.
        id: String,
        /// What is wrong with it.
        source: StoreError,
    },
    /// The repository.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PruneError {
    /// What to do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Empty => Some("set at least one of last, hourly, daily, weekly, monthly, yearly"),
            Self::Unreadable { .. } => {
                Some("verify everything, then back up; a snapshot that stays unreadable goes with prune --forget ID")
            }
            Self::Verified { .. } => Some("verify a newer one first"),
            Self::Store(error) => error.hint(),
        }
    }
}

/// What pruning would do, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePlan {
    /// Snapshots that stay, oldest first.
    pub keep: Vec<String>,
    /// Snapshots that go, oldest first.
    pub forget: Vec<String>,
    /// Files of the repository that no snapshot needs then, relative to it.
    pub files: Vec<String>,
    /// What they take up; freed once the grace period is over.
    pub bytes: u64,
}

/// Snapshots that compete: of one host, over the same sources.
type Group = (String, Vec<String>);

impl Repository {
    /// Moves snapshots to the trash, by how their ids begin, whether they can be read or not: nothing else gets rid of one
    /// that cannot.
    pub fn forget(&self, ids: &[String], now: DateTime<Utc>) -> Result<(), PruneError> {
        let _lock = self.lock(Lock::Exclusive)?;
        let all = self.ids()?;
        let verified = self.newest_verified(all.iter())?;
        for id in ids {
            let id = self.find(id)?;
            if verified.as_ref() == Some(&id) {
                return Err(PruneError::Verified { id });
            }
            self.trash(now.timestamp(), "snapshots", &format!("{id}.json"))?;
            self.flush_folders(&["trash", "snapshots"])?;
            self.remove_if_any(&format!("verified/{id}"))?;
        }
        Ok(())
    }

    /// What [`Repository::prune`] would do now. Takes no lock and changes nothing.
    pub fn plan_prune(&self, policy: &KeepPolicy) -> Result<PrunePlan, PruneError> {
        if policy.is_empty() {
            return Err(PruneError::Empty);
        }
        let index = self.index()?;
        let mut plan = PrunePlan::default();
        let mut groups: BTreeMap<Group, Vec<(DateTime<Utc>, String)>> = BTreeMap::new();
        let mut trees: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
        for id in self.ids()? {
            let snapshot = self.snapshot(&id).map_err(|error| unreadable(&id, error))?;
            trees.insert(id.clone(), snapshot.sources.values().map(|it| it.tree).collect());
            // A run over one source must not push out those over all.
            let names = snapshot.sources.into_keys().collect();
            groups.entry((snapshot.host, names)).or_default().push((snapshot.time, id));
        }
        let mut kept = HashSet::new();
        for mut group in groups.into_values() {
            group.sort_by(|a, b| b.cmp(a));
            let times: Vec<_> = group.iter().map(|(time, _)| time.with_timezone(&Local).naive_local()).collect();
            let keeps = group.iter().zip(policy.keep(&times)).filter(|(_, keep)| *keep);
            kept.extend(keeps.map(|((_, id), _)| id.clone()));
        }
        kept.extend(self.newest_verified(trees.keys())?);
        let mut needed = HashSet::new();
        for (id, trees) in trees {
            // The trees of those that go are read as well: a repository that cannot be read in full is left alone.
            let mut named = HashSet::new();
            for tree in trees {
                named.insert(tree);
                let read = self.entries(&index, tree, |entry| named.extend(entry.digest));
                read.map_err(|error| unreadable(&id, error))?;
            }
            if kept.contains(&id) {
                needed.extend(named);
                plan.keep.push(id);
            } else {
                plan.forget.push(id);
            }
        }
        self.unneeded(&index, &needed, &mut plan)?;
        Ok(plan)
    }

    /// The newest snapshot that was verified in full.
    fn newest_verified<'a>(&self, ids: impl Iterator<Item = &'a String>) -> Result<Option<String>, StoreError> {
        let verified = self.disk.list("verified").doing("list", "verified")?;
        let verified: HashSet<String> = verified.into_iter().map(|it| it.name).collect();
        Ok(ids.filter(|id| verified.contains(*id)).max().cloned())
    }

    fn unneeded(&self, index: &Index, needed: &HashSet<Digest>, plan: &mut PrunePlan) -> Result<(), StoreError> {
        // A pack is needed for the objects that are taken from it, and for none that stand elsewhere.
        let mut used: HashSet<String> = HashSet::new();
        for (digest, location) in index.iter().filter(|(digest, _)| needed.contains(digest)) {
            used.insert(index.path(digest, location));
            if !matches!(location, Location::Packed { .. }) {
                used.insert(format!("objects/{digest}.states"));
            }
        }
        for folder in ["objects", "packs"] {
            for file in self.disk.list(folder).doing("list", folder)? {
                let path = format!("{folder}/{}", file.name);
                // A pack that cannot be read may hold what is missed elsewhere: a person may want to look at it.
                let is_broken = folder == "packs" && index.broken.iter().any(|(name, _)| *name == file.name);
                if !used.contains(&path) && !is_broken {
                    plan.bytes += file.size_bytes;
                    plan.files.push(path);
                }
            }
        }
        plan.files.sort();
        Ok(())
    }

    /// Moves to the trash what the policy does not keep, and deletes what has been there for `grace`.
    pub fn prune(&self, policy: &KeepPolicy, now: DateTime<Utc>, grace: Duration) -> Result<PrunePlan, PruneError> {
        let _lock = self.lock(Lock::Exclusive)?;
        let plan = self.plan_prune(policy)?;
        let seconds = now.timestamp();
        for id in &plan.forget {
            self.trash(seconds, "snapshots", &format!("{id}.json"))?;
        }
        self.flush_folders(&["trash", "snapshots"])?;
        for id in &plan.forget {
            self.remove_if_any(&format!("verified/{id}"))?;
        }
        for file in &plan.files {
            if let Some((folder, name)) = file.split_once('/') {
                self.trash(seconds, folder, name)?;
            }
        }
        self.flush_folders(&["trash", "objects", "packs"])?;
        for file in plan.files.iter().filter_map(|file| file.strip_prefix("packs/")) {
            self.remove_if_any(&format!("damaged/{file}"))?;
        }
        for file in self.disk.list("trash").doing("list", "trash")? {
            let since = file.name.split_once('-').and_then(|(since, _)| since.parse::<i64>().ok());
            if since.is_some_and(|since| seconds.saturating_sub(since) >= grace.as_secs().cast_signed()) {
                let path = format!("trash/{}", file.name);
                self.disk.remove(&path).doing("remove", &path)?;
            }
        }
        Ok(plan)
    }

    /// Moves a file to the trash; durable after the next flush of both folders.
    pub(crate) fn trash(&self, seconds: i64, folder: &str, name: &str) -> Result<(), StoreError> {
        let path = format!("{folder}/{name}");
        self.disk.rename(&path, &format!("trash/{seconds}-{folder}-{name}")).doing("move to the trash", &path)
    }

    pub(crate) fn flush_folders(&self, folders: &[&str]) -> Result<(), StoreError> {
        folders.iter().try_for_each(|folder| self.disk.flush_folder(folder).doing("flush", folder))
    }

    pub(crate) fn remove_if_any(&self, path: &str) -> Result<(), StoreError> {
        match self.disk.remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.doing("remove", path),
        }
    }
}

fn unreadable(id: &str, error: StoreError) -> PruneError {
    if error.is_damage() {
        PruneError::Unreadable { id: id.to_owned(), source: error }
    } else {
        PruneError::Store(error)
    }
}
