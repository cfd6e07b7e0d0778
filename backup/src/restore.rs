//! Bringing a snapshot back.
//!
//! Every file is written beside its place, hashed, flushed and renamed, so that at each moment its name has the old
//! content or the new. Invariant: nothing outside the target is touched, whoever wrote the repository.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::disk::{Buffer, FileReader, Input, Lock};
use crate::failure::StoreError;
use crate::glob;
use crate::index::Index;
use crate::known::Key;
use crate::listing::Listing;
use crate::pack::PACKED_BELOW;
use crate::place;
use crate::repository::{ReadError, Repository};
use crate::snapshot::Problem;
use crate::tree::{Entry, Kind, unescape};

/// A drill keeps what is no longer: other names of it have to lead somewhere.
const PROVEN_AND_KEPT: u64 = 1 << 20;

/// What is restored, and where to.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// By source: the folder that it goes to. Sources that are not named stay where they are.
    pub targets: BTreeMap<String, PathBuf>,
    /// Only paths that match ([`glob::matches`]), and the folders above them.
    pub glob: Option<String>,
    /// Files that are written at the same time; each takes 12 MiB of memory.
    pub workers: usize,
}

/// What a restore would do, as far as that shows from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestorePlan {
    /// Files that would be written: those that are not there, or not of that length and time.
    pub files: u64,
    /// Their length.
    pub bytes: u64,
    /// Files that look as if they were there; they are read before that is believed.
    pub present: u64,
    /// Their length.
    pub present_bytes: u64,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Files that were written.
    pub files: u64,
    /// Their length.
    pub bytes: u64,
    /// Files that already had the content.
    pub unchanged: u64,
    /// What could not be restored; everything else was.
    pub failed: Vec<Problem>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A tree that would write where it must not. Nothing of the snapshot was written.
    #[error("source {name} is refused: `{path}` {reason}")]
    Refused {
        /// The source.
        name: String,
        /// The entry, escaped.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The snapshot has no such source.
    #[error("the snapshot has no source {0}")]
    NoSource(String),
    /// The target cannot be used.
    #[error("cannot use {}", path.display())]
    Target {
        /// Which folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The repository.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RestoreError {
    /// What to do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { .. } => Some("restore single paths of it into an empty folder"),
            Self::NoSource(_) => Some("show the snapshot: it lists its sources"),
            Self::Target { .. } => None,
            Self::Store(error) => error.hint(),
        }
    }
}

impl Repository {
    /// What [`Repository::restore`] would do. Takes no lock, reads no content, writes nothing.
    pub fn plan_restore(&self, id: &str, options: &RestoreOptions) -> Result<RestorePlan, RestoreError> {
        let index = self.index()?;
        let mut plan = RestorePlan::default();
        for (name, target, listing) in self.trees(&index, id, options)? {
            check(name, &listing, false)?;
            for entry in listing.entries().filter(|it| it.kind == Kind::File) {
                let meta = entry.path().and_then(|path| fs::symlink_metadata(target.join(path)).ok());
                let is_there = |it: &fs::Metadata| {
                    it.is_file() && it.len() == entry.size && (it.mtime(), it.mtime_nsec() as u32) == entry.mtime
                };
                let (count, bytes) = match meta.as_ref().is_some_and(is_there) {
                    true => (&mut plan.present, &mut plan.present_bytes),
                    false => (&mut plan.files, &mut plan.bytes),
                };
                *count += 1;
                *bytes += entry.size;
            }
        }
        Ok(plan)
    }

    /// What restoring a source to an empty place would do.
    pub fn plan_whole(&self, id: &str, name: &str, glob: Option<&str>) -> Result<RestorePlan, RestoreError> {
        let snapshot = self.snapshot(id)?;
        let saved = snapshot.sources.get(name).ok_or_else(|| RestoreError::NoSource(name.to_owned()))?;
        let listing = self.chosen(&self.index()?, saved.tree, glob)?;
        check(name, &listing, false)?;
        let sizes = listing.entries().filter(|it| it.kind == Kind::File).map(|it| it.size);
        Ok(sizes.fold(RestorePlan::default(), |plan, size| RestorePlan {
            files: plan.files + 1,
            bytes: plan.bytes + size,
            ..plan
        }))
    }

    /// Restores a snapshot. All trees are checked before the first byte is written.
    pub fn restore(&self, id: &str, options: &RestoreOptions) -> Result<Restored, RestoreError> {
        self.bring(id, options, After::Keep)
    }

    /// Restores a snapshot as a drill: each large file is read again once it stands in its place, hashed, and emptied, so
    /// that there need be room for a few files only.
    pub fn drill(&self, id: &str, options: &RestoreOptions) -> Result<Restored, RestoreError> {
        self.bring(id, options, After::Prove)
    }

    /// What is to be restored, and where to, each target made.
    fn trees<'o>(&self, index: &Index, id: &str, options: &'o RestoreOptions) -> Result<Vec<Tree<'o>>, RestoreError> {
        let snapshot = self.snapshot(id)?;
        let tree = |(name, target): (&'o String, &'o PathBuf)| {
            let saved = snapshot.sources.get(name).ok_or_else(|| RestoreError::NoSource(name.clone()))?;
            Ok((name, target, self.chosen(index, saved.tree, options.glob.as_deref())?))
        };
        options.targets.iter().map(tree).collect()
    }

    /// What is wanted of a tree.
    fn chosen(&self, index: &Index, tree: Digest, glob: Option<&str>) -> Result<Listing, StoreError> {
        let listing = self.listing(index, tree)?;
        match glob {
            None => Ok(listing),
            Some(glob) => choose(&listing, glob).map_err(|error| StoreError::damaged(&format!("tree {tree}"), error)),
        }
    }

    fn bring(&self, id: &str, options: &RestoreOptions, after: After) -> Result<Restored, RestoreError> {
        let _lock = self.lock(Lock::Shared)?;
        let index = self.index()?;
        let mut trees = Vec::new();
        for (name, target, listing) in self.trees(&index, id, options)? {
            let at = |source| RestoreError::Target { path: target.clone(), source };
            fs::create_dir_all(target).and_then(|()| place::sweep(target)).map_err(at)?;
            check(name, &listing, place::folds_case(target).map_err(at)?)?;
            trees.push((name, target.canonicalize().map_err(at)?, listing));
        }
        let mut restored = Restored::default();
        for (name, target, listing) in trees {
            let run = Run { repository: self, index: &index, target, name, after, done: Mutex::default() };
            run.all(&listing, options.workers.max(1));
            if self.watch.is_stopped() {
                return Err(StoreError::Stopped.into());
            }
            let done = run.done.into_inner().unwrap_or_else(PoisonError::into_inner);
            restored.files += done.restored.files;
            restored.bytes += done.restored.bytes;
            restored.unchanged += done.restored.unchanged;
            restored.failed.extend(done.restored.failed);
        }
        Ok(restored)
    }
}

/// A source, where it goes to, and what of it.
type Tree<'o> = (&'o String, &'o PathBuf, Listing);

/// What happens to a file once it stands in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Keep,
    Prove,
}

fn check(name: &str, listing: &Listing, folds_case: bool) -> Result<(), RestoreError> {
    let refused = |(path, reason)| RestoreError::Refused { name: name.to_owned(), path, reason };
    place::check(listing, folds_case).map_err(refused)
}

fn choose(listing: &Listing, glob: &str) -> io::Result<Listing> {
    let mut wanted: HashSet<Key> = HashSet::new();
    for entry in listing.entries().filter(|it| glob::matches(glob, &it.path)) {
        // A name without its file would be nothing: the file that it is another name of comes along.
        let file = entry.target.filter(|_| entry.kind == Kind::Hardlink);
        for path in [Some(entry.path), file].into_iter().flatten() {
            let above = path.match_indices('/').map(|(at, _)| Key::of(&path.as_bytes()[..at]));
            wanted.extend(above.chain([Key::of(path.as_bytes())]));
        }
    }
    listing.filtered(|it| wanted.contains(&Key::of(it.path.as_bytes())))
}

/// Small files that get their names together. What a restore that is killed leaves is no more than this.
const BATCH: usize = 1024;

/// A file that is written and waits for its name.
struct Written {
    entry: Entry,
    at: PathBuf,
    file: place::Waiting,
}

#[derive(Default)]
struct Done {
    restored: Restored,
    /// Files that stand where this run wants them: one that is met again under another name is folded with it.
    placed: HashSet<(u64, u64)>,
    folders: BTreeSet<PathBuf>,
}

impl Done {
    fn place(&mut self, meta: &fs::Metadata) {
        if meta.nlink() == 1 {
            self.placed.insert((meta.dev(), meta.ino()));
        }
    }
}

/// A name that already leads to a file that this run placed under another one is the same name to this file system: by
/// case, by normalisation, or by whatever it folds.
fn refuse_folded(done: &Done, at: &Path) -> Result<(), String> {
    match fs::symlink_metadata(at) {
        Ok(meta) if done.placed.contains(&(meta.dev(), meta.ino())) => {
            Err("is the same name as another path's, to this file system".to_owned())
        }
        Ok(meta) if meta.is_dir() => Err("is a folder in the target".to_owned()),
        _ => Ok(()),
    }
}

struct Run<'r> {
    repository: &'r Repository,
    index: &'r Index,
    target: PathBuf,
    name: &'r str,
    after: After,
    done: Mutex<Done>,
}

impl Run<'_> {
    fn all(&self, listing: &Listing, workers: usize) {
        let is_early = |it: &Entry| it.kind == Kind::File && !it.late;
        // Of these there are few.
        let others: Vec<Entry> = listing.entries().filter(|it| !is_early(it)).collect();
        let of = |kind: Kind| others.iter().filter(move |it| it.kind == kind);
        for entry in of(Kind::Folder) {
            let make = |at: PathBuf| place::folders(&self.target, &at).and_then(|()| place::sweep(&at)).map_err(said);
            self.tell(entry, self.at(entry).and_then(make));
        }
        self.files(listing.entries().filter(is_early), workers);
        for entry in of(Kind::Hardlink) {
            self.tell(entry, self.hardlink(entry));
        }
        for entry in of(Kind::Symlink) {
            self.tell(entry, self.symlink(entry));
        }
        self.flush();
        self.files(of(Kind::File).cloned(), workers);
        // What is deeper comes later in a tree; and writing into a folder changes its times.
        for entry in of(Kind::Folder).rev() {
            let set = |at: PathBuf| File::open(&at).and_then(|it| place::set_meta(&it, entry)).map_err(said);
            self.tell(entry, self.at(entry).and_then(set));
        }
        self.flush();
    }

    fn files(&self, entries: impl Iterator<Item = Entry> + Send, workers: usize) {
        let (entries, waiting) = (Mutex::new(entries), Mutex::new(Vec::new()));
        let next = || entries.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(entry) = next() {
                match self.write(&entry) {
                    Ok(None) => {}
                    Ok(Some((at, file))) if entry.size >= PACKED_BELOW => {
                        self.tell(&entry, self.name(Written { entry: entry.clone(), at, file }));
                    }
                    Ok(Some((at, file))) => {
                        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                        waiting.push(Written { entry, at, file });
                        let batch = if waiting.len() < BATCH { Vec::new() } else { mem::take(&mut *waiting) };
                        drop(waiting);
                        self.name_all(batch);
                    }
                    Err(reason) => self.tell(&entry, Err(reason)),
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
        self.name_all(waiting.into_inner().unwrap_or_else(PoisonError::into_inner));
    }

    fn at(&self, entry: &Entry) -> Result<PathBuf, String> {
        entry.path().map(|path| self.target.join(path)).ok_or_else(|| "has no path".to_owned())
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, entry: &Entry, result: Result<(), String>) {
        if let Err(reason) = result {
            let problem = Problem { source: self.name.to_owned(), path: entry.path.clone(), reason };
            self.done().restored.failed.push(problem);
        }
    }

    /// The folder that a thing goes to, made and free of links.
    fn folder_of<'p>(&self, at: &'p Path) -> Result<&'p Path, String> {
        let folder = at.parent().ok_or("has no folder")?;
        place::folders(&self.target, folder).map_err(said)?;
        self.done().folders.insert(folder.to_owned());
        Ok(folder)
    }

    /// Writes a file beside its place, a large one durably; `None` if it is there already.
    fn write(&self, entry: &Entry) -> Result<Option<(PathBuf, place::Waiting)>, String> {
        let at = self.at(entry)?;
        let folder = self.folder_of(&at)?;
        refuse_folded(&self.done(), &at)?;
        if let Some(file) = held(&at, entry).map_err(said)? {
            self.repository.watch.moved(entry.size).map_err(said)?;
            if !place::has_meta(&file, entry).map_err(said)? {
                place::set_meta(&file, entry).map_err(said)?;
            }
            let meta = file.metadata().map_err(said)?;
            let mut done = self.done();
            done.place(&meta);
            done.restored.unchanged += 1;
            return Ok(None);
        }
        let mut target = place::New::create(folder).map_err(said)?;
        let mut size = 0;
        let digest = entry.digest.ok_or("has no digest")?;
        let read = self.repository.read(self.index, digest, |piece| {
            size += piece.len() as u64;
            self.repository.watch.moved(piece.len() as u64)?;
            target.append(piece, entry.sparse)
        });
        read.map_err(|error| match error {
            ReadError::Store(error) => error.to_string(),
            ReadError::Target(error) => format!("cannot be written: {error}"),
        })?;
        if size != entry.size {
            return Err(format!("has {size} bytes in the repository and {} in the snapshot", entry.size));
        }
        target.end_hole().map_err(said)?;
        place::set_meta(target.file(), entry).map_err(said)?;
        let file = if size < PACKED_BELOW { target.close() } else { target.finish() };
        Ok(Some((at, file.map_err(said)?)))
    }

    /// Makes files durable, then gives them their names.
    fn name_all(&self, batch: Vec<Written>) {
        let flushed = place::flush(batch.iter().map(|it| &it.file)).map_err(said);
        for written in batch {
            let entry = written.entry.clone();
            self.tell(&entry, flushed.clone().and_then(|()| self.name(written)));
        }
    }

    fn name(&self, written: Written) -> Result<(), String> {
        let Written { entry, at, file } = written;
        let meta = file.metadata().map_err(said)?;
        let mut done = self.done();
        refuse_folded(&done, &at)?;
        file.rename(&at).map_err(said)?;
        done.place(&meta);
        drop(done);
        if self.after == After::Prove {
            let file = held(&at, &entry).map_err(said)?.ok_or("does not read back as it was written")?;
            if entry.size > PROVEN_AND_KEPT {
                drop(file);
                File::options().write(true).open(&at).and_then(|it| it.set_len(0)).map_err(said)?;
            }
        }
        let restored = &mut self.done().restored;
        restored.files += 1;
        restored.bytes += entry.size;
        Ok(())
    }

    fn hardlink(&self, entry: &Entry) -> Result<(), String> {
        let at = self.at(entry)?;
        let folder = self.folder_of(&at)?;
        refuse_folded(&self.done(), &at)?;
        let first = entry.target.as_deref().and_then(unescape).ok_or("has no target")?;
        let first = self.target.join(std::ffi::OsString::from_vec(first));
        let meta = fs::symlink_metadata(&first).map_err(said)?;
        if !meta.is_file() {
            return Err("is another name of something that is not a file".to_owned());
        }
        let new = place::free_name(folder);
        fs::hard_link(&first, &new).map_err(said)?;
        // rename(2) does nothing where both names are one file already.
        let renamed = fs::rename(&new, &at);
        let _ = fs::remove_file(&new);
        renamed.map_err(said)
    }

    fn symlink(&self, entry: &Entry) -> Result<(), String> {
        let at = self.at(entry)?;
        let folder = self.folder_of(&at)?;
        refuse_folded(&self.done(), &at)?;
        let target = entry.target.as_deref().and_then(unescape).ok_or("has no target")?;
        let target = std::ffi::OsStr::from_bytes(&target);
        if fs::read_link(&at).is_ok_and(|it| it == target) {
            return Ok(());
        }
        let new = place::free_name(folder);
        symlink(target, &new).map_err(said)?;
        place::set_link_time(&new, entry).map_err(said)?;
        fs::rename(&new, &at).map_err(said)
    }

    /// Makes names durable: blobs' before manifests come.
    fn flush(&self) {
        let folders = mem::take(&mut self.done().folders);
        for folder in folders {
            if let Err(error) = File::open(&folder).and_then(|it| it.sync_all()) {
                let path = folder.strip_prefix(&self.target).unwrap_or(&folder).display().to_string();
                let problem = Problem { source: self.name.to_owned(), path, reason: said(error) };
                self.done().restored.failed.push(problem);
            }
        }
    }
}

/// The file that stands there, if it has the content already.
fn held(at: &Path, entry: &Entry) -> io::Result<Option<File>> {
    match fs::symlink_metadata(at) {
        Ok(meta) if meta.is_file() && meta.len() == entry.size => {}
        _ => return Ok(None),
    }
    let Ok(mut reader) = FileReader::open(at) else { return Ok(None) };
    let mut hasher = Hasher::new();
    let mut buffer = Buffer::new(1 << 20);
    let mut offset = 0;
    loop {
        let len = reader.read_at(offset, buffer.room())?;
        buffer.set_len(len);
        hasher.update(buffer.bytes());
        offset += len as u64;
        if len == 0 {
            break;
        }
    }
    Ok(if Some(hasher.finish()) == entry.digest { Some(File::open(at)?) } else { None })
}

fn said(error: io::Error) -> String {
    error.to_string()
}
