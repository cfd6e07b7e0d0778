//! Saving sources as a snapshot.
//!
//! One thread walks and packs what is small; workers take whole large files side by side. Invariant: the snapshot is
//! written last, and names only what was read to its end and held still meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use chrono::{DateTime, Utc};

use crate::digest::Digest;
use crate::disk::{FileReader, Lock};
use crate::draft::{Decided, Draft};
use crate::failure::{Doing, StoreError};
use crate::index::Index;
use crate::known::Known;
use crate::pack::PACKED_BELOW;
use crate::partial;
use crate::repository::Repository;
use crate::snapshot::{Problem, SavedSource, Snapshot};
use crate::source::{Content, Halted, Offer, Sink, Source, WalkError};
use crate::tree::Entry;
use crate::write::{Put, PutError, Writer};

/// How a save is done.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    /// When it began.
    pub time: DateTime<Utc>,
    /// Whose data it is.
    pub host: String,
    /// What a person calls it.
    pub tag: Option<String>,
    /// Large files that are read at the same time; each takes 12 MiB of memory.
    pub workers: usize,
}

impl SaveOptions {
    /// Two large files at a time keep hash and drive busy; more only make a drive seek.
    pub fn new(time: DateTime<Utc>, host: &str) -> Self {
        Self { time, host: host.to_owned(), tag: None, workers: 2 }
    }
}

/// What a save did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The snapshot's id.
    pub id: String,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Bytes that were read from sources.
    pub bytes_read: u64,
    /// Bytes that were written to the repository, its bookkeeping apart.
    pub bytes_written: u64,
}

/// A large file that waits for a worker.
struct Job {
    at: usize,
    from: PathBuf,
    entry: Entry,
    known: Option<Digest>,
}

/// What a worker found: by the entry's line in its tree.
pub(crate) type Outcome = (usize, Result<Put, String>);

/// What the threads of a save share.
struct Shared<'r> {
    writer: Writer<'r>,
    outcomes: Mutex<Vec<Outcome>>,
    fault: Mutex<Option<StoreError>>,
    halted: AtomicBool,
}

impl Shared<'_> {
    /// Keeps the first fault and has everybody stop.
    fn halt(&self, error: StoreError) -> Halted {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.halted.store(true, Ordering::Relaxed);
        Halted
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = next else { return };
            if self.halted.load(Ordering::Relaxed) {
                continue;
            }
            match put_file(&self.writer, &job.from, &job.entry, job.known) {
                Ok(outcome) => {
                    self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((job.at, outcome));
                }
                Err(error) => {
                    self.halt(error);
                }
            }
        }
    }
}

impl Repository {
    /// Saves sources. What of them could not be had is told in the snapshot; an error means that there is none.
    pub fn save(&self, sources: &[&dyn Source], options: &SaveOptions) -> Result<Saved, StoreError> {
        let _lock = self.lock(Lock::Exclusive)?;
        let parts = self.sweep()?;
        let index = self.index()?;
        let mut previous = self.previous(&index, sources)?;
        let shared = Shared {
            writer: Writer::new(&*self.disk, &self.watch, index),
            outcomes: Mutex::default(),
            fault: Mutex::default(),
            halted: AtomicBool::new(false),
        };
        let mut snapshot = Snapshot {
            time: options.time,
            host: options.host.clone(),
            tag: options.tag.clone(),
            sources: BTreeMap::new(),
            incomplete: Vec::new(),
        };
        for source in sources {
            let known = previous.remove(source.name()).unwrap_or_default();
            if let Err(error) = save_source(&shared, *source, known, options.workers.max(1), &mut snapshot) {
                shared.writer.abandon();
                return Err(error);
            }
        }
        let committed = shared.writer.settle().and_then(|()| self.commit(&snapshot));
        match &committed {
            // What this run did not go on with, nothing will. That it is in the way is no reason to deny the snapshot.
            Ok(_) => parts.iter().for_each(|part| drop(self.disk.remove(part))),
            Err(_) => shared.writer.abandon(),
        }
        Ok(Saved {
            id: committed?,
            snapshot,
            bytes_read: shared.writer.taken.load(Ordering::Relaxed),
            bytes_written: shared.writer.written.load(Ordering::Relaxed),
        })
    }

    fn commit(&self, snapshot: &Snapshot) -> Result<String, StoreError> {
        let (id, bytes) = snapshot.write().map_err(|error| StoreError::damaged("snapshots", error))?;
        self.publish("snapshots", &format!("{id}.json"), &bytes)?;
        Ok(id)
    }

    /// Removes what crashed runs left unfinished, but for parts of huge objects, which can be gone on with: those.
    fn sweep(&self) -> Result<Vec<String>, StoreError> {
        let mut parts = Vec::new();
        for file in self.disk.list("temporary").doing("list", "temporary")? {
            let path = format!("temporary/{}", file.name);
            if file.name.starts_with(partial::PREFIX) {
                parts.push(path);
            } else {
                self.disk.remove(&path).doing("remove", &path)?;
            }
        }
        Ok(parts)
    }

    /// What each source held when it was last saved. A snapshot that cannot be read is none to go by.
    pub(crate) fn previous(
        &self,
        index: &Index,
        sources: &[&dyn Source],
    ) -> Result<HashMap<String, Known>, StoreError> {
        let mut missing: HashSet<&str> = sources.iter().map(|it| it.name()).collect();
        let mut found = HashMap::new();
        for id in self.ids()?.into_iter().rev() {
            if missing.is_empty() {
                break;
            }
            let snapshot = match self.snapshot(&id) {
                Err(error) if error.is_damage() => continue,
                snapshot => snapshot?,
            };
            for (name, saved) in &snapshot.sources {
                if !missing.remove(name.as_str()) {
                    continue;
                }
                let mut known = Known::default();
                match self.entries(index, saved.tree, |entry| known.insert(&entry)) {
                    Ok(()) => drop(found.insert(name.clone(), known)),
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

fn save_source(
    shared: &Shared<'_>,
    source: &dyn Source,
    known: Known,
    workers: usize,
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let (jobs, taken) = sync_channel::<Job>(1024);
    let taken = Mutex::new(taken);
    let draft = Draft::new().map_err(no_tree)?;
    let (draft, mut problems, walked) = thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| shared.work(&taken));
        }
        let mut collector = Collector { shared, known, jobs, draft, problems: Vec::new() };
        let walked = source.walk(&mut collector);
        // Dropping its sender ends the workers.
        let Collector { draft, problems, .. } = collector;
        (draft, problems, walked)
    });
    if let Some(error) = shared.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let name = source.name().to_owned();
    let outcomes = std::mem::take(&mut *shared.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    if let Err(WalkError::Failed(reason)) = walked {
        snapshot.incomplete.push(Problem { source: name, path: String::new(), reason });
        return Ok(());
    }
    let decided = draft.decide(outcomes, &mut problems).map_err(no_tree)?;
    snapshot.sources.insert(name.clone(), put_tree(&shared.writer, decided)?);
    let problems = problems.into_iter().map(|(path, reason)| Problem { source: name.clone(), path, reason });
    snapshot.incomplete.extend(problems);
    Ok(())
}

fn put_tree(writer: &Writer<'_>, decided: Decided) -> Result<SavedSource, StoreError> {
    let Decided { files, bytes, mut text } = decided;
    let mut head = Vec::new();
    (&mut text).take(PACKED_BELOW).read_to_end(&mut head).map_err(no_tree)?;
    let put = match (head.len() as u64) < PACKED_BELOW {
        true => writer.put_bytes(&head),
        false => writer.put_stream(&mut head.as_slice().chain(text), None),
    };
    let put = put.map_err(|error| match error {
        PutError::Store(error) => error,
        PutError::Source(error) => no_tree(error),
        PutError::Wrong(_) => StoreError::damaged("tree", "it is not what it was said to be"),
    })?;
    Ok(SavedSource { tree: put.digest, files, bytes })
}

/// A tree that cannot be made in memory.
fn no_tree(error: std::io::Error) -> StoreError {
    StoreError::damaged("tree", error)
}

/// Takes what a source tells.
struct Collector<'s, 'r> {
    shared: &'s Shared<'r>,
    known: Known,
    jobs: SyncSender<Job>,
    draft: Draft,
    problems: Vec<(String, String)>,
}

impl Collector<'_, '_> {
    fn push(&mut self, entry: Entry, requires: Vec<String>) -> Result<usize, Halted> {
        self.draft.push(entry, requires).map_err(|error| self.shared.halt(no_tree(error)))
    }
}

impl Sink for Collector<'_, '_> {
    fn entry(&mut self, offer: Offer<'_>) -> Result<(), Halted> {
        if self.shared.halted.load(Ordering::Relaxed) {
            return Err(Halted);
        }
        let Offer { mut entry, content, known, requires } = offer;
        if let Content::None = content {
            return self.push(entry, requires).map(drop);
        }
        let held = known.or_else(|| self.known.digest(&entry)).filter(|it| self.shared.writer.index().contains(it));
        if held.is_some() {
            entry.digest = held;
            return self.push(entry, requires).map(drop);
        }
        let outcome = match content {
            Content::File(from) if entry.size >= PACKED_BELOW => {
                let at = self.push(entry.clone(), requires)?;
                // The workers outlive the walk.
                return self.jobs.send(Job { at, from, entry, known }).map_err(|_| Halted);
            }
            Content::File(from) => put_file(&self.shared.writer, &from, &entry, known),
            Content::Stream(from) => outcome(self.shared.writer.put_stream(from, known)),
            Content::None => return Ok(()),
        };
        match outcome.map_err(|error| self.shared.halt(error))? {
            Ok(put) => {
                entry.digest = Some(put.digest);
                entry.size = put.size;
                self.push(entry, requires).map(drop)
            }
            Err(reason) => {
                self.problems.push((entry.path, reason));
                Ok(())
            }
        }
    }

    fn problem(&mut self, path: &str, reason: String) {
        self.problems.push((path.to_owned(), reason));
    }
}

/// Tells what is the file's fault from what is the repository's.
fn outcome(put: Result<Put, PutError>) -> Result<Result<Put, String>, StoreError> {
    match put {
        Ok(put) => Ok(Ok(put)),
        Err(PutError::Store(error)) => Err(error),
        Err(PutError::Source(error)) => Ok(Err(format!("cannot be read: {error}"))),
        Err(PutError::Wrong(digest)) => Ok(Err(format!("does not hold what its name says: its digest is {digest}"))),
    }
}

/// Puts a file that must not change meanwhile; one that did gets a second chance.
fn put_file(
    writer: &Writer<'_>,
    from: &Path,
    entry: &Entry,
    known: Option<Digest>,
) -> Result<Result<Put, String>, StoreError> {
    for _ in 0..2 {
        let opened = FileReader::open_source(from).and_then(|it| Ok((it.file().metadata()?, it)));
        let (before, mut input) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(format!("cannot be read: {error}"))),
        };
        let identity = format!("{} {:?}", from.display(), looks(&before));
        let put = match outcome(writer.put_input(&mut input, &identity, known))? {
            Ok(put) => put,
            Err(reason) => return Ok(Err(reason)),
        };
        let is_still = input.file().metadata().is_ok_and(|after| looks(&after) == looks(&before));
        // What the entry says must be what was read, too.
        if is_still && put.size == before.len() && (looks(&before).0, looks(&before).1) == (entry.size, entry.mtime) {
            return Ok(Ok(put));
        }
    }
    Ok(Err("changed while it was read".to_owned()))
}

/// What cannot stay the same when a file's content changes.
fn looks(meta: &Metadata) -> (u64, (i64, u32), (i64, i64), u64) {
    (meta.len(), (meta.mtime(), meta.mtime_nsec() as u32), (meta.ctime(), meta.ctime_nsec()), meta.ino())
}
