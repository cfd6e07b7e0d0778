//! Reading a repository to see whether it still holds what it promised.
//!
//! A damaged object is located, named with the snapshots that it hurts, and un-committed: the next save misses it, and
//! writes it anew if its source still has the bytes. Invariant: nothing is deleted here; un-committing moves or marks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use chrono::{DateTime, Utc};

use crate::check::{Unit, read_unit, units};
use crate::digest::{Digest, SEGMENT};
use crate::disk::{Lock, read_all};
use crate::failure::{Doing, StoreError};
use crate::index::{Index, Location};
use crate::repository::{ReadError, Repository};
use crate::tree::Entry;

/// How much of the data is read. What names it is always read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// None: only whether everything is there.
    Nothing,
    /// The n-th of t parts (from 1): after t runs everything was read.
    Part(u64, u64),
    /// So many percent of the units, other ones at each time.
    Percent(f64),
    /// Everything.
    All,
}

/// How a repository is verified.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// How much is read.
    pub reading: Reading,
    /// When to stop reading, finished or not.
    pub deadline: Option<Instant>,
    /// Units that are read at the same time; each takes at most 14 MiB of memory.
    pub workers: usize,
    /// For the trash, and to choose the percentage.
    pub now: DateTime<Utc>,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file of the repository.
    pub path: String,
    /// The object, if it is one.
    pub object: Option<Digest>,
    /// Which of its plain bytes, as far as that is known.
    pub ranges: Vec<Range<u64>>,
    /// What is wrong.
    pub what: String,
    /// Ids of the snapshots that need it.
    pub snapshots: Vec<String>,
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Snapshots that were looked at.
    pub snapshots: usize,
    /// Units that were read.
    pub units: usize,
    /// Bytes that were read of them.
    pub bytes_read: u64,
    /// Whether everything that was asked for was read.
    pub is_finished: bool,
    /// What is not as it was.
    pub damage: Vec<Damage>,
}

impl Repository {
    /// Verifies; see the module.
    pub fn verify(&self, options: &VerifyOptions) -> Result<Verified, StoreError> {
        let _lock = self.lock(Lock::Exclusive)?;
        let index = self.index()?;
        let mut verified = Verified { is_finished: true, ..Verified::default() };
        let mut damage = Vec::new();
        for (name, what) in &index.broken {
            damage.push(found(&format!("packs/{name}"), None, what));
        }
        let ids = self.ids()?;
        verified.snapshots = ids.len();
        let needs = self.needs(&index, &ids, &mut damage)?;
        for digest in needs.iter().filter(|it| !index.contains(it)) {
            damage.push(found("", Some(*digest), "it is missing"));
        }
        let failed = self.read_units(&index, options, &mut verified)?;
        for (path, failed) in failed {
            self.judge(&index, &path, failed, &mut damage)?;
        }
        self.uncommit(&index, &damage, options.now)?;
        self.name_hurt(&index, &ids, &mut damage)?;
        // What was whole once says nothing for what is damaged now: prune must not count on it.
        for id in damage.iter().flat_map(|it| &it.snapshots) {
            self.remove_if_any(&format!("verified/{id}"))?;
        }
        damage.sort_by(|a, b| (&a.path, a.object).cmp(&(&b.path, b.object)));
        damage.dedup_by(|a, b| (&a.path, a.object) == (&b.path, b.object));
        if options.reading == Reading::All && verified.is_finished {
            for id in ids.iter().filter(|id| damage.iter().all(|it| !it.snapshots.contains(id))) {
                self.publish("verified", id, b"")?;
            }
        }
        verified.damage = damage;
        Ok(verified)
    }

    /// What the snapshots name, all that can be read of it.
    fn needs(&self, index: &Index, ids: &[String], damage: &mut Vec<Damage>) -> Result<HashSet<Digest>, StoreError> {
        let mut needs = HashSet::new();
        for id in ids {
            let snapshot = match self.snapshot(id) {
                Err(error) if error.is_damage() => {
                    let mut found = found(&format!("snapshots/{id}.json"), None, &error.to_string());
                    found.snapshots.push(id.clone());
                    damage.push(found);
                    continue;
                }
                snapshot => snapshot?,
            };
            for saved in snapshot.sources.values() {
                if !needs.insert(saved.tree) {
                    continue;
                }
                let mut named = |entry: Entry| needs.extend(entry.digest);
                // Twice: an error that comes once is a drive's hiccup, and no reason to give anything up.
                let read = self.entries(index, saved.tree, &mut named);
                match read.or_else(|_| self.entries(index, saved.tree, &mut named)) {
                    Err(error) if error.is_damage() => {
                        let path = index.get(&saved.tree).map(|it| index.path(&saved.tree, it)).unwrap_or_default();
                        damage.push(found(&path, Some(saved.tree), &error.to_string()));
                    }
                    read => read?,
                }
            }
        }
        Ok(needs)
    }

    /// Finds the snapshots that need what is damaged: rarely anything is, and to remember that of all would take room.
    fn name_hurt(&self, index: &Index, ids: &[String], damage: &mut [Damage]) -> Result<(), StoreError> {
        let mut hurt: HashMap<Digest, BTreeSet<String>> =
            damage.iter().filter_map(|it| Some((it.object?, BTreeSet::new()))).collect();
        if hurt.is_empty() {
            return Ok(());
        }
        for id in ids {
            let snapshot = match self.snapshot(id) {
                Err(error) if error.is_damage() => continue,
                snapshot => snapshot?,
            };
            for saved in snapshot.sources.values() {
                let mut hurts = |digest: Digest| {
                    if let Some(hurt) = hurt.get_mut(&digest) {
                        hurt.insert(id.clone());
                    }
                };
                hurts(saved.tree);
                match self.entries(index, saved.tree, |entry| entry.digest.into_iter().for_each(&mut hurts)) {
                    Err(error) if !error.is_damage() => return Err(error),
                    _ => {}
                }
            }
        }
        for damage in damage {
            damage.snapshots.extend(damage.object.and_then(|it| hurt.get(&it)).into_iter().flatten().cloned());
        }
        Ok(())
    }

    /// Bytes of everything that verify could read.
    pub fn stored_bytes(&self) -> Result<u64, StoreError> {
        Ok(units(self, &self.index()?)?.iter().map(|it| it.stored).sum())
    }

    /// Reads the units that are chosen; those that are not as they were, by file.
    fn read_units(
        &self,
        index: &Index,
        options: &VerifyOptions,
        verified: &mut Verified,
    ) -> Result<BTreeMap<String, Vec<Unit>>, StoreError> {
        let chosen: Vec<Unit> = units(self, index)?.into_iter().filter(|it| is_chosen(it, options)).collect();
        let next = Mutex::new(chosen.into_iter());
        let failed: Mutex<BTreeMap<String, Vec<Unit>>> = Mutex::default();
        let tally = Mutex::new((0, 0, true));
        let fault = Mutex::new(None);
        let work = || {
            loop {
                let Some(unit) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                if options.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    tally.lock().unwrap_or_else(PoisonError::into_inner).2 = false;
                    return;
                }
                let read = read_unit(self, &unit)
                    .and_then(|()| self.watch.moved(unit.stored).map_err(|_| StoreError::Stopped));
                match read {
                    Ok(()) => {}
                    Err(error) if error.is_damage() => {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.entry(unit.path.clone()).or_default().push(unit.clone());
                    }
                    Err(error) => {
                        fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.0 += 1;
                tally.1 += unit.stored;
            }
        };
        thread::scope(|scope| {
            for _ in 0..options.workers.max(1) {
                scope.spawn(work);
            }
        });
        if let Some(error) = fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        (verified.units, verified.bytes_read, verified.is_finished) = tally;
        Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Decides what is damaged, given units that failed: an object, or only what was written down to help.
    fn judge(&self, index: &Index, path: &str, failed: Vec<Unit>, damage: &mut Vec<Damage>) -> Result<(), StoreError> {
        let Some(digest) = failed.first().and_then(|it| it.object) else {
            let pack = path.trim_start_matches("packs/");
            let before = damage.len();
            for (digest, location) in index.iter() {
                if matches!(location, Location::Packed { pack: it, .. } if index.pack_name(*it) == pack)
                    && let Some(error) = self.is_damaged(index, *digest)?
                {
                    damage.push(found(path, Some(*digest), &error.to_string()));
                }
            }
            // What is marked in it is known and explains its hash.
            let marks = self.disk.list("damaged").doing("list", "damaged")?;
            if damage.len() == before && marks.iter().all(|it| it.name != pack) {
                damage.push(found(path, None, "bytes between its objects are not as they were; nothing is lost"));
            }
            return Ok(());
        };
        match self.is_damaged(index, digest)? {
            None => damage.push(found(&format!("objects/{digest}.states"), None, "it does not fit its object")),
            Some(error) => {
                let mut found = found(path, Some(digest), &error.to_string());
                let segments = failed.iter().filter_map(|it| it.segment);
                found.ranges = segments.map(|it| it.plain..it.plain_end.unwrap_or(it.plain + SEGMENT)).collect();
                found.ranges.sort_by_key(|it| it.start);
                damage.push(found);
            }
        }
        Ok(())
    }

    fn is_damaged(&self, index: &Index, digest: Digest) -> Result<Option<StoreError>, StoreError> {
        match self.read(index, digest, |_| Ok(())).map_err(ReadError::store) {
            Ok(()) => Ok(None),
            Err(error) if error.is_damage() => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Has the next save miss what is damaged.
    fn uncommit(&self, index: &Index, damage: &[Damage], now: DateTime<Utc>) -> Result<(), StoreError> {
        let is_complete = damage.iter().all(|it| it.object.is_none());
        let mut marks: BTreeMap<&str, BTreeSet<Digest>> = BTreeMap::new();
        let mut moved: BTreeSet<&str> = BTreeSet::new();
        for damage in damage {
            let location = damage.object.as_ref().and_then(|it| index.get(it));
            match (damage.object, location) {
                (Some(digest), Some(Location::Packed { pack, .. })) => {
                    marks.entry(index.pack_name(*pack)).or_default().insert(digest);
                }
                _ if damage.path.starts_with("objects/") => {
                    moved.insert(&damage.path);
                }
                _ => match damage.path.strip_prefix("packs/") {
                    // Nothing in it is lost; that it is known is marked by a list without a digest.
                    Some(pack) if index.broken.iter().all(|(name, _)| name != pack) => {
                        marks.entry(pack).or_default();
                    }
                    // Nobody misses anything, so nothing in it is needed; else somebody may want to look at it.
                    Some(_) if is_complete => {
                        moved.insert(&damage.path);
                    }
                    _ => {}
                },
            }
        }
        for (pack, mut digests) in marks {
            let path = format!("damaged/{pack}");
            let before = read_all(&*self.disk, &path, 1 << 30).unwrap_or_default();
            digests.extend(String::from_utf8_lossy(&before).lines().filter_map(|it| it.parse::<Digest>().ok()));
            let lines: String = digests.iter().map(|it| format!("{it}\n")).collect();
            self.publish("damaged", pack, lines.as_bytes())?;
        }
        let any = !moved.is_empty();
        for (folder, name) in moved.into_iter().filter_map(|it| it.split_once('/')) {
            self.trash(now.timestamp(), folder, name)?;
        }
        if any { self.flush_folders(&["trash", "objects", "packs"]) } else { Ok(()) }
    }

    /// Whether a snapshot was verified in full.
    pub fn is_verified(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.disk.list("verified").doing("list", "verified")?.iter().any(|it| it.name == id))
    }
}

fn found(path: &str, object: Option<Digest>, what: &str) -> Damage {
    Damage { path: path.to_owned(), object, ranges: Vec::new(), what: what.to_owned(), snapshots: Vec::new() }
}

fn is_chosen(unit: &Unit, options: &VerifyOptions) -> bool {
    match options.reading {
        Reading::Nothing => false,
        Reading::All => true,
        Reading::Part(part, of) => unit.spread() % of.max(1) == part.saturating_sub(1),
        Reading::Percent(percent) => {
            let turn = Digest::of(&options.now.timestamp().to_be_bytes()).spread();
            let place = (unit.spread() ^ turn) as f64 / u64::MAX as f64;
            place * 100.0 < percent
        }
    }
}
